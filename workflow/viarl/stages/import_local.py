"""List the user's own videos and questions as a set: all of them, or the training or validation part.

The lists hold what the files contain, not where they are: `videos` beside them is a link to the folder.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from viarl.command import run
from viarl.datasets.local import import_questions, split_videos
from viarl.files import KnownHashes, link_to
from viarl.items import write_records
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run

PARTS = ("local", "local_train", "local_validation")
LINK = "videos"


@dataclass(frozen=True)
class Settings:
    """A folder of videos, a file of questions -> a set (viarl.datasets.local), "local" in whole or split by video."""

    folder: Path
    questions: Path
    items: Path
    videos: Path
    known_hashes: Path  # of the videos, so that each is read once
    set: str
    validation_share: float
    seed: int = 0
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        if self.set not in PARTS:
            raise ValueError(f"set {self.set!r} must be one of {list(PARTS)}")


def main(settings: Settings) -> None:
    """Check everything, then write both files; items.jsonl last."""
    params = {"set": settings.set, "validation_share": settings.validation_share, "seed": settings.seed}
    with start_run(settings.tracking, params) as run_:
        with KnownHashes(settings.known_hashes) as known:
            labelled = settings.set != "local"
            items, videos = import_questions(settings.folder, settings.questions, labelled, known.sha256)
        if settings.set != "local":
            train, validation = split_videos(videos, settings.validation_share, settings.seed)
            kept = train if settings.set == "local_train" else validation
            if not kept:
                raise ValueError(f"{settings.set} would be empty: local.validation_share is 0; raise it")
            items = [item for item in items if item.video in kept]
            videos = [video for video in videos if video.id in kept]
        home, target = settings.folder.resolve(), settings.videos.parent
        target.mkdir(parents=True, exist_ok=True)
        # a folder that is given relative is moved along with the results
        link_to(target / LINK, str(home) if settings.folder.is_absolute() else os.path.relpath(home, target.resolve()))
        listed = [replace(video, path=os.path.join(LINK, os.path.relpath(video.path, home))) for video in videos]
        write_records(settings.videos, sorted(listed, key=lambda video: video.id))
        write_records(settings.items, items)
        run_.log_metrics({"items": len(items), "videos": len(videos)})
    print(f"{settings.set}: {len(items)} questions on {len(videos)} videos", flush=True)


if __name__ == "__main__":
    run(Settings, main)
