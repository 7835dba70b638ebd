"""Saving a model as an ordinary checkpoint folder, and loading its weights back exactly."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from viarl.files import clear_write_errors, sha256_file, temporary_beside, write_json
from viarl.models.files import HASHES, WEIGHTS
from viarl.progress import say

MOST_LOST = 0.1  # of what adapters learnt, as they are merged, before there is a warning


def restore_weights(model: Any, checkpoint: Path) -> None:
    """Load a checkpoint's weights into a fully tuned model, exactly.

    For `Trainer._load_from_checkpoint`: its own loading expects other key names than `save_pretrained` writes for
    Qwen2.5-VL, and goes on with the old weights after a mere warning.
    """
    restored = type(model).from_pretrained(str(checkpoint), dtype=model.dtype)
    model.load_state_dict(restored.state_dict())


def flush_files(folder: Path) -> dict[str, int]:
    """Flush the files in a folder to disk; return their sizes in bytes by relative path, sorted."""
    sizes = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        sizes[str(file.relative_to(folder))] = file.stat().st_size
    return sizes


def write_hashes(folder: Path) -> None:
    """Write down size and SHA-256 of every file in a checkpoint folder; rules depend on that file, so it comes last."""
    sizes = flush_files(folder)
    sizes.pop(HASHES, None)
    write_json(
        folder / HASHES, {name: {"size": size, "sha256": sha256_file(folder / name)} for name, size in sizes.items()}
    )


def save_model(model: Any, processor: Any, folder: Path, dtype: str | None = None) -> dict[str, float]:
    """Write an ordinary checkpoint folder (adapters merged into the weights, cast to `dtype` if given).

    The files are written aside, flushed and moved in; those that rules declare come last: the weights, then the hashes.
    Returns: with adapters merge/lost, the share of their change that the weights cannot hold; else nothing.
    """
    measured = {}
    if hasattr(model, "merge_and_unload"):
        from viarl.models.adapters import merge  # PEFT is not needed by all who save a model

        kind = str(model.dtype).removeprefix("torch.")
        model, lost = merge(model)
        measured = {"merge/lost": lost}
        said = f"{lost:.2%} of what the adapters learnt is lost in the {kind} weights that they are merged into"
        remedy = "; give adapters a higher learning rate (ten times that of full training), or set dtype to float32"
        say(f"warning: {said}{remedy}" if lost > MOST_LOST else said)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    aside = temporary_beside(folder)
    last = [aside / WEIGHTS, aside / HASHES]
    try:
        with clear_write_errors(folder):
            aside.mkdir()
            model.save_pretrained(aside, max_shard_size="1000GB")
            processor.save_pretrained(aside)
            write_hashes(aside)
            folder.mkdir(exist_ok=True)
            for file in last:
                (folder / file.name).unlink(missing_ok=True)
            for file in [*sorted(path for path in aside.iterdir() if path not in last), *last]:
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return measured
