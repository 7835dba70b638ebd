"""The configuration is refused before any job, in words that name key, value and remedy."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from viarl.config import check, nearest, typed
from viarl.runs import check_runs

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Lay one configuration over another, key by key, as Snakemake does."""
    result = copy.deepcopy(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def preset(name: str) -> dict[str, Any]:
    """A preset's overlay."""
    return yaml.safe_load((REPOSITORY / "presets" / name).read_text())


@pytest.mark.parametrize("name", [path.name for path in sorted((REPOSITORY / "presets").glob("*.yaml"))])
def test_default_and_presets_are_valid(name: str) -> None:
    """Each on top of the default."""
    check_runs(DEFAULT)
    check_runs(merged(DEFAULT, preset(name)))


def test_paper_preset_is_the_papers() -> None:
    """The figures of the paper and of the authors' scripts."""
    config = merged(DEFAULT, preset("paper.yaml"))
    frames, selector, answerer = config["frames"], config["selector"], config["answerer"]
    assert (frames["candidates"], frames["selected"], frames["number_pixels"]) == (128, 8, 20)
    assert (frames["selector_pixels"], frames["answerer_pixels"]) == (112, 896)
    assert (selector["max_new_tokens"], selector["length_range"]) == (512, [80, 512])
    training = selector["training"]
    assert (training["algorithm"], training["group_size"], training["learning_rate"]) == ("reinforce++", 8, 4e-7)
    assert (training["beta"], training["gamma"], training["clip_epsilon"], training["temperature"]) == (1e-3, 1, 0.2, 1)
    assert (answerer["tuning"]["learning_rate"], answerer["tuning"]["train_vision"]) == (1e-6, True)
    assert answerer["tuning"]["target"] == "letter"
    assert config["cycles"] == 2
    assert config["reward"] == {"format": 1, "index": 1, "answer": 2, "length": 0.2}


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"cycle": 3}, "config: cycle = 3: unknown key; did you mean 'cycles'?"),
        (
            {"selector": {"training": {"learning_rat": 1.0}}},
            "config: selector.training.learning_rat = 1.0: unknown key; did you mean 'learning_rate'?",
        ),
        ({"reward": {"style": 1}}, "config: reward.style = 1: unknown key; known are answer, format, index, length"),
        ({"cycles": "two"}, "config: cycles = 'two': wrong type; write a whole number"),
        ({"frames": {"selected": 2.5}}, "config: frames.selected = 2.5: wrong type"),
        ({"filter": {"drop_never_right": 1}}, "config: filter.drop_never_right = 1: wrong type; write true or false"),
        ({"selector": {"training": {"learning_rate": "4e-7"}}}, "it has a point, as in 4.0e-7"),
        ({"reward": 3}, "config: reward = 3: wrong type; write a mapping of keys"),
        ({"reward": {"index": -1}}, "config: reward.index = -1: out of range; it must be at least 0"),
        ({"frames": {"candidates": 31}}, "config: frames.candidates = 31: out of range; it must be a multiple of 2"),
        ({"dataset": "needles"}, "config: dataset = 'needles': unknown value; did you mean 'needle'?"),
        ({"benchmarks": ["needle_train"]}, "config: benchmarks.0 = 'needle_train': unknown value"),
        ({"benchmarks": ["needle", "needle"]}, "an entry stands twice"),
        ({"evaluation": {"selectors": ["uniform", "learned", "bold"]}}, "did you mean 'bolt'?"),
        ({"selector": {"training": {"algorithm": "reinforce"}}}, "did you mean 'reinforce++'?"),
    ],
)
def test_schema(overlay: dict[str, Any], message: str) -> None:
    """Unknown keys, wrong types, values out of range."""
    with pytest.raises(ValueError) as caught:
        check(merged(DEFAULT, overlay))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"frames": {"selected": 40}}, "config: frames.selected = 40: more than frames.candidates = 32"),
        ({"frames": {"selector_pixels": 64}}, "config: frames.selector_pixels = 64: more than frames.answerer_pixels"),
        ({"frames": {"number_pixels": 29}}, "config: frames.number_pixels = 29: more than frames.selector_pixels = 28"),
        ({"selector": {"training": {"group_size": 1}}}, "set it to 2 or more (paper: 8)"),
        ({"selector": {"length_range": [32, 8]}}, "config: selector.length_range = [32, 8]: empty"),
        ({"selector": {"length_range": [80, 512]}}, "no completion is that long, for selector.max_new_tokens = 32"),
        ({"selector": {"training": {"warmup_steps": 1000}}}, "more than selector.training.steps"),
        ({"answerer": {"tuning": {"warmup_steps": 1000}}}, "more than answerer.tuning.steps"),
        ({"reward": dict.fromkeys(DEFAULT["reward"], 0)}, "nothing can be learned"),
        ({"selector": {"model": "standin"}}, "did you mean 'stand-in'?"),
        ({"answerer": {"model": "./nowhere"}}, "config.json is missing"),
        ({"answerer": {"prompt": "paper"}}, "the stand-in knows the prompt 'short' alone"),
        ({"clip": {"pretrained": "openai"}}, "set it to null"),
        ({"clip": {"model": "ViT-L-14"}}, "would have random weights; name the weights"),
        ({"evaluation": {"selectors": ["learned"]}}, "'uniform' is missing"),
        ({"dataset": "local"}, "config: local.folder = None: dataset names 'local'; give the folder of your videos"),
        ({"benchmarks": ["local"], "local": {"folder": "nowhere"}}, "config: local.folder = 'nowhere': not found"),
        ({"pathvars": {"results": "~/results"}}, "~ is not expanded"),
    ],
)
def test_combinations(overlay: dict[str, Any], message: str) -> None:
    """Values that are fine alone and impossible together."""
    with pytest.raises(ValueError) as caught:
        check(merged(DEFAULT, overlay))
    assert message in str(caught.value)


