"""Supervised tuning of both models with TRL's SFTTrainer; what is changed in it, and nothing else, stands here.

Changed: batches come whole from `viarl.training.sft.dataset.Collator`, in an order fixed beforehand, for an exact
resume; features of a frozen vision tower take the pixels' place; checkpoints are `ExactResume`'s; FSDP knows that the
head is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.fsdp import FSDPModule
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from viarl.models.adapters import lora_config
from viarl.models.families import tower_output
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.processes import TIMEOUT_S
from viarl.training.checkpoints import ExactResume
from viarl.training.libraries import schedule, trainer_config
from viarl.training.sft.dataset import Collator
from viarl.training.sft.settings import Supervised

LOGGED = ("loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy")  # of what TRL logs


def arguments(tuning: Supervised, folder: Path, *, seed: int, dtype: str, device: torch.device) -> SFTConfig:
    """Return TRL's settings for a tuning whose checkpoints lie in `folder`."""
    config: SFTConfig = trainer_config(
        SFTConfig,
        tuning,
        folder,
        dtype,
        device,
        seed=seed,
        optim="adamw_torch",
        train_sampling_strategy="sequential",  # the order is the data set's own
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=device.type == "cuda",
        ddp_timeout=TIMEOUT_S,
    )
    size, accumulation = tuning.micro_batches(config.world_size)
    config.per_device_train_batch_size, config.gradient_accumulation_steps = size, accumulation
    return config


class SupervisedTrainer(ExactResume, SFTTrainer):
    """TRL's SFTTrainer on the batches of a `Collator`; the vision tower is frozen here unless `tuning.vision`."""

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
        vlm.model.model.visual.requires_grad_(tuning.vision)
        rows = schedule(len(collator.examples), tuning.steps * tuning.batch_size, args.seed)
        super().__init__(
            model=vlm.model,
            args=args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"row": rows}),
            processing_class=vlm.processor,
            callbacks=list(callbacks),
            peft_config=lora_config(lora, tuning.vision),
        )
        self.adapters, self.where = lora.enabled, tuning.where
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
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower {self.where}.learning_rate "
                f"({self.args.learning_rate}) or set {self.where.partition('.')[0]}.dtype to float32"
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
