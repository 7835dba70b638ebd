"""Two CPU processes (gloo) train what one does, and stop and go on as one: DDP and FSDP2, full tuning and adapters.

Not run here, for it needs GPUs: NCCL, DeepSpeed, sharded bfloat16 (tests/e2e/test_launch.py, marked gpu).
"""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_resume import SELECTOR_FRAMES, Job, answerer_settings, selector_settings  # noqa: F401 (fixtures)
from transformers import TrainerCallback

from small_answerer import MemoryCache
from small_selector import ITEMS
from small_stage import SignalAt
from viarl.items import write_records
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.stages import train_selector, tune_answerer

# One and two processes take the same micro-batches. The answerer's gradients are then the same sums, its weights
# bit-equal. The selector's returns are whitened by sums over all tokens, taken in another order: 1e-7 of a gradient,
# which Adam passes on to weights that move by 3e-3 in a step. (Other micro-batches change more, also in one process: up
# to 6e-4 in the answerer, where Adam blows up the rounding of gradients that are next to nothing.)
WEIGHTS = {"selector": 1e-5, "answerer": 0.0}
OTHER_LAYOUT = 2e-3
MEASURES = 1e-4  # relative

LORA = Lora(enabled=True, rank=4, alpha=8)
THREE = {"steps": 3, "warmup_steps": 0, "learning_rate": 3e-3}
BAD = {"v99": "its file is cut"}
Make = Callable[..., Job]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes a job: kind, name, processes, sharding; settings of `training` are changed by options."""

    def job(kind: str, name: str, processes: int = 2, sharding: str = "", lora: bool = False, **changes: Any) -> Job:
        settings: Any = request.getfixturevalue(f"{kind}_settings")
        adapters = LORA if lora else Lora()
        if kind == "selector":
            training = replace(settings.training, **changes)
            settings = replace(settings, training=training, selector=replace(settings.selector, lora=adapters))
            return Job(train_selector, "SelectorTrainer", settings, tmp_path / name, processes, sharding)
        answerer = settings.answerer
        tuning = replace(answerer.tuning, **changes)
        settings = replace(settings, answerer=replace(answerer, tuning=tuning, lora=adapters))
        return Job(tune_answerer, "SupervisedTrainer", settings, tmp_path / name, processes, sharding)

    monkeypatch.setattr(train_selector, "FrameCache", lambda manifests, style: MemoryCache(SELECTOR_FRAMES, BAD))
    monkeypatch.setattr(tune_answerer, "FrameCache", lambda manifests: MemoryCache({"v0": 4, "v1": 5, "v2": 3}))
    return job


def keep_advantages(folder: Path) -> Callable[[], None]:
    """What makes a selector's training note the advantages of each step, with the slots of their groups."""

    def before() -> None:
        trainer = train_selector.SelectorTrainer
        collect, loss = trainer._collect, trainer._compute_loss

        def collect_slots(self: Any, rows: list[dict[str, Any]]) -> Any:
            self.slots = [row["slot"] for row in rows]
            return collect(self, rows)

        def note(self: Any, model: Any, inputs: Any) -> Any:
            result = loss(self, model, inputs)
            size = self.setting.group_size
            for place, slot in enumerate(self.slots):
                rows = inputs.advantages[place * size : (place + 1) * size]
                lengths = [len(one) for one in inputs.groups[place].completions]
                values = [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
                (folder / f"slot{slot}.json").write_text(json.dumps(values))
            return result

        trainer._collect, trainer._compute_loss = collect_slots, note

    return before


def largest_difference(one: Job, other: Job) -> float:
    left, right = load_file(one.settings.output), load_file(other.settings.output)
    assert {name: weight.dtype for name, weight in left.items()} == {name: w.dtype for name, w in right.items()}
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def moved(job: Job) -> float:
    """How far the training has moved the weights."""
    start = getattr(job.settings, "selector_model", job.settings.answerer_model)
    before, after = load_file(start / "model.safetensors"), load_file(job.settings.output)
    return max(float((before[name] - after[name]).abs().max()) for name in before)


@pytest.mark.e2e
def test_a_trained_tower_may_be_sharded(make: Make) -> None:
    one, two = (make("selector", name or "ddp", 2, name, train_vision=True, **THREE) for name in ("", "fsdp2"))
    assert one.run_all() == two.run_all() == [0, 0]
    assert largest_difference(one, two) <= WEIGHTS["selector"] < 0.01 * moved(one)


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.e2e)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["selector", "answerer"])
def test_two_processes_train_what_one_does(make: Make, kind: str, lora: bool) -> None:
    """At the same global batch, whole or in shards: losses, advantages, all that is logged, and the weights."""
    one = make(kind, "one", 1, lora=lora, **THREE)
    assert one.run(before=keep_advantages(one.folder) if kind == "selector" else lambda: None) == 0
    expected = one.result()
    for sharding in ("", "fsdp2"):
        two = make(kind, f"two{sharding}", 2, sharding, lora, **THREE)
        assert two.run_all(before=keep_advantages(two.folder) if kind == "selector" else lambda: None) == [0, 0]
        points = two.result()["points"]
        assert points.keys() == expected["points"].keys()
        for name, series in expected["points"].items():
            assert [step for step, _ in points[name]] == [step for step, _ in series]
            # TRL logs the accuracy as the mean of one process's micro-batches, but over the tokens of all processes
            absolute = 1e-2 if name == "tuning/mean_token_accuracy" else 2e-5
            close = pytest.approx([value for _, value in series], rel=MEASURES, abs=absolute)
            assert [value for _, value in points[name]] == close, name
        assert largest_difference(one, two) <= WEIGHTS[kind] < 0.01 * moved(one)
        for file in ("config.json", "generation_config.json"):
            assert (one.folder / "model" / file).read_text() == (two.folder / "model" / file).read_text()
        if kind == "selector":
            slots = sorted(path.name for path in one.folder.glob("slot*.json"))
            assert len(slots) == 3 * one.settings.training.prompts_per_step
            assert slots == sorted(path.name for path in two.folder.glob("slot*.json"))
            for name in slots:
                left, right = (json.loads((job.folder / name).read_text()) for job in (one, two))
                assert [len(row) for row in left] == [len(row) for row in right]
                np.testing.assert_allclose(np.concatenate(left), np.concatenate(right), atol=1e-4)


