"""List the user's own videos and questions as a set: all of them, or the training or validation part."""

from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.datasets.local import import_questions, split_videos
from viarl.items import write_records
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run

PARTS = ("local", "local_train", "local_validation")


@dataclass(frozen=True)
class Settings:
    """A folder of videos, a file of questions -> a set (viarl.datasets.local), "local" in whole or split by video."""

    folder: Path
    questions: Path
    items: Path
    videos: Path
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
        items, videos = import_questions(settings.folder, settings.questions, labelled=settings.set != "local")
        if settings.set != "local":
            train, validation = split_videos(videos, settings.validation_share, settings.seed)
            kept = train if settings.set == "local_train" else validation
            if not kept:
                raise ValueError(f"{settings.set} would be empty: local.validation_share is 0; raise it")
            items = [item for item in items if item.video in kept]
            videos = [video for video in videos if video.id in kept]
        write_records(settings.videos, sorted(videos, key=lambda video: video.id))
        write_records(settings.items, items)
        run_.log_metrics({"items": len(items), "videos": len(videos)})
    print(f"{settings.set}: {len(items)} questions on {len(videos)} videos", flush=True)


if __name__ == "__main__":
    run(Settings, main)
