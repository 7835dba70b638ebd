"""The reader returns exactly the right frames of hard files, or says why not."""

import time
from pathlib import Path

import numpy as np
import pytest

import hard_videos as hard
from viarl.video import child, container, seeking
from viarl.video import reader as video_reader
from viarl.video.format import VideoError, sample_indices
from viarl.video.reader import read_frames
from viarl.video.seeking import SeekingFailed, read_by_seeking

CANDIDATES = 32
IRREGULAR = np.cumsum(np.random.default_rng(0).integers(10, 90, 100)).tolist()
OPEN = {"x264-params": hard.GOP + ":open-gop=1"}
READABLE = {
    "plain.mp4": {},
    "open_gop.mp4": {"options": OPEN},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=30:bframes=4:open-gop=1:log-level=none"}},
    "intra_refresh.mp4": {"options": {"x264-params": hard.GOP + ":intra-refresh=1"}},
    "one_keyframe.mp4": {"options": {"x264-params": "keyint=infinite:bframes=3:log-level=none"}},
    "all_keyframes.mp4": {"options": {"x264-params": "keyint=1:log-level=none"}},
    "variable_rate.mp4": {"stamps_ms": IRREGULAR},
    "variable_rate.mkv": {"stamps_ms": IRREGULAR},
    "fragmented.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "stream.ts": {},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "few.mp4": {"frames": 7},
    "sound.mp4": {"sound": True},
    "sound.mkv": {"sound": True},
}


