"""Pictures of the comparison of runs: accuracy by ablation, four-way failures, gain by cycle."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viarl.evaluate.compare import FOUR, MAIN, Comparison, stops
from viarl.report.ablations import NAMES, Row, gain, last_rows, learned_rows, spread
from viarl.report.style import BLACK, BLUE, FAINT, INK, LINES, ORANGE, SKY, VERMILION, figure, label_ends, legend, save
from viarl.report.tables import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Right frames are blue, wrong ones orange; a wrong answer is hatched.
FACES = dict(zip(FOUR, ((BLUE, ""), (SKY, "////"), (ORANGE, ""), ("#f5d9a0", "////")), strict=True))


def draw_ablations(comparison: Comparison, path: Path) -> None:
    """Draw the learned selector's accuracy of every run with interval and seeds, a column a benchmark."""
    names = comparison.benchmarks
    runs = [row["ablation"] for row in last_rows(comparison, names[0])]
    made = figure(0.4 + 0.08 * max(map(len, runs)) + 5.6 * len(names), 1.7 + 0.3 * len(runs))
    grid = made.subplots(1, len(names), squeeze=False, sharey=True)
    for axes, name in zip(grid[0], names, strict=True):
        rows = last_rows(comparison, name)
        _by_ablation(axes, rows)
        axes.set_title(f"{name}: learned selector, n = {rows[0]['n']}")
    legend(made, grid[0], 2 * len(names))
    save(made, path)


