"""The comparison of runs in print: ablations, selectors, the 2x2 of selector and answerer, failures, saturation.

Every table is made of the rows of viarl.evaluate.compare alone: CSV, Markdown and page hold the same numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from viarl.evaluate.compare import BASE_ANSWERER, FOUR, LEARNED, MAIN, UNIFORM, Comparison, verdict
from viarl.evaluate.statistics import Interval
from viarl.report.style import LUCK, in_order, look
from viarl.report.tables import Table, interval, percent

Row = dict[str, Any]

LEGEND = (
    "All numbers in percent or points. In brackets: 95% interval from a bootstrap that draws whole videos, of means "
    "over training seeds; it says how much other videos would change a number. After ±: standard deviation over seeds "
    "(n - 1), how much another training would. Differences are paired on the same questions; those to main on common "
    "seeds. Questions that failed count as wrong. The best training-free selector is chosen on these same questions, "
    "which favours it. " + LUCK
)
NAMES = {name: name.replace("_frames_", " frames, ").replace("_", " ") for name in FOUR[:3]} | {FOUR[3]: "both wrong"}


def last_rows(comparison: Comparison, benchmark: str) -> list[Row]:
    """Return the learned selector's row after the last cycle of every run of a benchmark, main first."""
    return [row for row in _of(comparison, benchmark) if row["last"] and row["selector"] == LEARNED]


def learned_rows(comparison: Comparison, benchmark: str, ablation: str = MAIN) -> list[Row]:
    """Return the learned selector's rows of one ablation, by cycle."""
    return [row for row in _of(comparison, benchmark, ablation) if row["selector"] == LEARNED]


def gain(row: Row) -> Interval | None:
    """Return a row's gain over the cycle before, None in cycle 0."""
    return None if row["gain"] is None else Interval(row["gain"], row["gain_low"], row["gain_high"])


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables, benchmark by benchmark."""
    made = []
    for name in comparison.benchmarks:
        made += [_ablations(comparison, name), _leads(comparison, name), _selectors(comparison, name)]
        main = {(row["cycle"], row["selector"]): row for row in _of(comparison, name, MAIN)}
        made += [grid(name, main), *failures(name, main_failures(comparison)), _saturation(comparison, name)]
    return made


def _of(comparison: Comparison, benchmark: str, ablation: str | None = None) -> list[Row]:
    return [row for row in comparison.rows if row["benchmark"] == benchmark and ablation in (None, row["ablation"])]


def spread(row: Row, key: str) -> str:
    """Return the standard deviation of a row's share over seeds in points, "" where one seed has none."""
    deviation = row[f"{key}_sd"]
    return "" if deviation is None else f" ± {100 * deviation:.1f}"


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _ablations(comparison: Comparison, name: str) -> Table:
    cells = []
    rows = last_rows(comparison, name)
    for row in rows:
        to_main = interval(row, "minus_main", "+") + spread(row, "minus_main")
        if to_main and row["main_seeds"] != row["seeds"]:
            to_main += f" (seeds {_seeds(row['main_seeds'])})"
        known = [row["ablation"], row["hypothesis"], str(row["cycle"]), _seeds(row["seeds"])]
        frames = f"{row['frames']:.3g}" if row["frames"] is not None else ""
        lead = to_main or ("" if row["ablation"] == MAIN else "no seed in common")
        shares = [percent(row["evidence_recall"]), percent(row["valid_rate"])]
        cells.append([*known, frames, interval(row, "accuracy") + spread(row, "accuracy"), lead, *shares])
    header = [
        "run",
        "hypothesis",
        "cycles",
        "seeds",
        "frames",
        "accuracy of the learned selector",
        "difference to main",
        "evidence recall",
        "valid",
    ]
    first, unknown = rows[0], rows[0]["n_without_answer"]
    notes = [f"{unknown} questions without a known answer are in no number."] if unknown else []
    title = f"{name}: ablations, after the last cycle (n = {first['n']} questions on {first['videos']} videos)"
    return Table(title, header, cells, notes, prose=("hypothesis",))


def _leads(comparison: Comparison, name: str) -> Table:
    header = [
        "run",
        "learned minus uniform",
        "learned minus best training-free",
        "which",
        "gain of the last cycle",
        "lowest seed",
        "highest seed",
        "failed questions",
    ]
    cells = []
    for row in last_rows(comparison, name):
        best = look(row["best_free"]).name if row["best_free"] else ""
        leads = [interval(row, "minus_uniform", "+"), interval(row, "minus_best_free", "+"), best]
        extremes = [f"{100 * row[end]:.1f}" for end in ("accuracy_min", "accuracy_max")]
        cells.append([row["ablation"], *leads, interval(row, "gain", "+"), *extremes, f"{row['n_failed']:.3g}"])
    return Table(f"{name}: the learned selector against untrained ones, within each run", header, cells, [])


