"""Accuracy pictures, drawn from the eval.json of every cycle: by cycle, side by side, by task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viarl.evaluate.compare import FOUR, training_free
from viarl.files import read_json
from viarl.report.style import FAINT, figure, in_order, label_ends, legend, look, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary = dict[str, Any]
SCHEMA_VERSION = 1
_BANDS = ("learned", "uniform")  # more bands in one picture would hide each other; the lower row has all intervals


def read_summaries(paths: Sequence[Path]) -> list[Summary]:
    """Read eval.json files, by cycle; ValueError names a file of another schema or a cycle that comes twice."""
    summaries: dict[int, Summary] = {}
    for path in paths:
        summary = read_json(path)
        if (found := summary.get("schema_version")) != SCHEMA_VERSION:
            raise ValueError(f"{path}: schema_version {found!r}, not {SCHEMA_VERSION}; make it again with its rule")
        if summary["cycle"] in summaries:
            raise ValueError(f"{path}: a summary of cycle {summary['cycle']} was given before; give each cycle once")
        summaries[summary["cycle"]] = summary
    return [summaries[cycle] for cycle in sorted(summaries)]


def benchmarks(summaries: Sequence[Summary]) -> list[str]:
    """Return the benchmarks of the last cycle."""
    return list(summaries[-1]["benchmarks"])


def failure_shares(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return the learned selector's four-way shares (0..1, None unknown) by benchmark, cycle and task, "" for all."""
    rows = []
    for name in benchmarks(summaries):
        for summary in (summary for summary in summaries if name in summary["benchmarks"]):
            learned = summary["benchmarks"][name]["selectors"]["learned"]
            for task, entry in {"": learned, **learned["by_task"]}.items():
                n = (entry["evidence_interval"] or {"n": 0})["n"]
                row = {"benchmark": name, "cycle": summary["cycle"], "task": task, "n": n}
                rows.append(row | (entry["four_way"] or dict.fromkeys(FOUR)))
    return rows


def draw_accuracy(summaries: Sequence[Summary], path: Path) -> None:
    """Draw accuracy by cycle (above) and at the last cycle with intervals (below), a column a benchmark."""
    names = benchmarks(summaries)
    selectors = in_order(s for name in names for s in summaries[-1]["benchmarks"][name]["selectors"])
    made = figure(6.4 * len(names), 5.0 + 0.3 * len(selectors))
    grid = made.subplots(2, len(names), squeeze=False, height_ratios=[4.4, 0.3 * len(selectors) + 0.4], sharey="row")
    for axes in grid[1, 1:]:
        axes.sharex(grid[1, 0])
    last = summaries[-1]
    ranked = sorted(selectors, key=lambda selector: _mean_accuracy(last, selector))
    for column, name in enumerate(names):
        _by_cycle(grid[0, column], summaries, name)
        entry = last["benchmarks"][name]
        _side_by_side(grid[1, column], entry["selectors"], ranked)
        grid[1, column].set_title(f"{name}: after cycle {last['cycle']}, n = {entry['n']} (95% interval)")
    for column, name in enumerate(names):
        _label_lines(grid[0, column], summaries, name)
    save(made, path)


def _by_cycle(axes: "Axes", summaries: Sequence[Summary], name: str) -> None:
    for selector in reversed(in_order(summaries[-1]["benchmarks"][name]["selectors"])):
        style, points = look(selector), _points(summaries, name, selector)
        cycles = [cycle for cycle, _ in points]
        lows, values, highs = ([100 * accuracy[end] for _, accuracy in points] for end in ("low", "value", "high"))
        width, size, order = (3, 7, 5) if selector == "learned" else (1.3, 5, 3)
        how: dict[str, Any] = {"linestyle": style.line, "linewidth": width, "markersize": size, "zorder": order}
        axes.plot(cycles, values, color=style.colour, marker=style.marker, **how)
        if selector in _BANDS:
            axes.fill_between(cycles, lows, highs, color=style.colour, alpha=0.13, linewidth=0)
            axes.vlines(cycles, lows, highs, color=style.colour, linewidth=1, alpha=0.7)
    axes.set_title(f"{name}: accuracy by cycle (bands: 95% interval)")
    axes.set_xlabel("cycle (0 = before reinforcement)")
    axes.set_ylabel("accuracy (%)")
    axes.set_xticks([summary["cycle"] for summary in summaries])
    axes.margins(x=0.06, y=0.06)


