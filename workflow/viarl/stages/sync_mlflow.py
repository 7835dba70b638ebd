"""Push every tracking record that MLflow lacks: after a server was away, or after short stages left it to the end."""

import sys
from dataclasses import dataclass

from viarl import mlflow_push, tracking
from viarl.stages.command import run


@dataclass(frozen=True)
class Settings:
    """Settings of the stage: `tracking` alone, of which `root`, `uri` and `experiment` count."""

    tracking: tracking.Tracking


def main(settings: Settings) -> None:
    """Push all records below the results root; ValueError when MLflow cannot be reached (nothing is lost then)."""
    records = tracking.records(settings.tracking.root)
    try:
        pushed = mlflow_push.push(settings.tracking, records)
    except Exception as error:  # whatever MLflow, SQLAlchemy or urllib3 raise
        raise ValueError(
            f"MLflow at {settings.tracking.destination} took no records ({error}); they are kept in "
            f"{settings.tracking.root / 'tracking'}. Start the server or change `tracking.uri`, then sync again."
        ) from error
    print(f"{pushed} of {len(records)} records had news for {settings.tracking.destination}", file=sys.stderr)


if __name__ == "__main__":
    run(Settings, main)
