"""The comparison table, as CSV for programs, Markdown to paste and a page to read: the same numbers as in eval.json."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from viarl.files import write_text
from viarl.report.figures import Summary, benchmarks
from viarl.report.style import in_order, look

COLUMNS = (
    "benchmark", "cycle", "selector", "n", "accuracy", "accuracy_low", "accuracy_high", "evidence_recall",
    "valid_rate", "n_failed", "learned_minus", "learned_minus_low", "learned_minus_high",
)  # fmt: skip
LEGEND = (
    "Accuracy in percent with its 95% interval (bootstrap clustered by video); every selector with the answerer of the "
    "cycle. After the last one: *learned minus it* (paired difference, points), *evidence recall* and *valid* (in %)."
)
STYLE = (
    "body{font:15px sans-serif;color:#333;margin:24px}table{border-collapse:collapse}h2{font-size:18px}"
    "th,td{padding:5px 12px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}p{max-width:60em}"
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
                row |= {"accuracy": entry["accuracy"]["value"]}
                row |= {f"accuracy_{end}": entry["accuracy"][end] for end in ("low", "high")}
                row |= {key: entry.get(key) for key in ("evidence_recall", "valid_rate", "n_failed")}
                row |= {"learned_minus": paired.get("value")}
                row |= {f"learned_minus_{end}": paired.get(end) for end in ("low", "high")}
                found.append(row)
    return found


def write_csv(summaries: Sequence[Summary], path: Path) -> None:
    """Write the rows as CSV; a value that is unknown is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows(summaries)
    )
    write_text(path, text.getvalue())


@dataclass(frozen=True)
class Table:
    """A benchmark's table in print: `cells` are rows of texts, the selector first; `notes` are lines below it."""

    title: str
    header: list[str]
    cells: list[list[str]]
    notes: list[str]


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """Return a table a benchmark: accuracy of every selector by cycle, and the learned selector's lead at the end."""
    cycles = [summary["cycle"] for summary in summaries]
    found = {(row["benchmark"], row["cycle"], row["selector"]): row for row in rows(summaries)}
    made = []
    for name in benchmarks(summaries):
        last = summaries[-1]["benchmarks"][name]
        header = ["selector", *(f"cycle {cycle}" for cycle in cycles), "learned minus it", "evidence recall", "valid"]
        cells = []
        for selector in in_order(last["selectors"]):
            final = found[name, cycles[-1], selector]
            accuracies = [_interval(found.get((name, cycle, selector)), "accuracy") for cycle in cycles]
            shares = [_percent(final["evidence_recall"]), _percent(final["valid_rate"])]
            cells.append([look(selector).name, *accuracies, _interval(final, "learned_minus", "+"), *shares])
        gains = {key: gain for key, gain in last["paired"].items() if key.startswith("cycle")}
        notes = [f"Learned selector, {key.replace('-', ' minus ')}: {_gain(gains[key])} points." for key in gains]
        made.append(Table(f"{name} (n = {last['n']})", header, cells, notes))
    return made


def write_markdown(summaries: Sequence[Summary], path: Path) -> None:
    """Write the tables as Markdown."""
    lines = []
    for table in tables(summaries):
        rule = ["---", *["---:"] * (len(table.header) - 1)]
        lines += [
            f"### {table.title}",
            "",
            *map(_line, [table.header, rule, *table.cells]),
            "",
            *(f"- {note}" for note in table.notes),
            "",
        ]
    write_text(path, "\n".join([*lines, LEGEND]) + "\n")


def write_page(summaries: Sequence[Summary], path: Path) -> None:
    """Write the tables as one HTML page without outside references."""
    body = []
    for table in tables(summaries):
        body.append(f"<h2>{escape(table.title)}</h2><table><tr>{_cells('th', table.header)}</tr>")
        body += [f"<tr>{_cells('td', cells)}</tr>" for cells in table.cells]
        body.append("</table>" + "".join(f"<p>{escape(note)}</p>" for note in table.notes))
    page = f"<!doctype html><meta charset=utf-8><title>Comparison</title><style>{STYLE}</style>{''.join(body)}"
    write_text(path, f"{page}<p>{LEGEND.replace('*', '')}</p>\n")


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _interval(row: dict[str, Any] | None, key: str, sign: str = "") -> str:
    if row is None or row[key] is None:
        return ""
    value, low, high = (100 * row[part] for part in (key, f"{key}_low", f"{key}_high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _gain(interval: dict[str, float]) -> str:
    value, low, high = (100 * interval[part] for part in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"
