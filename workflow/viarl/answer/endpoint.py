"""The answerer on a server that speaks the OpenAI protocol: vLLM, SGLang, `transformers serve`, …

The selected frames travel as they lie in the frame cache, JPEG bytes in `data:` URLs, one image each, before the text.
Decoding is greedy. A request is tried again, with growing random pauses, where that may help:

- no connection, or a status of 429, 502, 503, 504: the server is away or busy, for at most `patience_s`.
- another status of 5xx, no reply within `timeout_s`, or a reply that is none: it fails, at most `retries` times more.
- another status: the request is wrong (an unknown model, a key that is missing). It ends at once.

What ends without a reply is an `Outage`.
"""

import asyncio
import base64
import ipaddress
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from viarl.answer.asking import Asking
from viarl.answer.base import BaseAnswerer, Key, Request
from viarl.answer.settings import Endpoint
from viarl.faults import Outage, shown
from viarl.files import sha256_json
from viarl.models.files import find, weight_hashes
from viarl.models.reply_cache import ReplyCache
from viarl.progress import Progress, say
from viarl.video.cache import FrameCache

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
TELL_EVERY_S = 15.0  # between two lines that say that the server is away
LOOK_EVERY_S = 0.5  # whether the stage was told to stop
KEY = "OPENAI_API_KEY"


class _Away(Exception):
    """The server is not there, or too busy."""

    pause_s = 0.0  # what it asks for


def served_name(asked: str, model: Path) -> str:
    """Return the name on the server of a job's model, by the setting answerer.endpoint.model.

    {model} becomes the folder (in full) or the hub id, {weights} a hash of the folder's weights or a hub id's revision:
    `transformers serve` takes what stands behind @ for a revision, and so loads a folder anew that was trained anew.
    Errors: as `find`, where the name holds {model}.
    """
    if "{" not in asked:
        return asked
    source = find(model)
    hashes = weight_hashes(model)
    weights = sha256_json(hashes)[:16] if hashes else source.revision or "main"
    path = str(model.resolve()) if model.is_dir() else source.name
    if "@" in path and "@" in asked:
        raise ValueError(f"answerer.endpoint.model: the folder {path} holds an @, which ends a model's name; move it")
    return asked.replace("{weights}", weights).replace("{model}", path)


class _Failed(Exception):
    """The server is there and fails."""


