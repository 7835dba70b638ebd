"""The videos of a set from a store: which are taken, which archives are read for them, and what is missing in the end.

Archives are read in the order of their numbers, each fetched, looked through and deleted before the next, until every
video that is taken is there. What an archive holds is remembered, so none is fetched again for what it does not hold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from viarl.datasets.hub.archives import Member
from viarl.datasets.hub.manifest import Origin, Source
from viarl.datasets.hub.store import Archive, Store, check_room
from viarl.datasets.parsed import Claims, located
from viarl.progress import say


@dataclass(frozen=True)
class Piece:
    """A file of the store that a set uses: its name below the store's members, its content, where it came from."""

    target: str
    member: Member
    origin: Origin


@dataclass
class Fetched:
    """What a set takes: by video id what is there, why it is missing, and why it is left out (hub.archives, hub.limit).

    `refused`: members that were not written, with reasons, by archive. `sources`: the archives' parts that were used.
    """

    pieces: dict[str, Piece] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)


def by_hash(videos: Iterable[str], seed: str = "") -> list[str]:
    """Return video ids in an order that depends on each id alone, so that the first n of a set stay the first."""
    return sorted(videos, key=lambda video: (hashlib.sha256(f"{seed}{video}".encode()).digest(), video))


def fetch_members(
    store: Store,
    members: dict[str, str],
    patterns: Sequence[str],
    limit: int | None = None,
    archives: int | None = None,
    keep: bool = False,
) -> Fetched:
    """Fetch the members (id -> name or ending of a name) that lie in the archives or files that match the patterns.

    `limit`: how many are taken, the first by a hash of their ids. `archives`: how many are read, the first ones; what
    lies in others is left out; without effect where the videos are files themselves. None is all. With `keep` archives
    stay after they were read.
    """
    every = store.archives(patterns)
    if not every:
        return Fetched(missing=dict.fromkeys(members, f"the repository has no file {' or '.join(patterns)}"))
    first = every if archives is None or all(one.plain for one in every) else every[:archives]
    reader = _Reader(store, first, members, keep)
    found = Fetched()
    candidates = set(members)
    if len(first) < len(every):
        reader.check_room_to_look()
        candidates = set(located(members, (name for one in reader.archives for name in store.contents(one).names)))
        found.left_out = dict.fromkeys(sorted(set(members) - candidates), "video beyond hub.archives")
    chosen = by_hash(candidates)[:limit]
    found.left_out.update(dict.fromkeys(sorted(candidates - set(chosen)), "video beyond hub.limit"))
    reader.read_until_there(set(chosen), len(chosen) / max(1, len(members)))
    reader.account(chosen, found)
    return found


class _Reader:
    def __init__(self, store: Store, archives: Sequence[Archive], members: dict[str, str], keep: bool) -> None:
        self.store, self.archives, self.members, self.keep = store, archives, members, keep
        self.claims = Claims(members)

    def there(self) -> dict[str, tuple[Archive, str, Member]]:
        """Return by target what lies in the store of these archives; of equal targets the first archive's."""
        found: dict[str, tuple[Archive, str, Member]] = {}
        for archive in self.archives:
            record = self.store.record(archive)
            for target, member in record.files.items() if record else ():
                if self.store.lies_here(target, member):
                    found.setdefault(target, (archive, target, member))
        return found

    def _is_one_of(self, videos: set[str], name: str) -> bool:
        return not videos.isdisjoint(set().union(*self.claims.of(name)))

    def _may_hold(self, archive: Archive, wanted: set[str]) -> bool:
        record = self.store.record(archive)
        names = [archive.name] if archive.plain else record.names if record else None
        return names is None or any(self._is_one_of(wanted, name) for name in names)

    def _taken_out(self, archive: Archive, wanted: set[str], otherwise: float) -> int:
        if archive.plain:
            return archive.size
        record = self.store.record(archive)
        if record and record.names:
            otherwise = sum(self._is_one_of(wanted, name) for name in record.names) / len(record.names)
        return int(1.05 * archive.size * otherwise)

    def _look_into_all(self) -> None:
        for archive in self.archives:
            if self.store.record(archive) is None:
                self.store.look_into(archive)

    def check_room_to_look(self) -> None:
        """Raise HubError where archives that must be fetched to know what they hold do not fit, all together."""
        self._look_into_all()
        unknown = [one for one in self.archives if not one.plain and self.store.record(one) is None]
        needed = sum(max(0, one.size - self.store.fetched_bytes(one)) for one in unknown)
        if needed:  # what is taken out of them is reckoned with once that is known
            check_room(self.store.folder, needed, f" for {len(unknown)} archives to look into", "hub.archives")

    def room(self, wanted: set[str], share: float) -> tuple[int, str]:
        """Return the bytes that must be free before the first is fetched, and the sum in words.

        Room = archives that lie there at one time (the largest, or all where they are kept), less what is there of them
        + what is taken out: 1.05 times the size of each that is read, times the share of its members that is wanted
        (films do not shrink in an archive); where these are not known, times `share`.
        """
        needed = [archive for archive in self.archives if self._may_hold(archive, wanted)]
        packed = [archive.size for archive in needed if not archive.plain]
        held = sum(packed) if self.keep else max(packed, default=0)
        there = sum(self.store.fetched_bytes(archive) for archive in needed)
        out = sum(self._taken_out(archive, wanted, share) for archive in needed)
        why = f" ({held / 1e9:.2f} GB for archives at one time, {out / 1e9:.2f} GB for what is taken out)"
        return max(0, held - there) + out, why

    def read_until_there(self, wanted: set[str], share: float) -> None:
        """Fetch and read archives until the wanted members are there or none is left; `share`: as of `room`."""
        lacking = wanted - set(located({video: self.members[video] for video in wanted}, self.there()))
        if lacking:
            if len(wanted) < len(self.members):
                self._look_into_all()
            check_room(self.store.folder, *self.room(lacking, share))
        for archive in self.archives:
            if lacking and self._may_hold(archive, lacking):
                say(f"{archive.name}: is read; {len(lacking)} of {len(wanted)} are still looked for")
                found = self.store.take(archive, partial(self._is_one_of, lacking), self.keep)
                lacking -= set(located({video: self.members[video] for video in lacking}, found.files))
            elif not self.keep:
                self.store.drop(archive)  # of a reading that ended before

    def account(self, chosen: Sequence[str], found: Fetched) -> None:
        """Write down what is there, what is missing, and from where."""
        there = self.there()
        names = located({video: self.members[video] for video in chosen}, there)
        used: set[str] = set()
        for archive in self.archives:
            record = self.store.record(archive)
            if record and record.refused:
                found.refused[archive.name] = record.refused
        for video in sorted(chosen):
            if video in names:
                archive, target, member = there[names[video]]
                inside = "" if archive.plain else member.name
                origin = Origin(self.store.id, self.store.repository.commit, archive.name, inside)
                found.pieces[video] = Piece(target, member, origin)
                used.add(archive.name)
            else:
                found.missing[video] = self._why_missing(video, found.refused)
        parts = [part.path for archive in self.archives for part in archive.parts if archive.name in used]
        found.sources = self.store.sources(parts)

    def _why_missing(self, video: str, refused: dict[str, dict[str, str]]) -> str:
        for archive, reasons in refused.items():
            for name, reason in reasons.items():
                if self._is_one_of({video}, name.strip("'\"")):
                    return f"{archive} holds it as {name}, which is refused: {reason}"
        return f"{self.members[video]} is in none of {len(self.archives)} archives of {self.store.id}"
