"""Settings of the similarities of frames and questions."""

from viarl.sections import Count, Text, key, section


@section
class ClipSettings:
    """The open_clip model that scores every candidate frame."""

    pretrained: Text | None = key("open_clip weights tag; null with the stand-in and hf-hub:…", default=None)
    batch_size: Count = key("frames in a forward pass", default=64, counts=False)
