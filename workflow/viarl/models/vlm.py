"""Qwen2.5-VL, or Qwen3-VL, as this project uses it: encode a prompt once, keep its vision features, generate from a
shared prefill.

One path serves rollout, training, evaluation and pretraining. Positions (M-RoPE) are always computed here, on the
prompt alone, and a completion goes on from the largest position of its prompt, exactly as `generate` does; leaving
them to the model's forward would place completions differently in training and in generation.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, DynamicCache, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from viarl.models.families import attention_for, is_timed, joined_features, model_class, timed_video, tower_output
from viarl.models.files import damage_named, find
from viarl.progress import say

# Qwen2.5-VL was trained with text that goes on behind a video's last position. transformers 5 lets it go on behind the
# first frame's, which in a long video is a place amid its frames. Checkpoints that were made with the latter rule, as
# the stand-ins, say so by this key in their config.json.
TEXT_INSIDE_VIDEO = "text_inside_video"
FRAMES_PER_SECOND = 2.0  # the rate the processor assumes for a list of frames; fixes the temporal spacing of positions
PATCHES_A_PASS = 32768  # of one pass through the vision tower; bounds its memory


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt, on the CPU.

    input_ids, token_types: (P,) int64; positions: (3, P) int64; grid: (3,) patches in time, height, width of the video,
    (n, 3) of n images, or None with neither; pixels: (patches, patch_dim) float32 until `features`, (tokens, D),
    replaces it.
    """

    input_ids: torch.Tensor
    token_types: torch.Tensor
    positions: torch.Tensor
    grid: torch.Tensor | None = None
    pixels: torch.Tensor | None = None
    features: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens in the prompt."""
        return int(self.input_ids.shape[0])

    @property
    def kind(self) -> str:
        """What the vision features belong to: "video", or "image" for one image or more."""
        return "image" if self.grid is not None and self.grid.ndim == 2 else "video"

    @property
    def next_position(self) -> int:
        """The position of the first completion token."""
        return int(self.positions.max()) + 1


def resolve_device(device: str) -> torch.device:
    """Return the device; "auto" is CUDA where there is one, else the CPU. Each of several processes has its own GPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(device, int(os.environ["LOCAL_RANK"]))
    return torch.device(device)