def _by_ablation(axes: "Axes", rows: Sequence[Row]) -> None:
    main = rows[0]
    axes.axvline(100 * main["accuracy"], color=INK, linewidth=1.2, linestyle="--", zorder=1)
    for place, row in enumerate(rows):
        low, value, high = (100 * row[key] for key in ("accuracy_low", "accuracy", "accuracy_high"))
        is_main = row["ablation"] == MAIN
        colour = BLACK if is_main else BLUE
        # Filled: differs from main on other videos too; whether another training does, the seeds show. An ablation
        # without a difference (no common seed) is not known to differ.
        known = row["minus_main"] is not None and not row["minus_main_low"] <= 0 <= row["minus_main_high"]
        excluded = f"interval of the difference {'excludes' if known else 'includes'} zero"
        label, marker = ("main run", "D") if is_main else (excluded, "o")
        face = colour if is_main or known else "white"
        dot: dict[str, Any] = {"markersize": 7, "markerfacecolor": face, "markeredgewidth": 1.5, "linestyle": "none"}
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([value], [place], color=colour, marker=marker, label=label, zorder=4, **dot)
        if len(row["seeds"]) > 1:
            seeds = [100 * share for share in row["accuracy_by_seed"]]
            tick: dict[str, Any] = {"marker": "|", "markersize": 6, "markeredgewidth": 1.4, "linestyle": "none"}
            axes.plot(seeds, [place + 0.3] * len(seeds), color=VERMILION, label="a training seed", zorder=3, **tick)
        text = ("difference to main:" if len(rows) > 1 else "") if is_main else "no seed in common"
        if row["minus_main"] is not None:
            text = interval(row, "minus_main", "+") + spread(row, "minus_main")
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row["ablation"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # main on top
    axes.set_xlabel("accuracy (%), 95% interval")


def draw_failures(shares: Sequence[Row], path: Path) -> None:
    """Draw the main run's four-way shares by cycle (above) and after the last cycle by task (below)."""
    known = [row for row in shares if row[FOUR[0]] is not None]
    names = list(dict.fromkeys(row["benchmark"] for row in known))
    if not names:
        return save("No question of these benchmarks has known evidence.", path)
    last = max(row["cycle"] for row in known)
    final = [row for row in known if row["cycle"] == last and row["task"]]
    tasks = {name: [row for row in final if row["benchmark"] == name] for name in names}
    most = max(map(len, tasks.values()))
    made = figure(1.0 + 6.2 * len(names), 2.8 + 0.42 * (last + 1 + most))
    grid = made.subplots(2, len(names), squeeze=False, height_ratios=[last + 1.6, most + 0.6], sharex=True)
    for column, name in enumerate(names):
        cycles = [row for row in known if row["benchmark"] == name and not row["task"]]
        _stack(grid[0, column], cycles, [f"cycle {row['cycle']}" for row in cycles])
        grid[0, column].set_title(f"{name}: by cycle, n = {cycles[0]['n']}")
        ordered = sorted(tasks[name], key=lambda row: (-row["n"], row["task"]))
        _stack(grid[1, column], ordered, [f"{row['task']} (n = {row['n']})" for row in ordered])
        grid[1, column].set_title(f"{name}: by task, after cycle {last}")
        grid[1, column].set_xlabel("share of questions (%)")
    legend(made, grid[0, :1], min(len(FOUR), 2 * len(names)))
    save(made, path)


def _stack(axes: "Axes", rows: Sequence[Row], labels: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        left = 0.0
        for share in FOUR:
            width, (colour, hatch) = 100 * row[share], FACES[share]
            how: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8}
            axes.barh(place, width, 0.72, left, label=NAMES[share] if place == 0 else None, **how)
            if width >= 6:
                text = axes.text(left + width / 2, place, f"{width:.0f}", ha="center", va="center", fontsize=9)
                text.set_bbox({"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.2})
            left += width
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(visible=False)


def draw_saturation(comparison: Comparison, path: Path) -> None:
    """Draw the gain of every cycle with its interval: of the main run and, where one ran longer, of the longest."""
    finals = last_rows(comparison, comparison.benchmarks[0])
    longest = max(finals, key=lambda row: row["cycle"])  # the first of equals: main
    runs = list(dict.fromkeys([MAIN, longest["ablation"]]))
    if not longest["cycle"]:
        return save("No cycle was run.", path)
    made = figure(1.4 + 6.2 * len(runs), 4.6)
    grid = made.subplots(1, len(runs), squeeze=False, sharey=True)
    ends = [_gains(axes, comparison, run) for axes, run in zip(grid[0], runs, strict=True)]
    grid[0, 0].set_ylabel("gain over the cycle before (points)")
    for axes, labels in zip(grid[0], ends, strict=True):
        label_ends(axes, labels)
    save(made, path)


def _gains(axes: "Axes", comparison: Comparison, run: str) -> list[tuple[float, float, str, str]]:
    """Draw a run's gains, a line a benchmark; return the ends of the lines with labels."""
    axes.axhline(0, color=INK, linewidth=1.2)
    ends, count, last = [], len(comparison.benchmarks), 1
    for place, name in enumerate(comparison.benchmarks):
        colour, marker = LINES[place % len(LINES)]
        found = [(row["cycle"], made) for row in learned_rows(comparison, name, run) if (made := gain(row))]
        shift = 0.12 * (place - (count - 1) / 2)  # so that intervals of two benchmarks stay apart
        places = [cycle + shift for cycle, _ in found]
        axes.plot(places, [100 * made.value for _, made in found], color=colour, linewidth=1.2, zorder=3)
        for x, (cycle, made) in zip(places, found, strict=True):
            axes.vlines(x, 100 * made.low, 100 * made.high, color=colour, linewidth=2)
            dot: dict[str, Any] = {"markersize": 8, "markerfacecolor": "white" if stops(made) else colour}
            axes.plot([x], [100 * made.value], color=colour, marker=marker, zorder=4, **dot)
            last = max(last, cycle)
        if found:
            end = 100 * found[-1][1].value
            ends.append((places[-1], end, f"{name} {end:+.1f}", colour))
    axes.set_title("main run" if run == MAIN else f"ablation {run}")
    axes.set_xlabel("cycle (hollow: the stopping rule says stop)")
    axes.set_xticks(range(1, last + 1))
    axes.set_xlim(0.6, last + 0.4)
    axes.grid(axis="x", color=FAINT)
    return ends
