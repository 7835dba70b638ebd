"""The report's pictures and tables, on fabricated results with known numbers."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viarl.evaluate.compare import FOUR
from viarl.evaluate.rows import write_rows
from viarl.files import write_json
from viarl.items import Item, write_records
from viarl.report.ablation_figures import draw_failures
from viarl.report.comparison import rows, write
from viarl.report.curves import draw_rewards, draw_timing, panels, smooth
from viarl.report.figures import draw_accuracy, draw_tasks, failure_shares, read_summaries
from viarl.report.filmstrip import Pick, Question, choose, draw_filmstrip
from viarl.report.style import spread
from viarl.stages import make_report
from viarl.tracking.record import Record, Tracking, read_record
from viarl.tracking.start import start_run
from viarl.training.rl.reward import PARTS

# Accuracy (%) at cycles 0, 1, 2; evidence recall of the frames does not depend on the answerer.
ACCURACY = {
    "uniform": (30, 33, 34), "random": (31, 33, 35), "clip_topk": (38, 45, 47), "bolt": (36, 41, 44),
    "aks": (37, 44, 46), "qframe": (37, 43, 45), "oracle": (78, 93, 96), "base": (31, 33, 36),
    "base_sampled": (30, 33, 33), "learned": (31, 71, 84), "learned_sampled": (30, 69, 82),
    "learned_base_answerer": (31, 62, 69),
}  # fmt: skip
TASKS = {"none": 320, "after": 50, "before": 50, "beginning": 40, "end": 40}
BENCHMARKS = ("needle", "needle_shifted")


def interval(value: float, half: float) -> dict[str, float]:
    """An interval around a share, within 0..1."""
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def evidence(benchmark: str, n: int, accuracy: float) -> dict:
    """What is known of the evidence: a tenth of the answers that are right are guesses; on one benchmark nothing."""
    if benchmark == "needle_shifted":
        return {"evidence_interval": None, "four_way": None}
    shares = (0.9 * accuracy, 0.01, 0.1 * accuracy, 0.99 - accuracy)
    return {"evidence_interval": {"n": n, "low": 0.2, "high": 0.3}, "four_way": dict(zip(FOUR, shares, strict=True))}


def summary(cycle: int) -> dict:
    """An eval.json with the numbers of ACCURACY; 8 points less on the shifted benchmark."""
    benchmarks = {}
    for name in BENCHMARKS:
        less = 0.08 if name == "needle_shifted" else 0.0
        selectors = {}
        for selector, values in ACCURACY.items():
            value = values[cycle] / 100 - less
            by_task = {
                task: {"n": n, "accuracy": interval(value - 0.02 * rank, 0.9 / n**0.5), **evidence(name, n, value)}
                for rank, (task, n) in enumerate(TASKS.items())
            }
            selectors[selector] = {
                "accuracy": interval(value, 0.042),
                "evidence_recall": 0.25,
                "valid_rate": 0.9 if selector == "learned" else None,
                "n_failed": 2,
                "by_task": by_task,
                **evidence(name, 500, value),
            }
        learned = ACCURACY["learned"]
        gains = {
            f"learned-{other}": learned[cycle] - ACCURACY[other][cycle] for other in ACCURACY if other != "learned"
        }
        gains |= {f"cycle{cycle}-cycle{before}": learned[cycle] - learned[before] for before in range(cycle)}
        paired = {name: {"value": g / 100, "low": g / 100 - 0.05, "high": g / 100 + 0.05} for name, g in gains.items()}
        benchmarks[name] = {"n": 500, "videos": 250, "selectors": selectors, "paired": paired}
    return {"schema_version": 1, "cycle": cycle, "benchmarks": benchmarks}


@pytest.fixture
def summaries(tmp_path: Path) -> list[dict]:
    """Three cycles, read back from files given in the wrong order."""
    paths = [tmp_path / f"cycle{cycle}" / "eval.json" for cycle in (1, 0, 2)]
    for path in paths:
        write_json(path, summary(int(path.parent.name[-1])))
    return read_summaries(paths)


def record(stage: str, cycle: int | None, start: float, seconds: float) -> Record:
    """A finished record; that of a selector's training holds every curve of the report."""
    made = Record({"stage": stage, "cycle": cycle, "time": start}, status="FINISHED", seconds=seconds)
    if stage == "train_selector":
        rng = np.random.default_rng(cycle)
        steps = np.arange(1, 81)
        learned = (1 - np.exp(-steps / 25)) * 0.5 + (0.35 if cycle == 2 else 0)
        curves = {
            "reward/total": 1.5 + 2 * learned,
            **{f"reward/{part}": 0.9 - 0.1 * rank + 0.1 * learned for rank, part in enumerate(PARTS)},
            "valid_rate": 0.8 + 0.2 * learned,
            "kl": 0.08 * learned, "entropy": 1.2 - 0.8 * learned, "clip_fraction": 0.02 + 0.02 * learned,
            "answer_accuracy": 0.3 + 0.6 * learned, "evidence_recall": 0.3 + 0.6 * learned,
            "completion_tokens": 21 - learned,
        }  # fmt: skip
        for key, values in curves.items():
            noisy = values * (1 + 0.05 * rng.normal(size=80))
            made.metrics[key] = {int(step): (float(value), 0.0) for step, value in zip(steps, noisy, strict=True)}
        for phase, mean in {"rollout": 1.1, "reward": 0.3, "update": 0.8, "reference": 0.2, "other": 0.03}.items():
            made.metrics[f"seconds/{phase}"] = {int(step): (mean, 0.0) for step in steps}
    return made


