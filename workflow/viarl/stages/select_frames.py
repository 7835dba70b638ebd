"""Let the selector pick frames for every question of a set: greedily, and in one seeded sample.

What was completed lies beside the table until that is written, so that a stage that was killed goes on with the rest.
"""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.identity import fingerprint, identity
from viarl.items import Item, read_items
from viarl.models.files import weight_hashes
from viarl.models.reply_cache import ReplyCache
from viarl.models.settings import ModelSettings
from viarl.models.vlm import resolve_device
from viarl.progress import Progress, say
from viarl.sections import counted
from viarl.selection.learned import load_selector, select
from viarl.selection.picks import GREEDY, SAMPLED, Pick, write_picks
from viarl.tracking.record import Files, Tracking
from viarl.tracking.start import start_run
from viarl.video.cache import FrameCache
from viarl.video.overlay import NumberStyle


@dataclass(frozen=True)
class Settings:
    """Questions and frames of a set, a selector -> its picks (viarl.selection.picks).

    An item's sample depends on `seed` and its id alone; `temperature` None draws none. `selected` is K.
    """

    items: Path
    manifests: tuple[Path, ...]
    selector_model: Path
    output: Path
    seed: int
    selected: int
    number_pixels: int
    temperature: float | None
    selector: ModelSettings
    features: Path | None = None
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"evaluation.temperature must be above 0, not {self.temperature}: the sample needs it")


def kept_completions(settings: Settings) -> ReplyCache:
    """Return the completions of an earlier start with the same inputs."""
    known = {
        **{name: getattr(settings, name) for name in ("seed", "selected", "number_pixels", "temperature")},
        "selector": {**counted(settings.selector), "batch_size": settings.selector.batch_size},
        "model": str(settings.selector_model),
        "device": resolve_device(settings.device).type,
        "code": fingerprint("viarl.stages.select_frames"),
    }
    files: dict[str, Files] = {"items": settings.items, "frames": settings.manifests}
    whole = identity(known, files, weights=weight_hashes(settings.selector_model))
    kept = ReplyCache(settings.output.with_name(f".{settings.output.name}.kept"), whole)
    if len(kept):
        say(f"{len(kept)} batches of picks are there from an earlier start")
    return kept


def pick(settings: Settings, items: list[Item], cache: FrameCache, kept: ReplyCache) -> list[Pick]:
    """Return the greedy picks of all items, then the sampled ones, in the items' order; failures keep their place."""
    decodes = {GREEDY: 0.0} | ({} if settings.temperature is None else {SAMPLED: settings.temperature})
    picks: dict[tuple[str, str], Pick] = {}
    for item in items:
        if item.video not in cache:
            failed = f"video {item.video}: {cache.bad.get(item.video, 'is not in the frame cache')}"
            for decode in decodes:
                picks[item.id, decode] = Pick(item.id, item.video, decode, "", False, "", (), 0, failed)
    # the questions of a video stand together, so that its features are in memory
    usable = sorted((item for item in items if item.video in cache), key=lambda item: item.video)
    if not usable:
        cache.check_usable()
    else:
        how, chosen = settings.selector, settings.selected
        prompts = load_selector(settings.selector_model, how, cache, chosen, settings.device, settings.features)
        limits = {"seed": settings.seed, "max_new_tokens": how.max_new_tokens, "batch_size": how.batch_size}
        progress = Progress("picks", len(decodes) * len(usable))
        for decode, temperature in decodes.items():
            picked = select(prompts, usable, temperature=temperature, progress=progress, kept=kept, **limits)
            for item, one in zip(usable, picked, strict=True):
                made = (one.selection.index_valid, one.selection.reason, one.selection.indices)
                picks[item.id, decode] = Pick(item.id, item.video, decode, one.text, *made, one.tokens)
    return [picks[item.id, decode] for decode in decodes for item in items]


def main(settings: Settings) -> None:
    """Pick and write the table; invalid lists and failures are counted in log and tracking."""
    items = read_items(settings.items)
    cache = FrameCache(settings.manifests, NumberStyle(settings.number_pixels))
    params = {"seed": settings.seed, "selected": settings.selected, "selector": settings.selector}
    data: dict[str, Files] = {"items": settings.items, "frames": settings.manifests}
    with start_run(settings.tracking, {**params, "model": str(settings.selector_model)}, data) as run_:
        kept = kept_completions(settings)
        picks = pick(settings, items, cache, kept)
        write_picks(settings.output, picks)
        shutil.rmtree(kept.folder.parent, ignore_errors=True)
        for decode in dict.fromkeys(one.decode for one in picks):
            own = [one for one in picks if one.decode == decode]
            asked = [one for one in own if not one.failed]
            metrics: dict[str, float] = {"items": len(own), "failed": len(own) - len(asked)}
            if asked:
                metrics["valid_rate"] = sum(one.valid for one in asked) / len(asked)
                metrics["tokens"] = sum(one.tokens for one in asked) / len(asked)
            run_.log_metrics({f"{decode}/{name}": value for name, value in metrics.items()})
            invalid = dict(Counter(one.reason for one in asked if not one.valid).most_common(5))
            print(f"{decode}: {metrics}; invalid: {invalid}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
