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
REPOSITORIES = {  # hub ids by data set, where its module has them too; LVBench's videos are a setting
    "llava_video": ("lmms-lab/LLaVA-Video-178K",),
    "viarl_data": ("ViaRL/ViaRL_data", "lmms-lab/LLaVA-Video-178K"),
    "videomme": ("lmms-lab/Video-MME",),
    "mlvu": ("MLVU/MVLU",),
    "mlvu_repacked": ("sy1998/MLVU_dev",),
    "lvbench": ("zai-org/LVBench",),
}
