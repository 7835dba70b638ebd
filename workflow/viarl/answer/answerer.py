"""The answerer: a language model reads the selected frames and a question with its options, and replies greedily.

Requests have overlapping frames: a frame is decoded and passed through the vision tower once for all requests that hold
it, and prompts of like length share a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from cachetools import LRUCache

from viarl.answer.asking import Asking
from viarl.answer.base import BaseAnswerer, Key, Reply, Request
from viarl.models.encode import Prompt
from viarl.models.reply_cache import ReplyCache
from viarl.models.vlm import PATCHES_A_PASS, Vlm
from viarl.progress import Progress
from viarl.video.cache import FrameCache

__all__ = ["Answerer", "Reply", "Request"]

BATCHES_A_WINDOW = 8  # batches whose prompts are in memory together, to be sorted by length

Group = tuple[str, tuple[int, ...]]  # a video and the frames that share one temporal patch


class _Patch(NamedTuple):
    features: torch.Tensor  # of one temporal patch, (tokens, D)
    height: int  # in patches
    width: int


class Answerer(BaseAnswerer):
    """Answers batches of requests with a model in this process; see `answer`.

    Decoding is greedy: a reply depends on its request only, but for the last bits of float sums. The weights must not
    change during the life of this object. Within `keep_bytes` of vision features the longest unused leave first.
    """

    def __init__(
        self,
        vlm: Vlm,
        cache: FrameCache,
        template: str,
        max_new_tokens: int,
        batch_size: int,
        keep_bytes: int = 1 << 30,
        asking: Asking | None = None,
        frames_as: str = "video",
        replies: ReplyCache | None = None,
    ) -> None:
        super().__init__(cache, template, max_new_tokens, batch_size, frames_as, replies, asking)
        self.vlm = vlm
        self._group = int(vlm.processor.video_processor.temporal_patch_size)
        self._merge = int(vlm.processor.video_processor.merge_size)
        self._held: LRUCache[Group, _Patch] = LRUCache(keep_bytes, lambda patch: patch.features.nbytes)

    @property
    def window(self) -> int:
        """Requests whose prompts are in memory together."""
        return self.batch_size * BATCHES_A_WINDOW

    def _ask(self, requests: dict[Key, Request], progress: Progress | None) -> None:
        # the questions of a video stand together, so that its frames are in memory when they are needed
        order = sorted(requests, key=lambda key: (requests[key].item.video, key[3], key))
        for start in range(0, len(order), self.window):
            self._answer_window({key: requests[key] for key in order[start : start + self.window]}, progress)

    def _answer_window(self, requests: Mapping[Key, Request], progress: Progress | None) -> None:
        """Answer different requests and keep the replies."""
        groups = {key: self._groups(request) for key, request in requests.items()}
        patches = self._patches(list(dict.fromkeys(group for own in groups.values() for group in own)))
        encoded: dict[Any, Prompt] = {}
        seen = {key: [patches[group] for group in own] for key, own in groups.items()}
        prompts = {key: self._prompt(request, seen[key], encoded) for key, request in requests.items()}
        order = sorted(requests, key=lambda key: prompts[key].length)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            # features are joined here, so that overlapping requests do not multiply them in a whole window
            joined = [_with_features(prompts[key], seen[key]) for key in batch]
            completions = self.vlm.complete(joined, max_new_tokens=self.max_new_tokens)
            for key, completion in zip(batch, completions, strict=True):
                self._keep(key, requests[key], self.vlm.text(completion), progress)

    def _prompt(self, request: Request, patches: Sequence[_Patch], encoded: dict[Any, Prompt]) -> Prompt:
        """Return the request's prompt without vision features; frames of one size share it, through `encoded`."""
        messages = self.messages(request)
        size = (len(patches), patches[0].height, patches[0].width) if patches else None
        times = self.times(request) if self.vlm.timed and not self.as_images else None
        key = (str(messages), size, str(times))
        if key not in encoded:
            shape = [(1, *size[1:])] * size[0] if size and self.as_images else size
            encoded[key] = self.vlm.prompt(messages, grid=None if shape is None else torch.tensor(shape), times=times)
        return encoded[key]

    def _groups(self, request: Request) -> list[Group]:
        """Split the frames, in temporal order, into temporal patches; the last frame fills up, as in the processor.

        An image is a temporal patch of its own, as often the same frame as that takes.
        """
        frames = tuple(sorted(request.frames))
        size = self._group
        if self.as_images:
            return [(request.item.video, (frame,) * size) for frame in frames]
        frames += frames[-1:] * (-len(frames) % size)
        return [(request.item.video, frames[start : start + size]) for start in range(0, len(frames), size)]

    def _patches(self, groups: Sequence[Group]) -> dict[Group, _Patch]:
        """Return the vision features of temporal patches: remembered, or computed with many in a pass.

        The tower attends within a temporal patch only, so a patch's features do not depend on its neighbours.
        """
        found: dict[Group, _Patch] = {}
        missing: dict[str, list[tuple[int, ...]]] = {}
        for group in groups:
            if held := self._held.get(group):
                found[group] = held
            else:
                missing.setdefault(group[0], []).append(group[1])
        waiting: list[tuple[list[Group], torch.Tensor, torch.Tensor]] = []
        size = 0
        for video, own in missing.items():
            wanted = sorted({index for frames in own for index in frames})
            decoded = dict(zip(wanted, self.cache.answerer_frames(video, wanted), strict=True))
            pixels, grid = self.vlm.pixels([decoded[index] for frames in own for index in frames], self.as_images)
            _, height, width = grid.tolist()
            most = max(1, PATCHES_A_PASS // (height * width))  # a long video may take several passes
            for start in range(0, len(own), most):
                part = [(video, frames) for frames in own[start : start + most]]
                rows = pixels[start * height * width : (start + most) * height * width]
                if waiting and size + len(rows) > PATCHES_A_PASS:
                    found |= self._compute(waiting)
                    waiting, size = [], 0
                waiting.append((part, rows, torch.tensor([len(part), height, width])))
                size += len(rows)
        return found | self._compute(waiting)

    def _compute(self, waiting: Sequence[tuple[list[Group], torch.Tensor, torch.Tensor]]) -> dict[Group, _Patch]:
        if not waiting:
            return {}
        computed: dict[Group, _Patch] = {}
        features = self.vlm.features([(pixels, grid) for _, pixels, grid in waiting])
        for (groups, _, grid), video in zip(waiting, features, strict=True):
            _, height, width = grid.tolist()
            for group, own in zip(groups, video.split(height * width // self._merge**2), strict=True):
                # cloned: a slice would keep the features of the whole pass alive
                computed[group] = _Patch(own.clone(), height, width)
                if own.nbytes <= self._held.maxsize:
                    self._held[group] = computed[group]
        return computed


def _with_features(prompt: Prompt, patches: Sequence[_Patch]) -> Prompt:
    return replace(prompt, features=torch.cat([patch.features for patch in patches])) if patches else prompt
