"""The comparison of selectors in print: rows for programs and tables to read, the same numbers as in eval.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viarl.evaluate.headlines import UNKNOWN
from viarl.report.ablations import by_cycle, failures, grid
from viarl.report.figures import Summary, benchmarks, failure_shares
from viarl.report.style import LUCK, in_order, look
from viarl.report.tables import Table, bounds, write_csv, write_markdown, write_page

COLUMNS = (
    "benchmark",
    "cycle",
    "selector",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "evidence_recall",
    "valid_rate",
    "n_failed",
    "learned_minus",
    "learned_minus_low",
    "learned_minus_high",
)
LEGEND = (
    "Accuracy in percent with its 95% interval (bootstrap clustered by video); every selector with the answerer of the "
    "cycle, but for *learned, base answerer*. After the last one: *learned minus it* (paired difference, points), "
    "*evidence recall* and *valid* (in %). " + LUCK
)


def rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return one row a benchmark, cycle and selector (COLUMNS); shares in 0..1, None where a value is unknown."""
    found = []
    for summary in summaries:
        for name, benchmark in summary["benchmarks"].items():
            for selector in in_order(benchmark["selectors"]):
                entry = benchmark["selectors"][selector]
                paired = benchmark["paired"].get(f"learned-{selector}", {})
                row = {"benchmark": name, "cycle": summary["cycle"], "selector": selector, "n": benchmark["n"]}
                row |= {key: entry.get(key) for key in ("evidence_recall", "valid_rate", "n_failed")}
                for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high")):
                    row |= {f"accuracy{suffix}": entry["accuracy"][end], f"learned_minus{suffix}": paired.get(end)}
                found.append(row)
    return found


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """Return of each benchmark: every selector by cycle, the 2x2 of selector and answerer, where the learned one fails.

    Where a benchmark has headlines, two more: these, and accuracy by group, after the last cycle.
    """
    cycles = [summary["cycle"] for summary in summaries]
    found, shares = rows(summaries), failure_shares(summaries)
    made: list[Table] = []
    for name in benchmarks(summaries):
        last = summaries[-1]["benchmarks"][name]
        own = {(row["cycle"], row["selector"]): row for row in found if row["benchmark"] == name}
        notes = [
            f"Learned selector, {key.replace('-', ' minus ')}: {bounds(**gain, sign='+')} points."
            for key, gain in last["paired"].items()
            if key.startswith("cycle")
        ]
        made += [by_cycle(f"{name} (n = {last['n']})", own, cycles, notes), grid(name, own), *failures(name, shares)]
        made += [table for table in (_headlines(name, last), _groups(name, last)) if table.cells]
    return made


def _headlines(name: str, benchmark: dict[str, Any]) -> Table:
    """Return the figures that a benchmark is known by: every selector, and the learned one's lead."""
    header, cells = ["selector"], [[look(selector).name] for selector in in_order(benchmark["selectors"])]
    for title, headline in benchmark.get("headlines", {}).items():
        kind = "mean over questions" if headline["mean_over"] == "questions" else f"mean over {headline['mean_over']}"
        header += [f"{title} ({kind}, n = {headline['n']})", "learned minus it"]
        for row, selector in zip(cells, in_order(benchmark["selectors"]), strict=True):
            own, lead = headline["selectors"].get(selector), headline["paired"].get(f"learned-{selector}")
            row += [bounds(**own) if own else "", bounds(**lead, sign="+") if lead else ""]
    return Table(f"{name}, headlines", header, cells if len(header) > 1 else [], [])


def _groups(name: str, benchmark: dict[str, Any]) -> Table:
    """Return accuracy by group and task, of the learned selector and of uniform frames."""
    shown = [selector for selector in ("uniform", "learned") if selector in benchmark["selectors"]]
    entries = [benchmark["selectors"][selector] for selector in shown]
    entries = [{**entry.get("by_group", {}), "task": entry["by_task"]} for entry in entries]
    kinds = entries[0] if entries else {}
    if kinds.get("task", {}).keys() == {UNKNOWN}:
        del kinds["task"]
    cells = [
        [f"{kind}: {group}", str(figures["n"]), *(bounds(**entry[kind][group]["accuracy"]) for entry in entries)]
        for kind, groups in kinds.items()
        for group, figures in groups.items()
    ]
    wanted = benchmark.get("headlines")  # benchmarks without have their picture by task
    return Table(f"{name}, by group", ["group", "n", *(look(one).name for one in shown)], cells if wanted else [], [])


def write(summaries: Sequence[Summary], folder: Path) -> None:
    """Write comparison.csv, .md and .html."""
    printed = tables(summaries)
    write_csv(folder / "comparison.csv", COLUMNS, rows(summaries))
    write_markdown(folder / "comparison.md", printed, LEGEND)
    write_page(folder / "comparison.html", "Comparison", printed, LEGEND)
