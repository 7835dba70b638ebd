"""Push every tracking record that MLflow lacks: after a server was away, or after short stages left it to the end."""

import sys
from dataclasses import dataclass

from viarl.command import run
from viarl.tracking.mlflow import push
from viarl.tracking.record import Tracking, records


@dataclass(frozen=True)
class Settings:
    """Settings of the stage: `tracking` alone, of which `root`, `uri` and `experiment` count."""

    tracking: Tracking


def main(settings: Settings) -> None:
    """Push all records below the results root; ValueError when MLflow cannot be reached (nothing is lost then)."""
    known = records(settings.tracking.root)
    try:
        pushed = push(settings.tracking, known)
    except Exception as error:  # whatever MLflow, SQLAlchemy or urllib3 raise
        kept = f"they are kept in {settings.tracking.root / 'tracking'}"
        remedy = "Start the server or change `tracking.uri`, then sync again."
        what = f"MLflow at {settings.tracking.destination} took no records ({error}); {kept}. {remedy}"
        raise ValueError(what) from error
    print(f"{pushed} of {len(known)} records had news for {settings.tracking.destination}", file=sys.stderr)


if __name__ == "__main__":
    run(Settings, main)
