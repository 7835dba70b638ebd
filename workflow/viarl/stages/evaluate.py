"""Answer every question of a benchmark with the frames of every selector."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from viarl.answer.load import load_answerer
from viarl.answer.settings import AnswererSettings
from viarl.command import run
from viarl.evaluate.benchmarks import benchmark
from viarl.evaluate.protocols import protocol
from viarl.evaluate.rows import write_rows
from viarl.evaluate.selectors import LEARNED, UNTUNED, Choice, Sources, choose, evaluate
from viarl.evaluate.settings import EvaluationSettings
from viarl.evaluate.spoken import SpokenLines
from viarl.items import read_items
from viarl.selection.picks import read_picks
from viarl.selection.similarities import read_scores
from viarl.tracking.record import Files, Tracking
from viarl.tracking.start import start_run
from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class Settings:
    """A benchmark's questions, frames, similarities and picks, and a cycle's answerer -> a row an item and selector."""

    items: Path
    manifests: tuple[Path, ...]
    scores: tuple[Path, ...]
    base: Path  # picks of the untouched selector
    learned: Path  # picks of this cycle's selector
    answerer_model: Path  # folder or hub id
    base_answerer_model: Path  # the untouched one
    output: Path
    benchmark: str
    cycle: int
    selected: int
    answerer: AnswererSettings
    evaluation: EvaluationSettings
    modules: dict[str, str] = field(default_factory=dict)  # of viarl.evaluate.benchmarks, by benchmark
    subtitles: bool = False
    replies: Path | None = None  # folder that keeps replies for other stages
    device: str = "auto"
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Choose with every selector, ask the answerer, write the rows."""
    items = read_items(settings.items)
    cache = FrameCache(settings.manifests)
    tables = {"base": settings.base, "learned": settings.learned}
    picks = {(whose, decode): read_picks(tables[whose], decode) for whose, decode in LEARNED.values()}
    sources = Sources(cache, read_scores(settings.scores), picks)
    how = settings.evaluation
    lines = SpokenLines(items, settings.items.parent, cache)
    about = benchmark(settings.modules.get(settings.benchmark, ""))
    asking = protocol(how.protocol, settings.answerer.prompt, about, lines, settings.subtitles)
    params = {"answerer": settings.answerer, "evaluation": how, "selected": settings.selected, "items": len(items)}
    data: dict[str, Files] = {"items": settings.items, "frames": settings.manifests, **tables}
    with start_run(settings.tracking, params, data) as run_:
        by_answerer: dict[Path, list[Choice]] = {settings.answerer_model: []}
        for choice in choose(items, sources, how.selectors, settings.selected, how.random_seeds):
            model = settings.base_answerer_model if choice.selector in UNTUNED else settings.answerer_model
            by_answerer.setdefault(model, []).append(choice)
        labels = {"benchmark": settings.benchmark, "cycle": settings.cycle, "protocol": how.protocol}
        rows, counts = [], Counter[str]()
        for model, own in by_answerer.items():  # one model in memory at a time
            answerer = load_answerer(model, settings.answerer, cache, settings.device, settings.replies, asking)
            answerer.batch_size = how.batch_size or answerer.batch_size
            rows += evaluate(own, answerer, sources, **labels)
            counts.update(answerer.counts())
            del answerer
        write_rows(settings.output, rows)
        run_.log_metrics({"rows": len(rows), **counts})
        run_.log_artifact(settings.output)
    what = f"{len(rows)} rows from {counts['asked']} different questions to the answerer"
    print(f"{settings.benchmark}: {what}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
