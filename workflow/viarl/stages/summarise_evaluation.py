"""Summarise a cycle's evaluations in eval.json: accuracies with intervals, paired differences."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viarl.command import run
from viarl.evaluate.benchmarks import benchmark
from viarl.evaluate.rows import read_rows
from viarl.evaluate.summary import summarise
from viarl.files import write_json
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run


@dataclass(frozen=True)
class Settings:
    """Rows of this cycle and of those before it, in any order -> eval.json."""

    rows: tuple[Path, ...]
    output: Path
    cycle: int
    benchmarks: tuple[str, ...]
    bootstrap: int
    modules: dict[str, str] = field(default_factory=dict)  # of viarl.evaluate.benchmarks, by benchmark
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Write eval.json and print the accuracies."""
    params = {"bootstrap": settings.bootstrap, "benchmarks": settings.benchmarks}
    with start_run(settings.tracking, params, {"rows": settings.rows}) as run_:
        rows = read_rows(settings.rows)
        headlines = {name: benchmark(module).headlines for name, module in settings.modules.items()}
        summary = summarise(rows, settings.cycle, settings.benchmarks, settings.bootstrap, headlines=headlines)
        write_json(settings.output, summary)
        for name, part in summary["benchmarks"].items():
            for selector, figures in part["selectors"].items():
                _say(f"{name} {selector}", figures["accuracy"], figures["n"])
            for title, headline in part["headlines"].items():
                for selector, figures in headline["selectors"].items():
                    _say(f"{name} {title}, {selector}", figures, headline["n"])
            run_.log_metrics(_metrics(name, part))
        run_.log_artifact(settings.output)


def _say(what: str, mean: dict[str, float], count: int) -> None:
    low, value, high = (100 * mean[end] for end in ("low", "value", "high"))
    print(f"{what}: {value:.1f}% ({low:.1f} to {high:.1f}), n = {count}", flush=True)


def _metrics(benchmark: str, part: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the numbers worth a chart in MLflow."""
    metrics: dict[str, float] = {}
    for selector, figures in part["selectors"].items():
        metrics |= {f"{benchmark}/{selector}/accuracy_{end}": number for end, number in figures["accuracy"].items()}
        for name in ("evidence_recall", "valid_rate", "n_failed"):
            if figures[name] is not None:
                metrics[f"{benchmark}/{selector}/{name}"] = figures[name]
    for pair, interval in part["paired"].items():
        metrics |= {f"{benchmark}/{pair}/{end}": number for end, number in interval.items()}
    for title, headline in part["headlines"].items():
        for name, interval in (headline["selectors"] | headline["paired"]).items():
            metrics |= {f"{benchmark}/{name}/{title}_{end}": number for end, number in interval.items()}
    return metrics


if __name__ == "__main__":
    run(Settings, main)
