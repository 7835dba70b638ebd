"""Stage cache_frames: decode the candidate frames of one shard's videos into the frame cache.

A video's shard follows from its id (`viarl.items.shard_of`). Files that are there already and match (source, settings,
decoding code) are kept, so a shard that was stopped goes on where it was, and a video that was edited is decoded alone.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from viarl.command import run
from viarl.faults import listed
from viarl.files import write_json
from viarl.items import read_videos, shard_of
from viarl.progress import Progress
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run
from viarl.video.format import VideoError
from viarl.video.reader import check_reader
from viarl.video.settings import CacheSettings
from viarl.video.writer import cache_video, manifest_record

LISTED = 20  # bad videos that an error names
MISSING = "is missing at its source"  # known since its set was made, and judged there (hub.max_missing_share)


@dataclass(frozen=True)
class Settings:
    """A set's videos -> the files of this shard's in `videos/` beside its manifest; see `check_bad` for bad ones."""

    videos: Path
    manifest: Path
    candidates: int
    selector_pixels: int
    answerer_pixels: int
    jpeg_quality: int
    reader: str
    timeout_s: float
    max_bad_share: float
    shard: int
    shards: int
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard {self.shard} must lie in 0..{self.shards - 1} (frames.shards = {self.shards})")


def check_bad(bad: dict[str, str], total: int, settings: Settings) -> None:
    """Raise ValueError with the first bad videos where their share is too large; a file beside the manifest has all."""
    whole = settings.manifest.with_suffix(".bad.json")
    if len(bad) <= settings.max_bad_share * total:
        whole.unlink(missing_ok=True)
        return
    write_json(whole, bad)
    named = listed([f"  {video}: {reason}" for video, reason in bad.items()], LISTED)
    allowed = f"more than frames.max_bad_share = {settings.max_bad_share} allows"
    remedy = "Repair or remove them, or raise frames.max_bad_share."
    what = f"{len(bad)} of {total} videos of {settings.videos} cannot be used, {allowed}. {remedy}"
    raise ValueError(f"{what} All are listed in {whole}:\n{named}")


def main(settings: Settings) -> None:
    """Cache the shard's videos and write its manifest."""
    cache = CacheSettings(**{entry.name: getattr(settings, entry.name) for entry in fields(CacheSettings)})
    every = read_videos(settings.videos)
    mine = [video for video in sorted(every) if shard_of(video, settings.shards) == settings.shard]
    check_reader(settings.reader)
    good: dict[str, dict[str, Any]] = {}
    bad: dict[str, str] = {}
    progress = Progress("videos", len(mine))
    params = {"shard": settings.shard, "shards": settings.shards, **asdict(cache)}
    with start_run(settings.tracking, params, {"videos": settings.videos}) as record:
        for video in mine:
            if not every[video].sha256:
                bad[video] = MISSING
                progress.advance()
                continue
            try:
                good[video] = cache_video(every[video], settings.manifest.parent, cache, settings.timeout_s)
                if good[video]["sha256_source"] != every[video].sha256:
                    print(f"{video}: its file was changed since {settings.videos} was made; taken as it is", flush=True)
            except VideoError as error:
                bad[video] = str(error)
            except OSError:
                raise  # a full disk is no fault of this video
            except Exception as error:  # whatever a library makes of one video, the others go on
                bad[video] = f"cannot be read ({type(error).__name__}: {error})"
            else:
                for note in good[video]["notes"]:
                    print(f"{video}: {note}", flush=True)
            progress.advance(note=f"{len(bad)} bad" if bad else "")
        counted = {"videos": len(good), "bad_videos": len(bad), "frames": sum(entry["n"] for entry in good.values())}
        record.log_metrics({f"frame_cache/{name}": float(count) for name, count in counted.items()}, step=0)
        check_bad({video: why for video, why in bad.items() if why != MISSING}, len(mine), settings)
        write_json(settings.manifest, manifest_record(settings.shard, cache, good, bad))
        if bad:
            named = listed([f"  {video}: {reason}" for video, reason in bad.items()], LISTED)
            print(f"{len(bad)} of {len(mine)} videos cannot be used, as {settings.manifest} says:\n{named}", flush=True)
        record.log_artifact(settings.manifest)


if __name__ == "__main__":
    run(Settings, main)
