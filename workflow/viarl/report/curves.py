"""Pictures of the work itself, drawn from the tracking records: rewards over steps, seconds by stage and phase."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viarl.report.style import BLACK, BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, figure, save
from viarl.tracking.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REWARD = "reward/"  # prefix of the metrics that hold the parts of the reward, and their total
# (metric of train_selector, title, unit) of what is drawn besides the parts of the reward
TOTAL = (f"{REWARD}total", "total reward", "reward, mean")
_SHARE = "share of completions"
PANELS = (
    ("valid_rate", "valid selections", _SHARE),
    ("answer_accuracy", "answerer is right", _SHARE),
    ("evidence_recall", "evidence hit", "share of evidence"),
    ("kl", "KL to the reference", "nats a token"),
    ("entropy", "entropy", "nats a token"),
    ("clip_fraction", "clipped ratios", "share of tokens"),
    ("completion_tokens", "completion length", "tokens"),
)
PHASE = "seconds/"  # prefix of the metrics that hold the seconds of a step's phases
_CYCLES = (SKY, BLUE, PURPLE, VERMILION, ORANGE, GREEN, BLACK)


def by_cycle(records: Sequence[Record], stage: str) -> list[Record]:
    """Return a stage's records by cycle."""
    own = [record for record in records if record.header["stage"] == stage and record.header["cycle"] is not None]
    return sorted(own, key=lambda record: int(record.header["cycle"]))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return centred moving means of (n,) values; the window narrows at both ends, and nan values are left out."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])


def panels(cycles: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Return metric, title and unit of the panels that trainings fill; each part of the reward has one."""
    parts = sorted({key for record in cycles for key in record.metrics if key.startswith(REWARD)} - {TOTAL[0]})
    known = [TOTAL, *((key, f"{key.removeprefix(REWARD)} part", TOTAL[2]) for key in parts), *PANELS]
    return [panel for panel in known if any(record.series(panel[0]) for record in cycles)]


def draw_rewards(records: Sequence[Record], path: Path) -> None:
    """Draw each reward part, KL, entropy, clip fraction, valid rate and length over the steps of all cycles."""
    cycles = by_cycle(records, "train_selector")
    drawn = panels(cycles)
    if not drawn:
        return save("No selector was trained: there are no reward curves.", path)
    across = min(4, len(drawn))
    down = -(-len(drawn) // across)
    made = figure(3.3 * across, 2.4 * down + 0.5)
    every = list(made.subplots(down, across, squeeze=False).flat)
    for axes, panel in zip(every, drawn, strict=False):
        _curve(axes, cycles, *panel)
    for axes in every[len(drawn) - across : len(drawn)]:
        axes.set_xlabel("optimiser step, all cycles")
    for axes in every[len(drawn) :]:
        axes.set_axis_off()
    made.suptitle("Selector training (thin: each step; bold: moving mean)", x=0.01, ha="left", fontweight="bold")
    save(made, path)


def _curve(axes: "Axes", cycles: Sequence[Record], key: str, title: str, unit: str) -> None:
    before = 0
    for rank, record in enumerate(cycles):
        if not (series := record.series(key)):
            continue
        steps = np.array([step for step, _ in series]) + before
        values = np.array([value for _, value in series])
        colour = _CYCLES[(rank + 1) % len(_CYCLES)]
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(steps, smooth(values, max(3, len(values) // 10)), color=colour, linewidth=2)
        if before:
            axes.axvline(before + 0.5, color=INK, linewidth=0.8, linestyle=":")
        where: dict[str, Any] = {"xy": (before + 1, 1.0), "xycoords": ("data", "axes fraction"), "va": "bottom"}
        axes.annotate(f"cycle {record.header['cycle']}", **where, fontsize=8, color=colour)
        before = int(steps[-1])
    axes.set_title(title, pad=14)
    axes.set_ylabel(unit, fontsize=9)


def draw_timing(records: Sequence[Record], path: Path) -> None:
    """Draw the seconds of every stage, by cycle (left), and of the phases of an RL step (right)."""
    finished = [record for record in records if record.status == "FINISHED" and record.header["stage"] != "make_report"]
    if not finished:
        return save("No finished stage was recorded: there are no times.", path)
    phases = [record for record in by_cycle(finished, "train_selector") if _phases(record)]
    made = figure(12.5, max(3.2, 0.36 * len({record.header["stage"] for record in finished}) + 1.6))
    left, right = made.subplots(1, 2, width_ratios=[1.25, 1]) if phases else (made.subplots(), None)
    _stages(left, finished)
    if right is not None:
        _steps(right, phases)
    save(made, path)


def _stages(axes: "Axes", records: Sequence[Record]) -> None:
    first: dict[str, float] = {}
    for record in records:
        stage = record.header["stage"]
        first[stage] = min(first.get(stage, float("inf")), record.header["time"])
    stages = sorted(first, key=lambda stage: -first[stage])
    cycles = sorted({record.header["cycle"] for record in records}, key=lambda cycle: -1 if cycle is None else cycle)
    base = np.zeros(len(stages))
    for cycle in cycles:
        own = [record for record in records if record.header["cycle"] == cycle]
        seconds = [sum(record.seconds for record in own if record.header["stage"] == stage) for stage in stages]
        colour = "#bdbdbd" if cycle is None else _CYCLES[int(cycle) % len(_CYCLES)]
        label = "once" if cycle is None else f"cycle {cycle}"
        axes.barh(stages, seconds, left=base, color=colour, edgecolor="white", linewidth=0.8, label=label)
        base += seconds
    for place, total in enumerate(base):
        axes.annotate(f" {total:,.1f}" if total < 10 else f" {total:,.0f}", (total, place), va="center", fontsize=9)
    axes.set_xlabel("seconds, all jobs of a stage added up")
    axes.set_title(f"Time by stage: {base.sum():,.0f} s in all")
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=9, loc="best")


def _phases(record: Record) -> dict[str, float]:
    """Return {phase: mean seconds a step}."""
    keys = [key for key in record.metrics if key.startswith(PHASE)]
    return {key.removeprefix(PHASE): float(np.mean([value for _, value in record.series(key)])) for key in keys}


def _steps(axes: "Axes", records: Sequence[Record]) -> None:
    names = [f"cycle {record.header['cycle']}" for record in records]
    means = [_phases(record) for record in records]
    wide = 0.08 * max(sum(mean.values()) for mean in means)  # seconds; narrower bars have no room for a number
    base = np.zeros(len(records))
    colours = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY)
    for rank, phase in enumerate(dict.fromkeys(phase for mean in means for phase in mean)):
        seconds = np.array([mean.get(phase, 0.0) for mean in means])
        colour = colours[rank % len(colours)]
        bars = axes.barh(names, seconds, 0.55, base, color=colour, edgecolor="white", label=phase)
        texts = [f"{value:.2f}" if value > wide else "" for value in seconds]
        axes.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        base += seconds
    axes.invert_yaxis()
    axes.set_xlabel("mean seconds a step")
    axes.set_title("Phases of a selector training step")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5)
