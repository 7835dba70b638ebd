"""Settings of the selector's training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from viarl.models.settings import Lora, ModelSettings
from viarl.sections import Count, OneOf, Positive, Weight, Whole, key, section
from viarl.training.rl.reward import PARTS
from viarl.training.settings import Optimiser

Range = Annotated[tuple[Whole, ...], Field(min_length=2, max_length=2)]
Weights = Annotated[dict[Annotated[str, OneOf(lambda: PARTS)], Weight], Field(min_length=1)]  # by the name of a part


@section
class Training(Optimiser):
    """How the selector is trained by reinforcement; what bounds memory changes no result beyond rounding."""

    algorithm: Literal["reinforce++", "reinforce++-baseline", "group-normalised"] = key(
        "how advantages are made", source="paper: reinforce++"
    )
    steps: Count = key("optimiser steps in each cycle", source="ours")
    prompts_per_step: Count = key("questions in a global batch", source="scripts: 8")
    group_size: Count = key("G, completions of a question", source="paper: 8")
    schedule: Literal["constant", "cosine"] = key("of the learning rate", default="constant", source="scripts: cosine")
    beta: Weight = key("weight of the token KL taken from the reward", default=1e-3, source="paper")
    gamma: Annotated[float, Field(gt=0, le=1)] = key("discount of the returns-to-go", default=1.0, source="paper")
    clip_epsilon: Annotated[float, Field(gt=0, lt=1)] = key(
        "PPO clip of the probability ratio", default=0.2, source="paper"
    )
    temperature: Positive = key("of the rollout", default=1.0, source="paper")
    train_vision: bool = key("train the vision tower too", default=False, source="paper, stage 1: false")
    updates_per_rollout: Count = key(
        "optimiser steps on the same completions; above 1 the PPO clip acts", default=1, source="paper: 1"
    )
    groups_per_microbatch: Whole = key("groups in one forward and backward pass, 0 = all", default=0, counts=False)
    groups_per_rollout: Whole = key("groups sampled at once, 0 = all", default=0, counts=False)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.group_size < 2:
            raise ValueError(f"training.group_size {self.group_size}: a group is compared with itself; set 2 or more")
        if self.steps % self.updates_per_rollout:
            raise ValueError(
                f"training.steps {self.steps} must be a multiple of updates_per_rollout {self.updates_per_rollout}"
            )
        return self

    def shares(self, processes: int) -> tuple[int, int, int]:
        """Return the groups of a step in each process, those of its microbatches, and how many these are.

        ValueError where they cannot be shared evenly.
        """
        local = self.prompts_per_step // processes
        microbatch = self.groups_per_microbatch or local
        shares = ((self.prompts_per_step, processes, "processes"), (local, microbatch, "groups_per_microbatch"))
        for total, part, what in shares:
            if total % part:
                fault = f"{total} groups cannot be shared evenly among {part} {what}; change one of them"
                raise ValueError(f"training.prompts_per_step: {fault}")
        return local, microbatch, local // microbatch


@section
class TrainedSelector(ModelSettings):
    """How the selector is asked, which completion lengths earn a reward, and whether adapters are trained."""

    length_range: Range = key(
        "completion lengths that earn the length reward", unit="tokens", source="paper: 80 to 512"
    )
    lora: Lora = Lora()


@dataclass(frozen=True)
class SelectorTask:
    """What the trainer must know of the task."""

    training: Training
    selected: int  # K
    max_new_tokens: int
    length_range: tuple[int, ...]
    reward: Mapping[str, float]  # weights by the name of a part; one without is worth 0
    lora: Lora = field(default_factory=Lora)
    dtype: str = "float32"
    seed: int = 0
    patience_s: float = 0.0  # that one process may wait for the answerer's server while the others wait for it

    def __post_init__(self) -> None:
        if len(self.length_range) != 2 or self.length_range[0] > self.length_range[1]:
            raise ValueError(f"selector.length_range {list(self.length_range)} must be [shortest, longest] in tokens")
