"""Judge whether another cycle pays (`cycles: auto`): stop where the interval of the last gain includes zero."""

from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.evaluate.compare import stops, verdict
from viarl.evaluate.statistics import Interval
from viarl.files import read_json, write_json
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run


@dataclass(frozen=True)
class Settings:
    """A cycle's eval.json -> verdict.json: the gain over the cycle before on one benchmark, and whether to stop."""

    summary: Path
    output: Path
    cycle: int
    benchmark: str
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Write the verdict; ValueError where the summary does not hold the gain."""
    with start_run(settings.tracking, {"benchmark": settings.benchmark}) as run_:
        pair = f"cycle{settings.cycle}-cycle{settings.cycle - 1}"
        try:
            gain = Interval(**read_json(settings.summary)["benchmarks"][settings.benchmark]["paired"][pair])
        except KeyError as error:
            where = f"{settings.benchmark} {pair}"
            raise ValueError(f"{settings.summary} lacks {error} of {where}; make it again") from error
        words = verdict(gain)
        known = {"benchmark": settings.benchmark, "pair": pair, "gain": gain.record(), "verdict": words}
        write_json(settings.output, known | {"stop": stops(gain)})
        run_.log_metrics({"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high})
    print(f"{settings.benchmark} {pair}: {100 * gain.value:+.1f} points; {words}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
