"""What is written about the configuration is what its description says."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from viarl.config.document import CHECKOUT, commented, documents, entries
from viarl.config.sections import Configuration
from viarl.sections import counted, uncounted

CONFIG = yaml.safe_load((CHECKOUT / "config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_nothing_has_drifted(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == documents()[path]


def test_comments_follow_the_description_and_values_stay() -> None:
    text = "frames:\n  selected: 6 # of old\n  shards: {training: 1,\n    benchmark: 2}\nreward:\n  index: 0.5\n"
    changed = commented(text)
    assert yaml.safe_load(changed) == yaml.safe_load(text)
    assert "  selected: 6 # K, frames handed to the answerer [paper: 8]\n" in changed
    assert "  shards: {training: 1,\n" in changed and "  index: 0.5 # Exactly K different numbers in range\n" in changed


def test_every_key_of_the_default_is_described_once() -> None:
    names = [entry.name for entry in entries() if not entry.section]
    assert len(names) == len(set(names)) and all(entry.meaning for entry in entries() if "/" not in entry.name)


def test_the_schema_for_editors_agrees_with_the_check() -> None:
    schema = Draft202012Validator(json.loads((CHECKOUT / "workflow/schemas/config.schema.json").read_text()))
    overlays = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CHECKOUT / "presets").glob("*.yaml")]
    assert overlays and not [error for one in (CONFIG, *overlays) for error in schema.iter_errors(one)]
    for wrong in ({"cycels": 1}, {"seed": "x"}, {"benchmarks": ["nedle"]}, {"reward": {"style": 1.0}}):
        assert list(schema.iter_errors(CONFIG | wrong)), wrong


def test_what_counts_and_what_does_not_are_the_whole() -> None:
    for entry in (entry for entry in entries() if not entry.section):
        section: dict = (counted if entry.counts else uncounted)(Configuration, CONFIG)
        for part in entry.name.split("."):
            section = section[part]
