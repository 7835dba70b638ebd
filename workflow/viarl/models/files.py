"""The files of a checkpoint: a folder's, whole or refused with the reason, or those of a hub id at a pinned revision.

A model is named by its folder, or by a hub id, with a branch, tag or commit or without: `owner/name@revision`. Weights
are safetensors, in one file or in shards, and no code of a checkpoint is ever run.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from viarl.files import read_json, sha256_file

HASHES = "hashes.json"  # written last into a checkpoint folder by its stage: size and SHA-256 of every other file in it
WEIGHTS = "model.safetensors"
READ = (".jinja", ".json", ".model", ".safetensors", ".txt")  # endings of what is read of a checkpoint folder
LOCAL = "local-dir:"  # before a folder that is named to open_clip
INDEX = "model.safetensors.index.json"  # names the shards of weights that are no single file
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TEMPLATE = "chat_template.jinja"
SHOWN = [{"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "seen?"}]}]
REVISION = re.compile(r"[\w][\w./-]*")


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a folder, or a hub id and its revision (None: the main branch)."""

    name: str
    revision: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return how `from_pretrained` is asked for it."""
        return {"revision": self.revision or "main", "trust_remote_code": False}

    def commit(self) -> str:
        """Return the commit of a hub id that was loaded, "" for a folder."""
        from huggingface_hub import try_to_load_from_cache  # here, as the configuration's check needs none of it

        if Path(self.name).is_dir():
            return ""
        found = try_to_load_from_cache(self.name, "config.json", revision=self.revision or "main")
        return Path(found).parent.name if isinstance(found, str) else ""


def pinned(section: Mapping[str, Any]) -> str:
    """Return the name of a configured model (keys `model` and `revision`)."""
    revision = section.get("revision")
    return f"{section['model']}@{revision}" if revision else str(section["model"])


def own_folder(section: Mapping[str, Any]) -> Path | None:
    """Return the folder of a configured model; None for a hub id, and for the stand-in, which is made."""
    folder = Path(str(section["model"]).removeprefix(LOCAL))
    return folder if section["model"] != "stand-in" and folder.is_dir() else None


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint folder that are read, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix in READ and path.is_file())


def find(model: str | Path) -> Source:
    """Return where a model named `model` comes from.

    Errors: FileNotFoundError for what is neither folder nor hub id, ValueError for a folder of which a file is not as
    it was written (some are plain text, and would be read without a word) or a shard is missing.
    """
    folder = Path(model)
    if (folder / "config.json").exists():
        for name, written in _hashes(folder).items():
            found = (folder / name).stat().st_size if (folder / name).exists() else 0
            if found != written["size"]:
                fault = f"is damaged ({name} has {found} bytes, not {written['size']})"
                raise ValueError(f"the checkpoint folder {folder} {fault}; {_again(folder)}")
        if missing := missing_shards(folder):
            fault = f"lacks {len(missing)} of its shards ({', '.join(missing[:3])})"
            raise ValueError(f"the checkpoint folder {folder} {fault}; {_again(folder)}")
        return Source(str(folder))
    name, _, revision = str(model).partition("@")
    if folder.is_absolute() or folder.exists() or not HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"{model} holds no checkpoint (no config.json) and is no hub id (owner/name); "
            "name another model, or delete the folder so that its rule makes it again"
        )
    return Source(name, revision or None)


def missing_shards(folder: Path) -> list[str]:
    """Return the shards that a folder's index names and that are not there; all of them in an index that is damaged."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return []
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"those of {INDEX}, which is damaged"]
    return [name for name in shards if not (folder / str(name)).is_file()]


def has_template(folder: Path) -> bool:
    """Tell whether a folder has a chat template in one of the places where versions and tools have kept it."""
    if any((folder / path).is_file() for path in (TEMPLATE, "additional_chat_templates/default.jinja")):
        return True
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        try:
            kept = json.loads((folder / name).read_text(encoding="utf-8"))["chat_template"]
            if isinstance(kept, list):  # several, each with its name
                kept = "default" in [one["name"] for one in kept]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if kept:
            return True
    return False


def settle_template(processor: Any, model: str) -> None:
    """Give a processor without a chat template its tokenizer's; ValueError where that shows no video beside a text."""
    kept = (owner.chat_template for owner in (processor, processor.tokenizer))
    default = (one.get("default") if isinstance(one, dict) else one for one in kept)
    processor.chat_template = next(filter(None, default), None)
    try:
        text = processor.apply_chat_template(SHOWN, tokenize=False)
    except Exception as error:  # a template is a program
        reason = str(error).splitlines()[0]
    else:
        parts = (processor.video_token, processor.image_token, "seen?")
        reason = "" if all(text.count(part) == 1 for part in parts) else "it leaves out a video, an image or a text"
    if reason:
        remedy = f"copy {TEMPLATE} of the model that it was made from into it"
        raise ValueError(f"{model} has no usable chat template ({TEMPLATE}, tokenizer_config.json): {reason}; {remedy}")


@contextmanager
def damage_named(model: str | Path) -> Iterator[None]:
    """Raise what libraries say about a damaged file of a checkpoint folder as a ValueError with folder and remedy."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        folder = Path(model)
        if not folder.is_dir():
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the checkpoint folder {model} is damaged ({reason}); {_again(folder)}") from error


def _again(folder: Path) -> str:
    """Return the remedy: a folder of ours is made anew without its declared file, another one is fetched again."""
    if (folder / HASHES).exists() or not (folder / INDEX).exists():
        return f"delete {folder / WEIGHTS} so that its rule makes the folder again, or name another model"
    return "download or copy it again, or name another model"


def weight_hashes(model: Path) -> list[str]:
    """Return the SHA-256 of a checkpoint folder's weights, as its stage wrote them down; none for a hub id."""
    if not model.is_dir():
        return []
    written = _hashes(model)
    files = sorted(model.glob("*.safetensors"))
    return [written[file.name]["sha256"] if file.name in written else sha256_file(file) for file in files]


def _hashes(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / HASHES)) if (folder / HASHES).exists() else {}
