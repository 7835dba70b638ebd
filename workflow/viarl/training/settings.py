"""Settings that every training has, and those of the filter before it."""

from typing import Literal

from viarl.sections import Count, Positive, Rate, Weight, Whole, key, section

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}  # our name -> the name in transformers


@section
class Optimiser:
    """Steps and their sizes, and what bounds memory and the time between checkpoints."""

    steps: Count = key("optimiser steps", source="ours")
    learning_rate: Rate = key("peak learning rate", source="scripts: selector 4e-7, answerer 1e-6")
    schedule: Literal["constant", "cosine"] = key("of the learning rate", default="cosine", source="scripts: cosine")
    warmup_steps: Whole = key("linear warm-up", default=0, unit="steps", source="scripts: 0.02 of all")
    weight_decay: Weight = key("of AdamW", default=0.0, source="scripts: 0.01")
    max_grad_norm: Positive = key("gradient clipping", default=20.0, source="scripts")
    gradient_checkpointing: bool = key("recompute activations in the backward pass", default=False, counts=False)
    save_every: Count = key("steps between resumable checkpoints", default=20, counts=False)


@section
class FilterSettings:
    """Training questions that teach nothing are dropped."""

    rule: Literal["none", "blind", "contrast", "variance"] = key(
        "what is dropped", default="contrast", source="paper: not published"
    )
    draws: Count = key("variance: random frame sets tried", default=4)
    drop_never_right: bool = key("variance: also drop what is never answered right", default=False)
