"""Two training steps of a Qwen2.5-VL of a given size with random weights: seconds, and bytes at the fullest moment."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, TrainerCallback

from viarl.answer.answerer import Reply
from viarl.items import Item
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.plan.shapes import Shape
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import SPECIAL_TOKENS, build_processor, build_tokenizer
from viarl.training.rl.reward import PARTS
from viarl.training.rl.settings import SelectorTask, Training
from viarl.training.rl.trainer import SelectorTrainer
from viarl.training.sft.dataset import AnswererPrompts, Collator, Example
from viarl.training.sft.settings import Tuning
from viarl.training.sft.trainer import SupervisedTrainer, arguments

TEXTS = ["<think>find</think><index>[1, 2, 3]</index>", 'The question is "Which shape?" A. star B. moon Answer.'] * 3
ITEM = Item("q", "v", "Which shape is on the blue card, and what is it on the red one?", ("star", "moon"), "A")


class Clock(TrainerCallback):
    """Seconds of each step; on a GPU, when its work is done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(_now() - self.start)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Alternating:
    """Right for every other request, so that advantages differ."""

    def answer(self, requests: Sequence[Any]) -> list[Reply]:
        return [Reply("", "AB"[number % 2]) for number in range(len(requests))]


class Frames:
    """Frames of one form, and the selector's prompts on them."""

    def __init__(self, frames: int, form: tuple[int, int], vlm: Vlm) -> None:
        self.frames, self.form, self.vlm = frames, form, vlm

    def count(self, item: Item) -> int:
        return self.frames

    def times(self, video: str) -> np.ndarray:
        return np.arange(self.frames, dtype=np.float64)

    def answerer_frames(self, video: str, indices: Sequence[int]) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 255, (self.form[1], self.form[0], 3), dtype=np.uint8) for _ in indices]

    def prompts(self, items: Sequence[Item]) -> list[Any]:
        pixels, grid = self.vlm.pixels(self.answerer_frames("", range(self.frames)))
        chat = selector_messages("paper", ITEM.question, self.frames, 8)
        return self.vlm.with_features([self.vlm.prompt(chat, pixels, grid) for _ in items])


def build(shape: Shape, device: str, dtype: torch.dtype, never_ends: bool = True) -> Vlm:
    """Return a model of that shape with random weights, made on the device, and a processor with a small vocabulary."""
    tokenizer = build_tokenizer(TEXTS, 10)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    if never_ends:  # the image token is never sampled: every completion has the full length
        tokenizer.eos_token = "<|image_pad|>"
    processor = build_processor(tokenizer)
    for part in (processor.image_processor, processor.video_processor):
        part.temporal_patch_size = shape.temporal
    half = shape.head // 2
    sections = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.mlp,
            "vocab_size": shape.vocabulary,
            "tie_word_embeddings": shape.tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_mlp,
            "out_hidden_size": shape.hidden,
            "temporal_patch_size": shape.temporal,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration(config).to(dtype)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Vlm(model, processor)


def train_selector(
    shape: Shape, device: str, folder: Path, *, lora: bool, frames: int, form: tuple[int, int], new: int
) -> dict[str, float]:
    """Take two steps of reinforcement, 2 questions with 8 completions of `new` tokens each."""
    how = Lora(enabled=lora)
    vlm = build(shape, device, torch.bfloat16 if lora else torch.float32)
    training = Training(
        algorithm="reinforce++",
        steps=2,
        prompts_per_step=2,
        group_size=8,
        learning_rate=4e-7,
        groups_per_microbatch=1,
        groups_per_rollout=2,
        gradient_checkpointing=True,
    )
    task = SelectorTask(training, 8, new, (1, new), dict.fromkeys(PARTS, 1.0), lora=how, dtype="bfloat16")
    prompts, clock = Frames(frames, form, vlm), Clock()
    trainer = SelectorTrainer(vlm, [ITEM] * 2, prompts, Alternating(), task, folder, [clock])
    return _measured(trainer, clock)


def tune_answerer(
    shape: Shape, device: str, folder: Path, *, lora: bool, frames: int, form: tuple[int, int]
) -> dict[str, float]:
    """Take two steps of supervised tuning, 2 questions each, one at a time, the vision tower trained too."""
    vlm = build(shape, device, torch.bfloat16 if lora else torch.float32, never_ends=False)
    tuning = Tuning(
        steps=2, batch_size=2, learning_rate=1e-6, micro_batch_size=1, gradient_checkpointing=True, train_vision=True
    )
    prompts = AnswererPrompts(vlm, Frames(frames, form, vlm), "paper", frozen=False)
    collator = Collator(vlm.tokenizer, [Example(ITEM, tuple(range(frames)), "A")] * 2, prompts)
    args, clock = arguments(tuning, folder, seed=0, dtype="bfloat16", device=torch.device(device)), Clock()
    return _measured(SupervisedTrainer(vlm, collator, tuning, Lora(enabled=lora), args, [clock]), clock)


def _measured(trainer: Any, clock: Clock) -> dict[str, float]:
    trainer.args.save_strategy = "no"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"first_step_s": clock.seconds[0], "step_s": clock.seconds[1], "peak_gb": peak / 1e9, "loss": losses[-1]}
