"""Sets from a hub, from the listing to items, videos, manifest and card: real client, real archives, a local server."""

import io
import random
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import layouts
from tests.hub_server import HubServer
from tests.hub_world import fetch, hub_of_all_sets, outputs, published_sets
from tests.unit.processes import end_of, start_child
from viarl.datasets.hub.client import HubError
from viarl.datasets.hub.sets import SETS
from viarl.datasets.hub.settings import HubRuntime
from viarl.files import read_json, sha256_file
from viarl.items import read_items, read_videos

__all__ = ["hub_of_all_sets", "published_sets"]  # fixtures


@pytest.mark.parametrize("name", SETS)
def test_every_set_from_its_published_layout(hub: HubServer, tmp_path: Path, name: str) -> None:
    card = fetch(tmp_path, name)
    folder = tmp_path / "sets" / name
    items, videos = read_items(folder / "items.jsonl"), read_videos(folder / "videos.jsonl")
    assert card["found"] == card["kept"] + sum(card["dropped"].values())
    assert card["kept"] == len(items)
    assert {item.video for item in items} == set(videos)
    gone = {video for video in videos if layouts.GONE in video}
    assert set(card["videos"]["missing"]) == gone
    assert card["questions_on_missing_videos"] == sum(item.video in gone for item in items)
    for id, video in videos.items():
        assert (id in gone) == (not Path(video.path).exists())
        if id not in gone:
            assert (Path(video.path).stat().st_size, sha256_file(Path(video.path))) == (video.size, video.sha256)


@pytest.mark.parametrize("name", SETS)
def test_the_manifest_tells_size_checksum_and_origin_of_every_file(hub: HubServer, tmp_path: Path, name: str) -> None:
    fetch(tmp_path, name)
    folder = tmp_path / "sets" / name
    manifest = read_json(folder / "manifest.json")
    files = {entry["file"]: entry for entry in manifest["files"]}
    assert list(files) == sorted(files)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.srt")}
    there |= {f"videos/{Path(video.path).relative_to(folder / 'videos')}" for video in listed(folder) if video.sha256}
    assert set(files) == there
    for file, entry in files.items():
        assert (entry["size"], entry["sha256"]) == ((folder / file).stat().st_size, sha256_file(folder / file))
        origin = entry["origin"]
        commit = hub.repos[origin["repository"]].commits[origin["commit"]]
        assert any(path.startswith(origin["path"]) for path in commit)
    for source in manifest["sources"]:
        assert len(hub.repos[source["repository"]].commits[source["commit"]][source["path"]]) == source["size"]


def listed(folder: Path) -> list[Any]:
    return list(read_videos(folder / "videos.jsonl").values())


def test_archives_go_when_their_videos_are_out_and_stay_if_wanted(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path, "videomme")
    assert not [*(tmp_path / "hub").rglob("*.zip")]
    runtime = HubRuntime(keep_archives=True, max_missing_share=1)
    fetch(tmp_path / "other", "videomme", hub=runtime)
    assert len([*(tmp_path / "other").rglob("*.zip")]) == 2


def test_nothing_is_fetched_twice(hub: HubServer, tmp_path: Path) -> None:
    """A second set of the same source, or the same again, needs neither archives nor network."""
    fetch(tmp_path, "videomme")
    before = outputs(tmp_path, "videomme")
    shutil.rmtree(tmp_path / "sets")
    sent = dict(hub.sent)
    hub.closed = True
    fetch(tmp_path, "videomme")
    assert outputs(tmp_path, "videomme") == before
    hub.closed = False
    fetch(tmp_path, "videomme_subtitles")
    assert {name for name, count in hub.sent.items() if count != sent.get(name)} == {"subtitle.zip"}


def test_viarl_data_takes_its_videos_from_llava_video(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path, "llava_video_train")
    sent = dict(hub.sent)
    fetch(tmp_path, "viarl_data_train")
    assert all(name.endswith(".jsonl") for name, count in hub.sent.items() if count != sent.get(name))


