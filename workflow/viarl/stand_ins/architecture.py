"""Tokenizer, processor and untrained models of the stand-ins: real transformers classes, about a million weights.

A stand-in takes a Qwen2.5-VL checkpoint's place where none can be downloaded. Sizes follow what was measured to learn
on two CPU cores; temporal_patch_size is 1 so that every candidate frame has tokens of its own.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from viarl.models.encode import TEXT_INSIDE_VIDEO
from viarl.models.vlm import Vlm

_MARKS = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
SPECIAL_TOKENS = tuple(f"<|{mark}|>" for mark in _MARKS)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Widths and depths of a stand-in (language model and vision tower)."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    mlp: int = 384
    vision_hidden: int = 96
    vision_layers: int = 1
    initializer_range: float = 0.08


def build_tokenizer(corpus: Iterable[str], frames: int, vocabulary: int = 480) -> Qwen2Tokenizer:
    """Train a byte-level BPE on the stand-ins' own texts; frame numbers 10..frames-1 are single tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    size, alphabet = vocabulary - len(SPECIAL_TOKENS) - max(frames - 10, 0), pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(corpus, trainer)
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=state["vocab"], merges=merges, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(str(number), single_word=True) for number in range(10, frames)])
    return tokenizer


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Return a processor with one-frame temporal patches and the usual normalisation."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 1024}
    images = Qwen2VLImageProcessor(size=size, temporal_patch_size=1)
    videos = Qwen2VLVideoProcessor(size=size, temporal_patch_size=1, do_sample_frames=False)
    return Qwen2_5_VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=CHAT_TEMPLATE
    )


def build_model(tokenizer: Qwen2Tokenizer, size: Size) -> Qwen2_5_VLForConditionalGeneration:
    """Return an untrained model; its weights come from torch's global generator."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    half = size.hidden // size.heads // 2
    sections = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "initializer_range": size.initializer_range,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "num_heads": 4,
        "out_hidden_size": size.hidden,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "tokens_per_second": 2,
        "initializer_range": size.initializer_range,
        "fullatt_block_indexes": list(range(size.vision_layers)),
    }
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    marks = {f"{name}_token_id": ids[f"<|{mark}|>"] for name, mark in names.items()}
    known = {**marks, "tie_word_embeddings": True, TEXT_INSIDE_VIDEO: True}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **known)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def build_vlm(tokenizer: Qwen2Tokenizer, size: Size) -> Vlm:
    """Return an untrained model with its processor."""
    return Vlm(build_model(tokenizer, size), build_processor(tokenizer))
