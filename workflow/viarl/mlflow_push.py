"""Tracking, the mirror: records (viarl.tracking) are pushed to MLflow.

What was pushed is marked in a file beside the record, so that a push that failed is made up for by the next stage or by
the stage `sync_mlflow`, and a push that is repeated doubles nothing: runs are found again by the record's id, points by
their key and step.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from viarl.files import write_json
from viarl.tracking import Record, Tracking, mark_path, marked, read_record, records

if TYPE_CHECKING:
    from mlflow.entities import Experiment

BATCH = {"metrics": 800, "params": 100, "tags": 90}  # MLflow takes at most 1,000, 100 and 100 a call
LOCK_TIMEOUT_S = 60.0
RECORD_TAG = "viarl.record"
# Set before MLflow is imported: no telemetry, and an unreachable server is given up after seconds, not minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def waiting(settings: Tracking) -> Iterator[Path]:
    """Yield the other finished records of which something was never pushed."""
    for path in records(settings.root):
        news = path != settings.record and marked(path).get("bytes", 0) != path.stat().st_size
        if news and read_record(path).status != "RUNNING":  # a stage that is running pushes its own
            yield path


def push(settings: Tracking, paths: Iterable[Path]) -> int:
    """Push what MLflow lacks of the given records and return how many of them had something new.

    Raises what MLflow raises when it cannot be reached, and TimeoutError when another process pushes for too long.
    """
    settings.root.mkdir(parents=True, exist_ok=True)
    try:
        # One at a time: two stages that created the SQLite tables at once would break each other's migration.
        with FileLock(settings.root / "tracking.lock", timeout=LOCK_TIMEOUT_S):
            store = _Store(settings)
            return sum(store.push(path) for path in dict.fromkeys(paths))
    except Timeout as error:
        raise TimeoutError(f"another process has held {error.lock_file} for {LOCK_TIMEOUT_S:.0f} s") from error


class _Store:
    """An MLflow store that is open for pushing; the caller holds the lock."""

    def __init__(self, settings: Tracking) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.settings = settings
        self.client = MlflowClient(settings.destination)
        self.experiments: dict[str, Experiment] = {}

    def experiment(self, name: str) -> "Experiment":
        """Return the experiment of that name, made when it is missing."""
        if name not in self.experiments:
            from mlflow.exceptions import MlflowException

            found = self.client.get_experiment_by_name(name)
            if found is None:
                artifacts = None if self.settings.uri else (self.settings.root / "mlartifacts").resolve().as_uri()
                try:
                    self.client.create_experiment(name, artifact_location=artifacts)
                except MlflowException as error:  # made by another machine in the meantime
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                found = self.client.get_experiment_by_name(name)
            self.experiments[name] = found
        return self.experiments[name]

    def push(self, path: Path) -> bool:
        """Push what this store lacks of one record; True when there was something."""
        record = read_record(path)
        experiment = self.experiment(record.header["experiment"])
        # The creation time tells a store that was deleted and made anew: there, everything is pushed again.
        store = f"{self.settings.destination}#{experiment.experiment_id}@{experiment.creation_time}"
        mark = {"id": record.header["id"], "store": store, "bytes": record.size}
        if marked(path) == mark:
            return False
        run_id, points = self._run(record, experiment.experiment_id)
        self._log(run_id, record, points)
        for name, folder in record.artifacts.items():
            if Path(name).exists():
                self.client.log_artifact(run_id, name, folder or None)
        if record.status == "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, record.status, int(1000 * record.end))
        write_json(mark_path(path), mark)
        return True

    def _run(self, record: Record, experiment_id: str) -> tuple[str, set[tuple[str, int]]]:
        """Return the id of the record's run, made when missing, and the (key, step) points that it has already."""
        header = record.header
        found = self.client.search_runs([experiment_id], f"tags.`{RECORD_TAG}` = '{header['id']}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            histories = [self.client.get_metric_history(run_id, key) for key in found[0].data.metrics]
            return run_id, {(point.key, point.step) for history in histories for point in history}
        tags = {
            RECORD_TAG: header["id"],
            "mlflow.source.name": f"viarl.stages.{header['stage']}",
            "stage": header["stage"],
            "config_fingerprint": header["config"],
            "code_fingerprint": header["code"],
            "results_root": str(self.settings.root.resolve()),
            "run": header["run"] or "main",
            **{f"wildcard.{name}": value for name, value in header["wildcards"].items()},
            **({} if header["cycle"] is None else {"cycle": str(header["cycle"])}),
        }
        wildcards = [f"{key}={value}" for key, value in header["wildcards"].items()]
        name = " ".join([header["run"] + header["stage"], *wildcards])
        run = self.client.create_run(experiment_id, int(1000 * header["time"]), tags, name)
        return run.info.run_id, set()

    def _log(self, run_id: str, record: Record, points: set[tuple[str, int]]) -> None:
        """Log parameters, tags and those metrics that the run lacks, in batches."""
        from mlflow.entities import Metric, Param, RunTag

        logged = self.client.get_run(run_id).data.params  # a parameter cannot be changed, only logged once
        params = [Param(_name(key), str(value)[:6000]) for key, value in record.params.items()]
        params = [param for param in params if param.key not in logged]
        tags = [RunTag(_name(key), value[:5000]) for key, value in record.tags.items()]
        metrics = [
            Metric(_name(key), value, int(1000 * moment), step)
            for key, series in record.metrics.items()
            for step, (value, moment) in series.items()
            if (_name(key), step) not in points
        ]
        for first in range(0, len(params), BATCH["params"]):
            self.client.log_batch(run_id, params=params[first : first + BATCH["params"]])
        for first in range(0, len(tags), BATCH["tags"]):
            self.client.log_batch(run_id, tags=tags[first : first + BATCH["tags"]])
        for first in range(0, len(metrics), BATCH["metrics"]):
            self.client.log_batch(run_id, metrics=metrics[first : first + BATCH["metrics"]])


def _name(key: str) -> str:
    """Return a key as MLflow takes it: letters, digits and _ - . space : /, at most 250."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