def test_all_at_once() -> None:
    """Everything that is wrong is said in one go, a line each."""
    with pytest.raises(ValueError) as caught:
        check(merged(DEFAULT, {"sed": 1, "cycles": -1, "frames": {"readr": "pyav"}}))
    assert len(str(caught.value).splitlines()) == 3


def test_missing_key() -> None:
    """A section that was emptied."""
    config = copy.deepcopy(DEFAULT)
    del config["reward"]["answer"]
    with pytest.raises(ValueError, match=r"reward\.answer is missing"):
        check(config)


def test_local_folder_and_questions(tmp_path: Path) -> None:
    """A local data set that is there is accepted; a validation set without videos is not."""
    questions = tmp_path / "questions.csv"
    questions.write_text("video,question\n")
    local = {"folder": str(tmp_path), "questions": str(questions)}
    check(merged(DEFAULT, {"dataset": "local", "local": local}))
    empty = {"dataset": "local", "benchmarks": ["local_validation"], "local": local | {"validation_share": 0}}
    with pytest.raises(ValueError, match="would be empty"):
        check(merged(DEFAULT, empty))


def test_values_from_the_command_line() -> None:
    """Snakemake hands over the values inside a mapping as text."""
    given = {"reward": {"answer": "4"}, "selector": {"length_range": ["4", "9"], "lora": {"enabled": "true"}}}
    config = merged(DEFAULT, given)
    typed(config, given)
    check(config)
    assert config["reward"]["answer"] == 4
    assert config["selector"]["length_range"] == [4, 9]
    assert config["selector"]["lora"]["enabled"] is True


def test_nearest() -> None:
    """The nearest word, or all of them."""
    assert nearest("selctor", ["selector", "answerer"]) == "did you mean 'selector'?"
    assert nearest("xyz", ["b", "a"]) == "known are a, b"
