"""The start of a tracked run: its record, with MLflow as the mirror."""

from collections.abc import Mapping
from typing import Any

from viarl.tracking.record import Files, Run, Tracking


def start_run(
    settings: Tracking, params: Mapping[str, Any] | None = None, data: Mapping[str, Files] | None = None
) -> Run:
    """Return the run of a stage for `with`; `params` may be nested, hashes of the `data` files become parameters."""
    return Run(settings, params or {}, data or {}, _mirror)


def _mirror(settings: Tracking, others: bool) -> None:
    """Push the stage's record, and with `others` the finished ones that wait. Raises whatever MLflow raises."""
    from viarl.tracking.mlflow import push, waiting  # it imports much that a stage of seconds does not need

    assert settings.record is not None
    push(settings, [settings.record, *(waiting(settings) if others else ())])
