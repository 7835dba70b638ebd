"""The card that the plan reckons with."""

from viarl.sections import Positive, Rate, key, section


@section
class Card:
    """The GPU of `snakemake --cores 1 plan`; nothing else looks at it."""

    memory_gb: Positive = key("memory", unit="GB", source="an H100", counts=False)
    tflops: Positive = key("peak in bfloat16", unit="TFLOP/s", source="an H100", counts=False)
    bandwidth_gb_s: Positive = key("bandwidth of its memory", unit="GB/s", source="an H100", counts=False)
    utilisation: Rate = key("share of both that is reached", source="ours", counts=False)
