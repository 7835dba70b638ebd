"""The policy with all of its weights in every process, for the rollout.

Processes generate for different lengths of time. A sharded model that gathered its weights in each forward pass would
wait for ever on those that are done; so it is gathered once before, and put back into shards after.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule
from trl.models import unwrap_model_for_generation


@contextmanager
def whole_model(trainer: Any) -> Iterator[Any]:
    """Yield a trainer's model, unwrapped, in evaluation mode, with its weights gathered; all processes at once."""
    options = {"gradient_checkpointing_kwargs": trainer.args.gradient_checkpointing_kwargs}  # it is off meanwhile
    # gathers DeepSpeed's weights
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **options) as model:
        parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
        was_training = model.training
        model.eval()
        if parts:  # else the first part to run, which may be the vision tower's, takes itself for the outermost one
            model._get_fsdp_state()._lazy_init()
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield model
        finally:
            for part in parts:
                part.reshard()
                # as accelerate prepared it: the outermost part stays whole between its forward and its backward
                again = part is not model and bool(trainer.accelerator.state.fsdp_plugin.reshard_after_forward)
                part.set_reshard_after_forward(again, recurse=False)
            model.train(was_training)
