"""Settings of the selector's training, named as in config.yaml and checked when they are built."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from viarl.models.settings import Lora
from viarl.training.rl.reward import unknown_parts
from viarl.training.settings import SCHEDULES

ALGORITHMS = ("reinforce++", "reinforce++-baseline", "group-normalised")


@dataclass(frozen=True)
class Training:
    """Hyperparameters; sources stand beside the keys in config.yaml.

    `prompts_per_step` counts the groups of one optimiser step over all processes; `groups_per_microbatch` (0: all) and
    `groups_per_rollout` (0: all) bound memory; they and `save_every` change no result beyond rounding.
    `updates_per_rollout` above 1 takes that many optimiser steps on the same completions.
    """

    algorithm: str
    steps: int
    prompts_per_step: int
    group_size: int
    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta: float = 1e-3
    gamma: float = 1.0
    clip_epsilon: float = 0.2
    temperature: float = 1.0
    max_grad_norm: float = 20.0
    save_every: int = 20
    train_vision: bool = False
    updates_per_rollout: int = 1
    groups_per_microbatch: int = 0
    groups_per_rollout: int = 0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"training.algorithm {self.algorithm!r} must be one of {list(ALGORITHMS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"training.schedule {self.schedule!r} must be one of {list(SCHEDULES)}")
        if self.group_size < 2:
            raise ValueError(
                f"training.group_size {self.group_size} must be at least 2: a group is compared with itself"
            )
        for name in ("steps", "prompts_per_step", "save_every", "updates_per_rollout"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} {getattr(self, name)} must be at least 1")
        for name in ("temperature", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"training.{name} {getattr(self, name)} must be above 0")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"training.gamma {self.gamma} must lie in 0 to 1")
        if self.steps % self.updates_per_rollout:
            raise ValueError(
                f"training.steps {self.steps} must be a multiple of updates_per_rollout {self.updates_per_rollout}"
            )

    def shares(self, processes: int) -> tuple[int, int, int]:
        """Return the groups of a step in each process, those of its microbatches, and how many these are.

        ValueError where they cannot be shared evenly.
        """
        local = _share(self.prompts_per_step, processes, "processes")
        microbatch = self.groups_per_microbatch or local
        return local, microbatch, _share(local, microbatch, "groups_per_microbatch")


def _share(total: int, part: int, what: str) -> int:
    if total % part:
        raise ValueError(
            f"training.prompts_per_step: {total} groups cannot be shared evenly among {part} {what}; change one of them"
        )
    return total // part


@dataclass(frozen=True)
class SelectorTask:
    """What the trainer must know of the task: K, the completions' limits, weights of the reward, adapters and seed.

    `reward` holds weights by the name of a part (viarl.training.rl.reward.PARTS); a part without one is worth 0.
    One process may wait `patience_s` seconds for the answerer's server while the others wait for it.
    """

    training: Training
    selected: int
    max_new_tokens: int
    length_range: tuple[int, ...]
    reward: Mapping[str, float]
    lora: Lora = field(default_factory=Lora)
    dtype: str = "float32"
    seed: int = 0
    patience_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.length_range) != 2 or self.length_range[0] > self.length_range[1]:
            raise ValueError(f"selector.length_range {list(self.length_range)} must be [shortest, longest] in tokens")
        if unknown := unknown_parts(self.reward):
            raise ValueError("; ".join(unknown))
