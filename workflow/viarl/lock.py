"""A lock on a working folder: one process at a time may write it, also across hosts; the dead leave nothing stale.

On one host the kernel decides: an flock dies with its holder, even with kill -9. Between hosts that share a file system
an flock may not be seen, so the holder's record, `owner.json`, names it, and the record's modification time is renewed
every half a minute. A holder on another host that is silent for minutes is taken for dead and its lock is taken over;
one that gives a sign of life stops the newcomer. A holder that was cut off and lives on finds at its next step that
the record is no longer its own, and stops without writing (`check`).

SLURM requeues a job under the same id after the loss of a node, while the earlier process may live on there. The later
start then asks the earlier one to stop, by `successor.json`, and waits for it; the earlier one takes that as a SIGTERM.

filelock's SoftFileLease would be shorter, but where a file system cannot swap two names (NFS) it never takes over from
the dead, nor anywhere from one whose record was lost with its node, and at once from a living machine of the same name.
"""

import dataclasses
import fcntl
import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from viarl.files import is_alive, read_json, write_json
from viarl.progress import say

LOCK, OWNER, SUCCESSOR = "lock", "owner.json", "successor.json"
BEAT_S = 30.0  # seconds between signs of life
STALE_S = 300.0  # silence after which a holder on another host is taken for dead
GIVE_WAY_S = 1800.0  # longest wait for an earlier start of the same SLURM job, which may have a long step to finish


class LockError(ValueError):
    """The folder belongs to another process."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. `boot` tells two machines of one name apart; `restarts` counts SLURM's requeues of `job`."""

    token: str
    host: str
    boot: str
    pid: int
    job: str
    restarts: int
    since: str

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"

    def neighbour(self, other: "Owner") -> bool:
        """Tell whether both run on the same machine."""
        return (self.host, self.boot) == (other.host, other.boot)

    def follows(self, other: "Owner") -> bool:
        """Tell whether this is a later start of the same SLURM job."""
        return bool(self.job) and self.job == other.job and self.restarts > other.restarts


def this_process() -> Owner:
    """Return this process as an owner."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    job, since = os.environ.get("SLURM_JOB_ID", ""), time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(uuid.uuid4().hex, socket.gethostname(), boot, os.getpid(), job, _restarts(job), since)


def _restarts(job: str) -> int:
    """Return how often SLURM has requeued this process's job; a job's inner steps are not told and have to ask."""
    known = os.environ.get("SLURM_RESTART_COUNT")
    if known or not job:
        return int(known or 0)
    ask = ["scontrol", "show", "job", job]
    try:
        shown = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\bRestarts=(\d+)", shown)
    return int(found[1]) if found else 0


class FolderLock:
    """Holds `folder` within a `with` block, which raises LockError where a living process holds it.

    Nothing in the folder but the lock's own files is written or deleted here.
    """

    def __init__(
        self, folder: Path, beat_s: float = BEAT_S, stale_s: float = STALE_S, give_way_s: float = GIVE_WAY_S
    ) -> None:
        self.folder, self.beat_s, self.stale_s, self.give_way_s = folder, beat_s, stale_s, give_way_s
        self.me: Owner | None = None
        self._descriptor = -1
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        me = this_process()
        began, first = time.monotonic(), None
        try:
            while not self._take(me):
                waited, seen = time.monotonic() - began, (self._holder(), self._sign())
                holder, sign = seen
                if holder is None or sign is None:  # another newcomer is taking it, or the holder is leaving
                    if waited > max(self.stale_s, 10.0):
                        raise LockError(f"{self.folder} is in use by another process; end it, then run this again")
                elif me.follows(holder) and waited < self.give_way_s:
                    write_json(self.folder / SUCCESSOR, dataclasses.asdict(me))
                elif me.neighbour(holder) or (first is not None and seen != first):
                    raise LockError(
                        f"{self.folder} is in use by {holder}: wait until it has finished, or end it, then run the "
                        "same command again"
                    )
                if first is None and holder is not None:
                    first = seen
                    say(f"{self.folder} is held by {holder}: waiting for it to end")
                time.sleep(min(1.0, self.beat_s))
        finally:
            if first is not None:
                (self.folder / SUCCESSOR).unlink(missing_ok=True)
        self.me = me
        self._stop = threading.Event()
        threading.Thread(target=self._beat, args=(me, self._stop), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        if self._holder() == self.me:
            # the lock's file goes while it is locked: who has it open finds that it is no longer in its place
            for name in (OWNER, SUCCESSOR, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # where there are checkpoints, or a newcomer's lock
                self.folder.rmdir()
        os.close(self._descriptor)
        self.me = None

    def check(self) -> None:
        """Raise LockError if the lock was taken over; without effect outside the `with` block."""
        if self.me is None or (holder := self._holder()) == self.me:
            return
        whose = f"was taken over by {holder}" if holder else "has lost its lock (was it deleted?)"
        raise LockError(f"{self.folder} {whose}; this process, {self.me}, stops without writing")

    def _take(self, me: Owner) -> bool:
        """Try once to take the lock; False where another process has it or is about to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileExistsError, FileNotFoundError):  # a holder that is leaving removes the folder
            if self.folder.is_file():
                raise
            return False
        taken = False
        try:
            locks = _flock(self._descriptor)
            holder = self._holder()
            if not self._in_place():  # released, and its file removed, after it was opened
                return False
            if holder is None:
                write_json(self.folder / OWNER, dataclasses.asdict(me))
                taken = True
            elif (me.neighbour(holder) and (locks or not is_alive(holder.pid))) or self._silence() > self.stale_s:
                say(f"{self.folder}: taking over from {holder}, which is gone")
                write_json(self.folder / OWNER, dataclasses.asdict(me))
                if not me.neighbour(holder):  # where locks are not seen, another newcomer may just do the same
                    time.sleep(min(2.0, self.beat_s))
                taken = self._holder() == me
        except BlockingIOError:
            holder = self._holder()
            if holder is not None and not me.neighbour(holder) and self._silence() > self.stale_s:
                (self.folder / LOCK).unlink(missing_ok=True)  # its host went without telling the file server
        finally:
            if not taken:
                os.close(self._descriptor)
        return taken

    def _in_place(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_ino == (self.folder / LOCK).stat().st_ino
        except FileNotFoundError:
            return False

    def _holder(self) -> Owner | None:
        try:
            return Owner(**read_json(self.folder / OWNER))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _sign(self) -> int | None:
        """Return the time of the holder's last sign of life, ns of the file system's clock; None without a holder."""
        try:
            return (self.folder / OWNER).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _silence(self) -> float:
        """Return the seconds since the holder's last sign of life, by the clock of the file system alone."""
        os.utime(self._descriptor)
        return (os.fstat(self._descriptor).st_mtime_ns - (self._sign() or 0)) / 1e9

    def _beat(self, me: Owner, stop: threading.Event) -> None:
        """Give signs of life as long as the lock is this process's own; end it where a successor asks for that."""
        asked = False
        while not stop.wait(self.beat_s):
            try:
                if self._holder() != me:
                    return
                os.utime(self.folder / OWNER)
                if not asked and (self.folder / SUCCESSOR).exists():
                    successor = Owner(**read_json(self.folder / SUCCESSOR))
                    if asked := successor.follows(me):
                        say(f"{self.folder} is needed by {successor}")
                        os.kill(os.getpid(), signal.SIGTERM)
            except (OSError, ValueError, TypeError):  # the file system is away for a moment
                continue


def _flock(descriptor: int) -> bool:
    """Lock a file or raise BlockingIOError; False where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
