"""Selector training: TRL's GRPOTrainer with REINFORCE++ (arXiv 2501.03262), video, and a shared prefix.

What it changes in `GRPOTrainer`, and nothing else of it is used but its loop, optimiser, scheduler, logging and saving:

- data: one dataset row is one group; groups stay together in a microbatch;
- rollout and reward: viarl.rl.rollout and viarl.rl.reward;
- log-probabilities (old, reference and policy): viarl.rl.prefix, through the wrapped model;
- advantages and loss: viarl.rl.advantages. The KL is in the reward, so TRL's own KL term is off (its beta is 0) and
  the reference model is held here;
- resume: exact at rollout boundaries, where alone checkpoints are written.
"""

import copy
import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation

from viarl.checkpoints import restore_weights
from viarl.items import Item
from viarl.rl import attention
from viarl.rl.advantages import policy_loss, token_advantages
from viarl.rl.config import SCHEDULES, SelectorTask
from viarl.rl.prefix import Group, LogProbs, completion_mask, shared_log_probs
from viarl.rl.reward import Answers, Scored, score_completions
from viarl.rl.rollout import PromptSource, check_shared_prefix, group_draws, roll_out
from viarl.vlm import completion_text

# The hooks that are overridden, with the parameters they had in the pinned version: all but `log` are private.
HOOKS = {
    "_get_train_sampler": ("self", "dataset"),
    "get_train_dataloader": ("self",),
    "_prepare_inputs": ("self", "generation_batch"),
    "_compute_loss": ("self", "model", "inputs"),
    "_load_from_checkpoint": ("self", "resume_from_checkpoint", "model"),
    "_send_telemetry": ("self",),
    "create_model_card": ("self", "model_name", "dataset_name", "tags"),
    "log": ("self", "logs", "start_time"),
}
# Largest difference of log-probabilities between two layouts of the same computation.
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.5}
Recall = Callable[[Item, tuple[int, ...]], float]


def check_trl() -> None:
    """Raise RuntimeError if the installed TRL does not have the hooks this trainer overrides."""
    for name, expected in HOOKS.items():
        method = getattr(GRPOTrainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method else None
        if found != expected:
            raise RuntimeError(
                f"trl {version('trl')} does not fit: GRPOTrainer.{name} takes {found}, expected {expected}; install "
                "the versions of envs/requirements.lock (trl==1.16.*)"
            )


@dataclass
class Batch:
    """A microbatch: groups with what is known of them. Tensors are (N, T) but rewards (N,); T is the batch's own."""

    groups: list[Group]
    rewards: torch.Tensor
    reference: torch.Tensor | None
    old: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    tokens: float = 0.0  # of the global batch of one optimiser step


class _Generations(Sampler[int]):
    """Yields the rows of each rollout, repeated for each microbatch that is made of it."""

    def __init__(self, rows: int, rows_a_rollout: int, repeats: int) -> None:
        self.rows, self.rows_a_rollout, self.repeats = rows, rows_a_rollout, repeats

    def __len__(self) -> int:
        return self.rows * self.repeats

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.rows, self.rows_a_rollout):
            for _ in range(self.repeats):
                yield from range(start, start + self.rows_a_rollout)


