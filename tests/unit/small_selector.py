"""A tiny selector that writes some valid lists, prompts on random frames, and what the default pays for."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from small_answerer import save_vlm
from viarl.items import Item
from viarl.models.settings import Lora
from viarl.models.vlm import Vlm
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import Size, build_tokenizer, build_vlm
from viarl.training.rl.prefix import Group, shared_log_probs
from viarl.training.rl.settings import Training

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text(encoding="utf-8"))
WEIGHTS: dict[str, float] = CONFIG["reward"]
TRAINING = Training(
    algorithm="reinforce++", steps=3, prompts_per_step=4, group_size=3, learning_rate=1e-2, warmup_steps=1
)
REPLY = "<think>blue</think><index>[{}, {}]</index><|im_end|>"
TEXTS = [REPLY.format(n, n + 1) for n in range(6)] * 3 + ['The question is "Which?"', "system user"] * 3
ITEMS = [Item(str(n), f"v{n}", f"Which of {n}?", ("x", "y"), "A", evidence=((0.0, 1.0),)) for n in range(7)]


def adapters(enabled: bool = True) -> Lora:
    return Lora(enabled=enabled, rank=4, alpha=8)


class RandomPrompts:
    """Prompts on random frames, features by the model's own tower."""

    def __init__(self, vlm: Vlm, pixels: bool = False) -> None:
        self.vlm, self.pixels = vlm, pixels

    def count(self, item: Item) -> int:
        return 6

    def prompts(self, items: list[Item]) -> list[Any]:
        prompts = []
        for item in items:
            frames = np.random.default_rng(int(item.id)).integers(0, 255, (6, 28, 28, 3), dtype=np.uint8)
            pixels, grid = self.vlm.pixels(frames)
            chat = selector_messages("short", item.question, 6, 2)
            prompts.append(self.vlm.prompt(chat, pixels, grid, times=range(6)))
        return prompts if self.pixels else self.vlm.with_features(prompts)


def save_start(folder: Path) -> Path:
    """Write a model and its processor to a folder and return it."""
    torch.manual_seed(0)
    vlm = build_vlm(build_tokenizer(TEXTS, 10), Size(hidden=32, layers=2, mlp=64, vision_hidden=32))
    model = vlm.model
    # a few supervised steps, so that some completions earn something and others do not
    prompts = RandomPrompts(vlm).prompts(ITEMS[:4])
    replies = [torch.tensor(vlm.tokenizer(REPLY.format(n % 6, n // 2))["input_ids"]) for n in range(12)]
    groups = [Group(prompt, tuple(replies[3 * n : 3 * n + 3])) for n, prompt in enumerate(prompts)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        (-shared_log_probs(model, groups, pad=0).log_probs.sum() / 100).backward()
        optimiser.step()
    return save_vlm(vlm, folder)
