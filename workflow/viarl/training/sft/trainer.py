"""Supervised tuning of both models with TRL's SFTTrainer; what is changed in it, and nothing else, stands here.

Changed: batches come whole from `viarl.training.sft.dataset.Collator`, in an order fixed beforehand, so that a resumed
training sees what an uninterrupted one sees; features of a frozen vision tower take the pixels' place; a checkpoint's
weights are written whole and restored exactly (see `ExactResume`); FSDP knows that the head is used (see
`_gather_head`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from datasets import Dataset
from viarl.models.adapters import lora_config
from viarl.models.families import tower_output
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.processes import TIMEOUT_S
from viarl.training.checkpoints import ExactResume
from viarl.training.libraries import take_one_gpu
from viarl.training.settings import SCHEDULES
from viarl.training.sft.dataset import TARGETS, Collator, schedule

LOGGED = ("loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy")  # of what TRL logs


@dataclass(frozen=True)
class Supervised:
    """Hyperparameters of a supervised tuning.

    `micro_batch_size` questions are in one forward pass of one process (0: the whole batch); it and
    `gradient_checkpointing` save memory and change a result by rounding only. `save_every` counts the steps between
    resumable checkpoints.
    """

    section = ""  # of the configuration
    train_vision = False

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 20.0
    micro_batch_size: int = 0
    gradient_checkpointing: bool = False
    save_every: int = 20

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{self.section}.schedule {self.schedule!r} must be one of {list(SCHEDULES)}")
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.section}.{name} {getattr(self, name)} must be at least 1")

    def same_result(self) -> Self:
        """Return these settings without what only bounds memory and time."""
        return replace(self, micro_batch_size=0, gradient_checkpointing=False, save_every=1)

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """Return (questions in a forward pass, passes in a step) of each of some processes; ValueError if uneven."""
        size = self.micro_batch_size or self.batch_size // processes
        if size < 1 or self.batch_size % (size * processes):
            raise ValueError(
                f"{self.section}.batch_size {self.batch_size} is no multiple of {processes} processes x "
                f"micro_batch_size {size}; change one of them"
            )
        return size, self.batch_size // (size * processes)


@dataclass(frozen=True)
class Tuning(Supervised):
    """How the answerer is tuned (keys of the configuration's `answerer.tuning`)."""

    section = "answerer.tuning"

    train_vision: bool = False
    target: str = "letter"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in TARGETS:
            raise ValueError(f"{self.section}.target {self.target!r} must be one of {list(TARGETS)}")


@dataclass(frozen=True)
class Start(Supervised):
    """How the selector is tuned before any reinforcement (keys of the configuration's `selector.start`).

    `labels` and `noise`: see viarl.training.sft.labels.
    """

    section = "selector.start"

    labels: str = "none"
    noise: float = 0.0


def arguments(tuning: Supervised, folder: Path, *, seed: int, dtype: str, device: torch.device) -> SFTConfig:
    """Return TRL's settings for a tuning whose checkpoints lie in `folder`."""
    config = SFTConfig(
        output_dir=str(folder),
        max_steps=tuning.steps,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type=SCHEDULES[tuning.schedule],
        warmup_steps=tuning.warmup_steps,
        weight_decay=tuning.weight_decay,
        max_grad_norm=tuning.max_grad_norm,
        optim="adamw_torch",
        seed=seed,
        bf16=dtype == "bfloat16",
        fp16=False,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=tuning.gradient_checkpointing,
        train_sampling_strategy="sequential",  # the order is the data set's own
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=device.type == "cuda",
        save_strategy="steps",
        save_steps=tuning.save_every,
        save_total_limit=None,  # viarl.training.checkpoints removes old ones, after the new one is complete
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        ddp_timeout=TIMEOUT_S,
    )
    size, accumulation = tuning.micro_batches(config.world_size)
    config.per_device_train_batch_size, config.gradient_accumulation_steps = size, accumulation
    take_one_gpu(config)
    return config


class SupervisedTrainer(ExactResume, SFTTrainer):
    """TRL's SFTTrainer on the batches of a `Collator`.

    Args:
        vlm: the model; its vision tower is frozen here unless `tuning.train_vision`.
        collator: of the training examples.
        tuning: hyperparameters.
        lora: adapters in place of full tuning.
        args: see `arguments`.
        callbacks: of the Trainer.
    """

    def __init__(
        self,
        vlm: Vlm,
        collator: Collator,
        tuning: Supervised,
        lora: Lora,
        args: SFTConfig,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        vlm.model.requires_grad_(True)
        vlm.model.model.visual.requires_grad_(tuning.train_vision)
        rows = schedule(len(collator.examples), tuning.steps, tuning.batch_size, args.seed)
        super().__init__(
            model=vlm.model,
            args=args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"row": rows}),
            processing_class=vlm.processor,
            callbacks=list(callbacks),
            peft_config=lora_config(lora, tuning.train_vision) if lora.enabled else None,
        )
        self.adapters, self.section = lora.enabled, tuning.section
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Hand the frozen tower's features to the forward, then let TRL compute the loss."""
        self._gather_head(model)
        for kind in ("video", "image"):
            if (features := inputs.pop(f"{kind}_features", None)) is not None:
                inputs["mm_encoder_outputs"] = {kind: tower_output(features)}
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower {self.section}.learning_rate "
                f"({self.args.learning_rate}) or set {self.section.partition('.')[0]}.dtype to float32"
            )
        return result

    def _gather_head(self, model: Any) -> None:
        """Let FSDP gather a head that lies in shards of its own, so that it also averages the head's gradient.

        FSDP does both where a module's forward is called. TRL reads the head's weight instead; where it has to gather
        that itself, each process keeps its own gradient. A head that is tied to the embeddings is gathered with them.
        """
        root = self.accelerator.unwrap_model(model)
        head = root.get_output_embeddings()
        if isinstance(head, FSDPModule):
            root._get_fsdp_state()._lazy_init()  # else the first part to run takes itself for the outermost one
            head.unshard()
