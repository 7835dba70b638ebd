"""What a stage says while it runs: a progress line (done / total, rate, time remaining) for all that takes long."""

import os
import select
import sys
import time
from typing import TextIO


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once, on stderr by default; a reader that has gone (the `tee` of a job) ends nothing."""
    try:
        print(line, file=stream or sys.stderr, flush=True)
    except BrokenPipeError:
        leave_broken_pipes()


def leave_broken_pipes() -> None:
    """Send output nowhere if its reader is gone: a signal also ends the `tee` of a job, and a print must not end us."""
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), descriptor)


class Progress:
    """Print a line at the start, then at most every `interval` seconds, and one at the end; `what` is a plural."""

    def __init__(self, what: str, total: int, interval: float = 5.0, stream: TextIO | None = None) -> None:
        self.what, self.total, self.interval, self.stream = what, total, interval, stream
        self.done = 0
        self.start = self.last = time.monotonic()
        if total:
            say(f"{what}: 0/{total}", stream)  # the first unit may take minutes

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` is appended to the line when one is printed."""
        self.done += count
        now = time.monotonic()
        if count and (self.done >= self.total or now - self.last >= self.interval):
            self.last = now
            rate = self.done / max(now - self.start, 1e-9)
            remaining = (self.total - self.done) / rate if rate else float("inf")
            speed = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each" if rate else "-"
            line = f"{self.what}: {self.done}/{self.total}, {speed}, {remaining:.0f} s remaining"
            say(f"{line}; {note}" if note else line, self.stream)
