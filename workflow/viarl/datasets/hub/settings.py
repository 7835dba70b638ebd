"""What of a download changes no result. It lies apart from the sets, so that a new set makes no download stale."""

from viarl.sections import Share, key, section


@section
class HubRuntime:
    """Settings that a download is told beside those that count."""

    keep_archives: bool = key("whether archives stay when their videos are taken out", default=False, counts=False)
    max_missing_share: Share = key(
        "share of a set's videos that its source may lack before the job fails", default=0.1, counts=False
    )
