"""Selector training: TRL's GRPOTrainer with REINFORCE++ (arXiv 2501.03262), video, and a shared prefix.

What it changes in `GRPOTrainer`, and nothing else of it is used but its loop, optimiser, scheduler, logging and saving:

- data: one dataset row is one group; groups stay together in a microbatch;
- rollout, reward, log-probabilities, advantages and loss: the modules beside this one. The KL is in the reward, so
  TRL's own KL term is off and the reference model is held here;
- resume: exact at rollout boundaries; only there checkpoints are written.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, prepare_fsdp

from viarl.faults import Outage
from viarl.items import Item
from viarl.models.adapters import lora_config
from viarl.models.vlm import Vlm
from viarl.processes import TIMEOUT_S, any_process, processes
from viarl.training.checkpoints import ExactResume
from viarl.training.libraries import trainer_config
from viarl.training.rl import attention
from viarl.training.rl.advantages import policy_loss, token_advantages
from viarl.training.rl.data import RolloutSampler, training_rows
from viarl.training.rl.hooks import check_trl
from viarl.training.rl.prefix import Group, LogProbs, completion_mask, shared_log_probs
from viarl.training.rl.rollout import PromptSource, check_shared_prefix, group_draws, roll_out
from viarl.training.rl.scoring import Answers, Scored, score_completions
from viarl.training.rl.settings import SelectorTask
from viarl.training.rl.step_log import StepLog
from viarl.training.rl.whole import whole_model


@dataclass
class Batch:
    """A microbatch: groups with what is known of them. Tensors are (N, T) but rewards (N,); T is the batch's own."""

    groups: list[Group]
    rewards: torch.Tensor
    reference: torch.Tensor | None
    old: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    tokens: float = 0.0  # of the global batch of one optimiser step

    def kl(self) -> torch.Tensor:
        """Return each token's k1, log pi_old - log pi_ref; zeros without a reference."""
        assert self.old is not None
        return torch.zeros_like(self.old) if self.reference is None else self.old - self.reference


class _WholeRollouts(TrainerCallback):
    """Lets checkpoints and stops wait until all updates of a rollout are done: only there is a resume exact."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Take back what other callbacks asked for."""
        if state.global_step % self.updates:
            control.should_save = control.should_training_stop = False
        return control


