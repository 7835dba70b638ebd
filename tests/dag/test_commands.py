"""Every job's command line is one that its stage takes: no option or setting is missing, unknown or of a wrong type."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.dag.conftest import Workflow
from viarl.command import RUNTIME_VARIABLE, parse

pytestmark = pytest.mark.dag
RUNTIME = {"timeout_s": 60, "max_bad_share": 0}  # the settings without a default that are no part of a job


def check_commands(text: str) -> set[str]:
    """Parse the command lines that a dry run prints with the stages' own parser; return the stages."""
    stages = set()
    for stage, arguments in re.findall(
        r"python -m (?:viarl\.training\.launch )?viarl\.stages\.(\w+) (--settings .*) 2>&1 \| tee", text
    ):
        parse(importlib.import_module(f"viarl.stages.{stage}").Settings, shlex.split(arguments))
        stages.add(stage)
    return stages


@pytest.mark.parametrize(
    "presets", [(), ("presets/smoke.yaml",), ("presets/paper.yaml",), ("presets/paper.yaml", "presets/paper_256.yaml")]
)
def test_presets(fresh: Workflow, presets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(RUNTIME))
    done = fresh.run("-n", "-p", *(["--configfile", *presets] if presets else []))
    assert done.returncode == 0, done.output
    assert "max_bad_share" not in done.output
    made = {"fetch_dataset"} if "presets/paper.yaml" in presets else {"make_needle"}
    assert made | {"train_selector", "evaluate", "make_report"} <= check_commands(done.output)


def test_local(fresh: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(RUNTIME))
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "questions.csv").write_text("video,question,options,answer\na.mp4,Why?,this|that,A\n")
    local = {"folder": str(tmp_path), "questions": str(tmp_path / "questions.csv"), "validation_share": 0.2}
    (tmp_path / "mine.yaml").write_text(
        json.dumps({"dataset": "local", "benchmarks": ["local_validation"], "local": local})
    )
    done = fresh.run("-n", "-p", "--configfile", str(tmp_path / "mine.yaml"))
    assert done.returncode == 0, done.output
    assert "import_local" in check_commands(done.output)
    commands = re.findall(r"viarl\.stages\.cache_frames --.*", done.output)
    assert commands and all('"max_bad_share": 1.0' in command for command in commands)  # one's own fail no job


@pytest.mark.parametrize("labels", ["clip_topk", "oracle"])
def test_a_selector_that_starts_from_labels(fresh: Workflow, labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities are handed over where the labels need them."""
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(RUNTIME))
    option = f"selector={{start: {{labels: {labels}}}}}"
    done = fresh.run("-n", "-p", "results/cycle1/eval.json", "--config", option)
    assert done.returncode == 0, done.output
    assert {"initialise_selector", "train_selector", "select_frames"} <= check_commands(done.output)
    (command,) = re.findall(r"viarl\.stages\.initialise_selector --.*", done.output)
    assert ("results/data/clip/needle_train/0.safetensors" in command) == (labels == "clip_topk")
    assert "--selector-model results/data/stand_ins/selector " in command
    trained = re.search(r"viarl\.stages\.train_selector --.*", done.output)
    assert trained and "--selector-model results/cycle0/selector " in trained[0]


def test_plan_at_every_scale(fresh: Workflow) -> None:
    """The plan of the default, and of the paper's scale with models that are pinned to a revision; it makes no file."""
    done = fresh.run("plan")
    assert done.returncode == 0, done.output
    assert "results/data/stand_ins/selector, 655,488 weights + 346,880" in done.output
    pinned = ("--config", "selector={revision: v1}")
    for presets, tokens in (((), "772 tokens"), (("presets/paper_256.yaml",), "1284 tokens")):
        done = fresh.run("plan", "--configfile", "presets/paper.yaml", *presets, *pinned)
        assert done.returncode == 0, done.output
        assert "selector: Qwen/Qwen2.5-VL-3B-Instruct@v1, 3,085,938,688 weights" in done.output
        assert f"prompts: {tokens} of the selector" in done.output
        assert "of the published size, or of hub.limit: viarl_data_train, videomme, mlvu, lvbench\n" in done.output


def test_what_the_plan_prints_replaces_the_section_of_the_slurm_profile(finished: Workflow, tmp_path: Path) -> None:
    """Nothing of the profile is lost, and memory and time are the plan's."""
    printed = finished.run("plan", "--configfile", "presets/paper.yaml").output.splitlines()
    start = printed.index("set-resources:")
    end = next(number for number in range(start + 1, len(printed)) if not printed[number].startswith("  "))
    profile = finished.root / "slurm" / "config.yaml"
    before, section, after = re.split(r"(set-resources:\n(?:  .*\n)+)", profile.read_text())
    profile.write_text("\n".join([before, *printed[start:end], after]))
    given, replaced = (yaml.safe_load(text)["set-resources"] for text in (before + section, profile.read_text()))
    assert all(entry.items() <= replaced[rule].items() for rule, entry in given.items())
    done = finished.run("-n", "--forceall", "--profile", "slurm", "results/cycle1/eval.json")
    assert done.returncode == 0, done.output
    (training,) = re.findall(r"rule train_selector:\n(?:    .*\n)*?    resources: (.*)", done.output)
    asked = dict(one.split("=", 1) for one in training.split(", "))
    assert (asked["gres"], asked["nodes"], asked["slurm_extra"]) == ("gpu:1", "1", "--signal=TERM@300")
    for name in ("mem_mb", "runtime"):
        assert asked[name] == replaced["train_selector"][name].removesuffix(" * attempt")
    profile.write_text(profile.read_text().replace("executor:", "".join(["\n", section, "executor:"])))
    done = finished.run("-n")
    assert done.returncode and "set-resources stands in line" in done.output and "slurm/config.yaml" in done.output


def test_a_revision_reaches_every_stage_that_loads_the_model(fresh: Workflow) -> None:
    """Untouched models by hub id and revision; trained ones are folders."""
    config = "{model: a/b, revision: v1, prompt: paper}"
    done = fresh.run("-n", "-p", "results/cycle1/eval.json", "--config", f"selector={config}", f"answerer={config}")
    assert done.returncode == 0, done.output
    named = set(re.findall(r"--(?:base-)?(?:selector|answerer)-model (\S+)", done.output))
    assert named == {"a/b@v1", "results/cycle1/selector", "results/cycle1/answerer"}
