"""One process, one training: prints the bytes that its fullest moment took, as JSON. Run by test_plan.py.

python measured_training.py FOLDER train_selector|tune_answerer CHECKPOINTING
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.rl_step import _status_kb
from small_selector import WEIGHTS
from viarl.answer.answerer import Reply
from viarl.items import Item
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import Size, build_tokenizer, build_vlm
from viarl.training.rl.settings import SelectorTask, Training
from viarl.training.rl.trainer import SelectorTrainer
from viarl.training.sft.dataset import AnswererPrompts, Collator, Example
from viarl.training.sft.settings import Tuning
from viarl.training.sft.trainer import SupervisedTrainer, arguments

SIZE = Size(hidden=512, layers=4, heads=8, key_value_heads=2, mlp=1536, vision_hidden=128, vision_layers=2)
FRAMES, PIXELS, GROUP_SIZE, NEW_TOKENS, BATCH = 32, 56, 8, 48, 4
TEXTS = ["Name 4 of 48 frames. <think>find</think><index>[1, 2, 3, 4]</index>", 'The question is "Which card?"'] * 3
OPTIONS = ("star", "moon")


class Frames:
    """Random frames, and prompts on them."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm

    def count(self, item: Item) -> int:
        return FRAMES

    def times(self, video: str) -> np.ndarray:
        return np.arange(FRAMES, dtype=np.float64)

    def answerer_frames(self, video: str, indices: Any) -> list[np.ndarray]:
        return [np.full((PIXELS, PIXELS, 3), 5 * index % 255, np.uint8) for index in indices]

    def prompts(self, items: list[Item]) -> list[Any]:
        pixels, grid = self.vlm.pixels(self.answerer_frames("", range(FRAMES)))
        chat = selector_messages("short", "Which card?", FRAMES, 4)
        return self.vlm.with_features([self.vlm.prompt(chat, pixels, grid) for _ in items])


class Alternating:
    """Right for every other request."""

    def answer(self, requests: Any) -> list[Reply]:
        return [Reply("", "AB"[number % 2]) for number in range(len(requests))]


def never_ending(size: Size) -> Vlm:
    """Return a model that never ends a reply, with its processor."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TEXTS, 50)
    tokenizer.eos_token = "<|image_pad|>"
    return build_vlm(tokenizer, size)


def train_selector(folder: Path, checkpointing: bool, size: Size = SIZE) -> None:
    vlm = never_ending(size)
    training = Training(algorithm="reinforce++", steps=2, prompts_per_step=1, group_size=GROUP_SIZE, learning_rate=1e-5)
    training = replace(training, gradient_checkpointing=checkpointing)
    task = SelectorTask(training, 4, NEW_TOKENS, (1, NEW_TOKENS), WEIGHTS)
    item = Item("q", "v", "Which card?", OPTIONS, "A")
    trainer = SelectorTrainer(vlm, [item] * 2, Frames(vlm), Alternating(), task, folder)
    trainer.args.save_strategy = "no"
    trainer.train()


def tune_answerer(folder: Path, checkpointing: bool, size: Size = SIZE) -> None:
    vlm = never_ending(size)
    tuning = Tuning(steps=2, batch_size=BATCH, learning_rate=1e-5, train_vision=True)
    tuning = replace(tuning, gradient_checkpointing=checkpointing)
    examples = [Example(Item("q", "v", "Which card?", OPTIONS, "A"), tuple(range(FRAMES)), "star " * 20 + "A")] * BATCH
    collator = Collator(vlm.tokenizer, examples, AnswererPrompts(vlm, Frames(vlm), "short", frozen=False))
    args = arguments(tuning, folder, seed=0, dtype="float32", device=torch.device("cpu"))
    args.save_strategy = "no"
    SupervisedTrainer(vlm, collator, tuning, Lora(), args).train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train = {"train_selector": train_selector, "tune_answerer": tune_answerer}[sys.argv[2]]
    train(Path(sys.argv[1]), False, Size(hidden=32, layers=1, mlp=32, vision_hidden=32))  # libraries that load late
    before = _status_kb("VmRSS")
    train(Path(sys.argv[1]), sys.argv[3] == "True")
    print(json.dumps((_status_kb("VmHWM") - before) * 1024))
