"""Every job's command line is one that its stage takes: no option or setting is missing, unknown or of a wrong type."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.dag.conftest import Workflow
from viarl.stages.command import RUNTIME_VARIABLE, parse

pytestmark = pytest.mark.dag
RUNTIME = {"timeout_s": 60, "max_bad_share": 0}  # the settings without a default that are no part of a job


def check_commands(text: str) -> set[str]:
    """Parse the command lines that a dry run prints with the stages' own parser; return the stages."""
    stages = set()
    command = r"python -m viarl\.(?:launch viarl\.)?stages\.(\w+) (--settings .*) 2>&1 \| tee"
    for stage, arguments in re.findall(command, text):
        parse(importlib.import_module(f"viarl.stages.{stage}").Settings, shlex.split(arguments))
        stages.add(stage)
    return stages


@pytest.mark.parametrize("presets", [(), ("presets/smoke.yaml",), ("presets/paper.yaml",)])
def test_presets(fresh: Workflow, presets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """All rules of the default and of the presets."""
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(RUNTIME))
    done = fresh.run("-n", "-p", *(["--configfile", *presets] if presets else []))
    assert done.returncode == 0, done.output
    assert {"make_needle", "train_selector", "evaluate", "make_report"} <= check_commands(done.output)


def test_local(fresh: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own videos."""
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(RUNTIME))
    (tmp_path / "questions.csv").write_text("video\n")
    local = {"folder": str(tmp_path), "questions": str(tmp_path / "questions.csv"), "validation_share": 0.2}
    (tmp_path / "mine.yaml").write_text(json.dumps({"dataset": "local", "benchmarks": ["local"], "local": local}))
    done = fresh.run("-n", "-p", "--configfile", str(tmp_path / "mine.yaml"))
    assert done.returncode == 0, done.output
    assert "import_local" in check_commands(done.output)


@pytest.mark.parametrize("labels", ["clip_topk", "oracle"])
def test_a_selector_that_starts_from_labels(fresh: Workflow, labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities are handed over where the labels need them."""
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(RUNTIME))
    option = f"selector={{start: {{labels: {labels}}}}}"
    done = fresh.run("-n", "-p", "results/cycle1/eval.json", "--config", option)
    assert done.returncode == 0, done.output
    assert {"initialise_selector", "train_selector", "select_frames"} <= check_commands(done.output)
    (command,) = re.findall(r"viarl\.stages\.initialise_selector .*", done.output)
    assert ("results/data/clip/needle_train/0.safetensors" in command) == (labels == "clip_topk")
    assert "--selector-model results/data/stand_ins/selector " in command
    trained = re.search(r"viarl\.stages\.train_selector .*", done.output)
    assert trained and "--selector-model results/cycle0/selector " in trained[0]
