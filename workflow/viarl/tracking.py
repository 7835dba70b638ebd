"""Tracking: every stage writes a local record first; MLflow mirrors it.

    with tracking.start(settings.tracking, params={"steps": 60}) as run:
        run.log_metrics({"reward/total": 3.1}, step=1)
        run.log_artifact(settings.output)
        run.set_tag("resumed_from", "step 40")

A record is a file of JSON lines, appended to and flushed at each call, so a kill loses at most one torn line. It is
pushed to MLflow when the stage ends (and every `push_every_s` in long stages). What was pushed is marked in a file
beside the record, so that a push that failed is made up for by the next stage or by the stage `sync_mlflow`, and a push
that is repeated doubles nothing: runs are found again by the record's id, points by their key and step. An MLflow that
cannot be reached warns and stops nothing.

A stage that starts again after a kill, with the same parameters and code, continues its unfinished record, and a step
that is logged twice counts once. MLflow is imported when something is pushed and nowhere else: the import takes 1.5 s.
"""

import dataclasses
import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from viarl.files import read_json, write_json

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


@dataclass(frozen=True)
class Tracking:
    """Where a stage records itself, and under which names.

    `stage`, `wildcards`, `cycle` and `code` belong to the job; the other fields are the same for the whole workflow and
    arrive through $VIARL_RUNTIME, because they are no part of a job's identity.

    Args:
        record: the local record file (JSON lines), by default `<root>/tracking/<stage>/<wildcards>.jsonl`; without a
            stage there is no record and nothing is tracked.
        root: results root; the default MLflow store and its artifacts lie below it.
        uri: MLflow tracking URI; None is `sqlite:///<root>/mlflow.db`.
        experiment: name of the MLflow experiment.
        stage: rule name; `wildcards`: the job's wildcards; `cycle`: its cycle, if it has one.
        run: ablation and training seed it belongs to (viarl.runs), "" for the main run.
        config: fingerprint of the whole configuration; `code`: fingerprint of the stage's code.
        tags: further tags of every run.
        push_every_s: seconds between pushes of a stage that is still running.
        defer_below_s: a stage that took fewer seconds leaves its push to a later one. For a workflow that runs
            `sync_mlflow` when it ends: starting MLflow would take longer than such a stage.
    """

    record: Path | None = None
    root: Path = Path("results")
    uri: str | None = None
    experiment: str = "viarl"
    stage: str = ""
    wildcards: dict[str, str] = field(default_factory=dict)
    run: str = ""
    cycle: int | None = None
    config: str = ""
    code: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    push_every_s: float = 120.0
    defer_below_s: float = 0.0

    def __post_init__(self) -> None:
        if self.record is None and self.stage:
            parts = [f"cycle{value}" if name == "c" else value for name, value in self.wildcards.items()]
            name = ".".join(parts) or "all"
            object.__setattr__(self, "record", self.root / "tracking" / self.stage / self.run / f"{name}.jsonl")

    @property
    def destination(self) -> str:
        """The MLflow tracking URI that is used."""
        return self.uri or f"sqlite:///{self.root.resolve() / 'mlflow.db'}"


@dataclass
class Record:
    """A record read back: what one run of a stage logged.

    Attributes:
        header: the first line (id, stage, wildcards, cycle, config, code, experiment, tags, time in s).
        metrics: {key: {step: (value, time in s)}}; a step that was logged twice holds its last value.
        artifacts: (file, folder within the run) in order, each file once.
        status: RUNNING, FINISHED, FAILED or KILLED.
        seconds: from start to end, pauses between a kill and its resumption left out.
        size: bytes up to the end of the last whole line.
    """

    header: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"
    end: float = 0.0
    seconds: float = 0.0
    size: int = 0

    def series(self, key: str) -> list[tuple[int, float]]:
        """Return the (step, value) points of one metric, by step."""
        return [(step, value) for step, (value, _) in sorted(self.metrics.get(key, {}).items())]


def read_record(path: Path) -> Record:
    """Read a record; a torn last line is left out. ValueError names the file when it is no record."""
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    record: Record | None = None
    began = latest = 0.0
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            kind, moment = entry["kind"], entry["time"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number}: no tracking entry ({error}); delete the file") from error
        if kind == "start":
            record = Record(entry, dict(entry["params"]), dict(entry["tags"]), size=len(whole))
            began = moment
        elif record is None:
            raise ValueError(f"{path} does not begin with a start entry; delete the file")
        elif kind == "resume":
            record.seconds += latest - began
            record.status, began = "RUNNING", moment
        elif kind == "metrics":
            for key, value in entry["values"].items():
                record.metrics.setdefault(key, {})[entry["step"]] = (value, moment)
        elif kind == "artifact":
            record.artifacts[entry["path"]] = entry["folder"]
        elif kind == "end":
            record.status, record.end = entry["status"], moment
        else:
            (record.params if kind == "params" else record.tags).update(entry["values"])
        latest = moment
    if record is None:
        raise ValueError(f"{path} is empty; delete the file")
    record.seconds += latest - began
    return record


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and dataclasses as {"a.b": leaf}; Tracking is left out, as it describes the run itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        leaf = value if isinstance(value, str | int | float | bool | None) else str(value)
        return {prefix: list(map(str, value)) if isinstance(value, list | tuple) else leaf}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if not isinstance(entry, Tracking):
            flat |= flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    return flat


