"""The cache holds the right frames at the right sizes, starts again where it stopped, and lists bad videos."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import hard_videos as hard
from viarl.files import sha256_file
from viarl.items import Video, shard_of, write_records
from viarl.stages import cache_frames
from viarl.stages.cache_frames import Settings
from viarl.video import writer
from viarl.video.cache import FrameCache, decode_jpeg
from viarl.video.encode import FrameEncoder, shrink
from viarl.video.format import VideoError
from viarl.video.overlay import NumberStyle, with_numbers
from viarl.video.settings import CacheSettings

SMALL = CacheSettings(candidates=32, selector_pixels=28, answerer_pixels=56)


def video(path: Path, name: str) -> Video:
    return Video(name, str(path), path.stat().st_size, sha256_file(path))


def settings_of(folder: Path, **changes: object) -> Settings:
    standard = Settings(folder / "videos.jsonl", folder / "frames" / "0.json", 32, 28, 56, 90, "pyav", 60.0, 0.0, 0, 1)
    return replace(standard, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two videos: `long` of 100 frames and `short` of 7."""
    sources = {name: hard.encode(tmp_path / f"{name}.mp4", frames) for name, frames in (("long", 100), ("short", 7))}
    write_records(tmp_path / "videos.jsonl", [video(path, name) for name, path in sources.items()])
    return tmp_path


@pytest.fixture
def cached(folder: Path) -> FrameCache:
    """The frame cache of that set."""
    cache_frames.main(settings_of(folder))
    return FrameCache([folder / "frames" / "0.json"], NumberStyle(13))


def test_frames_are_the_right_ones_in_both_sizes(cached: FrameCache) -> None:
    for name, count, total in (("long", 32, 100), ("short", 6, 7)):
        expected = np.linspace(0, total - 1, count).astype(int)
        assert cached.count(name) == count
        np.testing.assert_allclose(cached.times(name), expected / hard.RATE, atol=1e-6)
        raw = cached.raw_frames(name)
        assert raw.shape == (count, 14, 28, 3) and raw.dtype == np.uint8
        assert [hard.number_of(frame) for frame in raw] == expected.tolist()
        np.testing.assert_array_equal(cached.selector_frames(name), with_numbers(raw, NumberStyle(13)))
        picks = [count - 1, 0, 3, 3]
        large = cached.answerer_frames(name, picks)
        assert [frame.shape for frame in large] == [(28, 56, 3)] * 4
        assert [hard.number_of(frame) for frame in large] == expected[picks].tolist()


def test_a_short_video_has_a_short_index_range(cached: FrameCache) -> None:
    with pytest.raises(IndexError, match=r"\[6, -1\].*6 candidate frames"):
        cached.answerer_frames("short", [5, 6, -1])


def test_what_the_manifest_states(folder: Path, cached: FrameCache) -> None:
    manifest = json.loads((folder / "frames" / "0.json").read_text())
    entry = manifest["videos"]["long"]
    assert manifest["shard"] == 0 and manifest["bad"] == {} and manifest["settings"]["candidates"] == 32
    source = {"sha256_source": sha256_file(folder / "long.mp4"), "size": (folder / "long.mp4").stat().st_size}
    lengths = {"n": 32, "total": 100, "fps": 25.0, "duration": 4.0}
    assert entry == {"file": "videos/long.safetensors", **source, **lengths, "how": "seek", "notes": []}
    assert cached.fingerprint("long") == entry["sha256_source"] and cached.duration("long") == 4.0
    assert cached.videos() == ["long", "short"] and "long" in cached and "other" not in cached


