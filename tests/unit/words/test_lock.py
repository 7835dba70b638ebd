"""The lock of a working folder: one holder, the dead are no obstacle, the cut off stop."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from processes import end_of, in_child, start_child
from viarl import lock
from viarl.lock import LOCK, OWNER, SUCCESSOR, FolderLock, LockError, this_process

BEAT_S, STALE_S = 0.1, 1.0
HELD = 42


def folder_lock(folder: Path) -> FolderLock:
    return FolderLock(folder, BEAT_S, STALE_S, give_way_s=20.0)


def try_to_take(folder: Path) -> int:
    """0 if another process got the lock, HELD if it was refused."""

    def attempt() -> None:
        try:
            with folder_lock(folder):
                pass
        except LockError as error:
            print(error, flush=True)
            os._exit(HELD)

    return in_child(attempt)


def hold(folder: Path) -> Callable[[], None]:
    def holding() -> None:
        with folder_lock(folder):
            time.sleep(60)

    return holding


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def elsewhere(folder: Path, **changes: object) -> None:
    """Write the record of a holder on another host."""
    folder.mkdir(exist_ok=True)
    other = replace(this_process(), token="x", host="node7", boot="b", job="12", **changes)
    (folder / OWNER).write_text(json.dumps(asdict(other)))


def test_a_second_process_is_refused_and_told_whose_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with folder_lock(tmp_path / "work"):
        (tmp_path / "work" / "half-written").touch()
        before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "work").iterdir() if path.name != OWNER)
        began = time.monotonic()
        assert try_to_take(tmp_path / "work") == HELD
        assert time.monotonic() - began < 5
        after = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "work").iterdir() if path.name != OWNER)
        assert before == after
        (tmp_path / "work" / "half-written").unlink()
    assert f"process {os.getpid()} on" in capfd.readouterr().out
    assert not (tmp_path / "work").exists()
    assert try_to_take(tmp_path / "work") == 0


def test_kill_9_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    holder = start_child(hold(tmp_path))
    wait_for(tmp_path / OWNER)
    os.kill(holder, signal.SIGKILL)
    assert end_of(holder) == -signal.SIGKILL and (tmp_path / OWNER).exists()
    began = time.monotonic()
    assert try_to_take(tmp_path) == 0
    assert time.monotonic() - began < STALE_S


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    def count() -> None:
        with folder_lock(tmp_path / "work"):
            descriptor = os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL)  # two at once: FileExistsError, status 99
            time.sleep(0.02)
            os.close(descriptor)
            (tmp_path / "inside").unlink()

    def attempts() -> None:
        taken = 0
        while taken < 20:
            try:
                count()
                taken += 1
            except LockError:
                time.sleep(0.001)

    assert [end_of(child) for child in [start_child(attempts) for _ in range(4)]] == [0] * 4


def test_a_silent_holder_on_another_host_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    elsewhere(tmp_path)
    began = time.monotonic()
    assert try_to_take(tmp_path) == 0
    assert STALE_S * 0.9 < time.monotonic() - began < 10
    text = capfd.readouterr().err
    assert "held by process" in text and "on node7, SLURM job 12" in text and "taking over" in text


def test_a_living_holder_on_another_host_refuses(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    newcomer = start_child(lambda: os._exit(try_to_take(tmp_path)))
    for _ in range(20):
        time.sleep(BEAT_S)
        os.utime(tmp_path / OWNER)
    assert end_of(newcomer) == HELD


def test_a_holder_that_was_cut_off_notices_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    with folder_lock(tmp_path) as mine:
        mine.check()
        elsewhere(tmp_path)
        with pytest.raises(LockError, match=r"was taken over by process .* on node7.*stops without writing"):
            mine.check()
        time.sleep(3 * BEAT_S)
        stamp = (tmp_path / OWNER).stat().st_mtime_ns
        time.sleep(3 * BEAT_S)
        assert (tmp_path / OWNER).stat().st_mtime_ns == stamp  # it gives no sign of life in the other's name
    assert "node7" in (tmp_path / OWNER).read_text()


@pytest.mark.parametrize("asks", [False, True])
def test_a_requeued_job_asks_its_earlier_start_to_stop_and_waits(
    asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)

    def orphan() -> None:
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        with folder_lock(tmp_path):
            while not stopped:
                time.sleep(0.01)
            time.sleep(0.3)  # the step that is under way
            (tmp_path / "checkpoint").touch()

    earlier = start_child(orphan)
    wait_for(tmp_path / OWNER)
    assert try_to_take(tmp_path) == HELD  # another process of the same start, as in one allocation
    if asks:
        (tmp_path / "bin").mkdir()
        scontrol = tmp_path / "bin" / "scontrol"
        scontrol.write_text('#!/bin/sh\n[ "$*" = "show job 12" ] && echo "   Requeue=1 Restarts=1 BatchFlag=1"\n')
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    else:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")

    def requeued() -> None:
        with folder_lock(tmp_path):
            assert (tmp_path / "checkpoint").exists()

    assert in_child(requeued) == 0
    assert end_of(earlier) == 0
    assert "is needed by process" in capfd.readouterr().err
    assert not (tmp_path / SUCCESSOR).exists()


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_flock", lambda descriptor: False)
    with folder_lock(tmp_path):
        assert try_to_take(tmp_path) == HELD
    holder = start_child(hold(tmp_path))
    wait_for(tmp_path / OWNER)
    os.kill(holder, signal.SIGKILL)
    end_of(holder)
    assert try_to_take(tmp_path) == 0
    assert not (tmp_path / LOCK).exists()
