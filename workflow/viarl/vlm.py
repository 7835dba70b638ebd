"""Qwen2.5-VL as this project uses it: encode a prompt once, keep its vision features, generate from a shared prefill.

One path serves rollout, training, evaluation and pretraining. Positions (M-RoPE) are always computed here, on the
prompt alone, and a completion goes on from the largest position of its prompt, exactly as `generate` does; leaving
them to the model's forward would place completions differently in training and in generation.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoProcessor, DynamicCache, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from viarl.files import read_json
from viarl.progress import say

FRAMES_PER_SECOND = 2.0  # the rate the processor assumes for a list of frames; fixes the temporal spacing of positions
PATCHES_A_PASS = 32768  # of one pass through the vision tower; bounds its memory
SIZES = "files.json"  # in a checkpoint folder that a stage wrote: the size of every other file in it
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelSettings:
    """How a model is asked (keys of the configuration's `selector` and `answerer`).

    `prompt` names its text, `max_new_tokens` is the longest reply, `batch_size` counts questions in a forward pass.
    """

    prompt: str
    max_new_tokens: int
    dtype: str = "float32"
    attention: str = "sdpa"
    batch_size: int = 32


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt, on the CPU.

    input_ids, token_types: (P,) int64; positions: (3, P) int64; grid: (3,) patches in time, height, width, or None
    without a video; pixels: (patches, patch_dim) float32 until `features`, (video_tokens, D), replaces it.
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


def checkpoint(model: str | Path) -> str:
    """Return the folder of a checkpoint, or the hub id that `model` is.

    Errors: FileNotFoundError for what is neither, ValueError for a folder of which a file is not as it was written
    (some are plain text, and would be read without a word).
    """
    folder = Path(model)
    if (folder / "config.json").exists():
        sizes = read_json(folder / SIZES) if (folder / SIZES).exists() else {}
        for name, size in sizes.items():
            path = folder / name
            found = path.stat().st_size if path.exists() else 0
            if found != size:
                raise ValueError(
                    f"the checkpoint folder {folder} is damaged ({name} has {found} bytes, not {size}); delete "
                    f"{folder / 'model.safetensors'} so that its rule makes the folder again"
                )
        return str(folder)
    if folder.is_absolute() or folder.exists() or not _HUB_ID.fullmatch(str(model)):
        raise FileNotFoundError(
            f"{model} holds no checkpoint (no config.json) and is no hub id (owner/name); "
            "name another model, or delete the folder so that its rule makes it again"
        )
    return str(model)


@contextmanager
def damage_named(model: str | Path) -> Iterator[None]:
    """Raise what libraries say about a damaged file of a checkpoint folder as a ValueError with folder and remedy."""
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        weights = Path(model) / "model.safetensors"
        if not Path(model).is_dir():
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"the checkpoint folder {model} is damaged ({reason}); delete {weights} so that its rule makes the folder "
            "again, or name another model"
        ) from error


def load_model(
    model: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "auto"
) -> Qwen2_5_VLForConditionalGeneration:
    """Load a Qwen2.5-VL checkpoint (folder or hub id) in evaluation mode.

    Errors: FileNotFoundError for a folder without weights, ValueError for a damaged one or an unknown dtype.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype {dtype!r} must be float32, bfloat16 or float16")
    say(f"loading {model}")
    source = checkpoint(model)
    with damage_named(source):
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,  # no pickle is loaded, from a hub neither
        )
    return loaded.to(resolve_device(device)).eval()


def load_processor(model: str | Path) -> Any:
    """Load the processor (tokenizer, chat template, video processor) of a checkpoint."""
    source = checkpoint(model)
    with damage_named(source):
        return AutoProcessor.from_pretrained(source)


def suppressed_tokens(processor: Any) -> list[int]:
    """Return the ids that a reply must never contain: placeholders and marks of images and videos."""
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", processor.image_token, processor.video_token)
    known = processor.tokenizer.get_vocab()
    return sorted({known[name] for name in names if name in known})


