"""Decoding a whole video in a child process that can be killed: the fallback of `reader`, and the home of decord.

The child answers on standard output with lines of JSON: for each frame its number and shape, then its pixels, and at
the end the rest of the reading, or why there is none. Nothing is pickled: a decoder led astray can send no code.
"""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any

import av
import numpy as np
from av.video.frame import VideoFrame

import viarl
from viarl.video.container import Reading, T, Timeline, Transform, make_reading, open_video, read_timeline
from viarl.video.format import VideoError, describe, sample_indices
from viarl.video.picture import Pictures

Keep = Callable[[int, np.ndarray], None]  # takes a candidate's frame number and the frame, (H, W, 3) uint8


def read_sequentially(path: Path, candidates: int, keep: Keep) -> Reading[None]:
    """Decode every frame in order and `keep` the candidates; VideoError for damage.

    How many frames there are is known at the end. Where the packets say it wrongly, all is decoded a second time.
    """
    container, stream = open_video(path)
    with container:
        timeline = read_timeline(path, container, stream, float("inf"))  # the parent process holds the clock
    total, found = -1, timeline.total
    while found != total:
        total = found
        indices = sample_indices(total, candidates)
        stamps, notes = decode_in_order(path, timeline, set(indices.tolist()), keep)
        found = len(stamps)
    if timeline.by_decoding and total == timeline.total:
        notes.append("time stamps are those of decoding: sorted")
        return make_reading([], indices, total, timeline.stamps, timeline, "sequential", notes)
    known = np.array([stamp for stamp in stamps if stamp is not None])
    usable = len(known) == total and known[0] < known[-1] and (np.diff(known) >= 0).all() and not timeline.by_decoding
    return make_reading([], indices, total, known if usable else None, timeline, "sequential", notes)


def decode_in_order(path: Path, timeline: Timeline, wanted: set[int], keep: Keep) -> tuple[list[int | None], list[str]]:
    """Return the stamps of all frames in the decoder's order, and notes; `keep` gets the wanted ones with their number.

    What comes before the first keyframe is no frame. VideoError where the decoder finds damage or loses a packet
    without a word, but for the last packet of a stream without end, which may be cut off.
    """
    stamps: list[int | None] = []
    halves = False  # packets that hold one field of an interlaced frame
    notes = [f"{timeline.first} packets before the first keyframe left out"] if timeline.first else []

    def judge(stamp: int | None, damage: str) -> None:
        if stamp is None or stamp not in timeline.cut:
            raise VideoError(f"is damaged at frame {len(stamps)} of {timeline.total} ({damage})")
        notes.append("its last frame is cut off and left out")

    container, stream = open_video(path)
    with container:
        pictures = Pictures(stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        for packet in chain(islice(packets, timeline.first, None), [None]):  # at last what the decoder holds back
            frames: list[VideoFrame] = []
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError as error:
                judge(None if packet is None else packet.pts, describe(error))
            for frame in frames:
                if frame.is_corrupt:
                    judge(frame.pts, "the decoder marks it")
                    continue
                if len(stamps) in wanted:
                    keep(len(stamps), pictures(frame))
                stamps.append(frame.pts)
                halves = halves or frame.interlaced_frame
        if stream.codec_context.name in ("h264", "hevc") and not halves:
            check_none_lost(timeline, stamps)
    return stamps, [*notes, *pictures.notes]


def check_none_lost(timeline: Timeline, stamps: list[int | None]) -> None:
    """Raise VideoError where a packet behind the first frame gave none, though in this codec each holds one."""
    if timeline.stamps is None or timeline.by_decoding or not stamps or stamps[0] is None:
        return
    behind = timeline.stamps[timeline.stamps > stamps[0]]
    if lost := set(behind.tolist()) - {*stamps, *timeline.cut}:
        raise VideoError(f"is damaged: {len(lost)} of {timeline.total} frames do not come out of the decoder")


def read_with_decord(path: Path, candidates: int, keep: Keep) -> Reading[None]:
    """Read as the authors do, with decord's get_batch at one thread; it makes silent errors: see `reader`.

    VideoError where its frames cannot be those that are shown; the notes name what may be wrong besides.
    """
    import decord

    container, stream = open_video(path)
    with container:
        timeline, is_avi = read_timeline(path, container, stream, float("inf")), container.format.name == "avi"
    if doubt := timeline.doubt or ("it seeks in AVI by time stamps that are not there" if is_avi else ""):
        raise VideoError(f"may be read wrongly by decord ({doubt}): set frames.reader to pyav")
    container, stream = open_video(path)
    with container:
        pictures, codec = Pictures(stream), stream.codec_context.name
        pictures(next(container.decode(stream)))
    try:
        source = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        total = len(source)
        indices = sample_indices(total, candidates)
        batch = source.get_batch(indices).asnumpy()  # (n, H, W, 3)
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"decord cannot read it ({str(error).strip().splitlines()[-1]})") from error
    if total != timeline.total:
        raise VideoError(f"has {timeline.total} frames, and decord finds {total}: set frames.reader to pyav")
    for number, frame in zip(indices.tolist(), batch, strict=True):
        keep(number, frame)
    # It turns pictures and scales them to one size, but leaves the rest.
    notes = [f"decord leaves out: {one}" if one.startswith(("mirrored", "pixels")) else one for one in pictures.notes]
    if codec == "hevc" or timeline.leading:
        notes = [*notes, "decord may give neighbouring frames: HEVC or an open GOP"]
    return make_reading([], indices, total, timeline.stamps, timeline, "decord", notes)


