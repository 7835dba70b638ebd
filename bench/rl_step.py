"""An RL step against TRL's unmodified GRPOTrainer: same small model, same images, same tokens.

TRL does not take videos, so the prompt holds 64 images in both. For ours they stand in the prompt as its video, with
the positions TRL gives them, so that both compute the same numbers; the vision tower runs in every one of our steps,
although in training its features are kept. Both have a reference model and no gradient checkpointing. Each runs in a
process of its own, one thread, for its peak memory; the second of two steps is timed, in CPU seconds, which a busy
machine disturbs less than seconds. The first step carries our self-check.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy
from trl import GRPOConfig, GRPOTrainer

from viarl.answer.answerer import Reply, Request
from viarl.items import Item
from viarl.models.encode import Prompt
from viarl.models.vlm import Vlm
from viarl.stand_ins.architecture import Size, build_model, build_processor, build_tokenizer
from viarl.training.rl.prefix import Group, shared_log_probs
from viarl.training.rl.reward import PARTS
from viarl.training.rl.settings import SelectorTask, Training
from viarl.training.rl.trainer import SelectorTrainer

IMAGES, PIXELS = 64, 112  # 16 tokens and two marks an image
NEW_TOKENS, GROUP_SIZE, STEPS = 128, 8, 2
# The vision tower costs about as much a pass as the language model on its tokens does, as in Qwen2.5-VL-3B.
SIZE = Size(hidden=512, layers=2, heads=8, key_value_heads=2, mlp=1536, vision_hidden=256, vision_layers=2)
TEXT = "Name 4 of the frames that help to answer. The question is: which shape is on the blue card?"


class _Clock(TrainerCallback):
    """CPU seconds and seconds of each step."""

    def __init__(self) -> None:
        self.cpu, self.wall, self.start = list[float](), list[float](), (0.0, 0.0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = (time.process_time(), time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.cpu.append(time.process_time() - self.start[0])
        self.wall.append(time.perf_counter() - self.start[1])


def _parts() -> tuple[Any, Any, list[Image.Image]]:
    """Return model, processor and images, the same in each process."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer([TEXT] * 3, 10)
    # The closing token is one that is never sampled: every completion has the full length, in both trainers.
    tokenizer.eos_token = "<|image_pad|>"
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, SIZE)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8)) for _ in range(IMAGES)]
    return model, processor, images


def _messages() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*([{"type": "image"}] * IMAGES), {"type": "text", "text": TEXT}]}]


class _ImagePrompts:
    """The prompt of the images, in the form of one video; the vision tower runs at each call."""

    def __init__(self, model: Any, processor: Any, images: list[Image.Image]) -> None:
        self.model = model
        text = processor.apply_chat_template(_messages(), tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=images, return_tensors="pt")
        self.pixels, self.grids = inputs["pixel_values"], inputs["image_grid_thw"]
        ids = inputs["input_ids"][0]
        types = (ids == processor.image_token_id).long()
        positions, _ = model.model.get_rope_index(ids[None], mm_token_type_ids=types[None], image_grid_thw=self.grids)
        ids = ids.masked_fill(types == 1, processor.video_token_id)
        self.prompt = (ids, 2 * types, positions[:, 0].long(), self.grids[0])

    def count(self, item: Item) -> int:
        """Return the number of images."""
        return IMAGES

    def prompts(self, items: Any) -> list[Prompt]:
        """Return the prompt with features once an item."""
        with torch.no_grad():
            output = self.model.model.get_image_features(self.pixels, self.grids, return_dict=True)
        return [Prompt(*self.prompt, features=torch.cat(tuple(output.pooler_output))) for _ in items]


