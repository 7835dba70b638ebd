"""Tables as CSV for programs, Markdown to paste and an HTML page to read."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from viarl.files import write_text

STYLE = (
    "body{font:15px sans-serif;color:#333;margin:24px}table{border-collapse:collapse}h2{font-size:18px}"
    "th,td{padding:5px 9px;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}td{white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}p{max-width:60em}"
    "th.prose,td.prose{text-align:left;white-space:normal;min-width:14em}"
)


@dataclass(frozen=True)
class Table:
    """A table in print: `cells` are rows of texts, the name first; `notes` are lines below it.

    `prose`: headers of columns whose texts are sentences.
    """

    title: str
    header: list[str]
    cells: list[list[str]]
    notes: list[str]
    prose: tuple[str, ...] = ()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV; a value that is unknown (None) is an empty field, several values stand with spaces between."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_markdown(path: Path, tables: Iterable[Table], legend: str) -> None:
    """Write tables as Markdown."""
    lines = []
    for table in tables:
        rule = ["---", *("---" if name in table.prose else "---:" for name in table.header[1:])]
        lines += [f"### {table.title}", "", *map(_line, [table.header, rule, *table.cells]), ""]
        lines += [*(f"- {note}" for note in table.notes), ""]
    write_text(path, "\n".join([*lines, legend]) + "\n")


def write_page(path: Path, title: str, tables: Iterable[Table], legend: str) -> None:
    """Write tables as one HTML page without outside references."""
    body = []
    for table in tables:
        body.append(f"<h2>{escape(table.title)}</h2><table><tr>{_cells('th', table.header, table)}</tr>")
        body += [f"<tr>{_cells('td', cells, table)}</tr>" for cells in table.cells]
        body.append("</table>" + "".join(f"<p>{escape(note)}</p>" for note in table.notes))
    head = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    write_text(path, f"{head}{''.join(body)}<p>{escape(legend.replace('*', ''))}</p>\n")


def bounds(value: float, low: float, high: float, sign: str = "") -> str:
    """Return a share and the ends of its interval as percent."""
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def interval(row: Mapping[str, Any] | None, key: str, sign: str = "") -> str:
    """Return a row's share of this name with its interval (`_low`, `_high`) as percent, "" where unknown."""
    if row is None or row.get(key) is None:
        return ""
    return bounds(row[key], row[f"{key}_low"], row[f"{key}_high"], sign)


def percent(value: float | None) -> str:
    """Return a share as whole percent, "" where unknown."""
    return "" if value is None else f"{100 * value:.0f}"


def _field(value: Any) -> Any:
    if isinstance(value, tuple):
        return " ".join(str(_field(part)) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else value


def _cells(tag: str, texts: Sequence[str], table: Table) -> str:
    classes = [" class=prose" if name in table.prose else "" for name in table.header]
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(classes, texts, strict=True))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