class SelectorTrainer(ExactResume, GRPOTrainer):
    """Trains a selector on the reward of its completions (see the module).

    `vlm` is in float32 for full training (bfloat16 is then the computing type), on its device. With `train_vision` the
    prompts must keep pixels. `recall` is that of the evidence by an item's selected frames, for the log; NaN: unknown.
    Errors: RuntimeError if TRL is not the pinned one or the self-check at the first rollout fails; ValueError for
    settings that do not fit together.
    """

    _name = "REINFORCE++ selector"

    def __init__(
        self,
        vlm: Vlm,
        items: Sequence[Item],
        prompts: PromptSource,
        answers: Answers,
        task: SelectorTask,
        folder: Path,
        callbacks: Sequence[TrainerCallback] = (),
        recall: Callable[[Item, tuple[int, ...]], float] | None = None,
    ) -> None:
        check_trl()
        if not items:
            raise ValueError("there is no training question; see the filter's report for why all were dropped")
        self.task, self.items, self.prompts, self.answers, self.recall = task, list(items), prompts, answers, recall
        self.setting = training = task.training
        self.adapters = task.lora.enabled
        self.local_groups, self.microbatch, self.accumulation = training.shares(processes())
        model = vlm.model
        model.model.visual.requires_grad_(training.train_vision)
        attention.enable(model)
        reference = self._make_reference(model)
        rollouts = training.steps // training.updates_per_rollout
        super().__init__(
            model=model,
            reward_funcs=[_unused_reward],
            args=self._arguments(folder, model),
            train_dataset=training_rows(self.items, rollouts * training.prompts_per_step, task.seed),
            processing_class=vlm.processor,
            callbacks=[*callbacks, _WholeRollouts(training.updates_per_rollout)],
            peft_config=lora_config(task.lora, training.train_vision),
        )
        self.remove_callback(PrinterCallback)
        self.reference = self._prepare_reference(reference)
        self.vlm, self.pad = vlm, vlm.tokenizer.pad_token_id
        self.checked = False
        self.batches: list[Batch] = []
        self.step_log = StepLog(self.accelerator.device, self._sum)

    def _arguments(self, folder: Path, model: Any) -> GRPOConfig:
        training = self.setting
        return trainer_config(
            GRPOConfig,
            training,
            folder,
            self.task.dtype,
            model.device,
            per_device_train_batch_size=self.microbatch * training.group_size,
            gradient_accumulation_steps=self.accumulation,
            num_generations=training.group_size,
            num_iterations=training.updates_per_rollout,
            max_completion_length=self.task.max_new_tokens,
            temperature=training.temperature,
            beta=0.0,  # no KL in TRL's loss: it is in the reward
            seed=self.task.seed,
            # only at rollout boundaries, where a resume is exact
            save_steps=training.save_every * training.updates_per_rollout,
            dataloader_pin_memory=False,
            ddp_timeout=TIMEOUT_S + int(self.task.patience_s),
        )

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

    def get_train_dataloader(self) -> Any:
        """Return batches of all local rows of a rollout, one a microbatch, over the whole training."""
        return self._get_dataloader(
            self.train_dataset, "Training", self.local_groups, sampler_fn=self._get_train_sampler, is_training=True
        )

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        repeats = self.accumulation * self.setting.updates_per_rollout
        return RolloutSampler(len(self.train_dataset), self.setting.prompts_per_step, repeats)

    def _prepare_inputs(self, generation_batch: list[dict[str, Any]]) -> Batch:
        """Return the microbatch whose turn it is; begins with a rollout when the last one is used up."""
        position = self._step % (self.accumulation * self.setting.updates_per_rollout)
        if position == 0 or not self.batches:
            self.batches = self._collect(generation_batch)
        return self.batches[position % self.accumulation]

    def _collect(self, rows: list[dict[str, Any]]) -> list[Batch]:
        items = [self.items[row["item"]] for row in rows]
        with self.step_log.phase("rollout"):
            groups = self._complete(items, [row["slot"] for row in rows])
        if not self.checked:
            temperature, dtype = self.setting.temperature, self.task.dtype
            with self.step_log.phase("self_check"), self.accelerator.autocast():
                check_shared_prefix(self.model_wrapped, groups[0], pad=self.pad, temperature=temperature, dtype=dtype)
            self.checked = True
        with self.step_log.phase("reward"):
            scored = self._score(items, groups)
        rewards = torch.tensor([one.total for one in scored], device=self.accelerator.device)
        size, batches = self.setting.group_size, []
        for start in range(0, len(groups), self.microbatch):
            part = groups[start : start + self.microbatch]
            with self.step_log.phase("reference"):
                reference = self._reference_log_probs(part)
            batches.append(Batch(part, rewards[start * size : (start + len(part)) * size], reference))
        if len(batches) > 1 or self.setting.updates_per_rollout > 1:
            with self.step_log.phase("old"), torch.no_grad():
                for batch in batches:
                    batch.old = self._log_probs(self.model_wrapped, batch.groups).log_probs
            self._set_advantages(batches)
        return batches

    def _complete(self, items: list[Item], slots: list[int]) -> list[Group]:
        setting, tokens = self.setting, self.task.max_new_tokens
        prompts = self.prompts.prompts(items)
        if setting.train_vision and any(prompt.pixels is None for prompt in prompts):
            raise ValueError("training.train_vision needs prompts with pixels (viarl.training.rl.rollout.PixelPrompts)")
        draws = [group_draws(self.task.seed, slot, setting.group_size, tokens) for slot in slots]
        with whole_model(self) as model, self.accelerator.autocast():
            return roll_out(
                Vlm(model, self.processing_class),
                prompts,
                draws,
                max_new_tokens=tokens,
                temperature=setting.temperature,
                groups_at_once=setting.groups_per_rollout,
            )

    def _score(self, items: list[Item], groups: list[Group]) -> list[Scored]:
        completions = [completion for group in groups for completion in group.completions]
        repeated = [item for item in items for _ in range(self.setting.group_size)]
        counts, texts = [self.prompts.count(item) for item in repeated], [self.vlm.text(one) for one in completions]
        outage, scored = None, []
        try:
            lengths = list(map(len, completions))
            scored = score_completions(repeated, counts, texts, lengths, self.answers, self.task)
        except Outage as error:
            outage = error
        if any_process(outage is not None):  # all processes stop together, for all have a part in a checkpoint
            raise outage or Outage("the answerer of another process is away; see its message")
        for item, one in zip(repeated, scored, strict=True):
            for name, value in one.measures().items():
                self.step_log.add(name, value)
            self.step_log.add("truncated_rate", float(one.outcome.tokens >= self.task.max_new_tokens))
            recall = self.recall(item, one.outcome.selection.indices) if self.recall else float("nan")
            self.step_log.add("evidence_recall", recall)
        return scored

    def _set_advantages(self, batches: list[Batch]) -> None:
        """Fill in the advantages of a rollout, whitened over the tokens of all its batches on all processes."""
        device = self.accelerator.device
        masks = [completion_mask(batch.groups).to(device) for batch in batches]
        width = max(mask.shape[1] for mask in masks)

        def widen(values: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat([torch.nn.functional.pad(value, (0, width - value.shape[1])) for value in values])

        mask = widen(masks)
        kl = widen([batch.kl() for batch in batches])
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
        for batch, own, rows in zip(batches, masks, advantages.split(list(map(len, masks))), strict=True):
            batch.advantages, batch.tokens = rows[:, : own.shape[1]], tokens
        self.step_log.add("kl", float((kl * mask).sum()), float(mask.sum()))

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    def _compute_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        """Return the microbatch's share of the token-mean loss of the global batch."""
        result = self._log_probs(model, inputs.groups)
        if inputs.advantages is None:
            # one update on one batch: the policy is still the one that generated, so one forward serves both
            inputs.old = result.log_probs.detach()
            self._set_advantages([inputs])
        assert inputs.old is not None and inputs.advantages is not None
        epsilon = self.setting.clip_epsilon
        summed, clipped = policy_loss(result.log_probs, inputs.old, inputs.advantages, result.mask, epsilon)
        loss = summed * self.accelerator.num_processes / inputs.tokens  # DDP averages over processes
        if not bool(torch.isfinite(loss)):
            raise RuntimeError("the loss is not finite; lower selector.training.learning_rate, or see the last log")
        tokens = float(result.mask.sum())
        self.step_log.add("entropy", float(result.entropy.sum()), tokens)
        self.step_log.add("clip_fraction", float(clipped), tokens)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's means over all processes, and the seconds of its phases."""
        if "loss" in logs:
            logs |= self.step_log.flush(sum(self._metrics["train"]["step_time"]), rest="update")
        super().log(logs, start_time)


def _unused_reward(**_: Any) -> list[float]:
    raise AssertionError("rewards are computed by viarl.training.rl.scoring")
