"""Two `snakemake` commands at once in one checkout: what would write the same file is refused, what would not runs.

The stages of the copy do nothing but make the files that they are told to make, and wait while the file named by $HOLD
is there.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dag.conftest import Workflow, copy_workflow

pytestmark = pytest.mark.e2e

STAGE = """
import os, pathlib, sys, time
while os.path.exists(os.environ.get("HOLD", "")):
    time.sleep(0.1)
for path in map(pathlib.Path, sys.argv[3:]):
    if not path.name.startswith("--") and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")
        if path.name == "model.safetensors":
            path.with_name("hashes.json").write_text("made")
"""
SEED1 = ("results/seed1/cycle1/eval.json",)
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
SMOKE = ("results/smoke/data/sets/needle/items.jsonl", "--configfile", "presets/smoke.yaml")


@pytest.fixture
def checkout(tmp_path: Path) -> Workflow:
    """A copy of the workflow with stages that only make files."""
    workflow = copy_workflow(tmp_path)
    for stage in (tmp_path / "workflow" / "viarl" / "stages").glob("[a-z]*.py"):
        if stage.stem != "command":  # the launcher's too
            stage.write_text(STAGE)
    return workflow


@pytest.fixture
def held(checkout: Workflow) -> Iterator["Held"]:
    """To start commands whose jobs wait."""
    held = Held(checkout)
    yield held
    held.release()


class Held:
    """A command in the background whose jobs wait until it is released."""

    def __init__(self, checkout: Workflow) -> None:
        self.checkout, self.hold = checkout, checkout.root / "hold"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Start the command, and return when its first job waits."""
        self.hold.touch()
        command = [*SNAKEMAKE, "--cores", "2", "--no-hooks", *arguments]
        log = self.checkout.root / "held.log"
        with log.open("wb") as handle:
            environment = {**os.environ, "HOLD": str(self.hold)}
            self.process = subprocess.Popen(
                command, cwd=self.checkout.root, env=environment, stdout=handle, stderr=handle, start_new_session=True
            )
        for _ in range(600):
            if "python -m viarl." in log.read_text() or "\n    jobid: " in log.read_text():
                return
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    def release(self) -> int:
        """Let the jobs go on and return the command's status."""
        self.hold.unlink(missing_ok=True)
        return self.process.wait(120) if self.process else 0


def test_the_same_command_twice_is_refused(checkout: Workflow, held: Held) -> None:
    target = "results/data/sets/needle/items.jsonl"
    held.start(target)
    second = checkout.run("--no-hooks", target)
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.output
    assert held.release() == 0 and (checkout.root / target).exists()
    assert checkout.run("--no-hooks", target).returncode == 0


def test_presets_with_other_roots_run_side_by_side(checkout: Workflow, held: Held) -> None:
    held.start("results/data/sets/needle/items.jsonl")
    second = checkout.run("--no-hooks", *SMOKE)
    assert second.returncode == 0, second.output
    assert held.process is not None and held.process.poll() is None
    assert held.release() == 0


def test_runs_that_share_finished_files_run_side_by_side(checkout: Workflow, held: Held) -> None:
    """Another seed shares data and stand-ins: it waits for nobody once they are there, and is refused before."""
    held.start("results/data/sets/needle/items.jsonl")
    early = checkout.run("--no-hooks", *SEED1)
    assert early.returncode == 1 and "Directory cannot be locked" in early.output
    assert held.release() == 0
    prepared = checkout.run("--no-hooks", "results/cycle0/eval.json", "results/data/clip/needle_train/0.safetensors")
    assert prepared.returncode == 0, prepared.output
    prepared = checkout.run("--no-hooks", "results/filter/train_items.jsonl")
    assert prepared.returncode == 0, prepared.output
    held.start("results/cycle1/eval.json")
    second = checkout.run("--no-hooks", *SEED1)
    assert second.returncode == 0, second.output
    assert held.process is not None and held.process.poll() is None
    assert (checkout.root / SEED1[0]).exists() and not (checkout.root / "results/cycle1/eval.json").exists()
    assert held.release() == 0


def test_a_run_that_ends_leaves_the_locks_of_others(checkout: Workflow, held: Held) -> None:
    target = "results/data/sets/needle/items.jsonl"
    held.start(target)
    assert checkout.run("--no-hooks", *SMOKE).returncode == 0
    again = checkout.run("--no-hooks", target)
    assert "Directory cannot be locked" in again.output


def test_a_killed_command_goes_on_after_unlock(checkout: Workflow, held: Held) -> None:
    """Its jobs go on as orphans; what they finish late is made again, as nobody watched how they ended."""
    target = "results/data/sets/needle/items.jsonl"
    held.start(target)
    assert held.process is not None
    held.process.kill()
    held.release()
    refused = checkout.run("--no-hooks", target)
    assert refused.returncode == 1 and "--unlock" in refused.output
    assert checkout.run("--unlock").returncode == 0
    again = checkout.run("--no-hooks", target)
    assert again.returncode == 0, again.output