def records() -> list[Record]:
    """The records of a run with two cycles."""
    made = [record("make_needle", None, 0, 41), record("build_stand_ins", None, 1, 130)]
    made += [record("cache_frames", None, 2 + i, 9) for i in range(8)] + [record("score_frames", None, 12, 3.4)]
    for cycle in (0, 1, 2):
        if cycle:
            made += [record("train_selector", cycle, 100 * cycle, 190 + cycle)]
            made += [record("tune_answerer", cycle, 100 * cycle + 2, 35)]
        made += [record("select_frames", cycle, 100 * cycle + 1, 12), record("evaluate", cycle, 100 * cycle + 3, 25)]
    return made


def is_picture(path: Path, width: int, height: int) -> bool:
    """Whether a file is a picture of at least this size that is not blank."""
    with Image.open(path) as image:
        return image.width >= width and image.height >= height and len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_summaries_are_ordered_and_checked(summaries, tmp_path):
    assert [entry["cycle"] for entry in summaries] == [0, 1, 2]
    path = tmp_path / "other.json"
    write_json(path, {"schema_version": 2})
    with pytest.raises(ValueError, match=r"other\.json: schema_version 2"):
        read_summaries([path])
    with pytest.raises(ValueError, match="cycle 1 was given before"):
        read_summaries([tmp_path / "cycle1/eval.json"] * 2)


def test_the_tables_hold_the_numbers_of_the_summaries(summaries, tmp_path):
    assert len(rows(summaries)) == 2 * 3 * len(ACCURACY)
    write(summaries, tmp_path)
    with (tmp_path / "comparison.csv").open() as handle:
        table = {(row["benchmark"], row["cycle"], row["selector"]): row for row in csv.DictReader(handle)}
    uniform = table["needle", "2", "uniform"]
    assert [uniform[key] for key in ("n", "accuracy", "accuracy_low", "learned_minus")] == [
        "500",
        "0.34",
        "0.298",
        "0.5",
    ]
    assert table["needle_shifted", "1", "aks"]["accuracy"] == "0.36"
    assert table["needle", "0", "learned"]["learned_minus"] == ""
    text = re.sub(" +", " ", (tmp_path / "comparison.md").read_text())
    assert "### needle (n = 500)" in text
    assert "| learned | 31.0 [26.8, 35.2] | 71.0 [66.8, 75.2] | 84.0 [79.8, 88.2] | | 25 | 90 |" in text
    assert "| 34.0 [29.8, 38.2] | +50.0 [+45.0, +55.0] | 25 | |" in text
    page = re.sub(r" +(?=</td>)|(?<=>) +| style=[^>]*", "", (tmp_path / "comparison.html").read_text())
    assert "<td>uniform</td><td>30.0 [25.8, 34.2]</td>" in page
    assert "cycle2 minus cycle1: +13.0 [+8.0, +18.0] points." in text
    assert "| uniform | 30.0 [25.8, 34.2] | 34.0 [29.8, 38.2] | |" in text
    assert "| learned | 69.0 [64.8, 73.2] | 84.0 [79.8, 88.2] | +15.0 [+10.0, +20.0] |" in text
    assert "| learned minus uniform | | +50.0 [+45.0, +55.0] | |" in text
    assert "| 2 | all | 500 | 76 | 1 | 8 | 15 |" in text
    assert "| 2 | end | 40 | 76 | 1 | 8 | 15 |" in text
    assert "needle_shifted: failures" not in text


def test_pictures_of_accuracy(summaries, tmp_path):
    draw_accuracy(summaries, tmp_path / "accuracy.png")
    draw_tasks(summaries, tmp_path / "tasks.png")
    assert is_picture(tmp_path / "accuracy.png", 1500, 900)
    assert is_picture(tmp_path / "tasks.png", 1500, 600)
    draw_failures(failure_shares(summaries), tmp_path / "failures.png")
    assert is_picture(tmp_path / "failures.png", 700, 400)
    draw_accuracy(summaries[:1], tmp_path / "untouched.png")
    assert is_picture(tmp_path / "untouched.png", 1500, 900)


