"""Pretraining videos of the stand-ins: needle scenes of a stream of their own, filmed in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from viarl.datasets.needle import Scene, plan
from viarl.datasets.needle_render import filmed
from viarl.progress import Progress
from viarl.video.format import sample_indices

STREAM = "pretraining"  # never one of the data set's splits
HELD_OUT_STREAM = "held out of pretraining"  # to measure a stand-in while it is developed
NO_CARD = -1


@dataclass(frozen=True)
class Films:
    """Filmed scenes and their candidate frames.

    frames: (V, N, 56, 56, 3) uint8; cards: (V, N) int64, the index of the card in view, or NO_CARD.
    """

    scenes: tuple[Scene, ...]
    frames: np.ndarray
    cards: np.ndarray

    def evidence(self, video: int, card: int) -> np.ndarray:
        """Candidate frames that show a card, ascending."""
        return np.flatnonzero(self.cards[video] == card)


def cards_in_view(scene: Scene, indices: np.ndarray) -> np.ndarray:
    """Return, for frame numbers (N,), the index of the card in view in each, or NO_CARD: (N,) int64."""
    shown = np.full(len(indices), NO_CARD)
    for number, card in enumerate(scene.cards):
        shown[(indices >= card.first) & (indices <= card.last)] = number
    return shown


def _film(seed: int, stream: str, count: int, candidates: int) -> Iterator[tuple[Scene, np.ndarray, np.ndarray]]:
    progress = Progress("pretraining videos", count)
    for index in range(count):
        scene = plan(seed, stream, index)
        chosen = sample_indices(scene.frames, candidates)
        yield scene, filmed(scene)[chosen], cards_in_view(scene, chosen)
        progress.advance()


def film(seed: int, count: int, candidates: int, stream: str = STREAM) -> Films:
    """Film `count` scenes of a stream and keep `candidates` frames of each, chosen as the frame cache chooses them."""
    scenes, frames, cards = zip(*_film(seed, stream, count, candidates), strict=True)
    return Films(scenes, np.stack(frames), np.stack(cards))
