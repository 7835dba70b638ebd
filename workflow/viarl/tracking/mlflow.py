"""Tracking, the mirror: records (viarl.tracking.record) are pushed to MLflow.

A results root has one experiment, each ablation with each training seed a parent run in it, each record a child of it.
What was pushed is marked in a file beside the record, so that the next push makes up for one that failed. A push that
is repeated doubles nothing: runs are found again by the record's id, points by their key and step.
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from viarl.files import write_json, write_text
from viarl.progress import say
from viarl.tracking.parents import Parent, columns, known_parent
from viarl.tracking.record import Record, Tracking, begun, mark_path, marked, newest, records

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun

BATCH = {"metrics": 800, "params": 100, "tags": 90}  # MLflow takes at most 1,000, 100 and 100 a call
PAGE = 1000  # runs in one answer
LOCK_TIMEOUT_S = 60.0
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own: its page shows runs below the one that this names
RECORD_TAG = "viarl.record"  # of a child: its record's id
ROOT_TAG = "viarl.root"  # of the experiment: the results root's id
BEGINNING_TAG = "viarl.experiment"  # of the experiment: the setting `experiment`
OF_TAG = "viarl.parent_of"  # of a parent: the run (viarl.config.runs) that it stands for
# Of the experiment, MLflow's own: a saved view that shows the parents' figures as columns; its page opens with
# #/experiments/<id>/runs?workflowType=machine_learning&viewStateShareKey=ablations
VIEW_TAG = "mlflow.sharedViewState.ablations"
STATE_TAG = "viarl.state"  # of a parent: a hash of what was pushed of it, set last
Points = dict[tuple[str, int], tuple[float, float]]  # (value, time in s) of each (key, step)
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
        if path == settings.record or not path.exists() or marked(path).get("bytes", 0) == path.stat().st_size:
            continue
        record = _read(path)
        if record is not None and record.status != "RUNNING":  # a stage that is running pushes its own
            yield path


def push(settings: Tracking, paths: Iterable[Path]) -> int:
    """Push what MLflow lacks of the given records and return how many of them had something new.

    Raises what MLflow raises when it cannot be reached, and TimeoutError when another process pushes for too long.
    """
    paths = list(dict.fromkeys(paths))
    if not paths:
        return 0
    settings.root.mkdir(parents=True, exist_ok=True)
    try:
        # One at a time: two stages that created the SQLite tables at once would break each other's migration.
        with FileLock(settings.root / "tracking.lock", timeout=LOCK_TIMEOUT_S):
            return _Store(settings).push(paths)
    except Timeout as error:
        raise TimeoutError(f"another process has held {error.lock_file} for {LOCK_TIMEOUT_S:.0f} s") from error


def _read(path: Path) -> Record | None:
    """Return a record, None where nothing was written yet, it was replaced meanwhile, or (with a warning) is none."""
    try:
        return begun(path)
    except ValueError as error:
        say(f"warning: not pushed to MLflow: {error}")
        return None


def _root_id(root: Path) -> str:
    """Return a name of a results root that it keeps when it is moved; the caller holds the lock."""
    path = root / "tracking" / "root"
    if not path.exists():
        write_text(path, uuid.uuid4().hex)
    return path.read_text()


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
        found = self._experiment()
        self.experiment, self.view = str(found.experiment_id), found.tags.get(VIEW_TAG)
        # The creation time tells a store that was deleted and made anew: there, everything is pushed again.
        self.name = f"{settings.destination}#{self.experiment}@{found.creation_time}"

    def _experiment(self) -> "Experiment":
        """Return the root's experiment, made when it is missing."""
        from mlflow.exceptions import MlflowException

        beginning, root = self.settings.experiment, _root_id(self.settings.root)
        wanted = f"tags.`{ROOT_TAG}` = '{root}'"
        # A server knows where artifacts go; with a database alone, MLflow would put them into the working directory.
        database = self.settings.destination.startswith(("sqlite", "postgresql", "mysql", "mssql"))
        artifacts = (self.settings.root / "mlartifacts").resolve().as_uri() if database else None
        for known in self.client.search_experiments(filter_string=wanted):
            # An experiment's artifacts go where they went first: a root that was moved or copied has a new one.
            if known.tags.get(BEGINNING_TAG) == beginning and artifacts in (None, known.artifact_location):
                return known
        tags = {ROOT_TAG: root, BEGINNING_TAG: beginning}
        name = f"{beginning} {self.settings.root.resolve()}"
        try:
            made = self.client.create_experiment(name, artifact_location=artifacts, tags=tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # another machine has a root of this path, or an experiment of this name was deleted
            made = self.client.create_experiment(f"{name} {uuid.uuid4().hex[:6]}", artifacts, tags)
        return self.client.get_experiment(made)

    def push(self, paths: Iterable[Path]) -> int:
        """Push what the store lacks of these records, and the parents of those that had something."""
        groups: dict[str, list[tuple[Path, Record]]] = {}
        for path in paths:
            record = _read(path)
            if record is not None and marked(path) != self._mark(record):
                groups.setdefault(record.header["run"], []).append((path, record))
        known = [record for record in map(_read, records(self.settings.root)) if record] if groups else []
        parents = []
        for run, news in groups.items():
            others = {record.header["id"]: record for _, record in news}
            others |= {record.header["id"]: record for record in known if record.header["run"] == run}
            # The parent first: after a kill, what is not marked yet brings the push back to both.
            current = newest(list(others.values()))
            parent = known_parent(self.settings, run, current)
            parents.append(parent)
            parent_id = self._push_parent(parent)
            ids = {record.header["id"] for record in current}
            for path, record in news:
                self._push_record(record, record.header["id"] in ids, parent_id)
                write_json(mark_path(path), self._mark(record))
        view = json.dumps({"selectedColumns": columns(parents)})
        if parents and len(view) > len(self.view or ""):  # the runs of this push may have fewer figures than others
            self.client.set_experiment_tag(self.experiment, VIEW_TAG, view)
        return sum(map(len, groups.values()))

    def _mark(self, record: Record) -> dict[str, Any]:
        return {"id": record.header["id"], "store": self.name, "bytes": record.size}

    def _push_record(self, record: Record, current: bool, parent_id: str) -> None:
        """Push what the store lacks of one record; `current` unless the job has a newer one."""
        header = record.header
        own = known_parent(self.settings, header["run"], [record])  # the configuration as it was when this one began
        found = self._search(f"tags.`{RECORD_TAG}` = '{header['id']}'")
        wildcards = {"cycle" if key == "c" else key: value for key, value in header["wildcards"].items()}
        tags = {**own.tags, **header["tags"], **record.tags, RECORD_TAG: header["id"], PARENT_TAG: parent_id}
        tags |= {"mlflow.source.name": f"viarl.stages.{header['stage']}", "stage": header["stage"]}
        tags |= {"config_fingerprint": header["config"], "code_fingerprint": header["code"]}
        tags |= {f"wildcard.{name}": value for name, value in header["wildcards"].items()}
        tags |= {} if header["cycle"] is None else {"cycle": str(header["cycle"])}
        name = " ".join([header["stage"], *(f"{key} {value}" for key, value in wildcards.items())])
        run_id = found[0].info.run_id if found else self._create(f"{name} ({own.name})", header["time"], tags)
        every = [(_name(key), step, made) for key, series in record.metrics.items() for step, made in series.items()]
        have = self._points(found[0]) if found else {}
        missing = {(key, step): made for key, step, made in every if (key, step) not in have}
        self._log(run_id, {**record.params, "code": header["code"]}, tags, missing)
        absent = []
        for path, folder in record.artifacts.items():
            place = self.settings.root / path
            if not place.exists() or (not current and place.stat().st_mtime > record.end + 1.0):
                absent.append(path)  # or made anew by a later run of the job
            else:
                self.client.log_artifact(run_id, str(place), folder or None)
        if absent:
            self.client.set_tag(run_id, "artifacts_gone", ", ".join(absent)[:5000])
        if own.text and record.status != "RUNNING":
            self.client.log_text(run_id, own.text, "config.yaml")
        self._end(run_id, record.status, record.end)

    def _push_parent(self, parent: Parent) -> str:
        """Make the one parent of a run say what the results root holds, and return its id.

        MLflow can neither change a parameter nor replace a point. So where these differ, a new parent takes the place,
        the tags that people gave and the children of the old one, which goes to MLflow's bin of deleted runs.
        """
        params = {_name(key): _text(value) for key, value in parent.params.items()}
        tags = {**parent.latest, **parent.tags, OF_TAG: parent.run or "main", "mlflow.source.name": "viarl"}
        found = self._search(f"tags.`{OF_TAG}` = '{tags[OF_TAG]}'")
        same = [one for one in found if one.data.tags.get(STATE_TAG) == parent.state]
        kept = next(iter(same or [one for one in found if self._extends(one, params, parent)]), None)
        if kept is None:
            for one in found:
                tags = {**_inherited(one.data.tags, parent), **tags}
        run_id = kept.info.run_id if kept else self._create(parent.name, parent.began, tags)
        for child in self._search(f"tags.`run` = '{parent.tags['run']}' and tags.`{PARENT_TAG}` != '{run_id}'"):
            self.client.set_tag(child.info.run_id, PARENT_TAG, run_id)
        for one in found:
            if one is not kept:
                self.client.delete_run(one.info.run_id)
        if not same:
            have = self._points(kept) if kept else {}
            missing = {point: value for point, value in parent.points.items() if point not in have}
            self._log(run_id, params, tags, missing)
            for cycle, path in parent.summaries.items():
                self.client.log_artifact(run_id, str(path), f"cycle{cycle}")
            if parent.text:
                self.client.log_text(run_id, parent.text, "config.yaml")
            self._end(run_id, parent.status, parent.end)
            self.client.set_tag(run_id, STATE_TAG, parent.state)
        return run_id

    def _extends(self, old: "MlflowRun", params: Mapping[str, str], parent: Parent) -> bool:
        """Tell whether nothing that a parent in the store holds has to be changed."""
        if any(params.get(key) != value for key, value in old.data.params.items()):
            return False
        wanted = {point: value for point, (value, _) in parent.points.items()}
        return all(wanted.get(point, value) == value for point, value in self._points(old).items())

    def _search(self, filter_string: str) -> list["MlflowRun"]:
        """Return all runs of the experiment that fit and are not deleted, the newest first."""
        found = page = self.client.search_runs([self.experiment], filter_string, max_results=PAGE)
        while page.token:
            page = self.client.search_runs([self.experiment], filter_string, max_results=PAGE, page_token=page.token)
            found = [*found, *page]
        return list(found)

    def _create(self, name: str, began: float, tags: Mapping[str, str]) -> str:
        tags = {"mlflow.runName": name} | {key: value[:5000] for key, value in tags.items()}
        run = self.client.create_run(self.experiment, int(1000 * began), tags)
        return str(run.info.run_id)

    def _points(self, run: "MlflowRun") -> dict[tuple[str, int], float]:
        """Return the points that a run has in the store."""
        histories = [self.client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
        return {(point.key, point.step): point.value for history in histories for point in history}

    def _log(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str], points: Points) -> None:
        """Log those parameters that the run lacks, tags, and points (value, time in s), in batches."""
        from mlflow.entities import Metric, Param, RunTag

        logged = self.client.get_run(run_id).data.params  # a parameter cannot be changed, only logged once
        batches = {
            "params": [Param(_name(key), _text(value)) for key, value in params.items() if _name(key) not in logged],
            "tags": [RunTag(_name(key), value[:5000]) for key, value in tags.items()],
            "metrics": [Metric(key, value, int(1000 * when), step) for (key, step), (value, when) in points.items()],
        }
        for kind, entries in batches.items():
            for first in range(0, len(entries), BATCH[kind]):
                self.client.log_batch(run_id, **{kind: entries[first : first + BATCH[kind]]})

    def _end(self, run_id: str, status: str, end: float) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, int(1000 * end))


def _inherited(tags: Mapping[str, str], parent: Parent) -> dict[str, str]:
    """Return the tags of an old parent that its successor keeps, with the name if people gave it another one."""
    kept = {key: value for key, value in tags.items() if key not in (STATE_TAG, "hypothesis")}
    if re.fullmatch(rf"{re.escape(parent.tags['ablation'])}( seed \d+)?", kept.get("mlflow.runName", "")):
        del kept["mlflow.runName"]
    return kept


def _text(value: Any) -> str:
    return str(value)[:6000]  # what MLflow takes as a parameter's value


def _name(key: str) -> str:
    """Return a key as MLflow takes it: letters, digits and _ - . space : /, at most 250."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
