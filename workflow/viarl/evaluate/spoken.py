"""The lines of a video's subtitles that are spoken at the frames an answerer sees."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from viarl.datasets.subtitles import read_srt, spoken
from viarl.items import Item

if TYPE_CHECKING:
    from viarl.video.cache import FrameCache


class SpokenLines:
    """The lines at an item's frames; `folder` is that of items.jsonl, where `Item.subtitles` count from.

    Every file is read here, so that a damaged one stops the job before it works. Errors: those of `read_srt`.
    """

    def __init__(self, items: Iterable[Item], folder: Path, cache: "FrameCache") -> None:
        names = sorted({item.subtitles for item in items} - {""})
        self._spans = {name: read_srt(folder / name).spans for name in names}
        self._times = functools.lru_cache(maxsize=None)(cache.times)

    def __call__(self, item: Item, frames: Sequence[int]) -> str:
        """Return the lines, "" where the item has no subtitles, nothing is spoken, or there are no frames."""
        if not item.subtitles or not frames:
            return ""
        return spoken(self._spans[item.subtitles], self._times(item.video)[list(frames)].tolist())
