"""Videos that cannot be used are listed in the manifest of their shard, each with its reason; hard ones are used.

The tables hold (how a file is made, a pattern that its reason must match).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hard_videos as hard
from said import one_line
from viarl.answer.settings import AnswererSettings
from viarl.command import run
from viarl.files import sha256_file
from viarl.items import Item, Video, write_records
from viarl.models.settings import ModelSettings
from viarl.stages import cache_frames, filter_guessable, select_frames
from viarl.training.settings import FilterSettings
from viarl.video import child as children
from viarl.video import picture, reader, seeking, writer
from viarl.video.format import VideoError

FRONT = {"movflags": "faststart"}
HEVC = {"codec": "libx265", "options": {"x265-params": "keyint=30:bframes=4:open-gop=1:log-level=none"}}


def link_loop(path: Path) -> None:
    path.symlink_to(path)


def header_only(path: Path) -> None:
    hard.truncate(hard.encode(path.with_suffix(".whole.mp4"), 40, container=FRONT), path, 0.25)


def no_frames(path: Path) -> None:
    whole = hard.encode(path.with_suffix(".whole.mp4"), 40, container={"movflags": "frag_keyframe+empty_moov"})
    content = whole.read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])


def playlist(path: Path) -> None:
    hard.encode(path.with_name("segment.ts"), 40)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\nsegment.ts\n#EXT-X-ENDLIST\n")


BAD_VIDEOS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        lambda p: hard.truncate(hard.encode(p.with_suffix(".whole.mp4"), container=FRONT), p),
        "is truncated",
    ),
    "header_only": (header_only, "is truncated|cannot be opened as a video"),
    "corrupt": (lambda p: hard.corrupt(hard.encode(p.with_suffix(".whole.mp4")), p), "is damaged at"),
    "audio_only": (hard.audio_only, "has no video stream"),
    "no_frames": (no_frames, r"has 0 frame\(s\); at least 2 are needed"),
    "one_frame": (lambda p: hard.encode(p, frames=1), r"has 1 frame\(s\); at least 2 are needed"),
    "zero_bytes": (Path.touch, "cannot be opened as a video"),
    "text": (lambda p: p.write_text("no video at all\n" * 100), "cannot be opened as a video"),
    "html": (lambda p: p.write_text("<!doctype html><html>404</html>\n" * 50), "cannot be opened as a video"),
    "playlist": (playlist, "cannot be opened as a video"),
    "picture": (lambda p: Image.fromarray(hard.picture(1)).save(p, "PNG"), "cannot be opened as a video"),
    "pipe": (os.mkfifo, "is no file: .* is a folder, a pipe or device, or a link that leads nowhere"),
    "folder": (Path.mkdir, "is no file: .* is a folder"),
    "link_loop": (link_loop, "is no file: .*a link that leads nowhere"),
    "dead_link": (lambda p: p.symlink_to("nowhere.mp4"), "is no file: .*a link that leads nowhere"),
    "missing": (lambda p: None, "is not there: .* does not exist"),
    "huge": (lambda p: hard.encode(p, 2), "has frames of 128 x 64, more than .* pixels: scale it down"),
    "forbidden": (lambda p: hard.encode(p, 2), r"cannot be read \(Permission denied\): change its permissions"),
    "hanging": (lambda p: hard.encode(p, 2), r"the sequential reader was stopped after 0\.3 s \(`timeout_s`\)"),
}
HARD_VIDEOS: dict[str, tuple[dict[str, Any], int, int]] = {  # how it is encoded, frames kept of N = 16, frames in all
    "fewer_than_n": ({"frames": 7}, 6, 7),
    "rotated": ({"frames": 40, "rotation": 90}, 16, 40),
    "variable_rate": ({"frames": 40, "stamps_ms": [30 * n + (n % 7) for n in range(40)]}, 16, 40),
    "hevc_open_gop": ({"frames": 60, **HEVC}, 16, 60),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of one shard that holds all of these videos, made by one run of the stage."""
    folder = tmp_path_factory.mktemp("shard")
    videos = []
    for name, (make, _) in BAD_VIDEOS.items():
        make(folder / f"{name}.mp4")
        videos.append(Video(name, f"{name}.mp4", 1, "unknown"))
    for name, (options, _, _) in HARD_VIDEOS.items():
        hard.encode(folder / f"{name}.mp4", **options)
        videos.append(Video(name, f"{name}.mp4", 1, "unknown"))
    write_records(folder / "videos.jsonl", videos)
    true_seek, true_child, true_hash = reader.read_by_seeking, reader.read_in_child, writer.sha256_file
    interpreter = folder / "python"
    interpreter.write_text(f'#!/bin/sh\ncase "$*" in *hanging*) exec sleep 60;; *) exec {sys.executable} "$@";; esac\n')
    interpreter.chmod(0o755)

    def seek(path: Path, *rest: Any) -> Any:
        if path.stem == "hanging":
            raise seeking.SeekingFailed("refused by the test")
        with pytest.MonkeyPatch.context() as small:
            small.setattr(picture, "LARGEST_FRAME", 8000 if path.stem == "huge" else picture.LARGEST_FRAME)
            return true_seek(path, *rest)

    def child(method: str, path: Path, candidates: int, transform: Any, timeout_s: float) -> Any:
        return true_child(method, path, candidates, transform, 0.3 if path.stem == "hanging" else timeout_s)

    def hash_(path: Path) -> str:
        if path.stem == "forbidden":
            raise PermissionError(13, "Permission denied")  # root may read everything
        return true_hash(path)

    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "read_by_seeking", seek)
        patch.setattr(reader, "read_in_child", child)
        patch.setattr(children.sys, "executable", str(interpreter))
        patch.setattr(writer, "sha256_file", hash_)
        cache_frames.main(shard_settings(folder, 1.0))
    assert time.monotonic() - start < 20
    return json.loads((folder / "frames" / "0.json").read_text())