def test_of_viarl_data_the_chosen_drawings_alone(hub: HubServer, tmp_path: Path) -> None:
    every = fetch(tmp_path, "viarl_data_train")
    card = fetch(tmp_path / "one", "viarl_data_train", viarl_data_parts=["random_8k", "rl_random_8k_16frames"])
    assert 0 < card["kept"] < every["kept"]
    assert card["dropped"]["not of hub.viarl_data_parts"] == 8  # of the first drawing alone
    assert card["found"] == card["kept"] + sum(card["dropped"].values())
    items = read_items(tmp_path / "one" / "sets" / "viarl_data_train" / "items.jsonl")
    assert all({"part=random_8k", "part=rl_random_8k_16frames"} & set(item.groups) for item in items)


def test_the_training_and_validation_parts_share_no_video(hub: HubServer, tmp_path: Path) -> None:
    cards = [fetch(tmp_path, f"llava_video_{part}") for part in ("train", "validation")]
    lists = [tmp_path / f"sets/llava_video_{part}/videos.jsonl" for part in ("train", "validation")]
    train, validation = (set(read_videos(path)) for path in lists)
    assert train and validation and not train & validation
    assert len(train | validation) == 7
    assert cards[0]["dropped"]["video of the other part"] == cards[1]["kept"]


def test_a_limit_takes_a_stable_subset(hub: HubServer, tmp_path: Path) -> None:
    taken = []
    for limit in (1, 3, 5):
        card = fetch(tmp_path / str(limit), "videomme", limit=limit, hub=HubRuntime(max_missing_share=0.9))
        taken.append(set(read_videos(tmp_path / f"{limit}/sets/videomme/videos.jsonl")))
        assert card["dropped"]["video beyond hub.limit"] == card["found"] - card["kept"] - 3
    assert [len(videos) for videos in taken] == [1, 3, 5]
    assert taken[0] < taken[1] < taken[2]


def test_a_raised_limit_fetches_only_archives_that_hold_the_rest(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path, "mlvu", limit=4, hub=HubRuntime(max_missing_share=1))
    first = {name for name in hub.sent if name.endswith(".mp4")}
    fetch(tmp_path, "mlvu", limit=8, hub=HubRuntime(max_missing_share=1))
    fetched = [name for name in hub.sent if name.endswith(".mp4")]
    assert len(first) <= 4 < len(fetched) <= 8
    sizes = {name: len(data) for name, data in hub.repos["MLVU/MVLU"].commits[hub.repos["MLVU/MVLU"].main].items()}
    assert all(hub.sent[name] == sizes[name] for name in fetched)


def test_of_a_limited_set_only_the_zips_that_are_needed_are_fetched(hub: HubServer, tmp_path: Path) -> None:
    """What a zip holds stands at its end, which is asked for alone."""
    repo = hub.repos["sy1998/MLVU_dev"]
    contents = repo.commits[repo.main]
    for name in [name for name in contents if name.endswith(".zip")]:
        with zipfile.ZipFile(padded := io.BytesIO(contents[name]), "a") as archive:
            archive.writestr("pad.bin", random.Random(1).randbytes(500_000))
        contents[name] = padded.getvalue()
    files = {name: len(data) for name, data in contents.items() if name.endswith(".zip")}
    card = fetch(tmp_path, "mlvu_repacked", limit=1)
    assert card["videos"]["there"] == 1
    parts = [name for name in files if hub.sent.get(name, 0) < files[name]]
    assert len(parts) == 1
    assert 0 < hub.sent[parts[0]] < 150_000
    hub.ranges = False
    assert fetch(tmp_path / "other", "mlvu_repacked", limit=1)["videos"]["there"] == 1


