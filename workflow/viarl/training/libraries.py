"""What all trainings tell transformers and TRL."""

import warnings
from typing import Any

from transformers.utils import logging


def take_one_gpu(arguments: Any) -> None:
    """Let a trainer with these TrainingArguments use one GPU, also where a process on its own sees several.

    transformers would copy the model to all of them in each step (DataParallel), which TRL refuses.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)


def quiet_libraries() -> None:
    """Keep out of a stage's log what tells its reader nothing: bars of file shards, TRL's use of old names."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")
