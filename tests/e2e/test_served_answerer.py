"""The answerer on a real `transformers serve`: same replies, same training, also where the server dies in between."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from processes import end_of, start_child
from small_answerer import StoredCache, item, save_vlm, small_answerer, small_vlm
from small_selector import TRAINING, WEIGHTS, save_start
from viarl.answer.base import Request
from viarl.answer.load import load_answerer
from viarl.answer.settings import AnswererSettings, Endpoint
from viarl.command import run
from viarl.items import Item, write_records
from viarl.stages import train_selector
from viarl.tracking.record import Tracking, read_record
from viarl.training.rl.settings import TrainedSelector

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_spec("openai") is None, reason="`transformers serve` needs the package openai: make env"),
]
STEPS = 6
Make = Callable[[str, AnswererSettings], "Job"]
ITEMS = [Item(f"q{n}", f"v{n}", f"Which of {n}?", ("x", "y"), "AB"[n % 2]) for n in range(24)]  # new ones in each step


class Server:
    """A `transformers serve` on a port of its own, which can be killed and started again."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            command = f"serve --host 127.0.0.1 --port {self.port} --device cpu --dtype float32"
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from transformers.cli.transformers import main; main()", *command.split()],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                time.sleep(0.25)
        raise AssertionError("the server did not start")

    def answered(self) -> int:
        return self.log.read_text(errors="replace").count('POST /v1/chat/completions HTTP/1.1" 200')

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server") / "log")
    yield started
    started.kill()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models: a selector's start, answerers with temporal patches of one and of two frames."""
    folder = tmp_path_factory.mktemp("models")
    save_start(folder / "selector")
    for patch in (1, 2):
        save_vlm(small_vlm(patch), folder / f"answerer{patch}")
    write_records(folder / "items.jsonl", ITEMS)
    return folder


def served(server: Server, **endpoint: Any) -> AnswererSettings:
    known = Endpoint(url=server.url, concurrency=4, timeout_s=60.0, retries=1, patience_s=60.0)
    return AnswererSettings(
        prompt="short", max_new_tokens=6, backend="endpoint", frames_as="images", endpoint=replace(known, **endpoint)
    )


@pytest.mark.parametrize("patch", [1, 2])
def test_replies_equal_those_of_this_process(server: Server, models: Path, patch: int) -> None:
    counts = {"v0": 8, "v1": 5}
    frames = [(0, 1, 2), (4, 3, 1), (), (4, 2), (0,), (1, 2, 3, 4)] * 3
    asked = [Request(item(number, f"v{number % 2}"), own) for number, own in enumerate(frames)]
    here = small_answerer(StoredCache(counts), temporal_patch=patch, frames_as="images").answer(asked)
    there = load_answerer(models / f"answerer{patch}", served(server), StoredCache(counts)).answer(asked)
    assert [reply.text for reply in there] == [reply.text.strip() for reply in here]  # the server strips them
    assert [reply.letter for reply in there] == [reply.letter for reply in here]
    assert len({reply.text for reply in there}) > 1


def test_a_model_that_the_server_lacks_ends_the_stage(server: Server) -> None:
    lost = load_answerer(Path("none"), served(server, model="no/such"), StoredCache({"v0": 8}))
    with pytest.raises(
        OSError, match=r"failed 2 times at a request for 'no/such': status 500.*an unknown model's name"
    ):
        lost.answer([Request(item(0), (1,))])


@dataclass(frozen=True)
class Nothing:
    """No settings."""


class Job:
    """A training of the selector against an answerer, run in child processes."""

    def __init__(self, models: Path, folder: Path, answerer: AnswererSettings) -> None:
        self.folder = folder
        self.settings = train_selector.Settings(
            items=models / "items.jsonl",
            manifests=(),
            selector_model=models / "selector",
            answerer_model=models / "answerer1",
            output=folder / "model" / "model.safetensors",
            seed=3,
            cycle=1,
            selected=2,
            number_pixels=13,
            selector=TrainedSelector(prompt="short", max_new_tokens=20, length_range=(2, 15)),
            training=replace(TRAINING, steps=STEPS, save_every=100),
            answerer=answerer,
            reward=WEIGHTS,
            replies=folder / "replies",
            device="cpu",
            tracking=Tracking(record=folder / "record.jsonl", root=folder, stage="x", defer_below_s=1e9),
        )
        folder.mkdir()

    def start(self) -> int:
        def child() -> None:
            # the stage's own ending, with settings that are no command line
            sys.argv = ["stage"]
            run(Nothing, lambda _: train_selector.main(self.settings))

        return start_child(child)

    def run(self) -> int:
        return end_of(self.start())

    @property
    def checkpoints(self) -> set[str]:
        return {path.name for path in (self.folder / "checkpoints" / "model").glob("checkpoint-*")}

    def result(self) -> dict[str, Any]:
        record = read_record(self.folder / "record.jsonl")
        assert record.status == "FINISHED"
        counted = ("seconds", "time", "asked", "known_replies")
        return {
            "weights": {name: weight.numpy().tobytes() for name, weight in load_file(self.settings.output).items()},
            "points": {k: record.series(k) for k in record.metrics if not any(word in k for word in counted)},
        }


@pytest.fixture
def make(server: Server, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes a training in a folder of a name."""
    counts = {own.video: 6 for own in ITEMS}
    monkeypatch.setattr(train_selector, "FrameCache", lambda *_: StoredCache(counts))
    return lambda name, answerer: Job(models, tmp_path / name, answerer)


def die_after(server: Server, requests: int) -> None:
    """Kill the server, with whatever it is working on, once it has answered some requests."""
    wanted, last = server.answered() + requests, time.monotonic() + 60
    while server.answered() < wanted:
        assert time.monotonic() < last, "it was asked too little"
        time.sleep(0.01)
    server.kill()


def test_a_server_that_dies_changes_nothing(server: Server, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    here = make("here", AnswererSettings(prompt="short", max_new_tokens=6, frames_as="images"))
    assert here.run() == 0
    expected = here.result()

    waits = make("waits", served(server))
    child = waits.start()
    die_after(server, 9)
    time.sleep(1)
    server.start()
    assert end_of(child) == 0
    told = capfd.readouterr().err
    assert "does not answer" in told and "answers again" in told
    assert waits.result() == expected

    fails = make("fails", served(server, patience_s=1.0))
    child = fails.start()
    die_after(server, 9)
    assert end_of(child) == 1
    told = capfd.readouterr().err
    assert "was away for" in told and "then run the same command again" in told
    (saved,) = fails.checkpoints
    assert 0 < int(saved.rpartition("-")[2]) < STEPS
    again = Job.__new__(Job)
    again.folder, again.settings = fails.folder, replace(fails.settings, answerer=served(server))
    child = again.start()  # is told to stop while it waits
    last = time.monotonic() + 60
    while "does not answer" not in capfd.readouterr().err and time.monotonic() < last:
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    assert end_of(child) == 143
    server.start()
    assert again.run() == 0
    assert again.result() == expected
