"""The default configuration and the presets; what is refused stands in test_bad_config.py."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from viarl.config.check import check
from viarl.config.files import typed
from viarl.config.runs import check_runs, overlaid
from viarl.faults import nearest

REPOSITORY = Path(__file__).resolve().parents[3]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "presets" / name).read_text())


@pytest.mark.parametrize("name", [path.name for path in sorted((REPOSITORY / "presets").glob("*.yaml"))])
def test_default_and_presets_are_valid(name: str) -> None:
    """Each on top of the default; a variant of the paper's scale on top of that."""
    check_runs(DEFAULT)
    below = overlaid(DEFAULT, preset("paper.yaml")) if name.startswith("paper_") else DEFAULT
    check_runs(overlaid(below, preset(name)))


def test_paper_preset_is_the_papers() -> None:
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


def test_the_check_of_clips_weights_imports_nothing_heavy() -> None:
    script = (
        "import sys; from viarl.models.clip_weights import clip_problem\n"
        "assert 'QuickGELU' in clip_problem('ViT-L-14', 'openai')\n"
        "assert not {'torch', 'open_clip', 'open_clip.pretrained', 'huggingface_hub'} & set(sys.modules)\n"
        "import open_clip; assert open_clip.get_pretrained_cfg('ViT-L-14', 'openai')\n"  # whole, none of our shell
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nearest() -> None:
    assert nearest("selctor", ["selector", "answerer"]) == "did you mean 'selector'?"
    assert nearest("xyz", ["b", "a"]) == "known are a, b"


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        ({"frames_as": "video"}, "answerer.frames_as = 'video': servers take no list of frames"),
        ({"endpoint": {"url": "127.0.0.1:8000"}}, "answerer.endpoint.url = '127.0.0.1:8000': not of the form"),
        ({"endpoint": {"url": "http://me:secret@host/v1"}}, "OPENAI_API_KEY"),
        ({"endpoint": {"model": "{modell}"}}, "{modell} is not known; use {model} and {weights}"),
        ({"endpoint": {"model": "qwen"}}, "answerer.tuning.steps = 80 and cycles = 2 tune the answerer; use {model}"),
    ],
)
def test_a_served_answerer_that_does_not_fit(overlay: dict[str, Any], says: str) -> None:
    """Each is refused by the names of its keys; the same is let through where nothing is served."""
    served = overlaid(DEFAULT, {"answerer": {"backend": "endpoint", "frames_as": "images"}})
    check(served)
    check(overlaid(served, {"answerer": {"frames_as": "timed_images"}}))
    with pytest.raises(ValueError, match=r"^config: ") as caught:
        check(overlaid(served, {"answerer": overlay}))
    assert says in str(caught.value)
    check(overlaid(DEFAULT, {"answerer": overlay}))


def test_a_model_with_a_fixed_name_is_never_tuned() -> None:
    """Cycle 0 alone, or no step of tuning."""
    named = {"backend": "endpoint", "frames_as": "images", "endpoint": {"model": "qwen"}}
    check(overlaid(DEFAULT, {"answerer": named, "cycles": 0}))
    check(overlaid(DEFAULT, {"answerer": named | {"tuning": {"steps": 0}}, "cycles": "auto"}))
