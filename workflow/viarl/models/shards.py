"""Weights of a trained model that lie in shards (FSDP, DeepSpeed), and a whole model made of them."""

import copy
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from viarl.models.vlm import Vlm
from viarl.processes import layout, rank


def own_tower(vlm: Vlm) -> Vlm:
    """Return what computes vision features while a model, whose tower is frozen, is trained.

    Where the training shards the model, its tower cannot be used by one process on its own: then this holds a copy of
    all but the language model. To be called before the trainer takes the model.
    """
    if not layout():
        return vlm
    left_out = (vlm.model.model.language_model, vlm.model.lm_head)
    copied = copy.deepcopy(vlm.model, {id(module): None for module in left_out}).requires_grad_(False)
    return Vlm(copied, vlm.processor)


def trained_model(trainer: Any) -> Any:
    """Return the trained model, unwrapped and with whole weights, in the first process (collective); None in others."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not layout():
        return model if rank() == 0 else None
    if trainer.is_deepspeed_enabled:
        parts = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    else:
        parts = trainer.model_wrapped.state_dict()
    state = {}
    for name, weight in parts.items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight  # one at a time, to bound memory
        if rank() == 0:
            state[name] = whole.cpu()
    return _rebuilt(model, state) if rank() == 0 else None


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