def test_pictures_of_the_work(tmp_path):
    drawn = [key for key, _, _ in panels(records())]
    assert drawn[: len(PARTS) + 1] == ["reward/total", *sorted(f"reward/{part}" for part in PARTS)]
    draw_rewards(records(), tmp_path / "rewards.png")
    draw_timing(records(), tmp_path / "timing.png")
    assert is_picture(tmp_path / "rewards.png", 1500, 700)
    assert is_picture(tmp_path / "timing.png", 1500, 400)
    draw_rewards([], tmp_path / "no_rewards.png")
    draw_timing([], tmp_path / "no_timing.png")
    assert is_picture(tmp_path / "no_rewards.png", 900, 200)
    assert is_picture(tmp_path / "no_timing.png", 900, 200)


def test_smoothing_is_a_centred_mean_that_leaves_nan_out():
    assert smooth(np.array([0.0, 3.0, 6.0, np.nan]), 3).tolist() == [1.5, 3.0, 4.5, 6.0]


def test_labels_are_spread_without_changing_their_order():
    assert spread([5.0, 1.0], 1.0) == [5.0, 1.0]
    assert spread([2.0, 2.0, 2.0], 1.0) == [1.0, 2.0, 3.0]
    placed = spread([0.0, 0.4, 0.9, 5.0], 1.0)
    assert np.diff(placed).min() == pytest.approx(1.0, abs=0.0) or np.diff(placed).min() >= 1.0 - 1e-9
    assert placed[3] == 5.0


def question(number: int, task: str, benchmark: str = "needle") -> Question:
    """A question on 32 candidates at 0, 0.25, … s whose evidence is 3.0 to 3.8 s: frames 12 to 15."""
    item = Item(
        id=f"{benchmark}_{number}",
        video=f"v{number % 2}",
        question="Which shape is on the blue card after the red card?",
        options=("star", "circle", "square", "triangle"),
        answer="B",
        task=task,
        duration=8.0,
        evidence=((3.0, 3.8),),
    )
    indices = {
        "uniform": (0, 10, 21, 31), "random": (3, 9, 17, 30), "clip_topk": (5, 6, 12, 13), "bolt": (6, 12, 12, 20),
        "aks": (5, 12, 20, 28), "qframe": (5, 6, 13, 29), "oracle": (12, 13, 14, 15), "base": (1, 2, 3, 4),
        "learned": (12, 13, 14, 16),
    }  # fmt: skip
    picks = []
    for selector, chosen in indices.items():
        right = selector in ("oracle", "learned", "bolt")
        learned = Pick(
            selector=selector,
            indices=chosen,
            valid=selector != "base",
            reason="" if selector != "base" else "repeated numbers",
            text="<think>find the blue card after the red card</think><index>[12, 13, 14, 16]</index>",
            reply="blue circle B" if right else "red star A",
            letter="B" if right else "A",
            correct=right,
            evidence_recall=1.0 if 12 in chosen or 13 in chosen else 0.0,
        )
        picks.append(learned)
    return Question(benchmark, item, tuple(picks))


def frames(count: int = 32, height: int = 56, width: int = 56) -> list[np.ndarray]:
    """Candidate frames of a moving gradient with a blue card in frames 12 to 15."""
    made = []
    for index in range(count):
        y, x = np.mgrid[:height, :width]
        frame = np.stack([(4 * x + 9 * index) % 200, (3 * y + 5 * index) % 180, np.full_like(x, 90)], axis=-1)
        if 12 <= index <= 15:
            frame[height // 4 : -height // 4, width // 4 : -width // 4] = (40, 80, 230)
        made.append(frame.astype(np.uint8))
    return made


def test_questions_are_chosen_in_turn_from_benchmarks_and_tasks():
    asked = [question(i, "none") for i in range(4)] + [question(9, "after"), question(7, "none", "needle_shifted")]
    chosen = [entry.item.id for entry in choose(list(reversed(asked)), 5)]
    assert chosen == ["needle_9", "needle_0", "needle_shifted_7", "needle_1", "needle_2"]
    assert len(choose(asked, 99)) == 6
    assert choose([], 3) == []


def test_a_filmstrip_marks_evidence_and_picks(tmp_path):
    path = tmp_path / "strip.png"
    draw_filmstrip(question(0, "after"), frames(), np.arange(32) / 4, path)
    assert is_picture(path, 1500, 400)
    with Image.open(path) as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}
    assert colours[0, 158, 115] > 200  # evidence
    assert colours[0, 114, 178] > 4 * 200  # the learned selector's picks


