"""Settings of the data sets: generated, your own, and from a hub."""

from typing import Annotated, Literal

from pydantic import Field

from viarl.datasets.hub.sets import SETS
from viarl.datasets.hub.settings import HubRuntime
from viarl.sections import Count, Distinct, OneOf, PartShare, Seed, Text, key, section

Drawing = Literal["rl_random_8k", "rl_random_8k_16frames", "random_8k"]
Revision = Annotated[str, Field(pattern=r"^[\w./-]{1,100}$")]


def repositories() -> list[str]:
    """Return the hub ids of all sets."""
    return list(dict.fromkeys(name for made in SETS.values() for name in made.repositories))


@section
class Videos:
    """Videos in each generated set."""

    train: Count = key("to train on")
    validation: Count = key("to tune settings on")
    test: Count = key("held out: the benchmark `needle`")
    shifted: Count = key("held out, with other backgrounds, lengths and compression: `needle_shifted`")


@section
class Needle:
    """The generated data set."""

    seed: Seed = key("of videos and questions; each set derives its own stream")
    videos: Videos
    # a video has four things to ask about at least
    questions_per_video: Annotated[int, Field(ge=1, le=4)] = key("different cards asked about in each video")


@section
class Local:
    """Your own videos (`dataset: local`, or `local` among the benchmarks)."""

    folder: Text | None = key("folder of the video files")
    questions: Text | None = key("CSV, JSON lines or a JSON list: video, question, options, answer")
    validation_share: PartShare = key("share of the videos kept for validation")
    seed: Seed = key("of that split")


@section
class Hub(HubRuntime):
    """Downloads of data sets."""

    limit: Count | None = key("videos taken of each data set, the first by a hash of their ids; null = all")
    archives: Count | None = key(
        "archives of each data set of which videos are taken, the first ones; null = all that are needed"
    )
    validation_share: PartShare = key("share of the training videos kept for validation")
    split_seed: Seed = key("of that split")
    viarl_data_parts: Annotated[tuple[Drawing, ...], Field(min_length=1), Distinct] | None = key(
        "of its drawings those that are taken; null = all"
    )
    lvbench_videos: Literal["AIWinter/LVBench", "lmms-lab/LVBench"] = key("hub id of LVBench's videos")
    revisions: dict[Annotated[str, OneOf(repositories)], Revision] = key(
        "branch, tag or commit; unless a commit, the first download settles on one (<data>/hub/*/commit.json)"
    )