def completion_text(processor: Any, completion: torch.Tensor) -> str:
    """Return the text of a completion (T,), without its closing token."""
    tokens = completion.tolist()
    if tokens and tokens[-1] == processor.tokenizer.eos_token_id:
        tokens = tokens[:-1]
    return str(processor.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


class Encoder:
    """Turns chats with frames into `Prompt`s with a checkpoint's own processor and position rule."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._rope = model.model.get_rope_index
        self._factor = processor.video_processor.patch_size * processor.video_processor.merge_size
        self._texts: dict[str, torch.Tensor] = {}

    def pixels(self, frames: Sequence[np.ndarray] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (patches, patch_dim) float32 and the grid (3,) of frames, each (h, w, 3) uint8.

        Sizes are rounded to the patch grid but never enlarged to the processor's default minimum, which would blow
        112-pixel frames up to more than 300.
        """
        video = np.ascontiguousarray(np.stack(list(frames)).transpose(0, 3, 1, 2))
        size = {"shortest_edge": self._factor**2, "longest_edge": 2**31}
        output = self.processor.video_processor(
            [torch.from_numpy(video)],
            size=size,
            do_sample_frames=False,
            return_tensors="pt",
            cap_pixels_per_frame=False,
        )
        return output["pixel_values_videos"], output["video_grid_thw"][0]

    def prompt(
        self,
        messages: list[dict[str, object]],
        pixels: torch.Tensor | None = None,
        grid: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> Prompt:
        """Encode a chat whose (at most one) video part has the given grid; ValueError if video and chat disagree."""
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        token = self.processor.video_token
        if text.count(token) != (grid is not None):
            raise ValueError(f"the chat has {text.count(token)} video parts for {int(grid is not None)} videos")
        if grid is not None:
            merge = self.processor.video_processor.merge_size
            text = text.replace(token, token * int(grid.prod().item() // merge**2))
        input_ids = torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        token_types = (input_ids == self.processor.video_token_id).long() * 2
        seconds = self.processor.video_processor.temporal_patch_size / FRAMES_PER_SECOND
        positions, _ = self._rope(
            input_ids[None],
            mm_token_type_ids=token_types[None],
            video_grid_thw=None if grid is None else grid[None],
            second_per_grid_ts=None if grid is None else torch.tensor([seconds]),
        )
        return Prompt(input_ids, token_types, positions[:, 0].long(), grid, pixels, features)


@torch.no_grad()
def video_features(
    model: Qwen2_5_VLForConditionalGeneration, videos: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[torch.Tensor]:
    """Run the vision tower on [(pixels, grid)]; return each video's (video_tokens, D) features on the CPU."""
    device = model.device
    pixels = torch.cat([pixels for pixels, _ in videos]).to(device)
    grids = torch.stack([grid for _, grid in videos]).to(device)
    output = model.model.get_video_features(pixels, grids, return_dict=True)
    return [features.cpu() for features in output.pooler_output]


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
    """Return the `mm_encoder_outputs` argument that hands cached features to the model's forward.

    Errors: ValueError if a prompt has a video but no features, so that a video is never dropped in silence.
    """
    for prompt in prompts:
        if prompt.grid is not None and prompt.features is None:
            raise ValueError("a prompt with a video has no vision features; call with_features first")
    features = [prompt.features.to(device) for prompt in prompts if prompt.features is not None]
    return {"video": BaseModelOutputWithPooling(pooler_output=features)} if features else None


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
    eos: int,
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

    Returns: prompts x completions tensors of token ids on the CPU, in order; the closing `eos` is included.
    """
    device = next(model.parameters()).device
    arguments = forward_arguments(prompts, device, eos)
    cache = DynamicCache(config=model.config.get_text_config())
    logits = model(**arguments, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    if completions > 1:
        cache.batch_repeat_interleave(completions)
        logits = logits.repeat_interleave(completions, 0)
    total = logits.shape[0]
    live = torch.arange(total, device=device)
    start = torch.tensor([prompt.next_position for prompt in prompts], device=device).repeat_interleave(completions)
    mask = arguments["attention_mask"].repeat_interleave(completions, 0)
    written = torch.full((total, max_new_tokens), eos, dtype=torch.long, device=device)
    length = torch.full((total,), max_new_tokens, device=device)
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
        ended = token == eos
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