def _label_lines(axes: "Axes", summaries: Sequence[Summary], name: str) -> None:
    ends = []
    for selector in in_order(summaries[-1]["benchmarks"][name]["selectors"]):
        cycle, accuracy = _points(summaries, name, selector)[-1]
        value = 100 * accuracy["value"]
        ends.append((float(cycle), value, f"{look(selector).name} {value:.1f}", look(selector).colour))
    label_ends(axes, ends)


def _points(summaries: Sequence[Summary], name: str, selector: str) -> list[tuple[int, dict[str, float]]]:
    """Return (cycle, accuracy) where the selector was evaluated on the benchmark."""
    return [
        (summary["cycle"], entries[selector]["accuracy"])
        for summary in summaries
        if name in summary["benchmarks"] and selector in (entries := summary["benchmarks"][name]["selectors"])
    ]


def _mean_accuracy(summary: Summary, selector: str) -> float:
    """Return a selector's accuracy, averaged over the benchmarks that it was evaluated on."""
    entries = [benchmark["selectors"].get(selector) for benchmark in summary["benchmarks"].values()]
    values = [entry["accuracy"]["value"] for entry in entries if entry]
    return float(sum(values) / len(values))


def _side_by_side(axes: "Axes", entries: dict[str, Any], ranked: Sequence[str]) -> None:
    for row, selector in enumerate(ranked):
        if selector not in entries:
            continue
        accuracy, style = entries[selector]["accuracy"], look(selector)
        low, value, high = (100 * accuracy[key] for key in ("low", "value", "high"))
        axes.plot([low, high], [row, row], color=style.colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([value], [row], color=style.colour, marker=style.marker, markersize=7)
        text = f"{value:.1f}  [{low:.1f}, {high:.1f}]"
        axes.annotate(text, (1.03, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(ranked)), [look(selector).name for selector in ranked])
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.set_xlabel("accuracy (%)")


def draw_tasks(summaries: Sequence[Summary], path: Path) -> None:
    """Draw accuracy by task after the last cycle: uniform, best training-free, base, learned and oracle selectors."""
    last, names = summaries[-1], benchmarks(summaries)
    shown = {name: _shown(last, name) for name in names}
    rows = max(len(tasks) for tasks, _ in shown.values())
    made = figure(6.4 * len(names), 1.5 + 0.85 * rows)
    grid = made.subplots(1, len(names), squeeze=False)
    for column, name in enumerate(names):
        _by_task(grid[0, column], last["benchmarks"][name]["selectors"], *shown[name])
        grid[0, column].set_title(f"{name}: by task, after cycle {last['cycle']}")
    legend(made, grid[0])
    save(made, path)


def _by_task(axes: "Axes", entries: dict[str, Any], tasks: Sequence[str], selectors: Sequence[str]) -> None:
    for position, task in enumerate(reversed(tasks)):
        for rank, selector in enumerate(selectors):
            accuracy, style = entries[selector]["by_task"][task]["accuracy"], look(selector)
            low, value, high = (100 * accuracy[key] for key in ("low", "value", "high"))
            height = position + 0.32 - 0.64 * rank / max(len(selectors) - 1, 1)
            axes.plot([low, high], [height, height], color=style.colour, linewidth=2, alpha=0.6, clip_on=False)
            dot: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": "none", "clip_on": False}
            axes.plot([value], [height], label=style.name if position == 0 else None, **dot)
        if position:
            axes.axhline(position - 0.5, color=FAINT, linewidth=0.8)
    counts = {task: entries[selectors[0]]["by_task"][task]["n"] for task in tasks}
    axes.set_yticks(range(len(tasks)), [f"{task}\n(n = {counts[task]})" for task in reversed(tasks)])
    axes.set_ylim(-0.5, len(tasks) - 0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%), 95% interval")


def _shown(summary: Summary, name: str) -> tuple[list[str], list[str]]:
    """Return the tasks of a benchmark, the largest first, and the selectors that are shown."""
    entries = summary["benchmarks"][name]["selectors"]
    free = max(training_free(entries), key=lambda name: entries[name]["accuracy"]["value"], default="")
    wanted = ["uniform", free, "base", "learned", "oracle"]
    selectors = [selector for selector in wanted if selector in entries] or in_order(entries)[:5]
    by_task = entries[selectors[0]]["by_task"]
    return sorted(by_task, key=lambda task: (-by_task[task]["n"], task)), selectors
