"""Questions on pretraining films, with frames and right replies, from which an answerer stand-in learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from viarl.answer.asking import answerer_messages
from viarl.datasets.needle import OPTIONS, TEMPORAL_TASKS, Question, draw_question, options, repeated_cards
from viarl.items import LETTERS
from viarl.models.vlm import Encoder, Prompt, forward_arguments, video_features
from viarl.stand_ins.corpus import NOT_SEEN, reply
from viarl.stand_ins.films import NO_CARD, Films


@dataclass(frozen=True)
class Example:
    """A question with its frames and the right reply.

    `frames` are candidate frames of film number `video`, ascending; `letter` is the truth, in view or not.
    """

    video: int
    asked: Question
    options: tuple[str, ...]
    frames: tuple[int, ...]
    letter: str
    text: str


class Examples:
    """Draws examples on films; features of the frozen tower are computed once.

    Args:
        frames: the films' frames at the answerer's size.
        template: name of the answerer's prompt text.
    """

    def __init__(self, model: Any, encoder: Encoder, films: Films, frames: np.ndarray, template: str) -> None:
        self.films, self.encoder, self.template = films, encoder, template
        self.grid: torch.Tensor
        features = []
        for video in frames:
            pixels, self.grid = encoder.pixels(video)
            features += video_features(model, [(pixels, self.grid)])
        self.features = torch.stack(features).unflatten(1, (frames.shape[1], -1))  # (V, N, tokens a frame, D)

    def draw(
        self, rng: np.random.Generator, count: int, view: str = "seen", task: str | None = None, temporal: float = 0.36
    ) -> Example:
        """Draw a question and `count` frames for it.

        Args:
            count: 0 for a question without a video, with view "unseen".
            view: "seen": the card is in view, the same colour's other card is not; "unseen": neither is; "both": both.
            task: draw only this task; else one with words of time with probability `temporal`.
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
        card = scene.cards[asked.card]
        text = reply(card.colour, card.shape if view != "unseen" else NOT_SEEN, letter)
        choices = options(scene, asked, letter, rng)
        return Example(video, asked, choices, tuple(sorted(int(frame) for frame in frames)), letter, text)

    def colour(self, example: Example) -> str:
        """Return the colour that an example asks about."""
        return self.films.scenes[example.video].cards[example.asked.card].colour

    def prompt(self, example: Example) -> Prompt:
        """Return the example's prompt with its features."""
        messages = answerer_messages(self.template, example.asked.text, example.options, frames=bool(example.frames))
        if not example.frames:
            return self.encoder.prompt(messages)
        features = self.features[example.video, list(example.frames)].flatten(0, 1)
        return self.encoder.prompt(
            messages, grid=torch.tensor([len(example.frames), *self.grid[1:]]), features=features
        )


def reply_loss(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], replies: Sequence[str], counted: slice = slice(None)
) -> torch.Tensor:
    """Return the mean cross-entropy of the `counted` tokens of the replies, each closed by the end token."""
    texts = [text + tokenizer.eos_token for text in replies]
    rows = [torch.tensor(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.eos_token_id)  # (B, T)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    positions = torch.tensor([prompt.next_position for prompt in prompts])[:, None] + torch.arange(ids.shape[1])
    arguments = forward_arguments(prompts, ids.device, tokenizer.eos_token_id)
    logits = model(
        input_ids=torch.cat([arguments["input_ids"], ids], 1),
        attention_mask=torch.cat([arguments["attention_mask"], mask], 1),
        position_ids=torch.cat([arguments["position_ids"], positions.expand(3, -1, -1)], 2),
        mm_encoder_outputs=arguments["mm_encoder_outputs"],
        logits_to_keep=ids.shape[1] + 1,
        use_cache=False,
    ).logits[:, :-1]
    losses = functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    return (losses * mask)[:, counted].sum() / mask[:, counted].sum()
