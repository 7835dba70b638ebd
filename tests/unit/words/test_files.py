"""Files that are whole or absent, whatever happens while they are written."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from processes import in_child
from viarl import files
from viarl.files import KnownHashes, atomic_path, clear_write_errors, sha256_file, write_text


@pytest.fixture(autouse=True)
def sweep_again() -> None:
    """As in a new process."""
    files._sweep.cache_clear()


def kill_while_writing(path: Path) -> None:
    def child() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(child) == -signal.SIGKILL


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    kill_while_writing(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    left = names(tmp_path) - {"a"}
    assert len(left) == 1
    files._sweep.cache_clear()
    write_text(tmp_path / "b", "new")
    assert names(tmp_path) == {"a", "b"}


def test_temporaries_of_living_processes_and_of_other_hosts_stay(tmp_path: Path) -> None:
    mine, theirs, old = f".a.{files._HOST}.{os.getppid()}.tmp", ".a.node7.1.tmp", ".a.node8.1.tmp"
    for name in (mine, theirs, old, ".hidden.tmp", "b.tmp"):
        (tmp_path / name).touch()
    days_ago = time.time() - files.ABANDONED_S - 1
    for name in (old, "b.tmp"):
        os.utime(tmp_path / name, (days_ago, days_ago))
    write_text(tmp_path / "a", "new")
    assert names(tmp_path) == {"a", mine, theirs, ".hidden.tmp", "b.tmp"}


def test_errors_that_are_not_about_space_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="theirs"), clear_write_errors(tmp_path / "mine"):
        raise PermissionError(errno.EACCES, "Permission denied", "theirs")
    with pytest.raises(RuntimeError, match="of mine"), clear_write_errors(tmp_path / "mine"):
        raise RuntimeError("of mine")


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it changes; also after an error, and where the file of hashes is damaged or was deleted."""
    memo, names_read = tmp_path / "hashes.json", []
    monkeypatch.setattr(files, "sha256_file", lambda path: names_read.append(path.name) or sha256_file(path))
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def read(*asked: str) -> list[str]:
        names_read.clear()
        with KnownHashes(memo) as known:
            assert [known.sha256(tmp_path / name) for name in asked] == [sha256_file(tmp_path / name) for name in asked]
        return [*names_read]

    assert read("a") == ["a"] and read("a", "b", "b") == ["b"] and read("a", "b") == []
    os.utime(tmp_path / "a", (1, 1))
    assert read("a", "b") == ["a"]
    (tmp_path / "new").write_text("c")
    (tmp_path / "new").replace(tmp_path / "b")
    with pytest.raises(FileNotFoundError), KnownHashes(memo) as known:
        known.sha256(tmp_path / "b")
        known.sha256(tmp_path / "none")
    assert read("a", "b") == []
    for content in ("{", "[1]"):
        memo.write_text(content)
        assert read("a") == ["a"]
    memo.unlink()
    assert read("a") == ["a"]


def test_a_file_that_changes_while_it_is_hashed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(files, "sha256_file", lambda path: path.write_text("longer") and "")
    with pytest.raises(OSError, match="was changed while it was read"), KnownHashes(tmp_path / "memo") as known:
        known.sha256(tmp_path / "a")
    assert not (tmp_path / "memo").exists()
