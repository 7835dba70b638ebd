"""The default configuration and the presets; what is refused stands in test_bad_input.py."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from viarl.config import check, nearest, typed
from viarl.runs import check_runs, overlaid

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def preset(name: str) -> dict[str, Any]:
    """A preset's overlay."""
    return yaml.safe_load((REPOSITORY / "presets" / name).read_text())


@pytest.mark.parametrize("name", [path.name for path in sorted((REPOSITORY / "presets").glob("*.yaml"))])
def test_default_and_presets_are_valid(name: str) -> None:
    """Each on top of the default; a variant of the paper's scale on top of that."""
    check_runs(DEFAULT)
    below = overlaid(DEFAULT, preset("paper.yaml")) if name.startswith("paper_") else DEFAULT
    check_runs(overlaid(below, preset(name)))


def test_paper_preset_is_the_papers() -> None:
    """The figures of the paper and of the authors' scripts."""
    config = overlaid(DEFAULT, preset("paper.yaml"))
    frames, selector, answerer = config["frames"], config["selector"], config["answerer"]
    assert (frames["candidates"], frames["selected"], frames["number_pixels"]) == (128, 8, 20)
    assert (frames["selector_pixels"], frames["answerer_pixels"]) == (112, 896)
    assert (selector["max_new_tokens"], selector["length_range"]) == (512, [80, 512])
    training = selector["training"]
    assert (training["algorithm"], training["group_size"], training["learning_rate"]) == ("reinforce++", 8, 4e-7)
    assert (training["beta"], training["gamma"], training["clip_epsilon"], training["temperature"]) == (1e-3, 1, 0.2, 1)
    assert (answerer["tuning"]["learning_rate"], answerer["tuning"]["train_vision"]) == (1e-6, True)
    assert answerer["tuning"]["target"] == "letter"
    assert config["cycles"] == 2 and config["evaluation"]["protocol"] == "viarl"
    assert config["reward"] == {"format": 1, "index": 1, "answer": 2, "length": 0.2}


def test_local_folder_and_questions(tmp_path: Path) -> None:
    """A local data set that is there is accepted."""
    questions = tmp_path / "questions.csv"
    questions.write_text("video,question\n")
    local = {"folder": str(tmp_path), "questions": str(questions)}
    check(overlaid(DEFAULT, {"dataset": "local", "local": local}))


def test_values_from_the_command_line() -> None:
    """Snakemake hands over the values inside a mapping as text."""
    given = {"reward": {"answer": "4"}, "selector": {"length_range": ["4", "9"], "lora": {"enabled": "true"}}}
    config = overlaid(DEFAULT, given)
    typed(config, given)
    check(config)
    assert config["reward"]["answer"] == 4
    assert config["selector"]["length_range"] == [4, 9]
    assert config["selector"]["lora"]["enabled"] is True


def test_nearest() -> None:
    """The nearest word, or all of them."""
    assert nearest("selctor", ["selector", "answerer"]) == "did you mean 'selector'?"
    assert nearest("xyz", ["b", "a"]) == "known are a, b"
