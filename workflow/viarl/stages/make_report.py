"""Draw the report's pictures and write the comparison table; `snakemake --report` collects them into one page."""

import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from viarl.command import run
from viarl.evaluate.rows import read_rows
from viarl.items import read_items
from viarl.report import comparison
from viarl.report.ablation_figures import draw_failures
from viarl.report.curves import draw_rewards, draw_timing
from viarl.report.figures import draw_accuracy, draw_tasks, failure_shares, read_summaries
from viarl.report.filmstrip import Pick, Question, choose, draw_filmstrip
from viarl.tracking.record import Record, Tracking, begun, newest, records
from viarl.tracking.start import start_run
from viarl.video.cache import FrameCache


@dataclass(frozen=True)
class Settings:
    """eval.json of every cycle; the last one's tables, their items and frames -> all pictures and tables.

    `rows` and `questions` are in the order of `benchmarks`; `filmstrips` counts the questions that are drawn.
    """

    summaries: tuple[Path, ...]
    rows: tuple[Path, ...]
    questions: tuple[Path, ...]
    frames: tuple[Path, ...]
    folder: Path
    benchmarks: tuple[str, ...]
    filmstrips: int
    tracking: Tracking = field(default_factory=Tracking)


def questions(settings: Settings) -> list[Question]:
    """Return every test question with its picks; ValueError names a table whose questions are not in its items."""
    found = []
    for name, table, listed in zip(settings.benchmarks, settings.rows, settings.questions, strict=True):
        items = {item.id: item for item in read_items(listed)}
        rows = read_rows([table])
        first = rows[rows["draw"] == 0]  # of a random selector, one draw stands for all
        for item, group in first.groupby("item", sort=True):
            if item not in items:
                raise ValueError(f"{table}: question {item!r} is not in {listed}; make the table again with its rule")
            picks = group[[entry.name for entry in fields(Pick)]].to_dict("records")
            own = (Pick(**{**pick, "indices": tuple(map(int, pick["indices"]))}) for pick in picks)
            found.append(Question(name, items[item], tuple(own)))
    return found


def training_records(root: Path, last: int) -> list[Record]:
    """Return the newest record of each job of the main run, up to the last cycle that is shown."""
    every = filter(None, map(begun, records(root)))
    own = [record for record in every if not record.header["run"]]
    return newest([record for record in own if int(record.header["cycle"] or 0) <= last])


def main(settings: Settings) -> None:
    """Write all pictures and tables."""
    with start_run(settings.tracking, {"filmstrips": settings.filmstrips}, {"rows": settings.rows}) as recorded:
        summaries = read_summaries(settings.summaries)
        records = training_records(settings.tracking.root, summaries[-1]["cycle"])
        draw_accuracy(summaries, settings.folder / "accuracy.png")
        draw_tasks(summaries, settings.folder / "tasks.png")
        draw_failures(failure_shares(summaries), settings.folder / "failures.png")
        draw_rewards(records, settings.folder / "rewards.png")
        draw_timing(records, settings.folder / "timing.png")
        comparison.write(summaries, settings.folder)
        cache = FrameCache(settings.frames)
        usable = [question for question in questions(settings) if question.item.video in cache]
        strips = settings.folder / "filmstrips"
        strips.mkdir(parents=True, exist_ok=True)
        for place, question in enumerate(choose(usable, settings.filmstrips)):
            video = question.item.video
            frames = cache.answerer_frames(video, range(cache.count(video)))
            task = re.sub(r"\W+", "_", question.item.task) or "all"
            path = strips / f"{place:02}-{question.benchmark}-{task}.png"
            draw_filmstrip(question, frames, cache.times(video), path)
        for path in sorted(settings.folder.glob("*.*")):
            recorded.log_artifact(path)
        for path in sorted(strips.glob("*.png")):
            recorded.log_artifact(path, folder="filmstrips")
    print(f"The pictures are in {settings.folder}", file=sys.stderr)


if __name__ == "__main__":
    run(Settings, main)
