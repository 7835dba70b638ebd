"""How what is wrong with an input is told: a short line for each finding, all of a file at once, a bounded number."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LISTED = 50  # findings that are printed; the rest is counted
SHOWN = 120  # characters of a value that are printed


def shown(value: Any, limit: int = SHOWN) -> str:
    """Return a value as one line of at most about `limit` characters, control characters escaped."""
    if isinstance(value, str):
        text, more = repr(value[:limit]), len(value) - limit
    else:
        text = repr(value)
        text, more = text[:limit], len(text) - limit
    return text if more <= 0 else f"{text}… ({more} characters more)"


def listed(faults: Sequence[str], limit: int = LISTED) -> str:
    """Return the findings a line each: the first `limit`, and how many more there are."""
    more = [f"… and {len(faults) - limit} more"] if len(faults) > limit else []
    return "\n".join([*faults[:limit], *more])


def left_out(reasons: Mapping[str, str], total: int) -> str:
    """Return the list of questions that are left out of a training: how many of `total`, and which, with reasons."""
    counts = Counter(reason.partition(":")[0] for reason in reasons.values())
    why = ", ".join(f"{reason}: {count}" for reason, count in counts.items())
    named = listed([f"  {name}: {reason}" for name, reason in reasons.items()])
    return f"{len(reasons)} of {total} training questions are left out ({why})\n{named}"