def test_saturated_red_survives_the_jpeg(tmp_path: Path) -> None:
    """4:2:0 would smear the colour of one-pixel red lines over their neighbours."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = 255
    _, jpeg = FrameEncoder(28, 56, 90)(stripes)
    error = decode_jpeg(np.frombuffer(jpeg, np.uint8)).astype(float) - stripes
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [((1280, 720), 896, (896, 503)), ((896, 503), 112, (112, 62)), ((854, 480), 896, (854, 480)),
     ((333, 719), 100, (46, 100))],
)  # fmt: skip
def test_sizes_and_pixels_follow_the_authors(size: tuple[int, int], pixels: int, expected: tuple[int, int]) -> None:
    """Truncated sides (720 * (896 / 1280) is 503.99… in floating point), nothing enlarged, Pillow's pixels."""
    frame = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    by_pillow = Image.fromarray(frame).resize(expected, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(shrink(frame, pixels), np.asarray(by_pillow))


def test_a_sliver_is_refused() -> None:
    with pytest.raises(VideoError, match="too narrow: 1000 x 4"):
        shrink(np.zeros((4, 1000, 3), np.uint8), 100)


def test_a_shard_that_starts_again_keeps_what_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_frames.main(settings_of(folder))
    (folder / "frames" / "videos" / "short.safetensors").unlink()
    (folder / "frames" / "videos" / ".half-written.tmp").write_bytes(b"x")
    read = []
    true_read = writer.read_encoded
    monkeypatch.setattr(writer, "read_encoded", lambda path, *rest: read.append(path.stem) or true_read(path, *rest))
    cache_frames.main(settings_of(folder))
    assert read == ["short"]
    cache_frames.main(settings_of(folder, jpeg_quality=80))  # other settings: every file is another
    assert read == ["short", "long", "short"]
    monkeypatch.setattr(writer, "decoding_code", lambda: "another version of the code")
    cache_frames.main(settings_of(folder, jpeg_quality=80))
    assert read == ["short", "long", "short", "long", "short"]


def test_a_damaged_cache_file_is_made_again(folder: Path, cached: FrameCache) -> None:
    path = folder / "frames" / "videos" / "long.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"long\.safetensors.*gone or damaged.*delete .*0\.json"):
        cached.raw_frames("long")
    cache_frames.main(settings_of(folder))
    assert cached.raw_frames("long").shape[0] == 32


def test_files_of_other_settings_than_the_manifest_are_refused(folder: Path, cached: FrameCache) -> None:
    cache_frames.main(settings_of(folder, manifest=folder / "frames" / "other.json", selector_pixels=14))
    with pytest.raises(ValueError, match=r"not those of the manifest; delete"):
        cached.raw_frames("long")


def test_shards_share_the_videos(folder: Path) -> None:
    paths = [folder / "frames" / f"{shard}.json" for shard in range(3)]
    for shard, path in enumerate(paths):
        cache_frames.main(settings_of(folder, manifest=path, shard=shard, shards=3))
    expected = [[name for name in ("long", "short") if shard_of(name, 3) == shard] for shard in range(3)]
    assert [list(json.loads(path.read_text())["videos"]) for path in paths] == expected
    assert FrameCache(paths).videos() == ["long", "short"]


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every cache file: a file that was written again has others."""
    return {path.stem: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "frames").rglob("*.safet*")}


@pytest.mark.parametrize("listed_again", [True, False])
def test_an_edited_video_is_decoded_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listed_again: bool
) -> None:
    """Whether videos.jsonl was made again or not; of the same size as before or not."""
    cache_frames.main(settings_of(folder))
    before, read, true_read = states(folder), [], writer.read_encoded
    monkeypatch.setattr(writer, "read_encoded", lambda path, *rest: read.append(path.stem) or true_read(path, *rest))
    hard.encode(folder / "short.mp4", 9)
    if listed_again:
        write_records(folder / "videos.jsonl", [video(folder / f"{name}.mp4", name) for name in ("long", "short")])
    for _ in range(2):  # the second time nothing is left to do
        cache_frames.main(settings_of(folder))
        after = states(folder)
        assert read == ["short"] and after["long"] == before["long"] and after["short"] != before["short"]
    entry = json.loads((folder / "frames" / "0.json").read_text())["videos"]["short"]
    assert entry["sha256_source"] == sha256_file(folder / "short.mp4") and (entry["total"], entry["n"]) == (9, 8)
    assert ("short: its file was changed since" in capsys.readouterr().out) is not listed_again
    content = bytearray((folder / "short.mp4").read_bytes())
    content[-1] ^= 1  # within the encoder's name: the same size, the same pictures
    (folder / "short.mp4").write_bytes(content)
    cache_frames.main(settings_of(folder))
    assert read == ["short", "short"] and states(folder)["long"] == before["long"]


def test_a_touched_or_copied_video_is_not_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content is looked at again where its time is another, and only there."""
    cache_frames.main(settings_of(folder))
    before, hashed = states(folder), []
    manifest = (folder / "frames" / "0.json").read_bytes()
    os.utime(folder / "short.mp4", (1, 1))
    monkeypatch.setattr(writer, "read_encoded", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(writer, "sha256_file", lambda path: hashed.append(path.stem) or sha256_file(path))
    cache_frames.main(settings_of(folder))
    assert hashed == ["short"] and states(folder) == before
    assert (folder / "frames" / "0.json").read_bytes() == manifest


def test_a_video_that_changes_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_read = writer.read_encoded
    monkeypatch.setattr(writer, "read_encoded", lambda path, *rest: (true_read(path, *rest), os.utime(path, (1, 1)))[0])
    with pytest.raises(VideoError, match="was changed while it was read: run the job again"):
        writer.cache_video(video(folder / "long.mp4", "long"), folder / "frames", SMALL, 60.0)
    assert not list((folder / "frames").rglob("*.safetensors"))


@pytest.fixture
def spoilt(folder: Path) -> Path:
    """The same set with a third video that is cut off."""
    front = hard.encode(folder / "front.mp4", container={"movflags": "faststart"})
    names = {"long": folder / "long.mp4", "short": folder / "short.mp4"}
    names["cut"] = hard.truncate(front, folder / "cut.mp4")
    write_records(folder / "videos.jsonl", [video(path, name) for name, path in names.items()])
    return folder


def test_bad_videos_are_listed_with_reasons(spoilt: Path) -> None:
    cache_frames.main(settings_of(spoilt, max_bad_share=0.5))
    cache = FrameCache([spoilt / "frames" / "0.json"])
    assert list(cache.bad) == ["cut"] and "truncated" in cache.bad["cut"]
    assert "cut" not in cache and cache.videos() == ["long", "short"]
    with pytest.raises(VideoError, match=r"'cut' has no frames.*truncated"):
        cache.raw_frames("cut")
    with pytest.raises(VideoError, match=r"'other' is in none of the manifests"):
        cache.count("other")


def test_a_video_missing_at_its_source_is_listed_and_fails_nothing(folder: Path) -> None:
    """Its set was made in that knowledge, so it is no reason to stop here."""
    there = video(folder / "long.mp4", "long")
    write_records(folder / "videos.jsonl", [there, Video("gone", "videos/gone", 0, "")])
    cache_frames.main(settings_of(folder, max_bad_share=0.0))
    cache = FrameCache([folder / "frames" / "0.json"])
    assert cache.bad == {"gone": "is missing at its source"} and cache.videos() == ["long"]


def test_too_many_bad_videos_fail_the_stage_and_name_each(spoilt: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)1 of 3 videos.*max_bad_share = 0\.2.*cut: .*truncated"):
        cache_frames.main(settings_of(spoilt, max_bad_share=0.2))
    assert not (spoilt / "frames" / "0.json").exists()
    assert (spoilt / "frames" / "videos" / "long.safetensors").exists()


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", ".hidden", "", "/etc/passwd"])
def test_ids_never_leave_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="rename it"):
        writer.cache_video(video(folder / "long.mp4", name), folder / "frames", SMALL, 60.0)
    assert not list(folder.parent.glob("outside*"))


def test_a_manifest_cannot_point_outside_its_folder(folder: Path, cached: FrameCache) -> None:
    path = folder / "frames" / "0.json"
    manifest = json.loads(path.read_text())
    manifest["videos"]["long"]["file"] = "../long.mp4"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="lies outside its folder"):
        FrameCache([path])


