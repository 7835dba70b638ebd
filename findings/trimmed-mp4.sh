#!/bin/bash
# A trimmed MP4 counts frames that it never shows, and samplers go by that count.
#
# One would guess: a video that shows 50 frames has 50 by everybody's count, and 8 frames asked for are 8 frames.
# What happens: an MP4 that was cut without encoding again keeps all frames from the keyframe before the cut on; an
#   edit list hides the first ones. PyAV's stream.frames, OpenCV's CAP_PROP_FRAME_COUNT and len() of decord's reader
#   count the hidden ones too: 70. transformers' load_video spreads its picks over those 70: of 8 frames asked for it
#   returns 6, with metadata that names 8. decord's get_batch hands out frames 50, 60, 70 and then 60, 70 again:
#   it goes back in time, and what it returns at an index differs from reading in order. None of the three warns
#   (decord does when all 70 are read in order: the last 20 are then repeats of the last frame).
# Why it matters: clips of data sets and trims of phones are such files. A pipeline that samples frames by the count
#   sees a shorter stretch than it believes, some of it twice, and writes wrong time stamps into the prompt.
# Seen with: PyAV 18.1.0, decord 0.6.0, opencv-python-headless 5.0.0.93, transformers 5.23.0 (without PyTorch).
# Source: https://github.com/vllm-project/vllm/pull/48608 mends the same in vLLM's loaders.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  av==18.1.0 decord==0.6.0 opencv-python-headless==5.0.0.93 transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
from fractions import Fraction

import av
import cv2
import decord
import numpy as np
import transformers
from transformers.video_utils import load_video

print("av", av.__version__, "decord", decord.__version__, "cv2", cv2.__version__)
print("transformers", transformers.__version__)


def picture(number):
    """Eight upright bars, dark or bright: the bits of the frame's number."""
    bars = np.repeat(25 + 200 * (number >> np.arange(8) & 1), 16)
    return np.tile(bars[None, :, None], (64, 1, 3)).astype(np.uint8)


def numbers(images):
    return [int(((image[32, 8::16].mean(-1) > 128) << np.arange(8)).sum()) for image in images]


with av.open("whole.mp4", "w") as output:
    stream = output.add_stream("libx264", rate=25, options={"x264-params": "keyint=30:scenecut=0:log-level=none"})
    stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
    for number in range(100):
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        output.mux(stream.encode(frame))
    output.mux(stream.encode())

# The cut at frame 50: packets from the keyframe 30 on, with times that begin at -20 frames, as `-ss 2 -c copy` does.
with av.open("whole.mp4") as source, av.open("trimmed.mp4", "w") as output:
    stream = source.streams.video[0]
    copy = output.add_stream_from_template(stream)
    step = round(1 / (25 * stream.time_base))
    begun = False
    for packet in source.demux(stream):
        begun = begun or (packet.is_keyframe and packet.pts == 30 * step)
        if begun and packet.size:
            packet.pts, packet.dts, packet.stream = packet.pts - 50 * step, packet.dts - 50 * step, copy
            output.mux(packet)

with av.open("trimmed.mp4") as container:
    counts = {"PyAV": container.streams.video[0].frames}
    shown = numbers(frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
counts["OpenCV"] = int(cv2.VideoCapture("trimmed.mp4").get(cv2.CAP_PROP_FRAME_COUNT))
counts["decord"] = len(decord.VideoReader("trimmed.mp4"))
print(f"frames shown: {len(shown)}, from {shown[0]} to {shown[-1]}; counted: {counts}")
assert shown == list(range(50, 100)) and set(counts.values()) == {70}

frames, metadata = load_video("trimmed.mp4", num_frames=8)
print(f"load_video(num_frames=8): {len(frames)} frames, numbers {numbers(frames)};", end=" ")
print(f"its metadata: {len(metadata.frames_indices)} indices {metadata.frames_indices.tolist()}, {metadata.duration} s")
assert len(frames) == 6 and len(metadata.frames_indices) == 8 and metadata.duration == 2.8

asked = list(range(0, 70, 10))
batch = numbers(decord.VideoReader("trimmed.mp4").get_batch(asked).asnumpy())
reader = decord.VideoReader("trimmed.mp4")
ordered = numbers(reader[index].asnumpy() for index in range(70))
print(f"decord, indices {asked}: get_batch gives {batch}, reading in order {[ordered[index] for index in asked]}")
assert batch == [50, 60, 70, 60, 70, 80, 90] and ordered == shown + [99] * 20
PYTHON
echo "As described."
