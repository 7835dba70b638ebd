"""The rollout: G completions for each prompt, sampled from the current selector.

Every draw depends only on the seed and on the group's number in the whole training, not on batch sizes, processes, or a
resume.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from viarl.items import Item
from viarl.models.encode import Prompt
from viarl.models.vlm import Vlm
from viarl.selection.learned import SelectorPrompts, item_draws
from viarl.training.rl.prefix import Group, plain_log_probs, shared_log_probs

# Difference of log-probabilities that is allowed between two layouts of the same computation.
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.1}


class PromptSource(Protocol):
    """Where prompts come from, with vision features or with pixels (viarl.selection.learned.SelectorPrompts)."""

    def prompts(self, items: Sequence[Item]) -> list[Prompt]: ...

    def count(self, item: Item) -> int: ...


@dataclass(frozen=True)
class PixelPrompts:
    """Selector prompts that keep their pixels, for training the vision tower, whose features are no constants then."""

    source: SelectorPrompts

    def count(self, item: Item) -> int:
        """Return the number of candidate frames of the item's video."""
        return self.source.count(item)

    def prompts(self, items: Sequence[Item]) -> list[Prompt]:
        """Return one prompt an item, with pixels."""
        source = self.source
        seen = (source.vlm.pixels(source.cache.selector_frames(item.video)) for item in items)
        return [source.prompt(item, pixels=own, grid=grid) for item, (own, grid) in zip(items, seen, strict=True)]


def group_draws(seed: int, slot: int, group_size: int, tokens: int) -> torch.Tensor:
    """Return (group_size, tokens) float64 numbers in [0, 1) for the group number `slot` of a training."""
    return item_draws(f"rollout {seed}", str(slot), group_size * tokens).view(group_size, tokens)


def roll_out(
    vlm: Vlm,
    prompts: Sequence[Prompt],
    draws: Sequence[torch.Tensor],
    *,
    max_new_tokens: int,
    temperature: float,
    groups_at_once: int,
) -> list[Group]:
    """Return each prompt with its sampled completions, one a row of its draws, (G, max_new_tokens).

    `vlm` is unwrapped and in evaluation mode. `groups_at_once` bounds memory; 0 takes all.
    Errors: ValueError for a prompt without a video.
    """
    if any(prompt.grid is None for prompt in prompts):
        raise ValueError("a selector prompt has no video; its chat needs a video part")
    groups: list[Group] = []
    step = groups_at_once or len(prompts)
    for start in range(0, len(prompts), step):
        part = prompts[start : start + step]
        size, own = len(draws[start]), torch.cat(list(draws[start : start + step]))
        completions = vlm.complete(
            part, completions=size, draws=own, max_new_tokens=max_new_tokens, temperature=temperature
        )
        for number, prompt in enumerate(part):
            groups.append(Group(prompt, tuple(completions[number * size : (number + 1) * size])))
    return groups


@torch.no_grad()
def check_shared_prefix(model: Any, group: Group, *, pad: int, temperature: float, dtype: str) -> float:
    """Compare the shared-prefix forward with ordinary forwards on one group; return the difference.

    It is the largest one of all tokens in float32. In bfloat16, where a single large logit is rounded by up to 0.06,
    it is the mean one, which a wrong mask moves as well.
    Errors: RuntimeError if log-probabilities differ by more than TOLERANCE, or do not depend on the video.
    """
    shared = shared_log_probs(model, [group], pad=pad, temperature=temperature).log_probs
    plain = plain_log_probs(model, [group], pad=pad, temperature=temperature)
    differences = (shared - plain.log_probs).abs()[plain.mask]
    difference, tolerance = float(differences.mean() if dtype == "bfloat16" else differences.max()), TOLERANCE[dtype]
    if not difference <= tolerance:
        raise RuntimeError(
            f"the shared-prefix forward differs from the plain one by {difference:.2g} in log-probability (allowed "
            f"{tolerance:.2g}): this model or attention does not honour the mask; use the pinned transformers and "
            "selector.attention: sdpa"
        )
    prompt = group.prompt
    vision = {"features": prompt.features, "pixels": prompt.pixels}
    other = replace(prompt, **{name: None if seen is None else -seen for name, seen in vision.items()})
    changed = shared_log_probs(model, [replace(group, prompt=other)], pad=pad, temperature=temperature).log_probs
    if torch.equal(changed, shared):
        raise RuntimeError(
            "the log-probabilities do not depend on the video: it is dropped before the language model; use the "
            "pinned transformers, whose forward takes mm_encoder_outputs"
        )
    return difference
