"""Settings of an evaluation."""

from typing import Annotated, Literal

from pydantic import Field

from viarl.sections import Count, Distinct, key, section

Selector = Literal[
    "uniform",
    "random",
    "clip_topk",
    "bolt",
    "aks",
    "qframe",
    "oracle",
    "base",
    "base_sampled",
    "learned",
    "learned_sampled",
    "learned_base_answerer",
]


@section
class EvaluationSettings:
    """Which selectors are compared, and how questions are asked."""

    selectors: Annotated[tuple[Selector, ...], Field(min_length=1), Distinct] = key("those that are compared")
    random_seeds: Count = key("draws averaged for the random selectors", default=5)
    protocol: Literal["own", "viarl", "lmms-eval"] = key(
        "how benchmarks' questions are worded and replies read", default="own", source="paper: viarl"
    )
    batch_size: Count | None = key("questions in a forward pass", default=None, counts=False)
