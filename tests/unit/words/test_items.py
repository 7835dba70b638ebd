"""The item schema: what is read back; what is refused stands in test_bad_questions.py."""

from pathlib import Path

from viarl.items import Item, Video, read_items, read_videos, shard_of, write_records


def test_items_and_videos_survive_a_round_trip(tmp_path: Path) -> None:
    groups, subtitles = ("duration=short", "type=who", "type=when"), "subtitles/v1.srt"
    items = [Item("q1", "v1", "Wörter?", ("a", "b"), "B", "end", 8.0, ((1.0, 2.5),), "needle", groups, subtitles)]
    write_records(tmp_path / "items.jsonl", items)
    assert read_items(tmp_path / "items.jsonl") == items
    write_records(tmp_path / "videos.jsonl", [Video("v1", "videos/v1.mp4", 3, "ab")])
    assert read_videos(tmp_path / "videos.jsonl")["v1"].path == str((tmp_path / "videos/v1.mp4").resolve())


def test_shards_are_alike_in_size_and_a_new_video_moves_no_other() -> None:
    names = [f"video{number}.mp4" for number in range(8000)]
    sizes = [sum(shard_of(name, 16) == shard for name in names) for shard in range(16)]
    assert sum(sizes) == 8000 and min(sizes) > 400 and max(sizes) < 600
    # pinned: another order would make every shard stale
    assert [shard_of(name, 3) for name in ("a", "b", "c", "d")] == [1, 1, 2, 2]
