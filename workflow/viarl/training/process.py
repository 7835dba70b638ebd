"""Run a stage as one of several processes; `accelerate launch` starts this module (viarl.training.launch).

python -m viarl.training.process viarl.stages.train_selector …
"""

import ctypes
import os
import runpy
import signal
import sys
import traceback
from contextlib import suppress

import torch
from torch import distributed

from viarl.processes import meet
from viarl.progress import say

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exiting")


def run_stage(module: str) -> int:
    """Run a stage's module; return its exit status."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST):
            say(f"the connection to another process was lost, whose own error says why ({error})")
        else:
            traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Run the stage that the command line names."""
    # whoever started this may be killed: without it nothing would end this process
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if torch.cuda.is_available() and "ACCELERATE_USE_CPU" not in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    sys.argv = sys.argv[1:]
    status = run_stage(sys.argv[0])
    if status in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT) and distributed.is_initialized():
        with suppress(RuntimeError):  # the connection to one that has been here is lost
            meet()  # who ended while others still write would have them ended
            distributed.destroy_process_group()
    sys.stdout.flush()
    sys.exit(status)


if __name__ == "__main__":
    main()
