"""The smallest finished run, made by the rules' own command lines in this process, and copies of it to spoil."""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.dag.conftest import copy_workflow
from viarl import command

RESULTS = Path("results/smoke")
OVERLAY = """
needle: {videos: {train: 3, validation: 2, test: 2, shifted: 2}}
stand_ins: {effort: 0.001}
selector: {training: {steps: 1, prompts_per_step: 2, group_size: 2, save_every: 1}}
answerer: {tuning: {steps: 1, batch_size: 2}}
evaluation: {selectors: [uniform, clip_topk, base, learned], bootstrap: 10}
benchmarks: [needle]
cycles: 1
report: {filmstrips: 1}
"""
RUNTIME = {
    "device": "cpu",
    "timeout_s": 60.0,
    "max_bad_share": 0.0,
    "tracking": {"root": str(RESULTS), "defer_below_s": 1e9},  # nothing is pushed
}


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: its status and what it wrote to stderr; a traceback's exception stands there too."""

    status: int
    text: str

    @property
    def last(self) -> str:
        return (self.text.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class World:
    """A results folder and the command lines that made it, by output."""

    root: Path
    commands: dict[str, tuple[str, list[str]]]

    def run(self, output: str, *changes: str) -> Outcome:
        """Run the stage that makes an output, as its rule does; `changes` are options in place of the rule's."""
        stage, arguments = self.commands[output]
        module = importlib.import_module(f"viarl.stages.{stage}")
        errors = io.StringIO()
        status = 0
        with in_folder(self.root), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            before, sys.argv = sys.argv, [stage, *arguments, *changes]
            try:
                command.run(module.Settings, module.main)
            except SystemExit as stop:
                status = int(stop.code or 0)
            except Exception as error:
                status = 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                sys.argv = before
        return Outcome(status, errors.getvalue())


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Work in a folder with the stages' runtime settings."""
    before, runtime = Path.cwd(), os.environ.get(command.RUNTIME_VARIABLE)
    os.chdir(folder)
    os.environ[command.RUNTIME_VARIABLE] = json.dumps(RUNTIME)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop(command.RUNTIME_VARIABLE)
        if runtime is not None:
            os.environ[command.RUNTIME_VARIABLE] = runtime


def command_lines(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return {first output: (stage, arguments)} of a dry run, in its order."""
    lines = {}
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", text)[1:]:
        output = re.search(r"^ {4}output: ([^,\n]+)", block, re.MULTILINE)
        told = re.search(r"python -m viarl\.(?:\S+ viarl\.)?stages\.(\w+) (--settings .*) 2>&1 \| tee", block)
        if output and told:
            lines[output[1]] = (told[1], shlex.split(told[2]))
    return lines


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The smallest run up to the report."""
    workflow = copy_workflow(tmp_path_factory.mktemp("world"))
    (workflow.root / "small.yaml").write_text(OVERLAY)
    done = workflow.run("-n", "-p", "--configfile", "presets/smoke.yaml", "small.yaml")
    assert done.returncode == 0, done.output
    world = World(workflow.root, command_lines(done.output))
    for output in world.commands:
        made = world.run(output)
        assert made.status == 0, (output, made.text)
    return world


@pytest.fixture
def world(finished_world: World, tmp_path: Path) -> World:
    shutil.copytree(finished_world.root / "results", tmp_path / "results")
    return World(tmp_path, finished_world.commands)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; tests that need it are left out where it cannot be mounted (only root may)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