ARRAYS = {"indices": np.int64, "pts": np.int64, "times": np.float64}  # of a Reading
METHODS: dict[str, Callable[..., Reading[Any]]] = {"sequential": read_sequentially, "decord": read_with_decord}


def serve() -> None:
    """Do what the arguments of the command line say; runs in the child."""
    method, path, candidates = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not mix with the answer

    def send(number: int, frame: np.ndarray) -> None:
        head = json.dumps({"number": number, "shape": frame.shape})
        answers.write(head.encode() + b"\n" + np.ascontiguousarray(frame).tobytes())

    try:
        reading = METHODS[method](Path(path), int(candidates), send)
        lists = {name: getattr(reading, name).tolist() for name in ARRAYS}
        rest = {name: getattr(reading, name) for name in ("total", "fps", "duration", "how", "notes")}
        answer = {**lists, **rest, "time_base": str(reading.time_base)}
    except VideoError as error:
        answer = {"error": str(error)}
    with answers:
        answers.write(json.dumps(answer).encode() + b"\n")


def receive(answers: IO[bytes], transform: Transform[T]) -> Reading[T]:
    """Read what `serve` writes, each frame transformed as it comes; VideoError: the child's, EOFError: ends early."""
    found: dict[int, T] = {}  # a method that finds it was wrong about their number sends others
    while line := answers.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise VideoError(answer["error"])
        if "shape" not in answer:
            indices, pts, times = (np.array(answer[name], dtype) for name, dtype in ARRAYS.items())
            rest = {name: answer[name] for name in ("total", "fps", "duration", "how")}
            frames = [found[number] for number in indices.tolist()]
            base, notes = Fraction(answer["time_base"]), tuple(answer["notes"])
            return Reading(frames, indices, pts, times, base, **rest, notes=notes)
        height, width, channels = answer["shape"]
        pixels = answers.read(height * width * channels)
        if len(pixels) < height * width * channels:
            break
        found[answer["number"]] = transform(np.frombuffer(pixels, np.uint8).reshape(height, width, channels))
    raise EOFError


def read_in_child(method: str, path: Path, candidates: int, transform: Transform[T], timeout_s: float) -> Reading[T]:
    """Run one of `METHODS` in a child process, killed after `timeout_s`; VideoError."""
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
