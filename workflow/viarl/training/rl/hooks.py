"""The parts of TRL and transformers that the trainer overrides; all but `log` are private, so they are checked."""

import inspect
from importlib.metadata import version

from trl import GRPOTrainer

# As they are in trl 1.16.
HOOKS = {
    "_get_train_sampler": ("self", "dataset"),
    "get_train_dataloader": ("self",),
    "_get_dataloader": ("self", "dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"),
    "_prepare_inputs": ("self", "generation_batch"),
    "_compute_loss": ("self", "model", "inputs"),
    "_load_from_checkpoint": ("self", "resume_from_checkpoint", "model"),
    "_send_telemetry": ("self",),
    "create_model_card": ("self", "model_name", "dataset_name", "tags"),
    "log": ("self", "logs", "start_time"),
}


def check_trl() -> None:
    """Raise RuntimeError if the installed TRL does not have the hooks that the trainer overrides or calls."""
    fault = "" if GRPOTrainer.loss_is_scaled_for_ga else "it scales the loss once more for gradient accumulation"
    for name, expected in HOOKS.items():
        method = getattr(GRPOTrainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method else None
        if found != expected:
            fault = f"GRPOTrainer.{name} takes {found}, expected {expected}"
    if fault:
        remedy = "install the versions of envs/requirements.lock (trl==1.16.*)"
        raise RuntimeError(f"trl {version('trl')} does not fit: {fault}; {remedy}")
