#!/bin/bash
# PyAV: the time stamps of H.264 in AVI are those of decoding, though they are called pts.
#
# One would guess: frame.pts says when a frame is shown, so it rises from frame to frame, and sorting by it is harmless.
#   At worst, where a container keeps no such times, pts is None.
# What happens: AVI keeps none, and pts is not None. PyAV hands over numbers that count packets in the order of
#   decoding. The frames themselves come out in the right order; their pts go up and down (1, 4, 3, 5, 2, …). Whoever
#   sorts by pts, or picks the frame whose pts is nearest to a time, gets another frame in 72 of 100 cases.
# Why it matters: a pipeline that samples frames by time shows frames from elsewhere and in another order; the usual
#   check (is pts None?) passes. The sign that tells: pts of consecutive decoded frames do not rise.
# Seen with: PyAV 18.1.0 (FFmpeg 8.1 inside), as it is installed from its wheel.
# Source: https://github.com/PyAV-Org/PyAV/issues/534 (the same surprise with AVI and MKV files),
#   https://github.com/xbmc/xbmc/pull/2057 (a player's remedy for H.264 in AVI).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
from fractions import Fraction

import av
import numpy as np

print("av", av.__version__, {name: ".".join(map(str, version)) for name, version in av.library_versions.items()})


def picture(number):
    """Eight upright bars, dark or bright: the bits of the frame's number."""
    bars = np.repeat(25 + 200 * (number >> np.arange(8) & 1), 16)
    return np.tile(bars[None, :, None], (64, 1, 3)).astype(np.uint8)


def number_of(frame):
    return int(((frame.to_ndarray(format="rgb24")[32, 8::16].mean(-1) > 128) << np.arange(8)).sum())


def look(path):
    """Return the pts of the frames as they come, and the frames' numbers sorted by pts."""
    with av.open(path, "w") as output:
        parameters = "keyint=50:min-keyint=50:scenecut=0:bframes=3:b-adapt=0:log-level=none"
        stream = output.add_stream("libx264", rate=25, options={"x264-params": parameters})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with av.open(path) as container:
        stream = container.streams.video[0]
        pairs = [(round(frame.pts * stream.time_base * 25), number_of(frame)) for frame in container.decode(stream)]
    assert [number for _, number in pairs] == list(range(100))
    by_time = [number for _, number in sorted(pairs)]
    wrong = sum(number != place for place, number in enumerate(by_time))
    print(f"{path}: pts of the first frames, in frames: {[pts for pts, _ in pairs[:12]]}")
    print(f"{'':{len(path)}}  numbers of the first frames, sorted by pts: {by_time[:12]}; {wrong} of 100 misplaced")
    return [pts for pts, _ in pairs], wrong


stamps, wrong = look("h264.mp4")
assert stamps == list(range(100)) and wrong == 0
stamps, wrong = look("h264.avi")
assert None not in stamps and stamps != sorted(stamps) and wrong > 50
PYTHON
echo "As described."
