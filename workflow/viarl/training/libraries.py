"""What all trainings tell transformers and TRL, and the order of their examples."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from viarl.training.settings import SCHEDULES, Optimiser


def trainer_config(kind: Any, tuning: Optimiser, folder: Path, dtype: str, device: torch.device, **own: Any) -> Any:
    """Return TRL's settings, of a `kind`, for a training in `dtype` whose checkpoints lie in `folder`.

    They use one GPU, also where a process on its own sees several: transformers would copy the model to all of them in
    each step (DataParallel), which TRL refuses. viarl.training.checkpoints removes old checkpoints, so nothing here
    does.
    """
    config = kind(
        output_dir=str(folder),
        max_steps=tuning.steps,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type=SCHEDULES[tuning.schedule],
        warmup_steps=tuning.warmup_steps,
        weight_decay=tuning.weight_decay,
        max_grad_norm=tuning.max_grad_norm,
        gradient_checkpointing=tuning.gradient_checkpointing,
        bf16=dtype == "bfloat16",
        use_cpu=device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        **{"save_steps": tuning.save_every, **own},
    )
    config._n_gpu = min(config.n_gpu, 1)
    return config


def schedule(count: int, total: int, seed: int | Sequence[int]) -> list[int]:
    """Return `total` numbers below `count`: shuffled passes over all examples, one after the other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(count) for _ in range(-(-total // count))])[:total].tolist()


def quiet_libraries() -> None:
    """Keep out of a stage's log what tells its reader nothing: bars of file shards, TRL's use of old names."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")
