"""Archives from outside: what is taken out, what is refused and why, in zip and tar, whole and in parts."""

import gzip
import io
import random
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from viarl.datasets.hub import archives
from viarl.datasets.hub.archives import ArchiveError, Extracted, Joined, extract, names, whole_name
from viarl.files import sha256_file

FILM = random.Random(3).randbytes(200_000)
MEMBERS = {"data/a.mp4": FILM, "data/b.mp4": FILM[::-1], "data/sub/c.mp4": FILM[:1000], "notes.txt": b"no film"}
Make = Callable[[Path, Sequence[tuple[str, bytes]]], Path]


def make_zip(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def tar_as(mode: str) -> Make:
    def make(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
        with tarfile.open(path, f"w:{mode}") as archive:
            for name, data in members:
                add(archive, name, data)
        return path

    return make


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **attributes: object) -> None:
    """Add a member to a tar; with a type or a link's target, one of that kind."""
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


MAKERS = {"zip": make_zip, "tar": tar_as(""), "tar.gz": tar_as("gz"), "tar.xz": tar_as("xz"), "tar.bz2": tar_as("bz2")}


def films(name: str) -> str | None:
    return name if name.endswith(".mp4") else None


def cut(path: Path, sizes: Sequence[int]) -> list[Path]:
    """Cut a file into parts of the given sizes, and the rest."""
    data, parts, at = path.read_bytes(), [], 0
    for number, size in enumerate([*sizes, len(path.read_bytes())], 1):
        part = path.with_name(f"{path.name}.{number:03}")
        part.write_bytes(data[at : at + size])
        at += size
        parts.append(part)
    path.unlink()
    return parts


def check_films(found: Extracted, folder: Path) -> None:
    assert set(found.files) == {name for name in MEMBERS if name.endswith(".mp4")}
    for target, member in found.files.items():
        assert (folder / target).read_bytes() == MEMBERS[target]
        assert (member.size, member.sha256) == (len(MEMBERS[target]), sha256_file(folder / target))
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == set(found.files)


def test_all_members_of_a_gzip_are_read(tmp_path: Path) -> None:
    """Parallel compressors write many; this cut lies where a tar may end."""
    data = MAKERS["tar"](tmp_path / "a.tar", [*MEMBERS.items()]).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data[:1024]) + gzip.compress(data[1024:]))
    check_films(extract([tmp_path / "a.tar.gz"], films, tmp_path / "out"), tmp_path / "out")


@pytest.mark.parametrize("kind", MAKERS)
def test_wanted_members_alone_are_written(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / f"a.{kind}", [*MEMBERS.items()])
    found = extract([path], films, tmp_path / "out")
    check_films(found, tmp_path / "out")
    assert found.names == [*MEMBERS]
    assert found.refused == {}
    assert names(Joined([path]), "a") == [*MEMBERS]