def shard_settings(folder: Path, max_bad_share: float) -> cache_frames.Settings:
    manifest = folder / "frames" / "0.json"
    return cache_frames.Settings(folder / "videos.jsonl", manifest, 16, 28, 56, 90, "pyav", 30.0, max_bad_share, 0, 1)


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_video_is_listed_and_the_shard_finishes(name: str, manifest: dict[str, Any]) -> None:
    one_line(manifest["bad"][name], BAD_VIDEOS[name][1])
    assert name not in manifest["videos"]


@pytest.mark.parametrize("name", HARD_VIDEOS)
def test_hard_video_is_used(name: str, manifest: dict[str, Any]) -> None:
    """The true index range, and nothing is wrong with it; what the frames show is tested in test_reader.py."""
    _, kept, total = HARD_VIDEOS[name]
    assert (manifest["videos"][name]["n"], manifest["videos"][name]["total"]) == (kept, total)
    assert name not in manifest["bad"]


def test_too_many_bad_videos_are_named_in_part_and_listed_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"v{number:02}" for number in range(25)]
    for name in names:
        (tmp_path / f"{name}.mp4").write_text("no video")
    write_records(tmp_path / "videos.jsonl", [Video(name, f"{name}.mp4", 1, "unknown") for name in names])
    paths = ["--videos", str(tmp_path / "videos.jsonl"), "--manifest", str(tmp_path / "frames" / "0.json")]
    values = {"candidates": 16, "selector_pixels": 28, "answerer_pixels": 56, "jpeg_quality": 90, "reader": "pyav"}
    values |= {"timeout_s": 30.0, "max_bad_share": 0.5, "shard": 0, "shards": 1}
    monkeypatch.setattr(sys, "argv", ["cache_frames", "--settings", json.dumps(values), *paths])
    with pytest.raises(SystemExit):
        run(cache_frames.Settings, cache_frames.main)
    whole = tmp_path / "frames" / "0.bad.json"
    lines = capsys.readouterr().err.split("error: ")[1].splitlines()
    assert "25 of 25 videos" in lines[0] and "frames.max_bad_share = 0.5" in lines[0] and str(whole) in lines[0]
    assert lines[1].startswith("  v00: cannot be opened as a video") and lines[-1] == "… and 5 more"
    assert len(lines) == 22 and sorted(json.loads(whole.read_text())) == names
    assert sorted((tmp_path / "frames").iterdir()) == [whole]
    cache_frames.main(shard_settings(tmp_path, 1.0))
    assert not whole.exists() and len(json.loads((tmp_path / "frames" / "0.json").read_text())["bad"]) == 25


