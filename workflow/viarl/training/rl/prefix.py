"""Log-probabilities of a group's completions with the prompt computed once (shared prefix).

The G completions of a group share their prompt, most of which is video. Each group becomes one row,

    [padding | prompt | completion 1 | completion 2 | … | completion G | padding]

with an attention in which a completion sees the prompt and itself, but no other completion
(viarl.training.rl.attention, or a mask), and with the positions that each completion would have on its own. That is
exact: log-probabilities and gradients equal those of G separate rows (tests/unit/training/test_prefix.py, in float64).
It needs no key-value cache, so gradient checkpointing and wrapped models (DDP, DeepSpeed, PEFT) work. Similar:
PrefixGrouper (github: johncaged/PrefixGrouper).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from viarl.models.encode import Prompt, left_pad, video_outputs
from viarl.training.rl import attention

LOGITS_A_CHUNK = 2**26  # elements turned into float32 at once; bounds the memory of large vocabularies


@dataclass(frozen=True)
class Group:
    """A prompt and its completions, each (T_g,) token ids, none empty."""

    prompt: Prompt
    completions: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class LogProbs:
    """Per-token results, (N, T), completions of all groups in order, padded on the right with zeros."""

    log_probs: torch.Tensor
    entropy: torch.Tensor  # of the distribution each token was drawn from, without gradient
    mask: torch.Tensor  # bool


def completion_mask(groups: Sequence[Group]) -> torch.Tensor:
    """Return which tokens of the padded completions are real: (N, T) bool on the CPU."""
    lengths = torch.tensor([len(completion) for group in groups for completion in group.completions])
    return torch.arange(int(lengths.max()))[None] < lengths[:, None]


def shared_log_probs(model: Any, groups: Sequence[Group], *, pad: int, temperature: float = 1.0) -> LogProbs:
    """Return the completions' log-probabilities under `model`, possibly wrapped, in one call, a row a group.

    Prompts hold vision features, or pixels to run the vision tower with gradients. `temperature` divides the logits.
    Errors: ValueError where a prompt's video would be dropped, or the attention cannot take a mask.
    """
    device = next(model.parameters()).device
    rows = pad_sequence([torch.cat(group.completions) for group in groups], batch_first=True, padding_value=pad)
    ids = torch.cat([left_pad([group.prompt.input_ids for group in groups], pad), rows], 1)
    width = rows.shape[1]
    segments, positions = _layout(groups)
    masking: dict[str, Any]
    if (kind := _attention(model)) == attention.NAME:
        lengths = [[len(completion) for completion in group.completions] for group in groups]
        prompts = [group.prompt.length for group in groups]
        masking = {"shared_prefix": attention.build_layout(lengths, prompts, width, device)}
    else:
        masking = {"attention_mask": _tree_mask(segments.to(device), kind, next(model.parameters()).dtype)}
    output = model(
        input_ids=ids.to(device),
        position_ids=positions.to(device),
        use_cache=False,
        logits_to_keep=width + 1,  # the prompt's last token predicts every first token
        **masking,
        **_video_arguments([group.prompt for group in groups], device),
    )
    return _gather(output.logits, groups, temperature)


def plain_log_probs(model: Any, groups: Sequence[Group], *, pad: int, temperature: float = 1.0) -> LogProbs:
    """Return the same from ordinary causal forwards, one a completion, its prompt repeated: the yardstick, slow."""
    device = next(model.parameters()).device
    mask = completion_mask(groups).to(device)
    rows, entropies = [], []
    for group in groups:
        prompt = group.prompt
        for completion in group.completions:
            own = prompt.next_position + torch.arange(len(completion)).expand(3, -1)
            logits = model(
                input_ids=torch.cat([prompt.input_ids, completion])[None].to(device),
                position_ids=torch.cat([prompt.positions, own], 1)[:, None].to(device),
                use_cache=False,
                **_video_arguments([prompt], device),
            ).logits[0, prompt.length - 1 : -1]
            scaled = _scaled(logits, temperature).log_softmax(-1)
            rows.append(scaled.gather(1, completion[:, None].to(device))[:, 0])
            entropies.append(-(scaled.exp() * scaled).sum(-1).detach())
    return LogProbs(pad_sequence(rows, batch_first=True), pad_sequence(entropies, batch_first=True), mask)


def _layout(groups: Sequence[Group]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return segments (B, S) (-1 padding, 0 prompt, g completion g) and positions (3, B, S)."""
    prompt_segments = left_pad([torch.ones_like(group.prompt.input_ids) for group in groups]) - 1
    prompt_positions = left_pad([group.prompt.positions for group in groups])
    numbers, places = [], []
    for group in groups:
        numbers.append(torch.cat([torch.full((len(own),), n) for n, own in enumerate(group.completions, 1)]))
        places.append(torch.cat([group.prompt.next_position + torch.arange(len(own)) for own in group.completions]))
    segments = pad_sequence(numbers, batch_first=True, padding_value=-1)
    positions = pad_sequence(places, batch_first=True)[:, None].expand(-1, 3, -1)
    return torch.cat([prompt_segments, segments], 1), torch.cat([prompt_positions, positions], 2).permute(1, 0, 2)


