"""The learned selector: a language model looks at all candidate frames, numbered, and writes which to keep.

The vision tower is frozen, so a video's features are constants: they are computed once, kept in memory as long as
they fit, and optionally on disk, where every cycle that shares the tower finds them again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cachetools import LRUCache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from viarl.files import atomic_path, sha256_json
from viarl.items import Item
from viarl.models.encode import Prompt
from viarl.models.reply_cache import ReplyCache
from viarl.models.settings import ModelSettings
from viarl.models.shards import own_tower
from viarl.models.vlm import PATCHES_A_PASS, Vlm
from viarl.progress import Progress
from viarl.selection.prompt import Selection, parse_selection, selector_messages
from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class Picked:
    """What the selector wrote for one item: its text, the selection parsed from it, its length in tokens."""

    item_id: str
    text: str
    selection: Selection
    tokens: int


class _Video(NamedTuple):
    features: torch.Tensor  # (video_tokens, D)
    grid: torch.Tensor  # (3,)


class SelectorPrompts:
    """Selector prompts, asking for K `selected` frames, with vision features that are computed once a video.

    The vision tower must not change during the life of this object. Within `keep_bytes` the longest unused features
    leave first; what exceeds them by itself is not kept. `features_folder` keeps features on disk as well, one file a
    video in a folder named after the tower's weights.
    """

    def __init__(
        self,
        vlm: Vlm,
        cache: FrameCache,
        template: str,
        selected: int,
        features_folder: Path | None = None,
        keep_bytes: int = 2 << 30,
    ) -> None:
        self.vlm, self.cache, self.template, self.selected = vlm, cache, template, selected
        self._tower = own_tower(vlm)
        self._folder = None if features_folder is None else features_folder / tower_fingerprint(vlm.model)[:16]
        self._held: LRUCache[str, _Video] = LRUCache(keep_bytes, lambda video: video.features.nbytes)

    def count(self, item: Item) -> int:
        """Return the number of candidate frames the item's video really has."""
        return self.cache.count(item.video)

    def prompts(self, items: Sequence[Item]) -> list[Prompt]:
        """Return one prompt an item, with features; ValueError names an item whose video has no frames."""
        for item in items:
            if item.video not in self.cache:
                reason = self.cache.bad.get(item.video, "it is not in the frame cache")
                raise ValueError(f"item {item.id!r}: no frames of video {item.video!r}: {reason}")
        videos = self._videos(list(dict.fromkeys(item.video for item in items)))
        seen = (videos[item.video] for item in items)
        return [self.prompt(item, grid=own.grid, features=own.features) for item, own in zip(items, seen, strict=True)]

    def prompt(self, item: Item, **vision: torch.Tensor) -> Prompt:
        """Return an item's prompt with its grid, and features or pixels."""
        chat = selector_messages(self.template, item.question, self.count(item), self.selected)
        return self.vlm.prompt(chat, times=self.cache.times(item.video).tolist(), **vision)

    def _videos(self, names: list[str]) -> dict[str, _Video]:
        found: dict[str, _Video] = {}
        missing: dict[str, tuple[torch.Tensor, torch.Tensor, str]] = {}  # pixels, grid, key of the frames
        waiting = 0
        for name in names:
            if held := self._held.get(name):
                found[name] = held
                continue
            frames = self.cache.selector_frames(name)
            key = hashlib.sha256(str(frames.shape).encode() + frames.tobytes()).hexdigest() if self._folder else ""
            if stored := self._load(name, key):
                found[name] = self._keep(name, stored)
                continue
            pixels, grid = self.vlm.pixels(frames)
            if missing and waiting + len(pixels) > PATCHES_A_PASS:
                found |= self._compute(missing)
                missing, waiting = {}, 0
            missing[name] = (pixels, grid, key)
            waiting += len(pixels)
        return found | self._compute(missing)

    def _compute(self, missing: dict[str, tuple[torch.Tensor, torch.Tensor, str]]) -> dict[str, _Video]:
        if not missing:
            return {}
        features = self._tower.features([(pixels, grid) for pixels, grid, _ in missing.values()])
        computed: dict[str, _Video] = {}
        for (name, (_, grid, key)), own in zip(missing.items(), features, strict=True):
            # cloned: a slice would keep the features of the whole pass alive
            computed[name] = self._keep(name, _Video(own.clone(), grid))
            self._store(name, computed[name], key)
        return computed

    def _keep(self, name: str, video: _Video) -> _Video:
        if video.features.nbytes <= self._held.maxsize:
            self._held[name] = video
        return video

    def _load(self, name: str, key: str) -> _Video | None:
        if self._folder is None:
            return None
        try:
            with safe_open(self._folder / f"{name}.safetensors", framework="pt") as file:
                if (file.metadata() or {}).get("frames") != key:  # other frames or numbers: computed anew
                    return None
                return _Video(file.get_tensor("features"), file.get_tensor("grid"))
        except (FileNotFoundError, SafetensorError):  # absent, or damaged and so overwritten
            return None

    def _store(self, name: str, video: _Video, key: str) -> None:
        if self._folder is not None:
            with atomic_path(self._folder / f"{name}.safetensors") as temporary:
                tensors = {"features": video.features.contiguous(), "grid": video.grid}
                save_file(tensors, temporary, metadata={"frames": key})


def load_selector(
    source: Path,
    settings: ModelSettings,
    cache: FrameCache,
    selected: int,
    device: str = "auto",
    features_folder: Path | None = None,
) -> SelectorPrompts:
    """Load a selector (see `Vlm.load`) with its prompts."""
    vlm = Vlm.load(source, settings.dtype, settings.attention, device)
    return SelectorPrompts(vlm, cache, settings.prompt, selected, features_folder)


def tower_fingerprint(model: Any) -> str:
    """Return a hash of the vision tower's weights, names and type: equal hashes give equal features."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.model.visual.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def item_draws(seed: int | str, item_id: str, count: int) -> torch.Tensor:
    """Return (count,) float64 numbers in [0, 1) that depend on the seed and the item alone.

    A longer list begins with the shorter one, so that `max_new_tokens` changes no draw either.
    """
    digest = hashlib.sha256(f"{seed} {item_id}".encode()).digest()
    return torch.from_numpy(np.random.default_rng(int.from_bytes(digest[:16], "big")).random(count))


def select(
    source: SelectorPrompts,
    items: Sequence[Item],
    *,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
    kept: ReplyCache | None = None,
) -> list[Picked]:
    """Let the selector pick frames for each item; `temperature` 0 is greedy, otherwise one sample an item.

    Batches that are in `kept` are not completed again. Errors: ValueError for an item without frames.
    """
    picked = []
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        # whole batches, for the last bits of sums, and so now and then a text, depend on what stands beside them
        key = sha256_json([temperature, [item.id for item in batch]])
        known = None if kept is None else kept.get(key)
        if known is None:
            draws = None
            if temperature > 0:
                draws = torch.stack([item_draws(seed, item.id, max_new_tokens) for item in batch])
            completions = source.vlm.complete(
                source.prompts(batch), max_new_tokens=max_new_tokens, temperature=temperature, draws=draws
            )
            known = json.dumps([(source.vlm.text(completion), len(completion)) for completion in completions])
            if kept is not None:
                kept.put(key, known)
        for item, (text, tokens) in zip(batch, json.loads(known), strict=True):
            picked.append(Picked(item.id, text, parse_selection(text, source.count(item), source.selected), tokens))
        if progress:
            progress.advance(len(batch))
    return picked