def load_model(
    model: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "auto"
) -> Qwen2_5_VLForConditionalGeneration:
    """Load a checkpoint (folder, or hub id with or without @revision) in evaluation mode.

    Errors: FileNotFoundError for a folder without weights, ValueError for a damaged one, an unknown dtype, a family
    that does not fit (viarl.models.families), or an attention that cannot be.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype {dtype!r} must be float32, bfloat16 or float16")
    place = resolve_device(device)
    attention = attention_for(attention, dtype, place)
    source = find(model)
    say(f"loading {model} ({dtype}, {attention})")
    with damage_named(source.name):
        kind = model_class(source)
    with damage_named(source.name):
        loaded = kind.from_pretrained(
            source.name,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,  # no pickle is loaded, from a hub neither
            **source.arguments(),
        )
    if commit := source.commit():
        say(f"{source.name} is at commit {commit}")
    return loaded.to(place).eval()


def load_processor(model: str | Path) -> Any:
    """Load the processor (tokenizer, chat template, video processor) of a checkpoint."""
    source = find(model)
    with damage_named(source.name):
        return AutoProcessor.from_pretrained(source.name, **source.arguments())


def suppressed_tokens(processor: Any) -> list[int]:
    """Return the ids that a reply must never contain: placeholders and marks of images and videos."""
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", processor.image_token, processor.video_token)
    known = processor.tokenizer.get_vocab()
    return sorted({known[name] for name in names if name in known})


def closing_tokens(model: Any, processor: Any) -> list[int]:
    """Return the ids that end a completion: the tokenizer's, then others of the model's generation_config.

    Qwen2.5-VL names two, <|im_end|> and <|endoftext|>; its tokenizer knows the first alone.
    """
    named = model.generation_config.eos_token_id
    others = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys([processor.tokenizer.eos_token_id, *others]))


def completion_text(processor: Any, completion: torch.Tensor, closing: Sequence[int]) -> str:
    """Return the text of a completion (T,), without its closing token."""
    tokens = completion.tolist()
    if tokens and tokens[-1] in closing:
        tokens = tokens[:-1]
    return str(processor.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


class Encoder:
    """Turns chats with frames into `Prompt`s with a checkpoint's own processor and position rule."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._rope = model.model.get_rope_index
        self._timed = is_timed(model)
        self._text_inside_video = bool(getattr(model.config, TEXT_INSIDE_VIDEO, False))
        self._factor = processor.video_processor.patch_size * processor.video_processor.merge_size
        self._texts: dict[str, torch.Tensor] = {}

    def pixels(
        self, frames: Sequence[np.ndarray] | np.ndarray, as_images: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (patches, patch_dim) float32 and the grid (3,) of frames, each (h, w, 3) uint8.

        Sizes are rounded to the patch grid but never enlarged to the processor's default minimum, which would blow
        112-pixel frames up to more than 300. `as_images` keeps to the checkpoint's limits of an image, as servers do.
        """
        frames = list(frames)
        frames += frames[-1:] * (self.processor.video_processor.temporal_patch_size - len(frames))
        video = np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))
        size = {"shortest_edge": self._factor**2, "longest_edge": 2**31}
        if as_images:
            limits = self.processor.image_processor.size
            size = {"shortest_edge": limits["shortest_edge"], "longest_edge": limits["longest_edge"]}
        output = self.processor.video_processor(
            [torch.from_numpy(video)],
            size=size,
            do_sample_frames=False,
            return_tensors="pt",
            cap_pixels_per_frame=False,
        )
        return output["pixel_values_videos"], output["video_grid_thw"][0]

    def image_pixels(self, frames: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (patches, patch_dim) float32 and the grids (n, 3) of n frames as images, as `pixels` does."""
        repeated = [frame for frame in frames for _ in range(self.processor.video_processor.temporal_patch_size)]
        pixels, (count, height, width) = self.pixels(repeated, as_images=True)
        return pixels, torch.tensor([(1, int(height), int(width))] * int(count))

    def prompt(
        self,
        messages: list[dict[str, object]],
        pixels: torch.Tensor | None = None,
        grid: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> Prompt:
        """Encode a chat whose video part has the given grid (3,), or whose images have (n, 3).

        Errors: ValueError if grid and chat disagree.
        """
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images = grid is not None and grid.ndim == 2
        token = self.processor.image_token if images else self.processor.video_token
        parts = [] if grid is None else grid.reshape(-1, 3).prod(1).tolist()
        if text.count(token) != len(parts):
            kind = "image" if images else "video"
            raise ValueError(f"the chat has {text.count(token)} {kind} parts for {len(parts)} {kind}s")
        if grid is not None and self._timed and not images:
            marked = f"{self.processor.vision_start_token}{token}{self.processor.vision_end_token}"
            text = text.replace(marked, timed_video(self.processor, grid, 1 / FRAMES_PER_SECOND))
        else:
            merge = self.processor.video_processor.merge_size
            first, *others = text.split(token)
            text = first + "".join(token * (size // merge**2) + rest for size, rest in zip(parts, others, strict=True))
        input_ids = torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        placeholder = self.processor.image_token_id if images else self.processor.video_token_id
        token_types = (input_ids == placeholder).long() * (1 if images else 2)
        seconds = self.processor.video_processor.temporal_patch_size / FRAMES_PER_SECOND
        positions, _ = self._rope(
            input_ids[None],
            mm_token_type_ids=token_types[None],
            image_grid_thw=grid if images else None,
            video_grid_thw=None if grid is None or images else grid[None],
            second_per_grid_ts=None if grid is None or images else torch.tensor([seconds]),
        )
        positions = positions[:, 0].long()
        if grid is not None and not images and not self._timed and not self._text_inside_video:
            end = int((token_types == 2).nonzero()[-1]) + 1
            positions[:, end:] += positions[:, :end].max() + 1 - positions[0, end]
        return Prompt(input_ids, token_types, positions, grid, pixels, features)


def as_video(grid: torch.Tensor) -> torch.Tensor:
    """Return the grid (3,) of the video that images of one size, (n, 3), would be, for the vision tower alone.

    The tower attends within a temporal patch only, and an image is one.
    """
    return grid if grid.ndim == 1 else torch.tensor([len(grid), *grid[0, 1:].tolist()])


@torch.no_grad()
def video_features(
    model: Qwen2_5_VLForConditionalGeneration, videos: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[torch.Tensor]:
    """Run the vision tower on [(pixels, grid)]; return each video's features on the CPU (viarl.models.families)."""
    device = model.device
    pixels = torch.cat([pixels for pixels, _ in videos]).to(device)
    grids = torch.stack([grid for _, grid in videos]).to(device)
    output = model.model.get_video_features(pixels, grids, return_dict=True)
    return [features.cpu() for features in joined_features(output)]


def with_features(model: Qwen2_5_VLForConditionalGeneration, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Replace pixels by vision features; prompts that share a pixel tensor share its features."""
    unique = {id(p.pixels): (p.pixels, p.grid) for p in prompts if p.features is None and p.pixels is not None}
    if not unique:
        return list(prompts)
    computed = dict(zip(unique, video_features(model, list(unique.values())), strict=True))
    return [
        replace(p, pixels=None, features=computed[id(p.pixels)]) if id(p.pixels) in computed else p for p in prompts
    ]


def left_pad(rows: Sequence[torch.Tensor], value: int = 0) -> torch.Tensor:
    """Stack tensors of different last dimension, padded on the left: [(…, L_i)] -> (B, …, max L)."""
    width = max(row.shape[-1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (width - row.shape[-1], 0), value=value) for row in rows])


def video_outputs(prompts: Sequence[Prompt], device: torch.device) -> dict[str, BaseModelOutputWithPooling] | None:
    """Return the `mm_encoder_outputs` argument that hands cached features, of videos or images, to the model's forward.

    Errors: ValueError if a prompt has a video but no features, so that a video is never dropped in silence.
    """
    for prompt in prompts:
        if prompt.grid is not None and prompt.features is None:
            raise ValueError("a prompt with a video has no vision features; call with_features first")
    features: dict[str, list[torch.Tensor]] = {}
    for prompt in prompts:
        if prompt.features is not None:
            features.setdefault(prompt.kind, []).append(prompt.features.to(device))
    return {kind: tower_output(own) for kind, own in features.items()} or None


def forward_arguments(prompts: Sequence[Prompt], device: torch.device, pad: int) -> dict[str, Any]:
    """Return the arguments of the model's forward for left-padded prompts: ids (B, P), mask, positions (3, B, P)."""
    ids = left_pad([prompt.input_ids for prompt in prompts], pad).to(device)
    mask = left_pad([torch.ones_like(prompt.input_ids) for prompt in prompts]).to(device)
    positions = left_pad([prompt.positions for prompt in prompts]).permute(1, 0, 2).to(device)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "mm_encoder_outputs": video_outputs(prompts, device),
    }


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    closing: Sequence[int],
    max_new_tokens: int,
    suppress: Sequence[int] = (),
    completions: int = 1,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    draws: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Generate `completions` per prompt: prefill each prompt once, expand the cache, decode together.

    `temperature` 0 is greedy. `suppress` lists token ids never sampled (vision placeholders). Rows that have ended
    leave the batch, so the cost follows the live rows. Sampling draws one CPU number a row and step, live or not, so
    a completion depends on its row's place and the generator, not on when others end. Where it must not depend on its
    place either, `draws`, (prompts x completions, max_new_tokens) float64 in [0, 1), takes the generator's place.

    Returns: prompts x completions tensors of token ids on the CPU, in order, with the one of `closing` that ended each.
    """
    device = next(model.parameters()).device
    arguments = forward_arguments(prompts, device, closing[0])
    cache = DynamicCache(config=model.config.get_text_config())
    logits = model(**arguments, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    if completions > 1:
        cache.batch_repeat_interleave(completions)
        logits = logits.repeat_interleave(completions, 0)
    total = logits.shape[0]
    live = torch.arange(total, device=device)
    start = torch.tensor([prompt.next_position for prompt in prompts], device=device).repeat_interleave(completions)
    mask = arguments["attention_mask"].repeat_interleave(completions, 0)
    written = torch.zeros((total, max_new_tokens), dtype=torch.long, device=device)
    length = torch.full((total,), max_new_tokens, device=device)
    ends = torch.tensor(list(closing), device=device)
    for step in range(max_new_tokens):
        scores = logits.float()
        if len(suppress):
            scores[:, list(suppress)] = -torch.inf
        if temperature > 0:
            # inverse transform sampling with double precision, so that a draw is the same on every batch layout
            drawn = torch.rand(total, generator=generator, dtype=torch.float64) if draws is None else draws[:, step]
            uniform = drawn.to(device)[live]
            cumulative = torch.softmax(scores.double() / temperature, -1).cumsum(-1)
            token = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
            token = token.clamp(max=scores.shape[-1] - 1)
        else:
            token = scores.argmax(-1)
        written[live, step] = token
        ended = torch.isin(token, ends)
        length[live[ended]] = step + 1
        if bool(ended.all()) or step + 1 == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
        if bool(ended.any()):
            keep = (~ended).nonzero()[:, 0]
            live, token, mask = live[keep], token[keep], mask[keep]
            cache.batch_select_indices(keep)
        positions = (start[live] + step)[None, :, None].expand(3, -1, 1)
        logits = model(
            input_ids=token[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[:, -1]
    return [row[:count].cpu() for row, count in zip(written, length.tolist(), strict=True)]
