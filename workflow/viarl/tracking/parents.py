"""What the parent run of an ablation and a training seed says in MLflow, read from the records alone.

Parameters are the flattened configuration, the ablation's overlay applied, as it was when the newest record began.
Metrics are those of each cycle's evaluation, the cycle being the step. They are named like "learned/needle" and
"learned_low/needle", the benchmark last, for MLflow cuts long names at their end.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from viarl.config.runs import COMMON, run_config, split_run
from viarl.files import read_json, sha256_json
from viarl.identity import flatten
from viarl.tracking.record import Record, Tracking, configuration_path

SUMMARY = "summarise_evaluation"  # the stage whose records hold a cycle's accuracies
ENDS = {"value": "", "low": "_low", "high": "_high"}
# Of the many numbers of an evaluation, those that are looked at side by side: learned against uniform selection.
SELECTORS = ("learned", "uniform")
_ACCURACY = re.compile(rf"(\w+)/({'|'.join(SELECTORS)})/accuracy_(value|low|high)")
_DIFFERENCE = re.compile(r"(\w+)/learned-uniform/(value|low|high)")
OTHERS = {"evidence_recall": "recall", "valid_rate": "valid"}
_OTHERS = re.compile(rf"(\w+)/learned/({'|'.join(OTHERS)})")


@dataclass(frozen=True)
class Parent:
    """What a parent run says; `status`, `began` and `end` (s) are of all its stages together."""

    run: str  # that it stands for (viarl.config.runs)
    name: str  # in words ("no_length seed 1")
    params: dict[str, Any]
    tags: dict[str, str]  # of the run and of its children
    latest: dict[str, str]  # tags of its newest record (the commit)
    points: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)  # {(key, step): (value, time)}
    summaries: dict[int, Path] = field(default_factory=dict)  # eval.json of each cycle
    text: str = ""  # the configuration as YAML, "" where it is unknown
    status: str = "RUNNING"
    began: float = 0.0
    end: float = 0.0

    @property
    def state(self) -> str:
        """A hash of all that is pushed."""
        points = sorted((*point, value) for point, (value, _) in self.points.items())
        summaries = {cycle: [str(path), path.stat().st_mtime] for cycle, path in self.summaries.items()}
        words = [self.name, self.params, self.tags, self.latest, self.text, self.status, self.end]
        return sha256_json([words, points, summaries])


def known_parent(settings: Tracking, run: str, records: Sequence[Record]) -> Parent:
    """Return what the parent of a run says, given the newest record of each of its jobs (one at least)."""
    latest = max(records, key=lambda record: float(record.header["time"]))
    params: dict[str, Any] = {}
    text = hypothesis = ""
    ablation, number = split_run(run)
    kept = configuration_path(settings.root, latest.header["config"])
    if kept.exists():
        number, hypothesis, params, text = _configured(kept, run)
    seed = "" if number is None else str(number)
    statuses = {record.status for record in records}
    tags = {"run": run or "main", "ablation": ablation or "main", "results_root": str(settings.root.resolve())}
    tags |= {key: value for key, value in (("seed", seed), ("hypothesis", hypothesis)) if value}
    done = [record for record in records if record.header["stage"] == SUMMARY and record.status == "FINISHED"]
    made = [(int(record.header["cycle"]), settings.root / path) for record in done for path in record.artifacts]
    return Parent(
        run=run,
        name=f"{ablation or 'main'} seed {seed}" if seed else ablation or "main",
        params=params,
        tags=tags,
        latest={**latest.header["tags"], **latest.tags},
        points={point: value for record in done for point, value in _points(record).items()},
        summaries={cycle: path for cycle, path in made if path.exists()},
        text=text,
        status="RUNNING" if "RUNNING" in statuses else "FINISHED" if statuses == {"FINISHED"} else "FAILED",
        began=min(float(record.header["time"]) for record in records),
        end=max(record.end for record in records),
    )


@cache
def _configured(kept: Path, run: str) -> tuple[int, str, dict[str, Any], str]:
    """Return seed, hypothesis, parameters and text of a run in a kept configuration; shared, so do not change."""
    whole = read_json(kept)
    config = run_config(whole, run)
    ablation, _ = split_run(run)
    shown = {key: value for key, value in config.items() if key not in ("ablations", "compare")}
    hypothesis = whole["ablations"][ablation]["hypothesis"] if ablation else ""
    params = flatten({key: value for key, value in config.items() if key not in COMMON})
    return config["seed"], hypothesis, params, yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)


def _points(record: Record) -> dict[tuple[str, int], tuple[float, float]]:
    """Return a cycle's figures under the names that a parent gives them, the cycle as step."""
    points = {}
    for key, series in record.metrics.items():
        if found := _ACCURACY.fullmatch(key):
            name = f"{found[2]}{ENDS[found[3]]}/{found[1]}"
        elif found := _DIFFERENCE.fullmatch(key):
            name = f"gain{ENDS[found[2]]}/{found[1]}"
        elif found := _OTHERS.fullmatch(key):
            name = f"{OTHERS[found[2]]}/{found[1]}"
        else:
            continue
        value, moment = series[max(series)]
        if math.isfinite(value):
            points[name, int(record.header["cycle"])] = (value, moment)
    return points


def columns(parents: Sequence[Parent]) -> list[str]:
    """Return the columns of a table of parents as MLflow's page names them: figures without intervals, hypotheses."""
    keys = {key for parent in parents for key, _ in parent.points if not key.split("/")[0].endswith(("_low", "_high"))}
    order = [*SELECTORS, "gain", *OTHERS.values()]
    shown = sorted(keys, key=lambda key: (key.split("/")[1], order.index(key.split("/")[0])))
    return [*(f"metrics.`{key}`" for key in shown), "tags.`hypothesis`"]