def test_one_id_for_two_videos_is_refused(folder: Path, cached: FrameCache) -> None:
    manifest = json.loads((folder / "frames" / "0.json").read_text())
    manifest["videos"]["long"]["sha256_source"] = "0" * 64
    (folder / "frames" / "1.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="different videos under the id 'long'"):
        FrameCache([folder / "frames" / "0.json", folder / "frames" / "1.json"])


def test_the_file_is_what_the_module_says(folder: Path, cached: FrameCache) -> None:
    tensors = load_file(folder / "frames" / "videos" / "long.safetensors")
    assert {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items() if name != "answerer"} == {
        "selector": ("uint8", (32, 14, 28, 3)),
        "offsets": ("int64", (33,)),
        "indices": ("int64", (32,)),
        "pts": ("int64", (32,)),
        "times": ("float64", (32,)),
    }
    assert tensors["offsets"][-1] == len(tensors["answerer"])


def test_numbers_that_do_not_fit_are_pointed_out(folder: Path, cached: FrameCache) -> None:
    large = FrameCache([folder / "frames" / "0.json"], NumberStyle(30))
    with pytest.warns(UserWarning, match=r"lower frames\.number_pixels"):
        large.selector_frames("long")


@pytest.mark.parametrize(
    "wrong",
    [{"candidates": 31}, {"selector_pixels": 60}, {"jpeg_quality": 100}, {"reader": "opencv"}, {"candidates": 0}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CacheSettings(**{"candidates": 32, "selector_pixels": 28, "answerer_pixels": 56, **wrong})