def test_the_first_archives_alone(hub: HubServer, tmp_path: Path) -> None:
    """hub.archives: the questions are those on videos in the first n archives; no other one is fetched."""
    card = fetch(tmp_path, "llava_video_train", archives=1, hub=HubRuntime())
    first = "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_videos_1.tar.gz"
    assert [name for name in hub.sent if name.endswith(".tar.gz")] == [first]
    assert card["videos"]["missing"] == {}
    assert card["dropped"]["video beyond hub.archives"] > 0
    assert card["found"] == card["kept"] + sum(card["dropped"].values())
    limited = fetch(tmp_path, "llava_video_train", archives=1, limit=2, hub=HubRuntime())
    assert limited["dropped"]["video beyond hub.limit"] > 0


def test_the_first_archives_of_videos_that_are_files_are_all(hub: HubServer, tmp_path: Path) -> None:
    assert fetch(tmp_path, "mlvu", archives=1)["videos"]["there"] > 1


def test_the_first_archives_again_need_no_room(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(tmp_path, "videomme", archives=1, limit=2)
    before = outputs(tmp_path, "videomme")
    leave_free(monkeypatch, 0)
    fetch(tmp_path, "videomme", archives=1, limit=2)
    assert outputs(tmp_path, "videomme") == before


def test_a_commit_once_settled_stays(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(tmp_path, "lvbench")
    first, before = read_json(tmp_path / "hub/AIWinter--LVBench/commit.json"), outputs(tmp_path, "lvbench")
    assert first["commit"] == hub.repos["AIWinter/LVBench"].main
    hub.add("AIWinter/LVBench", {"README.md": b"all gone"})
    fetch(tmp_path, "lvbench")
    assert outputs(tmp_path, "lvbench") == before
    note = tmp_path / "hub/AIWinter--LVBench/commit.json"
    assert f"main stays commit {first['commit']} until {note} and" in capsys.readouterr().err
    note.unlink()
    with pytest.raises(ValueError, match="4 of 4 videos are missing"):
        fetch(tmp_path, "lvbench")


def test_a_pinned_commit_is_used_as_it_is(hub: HubServer, tmp_path: Path) -> None:
    pinned = hub.repos["zai-org/LVBench"].main
    hub.add("zai-org/LVBench", {"README.md": b"other"})
    card = fetch(tmp_path, "lvbench", revisions={"zai-org/LVBench": pinned})
    assert card["repositories"]["questions"]["commit"] == pinned
    assert not (tmp_path / "hub/zai-org--LVBench/commit.json").exists()


def test_lvbench_from_another_repository_of_any_layout(hub: HubServer, tmp_path: Path, published: Path) -> None:
    """There the videos lie at the top of their zips."""
    parts = sorted((published / "AIWinter/LVBench").glob("all_videos_split.zip.*"))
    with zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts))) as whole:
        films = {Path(name).name: whole.read(name) for name in whole.namelist() if name.endswith(".mp4")}
    flat = io.BytesIO()
    with zipfile.ZipFile(flat, "w") as archive:
        for name, film in films.items():
            archive.writestr(name, film)
    hub.add("lmms-lab/LVBench", {"video_chunks/videos_chunk_001.zip": flat.getvalue()})
    card = fetch(tmp_path, "lvbench", lvbench_videos="lmms-lab/LVBench")
    assert card["videos"]["there"] == 3


def test_an_archive_that_changed_is_read_again(hub: HubServer, tmp_path: Path, published: Path) -> None:
    repo = hub.repos["lmms-lab/Video-MME"]
    fetch(tmp_path, "videomme")
    files = dict(repo.commits[repo.main])
    names = ("videos_chunked_01.zip", "videos_chunked_02.zip")
    files |= {name: files[other] for name, other in zip(names, names[::-1], strict=True)}
    hub.add("lmms-lab/Video-MME", files)
    (tmp_path / "hub/lmms-lab--Video-MME/commit.json").unlink()
    fetch(tmp_path, "videomme")
    fresh = tmp_path / "fresh"
    fetch(fresh, "videomme")
    assert outputs(tmp_path, "videomme") == outputs(fresh, "videomme")


