"""What models cost: bytes of memory and disk, operations and seconds, each quantity a formula of its own.

Bytes a number: 2 in bfloat16, 4 in float32. A full training in bfloat16 keeps its weights in float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viarl.plan.shapes import Shape

PATCHES_A_PASS = 32768  # as viarl.models.vlm
CHUNK = 2**26  # logits in float32 at once, as viarl.training.rl.prefix
JPEG_HEADER = 640  # bytes


@dataclass(frozen=True)
class Gpu:
    """The card (keys of the configuration's `plan`); `utilisation` is the share of both rates that is reached."""

    memory_gb: float
    tflops: float
    bandwidth_gb_s: float
    utilisation: float

    def compute(self, flops: float) -> float:
        """Return the seconds of that many operations."""
        return flops / (self.tflops * 1e12 * self.utilisation)

    def read(self, size: float) -> float:
        """Return the seconds to read that many bytes from the card's memory, as each step of decoding does."""
        return size / (self.bandwidth_gb_s * 1e9 * self.utilisation)


def static_memory(shape: Shape, *, dtype: str, rank: int, vision: bool, shards: int) -> dict[str, float]:
    """Return what a training holds throughout: weights, gradients, AdamW's two moments, and their copies in bfloat16.

    `rank` 0 is full training; `vision`: the tower is trained too; `shards`: processes that share them (FSDP, ZeRO-3).
    """
    if rank:
        trained, copies = shape.adapters(rank, vision), 0.0
        weights = size_of(dtype) * shape.weights + 4.0 * trained
    else:
        trained, weights = shape.weights if vision else shape.text, 4.0 * shape.weights
        copies = 2.0 * trained if dtype == "bfloat16" else 0.0  # autocast keeps them within a forward pass
    parts = {"weights": weights, "gradients": 4.0 * trained, "AdamW": 8.0 * trained, "autocast copies": copies}
    return {name: size / shards for name, size in parts.items() if size}


def layer_activations(width: int, queries: int, keys: int, mlp: int, size: int) -> float:
    """Return the bytes that one layer keeps of one token for its backward pass.

    Two norms keep input and output in float32 (16 width), their casts to bfloat16 (4 width); 3 queries (two and the
    result), 2 keys (and values), 4 mlp (gate, its activation, up, product).
    """
    return 16 * width + (4 * width if size == 2 else 0) + size * (3 * queries + 2 * keys + 4 * mlp)


def training_activations(shape: Shape, tokens: float, extra: float, *, dtype: str, checkpointing: bool) -> float:
    """Return the bytes kept for the backward pass of the language model: of each layer `layer_activations` of its
    tokens and `extra`; with checkpointing each layer's input, and all of one layer."""
    layer = tokens * layer_activations(shape.hidden, shape.hidden, shape.kv, shape.mlp, size_of(dtype)) + extra
    return shape.layers * tokens * shape.hidden * 4 + layer if checkpointing else shape.layers * layer


def tower_activations(shape: Shape, patches: float, *, dtype: str, checkpointing: bool) -> float:
    """Return the same of a vision tower that is trained."""
    v = shape.vision_hidden
    layer = patches * layer_activations(v, v, v, shape.vision_mlp, size_of(dtype))
    return shape.vision_layers * patches * v * 4 + layer if checkpointing else shape.vision_layers * layer


def shared_prefix(shape: Shape, prompt: int, length: int, size: int, dtype: str) -> float:
    """Return the bytes that the shared-prefix attention of one group keeps in one layer (viarl.training.rl.attention).

    Keys and values of the prompt at each completion and query head, the completions' queries and results once more,
    and their mask, bool and in the computing type, for each query head of a key head.
    """
    b = size_of(dtype)
    keys = 2 * shape.kv * size * (prompt + length) + 2 * shape.hidden * prompt
    mask = size * (shape.heads // shape.kv_heads) * length * (prompt + length) * (1 + b)
    return b * (keys + 2 * size * length * shape.hidden) + mask


def kv_cache(shape: Shape, rows: float, tokens: float, dtype: str) -> float:
    """Return the bytes of keys and values of that many rows of tokens, in all layers."""
    return 2.0 * shape.layers * shape.kv * rows * tokens * size_of(dtype)


def inference(shape: Shape, rows: float, prompts: float, tokens: int, new: int, dtype: str) -> float:
    """Return the bytes of generation beyond the weights: the cache, and the widest layer of the prompts' prefill."""
    prefill = prompts * tokens * (2 * shape.mlp + 4 * shape.hidden) * size_of(dtype)
    return kv_cache(shape, rows, tokens + new, dtype) + prefill


def vision_pass(shape: Shape, patches: float, dtype: str) -> float:
    """Return the bytes of one pass through a frozen vision tower."""
    each = size_of(dtype) * (5 * shape.vision_hidden + 3 * shape.vision_mlp) + 8 * shape.vision_hidden
    return min(patches, PATCHES_A_PASS) * each


def forward_flops(shape: Shape, tokens: float, pairs: float = 0.0) -> float:
    """Return the operations of a forward pass: 2 a weight and token, and 4 a pair of tokens that attend, by width."""
    return 2.0 * shape.text * tokens + 4.0 * shape.layers * shape.hidden * pairs


def vision_flops(shape: Shape, patches: float) -> float:
    """Return the operations of the vision tower."""
    return 2.0 * shape.vision * patches


def decode_seconds(gpu: Gpu, shape: Shape, rows: float, prompt: int, new: float, dtype: str) -> float:
    """Return the seconds in which a batch of rows writes `new` tokens: each step reads the weights and the cache."""
    step = size_of(dtype) * shape.text + kv_cache(shape, rows, prompt + new / 2, dtype)
    return new * gpu.read(step)


def video_bytes(frames: Mapping[str, Any], form: tuple[int, int]) -> float:
    """Return the bytes of one video in the frame cache.

    Selector frames raw, 3 a pixel; answerer frames as JPEG: 0.18 bytes a pixel at 896 pixels (1080p footage, measured),
    0.34 at 56 (needle), a power law between.
    """
    small, large = (fitted(form, frames[name]) for name in ("selector_pixels", "answerer_pixels"))
    density = 0.18 * (896 / max(large)) ** 0.23
    return float(frames["candidates"] * (3 * math.prod(small) + JPEG_HEADER + density * math.prod(large)))


def checkpoint_bytes(shape: Shape, rank: int, vision: bool, keep: int) -> float:
    """Return the bytes of a training's checkpoints, `keep` and the one being written: weights and two moments."""
    trained = shape.adapters(rank, vision) if rank else (shape.weights if vision else shape.text)
    return (keep + 1) * (4.0 * (trained if rank else shape.weights) + 8.0 * trained)


def fitted(form: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Return width and height of a frame of that form with its longest side at `pixels`."""
    factor = min(1.0, pixels / max(form))
    return int(form[0] * factor), int(form[1] * factor)


def size_of(dtype: str) -> int:
    """Return the bytes of a number."""
    return 2 if dtype == "bfloat16" else 4
