"""Files that are whole or absent, whatever happens while they are written."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from processes import in_child
from viarl import files
from viarl.files import atomic_path, clear_write_errors, write_text


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