def numbers(reading: container.Reading, quarter_turns: int = 0) -> list[int]:
    return [hard.number_of(frame, quarter_turns) for frame in reading.frames]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 numbered frames, index at the front so that a truncated copy still opens."""
    return hard.encode(tmp_path_factory.mktemp("plain") / "plain.mp4", container={"movflags": "faststart"})


@pytest.mark.parametrize("name", READABLE)
def test_every_frame_is_the_right_one(name: str, tmp_path: Path) -> None:
    path = hard.encode(tmp_path / name, **READABLE[name])
    total = READABLE[name].get("frames", 100)
    reading = read_frames(path, CANDIDATES, np.asarray)
    assert reading.indices.tolist() == sample_indices(total, CANDIDATES).tolist()
    assert numbers(reading) == reading.indices.tolist()
    assert reading.total == total
    stamps = np.array(READABLE[name].get("stamps_ms") or np.arange(total) * 40.0)
    np.testing.assert_allclose(reading.times, (stamps[reading.indices] - stamps[0]) / 1000, atol=0.002)


def test_an_edit_list_hides_the_packets_before_the_cut(plain: Path, tmp_path: Path) -> None:
    reading = read_frames(hard.cut_with_edit_list(plain, tmp_path / "cut.mp4", 40), CANDIDATES, np.asarray)
    assert (reading.how, reading.total, reading.times[0]) == ("seek", 60, 0.0)
    assert numbers(reading) == (reading.indices + 40).tolist()


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotated_video_is_turned_upright(degrees: int, tmp_path: Path) -> None:
    reading = read_frames(hard.encode(tmp_path / "turned.mp4", rotation=degrees), CANDIDATES, np.asarray)
    assert reading.frames[0].shape == ((64, 128, 3) if degrees == 180 else (128, 64, 3))
    assert numbers(reading, degrees // 90) == reading.indices.tolist()


@pytest.mark.parametrize(("codec", "options"), [("libx264", OPEN), ("libsvtav1", {"preset": "12", "g": "30"})])
def test_seeking_is_the_normal_path_and_agrees_with_decoding_in_order(
    codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = hard.encode(tmp_path / "video.mp4", codec=codec, options=options)
    quick = read_frames(path, CANDIDATES, np.asarray)
    kept: dict[int, np.ndarray] = {}
    whole = child.read_sequentially(path, CANDIDATES, kept.__setitem__)
    assert (quick.how, whole.how) == ("seek", "sequential")
    assert all((one == kept[at]).all() for one, at in zip(quick.frames, whole.indices.tolist(), strict=True))
    assert (quick.pts == whole.pts).all()


def test_the_fallback_runs_in_a_child_and_gives_the_right_frames(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SeekingFailed("refused by the test")

    monkeypatch.setattr(video_reader, "read_by_seeking", refuse)
    reading = read_frames(plain, CANDIDATES, np.asarray)
    assert (reading.how, numbers(reading)) == ("sequential", reading.indices.tolist())


@pytest.mark.parametrize("missing", [3, 50])
def test_a_target_that_does_not_come_back_is_never_replaced(
    plain: Path, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_timeline = container.read_timeline

    def with_a_ghost(*arguments: object) -> container.Timeline:
        timeline = true_timeline(*arguments)  # type: ignore[arg-type]
        timeline.stamps[missing] += 1  # a stamp that no frame carries
        timeline.order[int(timeline.stamps[missing])] = missing
        return timeline

    monkeypatch.setattr(seeking, "read_timeline", with_a_ghost)
    monkeypatch.setattr(seeking, "sample_indices", lambda total, candidates: np.array([0, missing]))
    with pytest.raises(SeekingFailed, match=r"did not come back|gives no frame, or another"):
        read_by_seeking(plain, CANDIDATES, np.asarray, time.monotonic() + 60)


def test_bad_files_are_rejected_with_a_reason(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "page.mp4").write_text("<!doctype html><html><body>404 not found</body></html>" * 50)
    whole = hard.encode(tmp_path / "whole.mkv")
    reasons = {
        hard.truncate(plain, tmp_path / "truncated.mp4"): "truncated",
        hard.truncate(whole, tmp_path / "truncated.mkv"): r"is truncated: it states \d+ bytes, \d+ are there",
        hard.corrupt(plain, tmp_path / "corrupt.mp4"): "damaged",
        tmp_path / "zero.mp4": "cannot be opened as a video",
        tmp_path / "page.mp4": "cannot be opened as a video",
        hard.audio_only(tmp_path / "audio.mp4"): "no video stream",
        hard.encode(tmp_path / "one.mp4", frames=1): "at least 2",
        tmp_path / "missing.mp4": "does not exist",
    }
    for path, reason in reasons.items():
        with pytest.raises(VideoError, match=reason):
            read_frames(path, CANDIDATES, np.asarray)


@pytest.mark.parametrize(
    ("script", "reason"), [("exec sleep 60", "stopped after"), ("kill -SEGV $$", "ended with status -11")]
)
def test_a_child_that_hangs_or_crashes_costs_one_video(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(interpreter))
    start = time.monotonic()
    with pytest.raises(VideoError, match=reason):
        child.read_in_child("sequential", plain, CANDIDATES, np.asarray, 0.5)
    assert time.monotonic() - start < 5


def test_a_time_limit_also_holds_without_a_child(plain: Path) -> None:
    with pytest.raises(VideoError, match="timeout_s"):
        read_frames(plain, CANDIDATES, np.asarray, timeout_s=0.0)


def test_decord_reads_a_plain_file(plain: Path) -> None:
    pytest.importorskip("decord")
    reading = read_frames(plain, CANDIDATES, np.asarray, reader="decord")
    assert (reading.how, numbers(reading)) == ("decord", reading.indices.tolist())


def test_a_missing_decord_is_named_with_the_remedy(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_reader, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install decord.*frames\.reader"):
        read_frames(plain, CANDIDATES, np.asarray, reader="decord")


@pytest.mark.parametrize(("total", "expected"), [(5, [0, 1, 2, 4]), (2, [0, 1]), (9, [0, 2, 5, 8])])
def test_sampling_is_uniform_truncated_and_even(total: int, expected: list[int]) -> None:
    assert sample_indices(total, 4).tolist() == expected
