"""Checkpoints: identity, completeness, pruning, whole model folders."""

import shutil
from pathlib import Path

import pytest
import torch

from viarl.checkpoints import Checkpoints, identity, restore_weights, save_model
from viarl.stand_ins.architecture import Size, build_model, build_processor, build_tokenizer
from viarl.vlm import load_model, load_processor

SMALL = Size(hidden=32, layers=1, heads=2, key_value_heads=1, mlp=32, vision_hidden=16)


def checkpoint(folder: Path, step: int, content: str = "weights") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_text(content)
    return path


def test_the_newest_complete_checkpoint_is_resumed_and_broken_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {"seed": "1"}, keep=2)
    assert checkpoints.latest() is None
    for step in (9, 10, 11):
        checkpoints.mark_complete(checkpoint(tmp_path, step))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-11"]
    checkpoint(tmp_path, 12)  # killed before its marker
    (tmp_path / "checkpoint-11" / "weights").write_text("cut")  # damaged after it
    assert checkpoints.latest() == tmp_path / "checkpoint-10"
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]
    with checkpoints:
        checkpoints.remove()
    assert not tmp_path.exists()


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    old = Checkpoints(tmp_path / "work", {"settings.rate": "0.1", "seed": "1"})
    old.latest()
    old.mark_complete(checkpoint(tmp_path / "work", 5))
    with pytest.raises(ValueError, match=r"settings\.rate: 0\.1 -> 0\.2\).*delete that folder"):
        Checkpoints(tmp_path / "work", {"settings.rate": "0.2", "seed": "1"}).latest()
    assert old.latest() is not None
    (tmp_path / "work" / "identity.json").unlink()
    with pytest.raises(ValueError, match="another training"):
        old.latest()


def test_a_new_configuration_may_start_where_nothing_was_saved(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"seed": "1"}).latest()
    assert Checkpoints(tmp_path, {"seed": "2"}).latest() is None


def test_identity_follows_the_content_of_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("x")
    second.write_text("y")
    before = identity({"tuning": {"rate": 0.1}}, {"items": first, "frames": [first, second]})
    assert before["tuning.rate"] == "0.1"
    shutil.copy(first, tmp_path / "copy")
    assert identity({"tuning": {"rate": 0.1}}, {"items": tmp_path / "copy", "frames": [first, second]}) == before
    second.write_text("z")
    after = identity({"tuning": {"rate": 0.1}}, {"items": first, "frames": [first, second]})
    assert [key for key in before if before[key] != after[key]] == ["content of frames"]


def test_a_saved_model_is_an_ordinary_whole_checkpoint(tmp_path: Path) -> None:
    processor = build_processor(build_tokenizer(["a text"], 12))
    model = build_model(processor.tokenizer, SMALL)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("of an earlier run")
    save_model(model, processor, tmp_path / "model")
    loaded = load_model(tmp_path / "model", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert load_processor(tmp_path / "model").tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    other = build_model(processor.tokenizer, SMALL)
    restore_weights(other, tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_failed_save_leaves_no_half_model(tmp_path: Path) -> None:
    processor = build_processor(build_tokenizer(["a text"], 12))
    model = build_model(processor.tokenizer, SMALL)

    class FullDisk:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_model(model, FullDisk(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
