"""The answerer: a language model reads the selected frames and a question with its options, and replies greedily.

Rollout, filter and evaluation ask the same questions over and over with overlapping frames. So a request that was
answered before is not asked again, a frame is decoded and passed through the vision tower once for all requests that
hold it, and prompts of like length share a batch.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from viarl.answer.asking import Asking, Own
from viarl.items import Item
from viarl.progress import Progress
from viarl.prompts import answerer_chat
from viarl.vlm import (
    PATCHES_A_PASS,
    Encoder,
    ModelSettings,
    Prompt,
    completion_text,
    generate,
    load_model,
    load_processor,
    suppressed_tokens,
    video_features,
)

if TYPE_CHECKING:
    from viarl.video.cache import FrameCache

BATCHES_A_WINDOW = 8  # batches whose prompts are in memory together, to be sorted by length

Group = tuple[str, tuple[int, ...]]  # a video and the frames that share one temporal patch


@dataclass(frozen=True)
class Request:
    """A question and the candidate frames to show with it, in any order; no frames is the blind question."""

    item: Item
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reply:
    """The answerer's text, and the option letter it names ("" if none)."""

    text: str
    letter: str


@dataclass(frozen=True)
class _Patch:
    """Vision features of one temporal patch, (tokens, D), and its height and width in patches."""

    features: torch.Tensor
    height: int
    width: int


