"""Answer the user's own questions with a trained pair: a CSV with the frames looked at, the thoughts, the answer."""

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path

from viarl.answer.base import Reply, Request
from viarl.answer.load import load_answerer
from viarl.answer.settings import AnswererSettings
from viarl.command import run
from viarl.files import atomic_path
from viarl.items import LETTERS, Item, Video, read_items, read_videos
from viarl.progress import Progress
from viarl.selection.picks import Pick, read_picks
from viarl.selection.prompt import parse_selection
from viarl.tracking.record import Files, Tracking
from viarl.tracking.start import start_run
from viarl.video.cache import FrameCache

COLUMNS = ("id", "video", "question", "answer", "answer_text", "reply", "times_s", "frames", "thinking", "problem")


@dataclass(frozen=True)
class Settings:
    """Questions, their videos, frames and picks, an answerer -> answers as CSV; `replies` keeps them for others."""

    items: Path
    videos: Path
    manifests: tuple[Path, ...]
    selected: Path
    answerer_model: Path
    output: Path
    answerer: AnswererSettings
    replies: Path | None = None
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def row(item: Item, video: Video, pick: Pick, reply: Reply | None, times: list[float]) -> dict[str, str]:
    """Return one line of the CSV; without options the whole reply is the answer."""
    problem, thinking = pick.failed, ""
    if not pick.failed:
        thinking = parse_selection(pick.text, max(pick.indices) + 1, len(pick.indices)).thinking
        if not pick.valid:
            problem = f"the selector wrote no valid list ({pick.reason}): evenly spread frames instead"
    letter, text = (reply.letter, reply.text) if reply else ("", "")
    if reply and item.options and not letter:
        problem = "; ".join(filter(None, [problem, "the reply names no option"]))
    return {
        "id": item.id,
        "video": os.path.realpath(video.path),
        "question": item.question,
        "answer": letter if item.options else text.strip(),
        "answer_text": item.options[LETTERS.index(letter)] if letter else "",
        "reply": text,
        "times_s": " ".join(f"{time:.2f}" for time in times),
        "frames": " ".join(map(str, pick.indices)),
        "thinking": thinking,
        "problem": problem,
    }


def main(settings: Settings) -> None:
    """Answer every question; one that cannot be answered keeps its row, with the reason."""
    items, videos = read_items(settings.items), read_videos(settings.videos)
    cache = FrameCache(settings.manifests)
    picks = read_picks(settings.selected)
    if missing := [item.id for item in items if item.id not in picks]:
        raise ValueError(f"{settings.selected} lacks {missing[:3]} and others; run select_frames again")
    requests = [Request(item, picks[item.id].indices) for item in items if not picks[item.id].failed]
    params = {"answerer": settings.answerer, "model": str(settings.answerer_model), "items": len(items)}
    data: dict[str, Files] = {"items": settings.items, "frames": settings.manifests, "picks": settings.selected}
    with start_run(settings.tracking, params, data) as run_:
        answerer = load_answerer(settings.answerer_model, settings.answerer, cache, settings.device, settings.replies)
        answered = answerer.answer(requests, Progress("questions", len(requests)))
        replies = {request.item.id: reply for request, reply in zip(requests, answered, strict=True)}
        with atomic_path(settings.output) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS)
            writer.writeheader()
            for item in items:
                pick = picks[item.id]
                times = [] if pick.failed else [float(cache.times(item.video)[index]) for index in pick.indices]
                writer.writerow(row(item, videos[item.video], pick, replies.get(item.id), times))
        run_.log_metrics({"answered": len(replies), "failed": len(items) - len(replies), **answerer.counts()})
        run_.log_artifact(settings.output)
    print(f"{len(replies)} of {len(items)} questions answered: {settings.output}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