class Unmarked(zipfile.ZipInfo):
    """A member whose name is UTF-8 and does not say so, as Macs write them."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), self.flag_bits


def test_names_in_a_zip_of_windows_or_a_mac(tmp_path: Path) -> None:
    names = ["data\\a.mp4", "data/\u00e9.mp4"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for info in (*map(zipfile.ZipInfo, names), Unmarked("data/cafe\u0301.mp4")):
            archive.writestr(info, FILM)
    found = extract([tmp_path / "a.zip"], films, tmp_path / "out")
    assert [*found.files] == ["data/a.mp4", "data/\u00e9.mp4", "data/cafe\u0301.mp4"] and not found.refused


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("sizes", [(1,), (3, 1, 2), (50_000, 10, 70_000), (10,) * 30])
def test_parts_are_read_as_one(tmp_path: Path, kind: str, sizes: tuple[int, ...]) -> None:
    parts = cut(MAKERS[kind](tmp_path / f"a.{kind}", [*MEMBERS.items()]), sizes)
    check_films(extract(parts, films, tmp_path / "out"), tmp_path / "out")


def test_parts_are_not_copied_together(tmp_path: Path) -> None:
    """20 MB in 10 parts: neither memory nor disk holds more than a few pieces of it beside what is taken out."""
    large = random.Random(4).randbytes(10_000_000)
    path = make_zip(tmp_path / "a.zip", [("x.mp4", large), ("y.mp4", large[::-1]), ("z.mp4", b"small")])
    parts = cut(path, [2_000_000] * 9)
    del large
    before = sorted(tmp_path.iterdir())
    tracemalloc.start()
    found = extract(parts, lambda name: name if name == "z.mp4" else None, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out/z.mp4").read_bytes() == b"small" and set(found.files) == {"z.mp4"}
    assert sorted(path for path in tmp_path.iterdir() if path.name != "out") == before
    assert peak < 5_000_000


def test_random_places_of_joined_files(tmp_path: Path) -> None:
    data = random.Random(5).randbytes(5000)
    path = tmp_path / "a"
    path.write_bytes(data)
    parts = cut(path, [1000, 0, 1, 2500])
    generator = random.Random(6)
    with Joined(parts) as joined:
        for _ in range(200):
            start, count = generator.randrange(5200), generator.randrange(600)
            joined.seek(start)
            assert _read(joined, count) == data[start : start + count]
        assert joined.seek(-10, io.SEEK_END) == 4990


def _read(raw: io.RawIOBase, count: int) -> bytes:
    pieces = b""
    while len(pieces) < count and (piece := raw.read(count - len(pieces))):
        pieces += piece
    return pieces


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_what_is_there_with_the_right_size_is_kept(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / f"a.{kind}", [*MEMBERS.items()])
    out = tmp_path / "out/data"
    out.mkdir(parents=True)
    (out / "a.mp4").write_bytes(FILM)
    (out / "b.mp4").write_bytes(b"cut")
    before = (out / "a.mp4").stat().st_mtime_ns, (out / "a.mp4").stat().st_ino
    check_films(extract([path], films, tmp_path / "out"), tmp_path / "out")
    assert ((out / "a.mp4").stat().st_mtime_ns, (out / "a.mp4").stat().st_ino) == before
    (out / "a.mp4").write_bytes(b"x" * len(FILM))
    check_films(extract([path], films, tmp_path / "out", trusted=False), tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "evil", ["/etc/evil.mp4", "../evil.mp4", "data/../../evil.mp4", "C:/evil.mp4", "a\\..\\evil.mp4", "a\nb.mp4"]
)
def test_names_that_lead_out_are_refused_with_a_reason(tmp_path: Path, kind: str, evil: str) -> None:
    path = MAKERS[kind](tmp_path / f"a.{kind}", [(evil, b"evil"), ("good.mp4", b"good")])
    found = extract([path], films, tmp_path / "deep/out")
    assert set(found.files) == {"good.mp4"}
    assert [*found.refused.values()] == ["name leads out of the folder"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"a.{kind}", "good.mp4"}
    assert evil not in found.names


def test_targets_that_lead_out_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", [("a.mp4", b"x")])
    found = extract([path], lambda name: f"../{name}", tmp_path / "out")
    assert found.files == {} and "leads out of the folder" in found.refused["'a.mp4'"]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_in_tars_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "data/a.mp4", type=kind, linkname="/etc/passwd")
        add(archive, "data/b.mp4", b"good")
    found = extract([tmp_path / "a.tar.gz"], films, tmp_path / "out")
    assert set(found.files) == {"data/b.mp4"}
    assert found.refused == {"'data/a.mp4'": "is a link, a device or sparse"}
    assert not (tmp_path / "out/data/a.mp4").exists()


def test_a_link_in_a_tar_does_not_redirect_what_follows(tmp_path: Path) -> None:
    """A link to a folder outside, then a file through it: the link is not made, so the file lands inside."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "data", type=tarfile.SYMTYPE, linkname=str(tmp_path / "outside"))
        add(archive, "data/a.mp4", b"film")
    (tmp_path / "outside").mkdir()
    extract([tmp_path / "a.tar"], films, tmp_path / "out")
    assert not [*(tmp_path / "outside").iterdir()]
    assert (tmp_path / "out/data/a.mp4").read_bytes() == b"film"


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zips_are_refused(tmp_path: Path, mode: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a.mp4")
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    found = extract([tmp_path / "a.zip"], films, tmp_path / "out")
    assert found.files == {} and found.refused == {"'a.mp4'": "is a link or a device"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_of_two_members_of_a_name_the_first_is_taken(tmp_path: Path, kind: str) -> None:
    members = [("a.mp4", b"first"), ("a.mp4", b"other"), ("x/a.mp4", b"third")]
    with pytest.warns(UserWarning) if kind == "zip" else nullcontext():
        path = MAKERS[kind](tmp_path / f"a.{kind}", members)
    found = extract([path], lambda name: "a.mp4", tmp_path / "out")
    assert (tmp_path / "out/a.mp4").read_bytes() == b"first"
    assert found.refused == dict.fromkeys(["'a.mp4'", "'x/a.mp4'"], "comes twice; the first is taken")


def test_a_member_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "a.zip", [("a.mp4", FILM), ("b.mp4", b"x")])
    found = extract([path], films, tmp_path / "out", largest=1000)
    assert set(found.files) == {"b.mp4"}
    assert found.refused == {"'a.mp4'": "200000 bytes are more than 1000"}


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SLACK", 1_000_000)
    path = make_zip(tmp_path / "a.zip", [("bomb.mp4", bytes(30_000_000)), ("good.mp4", FILM)])
    assert path.stat().st_size < 300_000
    found = extract([path], films, tmp_path / "out")
    assert set(found.files) == {"good.mp4"}
    assert "unpacks from" in found.refused["'bomb.mp4'"]


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path) -> None:
    """Many entries that point to one member: a small file that unpacks to as much as one likes."""
    path = make_zip(tmp_path / "a.zip", [("a.mp4", FILM)])
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(20):
            twin = zipfile.ZipInfo(f"{number}.mp4")
            first = archive.infolist()[0]
            for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(twin, name, getattr(first, name))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    with pytest.raises(ArchiveError, match=r"a.zip: its members take \d+ bytes of \d+, so they overlap"):
        extract([path], films, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tar_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that states 10 TB, in an archive of some kB; and one whose padding alone is a bomb."""
    monkeypatch.setattr(archives, "SLACK", 1_000_000)
    info = tarfile.TarInfo("a.mp4")
    info.size = 10**13
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1_000_000)))
    with pytest.raises(ArchiveError, match=r"a.tar.gz: unpacks to 1\d{13} bytes and more; it is not unpacked"):
        extract([tmp_path / "a.tar.gz"], films, tmp_path / "out")
    path = tar_as("gz")(tmp_path / "b.tar.gz", [("no.txt", bytes(40_000_000)), ("a.mp4", b"x")])
    with pytest.raises(ArchiveError, match="it is not unpacked"):
        extract([path], films, tmp_path / "out")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", [("a.mp4", FILM)])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")  # 100 bytes instead of 200,000
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"a.zip: cannot be read as an archive \(Bad CRC-32"):
        extract([path], films, tmp_path / "out")
    assert not [*(tmp_path / "out").rglob("*.mp4")]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_damaged_archive_is_one_line_and_leaves_nothing_half(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / f"a.{kind}", [*MEMBERS.items()])
    path.write_bytes(path.read_bytes()[: 250_000 if kind != "tar" else 300_000])
    with pytest.raises(ArchiveError, match=rf"a.{kind}: cannot be read as an archive \(.*delete it") as told:
        extract([path], films, tmp_path / "out")
    assert "\n" not in str(told.value)
    for written in (tmp_path / "out").rglob("*.mp4"):
        assert written.read_bytes() == MEMBERS[written.relative_to(tmp_path / "out").as_posix()]


def test_what_is_no_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(ArchiveError, match=r"a.zip: cannot be read as an archive"):
        extract([tmp_path / "a.zip"], films, tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        ("a.zip", "a.zip"),
        ("x/videos_1.tar.gz", "x/videos_1.tar.gz"),
        ("all_videos_split.zip.001", "all_videos_split.zip"),
        ("v.tar.part.aa", "v.tar"),
        ("v.tar.gz.part-12", "v.tar.gz"),
        ("v.tar.gzab", "v.tar.gz"),
        ("v.mp4", None),
        ("v.json", None),
        ("video_part_1.zip", "video_part_1.zip"),
    ],
)
def test_names_of_archives_and_parts(path: str, whole: str | None) -> None:
    assert whole_name(path) == whole


def test_zips_in_volumes_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="in several volumes"):
        whole_name("a.z01")
