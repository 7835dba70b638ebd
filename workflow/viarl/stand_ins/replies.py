"""Questions on pretraining films, with frames and right replies, from which an answerer stand-in learns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from viarl.answer.asking import answerer_messages
from viarl.datasets.needle import OPTIONS, TEMPORAL_TASKS, Question, draw_question, options, repeated_cards
from viarl.items import LETTERS
from viarl.models.encode import Prompt
from viarl.models.vlm import Vlm
from viarl.stand_ins.corpus import NOT_SEEN, reply
from viarl.stand_ins.films import NO_CARD, TEMPORAL_SHARE, Films


@dataclass(frozen=True)
class Example:
    """A question with its frames, ascending, of film number `video`, and the right reply; `letter` is the truth."""

    video: int
    asked: Question
    options: tuple[str, ...]
    frames: tuple[int, ...]
    letter: str
    text: str


class Examples:
    """Draws examples on films, with `frames` at the answerer's size; the frozen tower's features are computed once."""

    def __init__(self, vlm: Vlm, films: Films, frames: np.ndarray, template: str) -> None:
        self.films, self.vlm, self.template = films, vlm, template
        self.grid: torch.Tensor
        features = []
        for video in frames:
            pixels, self.grid = vlm.pixels(video)
            features += vlm.features([(pixels, self.grid)])
        self.features = torch.stack(features).unflatten(1, (frames.shape[1], -1))  # (V, N, tokens a frame, D)

    def draw(
        self,
        rng: np.random.Generator,
        count: int,
        view: str = "seen",
        task: str | None = None,
        temporal: float = TEMPORAL_SHARE,
    ) -> Example:
        """Draw a question and `count` frames for it (0: without a video, with view "unseen").

        View "seen": the card is in view, the same colour's other card is not; "unseen": neither is; "both": both are.
        Only this `task` is drawn; without, one with words of time with probability `temporal`.
        """
        asked = None
        while asked is None:
            video = int(rng.integers(len(self.films.scenes)))
            scene = self.films.scenes[video]
            drawn = task or (str(rng.choice(TEMPORAL_TASKS)) if rng.random() < temporal else "none")
            asked = draw_question(scene, drawn, rng)
        evidence = self.films.evidence(video, asked.card)
        rivals = [card for card in repeated_cards(scene) if card != asked.card] if asked.task != "none" else []
        rival = self.films.evidence(video, rivals[0]) if rivals else np.array([], dtype=np.int64)
        frames: list[int] = []
        if view != "unseen":
            frames += list(rng.permutation(evidence)[: int(rng.integers(1, min(count, len(evidence)) + 1))])
        if view == "both" and len(rival):
            frames.append(rng.choice(rival))
        others = np.setdiff1d(np.arange(self.films.cards.shape[1]), [*evidence, *rival])
        # other cards are the frames that could mislead, so they are shown more often than empty ones
        weight = np.where(self.films.cards[video, others] == NO_CARD, 1.0, 2.5)
        frames += list(rng.choice(others, max(count - len(frames), 0), replace=False, p=weight / weight.sum()))
        letter = LETTERS[int(rng.integers(OPTIONS))]
        card, choices = scene.cards[asked.card], options(scene, asked, letter, rng)
        text = reply(card.colour, card.shape if view != "unseen" else NOT_SEEN, letter)
        return Example(video, asked, choices, tuple(sorted(map(int, frames))), letter, text)

    def colour(self, example: Example) -> str:
        """Return the colour that an example asks about."""
        return self.films.scenes[example.video].cards[example.asked.card].colour

    def prompt(self, example: Example) -> Prompt:
        """Return the example's prompt with its features."""
        messages = answerer_messages(self.template, example.asked.text, example.options, frames=bool(example.frames))
        if not example.frames:
            return self.vlm.prompt(messages)
        features = self.features[example.video, list(example.frames)].flatten(0, 1)
        return self.vlm.prompt(messages, grid=torch.tensor([len(example.frames), *self.grid[1:]]), features=features)


def reply_loss(
    vlm: Vlm, prompts: Sequence[Prompt], replies: Sequence[str], counted: slice = slice(None)
) -> torch.Tensor:
    """Return the mean cross-entropy of the `counted` tokens of the replies, each closed by the end token."""
    log_probs, mask = vlm.log_probs(prompts, [reply + vlm.tokenizer.eos_token for reply in replies])
    return -(log_probs * mask)[:, counted].sum() / mask[:, counted].sum()
