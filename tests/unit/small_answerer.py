"""An untrained answerer of a few thousand weights, and a frame cache in memory that notes what is decoded."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from viarl.answer.answerer import Answerer
from viarl.items import Item
from viarl.models.vlm import Vlm
from viarl.stand_ins.architecture import Size, build_tokenizer, build_vlm
from viarl.video.cache import decode_jpeg

COLOURS = ("red", "blue", "green", "yellow")
SHAPES = ("star", "moon", "cross", "circle")


class MemoryCache:
    """Random frames of 28 x 56 pixels, {video: count}; the interface of viarl.video.cache.FrameCache."""

    def __init__(self, counts: dict[str, int], bad: dict[str, str] | None = None) -> None:
        self.counts, self.bad = counts, bad or {}
        self.decoded: list[tuple[str, int]] = []

    def __contains__(self, video: str) -> bool:
        return video in self.counts

    def videos(self) -> list[str]:
        return sorted(self.counts)

    def check_usable(self) -> None:
        assert self.counts

    def count(self, video: str) -> int:
        return self.counts[video]

    def times(self, video: str) -> np.ndarray:
        return np.arange(self.counts[video], dtype=np.float64)

    def raw_frames(self, video: str) -> np.ndarray:
        return np.stack([self._frame(video, index) for index in range(self.counts[video])])

    def selector_frames(self, video: str) -> np.ndarray:
        return self.raw_frames(video)[:, :, :28]

    def answerer_frames(self, video: str, indices: Sequence[int]) -> list[np.ndarray]:
        self.decoded += [(video, index) for index in indices]
        return [self._frame(video, index) for index in indices]

    def _frame(self, video: str, index: int) -> np.ndarray:
        if not 0 <= index < self.counts[video]:
            raise IndexError(f"frame {index} of {video}")
        seed = [index, *video.encode()]
        return np.random.default_rng(seed).integers(0, 255, (28, 56, 3), dtype=np.uint8)


class StoredCache(MemoryCache):
    """As MemoryCache, with the frames stored as JPEG, as the frame cache has them."""

    def identity(self, video: str) -> str:
        return f"{video} of {self.counts[video]}"

    def answerer_jpegs(self, video: str, indices: Sequence[int]) -> list[np.ndarray]:
        return [self._jpeg(video, index) for index in indices]

    def answerer_frames(self, video: str, indices: Sequence[int]) -> list[np.ndarray]:
        self.decoded += [(video, index) for index in indices]
        return [decode_jpeg(data) for data in self.answerer_jpegs(video, indices)]

    def _jpeg(self, video: str, index: int) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(self._frame(video, index)).save(buffer, "JPEG", quality=90, subsampling=0)
        return np.frombuffer(buffer.getvalue(), np.uint8)


@lru_cache(maxsize=2)
def small_vlm(temporal_patch: int = 1) -> Vlm:
    """Return a tiny model with its processor; `temporal_patch` 2 is that of the published models."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    corpus = [
        f"which shape is on the {colour} card? {shape} A. B. C. D. Answer." for colour in COLOURS for shape in SHAPES
    ]
    vlm = build_vlm(build_tokenizer(corpus * 3, frames=32), Size(hidden=64, layers=2, mlp=96, vision_hidden=32))
    if temporal_patch != 1:
        config = vlm.model.config
        config.vision_config.temporal_patch_size = temporal_patch
        for processing in (vlm.processor.video_processor, vlm.processor.image_processor):
            processing.temporal_patch_size = temporal_patch
        vlm = Vlm(type(vlm.model)(config), vlm.processor)
    vlm.model.eval()
    return vlm


def save_vlm(vlm: Vlm, folder: Path, **options: Any) -> Path:
    """Write a model, with options of its `save_pretrained`, and its processor to a folder, and return it."""
    vlm.model.save_pretrained(folder, **options)
    vlm.processor.save_pretrained(folder)
    return folder


def small_answerer(cache: Any, batch_size: int = 64, temporal_patch: int = 1, **options: Any) -> Answerer:
    """Return an answerer with short greedy replies."""
    vlm = small_vlm(temporal_patch)
    return Answerer(vlm, cache, "short", **{"max_new_tokens": 6, "batch_size": batch_size, **options})


def item(number: int, video: str = "v0", answer: str = "A", **fields: Any) -> Item:
    """Return an item about a colour that depends on its number."""
    question = f"which shape is on the {COLOURS[number % 4]} card?" + " please" * (number % 3)
    return Item(f"q{number}", video, question, SHAPES, answer, **fields)
