"""Compare runs: ablations over their training seeds, selectors, failures and saturation, as tables and pictures."""

import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from viarl.command import run
from viarl.evaluate.compare import COLUMNS, FAILURE_COLUMNS, Comparison, Run, compare, read_groups
from viarl.report.ablation_figures import draw_ablations, draw_failures, draw_saturation
from viarl.report.ablations import LEGEND, last_rows, main_failures, tables
from viarl.report.tables import bounds, write_csv, write_markdown, write_page
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run


@dataclass(frozen=True)
class Settings:
    """Tables of rows in the order of `read_groups` -> comparison.{csv,md,html} and comparison/ with the pictures."""

    rows: tuple[Path, ...]
    folder: Path
    runs: tuple[Run, ...]
    benchmarks: tuple[str, ...]
    bootstrap: int
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Write all tables and pictures, and print the table of ablations."""
    params = {"runs": len(settings.runs), "benchmarks": settings.benchmarks, "bootstrap": settings.bootstrap}
    with start_run(settings.tracking, params, {"rows": settings.rows}) as recorded:
        groups = read_groups(settings.runs, settings.rows, settings.benchmarks)
        comparison = compare(groups, settings.benchmarks, settings.bootstrap)
        for path in write(comparison, settings.folder):
            recorded.log_artifact(path)
        recorded.log_metrics(metrics(comparison))
        for name in settings.benchmarks:
            for row in last_rows(comparison, name):
                accuracy = bounds(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
                print(f"{name} {row['ablation']}: {accuracy} %, n = {row['n']}, {len(row['seeds'])} seeds", flush=True)
    print(f"The comparison is in {settings.folder}", file=sys.stderr)


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write tables and pictures; return their paths."""
    printed = tables(comparison)
    pictures = folder / "comparison"
    write_csv(folder / "comparison.csv", COLUMNS, comparison.rows)
    write_markdown(folder / "comparison.md", printed, LEGEND)
    write_page(folder / "comparison.html", "Comparison of runs", printed, LEGEND)
    write_csv(pictures / "failures.csv", FAILURE_COLUMNS, comparison.failures)
    draw_ablations(comparison, pictures / "ablations.png")
    draw_failures(main_failures(comparison), pictures / "failures.png")
    draw_saturation(comparison, pictures / "saturation.png")
    return [*sorted(folder.glob("comparison.*")), *sorted(pictures.iterdir())]


def metrics(comparison: Comparison) -> dict[str, float]:
    """Return the numbers worth a chart in MLflow."""
    keys = ("accuracy", "minus_main", "minus_uniform", "minus_best_free")
    return {
        f"{name}/{row['ablation']}/{key}{end}": row[key + end]
        for name in comparison.benchmarks
        for row in last_rows(comparison, name)
        for key, end in product(keys, ("", "_low", "_high"))
        if row[key] is not None
    }


if __name__ == "__main__":
    run(Settings, main)
