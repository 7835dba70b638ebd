"""What the processes of one training have in common: who is first, what all agree on, weights that lie in shards.

viarl.launch starts them, and each finds its place in the environment (RANK, LOCAL_RANK, WORLD_SIZE). In a training of
one process every function here does nothing, or returns what it was given. All processes must call what is marked as
collective, in the same order.
"""

import copy
import os
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

# Seconds that a process waits for the others: the first one may have to wait for the folder's lock (viarl.lock).
TIMEOUT_S = 3600


def rank() -> int:
    """Return this process's number among those of the training, 0 for the first or only one."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """Return how many processes the training has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharded() -> bool:
    """Tell whether the trained model's weights lie in shards (FSDP, DeepSpeed) instead of whole in every process."""
    return bool(layout())


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


def take_one_gpu(arguments: Any) -> None:
    """Let a trainer with these TrainingArguments use one GPU, also where a process on its own sees several.

    transformers would copy the model to all of them in each step (DataParallel), which TRL refuses.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)


def own_tower(model: Any) -> Any:
    """Return a model to compute vision features with while `model`, whose tower is frozen, is trained.

    Where the training shards `model`, its tower cannot be used by one process alone: then this is a copy of all but the
    language model. To be called before the trainer takes the model.
    """
    if not sharded():
        return model
    left_out = (model.model.language_model, model.lm_head)
    return copy.deepcopy(model, {id(module): None for module in left_out}).requires_grad_(False)


def trained_model(trainer: Any) -> Any:
    """Return the trained model, unwrapped and with whole weights, in the first process (collective); None in others."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not sharded():
        return model if rank() == 0 else None
    state = _gathered(trainer)
    return _rebuilt(model, state) if rank() == 0 else None


def _gathered(trainer: Any) -> dict[str, torch.Tensor]:
    """Return a sharded model's whole weights on the CPU in the first process, nothing in others (collective)."""
    if trainer.is_deepspeed_enabled:
        parts = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    else:
        parts = trainer.model_wrapped.state_dict()
    state = {}
    for name, weight in parts.items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight  # one at a time, to bound memory
        if rank() == 0:
            state[name] = whole.cpu()
    return state


def _rebuilt(model: Any, state: dict[str, torch.Tensor]) -> Any:
    """Return a model like a sharded one (with its adapters) that holds the given weights, on the CPU."""
    adapters = getattr(model, "peft_config", None)
    base = model.get_base_model() if adapters else model
    with torch.device("meta"):
        whole = type(base)(base.config)
        whole.generation_config = base.generation_config
        if adapters:
            from peft import get_peft_model  # not needed by all who import this module

            whole = get_peft_model(whole, adapters["default"])
    whole.load_state_dict(state, strict=False, assign=True)
    whole.tie_weights()
    if missing := [name for name, weight in whole.named_parameters() if weight.is_meta]:
        raise RuntimeError(f"{len(missing)} weights, such as {missing[:3]}, were not gathered from the processes")
    return whole
