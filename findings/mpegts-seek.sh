#!/bin/bash
# MPEG-TS: PyAV's seek back to a keyframe lands on the next one, and OpenCV never reaches the first seconds.
#
# One would guess: PyAV's container.seek(time), which goes backward by default, lands on the last keyframe at or before
#   the time, so that decoding on from there meets the wanted frame; OpenCV's CAP_PROP_POS_FRAMES gives the frame asked
#   for. Both hold for MP4.
# What happens in MPEG-TS with B-frames: the position that FFmpeg finds lies behind the keyframe's packet, and the
#   decoder waits for the next keyframe. With PyAV every seek comes out late, by up to a GOP and more: a seek to the
#   very first frame gives frame 50, one to frame 160 gives nothing, though 40 frames are left. OpenCV tries earlier
#   places until it stands before the frame, but at the start of the file there is none: frames 1 to 50 are all
#   frame 51, and read() reports success. Read in order, all frames are there, with both.
# Why it matters: recordings of television, camcorders and streams are MPEG-TS. A pipeline that samples frames by
#   seeking gets frames from another time, several times the same one, or believes that the video ends early.
# Seen with: PyAV 18.1.0, opencv-python-headless 5.0.0.93 and 4.14.0.94.
# Source: https://github.com/JuliaIO/VideoIO.jl/pull/467 (the same of FFmpeg, seen from Julia, with a remedy),
#   https://github.com/opencv/opencv/issues/20227 (an .mpg in OpenCV).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
# FFmpeg's notes of a decoder that begins between keyframes go to standard error; hidden here.
OPENCV_FFMPEG_LOGLEVEL=-8 venv/bin/python - <<'PYTHON'
from fractions import Fraction

import av
import cv2
import numpy as np

print("av", av.__version__, "cv2", cv2.__version__)
ASKED = [0, 1, 20, 40, 60, 100, 120, 160]


def picture(number):
    """Eight upright bars, dark or bright: the bits of the frame's number."""
    bars = np.repeat(25 + 200 * (number >> np.arange(8) & 1), 16)
    return np.tile(bars[None, :, None], (64, 1, 3)).astype(np.uint8)


def number_of(image):
    return int(((image[32, 8::16].mean(-1) > 128) << np.arange(8)).sum())


def encode(path):
    with av.open(path, "w") as output:
        parameters = "keyint=50:min-keyint=50:scenecut=0:bframes=2:b-adapt=0:log-level=none"
        stream = output.add_stream("libx264", rate=25, options={"x264-params": parameters})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(200):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def first_after_seek(path, index):
    """Return the number of the frame that PyAV decodes first after a seek to the time of frame `index`."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        container.seek(stream.start_time + round(index / 25 / stream.time_base), stream=stream)
        frame = next(container.decode(stream), None)
        return frame and number_of(frame.to_ndarray(format="rgb24"))


def read_at(path, index):
    """Return the number of the frame that OpenCV reads after it was set to frame `index`."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    assert capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    success, image = capture.read()
    assert success
    return number_of(image)


def look(path):
    encode(path)
    with av.open(path) as container:
        ordered = [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert ordered == list(range(200))
    sought, read = [first_after_seek(path, index) for index in ASKED], [read_at(path, index) for index in ASKED]
    print(f"{path}, keyframes every 50; in order right. Asked for: {ASKED}")
    print(f"  PyAV, first frame after the seek:                         {sought}")
    print(f"  OpenCV, frame that is read:                               {read}")
    return sought, read


sought, read = look("video.mp4")
assert sought == [0, 0, 0, 0, 50, 100, 100, 150] and read == ASKED
sought, read = look("video.ts")
assert sought[0] == 50 and sought[-1] is None and all(number > index for number, index in zip(sought[:-1], ASKED))
assert read == [50, 51, 51, 51, 60, 100, 120, 160]
PYTHON
echo "As described."
