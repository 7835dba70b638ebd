"""Trainings that are killed and started again end as if nothing had happened: weights, record, random numbers."""

import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from processes import in_processes
from small_answerer import MemoryCache, item, save_vlm, small_vlm
from small_selector import ITEMS, TRAINING, WEIGHTS, save_start
from small_stage import SignalAt
from viarl.answer import answerer
from viarl.answer.answerer import Answerer
from viarl.answer.settings import AnswererSettings
from viarl.command import _terminated
from viarl.items import write_records
from viarl.selection.picks import GREEDY, Pick, write_picks
from viarl.stages import train_selector, tune_answerer
from viarl.tracking.record import Tracking, read_record
from viarl.training.checkpoints import Checkpoints
from viarl.training.rl.settings import TrainedSelector
from viarl.training.sft.settings import TunedAnswerer, Tuning

STEPS = 6
SELECTOR_FRAMES = {own.video: 6 for own in ITEMS}
QUESTIONS = [item(number, f"v{number % 3}", "ABCD"[number % 4]) for number in range(8)]


class Draws(TrainerCallback):
    """Draws a number from every generator at every step and notes them: a resumed training must draw the same."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        drawn = [state.global_step, random.random(), float(np.random.rand()), float(torch.rand(1))]
        if torch.cuda.is_available():
            drawn.append(float(torch.rand(1, device="cuda")))
        with self.note.open("a") as handle:
            handle.write(json.dumps(drawn) + "\n")


Make = Callable[[str], "Job"]


class Job:
    """A training stage in a folder, run in child processes: one, or several that train together."""

    def __init__(self, stage: Any, trainer: str, settings: Any, folder: Path, processes: int = 1, sharding: str = ""):
        self.stage, self.trainer, self.folder = stage, trainer, folder
        self.processes, self.sharding = processes, sharding
        record = Tracking(record=folder / "record.jsonl", root=folder, stage="x", defer_below_s=1e9)
        self.settings = replace(settings, output=folder / "model" / "model.safetensors", tracking=record)
        self.folder.mkdir(exist_ok=True)

    def run(self, *callbacks: TrainerCallback, before: Callable[[], object] = lambda: None) -> int:
        """Run it with some callbacks; return how it ended."""
        return self.run_all(*callbacks, before=before)[0]

    def run_all(self, *callbacks: TrainerCallback, before: Callable[[], object] = lambda: None) -> list[int]:
        """Run it with some callbacks; return how each process ended."""
        real, draws = getattr(self.stage, self.trainer), Draws(self.folder / "draws")

        class Watched(real):  # type: ignore[misc,valid-type]
            def train(self, **options: Any) -> Any:
                for callback in (*callbacks, draws):
                    if callback is not draws or self.args.process_index == 0:
                        self.add_callback(callback)
                return super().train(**options)

        def child() -> None:
            signal.signal(signal.SIGTERM, _terminated)
            setattr(self.stage, self.trainer, Watched)
            before()
            self.stage.main(self.settings)

        return in_processes(child, self.processes, self.sharding)

    def result(self) -> dict[str, Any]:
        """All that must not depend on interruptions."""
        assert not (self.folder / "checkpoints" / "model").exists()
        record = read_record(self.folder / "record.jsonl")
        assert record.status == "FINISHED"
        weights = load_file(self.settings.output)
        return {
            "weights": {name: weight.numpy().tobytes() for name, weight in weights.items()},
            "points": {key: record.series(key) for key in record.metrics if "seconds" not in key and "time" not in key},
            "draws": sorted(set((self.folder / "draws").read_text().splitlines())),
        }


def weights_before(job: Job) -> set[bytes]:
    start = getattr(job.settings, "selector_model", job.settings.answerer_model)
    return {weight.numpy().tobytes() for weight in load_file(start / "model.safetensors").values()}


@pytest.fixture(scope="module")
def selector_settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("selector")
    save_start(folder / "selector")
    save_vlm(small_vlm(), folder / "answerer")
    write_records(folder / "items.jsonl", ITEMS)
    return train_selector.Settings(
        items=folder / "items.jsonl",
        manifests=(),
        selector_model=folder / "selector",
        answerer_model=folder / "answerer",
        output=folder,
        seed=3,
        cycle=1,
        selected=2,
        number_pixels=13,
        selector=TrainedSelector(prompt="short", max_new_tokens=20, length_range=(2, 15)),
        training=replace(TRAINING, steps=STEPS, schedule="cosine", save_every=2),
        answerer=AnswererSettings(prompt="short", max_new_tokens=4),
        reward=WEIGHTS,
        device="cpu",
    )


@pytest.fixture(scope="module")
def answerer_settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("answerer")
    save_vlm(small_vlm(), folder / "answerer")
    write_records(folder / "items.jsonl", QUESTIONS)
    write_picks(folder / "picks.parquet", [Pick(q.id, q.video, GREEDY, "", True, "", (0, 2), 5) for q in QUESTIONS])
    tuning = Tuning(steps=STEPS, batch_size=4, learning_rate=3e-3, warmup_steps=1, weight_decay=0.01, save_every=2)
    tuning = replace(tuning, target="restated_text_letter", micro_batch_size=2)
    return tune_answerer.Settings(
        items=folder / "items.jsonl",
        manifests=(),
        selected=folder / "picks.parquet",
        answerer_model=folder / "answerer",
        output=folder,
        seed=1,
        answerer=TunedAnswerer(prompt="short", max_new_tokens=4, batch_size=1, tuning=tuning),
        device="cpu",
    )


@pytest.fixture(params=["selector", "selector, two updates a rollout", "answerer"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes a job in a folder of a name."""
    if request.param == "answerer":
        settings = request.getfixturevalue("answerer_settings")
        monkeypatch.setattr(tune_answerer, "FrameCache", lambda manifests: MemoryCache({"v0": 4, "v1": 5, "v2": 3}))
        return lambda name: Job(tune_answerer, "SupervisedTrainer", settings, tmp_path / name)
    settings = request.getfixturevalue("selector_settings")
    if "two" in request.param:
        settings = replace(settings, training=replace(settings.training, updates_per_rollout=2, save_every=1))
    monkeypatch.setattr(train_selector, "FrameCache", lambda manifests, style: MemoryCache(SELECTOR_FRAMES))
    return lambda name: Job(train_selector, "SelectorTrainer", settings, tmp_path / name)


