"""Compute the CLIP similarity of every candidate frame and question of one shard."""

from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.items import read_items
from viarl.models.clip import load_clip
from viarl.progress import Progress
from viarl.selection.settings import ClipSettings
from viarl.selection.similarities import similarities, write_scores
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run
from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class Settings:
    """Questions of a set and one shard of its frames -> similarities of the questions on that shard's videos."""

    items: Path
    manifest: Path
    model: Path  # folder of the stand-in, or an open_clip model name
    output: Path
    clip: ClipSettings = field(default_factory=ClipSettings)
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Score the shard; see viarl.selection.similarities."""
    cache = FrameCache([settings.manifest])
    videos = set(cache.videos())
    items = [item for item in read_items(settings.items) if item.video in videos]
    data = {"items": settings.items, "frames": settings.manifest}
    with start_run(settings.tracking, {"clip": settings.clip, "model": str(settings.model)}, data) as run_:
        name = settings.model if settings.model.is_dir() else str(settings.model)
        model = load_clip(name, settings.clip.pretrained, device=settings.device)
        progress = Progress("videos", len({item.video for item in items}))
        scores = similarities(model, cache, items, settings.clip.batch_size, progress)
        write_scores(settings.output, scores)
        run_.log_metrics({"items": len(scores), "videos": len(videos)})


if __name__ == "__main__":
    run(Settings, main)
