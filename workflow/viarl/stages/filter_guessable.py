"""Drop training questions that teach nothing, and write the data card."""

from dataclasses import dataclass, field
from pathlib import Path

from viarl.answer.load import load_answerer
from viarl.answer.settings import AnswererSettings
from viarl.command import run
from viarl.files import write_json
from viarl.items import read_items, write_records
from viarl.selection.similarities import read_scores
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run
from viarl.training.filtering import Filter
from viarl.training.settings import FilterSettings
from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class Settings:
    """Questions, frames and similarities of the training set, the untouched answerer -> kept questions, data card."""

    items: Path
    manifests: tuple[Path, ...]
    scores: tuple[Path, ...]
    answerer_model: Path  # folder or hub id
    output: Path
    report: Path
    seed: int
    selected: int
    filter: FilterSettings
    answerer: AnswererSettings
    replies: Path | None = None  # folder that keeps replies for other stages
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Judge every item; ValueError where nothing would be left to train on."""
    cache = FrameCache(settings.manifests)
    cache.check_usable()
    items = read_items(settings.items)
    answerer = load_answerer(settings.answerer_model, settings.answerer, cache, settings.device, settings.replies)
    judge = Filter(answerer, cache, read_scores(settings.scores), settings.selected, settings.seed, settings.filter)
    params = {"filter": settings.filter, "selected": settings.selected, "seed": settings.seed}
    with start_run(settings.tracking, params, {"items": settings.items, "frames": settings.manifests}) as run_:
        reasons = judge.reasons(items, settings.filter.rule)
        card = judge.data_card(items, reasons)
        kept = [item for item, reason in zip(items, reasons, strict=True) if not reason]
        if not kept:
            what = f"drops all {len(items)} questions of {settings.items} ({card['dropped']})"
            raise ValueError(f"filter.rule {settings.filter.rule!r} {what}; choose another rule, or 'none'")
        write_records(settings.output, kept)
        write_json(settings.report, card)
        dropped = {f"dropped/{reason.replace(',', '')}": count for reason, count in card["dropped"].items()}
        run_.log_metrics({"found": card["found"], "kept": card["kept"], **dropped, **answerer.counts()})
        run_.log_artifact(settings.report)
    print(f"{settings.filter.rule}: kept {len(kept)} of {len(items)} questions; dropped: {card['dropped']}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
