"""The answerer that the configuration names: a model in this process, or one on a server."""

from pathlib import Path
from typing import Any

from viarl.answer.answerer import Answerer
from viarl.answer.asking import Asking
from viarl.answer.base import BaseAnswerer
from viarl.answer.endpoint import EndpointAnswerer, served_name
from viarl.answer.settings import AnswererSettings
from viarl.identity import fingerprint
from viarl.models.files import weight_hashes
from viarl.models.reply_cache import ReplyCache
from viarl.models.vlm import Vlm, resolve_device
from viarl.progress import say
from viarl.video.cache import FrameCache


def load_answerer(
    model: Path,
    settings: AnswererSettings,
    cache: FrameCache,
    device: str = "auto",
    replies: Path | None = None,
    asking: Asking | None = None,
) -> BaseAnswerer:
    """Return an answerer, its model loaded, or its name on the server found.

    `replies` is a folder that keeps replies for other stages and later starts; None keeps none. `asking` is a
    benchmark's way to ask, in place of the settings' prompt. Errors: as `Vlm.load`, and as `served_name`.
    """
    if settings.backend == "endpoint":
        name = served_name(settings.endpoint.model, model)
        say(f"the answerer is {name} at {settings.endpoint.url}")
        # only {weights} tells one model of that name from another; without it the address belongs to the name
        address = "" if "{weights}" in settings.endpoint.model else settings.endpoint.url
        kept = _replies(replies, settings, {"name": name, "address": address})
        prompt, longest, shown = settings.prompt, settings.max_new_tokens, settings.frames_as
        return EndpointAnswerer(settings.endpoint, name, cache, prompt, longest, kept, asking, shown)
    vlm = Vlm.load(model, settings.dtype, settings.attention, device)
    known: dict[str, Any] = {}
    if replies is not None:
        revision = str(getattr(vlm.model.config, "_commit_hash", None))
        weights = weight_hashes(model) or [str(model), revision]
        # the last bits of sums, and with them now and then a reply, differ between precisions and kinds of device
        how = {"dtype": settings.dtype, "attention": settings.attention, "device": resolve_device(device).type}
        known = {"weights": weights, **how}
    asked = (settings.prompt, settings.max_new_tokens, settings.batch_size)
    kept = _replies(replies, settings, known)
    return Answerer(vlm, cache, *asked, frames_as=settings.frames_as, replies=kept, asking=asking)


def _replies(folder: Path | None, settings: AnswererSettings, known: dict[str, Any]) -> ReplyCache | None:
    """Return the kept replies of an answerer; the prompt's text and the frames belong to the request."""
    if folder is None:
        return None
    code = fingerprint(f"viarl.answer.{'endpoint' if settings.backend == 'endpoint' else 'answerer'}")
    kept = ReplyCache(folder, {"backend": settings.backend, "frames_as": settings.frames_as, "code": code, **known})
    if len(kept):
        say(f"{len(kept)} replies of this answerer are known from {kept.folder}")
    return kept
