#!/bin/bash
# PyAV: reformat(dst_color_trc=…) changes the pixels, though its documentation says that it writes a label only.
#
# One would guess: what the docstring of VideoReformatter.reformat says: dst_color_trc sets metadata of the frame and
#   converts no pixel by a transfer function.
# What happens: as soon as the video names its own transfer function and another is asked for, swscale converts: of a
#   PQ (HDR) ramp almost all pixels change, by up to 106 of 255 steps, and everything bright ends in plain white.
#   Without the argument, or with the video's own, the code values stay as they are.
# Why it matters: who sets the argument to label the frames of a data set alike alters them, each video by its own
#   transfer function; who needs HDR converted for a model that was trained on ordinary video has it here, and is told
#   that it does not exist. Frames of a pipeline that samples them differ by such a "label".
# Seen with: PyAV 18.1.0 (docstring of av/video/reformatter.py).
# Source: https://github.com/PyAV-Org/PyAV/pull/2175 brought the argument, https://github.com/PyAV-Org/PyAV/pull/2336
#   speaks of conversion on request.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import av
import numpy as np
from av.video.reformatter import ColorTrc, VideoReformatter

print("av", av.__version__)
documented = " ".join((VideoReformatter.reformat.__doc__ or "").split())
print("documented:", documented[documented.index(":param dst_color_trc") :].split(":type")[0])
assert "does not perform a pixel-level transfer function conversion" in documented

RAMP = np.tile(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], (64, 1, 3))


def look(transfer):
    """Return by how much the pixels change at most for each wanted transfer function."""
    with av.open("ramp.mp4", "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0", "x264-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.color_trc = transfer
        output.mux(stream.encode(av.VideoFrame.from_ndarray(RAMP, format="rgb24")))
        output.mux(stream.encode())
    changes = {}
    for wanted in dict.fromkeys((None, transfer, ColorTrc.BT709, ColorTrc.IEC61966_2_1)):
        with av.open("ramp.mp4") as container:
            frame = next(container.decode(video=0))
        assert frame.color_trc == transfer
        plain = frame.to_ndarray(format="rgb24").astype(int)
        labelled = VideoReformatter().reformat(frame, format="rgb24", dst_color_trc=wanted).to_ndarray()
        difference = np.abs(labelled - plain)
        changes[wanted] = int(difference.max())
        print(f"video {transfer.name:12} dst_color_trc {wanted.name if wanted else None!s:13}", end=" ")
        print(f"pixels changed: {(difference > 0).mean():4.0%}, at most by {difference.max():3}", end="; ")
        print(f"grey 64, 128, 192 become {labelled[32, [32, 64, 96], 0].tolist()}")
    return changes


for transfer in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67, ColorTrc.BT709):
    changes = look(transfer)
    assert changes[None] == changes[transfer] == 0
    assert all(change > 5 for wanted, change in changes.items() if wanted not in (None, transfer))
PYTHON
echo "As described."
