"""Tune the base selector on labelled frames, before any reinforcement (setting selector.start)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from viarl.command import run
from viarl.faults import by_reason, left_out
from viarl.identity import identity
from viarl.items import read_items
from viarl.models.files import weight_hashes
from viarl.models.vlm import resolve_device
from viarl.processes import processes
from viarl.progress import say
from viarl.sections import counted
from viarl.selection.evidence import evidence_recall
from viarl.selection.learned import load_selector
from viarl.selection.similarities import read_scores
from viarl.tracking.monitor import Monitor
from viarl.tracking.record import Files, Tracking
from viarl.tracking.start import start_run
from viarl.training.checkpoints import CheckpointCallback, Checkpoints, working_folder
from viarl.training.libraries import quiet_libraries
from viarl.training.sft.dataset import Collator, Example
from viarl.training.sft.labels import Labels, examples
from viarl.training.sft.settings import InitialisedSelector
from viarl.training.sft.trainer import LOGGED, SupervisedTrainer, arguments
from viarl.video.cache import FrameCache
from viarl.video.overlay import NumberStyle


@dataclass(frozen=True)
class Settings:
    """Training questions, frames, similarities (for clip_topk alone), the base selector -> the selector of cycle 0.

    `output` is model.safetensors; working checkpoints lie in ../checkpoints/ beside it. `selected` is K.
    """

    items: Path
    manifests: tuple[Path, ...]
    selector_model: Path
    output: Path
    seed: int
    selected: int
    number_pixels: int
    selector: InitialisedSelector
    scores: tuple[Path, ...] = ()
    features: Path | None = None
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Tune and save; a run that was stopped goes on from its last checkpoint."""
    quiet_libraries()
    settings.selector.start.micro_batches(processes())  # uneven batches are refused before anything is loaded
    source = settings.selector_model
    known = {name: getattr(settings, name) for name in ("seed", "selected", "number_pixels")}
    known["selector"] = {**counted(settings.selector), "model": str(source)}
    files: dict[str, Files] = {"items": settings.items, "frames": settings.manifests, "similarities": settings.scores}
    whole = identity(known, files, weights=weight_hashes(source))
    with Checkpoints(working_folder(settings.output.parent), whole) as checkpoints:
        tune(settings, checkpoints)


def recall(usable: Sequence[Example], cache: FrameCache) -> float:
    """Return the mean share of the evidence that labels hit, NaN where no evidence is known."""
    items = [(one.item, one.frames) for one in usable if one.item.evidence]
    found = [evidence_recall(cache.times(item.video), item.evidence, frames) for item, frames in items]
    return fmean(found) if found else float("nan")


def tune(settings: Settings, checkpoints: Checkpoints) -> None:
    """Tune from the last checkpoint on, save the model, remove the checkpoints."""
    selector, start, source = settings.selector, settings.selector.start, settings.selector_model
    resumed = checkpoints.latest()
    cache = FrameCache(settings.manifests, NumberStyle(settings.number_pixels))
    labels = Labels(start.labels, cache, read_scores(settings.scores), settings.selected, start.noise, settings.seed)
    how = replace(selector, dtype=selector.lora.weights_dtype(selector.dtype))
    prompts = load_selector(source, how, cache, settings.selected, settings.device, settings.features)
    vlm, tokenizer = prompts.vlm, prompts.vlm.tokenizer
    items = read_items(settings.items)
    usable, reasons = examples(items, labels, tokenizer, selector.max_new_tokens)
    if reasons:
        say(left_out(reasons, len(items)))
    if not usable:
        why = f"in {len(items)} training questions ({', '.join(sorted(set(reasons.values())))})"
        raise ValueError(
            f"selector.start.labels {start.labels!r}: nothing to learn from {why}; choose other labels, or none"
        )
    noisy = sum(labels.is_noise(example.item) for example in usable)
    found: dict[str, float] = {"items": len(items), "tuned_on": len(usable), "random_labels": noisy}
    found |= {f"left_out/{reason}": count for reason, count in sorted(by_reason(reasons).items())}
    if not math.isnan(hit := recall(usable, cache)):
        found["label_evidence_recall"] = hit
    say(f"labels {start.labels}: {found}")
    params = {"seed": settings.seed, "selector": counted(selector), "model": str(source)}
    with start_run(settings.tracking, params) as run_:
        run_.log_metrics(found)
        if resumed:
            run_.set_tag("resumed_from", resumed.name)
        device, dtype, stop = resolve_device(settings.device), selector.dtype, CheckpointCallback(checkpoints)
        trainer = SupervisedTrainer(
            vlm,
            Collator(tokenizer, usable, lambda some: prompts.prompts([example.item for example in some])),
            start,
            selector.lora,
            arguments(start, checkpoints.folder, seed=settings.seed, dtype=dtype, device=device),
            [stop, Monitor("steps of initialisation", run_, ("loss",), "start/", LOGGED)],
        )
        with stop:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        run_.log_metrics(checkpoints.finish(trainer, vlm.processor, settings.output.parent, dtype))


if __name__ == "__main__":
    run(Settings, main)
