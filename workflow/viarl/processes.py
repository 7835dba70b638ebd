"""What the processes of one training have in common: who is first, and what all agree on.

viarl.training.launch starts them, and each finds its place in the environment (RANK, LOCAL_RANK, WORLD_SIZE). In a
training of one process every function here does nothing, or returns what it was given. All processes must call what is
marked as collective, in the same order.
"""

import os

import torch
from torch import distributed

TIMEOUT_S = 3600  # that a process waits for the others: the first may have to wait for the folder's lock (viarl.lock)


def rank() -> int:
    """Return this process's number among those of the training, 0 for the first or only one."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """Return how many processes the training has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def layout() -> dict[str, str]:
    """Return how the checkpoints of this training are laid out: nothing for whole weights, else who sharded them."""
    kinds = [kind for kind in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true"]
    return {"launcher's shards": kinds[0]} if kinds else {}


def any_process(flag: bool) -> bool:
    """Tell whether `flag` is true in any process (collective)."""
    return bool(_reduced(int(flag)))


def meet() -> None:
    """Wait until all processes are here (collective)."""
    _reduced(0)


def of_first(number: int) -> int:
    """Return the first process's number, at least 0, in all processes (collective)."""
    return _reduced(number if rank() == 0 else 0)


def _reduced(number: int) -> int:
    """Return the largest of all processes' numbers."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return number
    # nccl takes tensors on the GPU alone
    device = torch.device("cuda", torch.cuda.current_device()) if "nccl" in distributed.get_backend() else None
    largest = torch.tensor(number, device=device)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest.item())
