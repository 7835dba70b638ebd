"""The whole chain, from videos to eval.json and the report, at the smallest scale; then again, which does nothing.

It runs in results/smoke of this checkout, from scratch: what lies there is deleted first.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = REPOSITORY / "results" / "smoke"
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "2"]
PRESET = ["--configfile", "presets/smoke.yaml"]  # last, for it takes all file names that follow
SELECTORS = {"uniform", "random", "clip_topk", "bolt", "aks", "qframe", "oracle", "base", "learned"}

pytestmark = pytest.mark.e2e


def snakemake(*arguments: str) -> str:
    """Run the smoke preset; fail with the end of the log."""
    command = [*SNAKEMAKE, *arguments, *PRESET]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


@pytest.fixture(scope="module")
def smoke() -> Path:
    """results/smoke after `snakemake --configfile presets/smoke.yaml`."""
    shutil.rmtree(SMOKE, ignore_errors=True)
    snakemake("results/smoke/cycle2/eval.json")
    snakemake()
    return SMOKE


def test_evaluation(smoke: Path) -> None:
    """eval.json of cycle 2 compares all selectors; no question is lost."""
    summary = json.loads((smoke / "cycle2" / "eval.json").read_text())
    assert (summary["schema_version"], summary["cycle"]) == (1, 2)
    assert set(summary["benchmarks"]) == {"needle"}
    for name, benchmark in summary["benchmarks"].items():
        questions = (smoke / "data" / "sets" / name / "items.jsonl").read_text().strip().splitlines()
        assert benchmark["n"] == len(questions)
        assert set(benchmark["selectors"]) >= SELECTORS
        assert {"learned-uniform", "cycle2-cycle1"} <= set(benchmark["paired"])
        for selector in benchmark["selectors"].values():
            accuracy = selector["accuracy"]
            assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert benchmark["selectors"]["oracle"]["evidence_recall"] == 1


def test_what_lies_there(smoke: Path) -> None:
    """Models, a data card, logs, benchmarks and tracking records of every rule."""
    for cycle in (1, 2):
        for role in ("selector", "answerer"):
            assert (smoke / f"cycle{cycle}" / role / "config.json").is_file()
    assert json.loads((smoke / "filter" / "report.json").read_text())
    assert (smoke / "report" / "accuracy.png").is_file()
    assert list((smoke / "report" / "filmstrips").glob("*.png"))
    assert (smoke / "mlflow.db").is_file()
    rules = {"make_needle", "build_stand_ins", "cache_frames", "score_frames", "filter_guessable", "train_selector"}
    rules |= {"select_frames", "tune_answerer", "evaluate", "summarise_evaluation", "make_report"}
    for folder in ("logs", "benchmarks", "tracking"):
        assert {path.name for path in (smoke / folder).iterdir() if path.is_dir()} >= rules, folder


def test_second_run_does_nothing(smoke: Path) -> None:
    """Nothing is stale after a run."""
    assert "Nothing to be done" in snakemake()
    assert "Nothing to be done" in snakemake("results/smoke/cycle2/eval.json")


def test_offline_report(smoke: Path, tmp_path: Path) -> None:
    """`snakemake --report` collects the pictures into one page."""
    page = tmp_path / "report.html"
    snakemake("--report", str(page))
    text = page.read_text()
    for name in ("accuracy.png", "failures.png", "rewards.png", "comparison.csv"):
        assert name in text


def test_comparison_of_an_ablation_that_trains_nothing(smoke: Path, tmp_path: Path) -> None:
    """It is made of what is there, has its figures in MLflow, and is in the report beside the main run's pictures."""
    from mlflow import MlflowClient

    compare = ["--config", "compare={ablations: [cycles_1], seeds: [0]}"]
    assert "train_selector" not in snakemake("results/smoke/comparison.csv", *compare)
    client = MlflowClient(f"sqlite:///{smoke / 'mlflow.db'}")
    (experiment,) = [one.experiment_id for one in client.search_experiments() if one.name.startswith("viarl")]
    (parent,) = client.search_runs([experiment], "tags.`viarl.parent_of` = 'ablations/cycles_1/'")
    summary = json.loads((smoke / "ablations/cycles_1/cycle1/eval.json").read_text())
    accuracy = summary["benchmarks"]["needle"]["selectors"]["learned"]["accuracy"]
    assert parent.data.metrics["learned/needle"] == accuracy["value"]
    page = tmp_path / "report.html"
    snakemake("all", "results/smoke/comparison.csv", "--report", str(page), *compare)
    text = page.read_text()
    for name in ("accuracy.png", "comparison/ablations.png", "comparison/saturation.png"):
        assert name in text


def test_two_processes_train_the_same_selector(smoke: Path, tmp_path: Path) -> None:
    """Through the rules and the launcher, on the same videos, frames and models."""
    paths = f"pathvars={{results: {tmp_path}, data: {smoke / 'data'}}}"
    target = tmp_path / "cycle1" / "selector" / "model.safetensors"
    snakemake(str(target), "--config", paths, "launcher={processes: 2}")
    log = (tmp_path / "logs" / "train_selector" / "cycle1.log").read_text()
    assert log.count("steps of selector training: 0/5") == 1  # of one process
    one, two = load_file(smoke / "cycle1" / "selector" / "model.safetensors"), load_file(target)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4  # five steps of at most 5e-4
