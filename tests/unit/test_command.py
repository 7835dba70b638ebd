"""The stages' command line: paths are options, settings are JSON, runtime values do not need to be in it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from viarl.stages.command import RUNTIME_VARIABLE, parse


@dataclass(frozen=True)
class Training:
    steps: int
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
    assert settings == Settings(Path("a"), (Path("b"), Path("c")), Training(3, 1.0), "x", "cuda")


def test_runtime_reaches_into_nested_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps({"training": {"rate": 2, "steps": 9, "other": 1}}))
    settings = parse(Settings, [*ARGUMENTS, "--settings", '{"training": {"steps": 3}}'])
    assert settings.training == Training(3, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"steps": "3"}}, "'settings.training.steps' must be of type int"),
        ({"training": {"steps": True}}, "must be of type int"),
        ({"training": {}}, r"\['steps'\] are missing"),
        ({"training": {"steps": 1, "stpes": 2}}, "unknown settings"),
        ({"training": 4}, "must be a mapping"),
        ({}, r"\['training'\] are missing"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Settings, [*ARGUMENTS, "--settings", json.dumps(settings)])
