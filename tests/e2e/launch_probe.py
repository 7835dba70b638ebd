"""A stage for the tests of the launcher: steps of a sum over all processes, ended as its argument says."""

import os
import signal
import sys
import time

import torch
from torch import distributed

from viarl.command import _terminated
from viarl.processes import any_process, rank
from viarl.progress import say

told: list[int] = []


def main(how: str) -> None:
    """Take 200 steps of 50 ms, or end before."""
    signal.signal(signal.SIGTERM, _terminated)
    if how == "early":
        raise ValueError("wrong settings")
    distributed.init_process_group("gloo")
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    for step in range(200):
        say(f"step {step} of process {rank()}")
        if step == 5 and rank() == 1 and how == "raise":
            raise ValueError("process 1 has a reason")
        if step == 5 and rank() == 1 and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 5 and how == "end":
            return
        distributed.all_reduce(torch.ones(1))
        if any_process(bool(told)):
            time.sleep(0.5 * rank())  # who ends first waits for the others
            say(f"process {rank()} has saved")
            raise SystemExit(128 + signal.SIGTERM)
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
