#!/bin/bash
# A mirrored video comes out upside down: decord and OpenCV turn it by half, and PyAV's frame.rotation says so too.
#
# One would guess: decord and OpenCV bring a video upright as a player shows it, since they do it for turned ones; and
#   where PyAV leaves that to the caller, frame.rotation is what is needed for it.
# What happens: the container's nine numbers (the display matrix) can mirror as well as turn, and all three read one
#   angle out of it. For a matrix that mirrors left and right (-1 0 / 0 1) the angle is 180 degrees: the picture is put
#   on its head. For one that mirrors top and bottom (1 0 / 0 -1) it is 0: nothing is done. FFmpeg's own command and
#   players mirror. PyAV does hand out the nine numbers, in frame.side_data; a negative determinant says "mirrored".
# Why it matters: recorders and editors that flip without encoding again write such files (for one, ZoneMinder:
#   https://github.com/ZoneMinder/zoneminder/pull/4915). A pipeline that samples frames asks a model about pictures on
#   their head, in which left is right.
# Seen with: PyAV 18.1.0, decord 0.6.0, opencv-python-headless 5.0.0.93.
# Source: https://github.com/FFMS/ffms2/issues/317 and https://github.com/mpv-player/mpv/pull/16090 (two other readers
#   that had the same and mended it); https://github.com/PyAV-Org/PyAV/pull/1675 (frame.rotation).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  av==18.1.0 decord==0.6.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import av
import cv2
import decord
import numpy as np

print("av", av.__version__, "decord", decord.__version__, "cv2", cv2.__version__)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
STORED = np.zeros((64, 128, 3), np.uint8)
STORED[:32, :64], STORED[:32, 64:], STORED[32:, :64], STORED[32:, 64:] = COLOURS.values()


def corners(image):
    """Name the colours: top left, top right, bottom left, bottom right."""
    height, width = image.shape[:2]
    places = [image[y, x].astype(int) for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]
    return " ".join(min(COLOURS, key=lambda name: np.abs(place - COLOURS[name]).sum()) for place in places)


def look(path, angle, **mirror):
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0", "x264-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.set_display_rotation(angle, **mirror)
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(STORED, format="rgb24")))
        output.mux(stream.encode())
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        matrix = np.frombuffer(next(data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), np.int32)
        (a, b), (c, d) = (matrix.reshape(3, 3)[:2, :2] / 65536).round().astype(int).tolist()
        angle = abs(frame.rotation)
    # By the matrix, the point (x, y) of the picture, measured from its middle, is shown at (a x + c y, b x + d y).
    shown = np.zeros_like(STORED if a else STORED.transpose(1, 0, 2))
    height, width = STORED.shape[:2]
    for y in range(height):
        for x in range(width):
            right, down = 2 * x + 1 - width, 2 * y + 1 - height
            new_x, new_y = a * right + c * down, b * right + d * down
            shown[(new_y + shown.shape[0] - 1) // 2, (new_x + shown.shape[1] - 1) // 2] = STORED[y, x]
    of_decord = corners(decord.VideoReader(path)[0].asnumpy())
    of_opencv = corners(cv2.VideoCapture(path, cv2.CAP_FFMPEG).read()[1][:, :, ::-1])
    print(f"{path}: matrix {a} {b} / {c} {d}, determinant {a * d - b * c}; PyAV's |frame.rotation| {angle}")
    print(f"  by the matrix: {corners(shown)}; decord: {of_decord}; OpenCV: {of_opencv}")
    return corners(shown), of_decord, of_opencv, angle


print("stored:", corners(STORED))
turned, of_decord, of_opencv, angle = look("turned.mp4", 90)
assert turned == of_decord == of_opencv == "green white red blue" and angle == 90
mirrored, of_decord, of_opencv, angle = look("mirrored.mp4", 0, hflip=True)
assert mirrored == "green red white blue" and of_decord == of_opencv == "white blue green red" and angle == 180
flipped, of_decord, of_opencv, angle = look("flipped.mp4", 0, vflip=True)
assert flipped == "blue white red green" and of_decord == of_opencv == "red green blue white" and angle == 0
PYTHON
echo "As described."