class _Alternating:
    """Right for every other request, so that advantages differ."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply("", "AB"[number % 2]) for number in range(len(requests))]


def _alternating_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(number % 2) for number in range(len(completions))]


def _ours(folder: Path) -> dict[str, Any]:
    model, processor, images = _parts()
    how: dict[str, Any] = {"algorithm": "reinforce++", "prompts_per_step": 1, "learning_rate": 1e-6}
    training = Training(steps=STEPS, group_size=GROUP_SIZE, **how)
    # every length earns the length part by turns of the answer alone: rewards need not differ for the work to be done
    task = SelectorTask(training, 4, NEW_TOKENS, (1, NEW_TOKENS), dict.fromkeys(PARTS, 1.0))
    clock = _Clock()
    item = Item("q", "v", TEXT, ("x", "y"), "A")
    prompts = _ImagePrompts(model, processor, images)
    trainer = SelectorTrainer(Vlm(model, processor), [item], prompts, _Alternating(), task, folder, [clock])
    trainer.args.save_strategy = SaveStrategy.NO
    trainer.train()
    phases = {key: value for key, value in trainer.state.log_history[1].items() if key.startswith("seconds/")}
    return {"cpu_s": clock.cpu[-1], "wall_s": clock.wall[-1], "peak_mb": _peak_mb(), "phases": phases}


def _stock(folder: Path) -> dict[str, Any]:
    model, processor, images = _parts()
    model.save_pretrained(folder / "model")  # TRL loads its reference from there
    model = type(model).from_pretrained(folder / "model")
    model.model.visual.requires_grad_(False)
    clock = _Clock()
    sizes: dict[str, Any] = {"num_generations": GROUP_SIZE, "max_completion_length": NEW_TOKENS, "max_steps": STEPS}
    sizes["per_device_train_batch_size"] = GROUP_SIZE
    how: dict[str, Any] = {"beta": 1e-3, "learning_rate": 1e-6, "gradient_checkpointing": False, "bf16": False}
    # TRL suppresses the image token only; a sampled video token could not be compared
    how["generation_kwargs"] = {"suppress_tokens": [processor.image_token_id, processor.video_token_id]}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[_alternating_reward],
        args=GRPOConfig(
            str(folder), **sizes, **how, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
        ),
        train_dataset=Dataset.from_list([{"prompt": _messages(), "images": images}] * STEPS),
        processing_class=processor,
        callbacks=[clock],
    )
    trainer.train()
    result = {"cpu_s": clock.cpu[-1], "wall_s": clock.wall[-1], "peak_mb": _peak_mb()}
    inputs = trainer._buffered_inputs[0]
    lengths = inputs["completion_mask"].sum(1).tolist()
    if lengths != [NEW_TOKENS] * GROUP_SIZE:
        raise RuntimeError(f"TRL generated {lengths} tokens instead of {NEW_TOKENS} each")
    tokens = inputs["prompt_mask"].sum(1).tolist()
    return {**result, "prompt_tokens": tokens[0], **_compare(trainer, inputs, processor, images)}


def _compare(trainer: Any, inputs: dict[str, Any], processor: Any, images: list[Image.Image]) -> dict[str, float]:
    """Compare gradients of TRL's loss and of ours on TRL's last rollout (its KL term switched off)."""
    model = trainer.model
    trainer.beta = 0.0
    model.zero_grad()
    trainer._compute_loss(model, inputs).backward()
    theirs = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    (prompt,) = _ImagePrompts(model, processor, images).prompts([None])
    group = Group(prompt, tuple(inputs["completion_ids"]))
    model.zero_grad()
    log_probs = shared_log_probs(model, [group], pad=processor.tokenizer.pad_token_id).log_probs
    ratio = torch.exp(log_probs - log_probs.detach())
    (-(ratio * inputs["advantages"][:, None]).sum() / inputs["num_items_in_batch"]).backward()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    weights = dict(model.named_parameters())
    worst = max(float((weights[name].grad - gradient).abs().max()) for name, gradient in theirs.items())
    return {"gradient_difference": worst / largest, "largest_gradient": largest}


def _peak_mb() -> float:
    # above the memory after the imports; getrusage's peak would include the parent's at the time of the fork
    return (_status_kb("VmHWM") - BASELINE_KB) / 1024


def _status_kb(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}; this measurement needs Linux")


def _child(which: str, folder: Path) -> dict[str, Any]:
    (folder / which).mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bench.rl_step", which, str(folder / which)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the measurement of {which} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(folder: Path) -> dict[str, Any]:
    """Return speedup, memory_ratio (ours / TRL's peak) and how far gradients differ, with what explains them."""
    ours, stock = _child("ours", folder), _child("stock", folder)
    return {
        "speedup": round(stock["cpu_s"] / ours["cpu_s"], 2),
        "memory_ratio": round(ours["peak_mb"] / stock["peak_mb"], 3),
        "gradient_difference": stock["gradient_difference"],
        **{"prompt_tokens": stock["prompt_tokens"], "new_tokens": NEW_TOKENS, "group_size": GROUP_SIZE},
        **{"ours": ours, "trl": stock},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    BASELINE_KB = _status_kb("VmRSS")
    print(json.dumps({"ours": _ours, "stock": _stock}[sys.argv[1]](Path(sys.argv[2]))))
