"""Checkpoints: identity, completeness, pruning, whole model folders."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from viarl.command import _explained
from viarl.identity import identity
from viarl.lock import LockError
from viarl.models.adapters import lora_config
from viarl.models.save import restore_weights, save_model
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.stand_ins.architecture import Size, build_model, build_processor, build_tokenizer
from viarl.training.checkpoints import Checkpoints, ExactResume

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


def test_checkpoints_in_shards_are_no_ones_of_whole_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So launcher.config cannot change amid a training; the message says what to set back."""
    whole = Checkpoints(tmp_path / "work", {"seed": "1"})
    whole.latest()
    whole.mark_complete(checkpoint(tmp_path / "work", 5))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"launcher's shards: None -> FSDP\); set these back to go on"):
        Checkpoints(tmp_path / "work", {"seed": "1"}).latest()


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
    loaded = Vlm.load(tmp_path / "model", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.model.parameters(), strict=True))
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
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


class TooLarge:
    """In the place of transformers' trainer: its checkpoints are larger than the disk."""

    def __init__(self, folder: Path) -> None:
        self.args, self.state, self.kind = SimpleNamespace(output_dir=folder), SimpleNamespace(global_step=2), ""
        self.accelerator = SimpleNamespace(is_main_process=True)

    def is_world_process_zero(self) -> bool:
        return True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / "checkpoint-2"
        folder.mkdir()
        (folder / "first").write_text("x")
        large = torch.zeros(1 << 20)
        if self.kind == "safetensors":
            save_file({"a": large}, folder / "a")
        elif self.kind == "torch":
            torch.save(large, folder / "a")
        else:
            (folder / "a").write_text("x" * (4 << 20))


class SavesTooMuch(ExactResume, TooLarge):
    """As the trainers are made."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("dtype", "size", "least", "most"),
    [("bfloat16", 1e-6, 0.9, 1.5), ("bfloat16", 0.3, 1e-3, 0.1), ("float32", 1e-6, 0, 0.05), ("float32", 0, 0, 0)],
)
def test_what_merged_adapters_lose_is_measured_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, size: float, least: float, most: float
) -> None:
    torch.manual_seed(0)
    processor = build_processor(build_tokenizer(["a text"], 12))
    base = build_model(processor.tokenizer, SMALL).to(getattr(torch, dtype))
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = get_peft_model(base, lora_config(Lora(enabled=True, rank=4, alpha=4)))
    changes = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=size)
            changes[name.removeprefix("base_model.model.")] = layer.get_delta_weight("default").detach()
    lost = save_model(model, processor, tmp_path / "model", dtype)["merge/lost"]
    after = Vlm.load(tmp_path / "model", dtype, device="cpu").model.state_dict()
    kept = {name: after[f"{name}.weight"].float() - before[f"{name}.weight"].float() for name in changes}
    flat, wanted = (torch.cat([one[name].flatten() for name in changes]) for one in (kept, changes))
    assert lost == pytest.approx(float((flat - wanted).norm() / wanted.norm()) if size else 0, rel=1e-3)
    assert least <= lost <= most
    said = capsys.readouterr().err
    assert f"{lost:.2%} of what the adapters learnt is lost in the {dtype} weights" in said
    assert ("warning: " in said and "higher learning rate" in said) == (lost > 0.1)


def test_notes_are_those_of_this_very_training(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"seed": "1"}).keep_note("replies", {"q": "blue star B"})
    assert Checkpoints(tmp_path, {"seed": "1"}).note("replies") == {"q": "blue star B"}
    assert Checkpoints(tmp_path, {"seed": "1"}).note("others") is None
    assert Checkpoints(tmp_path, {"seed": "2"}).note("replies") is None


def test_who_has_lost_the_lock_writes_and_deletes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with Checkpoints(folder, {"seed": "1"}) as checkpoints:
        checkpoints.latest()
        checkpoints.mark_complete(checkpoint(folder, 1))
        late = checkpoint(folder, 2)
        (folder / "owner.json").unlink()
        before = sorted(path for path in tmp_path.rglob("*"))
        for write in (
            checkpoints.latest,
            lambda: checkpoints.mark_complete(late),
            lambda: checkpoints.keep_note("replies", {}),
            lambda: checkpoints.finish(SavesTooMuch(folder), None, tmp_path / "model"),
        ):
            with pytest.raises(LockError, match="lost its lock"):
                write()
        assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "checkpoint-1").mkdir()
        (disk / "checkpoint-1" / "weights").write_text("whole")
        checkpoints = Checkpoints(disk, {"seed": "1"})
        checkpoints.latest()
        checkpoints.mark_complete(disk / "checkpoint-1")
        trainer = SavesTooMuch(disk)
        for kind in ("safetensors", "torch", "text"):
            trainer.kind = kind
            with pytest.raises(OSError, match=f"No space left on device: '{disk}/checkpoint-2'") as caught:
                trainer._save_checkpoint(None, None)
            assert re.fullmatch(r"\S*checkpoint-2: no space is left .*run this again", _explained(caught.value))
            assert not (disk / "checkpoint-2").exists()
        assert checkpoints.latest() == disk / "checkpoint-1"
        processor = build_processor(build_tokenizer(["a text"], 12))
        model = build_model(processor.tokenizer, Size())
        with pytest.raises(OSError, match=f"No space left on device: '{disk}/model'"):
            save_model(model, processor, disk / "model")
        assert {path.name for path in disk.iterdir()} == {"checkpoint-1", "identity.json"}