@pytest.mark.parametrize("stage", [select_frames, filter_guessable])
def test_a_set_of_which_no_video_can_be_used_is_one_clear_error(stage: Any, tmp_path: Path) -> None:
    """A shard may be bad as a whole; the stage that reads all of them says so, before a model is loaded."""
    (tmp_path / "v.mp4").write_text("no video")
    write_records(tmp_path / "videos.jsonl", [Video("v", "v.mp4", 8, "unknown")])
    write_records(tmp_path / "items.jsonl", [Item("q", "v", "Which?", ("a", "b"), "A")])
    cache_frames.main(shard_settings(tmp_path, 1.0))
    given = {
        "items": tmp_path / "items.jsonl",
        "manifests": (tmp_path / "frames" / "0.json",),
        "seed": 0,
        "selected": 2,
    }
    given |= {
        "output": tmp_path / "out",
        "number_pixels": 13,
        "temperature": None,
        "selector": ModelSettings("short", 8),
    }
    given |= {
        "selector_model": Path("none"),
        "answerer_model": Path("none"),
        "scores": (),
        "report": tmp_path / "report",
    }
    given |= {"filter": FilterSettings(), "answerer": AnswererSettings("short", 8)}
    settings = stage.Settings(
        **{field.name: given[field.name] for field in fields(stage.Settings) if field.name in given}
    )
    with pytest.raises(
        ValueError, match=r"frames: none of the 1 videos can be used\. Repair .*\n  v: cannot be opened"
    ):
        stage.main(settings)


def test_a_cache_that_cannot_be_written_is_no_bad_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must stop the stage, not empty the data set."""
    path = hard.encode(tmp_path / "v.mp4", 4)
    write_records(tmp_path / "videos.jsonl", [Video("v", "v.mp4", path.stat().st_size, sha256_file(path))])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: .*v\.safetensors"):
        cache_frames.main(shard_settings(tmp_path, 1.0))
    assert not list((tmp_path / "frames").rglob("*.*"))


def test_an_answer_of_the_child_that_ends_early_is_no_reading(tmp_path: Path) -> None:
    """Whatever a child sends, it is read as JSON and pixels; a frame that is cut off is not used."""
    (tmp_path / "answer").write_bytes(b'{"shape": [2, 2, 3]}\n' + bytes(11))
    with (tmp_path / "answer").open("rb") as handle, pytest.raises(EOFError):
        children.receive(handle, bytes)
    (tmp_path / "answer").write_bytes(b'{"error": "is damaged"}\n')
    with (tmp_path / "answer").open("rb") as handle, pytest.raises(VideoError, match="is damaged"):
        children.receive(handle, bytes)


def test_whatever_a_library_makes_of_one_video_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("odd", "plain"):
        hard.encode(tmp_path / f"{name}.mp4", 40, transfer=16 if name == "plain" else 0)
    write_records(tmp_path / "videos.jsonl", [Video(name, f"{name}.mp4", 1, "unknown") for name in ("odd", "plain")])
    true_read = writer.read_encoded

    def read(path: Path, *rest: Any) -> Any:
        return [][1] if path.stem == "odd" else true_read(path, *rest)

    monkeypatch.setattr(writer, "read_encoded", read)
    cache_frames.main(shard_settings(tmp_path, 0.5))
    manifest = json.loads((tmp_path / "frames" / "0.json").read_text())
    assert manifest["bad"] == {"odd": "cannot be read (IndexError: list index out of range)"}
    assert list(manifest["videos"]) == ["plain"] and "plain: HDR (PQ)" in capsys.readouterr().out
