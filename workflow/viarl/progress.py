"""One progress line for every long stage: done / total, rate, time remaining."""

import sys
import time
from typing import TextIO


class Progress:
    """Print a line at most every `interval` seconds, and one at the end.

    Args:
        what: the unit counted, in the plural ("videos").
        total: how many there will be.
        interval: seconds between lines.
    """

    def __init__(self, what: str, total: int, interval: float = 5.0, stream: TextIO | None = None) -> None:
        self.what, self.total, self.interval = what, total, interval
        self.done = 0
        self.stream = stream or sys.stderr
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` is appended to the line when one is printed."""
        self.done += count
        now = time.monotonic()
        if self.done >= self.total or now - self.last >= self.interval:
            self.last = now
            elapsed = max(now - self.start, 1e-9)
            rate = self.done / elapsed
            remaining = (self.total - self.done) / rate if rate else float("inf")
            speed = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each" if rate else "-"
            line = f"{self.what}: {self.done}/{self.total}, {speed}, {remaining:.0f} s remaining"
            print(f"{line}; {note}" if note else line, file=self.stream, flush=True)
