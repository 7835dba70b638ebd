"""How what is wrong is told: a short line for each finding about an input, all of a file at once, a bounded number."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" with the nearest of the known words, or the list of them where none is near."""
    known = sorted(str(entry) for entry in known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def by_reason(reasons: Mapping[str, str]) -> Counter[str]:
    """Return how often each reason is given, without what stands behind its colon."""
    return Counter(reason.partition(":")[0] for reason in reasons.values())


def left_out(reasons: Mapping[str, str], total: int) -> str:
    """Return the list of questions that are left out of a training: how many of `total`, and which, with reasons."""
    why = ", ".join(f"{reason}: {count}" for reason, count in by_reason(reasons).items())
    named = listed([f"  {name}: {reason}" for name, reason in reasons.items()])
    return f"{len(reasons)} of {total} training questions are left out ({why})\n{named}"
