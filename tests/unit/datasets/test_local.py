"""The user's own videos: what is read and how it is split; what is refused stands in test_bad_questions.py."""

import json
import time
from pathlib import Path

import pytest

from viarl.datasets.local import import_questions, local_videos, safe_id, split_videos
from viarl.items import Video, read_items, read_videos, shard_of
from viarl.stages.import_local import Settings, main

HEADER = "video,question,options,answer"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    for number in range(6):
        (videos / f"v{number}.mp4").write_bytes(b"content %d" % number)
    (videos / "sub" / "my film.mp4").write_bytes(b"content 0")  # the content of v0.mp4
    return videos


def write(folder: Path, text: str, name: str = "questions.csv") -> Path:
    path = folder.parent / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def test_csv_and_jsonl_give_the_same_items(folder: Path) -> None:
    table = write(
        folder,
        "\ufeffid,video,question,options,answer,task,evidence\r\n"
        'one,v1.mp4,"What, then, is said?",yes | no ,b,speech,1-2.5; 4-4\r\n'
        ",,,,,,\r\n"
        ",sub/my film.mp4,Who comes?,the dog|a cat,A CAT,,\r\n"
        ",v1.mp4,Describe it.,,,,\r\n",
    )
    lines = [
        {"id": "one", "video": "v1.mp4", "question": "What, then, is said?", "options": ["yes", "no"], "answer": "B",
         "task": "speech", "evidence": [[1, 2.5], [4, 4]]},
        {"video": "sub/my film.mp4", "question": "Who comes?", "options": ["the dog", "a cat"], "answer": "B"},
        {"video": "v1.mp4", "question": "Describe it."},
    ]  # fmt: skip
    items, videos = import_questions(folder, table, labelled=False)
    listed = write(folder, "\n".join(map(json.dumps, lines)), "questions.jsonl")
    others, same = import_questions(folder, listed, labelled=False)
    assert videos == same and [video.id for video in videos] == ["v1.mp4", safe_id("sub/my film.mp4")]
    assert items[0] == others[0] and items[0].evidence == ((1.0, 2.5), (4.0, 4.0)) and items[0].answer == "B"
    assert items[1].options == ("the dog", "a cat") and items[1].answer == "B" and items[1].id.endswith("-4")
    assert items[2].options == () and items[2].answer == ""
    for indent in (None, 1):  # on one line, and on many; numbered by place
        whole = write(folder, "\n" + json.dumps(lines, indent=indent), "questions.json")
        assert import_questions(folder, whole, labelled=False) == (others, same)
    assert Path(videos[1].path).read_bytes() == b"content 0"


def test_what_a_csv_can_say(folder: Path) -> None:
    """Options that hold a bar, or differ in case only; answers in every notation."""
    rows = {'"[""a|b"", ""c""]",a|b': (("a|b", "c"), "A"), "[music]|[noise],[noise]": (("[music]", "[noise]"), "B")}
    rows |= {"Polish|polish,polish": (("Polish", "polish"), "B"), "a|b|A,C": (("a", "b", "A"), "C")}
    rows |= {f"yes|no,{answer}": (("yes", "no"), "B") for answer in ("b", "(b)", "b.", "B)", "(B)", "NO")}
    rows |= {"1|2|3,2": (("1", "2", "3"), "B"), "cafe\u0301|tea,caf\u00e9": (("cafe\u0301", "tea"), "A")}
    path = write(folder, "\n".join([HEADER, *(f"v1.mp4,What is <|x|> or <think>?,{row}" for row in rows)]))
    items, _ = import_questions(folder, path, labelled=True)
    assert [(item.options, item.answer) for item in items] == [*rows.values()]


