"""What the answerer is tuned on: the questions, the frames that the selector picked, and the right reply.

The prompt is the one the answerer is asked with (viarl.answer.answerer), and the reply's positions go on from the
prompt's largest one, as in generation. The loss is on the reply alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from viarl.items import LETTERS, Item
from viarl.memory import Recent
from viarl.prompts import answerer_messages
from viarl.vlm import Encoder, Prompt, video_features

if TYPE_CHECKING:
    from viarl.video.cache import FrameCache

TARGETS = ("letter", "text_letter", "restated_text_letter")
IGNORED = -100  # label of a token outside the loss


@dataclass(frozen=True)
class Example:
    """One training example; `frames` are candidate frames in temporal order."""

    item: Item
    frames: tuple[int, ...]
    target: str


def target_text(kind: str, item: Item, reply: str = "") -> str:
    """Return the reply an item is tuned towards.

    `letter`: "B" (paper). `text_letter`: "star B". `restated_text_letter`: "blue star B", where the words before the
    option are those that `reply`, the untuned answerer's own, repeats from the question: an answerer that first says
    what it looks for keeps the habit, and nothing is taken from outside the item.
    """
    option = item.options[LETTERS.index(item.answer)]
    if kind == "letter":
        return item.answer
    words = [option, item.answer]
    if kind == "restated_text_letter":
        words = [*restated(item, reply), *words]
    elif kind != "text_letter":
        raise ValueError(f"answerer.tuning.target {kind!r} is unknown; choose one of {list(TARGETS)}")
    return " ".join(words)


def restated(item: Item, reply: str) -> list[str]:
    """Return the first words of a reply that occur in the question and in none of the options."""
    question, options = set(_words(item.question)), set(_words(" ".join(item.options)))
    found: list[str] = []
    for word in reply.split():
        plain = _words(word)
        if not plain or not set(plain) <= question or set(plain) & options:
            break
        found.append(word)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def schedule(examples: int, steps: int, batch_size: int, seed: int) -> list[int]:
    """Return the example of each place in each batch, (steps x batch_size): one shuffled pass after another."""
    rng = np.random.default_rng(seed)
    passes = -(-steps * batch_size // examples)
    return np.concatenate([rng.permutation(examples) for _ in range(passes)])[: steps * batch_size].tolist()


class Collator:
    """Turns rows {"row": index of an example} into a batch for the trainer.

    The batch: input_ids, attention_mask, labels (B, T), padded on the right; position_ids (3, B, T); and the videos:
    `video_features`, one (video_tokens, D) an example, from the frozen tower of `model`; or, without a model,
    pixel_values_videos and video_grid_thw, for a tower that is tuned too.

    Args:
        encoder: of the answerer.
        cache: the frames.
        template: name of the answerer's prompt text.
        examples: what the rows point to.
        model: whose vision tower is frozen; None if it is not.
        keep_bytes: memory for features; the longest unused leave first.
    """

    def __init__(
        self,
        encoder: Encoder,
        cache: "FrameCache",
        template: str,
        examples: Sequence[Example],
        model: Any = None,
        keep_bytes: int = 2 << 30,
    ) -> None:
        self.encoder, self.cache, self.template = encoder, cache, template
        self.examples, self.model = examples, model
        self._features: Recent[tuple[torch.Tensor, torch.Tensor]] = Recent(keep_bytes)

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        examples = [self.examples[row["row"]] for row in rows]
        batch: dict[str, Any] = {}
        if self.model is None:
            videos = [self._pixels(example) for example in examples]
            batch["pixel_values_videos"] = torch.cat([pixels for pixels, _ in videos])
            batch["video_grid_thw"] = torch.stack([grid for _, grid in videos])
        else:
            videos = self._frozen(examples)
            batch["video_features"] = [features for features, _ in videos]
        tokenizer = self.encoder.tokenizer
        ids, labels, positions = [], [], []
        for example, (_, grid) in zip(examples, videos, strict=True):
            prompt = self._prompt(example, grid)
            target = [*tokenizer(example.target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            reply = torch.tensor(target)
            after = (prompt.next_position + torch.arange(len(target)))[None].expand(3, -1)
            ids.append(torch.cat([prompt.input_ids, reply]))
            labels.append(torch.cat([torch.full_like(prompt.input_ids, IGNORED), reply]))
            positions.append(torch.cat([prompt.positions, after], 1).T)  # (T, 3), as padding is along the first axis
        return batch | {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "position_ids": pad_sequence(positions, batch_first=True).permute(2, 0, 1),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }

    def _prompt(self, example: Example, grid: torch.Tensor) -> Prompt:
        item = example.item
        return self.encoder.prompt(
            answerer_messages(self.template, item.question, item.options, frames=True), grid=grid
        )

    def _pixels(self, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder.pixels(self.cache.answerer_frames(example.item.video, example.frames))

    def _frozen(self, examples: Sequence[Example]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (features, grid) of each example's frames, through the tower where they are not remembered."""
        keys = [(example.item.video, example.frames) for example in examples]
        found = {key: self._features.get(key) for key in keys}
        missing = {key: self._pixels(example) for key, example in zip(keys, examples, strict=True) if not found[key]}
        if missing:
            computed = video_features(self.model, list(missing.values()))
            for (key, (_, grid)), features in zip(missing.items(), computed, strict=True):
                # cloned: a slice would keep the features of the whole pass alive
                found[key] = features.clone(), grid
                self._features.put(key, (features.clone(), grid), features.nbytes)
        return [value for value in (found[key] for key in keys) if value is not None]
