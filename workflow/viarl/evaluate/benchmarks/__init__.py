"""What a benchmark is to the evaluation: how other harnesses word its questions, and the figures that it is known by.

To add one: a module here that holds a `BENCHMARK`, named in the set's line of viarl.datasets.hub.sets. A set without
one is asked in the protocol's generic form and reported by accuracy alone. Nothing heavy is imported here, so that
other statistics make no evaluation stale.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

DIRECTLY = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Task:
    """How questions are written: {question}, {options} a line each, {spoken}.

    `subtitled` is the form for benchmarks with subtitles, "" that of the protocol's generic task.
    """

    form: str
    option: str = "{letter}. {text}"
    subtitled: str = ""


@dataclass(frozen=True)
class Headline:
    """A mean over questions (micro), or the mean of the means of groups (macro)."""

    over: str = ""  # the kind of group whose means are averaged; "" for the mean over questions
    only: tuple[str, ...] = ()  # labels "kind=value" of which a question must have one; empty for all questions
    column: str = "correct"  # of the rows, that is averaged; questions without a value are left out


MICRO = Headline()


@dataclass(frozen=True)
class Benchmark:
    """`wording` by protocol (viarl.evaluate.protocols); `headlines` by title."""

    wording: Mapping[str, Task] = field(default_factory=dict)
    headlines: Mapping[str, Headline] = field(default_factory=dict)


def benchmark(module: str) -> Benchmark:
    """Return the benchmark of a module of this package; for "" one that words nothing and is known by nothing."""
    found: Benchmark = importlib.import_module(f"{__name__}.{module}").BENCHMARK if module else Benchmark()
    return found
