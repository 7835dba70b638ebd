"""Prompts as a model gets them: chats with frames become tokens, positions and pixels, and several become a batch.

Positions (M-RoPE) are always computed here, on the prompt by itself, and a completion goes on from the largest position
of its prompt, exactly as transformers' `generate` does; leaving them to the model's forward would place completions
differently in training and in generation.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from viarl.models.families import timed_video, tower_output

# Qwen2.5-VL was trained with text that goes on behind a video's last position. transformers 5 lets it go on behind the
# first frame's, which in a long video is a place amid its frames. Checkpoints that were made with the latter rule, as
# the stand-ins, say so by this key in their config.json.
TEXT_INSIDE_VIDEO = "text_inside_video"
BREAK = "\0"  # in a rendered chat: no token reaches across it, and it is no part of the text
FRAMES_PER_SECOND = 2.0  # the rate the processor assumes for a list of frames; fixes the temporal spacing of positions


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt, on the CPU."""

    input_ids: torch.Tensor  # (P,) int64
    token_types: torch.Tensor  # (P,) int64
    positions: torch.Tensor  # (3, P) int64
    grid: torch.Tensor | None = None  # (3,) patches in time, height, width of the video, or (n, 3) of n images
    pixels: torch.Tensor | None = None  # (patches, patch_dim) float32, until features replace them
    features: torch.Tensor | None = None  # (tokens, D)

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


class Encoder:
    """Turns chats with frames into `Prompt`s with a checkpoint's own processor and position rule."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._rope = model.model.get_rope_index
        self.timed = model.config.model_type == "qwen3_vl"  # each temporal patch stands behind its time in words
        self._text_inside_video = bool(getattr(model.config, TEXT_INSIDE_VIDEO, False))
        added = self.tokenizer.added_tokens_decoder.values()
        controls = [token.content for token in added if token.special or token.content.startswith("<|")]
        self._controls = re.compile("|".join(map(re.escape, controls)))
        self._factor = processor.video_processor.patch_size * processor.video_processor.merge_size

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
            size = {edge: self.processor.image_processor.size[edge] for edge in size}
        how = {"do_sample_frames": False, "return_tensors": "pt", "cap_pixels_per_frame": False}
        output = self.processor.video_processor([torch.from_numpy(video)], size=size, **how)
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
        times: Sequence[float] | None = None,
    ) -> Prompt:
        """Encode a chat whose video part has the given grid (3,), or whose images have (n, 3); ValueError if not.

        `times`: the seconds at which the video's frames are shown, which some families tell (`timed`). Control tokens
        that a chat's texts hold are encoded as text.
        """
        chat = self._without_controls(messages)
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        images = grid is not None and grid.ndim == 2
        token = self.processor.image_token if images else self.processor.video_token
        parts = [] if grid is None else grid.reshape(-1, 3).prod(1).tolist()
        if text.count(token) != len(parts):
            kind = "image" if images else "video"
            raise ValueError(f"the chat has {text.count(token)} {kind} parts for {len(parts)} {kind}s")
        if grid is not None and self.timed and not images:
            marked = f"{self.processor.vision_start_token}{token}{self.processor.vision_end_token}"
            text = text.replace(marked, timed_video(self.processor, grid, times))
        else:
            merge = self.processor.video_processor.merge_size
            first, *others = text.split(token)
            text = first + "".join(token * (size // merge**2) + rest for size, rest in zip(parts, others, strict=True))
        pieces = self.tokenizer(text.split(BREAK), add_special_tokens=False)["input_ids"]
        input_ids = torch.tensor([token for piece in pieces for token in piece])
        placeholder = self.processor.image_token_id if images else self.processor.video_token_id
        token_types = (input_ids == placeholder).long() * (1 if images else 2)
        seconds = self.processor.video_processor.temporal_patch_size / FRAMES_PER_SECOND
        vision = {"video_grid_thw": None, "second_per_grid_ts": None, "image_grid_thw": grid}
        if grid is not None and not images:
            vision = {
                "video_grid_thw": grid[None],
                "second_per_grid_ts": torch.tensor([seconds]),
                "image_grid_thw": None,
            }
        positions, _ = self._rope(input_ids[None], mm_token_type_ids=token_types[None], **vision)
        positions = positions[:, 0].long()
        if grid is not None and not images and not self.timed and not self._text_inside_video:
            end = int((token_types == 2).nonzero()[-1]) + 1
            positions[:, end:] += positions[:, :end].max() + 1 - positions[0, end]
        return Prompt(input_ids, token_types, positions, grid, pixels, features)

    def _without_controls(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a chat with a BREAK within each control token of its texts."""

        def broken(part: Mapping[str, str]) -> Mapping[str, str]:
            text = self._controls.sub(lambda own: own[0][0] + BREAK + own[0][1:], part.get("text", ""))
            return {**part, "text": text} if text else part

        return [{**message, "content": [broken(part) for part in message["content"]]} for message in messages]


def as_video(grid: torch.Tensor) -> torch.Tensor:
    """Return the grid (3,) of the video that images of one size, (n, 3), would be, for the vision tower alone."""
    return grid if grid.ndim == 1 else torch.tensor([len(grid), *grid[0, 1:].tolist()])


def left_pad(rows: Sequence[torch.Tensor], value: int = 0) -> torch.Tensor:
    """Stack tensors of different last dimension, padded on the left: [(…, L_i)] -> (B, …, max L)."""
    width = max(row.shape[-1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (width - row.shape[-1], 0), value=value) for row in rows])


def video_outputs(prompts: Sequence[Prompt], device: torch.device) -> dict[str, BaseModelOutputWithPooling] | None:
    """Return the `mm_encoder_outputs` argument that hands cached features, of videos or images, to the model's forward.

    Errors: ValueError if a prompt has a video but no features, so that a video is never dropped in silence.
    """
    if any(prompt.grid is not None and prompt.features is None for prompt in prompts):
        raise ValueError("a prompt with a video has no vision features; call Vlm.with_features first")
    features: dict[str, list[torch.Tensor]] = {}
    for prompt in prompts:
        if prompt.features is not None:
            features.setdefault(prompt.kind, []).append(prompt.features.to(device))
    return {kind: tower_output(own) for kind, own in features.items()} or None


def forward_arguments(prompts: Sequence[Prompt], device: torch.device, pad: int) -> dict[str, Any]:
    """Return the arguments of the model's forward for left-padded prompts: ids, mask (B, P), positions (3, B, P)."""
    return {
        "input_ids": left_pad([prompt.input_ids for prompt in prompts], pad).to(device),
        "attention_mask": left_pad([torch.ones_like(prompt.input_ids) for prompt in prompts]).to(device),
        "position_ids": left_pad([prompt.positions for prompt in prompts]).permute(1, 0, 2).to(device),
        "mm_encoder_outputs": video_outputs(prompts, device),
    }
