"""What the untuned answerer replies to the training questions: its own words are part of what it is tuned towards."""

from collections.abc import Sequence

from viarl.answer.answerer import Answerer, Request
from viarl.items import Item
from viarl.progress import Progress
from viarl.training.checkpoints import Checkpoints


def replies_before(
    answerer: Answerer, usable: Sequence[tuple[Item, tuple[int, ...]]], checkpoints: Checkpoints
) -> list[str]:
    """Return the untuned answerer's replies; those of a stopped attempt are kept with the checkpoints.

    Asked a few videos at a time, always the same ones together, as the company in a batch may change a reply: a resumed
    tuning gets the very replies of an uninterrupted one.
    """
    kept: dict[str, str] = checkpoints.note("replies") or {}
    progress = Progress("replies before tuning", len(usable))
    progress.advance(len(kept), "known before")
    part: list[Request] = []
    ordered = sorted(usable, key=lambda pair: (pair[0].video, pair[0].id))
    for place, (item, frames) in enumerate(ordered, 1):
        part.append(Request(item, frames))
        ends = place == len(ordered) or ordered[place][0].video != item.video
        if ends and (len(part) >= answerer.window or place == len(ordered)):
            if any(request.item.id not in kept for request in part):
                replies = answerer.answer(part, progress)
                kept |= {request.item.id: reply.text for request, reply in zip(part, replies, strict=True)}
                checkpoints.keep_note("replies", kept)
            part = []
    return [kept[item.id] for item, _ in usable]