def test_a_name_that_is_written_otherwise_in_its_folder_is_found(folder: Path) -> None:
    """Decomposed by a Mac or composed, with another kind of space, with the separators of Windows."""
    (folder / "caf\u00e9").mkdir()
    for name in (
        "cafe\u0301.mp4",
        "caf\u00e9/na\u00efve.mp4",
        "3.04\u202fPM.mov",
        "both\u00e9.mp4",
        "bothe\u0301.mp4",
        "a\\b.mp4",
    ):
        (folder / name).write_bytes(name.encode())
    (folder / "b.mp4").write_bytes(b"b")
    asked = {
        "caf\u00e9.mp4": "cafe\u0301.mp4",
        "cafe\u0301/nai\u0308ve.mp4": "caf\u00e9/na\u00efve.mp4",
        "cafe\u0301\\na\u00efve.mp4": "caf\u00e9/na\u00efve.mp4",
        "3.04 PM.mov": "3.04\u202fPM.mov",
        "both\u00e9.mp4": "both\u00e9.mp4",
        "bothe\u0301.mp4": "bothe\u0301.mp4",
        "sub\\my film.mp4": "sub/my film.mp4",
        ".\\v1.mp4": "v1.mp4",
        "a\\b.mp4": "a\\b.mp4",
    }
    path = write(folder, "\n".join(["video,question", *(f"{name},Q" for name in asked)]))
    items, videos = import_questions(folder, path, labelled=False)
    found = {video.id: str(Path(video.path).relative_to(folder)) for video in videos}
    assert [found[item.video] for item in items] == [*asked.values()]
    assert {str(file.relative_to(folder)) for file in local_videos(folder, path, 0, 1)} == set(asked.values())


def test_ids_are_safe_and_given_once(folder: Path) -> None:
    long = "x" * 250
    for text in ("a b", "../up", "ünï", ".hidden", "-dash", "a/b", "…", long):
        name = safe_id(text)
        assert name != text and len(name) <= 200 and name[0].isalnum() and not set(name) & set("/ \\")
    assert safe_id("clip_1.mp4") == "clip_1.mp4"
    assert len({safe_id(text) for text in ("a b", "a/b", "a_b", "a  b")}) == 4


