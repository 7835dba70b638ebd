"""Pretraining videos of the stand-ins: needle scenes of a stream of their own, filmed in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viarl.datasets.needle import Scene, plan
from viarl.datasets.needle_render import filmed
from viarl.progress import Progress
from viarl.video.format import sample_indices

STREAM = "pretraining"  # never one of the data set's splits
HELD_OUT_STREAM = "held out of pretraining"  # to measure a stand-in while it is developed
NO_CARD = -1
TEMPORAL_SHARE = 0.36  # of the questions, as in the data set


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

    def labels(self, what: str, words: Sequence[str]) -> np.ndarray:
        """Number of the word for the card's `what` in each frame, len(words) where no card is in view: (V, N) int64."""
        labels = np.full(self.cards.shape, len(words))
        for video, scene in enumerate(self.scenes):
            for number, card in enumerate(scene.cards):
                labels[video, self.evidence(video, number)] = words.index(getattr(card, what))
        return labels


def film(seed: int, count: int, candidates: int, stream: str = STREAM) -> Films:
    """Film `count` scenes of a stream and keep `candidates` frames of each, chosen as the frame cache chooses them."""
    progress = Progress("pretraining videos", count)
    scenes, frames, cards = [], [], np.full((count, candidates), NO_CARD)
    for index in range(count):
        scenes.append(scene := plan(seed, stream, index))
        chosen = sample_indices(scene.frames, candidates)
        frames.append(filmed(scene)[chosen])
        for number, card in enumerate(scene.cards):
            cards[index, (chosen >= card.first) & (chosen <= card.last)] = number
        progress.advance()
    return Films(tuple(scenes), np.stack(frames), cards)
