#!/bin/bash
# decord: the frames that are sampled are not those that reading in order gives, in H.264 AVI and in open-GOP HEVC.
#
# One would guess: get_batch([60]) is the 61st frame that the same reader gives when every frame is read. Indexing
#   is meant to seek exactly (https://github.com/dmlc/decord/issues/130), and with H.264 in MP4 it does.
# What happens: read from the first frame to the last, all three files below come out right. Sampled, only the MP4 with
#   H.264 does. In AVI everything behind the first keyframe interval is that interval again: index 60 gives frame 10,
#   100 gives 0, 160 gives 10. decord seeks by time stamps, has none for H.264 in AVI (get_frame_timestamp says
#   -3.7e17 seconds), and lands at the start. In HEVC with x265's default of open GOPs, indices are some frames off
#   (100 gives 104): after a seek the decoder drops the pictures that need the GOP before, and decord counts on as if
#   it had not. No error, no warning.
# Why it matters: a pipeline that samples frames never reads in order, so a test that does cannot find this; the
#   pictures look right, they are only from another time.
# Seen with: decord 0.6.0 (videos written with PyAV 18.1.0).
# Source: https://github.com/dmlc/decord/issues/252 (AVI), https://github.com/dmlc/decord/issues/365 (many B-frames).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 decord==0.6.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
from fractions import Fraction

import av
import decord
import numpy as np

print("decord", decord.__version__, "av", av.__version__)


def picture(number):
    """Eight upright bars, dark or bright: the bits of the frame's number."""
    bars = np.repeat(25 + 200 * (number >> np.arange(8) & 1), 16)
    return np.tile(bars[None, :, None], (64, 1, 3)).astype(np.uint8)


def numbers(images):
    return [int(((image[32, 8::16].mean(-1) > 128) << np.arange(8)).sum()) for image in images]


def look(path, codec, options):
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(200):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    reader = decord.VideoReader(path)
    assert numbers(reader[index].asnumpy() for index in range(len(reader))) == list(range(200))
    asked = list(range(0, 200, 20))
    got = numbers(decord.VideoReader(path).get_batch(asked).asnumpy())
    print(f"{path}: in order right; asked for {asked}")
    print(f"{'':{len(path)}}                 got       {got}; keyframes {reader.get_key_indices()}")
    return got


h264 = {"x264-params": "keyint=50:min-keyint=50:scenecut=0:log-level=none"}
assert look("h264.mp4", "libx264", h264) == list(range(0, 200, 20))
assert look("h264.avi", "libx264", h264) == [0, 20, 40, 10, 30, 0, 20, 40, 10, 30]
got = look("hevc.mp4", "libx265", {"x265-params": "keyint=50:log-level=none"})
assert got != list(range(0, 200, 20)) and got == sorted(got)
PYTHON
echo "As described."
