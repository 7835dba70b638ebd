"""Tracking: every stage writes a local record first; MLflow mirrors it.

A record is a file of JSON lines, flushed at each call, so a kill loses at most one torn line. It is pushed to MLflow
when the stage ends, and every `push_every_s` in long stages; a stage that a signal ended leaves that to the next one.
A stage that starts again after a kill, with the same parameters, data and code, continues its unfinished record, and a
step that is logged twice holds its last value. The configuration is kept beside the records, once for all of them.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from viarl.files import clear_write_errors, read_json, sha256_file, sha256_json, write_json
from viarl.identity import flatten
from viarl.progress import say

Files = Path | Sequence[Path]


@dataclass(frozen=True)
class Tracking:
    """Where a stage records itself, and under which names.

    `stage`, `wildcards`, `cycle` and `code` belong to the job; the other fields are the same for the whole workflow and
    arrive through $VIARL_RUNTIME, because they are no part of a job's identity.
    """

    record: Path | None = None  # JSON lines, by default <root>/tracking/<stage>/<wildcards>.jsonl; none without a stage
    root: Path = Path("results")  # results root; the default MLflow store and its artifacts lie below it
    uri: str | None = None  # of MLflow; None is sqlite:///<root>/mlflow.db
    experiment: str = "viarl"  # begins the name of the MLflow experiment, which the results root ends
    stage: str = ""  # rule name
    wildcards: dict[str, str] = field(default_factory=dict)
    run: str = ""  # ablation and training seed it belongs to (viarl.config.runs), "" for the main run
    cycle: int | None = None
    config: str = ""  # fingerprint of the whole configuration
    configuration: dict[str, Any] = field(default_factory=dict)  # ablations included; kept under its fingerprint
    code: str = ""  # fingerprint of the stage's code
    tags: dict[str, str] = field(default_factory=dict)  # further tags of every run
    push_every_s: float = 120.0  # between pushes of a stage that is still running
    defer_below_s: float = 0.0  # a shorter stage leaves its push to a later one: starting MLflow would take longer

    def __post_init__(self) -> None:
        if self.record is None and self.stage:
            parts = [f"cycle{value}" if name == "c" else value for name, value in self.wildcards.items()]
            name = ".".join(parts) or "all"
            object.__setattr__(self, "record", self.root / "tracking" / self.stage / self.run / f"{name}.jsonl")

    @property
    def destination(self) -> str:
        """The MLflow tracking URI that is used."""
        return self.uri or f"sqlite:///{self.root.resolve() / 'mlflow.db'}"


Mirror = Callable[[Tracking, bool], None]  # pushes the stage's record, and with True the others that wait


@dataclass
class Record:
    """A record read back: what one run of a stage logged. Times are in s, paths count from the results root."""

    header: dict[str, Any]  # the first line (id, stage, wildcards, run, cycle, config, code, tags, params, time)
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)  # {key: {step: (value, time)}}
    artifacts: dict[str, str] = field(default_factory=dict)  # {file: folder within the run}, in order
    status: str = "RUNNING"  # or FINISHED, FAILED, KILLED
    end: float = 0.0
    seconds: float = 0.0  # from start to end, pauses between a kill and its resumption left out
    size: int = 0  # bytes up to the end of the last whole line

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
            record, began = Record(entry, dict(entry["params"]), dict(entry["tags"]), size=len(whole)), moment
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


class Run:
    """One stage's run: a context manager that appends to the record and pushes it when the stage ends."""

    def __init__(self, settings: Tracking, params: Mapping[str, Any], data: Mapping[str, Files], push: Mirror) -> None:
        self.settings, self.data, self.mirror = settings, data, push
        self.params = flatten(params, leave_out=(Tracking,))
        self.began = self.pushed = time.monotonic()
        self.pause = settings.push_every_s
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        # With several processes a stage (torchrun), the first speaks for all.
        if self.settings.record is not None and int(os.environ.get("RANK", "0")) == 0:
            self.settings.record.parent.mkdir(parents=True, exist_ok=True)
            kept = configuration_path(self.settings.root, self.settings.config)
            if self.settings.configuration and not kept.exists():
                write_json(kept, self.settings.configuration)
            self.params |= {f"data.{name}": _hash(files) for name, files in self.data.items()}
            resumed = self._unfinished(self.settings.record)
            self._file = self.settings.record.open("a", encoding="utf-8")
            if resumed:
                self._append("resume")
                self._append("tags", values=self.settings.tags)  # a resumption may be of another commit
            else:
                names = ("stage", "wildcards", "run", "cycle", "config", "code", "tags")
                header = {name: getattr(self.settings, name) for name in names}
                self._append("start", id=uuid.uuid4().hex, **header, params=self.params)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is None:
            return
        crashed = kind is not None and issubclass(kind, Exception)
        try:
            self._append("end", status="FINISHED" if kind is None else "FAILED" if crashed else "KILLED")
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError:  # a disk that is full is what ended the stage: its own error says more
            if error is None:
                raise
        if (kind is None or crashed) and time.monotonic() - self.began >= self.settings.defer_below_s:
            self._push(others=True)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log further parameters (nested mappings are flattened)."""
        self._append("params", values=flatten(params, leave_out=(Tracking,)))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers of one step; also the moment at which a long stage pushes what it has so far."""
        self._append("metrics", step=int(step), values={key: float(value) for key, value in metrics.items()})
        if self._file is not None and time.monotonic() - self.pushed > self.pause:
            reached = self._push(others=False)
            self.pause = self.settings.push_every_s if reached else 2 * self.pause

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Note a file, which must still exist at the stage's end, to be copied to MLflow below `folder`."""
        place, root = Path(path).resolve(), self.settings.root.resolve()
        self._append("artifact", path=str(place.relative_to(root) if root in place.parents else place), folder=folder)

    def set_tag(self, key: str, value: Any) -> None:
        """Set a tag of the run."""
        self._append("tags", values={key: str(value)})

    def _append(self, kind: str, **entry: Any) -> None:
        if self._file is not None:
            with clear_write_errors(Path(self._file.name)):
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
            os.truncate(path, old.size)  # cut a torn last line
            return True
        if killed := old.status == "RUNNING":  # and not continued: MLflow must not show it as running for ever
            end = {"kind": "end", "time": path.stat().st_mtime, "status": "KILLED"}
            with path.open("r+b") as handle:
                handle.seek(handle.truncate(old.size))
                handle.write(json.dumps(end).encode() + b"\n")
        pushed = marked(path)
        if killed or (pushed.get("id"), pushed.get("bytes")) != (old.header["id"], old.size):  # for the next push
            path.replace(path.with_name(f"{path.stem}.{old.header['id'][:8]}.jsonl"))
        else:
            path.unlink()
        mark_path(path).unlink(missing_ok=True)
        return False

    def _push(self, others: bool) -> bool:
        """Push this record (and the finished ones that wait); a failure is a warning, as the record stays."""
        try:
            self.mirror(self.settings, others)
        except Exception as error:  # whatever MLflow, SQLAlchemy, urllib3 or the file system raise
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            what = f"nothing was pushed to MLflow at {self.settings.destination} ({reason})"
            later = "the next stage or `snakemake sync_mlflow` pushes it"
            say(f"warning: {what}. The run is kept in {self.settings.record}; {later}.")
            return False
        finally:
            self.pushed = time.monotonic()
        return True


