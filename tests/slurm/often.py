"""Snakemake's command line, with the executor for SLURM looking at its jobs every two seconds.

By itself it looks 10 s later each time that no job has ended, up to 180 s, and nothing but the first interval can be
set: more than half of a run with jobs of 10 s would be waiting.
"""

import sys
from typing import Any

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

INTERVAL_S = 2


def _keep(_: Any, __: int) -> None:
    """Leave the interval as it is."""


if __name__ == "__main__":
    Executor.next_seconds_between_status_checks = property(lambda _: INTERVAL_S, _keep)
    main(sys.argv[1:])