def training_order(count: int, total: int, seed: int) -> list[int]:
    """Return `total` numbers below `count`: shuffled passes over all items, one after the other."""
    rng = np.random.default_rng([seed, count])
    passes = [rng.permutation(count) for _ in range(-(-total // count))]
    return [int(number) for number in np.concatenate(passes)[:total]]


class SelectorTrainer(GRPOTrainer):
    """Trains a selector on the reward of its completions (see the module).

    Args:
        model: Qwen2.5-VL, in float32 for full training (bfloat16 is then the computing type), on its device.
        processor: its processor.
        items: training questions; their videos must have frames.
        prompts: source of their prompts; with `train_vision` it must keep pixels.
        answers: the frozen answerer.
        task: what is trained, and how.
        folder: for checkpoints.
        callbacks: transformers callbacks.
        recall: evidence recall of an item's selected frames, for the log; NaN where unknown.

    Errors: RuntimeError if TRL is not the pinned one or the self-check at the first rollout fails; ValueError for
    settings that do not fit together.
    """

    _name = "REINFORCE++ selector"

    def __init__(
        self,
        model: Any,
        processor: Any,
        items: Sequence[Item],
        prompts: PromptSource,
        answers: Answers,
        task: SelectorTask,
        folder: Path,
        callbacks: Sequence[TrainerCallback] = (),
        recall: Recall | None = None,
    ) -> None:
        check_trl()
        if not items:
            raise ValueError("there is no training question; see the filter's report for why all were dropped")
        self.task, self.items, self.prompts, self.answers, self.recall = task, list(items), prompts, answers, recall
        self.setting = training = task.training
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_groups = _share(training.prompts_per_step, processes, "processes")
        self.microbatch = training.groups_per_microbatch or self.local_groups
        self.accumulation = _share(self.local_groups, self.microbatch, "groups_per_microbatch")
        model.model.visual.requires_grad_(training.train_vision)
        attention.enable(model)
        reference = self._make_reference(model)
        rollouts = training.steps // training.updates_per_rollout
        order = training_order(len(self.items), rollouts * training.prompts_per_step, task.seed)
        super().__init__(
            model=model,
            reward_funcs=[_unused_reward],
            args=self._arguments(folder, model),
            train_dataset=Dataset.from_dict(
                {"prompt": [self.items[number].id for number in order], "item": order, "slot": list(range(len(order)))}
            ),
            processing_class=processor,
            callbacks=list(callbacks),
            peft_config=_lora(task) if task.lora.enabled else None,
        )
        self.remove_callback(PrinterCallback)
        self.reference = self._prepare_reference(reference)
        self.pad = processor.tokenizer.pad_token_id
        self.checked = False
        self.batches: list[Batch] = []
        self.sums: dict[str, list[float]] = {}
        self.seconds: dict[str, float] = {}

    def _arguments(self, folder: Path, model: Any) -> GRPOConfig:
        training = self.setting
        return GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=self.microbatch * training.group_size,
            gradient_accumulation_steps=self.accumulation,
            num_generations=training.group_size,
            num_iterations=training.updates_per_rollout,
            max_completion_length=self.task.max_new_tokens,
            max_steps=training.steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type=SCHEDULES[training.schedule],
            warmup_steps=training.warmup_steps,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            temperature=training.temperature,
            beta=0.0,  # no KL in TRL's loss: it is in the reward
            gradient_checkpointing=training.gradient_checkpointing,
            bf16=self.task.dtype == "bfloat16",
            use_cpu=model.device.type == "cpu",
            seed=self.task.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            # only at rollout boundaries, where a resume is exact
            save_steps=training.save_every * training.updates_per_rollout,
            save_total_limit=None,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
        )

    # --- reference model -------------------------------------------------------------------------------------------

    def _make_reference(self, model: Any) -> Any:
        """Return a frozen copy of the policy, None with adapters (switched off, they are the reference) or beta 0."""
        if self.setting.beta == 0 or self.task.lora.enabled:
            return None
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        if not self.setting.train_vision:
            reference.model.visual = None  # prompts come with features
        return reference.to(getattr(torch, self.task.dtype))

    def _prepare_reference(self, reference: Any) -> Any:
        if reference is None:
            return None
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    @torch.no_grad()
    def _reference_log_probs(self, groups: list[Group]) -> torch.Tensor | None:
        if self.setting.beta == 0:
            return None
        if self.reference is not None:
            return self._log_probs(self.reference, groups).log_probs
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            return self._log_probs(self.model_wrapped, groups).log_probs

    def _log_probs(self, model: Any, groups: list[Group]) -> LogProbs:
        """The one path of old, reference and policy log-probabilities."""
        with self.accelerator.autocast():
            return shared_log_probs(model, groups, pad=self.pad, temperature=self.setting.temperature)

    # --- data ------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Return batches of all local rows of a rollout, one a microbatch, over the whole training."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self.local_groups,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler[int]:
        repeats = self.accumulation * self.setting.updates_per_rollout
        return _Generations(len(self.train_dataset), self.setting.prompts_per_step, repeats)

    # --- one rollout -----------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: list[dict[str, Any]]) -> Batch:  # type: ignore[override]
        """Return the microbatch whose turn it is; begins with a rollout when the last one is used up."""
        position = self._step % (self.accumulation * self.setting.updates_per_rollout)
        if position == 0 or not self.batches:
            self.batches = self._collect(generation_batch)
        return self.batches[position % self.accumulation]

    def _collect(self, rows: list[dict[str, Any]]) -> list[Batch]:
        items = [self.items[row["item"]] for row in rows]
        with self._phase("rollout"):
            groups = self._complete(items, [row["slot"] for row in rows])
        if not self.checked:
            with self.accelerator.autocast():
                check_shared_prefix(
                    self.model_wrapped,
                    groups[0],
                    pad=self.pad,
                    temperature=self.setting.temperature,
                    tolerance=TOLERANCE[self.task.dtype],
                )
            self.checked = True
        with self._phase("reward"):
            scored = self._score(items, groups)
        rewards = torch.tensor([one.reward.total for one in scored], device=self.accelerator.device)
        size = self.setting.group_size
        batches = []
        for start in range(0, len(groups), self.microbatch):
            part = groups[start : start + self.microbatch]
            with self._phase("reference"):
                reference = self._reference_log_probs(part)
            batches.append(Batch(part, rewards[start * size : (start + len(part)) * size], reference))
        if len(batches) > 1 or self.setting.updates_per_rollout > 1:
            with self._phase("old"), torch.no_grad():
                for batch in batches:
                    batch.old = self._log_probs(self.model_wrapped, batch.groups).log_probs
            self._set_advantages(batches)
        return batches

    def _complete(self, items: list[Item], slots: list[int]) -> list[Group]:
        size, tokens = self.setting.group_size, self.task.max_new_tokens
        prompts = self.prompts.prompts(items)
        if self.setting.train_vision and any(prompt.pixels is None for prompt in prompts):
            raise ValueError("training.train_vision needs prompts with pixels (viarl.rl.rollout.PixelPrompts)")
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, self.accelerator.autocast():
            was_training = model.training
            model.eval()
            try:
                return roll_out(
                    model,
                    self.processing_class,
                    prompts,
                    [group_draws(self.task.seed, slot, size, tokens) for slot in slots],
                    max_new_tokens=tokens,
                    temperature=self.setting.temperature,
                    groups_at_once=self.setting.groups_per_rollout,
                )
            finally:
                model.train(was_training)

    def _score(self, items: list[Item], groups: list[Group]) -> list[Scored]:
        completions = [completion for group in groups for completion in group.completions]
        repeated = [item for item in items for _ in range(self.setting.group_size)]
        scored = score_completions(
            repeated,
            [self.prompts.count(item) for item in repeated],
            [completion_text(self.processing_class, completion) for completion in completions],
            [len(completion) for completion in completions],
            self.answers,
            selected=self.task.selected,
            weights=self.task.reward,
            length_range=self.task.length_range,
        )
        for item, one in zip(repeated, scored, strict=True):
            parts = {f"reward/{name}": getattr(one.reward, name) for name in ("format", "index", "answer", "length")}
            recall = self.recall(item, one.selection.indices) if self.recall else float("nan")
            self._note(
                **parts,
                **{
                    "reward/total": one.reward.total,
                    "valid_rate": float(one.selection.index_valid),
                    "answer_accuracy": float(one.correct),
                    "completion_tokens": float(one.tokens),
                    "truncated_rate": float(one.tokens >= self.task.max_new_tokens),
                    "evidence_recall": recall,
                },
            )
        return scored

    def _set_advantages(self, batches: list[Batch]) -> None:
        """Fill in the advantages of a rollout, whitened over the tokens of all its batches on all processes."""
        device = self.accelerator.device
        masks = [completion_mask(batch.groups).to(device) for batch in batches]
        width = max(mask.shape[1] for mask in masks)

        def widen(values: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat([torch.nn.functional.pad(value, (0, width - value.shape[1])) for value in values])

        mask = widen(masks)
        old = [batch.old for batch in batches]
        kl = widen([o - batch.reference if batch.reference is not None else torch.zeros_like(o)
                    for o, batch in zip(old, batches, strict=True)])  # fmt: skip
        advantages = token_advantages(
            torch.cat([batch.rewards for batch in batches]),
            kl,
            mask,
            group_size=self.setting.group_size,
            algorithm=self.setting.algorithm,
            beta=self.setting.beta,
            gamma=self.setting.gamma,
            sum_over_processes=self._sum,
        )
        tokens = float(self._sum(mask.sum()[None]).item())
        for batch, own, rows in zip(batches, masks, advantages.split([len(m) for m in masks]), strict=True):
            batch.advantages, batch.tokens = rows[:, : own.shape[1]], tokens
        self._note_sum("kl", float((kl * mask).sum()), float(mask.sum()))

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    # --- loss ------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        """Return the microbatch's share of the token-mean loss of the global batch."""
        with self._phase("update"):
            result = self._log_probs(model, inputs.groups)
        if inputs.advantages is None:
            # one update on one batch: the policy is still the one that generated, so one forward serves both
            inputs.old = result.log_probs.detach()
            self._set_advantages([inputs])
        assert inputs.old is not None and inputs.advantages is not None
        outcome = policy_loss(result.log_probs, inputs.old, inputs.advantages, result.mask, self.setting.clip_epsilon)
        loss = outcome.loss * self.accelerator.num_processes / inputs.tokens  # DDP averages over processes
        if not bool(torch.isfinite(loss)):
            raise RuntimeError("the loss is not finite; lower selector.training.learning_rate, or see the last log")
        tokens = float(result.mask.sum())
        self._note_sum("entropy", float(result.entropy.sum()), tokens)
        self._note_sum("clip_fraction", float(outcome.clipped), tokens)
        return loss

    # --- log -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _note(self, **values: float) -> None:
        for name, value in values.items():
            self._note_sum(name, 0.0 if value != value else value, float(value == value))

    def _note_sum(self, name: str, total: float, count: float) -> None:
        held = self.sums.setdefault(name, [0.0, 0.0])
        held[0] += total
        held[1] += count

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's means over all processes, and the seconds of its phases."""
        if self.sums:
            names = sorted(self.sums)
            totals = self._sum(torch.tensor([self.sums[name] for name in names], device=self.accelerator.device))
            logs |= {name: total / count for name, (total, count) in zip(names, totals.tolist(), strict=True) if count}
            logs |= {f"seconds/{name}": value for name, value in self.seconds.items()}
            self.sums, self.seconds = {}, {}
        super().log(logs, start_time)

    # --- resume and the network ------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights; the inherited way leaves a fully tuned Qwen2.5-VL as it was, with a warning only."""
        if self.task.lora.enabled or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            restore_weights(self.model, Path(resume_from_checkpoint))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card beside checkpoints."""

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _share(total: int, part: int, what: str) -> int:
    if total % part:
        raise ValueError(f"training.prompts_per_step: {total} groups cannot be shared evenly among {part} {what}")
    return total // part


def _lora(task: SelectorTask) -> LoraConfig:
    linear = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    return LoraConfig(
        r=task.lora.rank,
        lora_alpha=task.lora.alpha,
        target_modules=rf".*language_model.*\.({linear})",  # not the vision tower
        task_type="CAUSAL_LM",
    )


def _unused_reward(**_: Any) -> list[float]:
    raise AssertionError("rewards are computed by viarl.rl.reward")