class Answerer:
    """Answers batches of requests; see `answer`.

    A reply depends on its request alone, not on the order, repetition or company of requests: decoding is greedy, and
    only the last bits of float sums vary with the batch. The weights must not change during the life of this object.

    Args:
        model, processor: of the answerer.
        cache: the frames.
        template: name of the prompt text (viarl.prompts.ANSWERER_INSTRUCTION).
        max_new_tokens: longest reply, tokens.
        batch_size: requests in a forward pass.
        keep_bytes: memory for vision features; the longest unused leave first.
        asking: how questions are worded and replies are read, where it is not this project's way with the template.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        cache: "FrameCache",
        template: str,
        max_new_tokens: int,
        batch_size: int,
        keep_bytes: int = 1 << 30,
        asking: Asking | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"answerer.batch_size must be at least 1, not {batch_size}")
        self.model, self.processor, self.cache = model, processor, cache
        self.asking: Asking = asking or Own(template)
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.encoder = Encoder(model, processor)
        self.asked = 0  # requests that reached the model
        self._group = int(processor.video_processor.temporal_patch_size)
        self._merge = int(processor.video_processor.merge_size)
        self._suppress = suppressed_tokens(processor)
        self._memo: dict[tuple[str, str, tuple[str, ...], tuple[int, ...]], Reply] = {}
        self._held: OrderedDict[Group, _Patch] = OrderedDict()
        self._held_bytes, self._keep_bytes = 0, keep_bytes

    @property
    def window(self) -> int:
        """Requests whose prompts are in memory together."""
        return self.batch_size * BATCHES_A_WINDOW

    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """Answer requests in their order; frames are shown in temporal order, whatever their order in the request.

        Errors: IndexError or ValueError naming the video for frames that the cache does not have.
        """
        keys = [_key(request) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._memo}
        # the questions of a video stand together, so that its frames are in memory when they are needed
        order = sorted(new, key=lambda key: (new[key].item.video, key[3], key))
        if progress:
            progress.advance(len(requests) - len(new), "known before")
        for start in range(0, len(order), self.window):
            part = order[start : start + self.window]
            self._answer_window({key: new[key] for key in part}, progress)
        return [self._memo[key] for key in keys]

    def _answer_window(self, requests: dict[Any, Request], progress: Progress | None) -> None:
        """Answer different requests and keep the replies."""
        groups = {key: self._groups(request) for key, request in requests.items()}
        patches = self._patches(list(dict.fromkeys(group for own in groups.values() for group in own)))
        encoded: dict[Any, Prompt] = {}
        prompts = {
            key: self._prompt(requests[key], [patches[group] for group in groups[key]], encoded) for key in requests
        }
        order = sorted(requests, key=lambda key: prompts[key].length)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            completions = generate(
                self.model,
                # features are joined here, so that overlapping requests do not multiply them in a whole window
                [_with_features(prompts[key], [patches[group] for group in groups[key]]) for key in batch],
                eos=self.processor.tokenizer.eos_token_id,
                max_new_tokens=self.max_new_tokens,
                suppress=self._suppress,
            )
            for key, completion in zip(batch, completions, strict=True):
                text = completion_text(self.processor, completion)
                self._memo[key] = Reply(text, self.asking.letter(text, requests[key].item))
            self.asked += len(batch)
            if progress:
                progress.advance(len(batch))

    def _prompt(self, request: Request, patches: Sequence[_Patch], encoded: dict[Any, Prompt]) -> Prompt:
        """Return the request's prompt without vision features; frames of one size share it, through `encoded`."""
        text = self.asking.text(request.item, sorted(request.frames))
        size = (len(patches), patches[0].height, patches[0].width) if patches else None
        key = (text, size)
        if key not in encoded:
            messages = answerer_chat(text, frames=bool(patches))
            encoded[key] = self.encoder.prompt(messages, grid=None if size is None else torch.tensor(size))
        return encoded[key]

    def _groups(self, request: Request) -> list[Group]:
        """Split the frames, in temporal order, into temporal patches; the last frame fills up, as in the processor."""
        frames = tuple(sorted(request.frames))
        size = self._group
        frames += frames[-1:] * (-len(frames) % size)
        return [(request.item.video, frames[start : start + size]) for start in range(0, len(frames), size)]

    def _patches(self, groups: Sequence[Group]) -> dict[Group, _Patch]:
        """Return the vision features of temporal patches: remembered, or computed with many in a pass.

        The tower attends within a temporal patch only, so a patch's features do not depend on its neighbours.
        """
        found: dict[Group, _Patch] = {}
        missing: dict[str, list[tuple[int, ...]]] = {}
        for group in groups:
            if group in self._held:
                self._held.move_to_end(group)
                found[group] = self._held[group]
            else:
                missing.setdefault(group[0], []).append(group[1])
        waiting: list[tuple[list[Group], torch.Tensor, torch.Tensor]] = []
        size = 0
        for video, own in missing.items():
            wanted = sorted({index for frames in own for index in frames})
            decoded = dict(zip(wanted, self.cache.answerer_frames(video, wanted), strict=True))
            pixels, grid = self.encoder.pixels([decoded[index] for frames in own for index in frames])
            if waiting and size + len(pixels) > PATCHES_A_PASS:
                found |= self._compute(waiting)
                waiting, size = [], 0
            waiting.append(([(video, frames) for frames in own], pixels, grid))
            size += len(pixels)
        return found | self._compute(waiting)

    def _compute(self, waiting: Sequence[tuple[list[Group], torch.Tensor, torch.Tensor]]) -> dict[Group, _Patch]:
        if not waiting:
            return {}
        computed: dict[Group, _Patch] = {}
        features = video_features(self.model, [(pixels, grid) for _, pixels, grid in waiting])
        for (groups, _, grid), video in zip(waiting, features, strict=True):
            _, height, width = grid.tolist()
            for group, own in zip(groups, video.split(height * width // self._merge**2), strict=True):
                # cloned: a slice would keep the features of the whole pass alive
                computed[group] = self._held[group] = _Patch(own.clone(), height, width)
                self._held_bytes += own.nbytes
        while self._held_bytes > self._keep_bytes and self._held:
            _, gone = self._held.popitem(last=False)
            self._held_bytes -= gone.features.nbytes
        return computed


def _with_features(prompt: Prompt, patches: Sequence[_Patch]) -> Prompt:
    return replace(prompt, features=torch.cat([patch.features for patch in patches])) if patches else prompt


def _key(request: Request) -> tuple[str, str, tuple[str, ...], tuple[int, ...]]:
    """Return what a reply depends on; options and question, as a rotated or reworded item keeps its id."""
    item = request.item
    return item.id, item.question, item.options, tuple(sorted(request.frames))


def load_answerer(
    model: Path, settings: ModelSettings, cache: "FrameCache", device: str = "auto", asking: Asking | None = None
) -> Answerer:
    """Load an answerer (see `load_model`) that asks with the settings' prompt, or in a benchmark's way."""
    loaded = load_model(model, settings.dtype, settings.attention, device)
    processor = load_processor(model)
    tokens, size = settings.max_new_tokens, settings.batch_size
    return Answerer(loaded, processor, cache, settings.prompt, tokens, size, asking=asking)
