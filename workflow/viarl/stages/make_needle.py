"""Generate one set of needle videos, in `videos/` beside the listing, with their questions and evidence.

A job that was cut off goes on where it stopped; a note beside the videos says from which seed and code they come, and
videos of another origin are made again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av

from viarl.command import run
from viarl.datasets.needle import Scene, make_set
from viarl.datasets.needle_render import encode, render
from viarl.files import atomic_path, read_json, sha256_file, write_json
from viarl.identity import fingerprint
from viarl.items import Video, write_records
from viarl.progress import Progress
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run


@dataclass(frozen=True)
class Settings:
    """`split` is train, validation, test or shifted; `count` is the number of videos."""

    set: str
    split: str
    seed: int
    count: int
    questions_per_video: int
    items: Path
    videos: Path
    tracking: Tracking = field(default_factory=Tracking)


def _prepare(folder: Path, origin: dict[str, object], wanted: set[str]) -> None:
    """Keep the videos of an earlier attempt if they have the same origin; delete what is not wanted."""
    note = folder / "origin.json"
    same = note.exists() and read_json(note) == origin
    for path in folder.glob("*.mp4"):
        if not same or path.name not in wanted:
            path.unlink()
    if not same:
        write_json(note, origin)


def _is_whole(path: Path, frames: int) -> bool:
    """Tell whether a video is there with all its frames (their table lies at the end, so a cut file has none)."""
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames == frames
    except (FileNotFoundError, av.error.FFmpegError):
        return False


def _write_videos(scenes: list[Scene], folder: Path) -> Iterator[Video]:
    progress = Progress("videos", len(scenes))
    for scene in scenes:
        path = folder / f"{scene.id}.mp4"
        if not _is_whole(path, scene.frames):
            with atomic_path(path) as temporary:
                encode(render(scene), temporary, scene.quality)
        yield Video(scene.id, f"{folder.name}/{path.name}", path.stat().st_size, sha256_file(path))
        progress.advance()


def main(settings: Settings) -> None:
    """Make the set; ValueError for an unknown split or more questions than a video can bear."""
    parameters = {"set": settings.set, "split": settings.split, "seed": settings.seed, "videos": settings.count}
    with start_run(settings.tracking, params=parameters) as record:
        scenes, items = make_set(settings.seed, settings.split, settings.count, settings.questions_per_video)
        folder = settings.videos.parent / "videos"
        folder.mkdir(parents=True, exist_ok=True)
        code = fingerprint("viarl.datasets.needle_render")
        origin = {"split": settings.split, "seed": settings.seed, "code": code, "pyav": av.__version__}
        _prepare(folder, origin, {f"{scene.id}.mp4" for scene in scenes})
        write_records(settings.videos, list(_write_videos(scenes, folder)))
        write_records(settings.items, items)
        temporal = sum(item.task != "none" for item in items)
        record.log_metrics({"videos": len(scenes), "questions": len(items), "temporal": temporal})
        print(f"{settings.set}: {len(scenes)} videos, {len(items)} questions, {temporal} of them with words of time")


if __name__ == "__main__":
    run(Settings, main)
