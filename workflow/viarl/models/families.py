"""The model families that fit this project's one path, and in what they differ.

Qwen2.5-VL   a video is one run of tokens; positions tell the seconds
Qwen3-VL     each temporal patch has a run of its own behind its time in words; the tower hands features of some of its
             layers to the first layers of the language model besides (DeepStack)

Features of a video are one tensor throughout: (tokens, D), or (tokens, 1 + L, D) with those for L layers of DeepStack.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from viarl.models.files import Source
from viarl.models.settings import SHOWN_AT, flash_obstacle

CLASSES = {"qwen2_5_vl": Qwen2_5_VLForConditionalGeneration, "qwen3_vl": Qwen3VLForConditionalGeneration}


def model_class(source: Source) -> Any:
    """Return the transformers class of a checkpoint; ValueError for a family that does not fit."""
    kind = AutoConfig.from_pretrained(source.name, **source.arguments()).model_type
    if kind not in CLASSES:
        raise ValueError(
            f"{source.name} is a model of type {kind!r}, and this project's forward with cached vision features and a "
            f"shared prefix fits {' and '.join(CLASSES)} alone; name a Qwen2.5-VL or a dense Qwen3-VL checkpoint"
        )
    return CLASSES[kind]


def attention_for(attention: str, dtype: str, device: torch.device) -> str:
    """Return the attention that `attention` means for weights of a type on a device; "auto" is flash where it can be.

    Errors: ValueError where flash_attention_2 is asked for and cannot be, before weights are loaded.
    """
    obstacle = flash_obstacle(dtype, device.type)
    if attention == "auto":
        return "sdpa" if obstacle else "flash_attention_2"
    if attention == "flash_attention_2" and obstacle:
        raise ValueError(f"attention flash_attention_2: {obstacle}; set attention: auto or sdpa")
    return attention


def joined_features(output: BaseModelOutputWithPooling) -> list[torch.Tensor]:
    """Return each video's features of a tower's output as one tensor (see the module)."""
    if (deep := getattr(output, "deepstack_features", None)) is None:
        return list(output.pooler_output)
    return [torch.stack(parts, 1) for parts in zip(output.pooler_output, *deep, strict=True)]


def tower_output(features: Sequence[torch.Tensor]) -> BaseModelOutputWithPooling:
    """Return the tower's output that `joined_features` was made of, for the model's forward."""
    if features[0].dim() == 2:
        return BaseModelOutputWithPooling(pooler_output=list(features))
    usual, *deep = zip(*(video.unbind(1) for video in features), strict=True)
    return BaseModelOutputWithDeepstackFeatures(pooler_output=usual, deepstack_features=deep)


def timed_video(processor: Any, grid: torch.Tensor, times: Sequence[float] | None) -> str:
    """Return the text of a timed video: of each temporal patch its mean time, and its tokens between their marks.

    It takes the place of the template's marks too, as the models were published (transformers 4.57, vLLM); from 5.12 on
    transformers' own processor leaves them around it. `grid` (3,) are patches, `times` the seconds of all frames.
    """
    patches, height, width = grid.tolist()
    tokens = processor.video_token * (height * width // processor.video_processor.merge_size**2)
    size = processor.video_processor.temporal_patch_size
    if times is None or -(-len(times) // size) != patches:
        given = "none" if times is None else len(times)
        raise ValueError(f"the prompt tells the times of {patches} patches of {size} frames, and {given} are given")
    full = [*times, *[times[-1]] * (-len(times) % size)]  # the last frame fills its patch up
    # the mean of a patch's first and last frame, as the model's own processor counts
    means = [(first + last) / 2 for first, last in zip(full[::size], full[size - 1 :: size], strict=True)]
    start, end = processor.vision_start_token, processor.vision_end_token
    return "".join(f"{SHOWN_AT.format(mean)}{start}{tokens}{end}" for mean in means)
