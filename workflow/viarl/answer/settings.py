"""How the answerer is asked: in this process, or on a server that speaks the OpenAI protocol."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from viarl.files import sha256_file, sha256_json
from viarl.models.files import find, weight_files
from viarl.models.settings import ModelSettings

BACKENDS = ("transformers", "endpoint")
LAYOUTS = ("video", "images")


@dataclass(frozen=True)
class Endpoint:
    """A server for the answerer (keys of the configuration's `answerer.endpoint`); but for `model` nothing of it
    changes a reply.

    Args:
        url: where the protocol's paths begin, http://127.0.0.1:8000/v1.
        model: the name that is asked for, see `name`.
        concurrency: requests under way at once.
        timeout_s: seconds for one reply.
        retries: further attempts at a request that a living server fails (a status of 5xx, no reply in time).
        patience_s: seconds that a request waits for a server that is away or too busy (no connection, 429, 502 to 504).
    """

    url: str = "http://127.0.0.1:8000/v1"
    model: str = "{model}@{weights}"
    concurrency: int = 8
    timeout_s: float = 120.0
    retries: int = 4
    patience_s: float = 600.0

    def name(self, model: Path) -> str:
        """Return the name of a job's model on the server.

        {model} becomes the folder (in full) or the hub id, {weights} a hash of the folder's weights or a hub id's
        revision: `transformers serve` takes what stands behind @ for a revision, and so loads a folder anew that was
        trained anew. Errors: as `find`, where the name holds {model}.
        """
        if "{" not in self.model:
            return self.model
        source = find(model)
        hashes = [sha256_file(path) for path in weight_files(model)]
        weights = sha256_json(hashes)[:16] if hashes else source.revision or "main"
        path = str(model.resolve()) if model.is_dir() else source.name
        if "@" in path and "@" in self.model:
            raise ValueError(
                f"answerer.endpoint.model: the folder {path} holds an @, which ends a model's name; move it"
            )
        return self.model.replace("{weights}", weights).replace("{model}", path)


@dataclass(frozen=True)
class AnswererSettings(ModelSettings):
    """How the answerer is asked (keys of the configuration's `answerer`).

    Args:
        backend: "transformers", in this process, or "endpoint".
        frames_as: "video": the selected frames as one video; "images": each as an image, as servers take them.
        endpoint: of backend "endpoint".
    """

    backend: str = "transformers"
    frames_as: str = "video"
    endpoint: Endpoint = field(default_factory=Endpoint)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"answerer.backend {self.backend!r} is unknown; choose one of {list(BACKENDS)}")
        if self.frames_as not in LAYOUTS:
            raise ValueError(f"answerer.frames_as {self.frames_as!r} is unknown; choose one of {list(LAYOUTS)}")
        if self.backend == "endpoint" and self.frames_as != "images":
            raise ValueError("answerer.backend 'endpoint' takes images alone; set answerer.frames_as: images")

    def same_result(self) -> Self:
        """Return the settings that change a reply: without batch size, address and patience of a server."""
        known = Endpoint(model=self.endpoint.model) if self.backend == "endpoint" else Endpoint()
        return replace(self, batch_size=1, endpoint=known)
