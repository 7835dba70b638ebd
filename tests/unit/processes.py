"""Real child processes that need no new import of the libraries."""

import os
import signal
import sys
import traceback
from collections.abc import Callable


def start_child(function: Callable[[], object], longest_s: int = 120) -> int:
    """Run a function in a forked process, killed after `longest_s`; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 99
    try:
        signal.alarm(longest_s)
        function()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end_of(pid: int) -> int:
    """Wait for a child; return its exit status, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(function: Callable[[], object]) -> int:
    """Run a function in a child process; return how it ended, as `end_of`."""
    return end_of(start_child(function))