def _hash(files: Files) -> str:
    """Return 16 hexadecimal digits of the content of a file, or of several in their order."""
    if isinstance(files, Path):
        return sha256_file(files)[:16]
    return _hash(files[0]) if len(files) == 1 else sha256_json([sha256_file(path) for path in files])[:16]


def git_tags(folder: Path) -> dict[str, str]:
    """Return the commit of a folder's checkout as tags, and whether files differ from it; none where git knows none."""
    found = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):  # git is not installed, or hangs on a slow file system
            return {}
        if done.returncode:
            return {}
        found.append(done.stdout.strip())
    commit, changes = found
    return {"git_commit": commit, "git_changed_files": "yes" if changes else "no"}


def begun(path: Path) -> Record | None:
    """Return a record, None where nothing was written yet or it was replaced meanwhile; ValueError as `read_record`."""
    try:
        return read_record(path) if b"\n" in path.read_bytes() else None
    except FileNotFoundError:
        return None


def records(root: Path) -> list[Path]:
    """Return all records below a results root."""
    return sorted((root / "tracking").rglob("*.jsonl"))


def configuration_path(root: Path, fingerprint: str) -> Path:
    """Return the file that keeps a whole configuration, named by the fingerprint in the records' headers."""
    return root / "tracking" / "configurations" / f"{fingerprint}.json"


def mark_path(record: Path) -> Path:
    """Return the file beside a record that says what of it was pushed."""
    return record.with_name(f"{record.name}.pushed")


def marked(record: Path) -> dict[str, Any]:
    """Return what was pushed of a record: its id, the store, the bytes; empty if nothing was."""
    path = mark_path(record)
    return dict(read_json(path)) if path.exists() else {}


def newest(records: Sequence[Record]) -> list[Record]:
    """Return of each job its newest record: the older ones were set aside."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=lambda record: float(record.header["time"])):
        found[record.header["stage"], *sorted(record.header["wildcards"].items())] = record
    return list(found.values())
