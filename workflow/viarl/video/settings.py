"""What the cached frames depend on."""

import hashlib
import json
from dataclasses import asdict
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from viarl.sections import Pixels, key, section

FORMAT = 2  # raise it when the tensors or the header of a cache file change


@section
class CacheSettings:
    """The candidate frames of a video, in both resolutions."""

    candidates: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = key(
        "N, frames offered to the selector; even", source="paper: 128"
    )
    selector_pixels: Pixels = key("longest side of a selector frame", unit="px", source="paper: 112")
    answerer_pixels: Pixels = key("longest side of an answerer frame; never upscaled", unit="px", source="paper: 896")
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] = key(
        "of the cached answerer frames, 4:4:4", default=90, source="ours"
    )
    reader: Literal["pyav", "decord"] = key(
        "decord returns wrong frames of HEVC and open-GOP files without a word", default="pyav"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.selector_pixels > self.answerer_pixels:
            limits = f"({self.selector_pixels}) must lie between 1 and frames.answerer_pixels ({self.answerer_pixels})"
            raise ValueError(f"frames.selector_pixels {limits}: selector frames are made from answerer frames")
        return self

    def fingerprint(self) -> str:
        """Return the hash of the settings that every cache file made with them carries."""
        return hashlib.sha256(json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()).hexdigest()
