"""Nested settings as one flat mapping."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def flatten(value: Any, prefix: str = "", leave_out: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return nested mappings and dataclasses as {"a.b": leaf}; entries of the types `leave_out` are left out.

    Leaves are text, numbers, booleans, None, or lists of text; anything else is turned into text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        leaf = value if isinstance(value, str | int | float | bool | None) else str(value)
        return {prefix: list(map(str, value)) if isinstance(value, list | tuple) else leaf}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if not isinstance(entry, leave_out):
            flat |= flatten(entry, f"{prefix}.{key}" if prefix else str(key), leave_out)
    return flat
