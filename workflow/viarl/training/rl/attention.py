"""Attention for rows of the form [prompt | completion 1 | … | completion G], without the pairs that are masked anyway.

The prompt attends causally to itself, and each completion to [prompt, itself], in two calls of PyTorch's attention.
Registered with transformers under a name of its own; where no `shared_prefix` layout is given (rollout, evaluation), it
is its "sdpa". The layout is an argument of the forward, so that gradient checkpointing finds it in the backward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_shared_prefix"


@dataclass(frozen=True)
class Layout:
    """Where the N completions of B groups lie in rows of S = P + C tokens."""

    prompt: int  # P, columns of the prompts, padded on the left
    group: torch.Tensor  # (N,) the row of each completion
    source: torch.Tensor  # (N, T) each token's place among the flattened B x C completion columns; padding anywhere
    place: torch.Tensor  # (B * C,) the inverse: each column's place among the flattened N x T tokens, -1 for padding
    prompt_mask: torch.Tensor | None  # (B, 1, P, P) bool, or None where no prompt is padded
    completion_mask: torch.Tensor  # (N, 1, T, P + T) bool


def build_layout(lengths: list[list[int]], prompt_lengths: list[int], width: int, device: torch.device) -> Layout:
    """Return the layout for groups of completions of these lengths, packed into `width` columns behind the prompts."""
    prompt = max(prompt_lengths)
    flat = torch.tensor([length for group in lengths for length in group])
    group = torch.tensor([row for row, own in enumerate(lengths) for _ in own])
    longest = int(flat.max())
    # a completion starts behind those before it in its group
    before = torch.tensor([sum(own[:number]) for own in lengths for number in range(len(own))])
    columns = torch.arange(longest)
    real = columns < flat[:, None]
    source = torch.where(real, group[:, None] * width + before[:, None] + columns, 0)
    place = torch.full((len(lengths) * width,), -1)
    place[source[real]] = torch.arange(real.numel()).view(real.shape)[real]
    visible = torch.arange(prompt) >= prompt - torch.tensor(prompt_lengths)[:, None]  # (B, P)
    causal = columns[:, None] >= columns
    mask = torch.cat([visible[group][:, None].expand(-1, longest, -1), causal.expand(len(flat), -1, -1)], 2)[:, None]
    prompt_mask = None
    if not bool(visible.all()):
        order = torch.arange(prompt)
        # padding sees itself, lest its softmax be over nothing
        seen = ((order[:, None] >= order) & visible[:, None]) | (order[:, None] == order)
        prompt_mask = seen[:, None].to(device)
    return Layout(prompt, group.to(device), source.to(device), place.to(device), prompt_mask, mask.to(device))


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared_prefix: Layout | None = None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as the layout says; query (B, H, S, D), key and value (B, H_kv, S, D) -> (B, S, H, D)."""
    if shared_prefix is None:
        arguments["scaling"] = scaling
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    layout, prompt = shared_prefix, shared_prefix.prompt
    repeats = query.shape[1] // key.shape[1]
    of_prompt = scaled_dot_product_attention(
        query[:, :, :prompt],
        key[:, :, :prompt].repeat_interleave(repeats, 1),
        value[:, :, :prompt].repeat_interleave(repeats, 1),
        attn_mask=layout.prompt_mask,
        is_causal=layout.prompt_mask is None,
        scale=scaling,
    )
    # The query heads that share a key head stand one behind the other, so that keys need not be repeated for them.
    queries = _split(query, layout)  # (N, H, T, D)
    completions, heads, longest, size = queries.shape
    of_completions = scaled_dot_product_attention(
        queries.reshape(completions, heads // repeats, repeats * longest, size),
        torch.cat([key[layout.group, :, :prompt], _split(key, layout)], 2),
        torch.cat([value[layout.group, :, :prompt], _split(value, layout)], 2),
        attn_mask=layout.completion_mask.repeat(1, 1, repeats, 1),
        scale=scaling,
    ).reshape(completions, heads, longest, size)
    return torch.cat([of_prompt.transpose(1, 2), _join(of_completions, layout, len(query))], 1), None


def _split(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Take the completions out of the rows: (B, H, S, D) -> (N, H, T, D)."""
    columns = states[:, :, layout.prompt :].transpose(1, 2).flatten(0, 1)  # (B * C, H, D)
    return columns[layout.source].transpose(1, 2)


def _join(states: torch.Tensor, layout: Layout, rows: int) -> torch.Tensor:
    """Put the completions back into their columns, zeros into padding: (N, H, T, D) -> (B, C, H, D)."""
    tokens = states.transpose(1, 2).flatten(0, 1)  # (N * T, H, D)
    columns = tokens[layout.place.clamp(min=0)] * (layout.place >= 0)[:, None, None]
    return columns.unflatten(0, (rows, -1))


def enable(model: Any) -> None:
    """Let a language model use this attention in place of sdpa and of flash-attention 2, which takes no such layout.

    The vision tower keeps its own; the saved configuration is unchanged.
    """
    if model.config.get_text_config()._attn_implementation in ("sdpa", "flash_attention_2"):
        model.set_attn_implementation({"text_config": NAME})


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