class EndpointAnswerer(BaseAnswerer):
    """Answers requests on a server, where the model has a `name`; see the module, and `BaseAnswerer`.

    Most servers batch requests, which may change the last bits of sums and now and then a reply.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        cache: FrameCache,
        template: str,
        max_new_tokens: int,
        replies: ReplyCache | None = None,
        asking: Asking | None = None,
        frames_as: str = "images",
    ) -> None:
        super().__init__(cache, template, max_new_tokens, frames_as=frames_as, replies=replies, asking=asking)
        self.endpoint, self.name = endpoint, name
        self.url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self._waiting = 0  # requests that wait for the server
        self._told = 0.0
        self._pauses = random.Random()  # a generator of its own: a training's draws must not depend on outages

    def _ask(self, requests: dict[Key, Request], progress: Progress | None) -> None:
        if requests:
            asyncio.run(self._ask_all(requests, progress))

    async def _ask_all(self, requests: dict[Key, Request], progress: Progress | None) -> None:
        """Ask with some workers that share one queue; the first failure ends them all."""
        headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get(KEY)) else {}
        queue = iter(requests.items())
        count = min(self.endpoint.concurrency, len(requests))
        timeout = httpx2.Timeout(self.endpoint.timeout_s, pool=None)
        limits = httpx2.Limits(max_connections=count, max_keepalive_connections=count)
        async with httpx2.AsyncClient(
            headers=headers, timeout=timeout, limits=limits, trust_env=not _is_loopback(self.url)
        ) as client:
            workers = {asyncio.create_task(self._work(client, queue, progress)) for _ in range(count)}
            running = set(workers)
            try:
                while running:
                    done, running = await asyncio.wait(running, timeout=LOOK_EVERY_S, return_when="FIRST_EXCEPTION")
                    for worker in done:
                        worker.result()
                    if self._waiting and self.stopped():
                        raise Outage(f"stopped while {self.endpoint.url} was away")
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._waiting = 0

    async def _work(
        self, client: httpx2.AsyncClient, queue: Iterator[tuple[Key, Request]], progress: Progress | None
    ) -> None:
        for key, request in queue:
            self._keep(key, request, await self._reply(client, self._body(request)), progress)

    def _body(self, request: Request) -> bytes:
        """Return a request in the protocol's words."""
        frames = sorted(request.frames)
        pictures = iter(self.cache.answerer_jpegs(request.item.video, frames) if frames else [])  # of JPEG bytes
        messages: list[dict[str, Any]] = self.messages(request)
        for message in messages:
            message["content"] = [
                _picture(next(pictures).tobytes()) if part["type"] == "image" else _text(part["text"])
                for part in message["content"]
            ]
        # `transformers serve` derives from frequency_penalty that of repetitions that a checkpoint may come with
        how = {"temperature": 0.0, "max_tokens": self.max_new_tokens, "frequency_penalty": 0.0}
        return json.dumps({"model": self.name, "messages": messages, **how}).encode()

    async def _reply(self, client: httpx2.AsyncClient, body: bytes) -> str:
        """Return the text of the reply, when there is one; Outage where there will be none."""
        began: float | None = None
        attempts = failures = 0
        longest = LONGEST_PAUSE_S
        try:
            while True:
                try:
                    text = await self._attempt(client, body)
                    if began is not None and self._told:
                        self._told = 0.0
                        say(f"{self.endpoint.url} answers again")
                    return text
                except _Failed as error:
                    failures += 1
                    if failures > self.endpoint.retries:
                        raise Outage(
                            f"{self.url} failed {failures} times at a request for {self.name!r}: {error}; see the "
                            f"server's log, where an unknown model's name may be the reason too"
                        ) from error
                    pause = 0.0
                except _Away as error:
                    if began is None:
                        began = time.monotonic()
                        self._waiting += 1
                    waited = time.monotonic() - began
                    if waited > self.endpoint.patience_s:
                        raise Outage(
                            f"{self.url} was away for {waited:.0f} s ({error}), longer than "
                            "answerer.endpoint.patience_s allows; start the server, then run the same command again"
                        ) from error
                    self._tell(str(error), waited)
                    pause, longest = error.pause_s, min(LONGEST_PAUSE_S, self.endpoint.patience_s - waited + 0.1)
                attempts += 1
                growing = min(FIRST_PAUSE_S * 2 ** min(attempts - 1, 10), longest)
                await asyncio.sleep(max(pause, growing * self._pauses.uniform(0.5, 1.0)))
        finally:
            if began is not None:
                self._waiting -= 1

    async def _attempt(self, client: httpx2.AsyncClient, body: bytes) -> str:
        try:
            response = await client.post(self.url, content=body, headers={"Content-Type": "application/json"})
        except httpx2.ConnectTimeout as error:
            raise _Away("no connection in time") from error
        except httpx2.TimeoutException as error:
            raise _Failed(f"no reply within answerer.endpoint.timeout_s = {self.endpoint.timeout_s:g} s") from error
        except httpx2.TransportError as error:
            raise _Away(str(error) or type(error).__name__) from error
        status = response.status_code
        if status in (429, 502, 503, 504):
            away, asked = _Away(f"status {status}"), response.headers.get("Retry-After", "")
            away.pause_s = min(float(asked), 2 * LONGEST_PAUSE_S) if asked.isdecimal() else 0.0  # within reason
            raise away
        if status >= 500:
            raise _Failed(f"status {status} ({_reason(response)})")
        if status != 200:
            raise Outage(await self._refusal(client, response))
        try:
            return str(response.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError) as error:
            raise _Failed(f"a reply that is none: {shown(response.text)}") from error

    async def _refusal(self, client: httpx2.AsyncClient, response: httpx2.Response) -> str:
        """Return what is wrong with a request, and what to do."""
        remedy = "correct answerer.endpoint.url or .model, or the server's options"
        if response.status_code in (401, 403):
            remedy = f"put the server's key into the environment variable {KEY}"
        elif response.status_code in (400, 404):
            try:
                known = (await client.get(f"{self.endpoint.url.rstrip('/')}/models")).json()["data"]
                remedy += f"; the server has {', '.join(str(entry['id']) for entry in known[:5])}"
            except (httpx2.HTTPError, ValueError, LookupError, TypeError):
                pass  # not every server lists its models
        return f"{self.url} refuses a request for {self.name!r}: {response.status_code} ({_reason(response)}); {remedy}"

    def _tell(self, reason: str, waited: float) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S or not self._told:
            self._told = now
            say(
                f"{self.endpoint.url} does not answer ({reason}); waited {waited:.0f} s of at most "
                f"{self.endpoint.patience_s:.0f} s, and going on when it is back"
            )


def _picture(jpeg: bytes) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _text(text: str) -> dict[str, Any]:
    # a server tokenises the whole chat, and would take <|im_end|> in a question for its end
    return {"type": "text", "text": text.replace("<|", "< |")}


def _reason(response: httpx2.Response) -> str:
    """Return what a server says about an error, in whichever of the usual forms, on one line."""
    try:
        said: Any = response.json()
        for name in ("error", "message", "detail"):
            said = said[name] if isinstance(said, dict) and name in said else said
    except ValueError:
        said = response.text
    return shown(" ".join(str(said).split()), 300)


def _is_loopback(url: str) -> bool:
    host = httpx2.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
