"""CLIP similarity of candidate frames and questions, computed once and used by filter, selectors and pseudo-labels."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from viarl.files import atomic_path
from viarl.items import Item
from viarl.progress import Progress
from viarl.video.cache import FrameCache


def similarities(
    model: Any, cache: FrameCache, items: Sequence[Item], batch_size: int, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """Return {item id: (n_frames,) float32 cosines of its video's candidate frames and its question without options}.

    `model` embeds images (h, w, 3) uint8 and texts into one space (viarl.models.clip.Clip).
    Items whose video is not in the cache are left out (the evaluation counts them as failures). A video is embedded
    once for all its questions; frames of several videos share a forward pass of `batch_size` images.
    """
    by_video: dict[str, list[Item]] = {}
    for item in items:
        if item.video in cache:
            by_video.setdefault(item.video, []).append(item)
    found: dict[str, np.ndarray] = {}
    videos = list(by_video)
    # whole videos a pass, so that no more than about one batch of raw frames is in memory
    each = max(1, batch_size // max((cache.count(video) for video in videos), default=1))
    for start in range(0, len(videos), each):
        group = videos[start : start + each]
        frames = [cache.raw_frames(video) for video in group]
        images = _embedded(model.encode_images, [image for video in frames for image in video], batch_size)
        questions = list(dict.fromkeys(item.question for video in group for item in by_video[video]))
        texts = dict(zip(questions, _embedded(model.encode_texts, questions, batch_size), strict=True))
        first = 0
        for video, own in zip(group, frames, strict=True):
            embedded = images[first : first + len(own)]
            first += len(own)
            for item in by_video[video]:
                found[item.id] = (embedded @ texts[item.question]).astype(np.float32)
        if progress:
            progress.advance(len(group))
    return found


def _embedded(encode: Callable[[Any], torch.Tensor], inputs: Sequence[Any], batch_size: int) -> np.ndarray:
    """Return unit-length embeddings, (n, D) float64, in batches."""
    with torch.no_grad():
        parts = [encode(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)]
    embedded = torch.cat(parts).double()
    return torch.nn.functional.normalize(embedded, dim=-1).cpu().numpy()


def write_scores(path: Path, scores: dict[str, np.ndarray]) -> None:
    """Write one tensor (n_frames,) float32 per item id, atomically; an empty shard is a valid file."""
    with atomic_path(path) as temporary:
        save_file(dict(sorted(scores.items())), temporary)


def read_scores(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """Read the scores of several shards into {item id: (n_frames,) float32}; ValueError names a damaged file."""
    scores: dict[str, np.ndarray] = {}
    for path in paths:
        try:
            scores |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it so that score_frames makes it again") from error
    return scores
