"""Decoding a whole video in a child process that can be killed: the fallback of `reader`, and the home of decord.

The child answers on standard output with lines of JSON: for each frame its shape, followed by its pixels, and at the
end the rest of the reading, or why there is none. Nothing is pickled, so that a decoder led astray can send no code.
"""

import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

import viarl
from viarl.video.container import Reading, T, Transform, make_reading, open_video, read_timeline, to_rgb
from viarl.video.format import VideoError, describe, sample_indices


def read_sequentially(path: Path, candidates: int, transform: Transform[T]) -> Reading[T]:
    """Decode every frame in order and keep the candidates; VideoError for damage and another number of frames."""
    container, stream = open_video(path)
    with container:
        timeline = read_timeline(container, stream, float("inf"))  # the parent process holds the clock
    indices = sample_indices(timeline.total, candidates)
    wanted, frames, pts, count = set(indices.tolist()), [], [], 0
    converter = VideoReformatter()
    container, stream = open_video(path)
    with container:
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoError(f"is damaged at frame {count} of {timeline.total}")
                if count in wanted:
                    frames.append(transform(to_rgb(frame, converter)))
                    pts.append(frame.pts)
                count += 1
        except av.FFmpegError as error:
            raise VideoError(f"is damaged at frame {count} of {timeline.total} ({describe(error)})") from error
    if count != timeline.total:
        raise VideoError(f"gives {count} frames where its container holds {timeline.total}")
    if timeline.stamps is not None and pts != timeline.stamps[indices].tolist():
        raise VideoError("gives frames with other time stamps than its container states")
    stamps = indices if timeline.stamps is None else timeline.stamps[indices]
    return make_reading(frames, indices, stamps, timeline, "sequential")


def read_with_decord(path: Path, candidates: int, transform: Transform[T]) -> Reading[T]:
    """Read as the authors do, with decord's get_batch at one thread; it makes silent errors: see `reader`."""
    import decord

    try:
        source = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        total, fps = len(source), float(source.get_avg_fps())
        indices = sample_indices(total, candidates)
        batch = source.get_batch(indices).asnumpy()  # (n, H, W, 3)
        spans = source.get_frame_timestamp(np.arange(total))  # (total, 2): start and end in seconds
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"decord cannot read it ({str(error).strip().splitlines()[-1]})") from error
    base = Fraction(1, 1_000_000)
    starts = np.round(spans[:, 0].astype(np.float64) / float(base)).astype(np.int64)
    times = (starts[indices] - starts[0]) * float(base)
    duration = float(spans[-1, 1] - spans[0, 0])
    if not 0 < duration < 1e7:  # containers without time stamps, such as AVI, give nonsense
        base = 1 / Fraction(fps).limit_denominator(100_000)
        starts, times, duration = np.arange(total), indices / fps, total / fps
    frames = [transform(frame) for frame in batch]
    return Reading(frames, indices, starts[indices], times, base, total, fps, duration, "decord")


ARRAYS = {"indices": np.int64, "pts": np.int64, "times": np.float64}  # of a Reading
METHODS: dict[str, Callable[..., Reading[Any]]] = {"sequential": read_sequentially, "decord": read_with_decord}


def serve() -> None:
    """Do what the arguments of the command line say; runs in the child."""
    method, path, candidates = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not mix with the answer

    def send(frame: np.ndarray) -> None:
        answers.write(json.dumps({"shape": frame.shape}).encode() + b"\n" + np.ascontiguousarray(frame).tobytes())

    try:
        reading = METHODS[method](Path(path), int(candidates), send)
        lists = {name: getattr(reading, name).tolist() for name in ARRAYS}
        rest = {name: getattr(reading, name) for name in ("total", "fps", "duration", "how")}
        answer = {**lists, **rest, "time_base": str(reading.time_base)}
    except VideoError as error:
        answer = {"error": str(error)}
    with answers:
        answers.write(json.dumps(answer).encode() + b"\n")


def receive(answers: IO[bytes], transform: Transform[T]) -> Reading[T]:
    """Read what `serve` writes, each frame transformed as it comes; VideoError: the child's, EOFError: ends early."""
    frames: list[T] = []
    while line := answers.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise VideoError(answer["error"])
        if "shape" not in answer:
            indices, pts, times = (np.array(answer[name], dtype) for name, dtype in ARRAYS.items())
            base, total = Fraction(answer["time_base"]), int(answer["total"])
            return Reading(frames, indices, pts, times, base, total, answer["fps"], answer["duration"], answer["how"])
        height, width, channels = answer["shape"]
        pixels = answers.read(height * width * channels)
        if len(pixels) < height * width * channels:
            break
        frames.append(transform(np.frombuffer(pixels, np.uint8).reshape(height, width, channels)))
    raise EOFError


def read_in_child(method: str, path: Path, candidates: int, transform: Transform[T], timeout_s: float) -> Reading[T]:
    """Run one of `METHODS` in a child process, killed after `timeout_s`: VideoError; ValueError: no decord."""
    if method == "decord" and importlib.util.find_spec("decord") is None:
        raise ValueError("reader 'decord' is not installed: run `pip install decord`, or set frames.reader to 'pyav'")
    root = str(Path(viarl.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-c", "from viarl.video.child import serve; serve()", method, str(path), str(candidates)]
    stopped = threading.Event()
    with tempfile.TemporaryFile() as messages:  # a file, as nobody reads it before the child has ended
        child = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=messages, env=environment)
        assert child.stdout is not None

        def stop() -> None:
            stopped.set()
            child.kill()

        clock = threading.Timer(timeout_s, stop)
        clock.start()
        try:
            return receive(child.stdout, transform)
        except EOFError as error:
            status = child.wait()
            if stopped.is_set():
                raise VideoError(f"the {method} reader was stopped after {timeout_s:g} s (`timeout_s`)") from error
            messages.seek(0)
            lines = messages.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise VideoError(f"the {method} reader ended with status {status} ({lines[-1]})") from error
        finally:
            clock.cancel()
            child.kill()  # where the transform failed; no harm to one that has ended
            child.stdout.close()
            child.wait()
