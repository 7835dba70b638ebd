"""Records of six runs for the tests of the mirror in MLflow, and what a mirror of them holds."""

import json
from pathlib import Path
from typing import Any

import yaml

from viarl.files import sha256_json
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run

REPOSITORY = Path(__file__).parents[2]
CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text()) | {
    "ablations": {
        "no_length": {"hypothesis": "Length pays nothing.", "overlay": {"reward": {"length": 0.0}}},
        "no_answer": {"hypothesis": "Without it nothing is learned.", "overlay": {"reward": {"answer": 0.0}}},
    }
}
RUNS = {
    "": "main seed 0",
    "seed1/": "main seed 1",
    "ablations/no_length/": "no_length seed 0",
    "ablations/no_length/seed1/": "no_length seed 1",
    "ablations/no_answer/": "no_answer seed 0",
    "ablations/no_answer/seed1/": "no_answer seed 1",
}


def settings(root: Path, stage: str = "", run: str = "", config: dict[str, Any] = CONFIG, **more: Any) -> Tracking:
    """Settings of a stage as a workflow hands them over; short stages leave their push to the end."""
    known = {"defer_below_s": 1e9, "tags": {"git_commit": "c0ffee"}, "code": "beef"} | more
    cycle = known["wildcards"].get("c") if "wildcards" in known else None
    known["cycle"] = None if cycle is None else int(cycle)
    fingerprint = sha256_json(config)[:16]
    return Tracking(root=root, stage=stage, run=run, config=fingerprint, configuration=config, **known)


def train(root: Path, run: str, config: dict[str, Any] = CONFIG, steps: int = 4, **more: Any) -> None:
    """Write the record of a training of cycle 1."""
    items = root / "items.jsonl"
    items.write_text("{}\n")
    with start_run(
        settings(root, "train_selector", run, config, wildcards={"c": "1"}, **more), {"lr": 0.1}, {"items": items}
    ) as recorded:
        for step in range(1, steps + 1):
            recorded.log_metrics({"reward/total": step / 7, "kl": 0.01 * step, "seconds/rollout": 2.0}, step)


def summarise(root: Path, run: str, cycle: int, accuracy: float, config: dict[str, Any] = CONFIG) -> None:
    """Write the record and the file of a cycle's evaluation."""
    path = root / run / f"cycle{cycle}" / "eval.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"accuracy": accuracy}))
    with start_run(
        settings(root, "summarise_evaluation", run, config, wildcards={"c": str(cycle)}), {"bootstrap": 10}
    ) as recorded:
        metrics = {}
        for name, value in (("learned/accuracy_", accuracy), ("uniform/accuracy_", 0.3), ("oracle/accuracy_", 0.9)):
            metrics |= {f"needle/{name}{end}": value + by for end, by in (("low", -0.1), ("value", 0), ("high", 0.1))}
        metrics |= {f"needle/learned-uniform/{end}": accuracy - 0.3 for end in ("low", "value", "high")}
        recorded.log_metrics(metrics | {"needle/learned/evidence_recall": 0.5, "needle/learned/valid_rate": 0.9})
        recorded.log_artifact(path)


def fill(root: Path, steps: int = 4) -> None:
    """Write the records of all runs, `steps` of each training but the ablations'; the data are the main run's alone."""
    with start_run(settings(root, "make_needle", wildcards={"set": "needle"})) as recorded:
        recorded.log_metrics({"videos": 3})
    for place, run in enumerate(RUNS):
        train(root, run, steps=4 if run.startswith("ablations/") else steps)
        for cycle in range(2):
            summarise(root, run, cycle, 0.4 + 0.1 * cycle + 0.01 * place)


def client(known: Tracking) -> Any:
    """An MLflow client of the settings' store."""
    from mlflow import MlflowClient

    return MlflowClient(known.destination)


def mirror(known: Tracking) -> tuple[dict[str, Any], list[Any]]:
    """Return the root's parents by name and the other runs; each must hold each point once."""
    store = client(known)
    (experiment,) = [one for one in store.search_experiments() if one.tags.get("viarl.experiment")]
    found = list(store.search_runs([experiment.experiment_id], max_results=1000))
    for run in found:
        for key in run.data.metrics:
            steps = [point.step for point in store.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), (run.info.run_name, key)
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    parents = [run for run in found if run not in children]
    named = {run.info.run_name: run for run in parents}
    assert len(named) == len(parents)
    return named, children


def history(known: Tracking, run: Any, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric in MLflow."""
    return sorted((point.step, point.value) for point in client(known).get_metric_history(run.info.run_id, key))
