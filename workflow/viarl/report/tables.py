"""Tables as CSV for programs, Markdown to paste and an HTML page to read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas

from viarl.files import write_text

STYLE = (
    "body{font:15px sans-serif;color:#333;margin:24px}table{border-collapse:collapse}h2{font-size:18px}"
    "th,td{padding:5px 9px;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
    "td{white-space:nowrap}td+td:not([style]){white-space:normal;min-width:14em}p{max-width:60em}"
)


@dataclass(frozen=True)
class Table:
    """A table in print: `cells` are rows of texts, the name first; `notes` are lines below it."""

    title: str
    header: list[str]
    cells: list[list[str]]
    notes: list[str]
    prose: tuple[str, ...] = ()  # headers of columns whose texts are sentences


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV; a value that is unknown (None) is an empty field, several values stand with spaces between."""
    frame = pandas.DataFrame([[_field(row[name]) for name in columns] for row in rows], columns=columns, dtype=object)
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def write_markdown(path: Path, tables: Iterable[Table], legend: str) -> None:
    """Write tables as Markdown."""
    parts = []
    for table in tables:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in table.cells]
        parts += [f"### {table.title}", _print(table, cells, "pipe"), "\n".join(f"- {note}" for note in table.notes)]
    write_text(path, "\n\n".join([*filter(None, parts), legend]) + "\n")


def write_page(path: Path, title: str, tables: Iterable[Table], legend: str) -> None:
    """Write tables as one HTML page without outside references."""
    body = [f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"]
    for table in tables:
        body += [f"<h2>{escape(table.title)}</h2>", _print(table, table.cells, "html")]
        body += [f"<p>{escape(note)}</p>" for note in table.notes]
    write_text(path, "\n".join([*body, f"<p>{escape(legend.replace('*', ''))}</p>\n"]))


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


def _print(table: Table, cells: list[list[str]], form: str) -> str:
    """Return cells below the table's header; all columns but the first and those of prose are aligned to the right."""
    sides = ["left", *("left" if name in table.prose else "right" for name in table.header[1:])]
    frame = pandas.DataFrame(cells, columns=table.header)
    return str(frame.to_markdown(index=False, tablefmt=form, colalign=sides, disable_numparse=True))
