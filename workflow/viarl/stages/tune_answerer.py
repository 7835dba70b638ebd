"""Tune the answerer on the training questions, with the frames that this cycle's selector picked greedily."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viarl.answer.answerer import Answerer
from viarl.command import run
from viarl.faults import left_out
from viarl.identity import identity
from viarl.items import Item, read_items
from viarl.models.files import weight_hashes
from viarl.models.vlm import Vlm, resolve_device
from viarl.processes import processes
from viarl.progress import say
from viarl.sections import counted
from viarl.selection.picks import Pick, read_picks
from viarl.tracking.monitor import Monitor
from viarl.tracking.record import Files, Tracking
from viarl.tracking.start import start_run
from viarl.training.checkpoints import CheckpointCallback, Checkpoints, working_folder
from viarl.training.libraries import quiet_libraries
from viarl.training.sft.dataset import AnswererPrompts, Collator, Example, target_text
from viarl.training.sft.own_words import replies_before
from viarl.training.sft.settings import TunedAnswerer
from viarl.training.sft.trainer import LOGGED, SupervisedTrainer, arguments
from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class Settings:
    """Training questions, frames, this cycle's picks on them, the answerer of the cycle before -> the tuned answerer.

    `output` is model.safetensors; working checkpoints lie in ../checkpoints/ beside it.
    """

    items: Path
    manifests: tuple[Path, ...]
    selected: Path
    answerer_model: Path
    output: Path
    seed: int
    answerer: TunedAnswerer
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def tunable(items: Sequence[Item], picks: dict[str, Pick], source: Path) -> list[tuple[Item, tuple[int, ...]]]:
    """Return the items that can be trained on, with their frames, and list the others: no answer, or no pick."""
    if missing := [item.id for item in items if item.id not in picks]:
        raise ValueError(f"{source} lacks {len(missing)} items, such as {missing[:3]}; run select_frames again")
    usable = [(item, picks[item.id].indices) for item in items if item.answer and not picks[item.id].failed]
    if not usable:
        raise ValueError(f"none of the {len(items)} training questions has both an answer and a video with frames")
    reasons = {item.id: "no answer" for item in items if not item.answer}
    reasons |= {item.id: f"no frames: {picks[item.id].failed}" for item in items if picks[item.id].failed}
    if reasons:
        say(left_out(reasons, len(items)))
    return usable


def inputs(settings: Settings) -> dict[str, Files]:
    """Return the input files other than the weights."""
    return {"items": settings.items, "frames": settings.manifests, "picks": settings.selected}


def main(settings: Settings) -> None:
    """Tune and save; a run that was stopped goes on from its last checkpoint."""
    quiet_libraries()
    settings.answerer.tuning.micro_batches(processes())  # uneven batches are refused before anything is loaded
    start = settings.answerer_model
    known = {"seed": settings.seed, "answerer": {**counted(settings.answerer), "start": str(start)}}
    whole = identity(known, inputs(settings), weights=weight_hashes(start))
    with Checkpoints(working_folder(settings.output.parent), whole) as checkpoints:
        tune(settings, checkpoints)


def tune(settings: Settings, checkpoints: Checkpoints) -> None:
    """Tune from the last checkpoint on, save the model, remove the checkpoints."""
    answerer, tuning, start = settings.answerer, settings.answerer.tuning, settings.answerer_model
    resumed = checkpoints.latest()
    cache = FrameCache(settings.manifests)
    usable = tunable(items := read_items(settings.items), read_picks(settings.selected), settings.selected)
    vlm = Vlm.load(start, answerer.lora.weights_dtype(answerer.dtype), answerer.attention, settings.device)
    params = {"seed": settings.seed, "answerer": counted(answerer), "start": str(start)}
    with start_run(settings.tracking, params, inputs(settings)) as run_:
        run_.log_metrics({"items": len(items), "tuned_on": len(usable)})
        if resumed:
            run_.set_tag("resumed_from", resumed.name)
        replies = [""] * len(usable)
        if tuning.target == "restated_text_letter":  # its own words are part of the target
            how = (answerer.prompt, answerer.max_new_tokens, answerer.batch_size)
            asked = Answerer(vlm, cache, *how, frames_as=answerer.frames_as)
            replies = replies_before(asked, usable, checkpoints)
        both, target = zip(usable, replies, strict=True), tuning.target
        examples = [Example(item, frames, target_text(target, item, reply)) for (item, frames), reply in both]
        frozen = not tuning.train_vision
        prompts = AnswererPrompts(vlm, cache, answerer.prompt, frozen, frames_as=answerer.frames_as)
        stop, device = CheckpointCallback(checkpoints), resolve_device(settings.device)
        trainer = SupervisedTrainer(
            vlm,
            Collator(vlm.tokenizer, examples, prompts),
            tuning,
            answerer.lora,
            arguments(tuning, checkpoints.folder, seed=settings.seed, dtype=answerer.dtype, device=device),
            [stop, Monitor("steps of tuning", run_, ("loss",), "tuning/", LOGGED)],
        )
        with stop:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        run_.log_metrics(checkpoints.finish(trainer, vlm.processor, settings.output.parent, answerer.dtype))


if __name__ == "__main__":
    run(Settings, main)
