"""What a model is tuned on: questions, their prompts, and the right replies.

The answerer's prompt is the one it is asked with (viarl.answer.answerer), with the frames that the selector picked. A
reply's positions go on from its prompt's largest one, as in generation. The loss is on the reply alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from cachetools import LRUCache
from torch.nn.utils.rnn import pad_sequence

from viarl.answer.asking import answerer_messages
from viarl.items import LETTERS, Item
from viarl.models.encode import Prompt, as_video
from viarl.models.shards import own_tower
from viarl.models.vlm import Vlm
from viarl.video.cache import FrameCache

IGNORED = -100  # label of a token outside the loss


@dataclass(frozen=True)
class Example:
    """One training example; `frames`, in temporal order, are what the answerer sees or what the selector is to name."""

    item: Item
    frames: tuple[int, ...]
    target: str


def target_text(kind: str, item: Item, reply: str = "") -> str:
    """Return the reply an item is tuned towards.

    `letter`: "B" (paper). `text_letter`: "star B". `restated_text_letter`: "blue star B", where the words before the
    option are those that `reply`, the untuned answerer's own, repeats from the question: an answerer that first says
    what it looks for keeps the habit, and nothing is taken from outside the item.
    """
    if kind not in ("letter", "text_letter", "restated_text_letter"):
        raise ValueError(f"{kind!r} is unknown; choose one of letter, text_letter, restated_text_letter")
    first = restated(item, reply) if kind == "restated_text_letter" else []
    option = [] if kind == "letter" else [item.options[LETTERS.index(item.answer)]]
    return " ".join([*first, *option, item.answer])


def restated(item: Item, reply: str) -> list[str]:
    """Return the first words of a reply that occur in the question and in none of the options."""
    question, options = _words(item.question), _words(" ".join(item.options))
    return list(takewhile(lambda word: _words(word) and _words(word) <= question - options, reply.split()))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


@dataclass(frozen=True)
class Collator:
    """Turns rows {"row": index of an example} into a batch for the trainer.

    The batch: input_ids, attention_mask, labels (B, T), padded on the right; position_ids (3, B, T); and the videos:
    `video_features`, one (video_tokens, D) an example, where prompts come with features, for a frozen vision tower; or
    pixel_values_videos and video_grid_thw, for one that is tuned too. With images in place of videos: `image_features`,
    or pixel_values and image_grid_thw.
    """

    tokenizer: Any
    examples: Sequence[Example]
    prompts: Callable[[Sequence[Example]], list[Prompt]]  # all with features or all with pixels

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        examples = [self.examples[row["row"]] for row in rows]
        prompts, tokenizer = self.prompts(examples), self.tokenizer
        ids, labels, positions = [], [], []
        for example, prompt in zip(examples, prompts, strict=True):
            target = tokenizer(example.target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            reply = torch.tensor([*target, tokenizer.eos_token_id])
            after = (prompt.next_position + torch.arange(len(reply)))[None].expand(3, -1)
            ids.append(torch.cat([prompt.input_ids, reply]))
            labels.append(torch.cat([torch.full_like(prompt.input_ids, IGNORED), reply]))
            positions.append(torch.cat([prompt.positions, after], 1).T)  # (T, 3), as padding is along the first axis
        return _videos(prompts) | {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "position_ids": pad_sequence(positions, batch_first=True).permute(2, 0, 1),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }


def _videos(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the part of a batch that holds the videos, or images; ValueError for a prompt without."""
    kind = prompts[0].kind
    features = [prompt.features for prompt in prompts if prompt.features is not None]
    if len(features) == len(prompts):
        return {f"{kind}_features": features}
    pixels = [prompt.pixels for prompt in prompts if prompt.pixels is not None]
    grids = [prompt.grid for prompt in prompts if prompt.grid is not None]
    if not len(pixels) == len(grids) == len(prompts):
        raise ValueError("the prompts of a batch need a video each, all with features or all with pixels")
    name = "pixel_values" if kind == "image" else "pixel_values_videos"
    return {name: torch.cat(pixels), f"{kind}_grid_thw": torch.cat([grid.reshape(-1, 3) for grid in grids])}


class AnswererPrompts:
    """The answerer's prompts for a `Collator`: with features where its vision tower is `frozen`, else with pixels.

    Within `keep_bytes` the longest unused features leave first; what exceeds them by itself is not kept.
    """

    def __init__(
        self,
        vlm: Vlm,
        cache: FrameCache,
        template: str,
        frozen: bool,
        keep_bytes: int = 2 << 30,
        frames_as: str = "video",
    ) -> None:
        self.vlm, self.cache, self.template = vlm, cache, template
        self.frames_as = frames_as
        self._tower = own_tower(vlm) if frozen else None
        self._held: LRUCache[Any, tuple[torch.Tensor, torch.Tensor]] = LRUCache(keep_bytes, lambda seen: seen[0].nbytes)

    def __call__(self, examples: Sequence[Example]) -> list[Prompt]:
        """Return one prompt an example."""
        videos = self._frozen(self._tower, examples) if self._tower else [self._pixels(example) for example in examples]
        prompts = []
        for example, (video, grid) in zip(examples, videos, strict=True):
            item, images = example.item, len(grid) if grid.ndim == 2 else 0
            times = self.cache.times(item.video)[list(example.frames)].tolist()
            told = times if self.frames_as == "timed_images" else []
            messages = answerer_messages(self.template, item.question, item.options, True, images, told)
            seen = {"features" if self._tower else "pixels": video}
            prompts.append(self.vlm.prompt(messages, grid=grid, times=times, **seen))
        return prompts

    def _pixels(self, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
        frames = self.cache.answerer_frames(example.item.video, example.frames)
        return self.vlm.pixels(frames) if self.frames_as == "video" else self.vlm.image_pixels(frames)

    def _frozen(self, tower: Vlm, examples: Sequence[Example]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (features, grid) of each example's frames, through the tower where they are not remembered."""
        keys = [(example.item.video, example.frames) for example in examples]
        found = {key: self._held[key] for key in keys if key in self._held}
        missing = {key: self._pixels(example) for key, example in zip(keys, examples, strict=True) if key not in found}
        if missing:
            computed = tower.features([(pixels, as_video(grid)) for pixels, grid in missing.values()])
            for (key, (_, grid)), features in zip(missing.items(), computed, strict=True):
                # cloned: a slice would keep the features of the whole pass alive
                found[key] = features.clone(), grid
                if features.nbytes <= self._held.maxsize:
                    self._held[key] = found[key]
        return [found[key] for key in keys]
