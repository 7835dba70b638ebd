"""Tables of rows with given outcomes, as the stage evaluate writes them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from viarl.evaluate.rows import write_rows

Outcome = tuple[str, str, int, bool, float]  # item, selector, draw, correct, evidence recall


def write_table(
    path: Path,
    outcomes: Iterable[Outcome],
    videos: Mapping[str, str],
    *,
    benchmark: str = "needle",
    cycle: int = 0,
    tasks: Mapping[str, str] | None = None,
    indices: Sequence[int] = (1, 2),
    change: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
) -> Path:
    """Write a table; `videos` and `tasks` by item, `change` has other values of rows by (item, selector)."""
    rows = []
    for item, selector, draw, correct, recall in outcomes:
        row = {"benchmark": benchmark, "cycle": cycle, "item": item, "video": videos[item], "selector": selector}
        row |= {"task": (tasks or {}).get(item, "none"), "question": f"What is shown in {item}?", "draw": draw}
        row |= {"groups": [], "protocol": "own"}
        row |= {"indices": list(indices), "valid": True, "reason": "", "text": "", "reply": "", "failed": ""}
        row |= {"letter": "A" if correct else "B", "answer": "A", "correct": correct, "evidence_recall": recall}
        rows.append(row | dict((change or {}).get((item, selector), {})))
    write_rows(path, rows)
    return path
