"""The sets that are made from data sets on a hub: a line registers one. Nothing heavy is imported here, and no stage
imports this: the rules hand each stage what concerns its own set, so that a new line makes nothing stale.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HubSet:
    """A set: which data set, which part of its questions.

    Args:
        source: module of viarl.datasets that parses it.
        repositories: hub ids: of the questions; of the videos, where others hold them, and of these in other layouts.
        size: videos and questions of the whole data set, as published, at most.
        part: all, train or validation; a part for training is no benchmark.
        subtitles: whether the lines spoken at the selected frames are shown.
        benchmark: module of viarl.evaluate.benchmarks that words its questions and names its headline figures; "" for
            the generic form and plain accuracy.
    """

    source: str
    repositories: tuple[str, ...]
    size: tuple[int, int]
    part: str = "all"
    subtitles: bool = False
    benchmark: str = ""

    def taken(self, hub: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is taken of the data set (viarl.datasets.hub.dataset.Choice), given the section `hub`.

        `<source>_videos` names another repository of its videos, `<source>_parts` those of its drawings.
        """
        questions, videos, *_ = *self.repositories, self.repositories[0]
        chosen = hub.get(f"{self.source}_videos", videos)
        split = () if self.part == "all" else ("validation_share", "split_seed")
        return {
            "source": self.source,
            "questions_from": questions,
            "videos_from": chosen,
            "own_layout": chosen == videos,
            "part": self.part,
            "subtitles": self.subtitles,
            "drawings": hub.get(f"{self.source}_parts") or [],
            "revisions": {id: hub["revisions"][id] for id in (questions, chosen) if id in hub["revisions"]},
            **{key: hub[key] for key in ("limit", "archives", *split)},
        }


_LLAVA = ("llava_video", ("lmms-lab/LLaVA-Video-178K",), (39_967, 39_967))
_VIARL = ("viarl_data", ("ViaRL/ViaRL_data", "lmms-lab/LLaVA-Video-178K"), (8_000, 8_000))  # of one drawing
_VIDEOMME = ("videomme", ("lmms-lab/Video-MME",), (900, 2_700))
SETS = {
    "llava_video_train": HubSet(*_LLAVA, "train"),
    "llava_video_validation": HubSet(*_LLAVA, "validation"),
    "viarl_data_train": HubSet(*_VIARL, "train"),
    "viarl_data_validation": HubSet(*_VIARL, "validation"),
    "videomme": HubSet(*_VIDEOMME, benchmark="videomme"),
    "videomme_subtitles": HubSet(*_VIDEOMME, subtitles=True, benchmark="videomme"),
    "mlvu": HubSet("mlvu", ("MLVU/MVLU",), (1_122, 2_175), benchmark="mlvu"),
    "mlvu_repacked": HubSet("mlvu_repacked", ("sy1998/MLVU_dev",), (1_122, 2_174), benchmark="mlvu"),
    "lvbench": HubSet(
        "lvbench", ("zai-org/LVBench", "AIWinter/LVBench", "lmms-lab/LVBench"), (103, 1_549), benchmark="lvbench"
    ),
}
