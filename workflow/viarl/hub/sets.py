"""The sets that are made from data sets on a hub: which data set, which part of its questions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HubSet:
    """A set. `source`: module of viarl.datasets; `part`: all, train or validation; `subtitles`: whether it has them."""

    source: str
    part: str = "all"
    subtitles: bool = False


SETS = {
    "llava_video_train": HubSet("llava_video", "train"),
    "llava_video_validation": HubSet("llava_video", "validation"),
    "viarl_data_train": HubSet("viarl_data", "train"),
    "viarl_data_validation": HubSet("viarl_data", "validation"),
    "videomme": HubSet("videomme"),
    "videomme_subtitles": HubSet("videomme", subtitles=True),
    "mlvu": HubSet("mlvu"),
    "mlvu_repacked": HubSet("mlvu_repacked"),
    "lvbench": HubSet("lvbench"),
}
