"""The start of a tracked run: its record, with MLflow as the mirror.

with start_run(settings.tracking, params={"steps": 60}, data={"items": settings.items}) as run:
    run.log_metrics({"reward/total": 3.1}, step=1)
    run.log_artifact(settings.output)
    run.set_tag("resumed_from", "step 40")
"""

from collections.abc import Mapping
from typing import Any

from viarl.tracking.record import Files, Run, Tracking


def start_run(
    settings: Tracking, params: Mapping[str, Any] | None = None, data: Mapping[str, Files] | None = None
) -> Run:
    """Return the run of a stage, to be used in a `with` statement.

    `params` may be nested; `data` names input files of moderate size, of which the hashes become parameters.
    """
    return Run(settings, params or {}, data or {}, _mirror)


def _mirror(settings: Tracking, others: bool) -> None:
    """Push the stage's record, and with `others` the finished ones that wait. Raises whatever MLflow raises."""
    from viarl.tracking.mlflow import push, waiting  # it imports much that a stage of seconds does not need

    assert settings.record is not None
    push(settings, [settings.record, *(waiting(settings) if others else ())])
