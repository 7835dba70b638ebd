"""Validation of the configuration, before any job."""

from typing import Any


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration."""
    return config