def _selectors(comparison: Comparison, name: str) -> Table:
    rows = _of(comparison, name, MAIN)
    last = rows[-1]["cycle"]
    note = f"The last three columns: after cycle {last}. Each column has the answerer of its cycle."
    title = f"{name}: selectors of the main run (seeds {_seeds(rows[0]['seeds'])})"
    shown = [row for row in rows if row["selector"] != BASE_ANSWERER]
    return by_cycle(title, {(row["cycle"], row["selector"]): row for row in shown}, range(last + 1), [note])


def by_cycle(title: str, found: Mapping[tuple[int, str], Row], cycles: Sequence[int], notes: list[str]) -> Table:
    """Return the accuracies of the last cycle's selectors, and what else is known there, of rows by cycle, selector."""
    cells = []
    for selector in in_order(selector for cycle, selector in found if cycle == cycles[-1]):
        final = found[cycles[-1], selector]
        accuracies = [interval(found.get((cycle, selector)), "accuracy") for cycle in cycles]
        shares = [percent(final["evidence_recall"]), percent(final["valid_rate"])]
        cells.append([look(selector).name, *accuracies, interval(final, "learned_minus", "+"), *shares])
    header = ["selector", *(f"cycle {cycle}" for cycle in cycles), "learned minus it", "evidence recall", "valid"]
    return Table(title, header, cells, notes)


def grid(name: str, found: Mapping[tuple[int, str], Row]) -> Table:
    """Return the 2x2 of selector and answerer with its margins, of the main run's rows by cycle and selector."""
    last = max(cycle for cycle, _ in found)
    before, after = found.get((0, UNIFORM)), found.get((last, UNIFORM))
    learned, with_base = found[last, LEARNED], found.get((last, BASE_ANSWERER))
    between = [interval(row, "accuracy") for row in (with_base, learned)]
    cells = [
        ["uniform", interval(before, "accuracy"), interval(after, "accuracy"), interval(after, "minus_cycle0", "+")],
        ["learned", *between, interval(with_base, "learned_minus", "+")],
        ["learned minus uniform", interval(with_base, "minus_uniform", "+"), interval(after, "learned_minus", "+"), ""],
    ]
    lacking = f"The selector after cycle {last} was not evaluated with the base answerer; that cell needs rows of"
    header = ["selector", "answerer of cycle 0", f"answerer of cycle {last}", "the latter minus the former"]
    notes = [f"{lacking} {BASE_ANSWERER}."] if with_base is None else []
    return Table(f"{name}: selector and answerer, main run", header, cells, notes)


def main_failures(comparison: Comparison) -> list[Row]:
    """Return the four-way shares of the main run."""
    return [row for row in comparison.failures if row["ablation"] == MAIN]


def failures(name: str, shares: Sequence[Row]) -> list[Table]:
    """Return the main run's four-way shares on a benchmark as a table, none where no evidence is known."""
    rows = [row for row in shares if row["benchmark"] == name]
    if all(row[FOUR[0]] is None for row in rows):
        return []
    cells = [
        [str(row["cycle"]), row["task"] or "all", str(row["n"]), *(percent(row[share]) for share in FOUR)]
        for row in sorted(rows, key=lambda row: (row["task"] != "", row["task"], row["cycle"]))
    ]
    note = (
        "n: questions whose evidence is known. Right frames: every evidence segment is hit. Wrong frames with a right "
        "answer are guesses; right frames with a wrong answer are noise in the reward."
    )
    header = ["cycle", "questions", "n", *(NAMES[share] for share in FOUR)]
    title = f"{name}: failures of the learned selector, main run"
    return [Table(title, header, cells, [note], prose=("questions",))]


def _saturation(comparison: Comparison, name: str) -> Table:
    last = max(row["cycle"] for row in last_rows(comparison, name))
    cells = []
    for final in last_rows(comparison, name):
        rows = learned_rows(comparison, name, final["ablation"])[1:]
        gains = [interval(row, "gain", "+") for row in rows] + [""] * (last - len(rows))
        made = gain(final)
        cells.append([final["ablation"], *gains, verdict(made) if made else "no cycle was run"])
    header = ["run", *(f"gain of cycle {cycle}" for cycle in range(1, last + 1)), "stopping rule"]
    return Table(f"{name}: when cycles stop paying", header, cells, [], prose=("stopping rule",))