def test_a_filmstrip_of_128_wide_frames_with_long_texts(tmp_path):
    asked = question(1, "")
    long = "<think>" + "the person in the red jacket walks to the counter and " * 60 + "</think><index>[1]</index>"
    picks = [replace(pick, text=long, valid=False, reason="1 numbers instead of 8") for pick in asked.picks]
    picks = [replace(pick, indices=(0, 18, 36, 54, 73, 91, 109, 127), evidence_recall=float("nan")) for pick in picks]
    item = replace(
        asked.item,
        question="What does the woman do at the end of the video, after " + "she has put the cup on the table and " * 8,
        options=tuple(f"She {verb} and then leaves the room through the door on the left" * 2 for verb in "abcd"),
        evidence=(),
    )
    path = tmp_path / "long.png"
    draw_filmstrip(Question("videomme", item, tuple(picks)), frames(128, 63, 112), np.arange(128) * 2.5, path)
    assert is_picture(path, 1500, 900)


class Frames:
    """Stands for the frame cache of the videos v0 and v1; `manifests` is what the stage was given."""

    def __init__(self, manifests: tuple[Path, ...]) -> None:
        self.manifests = manifests

    def __contains__(self, video: str) -> bool:
        return video in ("v0", "v1")

    def count(self, video: str) -> int:
        return 32

    def times(self, video: str) -> np.ndarray:
        return np.arange(32) / 4

    def answerer_frames(self, video: str, indices: range) -> list[np.ndarray]:
        return [frames()[index] for index in indices]


def test_the_stage_draws_everything_and_records_it(summaries, tmp_path, monkeypatch):
    monkeypatch.setattr(make_report, "FrameCache", Frames)
    asked = [question(i, task) for i, task in enumerate(["none", "after", "end"])]
    own = {"benchmark": "needle", "cycle": 2, "groups": [], "protocol": "own", "draw": 0, "answer": "B"}
    table = [
        own | {name: getattr(item, name) for name in ("video", "task", "question")} | {"item": item.id} | vars(pick)
        for item, picks in ((entry.item, entry.picks) for entry in asked)
        for pick in picks
    ]
    write_rows(tmp_path / "needle.parquet", table)
    write_records(tmp_path / "items.jsonl", [entry.item for entry in asked])
    settings = make_report.Settings(
        summaries=tuple(tmp_path / f"cycle{cycle}/eval.json" for cycle in range(3)),
        rows=(tmp_path / "needle.parquet",),
        questions=(tmp_path / "items.jsonl",),
        frames=(tmp_path / "0.json",),
        folder=tmp_path / "report",
        benchmarks=("needle",),
        filmstrips=2,
        tracking=Tracking(root=tmp_path, stage="make_report", defer_below_s=1e9),
    )
    with start_run(Tracking(root=tmp_path, stage="train_selector", cycle=1, defer_below_s=1e9)) as run:
        run.log_metrics({"reward/total": 1.0}, step=1)
    with start_run(Tracking(root=tmp_path, stage="train_selector", cycle=1, defer_below_s=1e9), {"lr": 2}) as run:
        run.log_metrics({"reward/total": 2.0}, step=1)  # takes the place of the one that nobody has pushed
    with start_run(Tracking(root=tmp_path, stage="train_selector", cycle=3, defer_below_s=1e9)):
        pass
    (tmp_path / "tracking" / "train_selector" / "just_begun.jsonl").touch()
    (shown,) = make_report.training_records(tmp_path, last=2)
    assert shown.series("reward/total") == [(1, 2.0)]
    make_report.main(settings)
    names = {str(path.relative_to(settings.folder)) for path in settings.folder.rglob("*.*")}
    pictures = {"accuracy.png", "tasks.png", "rewards.png", "timing.png", "filmstrips/00-needle-after.png"}
    pictures |= {"failures.png", "filmstrips/01-needle-end.png"}
    assert names == pictures | {"comparison.csv", "comparison.md", "comparison.html"}
    record = read_record(tmp_path / "tracking/make_report/all.jsonl")
    assert len(record.artifacts) == 10

    make_report.main(replace(settings, filmstrips=0, folder=tmp_path / "none"))
    assert (tmp_path / "none" / "filmstrips").is_dir()  # which the rule promises
    table[0]["item"] = "unknown"
    write_rows(tmp_path / "needle.parquet", table)
    with pytest.raises(ValueError, match="question 'unknown' is not in"):
        make_report.main(settings)
    assert json.loads((tmp_path / "tracking/make_report/all.jsonl").read_text().splitlines()[-1])["status"] == "FAILED"
