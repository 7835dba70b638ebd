"""Train the selector by REINFORCE++ on the reward of its completions, the answerer frozen."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from viarl.answer.load import load_answerer
from viarl.answer.settings import AnswererSettings
from viarl.command import run
from viarl.faults import left_out
from viarl.identity import identity
from viarl.items import Item, read_items
from viarl.models.files import weight_hashes
from viarl.processes import processes
from viarl.progress import say
from viarl.sections import counted
from viarl.selection.learned import load_selector
from viarl.tracking.monitor import Monitor
from viarl.tracking.record import Files, Tracking
from viarl.tracking.start import start_run
from viarl.training.checkpoints import CheckpointCallback, Checkpoints, working_folder
from viarl.training.libraries import quiet_libraries
from viarl.training.rl.rollout import PixelPrompts
from viarl.training.rl.scoring import RecallOf
from viarl.training.rl.settings import SelectorTask, TrainedSelector, Training, Weights
from viarl.training.rl.trainer import SelectorTrainer
from viarl.video.cache import FrameCache
from viarl.video.overlay import NumberStyle

SHOWN = ("reward/total", "valid_rate", "answer_accuracy", "kl", "entropy")


@dataclass(frozen=True)
class Settings:
    """Training questions, frames, the models of the cycle before -> the trained selector.

    `output` is model.safetensors; working checkpoints lie in ../checkpoints/ beside it. `selected` is K. Each `cycle`
    draws differently. `features` and `replies` keep vision features and the answerer's replies for other stages.
    """

    items: Path
    manifests: tuple[Path, ...]
    selector_model: Path
    answerer_model: Path
    output: Path
    seed: int
    cycle: int
    selected: int
    number_pixels: int
    selector: TrainedSelector
    training: Training
    answerer: AnswererSettings
    reward: Weights
    features: Path | None = None
    replies: Path | None = None
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def known_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that change the result."""
    return {
        **{name: getattr(settings, name) for name in ("seed", "cycle", "selected", "number_pixels")},
        "selector": {**counted(settings.selector), "start": str(settings.selector_model)},
        "training": counted(settings.training),
        "answerer": {**counted(settings.answerer), "model": str(settings.answerer_model)},
        "reward": settings.reward,
    }


def trainable(items: Sequence[Item], cache: FrameCache) -> list[Item]:
    """Return the questions that can be trained on: with an answer and a video with enough frames; list the others."""
    usable = [item for item in items if item.answer and item.video in cache]
    if not usable:
        raise ValueError(f"none of the {len(items)} training questions has both an answer and a video with frames")
    reasons = {item.id: "no answer" for item in items if not item.answer}
    reasons |= {item.id: f"no frames: {cache.bad.get(item.video)}" for item in items if item.video not in cache}
    if reasons:
        say(left_out(reasons, len(items)))
    return usable


def main(settings: Settings) -> None:
    """Train and save; a run that was stopped goes on from its last checkpoint."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    quiet_libraries()
    settings.training.shares(processes())  # uneven batches are refused before anything is loaded
    files: dict[str, Files] = {"items": settings.items, "frames": settings.manifests}
    known = identity(
        known_settings(settings),
        files,
        selector_weights=weight_hashes(settings.selector_model),
        answerer_weights=weight_hashes(settings.answerer_model),
    )
    with Checkpoints(working_folder(settings.output.parent), known, keep=2) as checkpoints:
        train(settings, checkpoints)


def train(settings: Settings, checkpoints: Checkpoints) -> None:
    """Train from the last checkpoint on, save the model, remove the checkpoints."""
    resumed = checkpoints.latest()
    cache = FrameCache(settings.manifests, NumberStyle(settings.number_pixels))
    usable = trainable(items := read_items(settings.items), cache)
    how = replace(settings.selector, dtype=settings.selector.lora.weights_dtype(settings.selector.dtype))
    start = settings.selector_model
    prompts = load_selector(start, how, cache, settings.selected, settings.device, settings.features)
    answerer = load_answerer(settings.answerer_model, settings.answerer, cache, settings.device, settings.replies)
    task = SelectorTask(
        training=settings.training,
        selected=settings.selected,
        max_new_tokens=settings.selector.max_new_tokens,
        length_range=settings.selector.length_range,
        reward=settings.reward,
        lora=settings.selector.lora,
        dtype=settings.selector.dtype,
        seed=settings.seed + 7919 * settings.cycle,  # cycles of one seed draw differently
        patience_s=settings.answerer.endpoint.patience_s,
    )
    data: dict[str, Files] = {"items": settings.items, "frames": settings.manifests}
    with start_run(settings.tracking, known_settings(settings), data) as run_:
        run_.log_metrics({"items": len(items), "trained_on": len(usable)})
        if resumed:
            run_.set_tag("resumed_from", resumed.name)
        stop = CheckpointCallback(checkpoints)
        answerer.stopped = lambda: stop.signalled
        trainer = SelectorTrainer(
            prompts.vlm,
            usable,
            PixelPrompts(prompts) if settings.training.train_vision else prompts,
            answerer,
            task,
            checkpoints.folder,
            [stop, Monitor("steps of selector training", run_, SHOWN)],
            RecallOf(cache),
        )
        with stop:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        run_.log_metrics(answerer.counts() if settings.replies else {})
        processor, dtype = prompts.vlm.processor, settings.selector.dtype
        run_.log_metrics(checkpoints.finish(trainer, processor, settings.output.parent, dtype))


if __name__ == "__main__":
    run(Settings, main)
