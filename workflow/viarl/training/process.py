"""Run a stage as one of several processes; `accelerate launch` starts this module (viarl.training.launch).

    python -m viarl.training.process viarl.stages.train_selector …

The first process's output is the stage's log. Of the others the last lines are shown, and only where they fail.
"""

import collections
import ctypes
import io
import os
import runpy
import signal
import sys
import traceback
from contextlib import suppress
from typing import TextIO

import torch
from torch import distributed

from viarl.processes import meet, processes, rank
from viarl.progress import say

LAST = 30  # lines of a failed process that are shown
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
POLITE = (0, 128 + signal.SIGTERM, 128 + signal.SIGINT)
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exiting")


class LastLines(io.TextIOBase):
    """A stream that keeps its last lines."""

    def __init__(self) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=LAST)
        self._open = ""

    def write(self, text: str) -> int:
        """Take text."""
        *whole, self._open = (self._open + text).split("\n")
        self.lines.extend(line.rpartition("\r")[2] for line in whole)
        return len(text)

    def show(self, stream: TextIO) -> None:
        """Print what was kept, each line with this process's number."""
        for line in [*self.lines, *([self._open] if self._open else [])]:
            say(f"[process {rank() + 1} of {processes()}] {line}", stream)


def run_stage(module: str) -> int:
    """Run a stage's module; return its exit status."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            traceback.print_exc()
        else:
            say(f"the connection to another process was lost, whose own error says why ({error})")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Run the stage that the command line names."""
    # whoever started this may be killed: without it nothing would end this process
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if torch.cuda.is_available() and "ACCELERATE_USE_CPU" not in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    shown, kept = sys.stderr, LastLines()
    if rank() > 0:
        sys.stdout = sys.stderr = kept
    sys.argv = sys.argv[1:]
    status = run_stage(sys.argv[0])
    if status in POLITE and distributed.is_initialized():
        with suppress(RuntimeError):  # the connection to one that has been here is lost
            meet()  # who ended while others still write would have them ended
            distributed.destroy_process_group()
    if status not in POLITE:
        kept.show(shown)
    sys.stdout.flush()
    sys.exit(status)


if __name__ == "__main__":
    main()
