"""A set from a hub, as a whole: questions parsed, videos fetched, the account of what is there and what is not."""

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viarl.datasets.hub.fetch import Fetched, Piece, by_hash, fetch_members
from viarl.datasets.hub.manifest import Entry, Source
from viarl.datasets.hub.store import Store
from viarl.datasets.parsed import Parsed
from viarl.items import Item, Video

ANY_LAYOUT = ("*.zip", "*.zip.*", "*.tar", "*.tar.*", "*.tgz", "*.mp4")


@dataclass(frozen=True)
class Choice:
    """What is taken of a data set.

    Args:
        source: module of viarl.datasets that parses it.
        questions_from, videos_from: hub ids; `own_layout`: whether the videos lie there as the module says.
        part: all, train or validation; `subtitles`: whether they are fetched too.
        limit: videos, the first by a hash of their ids; None is all.
        archives: archives that are read, the first ones; None is as many as are needed.
        revisions: branch, tag or commit by hub id; main where there is none.
        drawings: names of those drawings of questions that are taken, of a set that has several; () is all.
        validation_share: share of the videos, 0..1, in the validation part; `split_seed`: of that split.
    """

    source: str
    questions_from: str
    videos_from: str
    own_layout: bool = True
    part: str = "all"
    subtitles: bool = False
    limit: int | None = None
    archives: int | None = None
    revisions: dict[str, str] = field(default_factory=dict)
    drawings: tuple[str, ...] = ()
    validation_share: float = 0.0
    split_seed: int = 0


@dataclass(frozen=True)
class FetchedSet:
    """A set whose files lie in stores: questions, also on missing videos, and by video id what is there.

    `pieces` are relative to the `members_folder`; `sources`: files of the hub that anything came from; `card`: the
    account, as JSON values.
    """

    items: list[Item]
    members_folder: Path
    pieces: dict[str, Piece]
    missing: dict[str, str]
    subtitles: dict[str, Piece]
    sources: list[Source]
    card: dict[str, Any]

    def videos(self, folder: str) -> list[Video]:
        """Return the videos by id, in `folder`; one that is missing has neither size nor hash."""
        found = [Video(video, f"{folder}/{video}", 0, "") for video in self.missing]
        for video, piece in self.pieces.items():
            found.append(Video(video, f"{folder}/{piece.target}", piece.member.size, piece.member.sha256))
        return sorted(found, key=lambda video: video.id)

    def entries(self, folder: str, subtitles: str) -> list[Entry]:
        """Return the files of the manifest: videos in `folder`, subtitles in `subtitles`."""
        videos = [(f"{folder}/{piece.target}", piece) for piece in self.pieces.values()]
        texts = [(f"{subtitles}/{video}.srt", piece) for video, piece in self.subtitles.items()]
        return [Entry(file, one.member.size, one.member.sha256, one.origin) for file, one in videos + texts]


def fetch_set(name: str, stores: Path, choice: Choice, keep_archives: bool = False) -> FetchedSet:
    """Fetch a set into the stores; errors: HubError, ArchiveError, and those of its parser."""
    module: Any = importlib.import_module(f"viarl.datasets.{choice.source}")
    patterns = module.ARCHIVES if choice.own_layout else ANY_LAYOUT

    with _store(stores, choice, choice.questions_from) as store:
        annotations = store.annotations(module.ANNOTATIONS)
        parsed: Parsed = module.parse(annotations, **({"subtitles": True} if choice.subtitles else {}))
        sources = store.sources(annotations)
        commits = {"questions": {"id": store.id, "commit": store.repository.commit}}
    drawn = [item for item in parsed.items if is_drawn(item, choice.drawings)]
    members = {item.video: parsed.members[item.video] for item in drawn}

    with _store(stores, choice, choice.videos_from) as store:
        commits["videos"] = {"id": store.id, "commit": store.repository.commit}
        fetched = fetch_members(store, members, patterns, choice.limit, choice.archives, keep_archives)
        taken = part_of([*fetched.pieces, *fetched.missing], choice.part, choice.validation_share, choice.split_seed)
        items = [item for item in drawn if item.video in taken]
        texts = Fetched()
        if choice.subtitles:
            wanted = {video: member for video, member in parsed.subtitles.items() if video in taken}
            texts = fetch_members(store, wanted, module.SUBTITLES, keep=keep_archives)
            items = module.with_subtitles(items, texts.pieces)
        folder = store.members_folder

    card = {"set": name, "repositories": commits, **_account(parsed, drawn, items, fetched)}
    if choice.subtitles:
        card["subtitles"] = {"there": len(texts.pieces), "missing": sorted(texts.missing)}
    pieces = {video: piece for video, piece in fetched.pieces.items() if video in taken}
    missing = {video: why for video, why in fetched.missing.items() if video in taken}
    sources = [*dict.fromkeys([*sources, *fetched.sources, *texts.sources])]
    return FetchedSet(items, folder, pieces, missing, texts.pieces, sources, card)


def _store(stores: Path, choice: Choice, id: str) -> Store:
    return Store(stores, id, choice.revisions.get(id, "main"))


def is_drawn(item: Item, drawings: Sequence[str]) -> bool:
    """Tell whether an item is in one of the drawings (its group "part=…"), or no choice is made."""
    return not drawings or not {f"part={name}" for name in drawings}.isdisjoint(item.groups)


def part_of(videos: Sequence[str], part: str, share: float, seed: int) -> set[str]:
    """Return the videos of a part: "all", or one side of a split by a hash of seed and id.

    A share above 0 gives each side at least one video; ValueError where there is only one.
    """
    if part == "all":
        return set(videos)
    if share > 0 and len(videos) < 2:
        raise ValueError(f"{len(videos)} video cannot be split; raise hub.limit, or set hub.validation_share to 0")
    count = min(max(round(share * len(videos)), 1), len(videos) - 1) if share > 0 else 0
    validation = set(by_hash(videos, f"validation {seed} ")[:count])
    return validation if part == "validation" else set(videos) - validation


def _account(parsed: Parsed, drawn: list[Item], items: list[Item], fetched: Fetched) -> dict[str, Any]:
    """Return what was found, kept and dropped by reason (found = kept + dropped), and which videos are missing."""
    asked = {item.video for item in items}
    other = "video of the other part"
    outside = Counter(fetched.left_out.get(item.video, other) for item in drawn if item.video not in asked)
    outside["not of hub.viarl_data_parts"] += len(parsed.items) - len(drawn)
    missing = {video: why for video, why in sorted(fetched.missing.items()) if video in asked}
    known = parsed.card()
    return known | {
        "kept": len(items),
        "dropped": dict(sorted((Counter(known["dropped"]) + +outside).items())),
        "videos": {"asked_about": len(asked), "there": len(asked) - len(missing), "missing": missing},
        "questions_on_missing_videos": sum(item.video in missing for item in items),
        "refused": fetched.refused,
    }
