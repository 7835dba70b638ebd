"""How what is wrong is told: a short line for each finding about an input, all of a file at once, a bounded number."""

from collections.abc import Sequence
from typing import Any

LISTED = 50  # findings that are printed; the rest is counted
SHOWN = 120  # characters of a value that are printed


class Outage(OSError):
    """A service that a stage depends on is away or fails; what was done so far is sound, and worth saving."""


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
