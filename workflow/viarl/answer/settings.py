"""How the answerer is asked: in this process, or on a server that speaks the OpenAI protocol."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from viarl.models.settings import ModelSettings
from viarl.sections import Positive, Text, key, section


@section
class Endpoint:
    """A server for the answerer; but for `model` nothing of it changes a reply.

    A key, where it wants one, is read from the environment variable OPENAI_API_KEY.
    """

    url: Text = key("where the protocol's paths begin", default="http://127.0.0.1:8000/v1", counts=False)
    model: Text = key(
        "its name there; {model}: this cycle's folder or hub id, {weights}: a hash of the weights",
        default="{model}@{weights}",
    )
    concurrency: Annotated[int, Field(ge=1, le=10000)] = key("requests under way at once", default=8, counts=False)
    timeout_s: Positive = key("longest wait for one reply", default=120.0, unit="s", counts=False)
    retries: Annotated[int, Field(ge=0, le=1000)] = key(
        "further attempts where the server lives and fails (status 5xx, no reply in time)", default=4, counts=False
    )
    patience_s: Annotated[float, Field(ge=0, le=10**6)] = key(
        "longest wait of a request for a server that is away or too busy", default=600.0, unit="s", counts=False
    )


@section
class AnswererSettings(ModelSettings):
    """How the answerer is asked."""

    frames_as: Literal["video", "images", "timed_images"] = key(
        "how the selected frames are shown: as one video, of which Qwen3-VL is told the times, or as an image each, "
        "which servers take, behind its time in words or without",
        default="video",
    )
    backend: Literal["transformers", "endpoint"] = key(
        "where it answers: in this process, or on a server that speaks the OpenAI protocol", default="transformers"
    )
    endpoint: Endpoint = Endpoint()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.backend == "endpoint" and self.frames_as == "video":
            raise ValueError("answerer.backend 'endpoint' takes images alone; set answerer.frames_as: images")
        return self