def test_an_untied_head_is_trained_in_shards_as_whole(make: Make, tmp_path: Path) -> None:
    """As in the 7B; two passes of each process a step."""
    one, two = (make("answerer", how or "one", 2 if how else 1, how, **THREE, batch_size=8) for how in ("", "fsdp2"))
    start = tmp_path / "untied"
    shutil.copytree(one.settings.answerer_model, start)
    model = Vlm.load(start, device="cpu").model
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.01)
    model.save_pretrained(start)
    for job in (one, two):
        job.settings = replace(job.settings, answerer_model=start)
        assert job.run_all() == [0] * job.processes
    assert largest_difference(one, two) < 1e-5 < 0.01 * moved(one)  # four passes are summed in another order than 2 x 2
    before, after = (load_file(path)["lm_head.weight"] for path in (start / "model.safetensors", one.settings.output))
    assert not torch.equal(before, after)


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "sharding"), [("selector", ""), ("selector", "fsdp2"), ("answerer", "")])
def test_a_stopped_or_killed_training_of_two_goes_on_exactly(make: Make, kind: str, sharding: str) -> None:
    whole = make(kind, "whole", 2, sharding)
    assert whole.run_all() == [0, 0]
    stopped = make(kind, "stopped", 2, sharding)
    assert stopped.run_all(SignalAt(2, signal.SIGTERM, rank=1)) == [143, 143]  # one was told, both stop
    work = stopped.folder / "checkpoints" / "model"
    assert [path.name for path in work.glob("checkpoint-*") if path.name > "checkpoint-2"] == ["checkpoint-3"]
    assert stopped.run_all(SignalAt(5, signal.SIGKILL, rank=1)) == [99, -signal.SIGKILL]  # the other ends by itself
    assert stopped.run_all() == [0, 0]
    assert stopped.result() == whole.result()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["selector", "answerer"])
def test_a_training_goes_on_with_another_number_of_processes(make: Make, kind: str) -> None:
    whole, changed = make(kind, "whole", 1), make(kind, "changed", 2)
    assert whole.run() == 0
    assert changed.run_all(SignalAt(2, signal.SIGTERM)) == [143, 143]
    changed.processes = 1
    assert changed.run() == 0
    assert largest_difference(whole, changed) <= WEIGHTS[kind]


@pytest.mark.e2e
def test_memory_bounds_change_nothing_in_two_processes(make: Make) -> None:
    """Groups one by one, in rollout and update: the processes then generate and gather at different times."""
    whole = make("selector", "whole", 1, steps=2, updates_per_rollout=2)
    assert whole.run() == 0
    bounds = {"groups_per_microbatch": 1, "groups_per_rollout": 1, "gradient_checkpointing": True}
    for sharding in ("", "fsdp2"):
        parts = make("selector", f"parts{sharding}", 2, sharding, steps=2, updates_per_rollout=2, **bounds)
        assert parts.run_all() == [0, 0]
        assert largest_difference(whole, parts) < OTHER_LAYOUT < 0.2 * moved(whole)


class RaiseAt(TrainerCallback):
    """Fails in one process at a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1 and args.process_index == 1:
            raise ValueError("something is wrong here")


def test_an_error_in_one_process_ends_the_other(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    assert make("selector", "job").run_all(RaiseAt()) == [99, 99]
    assert "ValueError: something is wrong here" in capfd.readouterr().err


def test_batches_that_cannot_be_shared_are_refused_at_once(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    uneven = {"selector": {"prompts_per_step": 3}, "answerer": {"batch_size": 3, "micro_batch_size": 0}}
    for kind, changes in uneven.items():
        assert make(kind, kind, **changes).run_all() == [99, 99]
        said = capfd.readouterr().err
        assert "3 groups cannot be shared evenly among 2" in said or "batch_size 3 is no multiple of 2" in said
        assert "loading" not in said


def test_questions_without_a_video_or_an_answer_are_listed(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """And the training takes place without them, in both processes alike."""
    job = make("selector", "job", steps=2, warmup_steps=0)
    items = [*ITEMS, replace(ITEMS[0], id="gone", video="v99"), replace(ITEMS[1], id="open", answer="")]
    job.settings = replace(job.settings, items=job.folder / "items.jsonl")
    write_records(job.settings.items, items)
    assert job.run_all() == [0, 0]
    said = capfd.readouterr().err
    assert "2 of 9 training questions are left out (no answer: 1, no frames: 1)\n" in said
    assert "  gone: no frames: its file is cut" in said and "  open: no answer" in said