def _tree_mask(segments: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
    """Return who sees whom, (B, 1, S, S): bool for sdpa, additive for eager. Padding sees itself, lest it be NaN."""
    order = torch.arange(segments.shape[1], device=segments.device)
    seen = segments[:, None, :]
    allowed = (order[:, None] >= order) & (seen >= 0) & ((seen == 0) | (seen == segments[:, :, None]))
    allowed = (allowed | (order[:, None] == order))[:, None]
    if kind == "sdpa":
        return allowed
    if kind == "eager":
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    raise ValueError(f"attention {kind!r} takes no mask, which a shared prefix needs; set selector.attention: sdpa")


def _attention(model: Any) -> str:
    while isinstance(inner := getattr(model, "module", None), torch.nn.Module):  # DDP and its like, one level down
        model = inner
    return str(model.config.get_text_config()._attn_implementation)


def _video_arguments(prompts: Sequence[Prompt], device: torch.device) -> dict[str, Any]:
    """Return what hands the prompts' videos to the model; ValueError where one would be dropped or cut."""
    for prompt in prompts:
        tokens = int((prompt.token_types == 2).sum())
        if prompt.grid is None and tokens:
            raise ValueError(f"a prompt has {tokens} video tokens but no video; encode it together with its frames")
        if prompt.features is not None and len(prompt.features) != tokens:
            raise ValueError(f"a prompt has {tokens} video tokens for {len(prompt.features)} vision features")
    with_pixels = [prompt for prompt in prompts if prompt.grid is not None and prompt.features is None]
    if not with_pixels:
        return {"mm_encoder_outputs": video_outputs(prompts, device)}
    if len(with_pixels) != len(prompts) or any(prompt.pixels is None for prompt in prompts):
        raise ValueError("a batch needs vision features for every video or pixels for every video; some have neither")
    return {
        "pixel_values_videos": torch.cat([prompt.pixels for prompt in prompts if prompt.pixels is not None]).to(device),
        "video_grid_thw": torch.stack([prompt.grid for prompt in prompts if prompt.grid is not None]).to(device),
    }


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the logits in at least float32, over the temperature."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if temperature == 1.0 else wide / temperature


def _normaliser(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-sum-exp (with gradient) and entropy (without) of rows of logits, (n, V) -> (n,), (n,)."""
    scaled = _scaled(logits, temperature)
    log_z = scaled.logsumexp(-1)
    with torch.no_grad():
        entropy = log_z - (torch.exp(scaled - log_z[:, None]) * scaled).sum(-1)
    return log_z, entropy


def _gather(logits: torch.Tensor, groups: Sequence[Group], temperature: float) -> LogProbs:
    """Read each completion token's log-probability from the logits of the token before it, (B, K, V) -> (N, T)."""
    (rows, kept, vocabulary), device = logits.shape, logits.device
    places = []  # row of the flat logits; 0 of a group is its prompt's last
    for row, group in enumerate(groups):
        start = row * kept
        for completion in group.completions:
            places.append(start + torch.arange(len(completion)))
            places[-1][0] = row * kept
            start += len(completion)
    tokens = torch.cat([completion for group in groups for completion in group.completions]).to(device)
    source, mask = pad_sequence(places, batch_first=True).to(device), completion_mask(groups).to(device)
    flat = logits.view(rows * kept, vocabulary)
    chunks = flat.split(max(1, LOGITS_A_CHUNK // vocabulary))
    if len(chunks) > 1 and torch.is_grad_enabled():
        # float32 copies of the chunks are made again in the backward pass instead of all being kept
        normalisers = [checkpoint(_normaliser, chunk, temperature, use_reentrant=False) for chunk in chunks]
    else:
        normalisers = [_normaliser(chunk, temperature) for chunk in chunks]
    log_z, entropy = (torch.cat(parts) for parts in zip(*normalisers, strict=True))
    valid = source[mask]
    own = _scaled(flat[valid, tokens], temperature) - log_z[valid]
    log_probs = log_z.new_zeros(mask.shape).masked_scatter(mask, own)
    return LogProbs(log_probs, entropy[source] * mask, mask)
