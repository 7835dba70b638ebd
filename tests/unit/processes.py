"""Real child processes that need no new import of the libraries."""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from viarl.processes import meet


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


FSDP2 = {
    f"FSDP_{key}": value
    for key, value in {
        "VERSION": "2",
        "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "RESHARD_AFTER_FORWARD": "true",
        "STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "CPU_RAM_EFFICIENT_LOADING": "false",
        "OFFLOAD_PARAMS": "false",
        "ACTIVATION_CHECKPOINTING": "false",
    }.items()
} | {"ACCELERATE_USE_FSDP": "true"}


def in_processes(function: Callable[[], object], count: int, sharding: str = "") -> list[int]:
    """Run a function in the processes of one training, on CPUs; return how each ended, as `end_of`.

    They are what `accelerate launch` would start: its environment, gloo on loopback. `sharding` fsdp2 shards the model.
    """
    if count == 1:
        return [in_child(function)]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}

    def member(number: int) -> None:
        os.environ.update(common | {"RANK": str(number), "LOCAL_RANK": str(number)})
        if sharding:
            os.environ.update(FSDP2)
            _let_cpus_shard()
        try:
            function()
        except SystemExit:
            _end_together()
            raise
        _end_together()

    return [end_of(pid) for pid in [start_child(partial(member, number)) for number in range(count)]]


def _end_together() -> None:
    """As viarl.training.process does: who ends cuts the connections that another may still read from."""
    with suppress(RuntimeError):
        meet()


def _let_cpus_shard() -> None:
    """accelerate shards on GPUs alone, PyTorch's FSDP2 on CPUs too: the processes are taken for those of GPUs."""
    real = PartialState.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init
