"""Tune the answerer on the training questions, with the frames that this cycle's selector picked greedily."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from viarl import tracking
from viarl.answer.answerer import Answerer, Request
from viarl.checkpoints import CheckpointCallback, Checkpoints, identity, save_model
from viarl.items import Item, read_items
from viarl.progress import Progress
from viarl.rl.config import Lora
from viarl.selection.picks import Pick, read_picks
from viarl.sft.dataset import Collator, Example, target_text
from viarl.sft.trainer import AnswererTrainer, ReportSteps, Tuning, arguments
from viarl.stages.command import run
from viarl.tracking import Tracking
from viarl.video.cache import FrameCache
from viarl.vlm import Encoder, load_model, load_processor, resolve_device


@dataclass(frozen=True)
class TunedAnswerer:
    """How the answerer is asked, and how it is tuned (keys of the configuration's `answerer`)."""

    prompt: str
    max_new_tokens: int
    tuning: Tuning
    lora: Lora = field(default_factory=Lora)
    dtype: str = "float32"
    attention: str = "sdpa"
    batch_size: int = 64


@dataclass(frozen=True)
class Settings:
    """Training questions, frames, picks, the answerer of the cycle before -> the tuned answerer.

    Args:
        items: the filtered training questions.
        manifests: the training set's frame cache.
        selected: picks of this cycle's selector on them, parquet.
        answerer_model: checkpoint folder to start from, or hub id.
        output: model.safetensors of the new checkpoint folder; working checkpoints lie in ../checkpoints/ beside it.
        seed: training seed.
        answerer: see `TunedAnswerer`.
    """

    items: Path
    manifests: tuple[Path, ...]
    selected: Path
    answerer_model: Path
    output: Path
    seed: int
    answerer: TunedAnswerer
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def tunable(items: Sequence[Item], picks: dict[str, Pick], source: Path) -> list[tuple[Item, tuple[int, ...]]]:
    """Return the items that can be trained on, with their frames: those with an answer and a pick that did not fail."""
    if missing := [item.id for item in items if item.id not in picks]:
        raise ValueError(f"{source} lacks {len(missing)} items, such as {missing[:3]}; run select_frames again")
    usable = [(item, picks[item.id].indices) for item in items if item.answer and not picks[item.id].failed]
    if not usable:
        raise ValueError(f"none of the {len(items)} training questions has both an answer and a video with frames")
    return usable


def examples_of(
    answerer: TunedAnswerer,
    usable: Sequence[tuple[Item, tuple[int, ...]]],
    model: Any,
    processor: Any,
    cache: FrameCache,
) -> list[Example]:
    """Return the training examples; the untuned answerer is asked first where its own words are part of the target."""
    replies = [""] * len(usable)
    if answerer.tuning.target == "restated_text_letter":
        asked = Answerer(model, processor, cache, answerer.prompt, answerer.max_new_tokens, answerer.batch_size)
        requests = [Request(item, frames) for item, frames in usable]
        progress = Progress("replies before tuning", len(requests))
        replies = [reply.text for reply in asked.answer(requests, progress)]
    return [
        Example(item, frames, target_text(answerer.tuning.target, item, reply))
        for (item, frames), reply in zip(usable, replies, strict=True)
    ]


def main(settings: Settings) -> None:
    """Tune and save; a run that was stopped goes on from its last checkpoint."""
    answerer, tuning = settings.answerer, settings.answerer.tuning
    folder = settings.output.parent
    start = settings.answerer_model if settings.answerer_model.is_dir() else str(settings.answerer_model)
    same_result = replace(tuning, micro_batch_size=0, gradient_checkpointing=False, save_every=1)
    known = {
        "seed": settings.seed,
        "answerer": {**asdict(answerer), "tuning": asdict(same_result), "batch_size": 0, "start": str(start)},
    }
    files: dict[str, Path | Sequence[Path]] = {
        "items": settings.items,
        "frames": settings.manifests,
        "picks": settings.selected,
        "weights": [] if isinstance(start, str) else sorted(start.glob("*.safetensors")),
    }
    checkpoints = Checkpoints(folder.parent / "checkpoints" / folder.name, identity(known, files))
    resumed = checkpoints.latest()

    cache = FrameCache(settings.manifests)
    usable = tunable(items := read_items(settings.items), read_picks(settings.selected), settings.selected)
    # full tuning needs float32 weights: steps of 1e-6 are lost in bfloat16, in which the forward still runs
    dtype = answerer.dtype if answerer.lora.enabled else "float32"
    model = load_model(start, dtype, answerer.attention, settings.device)
    processor = load_processor(start)
    with tracking.start(settings.tracking, {"seed": settings.seed, "answerer": answerer, "start": str(start)}) as run_:
        run_.log_metrics({"items": len(items), "tuned_on": len(usable)})
        if resumed:
            run_.set_tag("resumed_from", resumed.name)
        examples = examples_of(answerer, usable, model, processor, cache)
        frozen = None if tuning.train_vision else model
        stop = CheckpointCallback(checkpoints)
        trainer = AnswererTrainer(
            model,
            processor,
            Collator(Encoder(model, processor), cache, answerer.prompt, examples, frozen),
            tuning,
            answerer.lora,
            arguments(
                tuning,
                checkpoints.folder,
                seed=settings.seed,
                dtype=answerer.dtype,
                device=resolve_device(settings.device),
            ),
            [stop, ReportSteps(run_, "steps of tuning")],
        )
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        stop.exit_if_interrupted()
        if trainer.accelerator.is_main_process:
            save_model(trainer.model, processor, folder, answerer.dtype)
            checkpoints.remove()


if __name__ == "__main__":
    run(Settings, main)
