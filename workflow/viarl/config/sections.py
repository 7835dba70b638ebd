"""The whole configuration: a class a section.

What a stage is told of a section lies with its package (`*/settings.py`); keys that only the workflow needs stand here.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from viarl.answer.settings import AnswererSettings
from viarl.datasets.hub.sets import SETS
from viarl.datasets.settings import Hub, Local, Needle
from viarl.evaluate.settings import EvaluationSettings
from viarl.models.settings import Lora
from viarl.plan.settings import Card
from viarl.report.settings import ReportSettings
from viarl.sections import Count, Distinct, OneOf, Pixels, Positive, Seed, Seeds, Share, Text, key, section
from viarl.selection.settings import ClipSettings
from viarl.stand_ins.settings import StandIns
from viarl.tracking.settings import MlflowSettings
from viarl.training.rl.settings import TrainedSelector, Training, Weights
from viarl.training.settings import FilterSettings
from viarl.training.sft.settings import Start, Tuning
from viarl.video.settings import CacheSettings

Shards = Annotated[int, Field(ge=1, le=10000)]
Name = Annotated[str, Field(pattern="^[a-z0-9_]+$")]


def trained_on() -> list[str]:
    """Return the data sets that can be trained on."""
    return ["needle", "local", *(made.source for made in SETS.values() if made.part == "train")]


def evaluated_on() -> list[str]:
    """Return the sets that can be evaluated on."""
    own = ["needle", "needle_shifted", "needle_validation", "local", "local_validation"]
    return [*own, *(name for name, made in SETS.items() if made.part != "train")]


@section
class Launcher:
    """The processes of the trainings: the same global batch gives the same model."""

    processes: Annotated[int, Field(ge=1, le=64)] = key("on one machine, a GPU each", source="scripts: 4", counts=False)
    config: Text = key(
        "ddp, fsdp2 or deepspeed_zero3, files of envs/accelerate/, or a file of your own for `accelerate launch`",
        counts=False,
    )


@section
class Pathvars:
    """Where files go; Snakemake puts them into the rules' paths."""

    results: Text = key("one root for each scale; the presets set their own")
    data: Text = key("videos, frame caches, similarities, stand-ins")


@section
class ShardCounts:
    """Jobs that share the work on a set."""

    training: Shards = key("of the training set")
    benchmark: Shards = key("of any other set")


@section
class Frames(CacheSettings):
    """The frames that models see."""

    selected: Count = key("K, frames handed to the answerer", source="paper: 8")
    number_pixels: Pixels = key("height of the red frame number", unit="px", source="paper: 20")
    timeout_s: Positive = key("longest time for one video before it is rejected", unit="s", counts=False)
    max_bad_share: Share = key(
        "share of unreadable videos above which a job fails; your own are listed, however many", counts=False
    )
    shards: ShardCounts


@section
class Clip(ClipSettings):
    """The similarity of every candidate frame and question."""

    model: Text = key("stand-in, an open_clip model name, or hf-hub:owner/name")


@section
class Checkpoint:
    """Where a model comes from."""

    model: Text = key(
        "stand-in, hub id or local folder; Qwen2.5-VL or dense Qwen3-VL",
        source="paper: Qwen/Qwen2.5-VL-3B-Instruct selects, -7B- answers",
    )
    revision: Text | None = key("branch, tag or commit of a hub id; null: main")


@section
class Selector(TrainedSelector, Checkpoint):
    """The model that looks at all candidate frames."""

    start: Start
    training: Training


@section
class Answerer(AnswererSettings, Checkpoint):
    """The model that answers from the selected frames."""

    lora: Lora
    tuning: Tuning


@section
class Evaluation(EvaluationSettings):
    """Every selector side by side, at one frame budget."""

    batch_size: Count = key("questions in a forward pass", counts=False)
    bootstrap: Annotated[int, Field(ge=10)] = key("resamples of the intervals, clustered by video")
    temperature: Positive = key("of the sampled selections")


@section
class Ablation:
    """A hypothesis, written before it was run, and an overlay on the configuration."""

    hypothesis: Text
    overlay: Annotated[dict[str, Any], Field(min_length=1)]
    seeds: Seeds | None = None


@section
class Compare:
    """Rows of results/comparison.csv."""

    ablations: Annotated[tuple[Text, ...], Field(json_schema_extra={"uniqueItems": True}), Distinct] = key(
        "those that are compared with the main run", counts=False
    )
    seeds: Seeds = key("training seeds of the main run, and of every ablation that names none", counts=False)


@section
class Configuration:
    """The keys of config.yaml."""

    seed: Seed = key("training seed: rollouts, batch order, random initialisation of adapters", source="ours")
    dataset: Annotated[str, OneOf(trained_on)] = key("training data: its sets <dataset>_train and <dataset>_validation")
    benchmarks: Annotated[tuple[Annotated[str, OneOf(evaluated_on)], ...], Field(min_length=1), Distinct] = key(
        "sets evaluated after every cycle"
    )
    cycles: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = key(
        "alternations of selector RL and answerer tuning; auto: until the last one gains nothing", source="paper: 2"
    )
    max_cycles: Annotated[int, Field(ge=1, le=1000)] = key(
        "of cycles: auto; it stops where the interval of the last gain on the first benchmark includes zero"
    )
    device: Literal["auto", "cpu", "cuda"] = key("where models run", counts=False)
    launcher: Launcher
    pathvars: Pathvars
    needle: Needle
    local: Local
    hub: Hub
    frames: Frames
    clip: Clip
    filter: FilterSettings
    selector: Selector
    answerer: Answerer
    reward: Weights = key("weights of the parts of a completion's reward", source="paper")
    evaluation: Evaluation
    stand_ins: StandIns
    plan: Card
    report: ReportSettings
    tracking: MlflowSettings
    ablations: dict[Name, Ablation] = key("by name, each in results/ablations/<name>/", counts=False)
    compare: Compare