class Run:
    """One stage's run: a context manager that appends to the record and pushes it when the stage ends."""

    def __init__(self, settings: Tracking, params: Mapping[str, Any]) -> None:
        self.settings = settings
        self.params = flatten(params)
        self.began = self.pushed = time.monotonic()
        self.pause = settings.push_every_s
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        # With several processes a stage (torchrun), the first speaks for all.
        if self.settings.record is not None and int(os.environ.get("RANK", "0")) == 0:
            self.settings.record.parent.mkdir(parents=True, exist_ok=True)
            resumed = self._unfinished(self.settings.record)
            self._file = self.settings.record.open("a", encoding="utf-8")
            if resumed:
                self._append("resume")
            else:
                names = ("stage", "wildcards", "run", "cycle", "config", "code", "experiment", "tags")
                header = {name: getattr(self.settings, name) for name in names}
                self._append("start", id=uuid.uuid4().hex, **header, params=self.params)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is None:
            return
        crashed = "FAILED" if kind is not None and issubclass(kind, Exception) else "KILLED"
        self._append("end", status="FINISHED" if kind is None else crashed)
        os.fsync(self._file.fileno())
        self._file.close()
        if time.monotonic() - self.began >= self.settings.defer_below_s:
            self._push(others=True)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log further parameters (nested mappings are flattened)."""
        self._append("params", values=flatten(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers of one step; also the moment at which a long stage pushes what it has so far."""
        self._append("metrics", step=int(step), values={key: float(value) for key, value in metrics.items()})
        if self._file is not None and time.monotonic() - self.pushed > self.pause:
            reached = self._push(others=False)
            self.pause = self.settings.push_every_s if reached else 2 * self.pause

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Note a file, which must still exist at the stage's end, to be copied to MLflow below `folder`."""
        self._append("artifact", path=str(Path(path).resolve()), folder=folder)

    def set_tag(self, key: str, value: Any) -> None:
        """Set a tag of the run."""
        self._append("tags", values={key: str(value)})

    def _append(self, kind: str, **entry: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"kind": kind, "time": time.time(), **entry}, ensure_ascii=False) + "\n")
            self._file.flush()

    def _unfinished(self, path: Path) -> bool:
        """Prepare the record file; True when it holds an unfinished run of the same job, to be continued."""
        if not path.exists():
            return False
        try:
            old = read_record(path)
        except ValueError:  # killed while it wrote its first line
            path.unlink()
            return False
        same = all(old.header[name] == getattr(self.settings, name) for name in ("stage", "wildcards", "run", "code"))
        if same and old.status != "FINISHED" and old.header["params"] == json.loads(json.dumps(self.params)):
            with path.open("r+b") as handle:
                handle.truncate(old.size)  # cut a torn last line
            return True
        if _marked(path).get("bytes", 0) != old.size:  # not in MLflow yet: set aside for the next push
            path.replace(path.with_name(f"{path.stem}.{old.header['id'][:8]}.jsonl"))
        else:
            path.unlink()
        return False

    def _push(self, others: bool) -> bool:
        """Push this record (and the finished ones that wait); a failure is a warning, as the record stays."""
        assert self.settings.record is not None
        try:
            push(self.settings, [self.settings.record, *(_waiting(self.settings) if others else ())])
        except Exception as error:  # whatever MLflow, SQLAlchemy, urllib3 or the file system raise
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            print(
                f"warning: nothing was pushed to MLflow at {self.settings.destination} ({reason}). The run is kept in "
                f"{self.settings.record}; the next stage or `snakemake sync_mlflow` pushes it.",
                file=sys.stderr,
            )
            return False
        finally:
            self.pushed = time.monotonic()
        return True


def start(settings: Tracking, params: Mapping[str, Any] | None = None) -> Run:
    """Return the run of a stage, to be used in a `with` statement; `params` may be nested."""
    return Run(settings, params or {})


def records(root: Path) -> list[Path]:
    """Return all records below a results root."""
    return sorted((root / "tracking").rglob("*.jsonl"))


def _mark_path(record: Path) -> Path:
    return record.with_name(f"{record.name}.pushed")


def _marked(record: Path) -> dict[str, Any]:
    path = _mark_path(record)
    return dict(read_json(path)) if path.exists() else {}


def _waiting(settings: Tracking) -> Iterator[Path]:
    """Yield the other finished records of which something was never pushed."""
    for path in records(settings.root):
        news = path != settings.record and _marked(path).get("bytes", 0) != path.stat().st_size
        if news and read_record(path).status != "RUNNING":  # a stage that is running pushes its own
            yield path


def push(settings: Tracking, paths: Iterable[Path]) -> int:
    """Push what MLflow lacks of the given records and return how many of them had something new.

    Raises what MLflow raises when it cannot be reached, and TimeoutError when another process pushes for too long.
    """
    from filelock import FileLock, Timeout

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
        if _marked(path) == mark:
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
        write_json(_mark_path(path), mark)
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
        name = " ".join(
            [header["run"] + header["stage"], *(f"{key}={value}" for key, value in header["wildcards"].items())]
        )
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