def test_equal_contents_are_on_one_side() -> None:
    videos = [Video(f"v{number}", "", 1, str(number // 2)) for number in range(20)]
    train, validation = split_videos(videos, 0.2, seed=1)
    assert train | validation == {video.id for video in videos} and not train & validation
    assert len(validation) == 4 and {f"v{int(name[1:]) ^ 1}" for name in validation} == validation
    assert split_videos(videos[::-1], 0.2, 1) == (train, validation) != split_videos(videos, 0.2, 2)
    assert split_videos(videos, 0.0, 1)[1] == set()
    assert len(split_videos(videos, 0.001, 1)[1]) == 2 and len(split_videos(videos, 0.999, 1)[0]) == 2
    with pytest.raises(ValueError, match="1 different video cannot be split; add videos"):
        split_videos(videos[:2], 0.5, 1)
    with pytest.raises(ValueError, match="must be at least 0 and below 1"):
        split_videos(videos, 1.0, 1)


def test_the_stage_writes_sets_that_do_not_overlap(folder: Path, tmp_path: Path) -> None:
    rows = [f"v{number}.mp4,Q{draw},a|b,A" for number in range(6) for draw in range(2)]
    questions = write(folder, "\n".join([HEADER, *rows, "sub/my film.mp4,Q,a|b,B"]))
    sets = {}
    for name in ("local", "local_train", "local_validation"):
        target = tmp_path / name
        main(Settings(folder, questions, target / "items.jsonl", target / "videos.jsonl", name, 0.3, 1))
        items, videos = read_items(target / "items.jsonl"), read_videos(target / "videos.jsonl")
        assert {item.video for item in items} == set(videos)
        sets[name] = {item.id for item in items}
    assert sets["local"] == sets["local_train"] | sets["local_validation"] and len(sets["local"]) == 13
    assert not sets["local_train"] & sets["local_validation"]
    unlabelled = write(folder, "video,question\nv1.mp4,What happens?", "unlabelled.csv")
    main(Settings(folder, unlabelled, tmp_path / "a" / "items.jsonl", tmp_path / "a" / "videos.jsonl", "local", 0.3))
    assert read_items(tmp_path / "a" / "items.jsonl")[0].options == ()
    with pytest.raises(ValueError, match="row 2: options: empty, but training needs"):
        main(Settings(folder, unlabelled, tmp_path / "b", tmp_path / "c", "local_train", 0.3))
    with pytest.raises(ValueError, match="local_validation would be empty"):
        main(Settings(folder, questions, tmp_path / "b", tmp_path / "c", "local_validation", 0.0))
    with pytest.raises(ValueError, match="must be one of"):
        Settings(folder, questions, tmp_path / "b", tmp_path / "c", "mine", 0.0)
    assert not (tmp_path / "b").exists()


def test_the_files_of_a_shard_are_those_of_the_sets(folder: Path, tmp_path: Path) -> None:
    """Of every part of the set, whatever the split: a shard's files depend on the videos' ids alone."""
    questions = write(folder, "\n".join([HEADER, *(f"v{n}.mp4,Q,a|b,A" for n in range(6)), "sub/my film.mp4,Q,a|b,B"]))
    shards = [local_videos(folder, questions, shard, 3) for shard in range(3)]
    assert sorted(path for shard in shards for path in shard) == sorted(path for path in folder.rglob("*.mp4"))
    for name in ("local", "local_train", "local_validation"):
        main(Settings(folder, questions, tmp_path / "items.jsonl", tmp_path / "videos.jsonl", name, 0.3, 1))
        for video in read_videos(tmp_path / "videos.jsonl").values():
            assert Path(video.path) in shards[shard_of(video.id, 3)]
    ids = [safe_id(str(path.relative_to(folder))) for path in shards[0]]
    assert ids == sorted(ids)


def test_the_files_of_a_shard_are_found_whatever_the_rows_hold(folder: Path, tmp_path: Path) -> None:
    """The workflow asks before anything is checked."""
    bad = ["v9.mp4,Q,a|b,A", "../secret.mp4,Q,a|b,A", "/etc/hosts,Q,,", ",,,"]
    bad += ["v1.mp4,too,many,columns,here", "v2.mp4,,,"]
    assert local_videos(folder, write(folder, "\n".join([HEADER, *bad])), 0, 1) == [folder / "v2.mp4"]
    cut = write(folder, "\n".join([HEADER, "v1.mp4,Q,a|b,A", '"v2.mp4']))
    assert local_videos(folder, cut, 0, 1) == [folder / "v1.mp4"]
    lines = ['{"video": "v3.mp4", "question": "Q"}', '{"video": ["v1.mp4"], "question": "Q"}', "[", "{}", "3"]
    assert local_videos(folder, write(folder, "\n".join(lines), "q.jsonl"), 0, 1) == [folder / "v3.mp4"]
    for content, name in (("", "a.csv"), ("\0", "b.csv"), ("x", "c.xlsx"), ("video\n\ud800", "d.csv")):
        assert local_videos(folder, write(folder, content, name), 0, 1) == []
    assert local_videos(folder, tmp_path / "none.csv", 0, 1) == local_videos(folder, folder, 0, 1) == []
    assert local_videos(tmp_path / "none", cut, 0, 1) == []


def test_the_files_of_8000_videos_in_16_shards_are_found_in_seconds(tmp_path: Path) -> None:
    for number in range(8000):
        (tmp_path / f"v{number}.mp4").write_bytes(b"x")
    rows = [f"v{number}.mp4,What is seen in this video?,a|b,A" for number in range(8000)]
    (tmp_path / "questions.csv").write_text("\n".join([HEADER, *rows]))
    start = time.process_time()
    found = [path for shard in range(16) for path in local_videos(tmp_path, tmp_path / "questions.csv", shard, 16)]
    # quadratic work would take minutes; a busy machine doubles the 1.4 s
    assert time.process_time() - start < 5 and len(found) == len(set(found)) == 8000
