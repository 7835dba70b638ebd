"""Fetch a set from a hub: its annotations become items, its videos are taken out of their archives.

What is fetched lies in the stores below `store`, shared by all sets; `videos` beside videos.jsonl is a link there. A
job that was stopped at any moment goes on where it was, and ends in the same files.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.datasets.hub.dataset import Choice, FetchedSet, fetch_set
from viarl.datasets.hub.manifest import write_manifest
from viarl.datasets.hub.settings import HubRuntime
from viarl.faults import listed
from viarl.files import atomic_path, link_to, write_json
from viarl.items import write_records
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run

VIDEOS, SUBTITLES = "videos", "subtitles"  # folders beside the lists
LISTED = 10  # missing videos that an error names


@dataclass(frozen=True)
class Settings:
    """What is taken of a data set -> its items, videos, manifest and data card, all in one folder."""

    items: Path
    videos: Path
    manifest: Path
    card: Path
    store: Path  # folder of all stores
    set: str
    choice: Choice
    hub: HubRuntime = field(default_factory=HubRuntime)
    tracking: Tracking = field(default_factory=Tracking)


def check_missing(made: FetchedSet, settings: Settings) -> None:
    """Raise ValueError where a larger share of the videos is missing than may be."""
    total, allowed = len(made.pieces) + len(made.missing), settings.hub.max_missing_share
    if not made.pieces or len(made.missing) > allowed * total:
        named = listed([f"  {video}: {why}" for video, why in sorted(made.missing.items())], LISTED)
        what = f"{len(made.missing)} of {total} videos are missing at their source"
        remedy = "raise it, or set hub.revisions to a commit that has them"
        share = f"more than hub.max_missing_share = {allowed} allows"
        raise ValueError(f"{settings.set}: {what}, {share}; {remedy}:\n{named}")


def main(settings: Settings) -> None:
    """Fetch the set and write its files, the manifest last; ValueError for a set without any item."""
    params = {"set": settings.set, "limit": settings.choice.limit, "archives": settings.choice.archives}
    with start_run(settings.tracking, params) as record:
        made = fetch_set(settings.set, settings.store, settings.choice, settings.hub.keep_archives)
        if not made.items:
            remedy = "take more (hub.limit, hub.archives, hub.validation_share)"
            raise ValueError(f"{settings.set} would be empty: {made.card['dropped']}; {remedy}")
        check_missing(made, settings)
        settings.videos.parent.mkdir(parents=True, exist_ok=True)
        folder = settings.videos.parent  # the link is relative, so that both can be moved together
        link_to(folder / VIDEOS, os.path.relpath(made.members_folder.resolve(), folder.resolve()))
        for video, piece in made.subtitles.items():
            with atomic_path(settings.items.parent / SUBTITLES / f"{video}.srt") as temporary:
                shutil.copyfile(made.members_folder / piece.target, temporary)
        write_records(settings.videos, made.videos(VIDEOS))
        write_records(settings.items, made.items)
        write_json(settings.card, made.card)
        write_manifest(settings.manifest, settings.set, made.sources, made.entries(VIDEOS, SUBTITLES))
        record.log_metrics({"items": len(made.items), "videos": len(made.pieces), "missing": len(made.missing)})
        record.log_artifact(settings.manifest)
    taken = f"{len(made.items)} of {made.card['found']} questions on {len(made.pieces)} videos"
    print(f"{settings.set}: {taken}, {len(made.missing)} missing; dropped: {made.card['dropped']}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
