#!/bin/bash
# PyAV: a look at frame.side_data keeps the whole decoded frame in memory until Python's garbage collector runs.
#
# One would guess: reading a property is free of charge, and a frame that nobody holds is freed at once, as PyAV's
#   frames are, so that a loop over a video needs the memory of a few frames.
# What happens: side_data builds a container that points to the frame, and the frame keeps the container: a reference
#   cycle. Such frames wait for the cyclic collector, which counts Python objects, not megabytes: it sees a few
#   small ones and has no hurry. A loop over 280 frames of 1280 x 720, which have no side data at all, grows by some
#   200 MB where the same loop without the property does not grow; with the collector off, all 280 frames stay.
#   frame.rotation, which reads the same side data, does not do it.
# Why it matters: display matrices, captions and film grain are read through this property. A pipeline that samples
#   frames and looks at it for each frame needs many times the memory, more the larger the video, in every worker.
#   Read it of one frame, or call gc.collect() now and then.
# Seen with: PyAV 18.1.0, CPython 3.11.
# Source: no public report of side_data found; https://github.com/PyAV-Org/PyAV/issues/2206 and
#   https://github.com/PyAV-Org/PyAV/issues/517 are of other cycles with the same effect.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cat > loop.py <<'PYTHON'
import gc
import sys
from pathlib import Path

import av

what, collector = sys.argv[1:]
if collector == "off":
    gc.disable()


def megabytes():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


with av.open("video.mp4") as container:
    frames = container.decode(video=0)
    for _ in range(20):  # until the decoder has its buffers
        next(frames)
    before = megabytes()
    for frame in frames:
        if what != "nothing":
            getattr(frame, what)
    del frame
    grown = megabytes() - before
kept = sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
print(f"{what:9} collector {collector:3}: {grown:4.0f} MB more, {kept:3} frames that nobody holds", end="")
gc.collect()
print(f"; after gc.collect(): {sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())}")
if what == "side_data":
    assert grown > 80 and kept > 60
    assert collector == "on" or kept == 280
else:
    assert grown < 40 and kept == 0
PYTHON
venv/bin/python - <<'PYTHON'
import av
import numpy as np

print("av", av.__version__)
with av.open("video.mp4", "w") as output:
    stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "x264-params": "log-level=none"})
    stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
    for number in range(300):
        picture = np.full((720, 1280, 3), number // 2, np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    output.mux(stream.encode())
PYTHON
for what in nothing rotation side_data; do
  for collector in on off; do
    venv/bin/python loop.py "$what" "$collector"
  done
done
echo "As described."
