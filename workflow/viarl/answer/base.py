"""What all answerers share: requests and replies, and that nothing is asked twice.

A reply that is known, from this process or from a reply cache on disk, is not asked for again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from viarl.answer.asking import Asking, Own, answerer_chat
from viarl.files import sha256_json
from viarl.items import Item
from viarl.models.reply_cache import ReplyCache
from viarl.progress import Progress
from viarl.video.cache import FrameCache

Key = tuple[str, str, tuple[str, ...], tuple[int, ...]]


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


class BaseAnswerer(ABC):
    """Answers requests, each different one once.

    `replies` are those of earlier processes, and where new ones are kept; None keeps none. `asking` says how questions
    are worded and replies are read, where it is not this project's way with the template. `frames_as` and the rest:
    see viarl.answer.settings.
    """

    def __init__(
        self,
        cache: FrameCache,
        template: str,
        max_new_tokens: int,
        batch_size: int = 1,
        frames_as: str = "video",
        replies: ReplyCache | None = None,
        asking: Asking | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"answerer.batch_size must be at least 1, not {batch_size}")
        self.cache, self.max_new_tokens, self.asking = cache, max_new_tokens, asking or Own(template)
        self.batch_size, self.frames_as, self.replies = batch_size, frames_as, replies
        self.asked = 0  # requests that reached the model
        self.found = 0  # different requests that the reply cache answered
        self.stopped: Callable[[], bool] = lambda: False  # whether to give up waiting, as the stage was told to stop
        self._memo: dict[Key, Reply] = {}

    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """Answer requests in their order; frames are shown in temporal order, whatever their order in the request.

        Errors: IndexError or ValueError naming the video for frames that the cache lacks; of an endpoint, also Outage.
        """
        keys = [_key(request) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._memo}
        if self.replies is not None:
            for key, request in new.items():
                if (text := self.replies.get(self._identity(request))) is not None:
                    self._memo[key] = Reply(text, self.asking.letter(text, request.item))
                    self.found += 1
            new = {key: request for key, request in new.items() if key not in self._memo}
        if progress:
            progress.advance(len(requests) - len(new), "known before")
        self._ask(new, progress)
        return [self._memo[key] for key in keys]

    @abstractmethod
    def _ask(self, requests: dict[Key, Request], progress: Progress | None) -> None:
        """Ask different requests and hand each text to `_keep`."""

    def _keep(self, key: Key, request: Request, text: str, progress: Progress | None) -> None:
        """Take note of a reply."""
        self._memo[key] = Reply(text, self.asking.letter(text, request.item))
        self.asked += 1
        if self.replies is not None:
            self.replies.put(self._identity(request), text)
        if progress:
            progress.advance()

    @property
    def as_images(self) -> bool:
        """Whether the frames are shown as an image each."""
        return self.frames_as != "video"

    def times(self, request: Request) -> list[float]:
        """Return the seconds at which a request's frames are shown, ascending."""
        return self.cache.times(request.item.video)[sorted(request.frames)].tolist() if request.frames else []

    def messages(self, request: Request) -> list[dict[str, object]]:
        """Return the chat that shows a request."""
        text = self.asking.text(request.item, sorted(request.frames))
        times = self.times(request) if self.frames_as == "timed_images" else []
        return answerer_chat(text, bool(request.frames), len(request.frames) if self.as_images else 0, times)

    def counts(self) -> dict[str, int]:
        """Return how many different requests were asked, and how many the reply cache answered, for tracking."""
        return {"asked": self.asked} | ({} if self.replies is None else {"known_replies": self.found})

    def _identity(self, request: Request) -> str:
        """Return what a reply of one answerer depends on, between processes."""
        frames = sorted(request.frames)
        content = self.cache.identity(request.item.video) if frames else ""
        return sha256_json([self.messages(request), content, frames, self.max_new_tokens])


def _key(request: Request) -> Key:
    """Return what a reply depends on; options and question, as a rotated or reworded item keeps its id."""
    item = request.item
    return item.id, item.question, item.options, tuple(sorted(request.frames))