def test_what_an_archive_no_longer_holds_is_deleted(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.repos["lmms-lab/Video-MME"]
    fetch(tmp_path, "videomme")
    (kept, *_), (lost, *_) = ([*(tmp_path / "hub").rglob(f"{name}.*")] for name in ("fFjv93ACGo8", "eMqbhvP-uT4"))
    files = {name: data for name, data in repo.commits[repo.main].items() if name != "videos_chunked_02.zip"}
    hub.add("lmms-lab/Video-MME", {**files, "videos_chunked_02.zip": files["subtitle.zip"]})
    (tmp_path / "hub/lmms-lab--Video-MME/commit.json").unlink()
    fetch(tmp_path, "videomme", hub=HubRuntime(max_missing_share=1))
    assert kept.exists() and not lost.exists()


def test_no_archive_is_fetched_once_everything_is_there(hub: HubServer, tmp_path: Path) -> None:
    """Of tars it is not known before what they hold; those behind the last one that is needed are left alone."""
    repo = hub.repos["lmms-lab/LLaVA-Video-178K"]
    stem = "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_videos_"
    contents = repo.commits[repo.main]
    contents[f"{stem}10.tar.gz"] = contents[f"{stem}1.tar.gz"]
    card = fetch(tmp_path, "llava_video_train", limit=2)
    assert card["videos"]["missing"] == {}
    assert {name for name in hub.sent if name.endswith(".gz")} <= {f"{stem}1.tar.gz", f"{stem}2.tar.gz"}
    fetch(tmp_path / "all", "llava_video_train")  # one is missing, so all were looked into
    assert f"{stem}10.tar.gz" in hub.sent


def test_a_lost_video_is_taken_out_again(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path, "videomme")
    before = outputs(tmp_path, "videomme")
    (lost,) = (tmp_path / "hub").rglob("fFjv93ACGo8.mp4")
    lost.unlink()
    fetch(tmp_path, "videomme")
    assert lost.exists()
    assert outputs(tmp_path, "videomme") == before


def test_too_many_missing_videos_are_told(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 of 4 videos are missing .*hub.max_missing_share = 0.1 .*\n  gone000"):
        fetch(tmp_path, "lvbench", hub=HubRuntime(max_missing_share=0.1))


def leave_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, 5000)
    with pytest.raises(HubError, match=r"GB are needed .*archives at one time.*are free; make room.*hub.limit") as told:
        fetch(tmp_path, "videomme")
    assert "\n" not in str(told.value)
    assert not [name for name in hub.sent if name.endswith(".zip")]
    leave_free(monkeypatch, 10)
    hub.sent.clear()
    with pytest.raises(HubError, match="are needed"):
        fetch(tmp_path / "other", "videomme")
    assert not hub.sent


def test_room_is_asked_for_as_the_formula_says(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest archive + 1.05 times all archives: with a byte less nothing begins."""
    repo = hub.repos["lmms-lab/Video-MME"]
    sizes = [len(data) for name, data in repo.commits[repo.main].items() if "chunked" in name]
    needed = max(sizes) + sum(int(1.05 * size) for size in sizes)
    leave_free(monkeypatch, needed - 1)
    with pytest.raises(HubError):
        fetch(tmp_path, "videomme")
    leave_free(monkeypatch, needed)
    fetch(tmp_path, "videomme")


def test_two_jobs_take_turns_in_a_store(hub: HubServer, tmp_path: Path) -> None:
    hub.chunk_s = 0.005
    names = ["videomme", "videomme_subtitles"]
    children = [start_child(lambda name=name: fetch(tmp_path, name)) for name in names]  # type: ignore[misc]
    assert [end_of(child) for child in children] == [0, 0]
    repo = hub.repos["lmms-lab/Video-MME"]
    archives = {name: len(data) for name, data in repo.commits[repo.main].items() if name.endswith(".zip")}
    assert {name: hub.sent[name] for name in archives} == archives
