"""The stages' command line: paths are options, settings are JSON, runtime values do not need to be in it."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from processes import in_child
from viarl.command import RUNTIME_VARIABLE, parse, run
from viarl.files import atomic_path
from viarl.sections import Count, section


@section
class Training:
    steps: Count
    rate: float = 0.1


@dataclass(frozen=True)
class Settings:
    items: Path
    frames: tuple[Path, ...]
    training: Training
    name: str | None = None
    device: str = "cpu"


ARGUMENTS = ["--items", "a", "--frames", "b", "c"]


def test_settings_paths_and_runtime_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps({"device": "cuda", "unrelated": 1}))
    settings = parse(Settings, [*ARGUMENTS, "--settings", '{"training": {"steps": 3, "rate": 1}, "name": "x"}'])
    assert settings == Settings(Path("a"), (Path("b"), Path("c")), Training(steps=3, rate=1.0), "x", "cuda")


def test_runtime_reaches_into_nested_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps({"training": {"rate": 2, "steps": 9, "other": 1}}))
    settings = parse(Settings, [*ARGUMENTS, "--settings", '{"training": {"steps": 3}}'])
    assert settings.training == Training(steps=3, rate=2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"steps": "3"}}, "settings.training.steps = '3': wrong type; write a whole number"),
        ({"training": {"steps": True}}, "settings.training.steps = True: wrong type; write a whole number"),
        ({"training": {"steps": 0}}, "settings.training.steps = 0: out of range; it must be at least 1"),
        ({"training": {}}, "settings.training.steps is missing"),
        ({"training": {"steps": 1, "stpes": 2}}, "settings.training.stpes = 2: unknown key; did you mean 'steps'"),
        ({"training": 4}, "settings.training = 4: wrong type; write a mapping of keys"),
        ({"trainign": 4}, "settings.trainign: unknown key; did you mean 'training'"),
        ({}, "settings.training is missing"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Settings, [*ARGUMENTS, "--settings", json.dumps(settings)])


@dataclass(frozen=True)
class Nothing:
    device: str = "cpu"


def stage(main: Callable[[Nothing], None]) -> int:
    """Run a stage in a process of its own; return its exit status."""

    def child() -> None:
        sys.argv = ["stage"]
        run(Nothing, main)

    return in_child(child)


def raising(error: Exception) -> Callable[[Nothing], None]:
    def main(_: Nothing) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("the key x is wrong"), "error: the key x is wrong"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "error: a/b: no space is left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), "error: a/b: no space is left for it, or the quota"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "error: a/b: permission denied; give this user"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), "error: a/b: does not exist; check"),
        (FileNotFoundError("a/b holds no checkpoint; name another"), "error: a/b holds no checkpoint; name another"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a/b"), "error: a/b: Is a directory; check the path"),
    ],
)
def test_an_expected_error_is_one_line(error: Exception, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert stage(raising(error)) == 1
    text = capfd.readouterr().err
    assert text.startswith(line) and text.count("\n") == 1


def test_a_terminated_stage_leaves_no_litter(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Nothing) -> None:
        with atomic_path(tmp_path / "output") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    began = time.monotonic()
    assert stage(main) == 143
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == "SIGTERM: stopped; run the same command again to go on\n"
