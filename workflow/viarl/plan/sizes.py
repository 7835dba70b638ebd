"""How many videos and questions a data set has: counted where its lists are there, else as published."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viarl.datasets.hub.sets import SETS


@dataclass(frozen=True)
class Sizes:
    """(videos, questions) of each set; the names of those that are not counted but published, and of unknown ones."""

    of: Mapping[str, tuple[int, int]]
    published: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def sizes(sets: Mapping[str, Any], hub: Mapping[str, Any]) -> Sizes:
    """Return the sizes of sets, each given as the folder of its items.jsonl and videos.jsonl or [videos, questions]."""
    known: dict[str, tuple[int, int]] = {}
    published, unknown = [], []
    for name, given in sets.items():
        if not isinstance(given, str):
            known[name] = (given[0], given[1])
            continue
        files = [Path(given) / file for file in ("videos.jsonl", "items.jsonl")]
        if all(file.is_file() for file in files):
            videos, questions = (sum(1 for line in file.open("rb") if line.strip()) for file in files)
            known[name] = (videos, questions)
        elif name in SETS:
            known[name] = published_size(name, hub)
            published.append(name)
        else:
            known[name] = (1000, 1000)
            unknown.append(name)
    return Sizes(known, tuple(published), tuple(unknown))


def published_size(name: str, hub: Mapping[str, Any]) -> tuple[int, int]:
    """Return (videos, questions) that a set from the hub has at most, its questions shared evenly by its videos."""
    made = SETS[name]
    videos, questions = made.size
    times = len(hub["viarl_data_parts"] or range(3)) if made.source == "viarl_data" else 1
    share = min(1.0, hub["limit"] / (times * videos)) if hub["limit"] else 1.0
    share *= {"all": 1.0, "train": 1 - hub["validation_share"], "validation": hub["validation_share"]}[made.part]
    return math.ceil(times * videos * share), math.ceil(times * questions * share)