def test_a_killed_training_ends_as_an_uninterrupted_one(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    whole = make("whole")
    assert whole.run() == 0
    expected = whole.result()
    assert [step for step, _ in next(v for k, v in expected["points"].items() if k.endswith("loss"))] == [*range(1, 7)]
    assert len(expected["draws"]) == STEPS
    assert set(expected["weights"].values()) != weights_before(whole)
    steps = random.Random(str(whole.settings)).sample(range(1, STEPS), 2)  # any step, yet the same in every run

    polite = make("terminated")
    assert polite.run(SignalAt(steps[0], signal.SIGTERM)) in (0, 143)  # 0: its last step was the one under way
    assert "SIGTERM: a checkpoint is saved after this step" in capfd.readouterr().err
    assert polite.run() == 0
    assert polite.result() == expected

    killed = make("killed")
    assert killed.run(SignalAt(steps[1], signal.SIGKILL)) == -signal.SIGKILL
    assert killed.run(SignalAt(STEPS - 1, signal.SIGKILL)) == -signal.SIGKILL
    assert not killed.settings.output.exists()
    assert killed.run() == 0
    assert killed.result() == expected


@pytest.mark.parametrize("make", ["selector", "answerer"], indirect=True)
def test_a_kill_while_a_checkpoint_or_the_model_is_saved(make: Make) -> None:
    def kill(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    whole, killed = make("whole"), make("killed")
    assert whole.run() == 0
    real = Checkpoints.mark_complete

    def kill_at_step_4(self: Checkpoints, checkpoint: Path) -> None:
        kill() if checkpoint.name == "checkpoint-4" else real(self, checkpoint)

    move = Path.replace

    def kill_at_the_model(self: Path, target: Path) -> Path:
        return kill() if target.name == "model.safetensors" else move(self, target)

    assert killed.run(before=lambda: setattr(Checkpoints, "mark_complete", kill_at_step_4)) == -signal.SIGKILL
    found = {path.name for path in (killed.folder / "checkpoints" / "model").glob("checkpoint-*")}
    assert found == {"checkpoint-2", "checkpoint-4"}
    assert killed.run(before=lambda: setattr(Path, "replace", kill_at_the_model)) == -signal.SIGKILL
    assert not killed.settings.output.exists() and list(killed.folder.glob(".model.*.tmp"))
    assert killed.run(before=lambda: setattr(Checkpoints, "remove", kill)) == -signal.SIGKILL
    assert killed.settings.output.exists()  # whole; Snakemake takes it for incomplete and starts the job again
    assert killed.run() == 0
    assert killed.result() == whole.result()
    assert [path.name for path in killed.folder.glob("*") if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("make", ["selector", "answerer"], indirect=True)
def test_what_changes_no_result_is_the_configurations_when_a_training_goes_on(make: Make) -> None:
    """Among it how often a checkpoint is written; the trainer would take that from the checkpoint."""

    def run(save_every: int, *callbacks: TrainerCallback) -> tuple[int, list[str]]:
        own = {"save_every": save_every, "gradient_checkpointing": save_every == 1}
        if isinstance(job.settings, train_selector.Settings):
            job.settings = replace(job.settings, training=replace(job.settings.training, **own))
        else:
            answerer = job.settings.answerer
            job.settings = replace(job.settings, answerer=replace(answerer, tuning=replace(answerer.tuning, **own)))
        ended = job.run(*callbacks)
        return ended, sorted(path.name for path in (job.folder / "checkpoints" / "model").glob("checkpoint-*"))[-1:]

    whole, job = make("whole"), make("job")
    assert whole.run() == 0
    assert run(3, SignalAt(4, signal.SIGKILL)) == (-signal.SIGKILL, ["checkpoint-3"])
    assert run(1, SignalAt(4, signal.SIGKILL)) == (-signal.SIGKILL, ["checkpoint-4"])
    assert run(100, SignalAt(5, signal.SIGKILL)) == (-signal.SIGKILL, ["checkpoint-4"])
    assert run(100) == (0, [])
    assert job.result() == whole.result()


@pytest.mark.parametrize("make", ["selector"], indirect=True)
def test_a_second_attempt_stops_before_it_touches_anything(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    job = make("job")
    work = job.folder / "checkpoints" / "model"
    with Checkpoints(work, {}):  # the first attempt, which is just writing a checkpoint
        (work / "checkpoint-2").mkdir()
        before = sorted(path for path in job.folder.rglob("*"))
        assert job.run() == 99
        assert sorted(path for path in job.folder.rglob("*")) == before
    assert f"{work} is in use by process {os.getpid()}" in capfd.readouterr().err


@pytest.mark.parametrize("make", ["answerer"], indirect=True)
def test_replies_before_tuning_are_asked_for_once(
    make: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answerer, "BATCHES_A_WINDOW", 1)
    whole = make("whole")
    assert whole.run() == 0
    real = Answerer.answer

    def signal_at(call: int, number: signal.Signals) -> Callable[[], None]:
        calls = []

        def answer(self: Answerer, *arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return real(self, *arguments)

        return lambda: setattr(Answerer, "answer", answer)

    stopped = make("stopped")
    assert stopped.run(before=signal_at(2, signal.SIGTERM)) == 143  # within the second of three videos
    assert "SIGTERM: stopped" in capfd.readouterr().err
    work = stopped.folder / "checkpoints" / "model"
    assert {path.name for path in work.iterdir()} == {"identity.json", "replies.json"}
    assert stopped.run(before=signal_at(2, signal.SIGKILL)) == -signal.SIGKILL  # the last video
    assert stopped.run(SignalAt(3, signal.SIGKILL), before=signal_at(2, signal.SIGUSR1)) == -signal.SIGKILL
    assert stopped.run(before=signal_at(1, signal.SIGUSR1)) == 0
    assert stopped.result() == whole.result()
