"""The command line shared by all stages: paths as options, everything else as one JSON of named settings.

`python -m viarl.stages.x --settings '{"steps": 60}' --items a.jsonl --output b.json` builds the stage's frozen
dataclass. Fields typed `Path` (or None) or `tuple[Path, ...]` are options; the rest come from `--settings`, which is
part of a job's identity, or from the environment variable VIARL_RUNTIME (JSON too), which is not: device, batch sizes,
tracking. That one may hold more than a stage has fields for.
"""

import argparse
import dataclasses
import errno
import json
import os
import signal
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from viarl.faults import nearest
from viarl.files import NO_SPACE
from viarl.progress import leave_broken_pipes, say
from viarl.sections import build

T = TypeVar("T")
RUNTIME_VARIABLE = "VIARL_RUNTIME"


def _fill(kind: Any, given: dict[str, Any], runtime: dict[str, Any]) -> dict[str, Any]:
    """Add to the given values those runtime values that the dataclass has and that are not given, in depth."""
    hints = typing.get_type_hints(kind)
    filled = dict(given)
    for name, entry in runtime.items():
        inner = hints.get(name)
        if dataclasses.is_dataclass(inner) and isinstance(entry, dict) and isinstance(given.get(name, {}), dict):
            filled[name] = _fill(inner, given.get(name, {}), entry)
        elif inner is not None:
            filled.setdefault(name, entry)
    return filled


def of_run(runtime: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime values for the run that the job belongs to: an ablation may have its own."""
    parts = values.get("tracking", {}).get("run", "").split("/")
    own = runtime.get("ablations", {}).get(parts[1], {}) if parts[0] == "ablations" else {}
    return {**runtime, **own}


def parse(settings_class: type[T], arguments: list[str]) -> T:
    """Build `settings_class` from a command line; ValueError names what is missing, unknown or of the wrong type."""
    hints = typing.get_type_hints(settings_class)
    parser = argparse.ArgumentParser(description=settings_class.__doc__, allow_abbrev=False)
    parser.add_argument("--settings", default="{}", help="JSON object of the named settings")
    path_names = [name for name, kind in hints.items() if kind in (Path, Path | None, tuple[Path, ...])]
    for name in path_names:
        many = hints[name] == tuple[Path, ...]
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=Path, nargs="*" if many else None)
    options = vars(parser.parse_args(arguments))
    try:
        values: dict[str, Any] = json.loads(options.pop("settings"))
        runtime: dict[str, Any] = json.loads(os.environ.get(RUNTIME_VARIABLE, "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"--settings and ${RUNTIME_VARIABLE} must be JSON objects ({error})") from error
    values = _fill(settings_class, values, of_run(runtime, values))
    values |= {name: path for name, path in options.items() if path is not None}
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"settings.{unknown[0]}: unknown key; {nearest(unknown[0], hints)}")
    return build(settings_class, values, "settings")


def run(settings_class: type[T], main: Callable[[T], None]) -> None:
    """Parse the command line and run a stage; expected errors end as one line on stderr and exit status 1.

    SIGTERM ends a stage as an exception would, with status 143: files that are half written and locks are removed.
    """
    signal.signal(signal.SIGTERM, _terminated)
    try:
        main(parse(settings_class, sys.argv[1:]))
    except (ValueError, OSError) as error:
        if os.environ.get("VIARL_DEBUG"):
            raise
        say(f"error: {_explained(error)}")
        sys.exit(1)


def _terminated(number: int, _: types.FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # clusters send it several times; what remains to do is short
    leave_broken_pipes()
    say("SIGTERM: stopped; run the same command again to go on")
    raise SystemExit(128 + number)


def _explained(error: Exception) -> str:
    """Return an error as one line that names the file and the remedy, if the operating system's own does not."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno is None or error.strerror is None:
        return " ".join(str(error).split())
    where = error.filename if error.filename is not None else "a file"
    if error.errno in NO_SPACE:
        reason, remedy = ("no space is left for it, or the quota is used up", "free some, then run this again")
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason, remedy = "permission denied", "give this user the right to read and write there, or change the path"
    elif error.errno == errno.ENOENT:
        reason, remedy = "does not exist", "check the path, or make the file again with its rule"
    else:
        reason, remedy = error.strerror, "check the path and its file system"
    return f"{where}: {reason}; {remedy}"
