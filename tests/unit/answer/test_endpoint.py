"""The answerer on a server: what is sent, and what becomes of every way in which a server can fail."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from small_answerer import StoredCache, item
from viarl.answer import endpoint as subject
from viarl.answer.base import Request
from viarl.answer.endpoint import EndpointAnswerer, served_name
from viarl.answer.settings import AnswererSettings, Endpoint
from viarl.faults import Outage
from viarl.models.reply_cache import ReplyCache
from viarl.sections import counted

COUNTS = {"v0": 8, "v1": 8}
REQUESTS = [Request(item(number, f"v{number % 2}"), (number % 4, 5)) for number in range(12)]
Handled = tuple[int, Any]  # status and content


class Server:
    """Replies to POST as `handle(number of the request, its body)` says, and lists one model."""

    def __init__(self, handle: Callable[[int, dict[str, Any]], Handled], port: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.now = self.most = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.bodies.append(body)
                    server.keys.add(self.headers.get("Authorization"))
                    number = len(server.bodies) - 1
                    server.now += 1
                    server.most = max(server.most, server.now)
                status, content = handle(number, body)
                with lock:
                    server.now -= 1
                self.send(status, content)

            def do_GET(self) -> None:
                self.send(200, {"data": [{"id": "the-served-one"}]})

            def send(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def said(text: str) -> Handled:
    return 200, {"choices": [{"message": {"content": text}}]}


def echo(number: int, body: dict[str, Any]) -> Handled:
    """Reply with the words of the question, so that replies can be told apart."""
    return said("star A " + body["messages"][0]["content"][-1]["text"].split("\n")[0])


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(handle: Callable[[int, dict[str, Any]], Handled] = echo, port: int = 0) -> Server:
        started.append(Server(handle, port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(subject, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(subject, "LOOK_EVERY_S", 0.05)
    monkeypatch.delenv(subject.KEY, raising=False)


def answerer(port: int, replies: ReplyCache | None = None, **settings: Any) -> EndpointAnswerer:
    known = Endpoint(url=f"http://127.0.0.1:{port}/v1", concurrency=3, timeout_s=5.0, retries=2, patience_s=5.0)
    return EndpointAnswerer(replace(known, **settings), "tiny", StoredCache(dict(COUNTS)), "short", 6, replies)


def test_what_is_sent(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    first = answerer(server.port)
    replies = first.answer([Request(item(0), (5, 2)), Request(item(1))])
    assert [reply.text for reply in replies] == [f"star A {item(number).question}" for number in range(2)]
    assert [reply.letter for reply in replies] == ["A", "A"]
    body, blind = sorted(server.bodies, key=lambda body: -len(body["messages"][0]["content"]))
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 6)
    *pictures, text = body["messages"][0]["content"]
    sent = [base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,")) for part in pictures]
    assert sent == [data.tobytes() for data in first.cache.answerer_jpegs("v0", [2, 5])]  # as stored, in their order
    assert text["text"].startswith(item(0).question) and len(blind["messages"][0]["content"]) == 1
    first.answer([Request(replace(item(3), question="Is <|im_end|> <b>seen</b>?"))])
    assert server.bodies[-1]["messages"][0]["content"][0]["text"].startswith("Is < |im_end|> <b>seen</b>?")
    first.frames_as = "timed_images"
    first.answer([Request(item(2), (5, 2))])
    parts = server.bodies[-1]["messages"][0]["content"]
    assert [part.get("text", part["type"]) for part in parts[:-1]] == [
        "<2.0 seconds>",
        "image_url",
        "<5.0 seconds>",
        "image_url",
    ]
    assert server.keys == {None}
    monkeypatch.setenv(subject.KEY, "secret")
    answerer(server.port).answer(REQUESTS[:1])
    assert server.keys == {None, "Bearer secret"}


def test_nothing_is_asked_twice_and_few_at_once(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: (time.sleep(0.02), echo(number, body))[1])
    one = answerer(server.port)
    replies = one.answer(REQUESTS + REQUESTS[::-1])
    assert replies == [*replies[:12], *replies[:12][::-1]] and len({reply.text for reply in replies}) > 3
    assert one.asked == len(server.bodies) == 12 and server.most == 3
    one.answer(REQUESTS)
    assert len(server.bodies) == 12


@pytest.mark.parametrize("failure", [(500, "boom"), (503, "loading"), (429, "slow down"), (200, {"choices": []})])
def test_failures_that_pass_are_tried_again(serve: Callable[..., Server], failure: Handled) -> None:
    server = serve(lambda number, body: failure if number % 2 == 0 else echo(number, body))
    expected = answerer(serve().port).answer(REQUESTS)
    assert answerer(server.port, retries=50).answer(REQUESTS) == expected


def test_a_server_that_keeps_failing_ends_the_stage(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: (500, "boom"))
    with pytest.raises(Outage, match=r"failed 3 times at a request for 'tiny': status 500 \('boom'\)"):
        answerer(server.port, concurrency=1).answer(REQUESTS)
    assert len(server.bodies) == 3


def test_no_reply_in_time_is_a_failure(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: (time.sleep(0.3), echo(number, body))[1])
    with pytest.raises(Outage, match=r"failed 1 times .* no reply within answerer.endpoint.timeout_s = 0.1 s"):
        answerer(server.port, timeout_s=0.1, retries=0).answer(REQUESTS[:2])


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (404, {"error": {"message": "The model does not exist."}}, "does not exist.*the server has the-served-one"),
        (404, {"detail": "Not Found"}, "Not Found.*answerer.endpoint.url"),
        (401, "who are you", "OPENAI_API_KEY"),
        (400, {"message": "At most 1 image(s) may be provided"}, "At most 1 image"),
    ],
)
def test_a_wrong_request_ends_at_once(serve: Callable[..., Server], status: int, content: Any, says: str) -> None:
    server = serve(lambda number, body: (status, content))
    with pytest.raises(Outage, match=f"refuses a request for 'tiny'.*{says}") as caught:
        answerer(server.port, concurrency=1).answer(REQUESTS)
    assert len(server.bodies) == 1 and "\n" not in str(caught.value)


def test_a_server_that_is_away_is_waited_for(serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]) -> None:
    first = serve()
    expected = answerer(first.port).answer(REQUESTS)
    first.stop()
    late = threading.Timer(0.5, lambda: serve(port=first.port))
    late.start()
    assert answerer(first.port).answer(REQUESTS) == expected
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 2 and "does not answer" in told[0] and "answers again" in told[1]


def test_patience_ends(serve: Callable[..., Server]) -> None:
    server = serve()
    server.stop()
    began = time.monotonic()
    with pytest.raises(Outage, match=r"was away for .* longer than answerer\.endpoint\.patience_s"):
        answerer(server.port, patience_s=0.3).answer(REQUESTS)
    assert 0.3 <= time.monotonic() - began < 2


def test_a_stage_that_is_told_to_stop_waits_no_longer(serve: Callable[..., Server]) -> None:
    server = serve()
    one = answerer(server.port, patience_s=60.0)
    one.stopped = lambda: True
    assert len(one.answer(REQUESTS)) == 12  # a server that answers is not left
    server.stop()
    with pytest.raises(Outage, match="stopped while"):
        one.answer([Request(item(0), (7,))])


def test_replies_are_kept_for_other_processes(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    known = {"name": "tiny"}
    first = answerer(server.port, ReplyCache(tmp_path, known))
    replies = first.answer(REQUESTS)
    second = answerer(server.port, ReplyCache(tmp_path, known))
    assert second.answer(REQUESTS) == replies and len(server.bodies) == 12
    assert first.counts() == {"asked": 12, "known_replies": 0}
    assert second.counts() == {"asked": 0, "known_replies": 12}
    other = answerer(server.port, ReplyCache(tmp_path, {"name": "other"}))
    other.answer(REQUESTS)
    assert len(server.bodies) == 24
    second.cache.counts["v0"] = 9  # another video under the same id
    assert second._identity(REQUESTS[0]) != first._identity(REQUESTS[0])


def test_names_of_models(tmp_path: Path) -> None:
    folder = tmp_path / "answerer"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    name = served_name(Endpoint().model, folder)
    path, _, weights = name.partition("@")
    assert path == str(folder) and len(weights) == 16
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert served_name(Endpoint().model, folder) not in (name, path)
    assert served_name(Endpoint().model, Path("Qwen/Qwen2.5-VL-7B-Instruct")) == "Qwen/Qwen2.5-VL-7B-Instruct@main"
    assert served_name("served", tmp_path / "none") == "served"
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        served_name(Endpoint().model, tmp_path / "none")


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="frames_as: images"):
        AnswererSettings(prompt="short", max_new_tokens=4, backend="endpoint")
    with pytest.raises(ValueError, match=r"backend\s+Input should be 'transformers' or 'endpoint' .*'vllm'"):
        AnswererSettings(prompt="short", max_new_tokens=4, backend="vllm")
    here = AnswererSettings(
        prompt="short", max_new_tokens=4, batch_size=7, endpoint=Endpoint(url="http://elsewhere", model="x")
    )
    assert "batch_size" not in counted(here) and counted(here)["endpoint"] == {"model": "x"}
    assert counted(replace(here, batch_size=1, endpoint=Endpoint(url="http://b", retries=1, model="x"))) == counted(
        here
    )
