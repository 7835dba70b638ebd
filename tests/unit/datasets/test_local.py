"""The user's own videos: what is read and how it is split; what is refused stands in test_bad_questions.py."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from viarl.datasets.local import import_questions, read_questions, safe_id, sources_state, split_videos
from viarl.items import Video, read_items, read_videos
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


def import_set(folder: Path, questions: Path, target: Path, name: str = "local", share: float = 0.3) -> None:
    """Run the stage, whose lists go to a folder."""
    lists = (target / "items.jsonl", target / "videos.jsonl")
    main(Settings(folder, questions, *lists, target.parent / "hashes.json", name, share, 1))


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
        import_set(folder, questions, target, name)
        items, videos = read_items(target / "items.jsonl"), read_videos(target / "videos.jsonl")
        assert {item.video for item in items} == set(videos)
        sets[name] = {item.id for item in items}
    assert sets["local"] == sets["local_train"] | sets["local_validation"] and len(sets["local"]) == 13
    assert not sets["local_train"] & sets["local_validation"]
    unlabelled = write(folder, "video,question\nv1.mp4,What happens?", "unlabelled.csv")
    import_set(folder, unlabelled, tmp_path / "a")
    assert read_items(tmp_path / "a" / "items.jsonl")[0].options == ()
    with pytest.raises(ValueError, match="row 2: options: empty, but training needs"):
        import_set(folder, unlabelled, tmp_path / "b", "local_train")
    with pytest.raises(ValueError, match="local_validation would be empty"):
        import_set(folder, questions, tmp_path / "b", "local_validation", 0.0)
    with pytest.raises(ValueError, match="must be one of"):
        import_set(folder, questions, tmp_path / "b", "mine")
    assert not (tmp_path / "b").exists()


def test_the_lists_hold_what_the_files_contain_not_where_they_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing that follows is stale where all of it lies elsewhere; the link beside them leads there."""
    questions = write(folder, "video,question\nsub/my film.mp4,Q\nv1.mp4,Q")
    lists = {}
    for place, given in {"one": folder, "two": Path("elsewhere"), "three": Path("videos")}.items():
        monkeypatch.chdir(tmp_path)
        if place == "two":
            shutil.copytree(folder, tmp_path / "elsewhere")
        target = tmp_path / place / "sets"
        import_set(given, questions, target)
        (found,) = (video for video in read_videos(target / "videos.jsonl").values() if video.id == "v1.mp4")
        assert os.path.realpath(found.path) == str((tmp_path / given / "v1.mp4").resolve())
        lists[place] = [(target / name).read_bytes() for name in ("videos.jsonl", "items.jsonl")]
    assert lists["one"] == lists["two"] == lists["three"]
    assert os.readlink(tmp_path / "one/sets/videos") == str(folder)
    assert os.readlink(tmp_path / "three/sets/videos") == "../../videos"
    import_set(Path("elsewhere"), questions, tmp_path / "one/sets")
    assert os.readlink(tmp_path / "one/sets/videos") == "../../elsewhere"


def test_the_state_of_the_sources_changes_with_every_change_of_content(folder: Path) -> None:
    questions = write(folder, "video,question\nv1.mp4,Q\nv2.mp4,Q")

    def found() -> str:
        return sources_state(questions, read_questions(folder, questions, labelled=False)[1])

    states = [found()]
    video, before = folder / "v1.mp4", (folder / "v1.mp4").stat()
    times = (before.st_atime_ns, before.st_mtime_ns)

    def another_file() -> None:
        (folder / "new").write_bytes(b"Content 1")  # of the same size and time
        os.utime(folder / "new", ns=times)
        (folder / "new").replace(video)

    def in_place() -> None:
        video.write_bytes(b"content X")
        os.utime(video, ns=times)

    def another_target() -> None:
        video.unlink()
        video.symlink_to("v3.mp4")

    def older_questions() -> None:
        write(folder, "video,question\nv1.mp4,W\nv2.mp4,Q")
        os.utime(questions, (1, 1))

    for change in (another_file, in_place, another_target, older_questions):
        change()
        states.append(found())
    assert len(set(states)) == len(states)
    os.utime(questions)
    (folder / "v5.mp4").write_bytes(b"not asked about")
    assert found() == states[-1]


def test_8000_videos_are_looked_at_in_seconds(tmp_path: Path) -> None:
    """As each command does that plans."""
    for number in range(8000):
        (tmp_path / f"v{number}.mp4").write_bytes(b"x")
    rows = [f"v{number}.mp4,What is seen in this video?,a|b,A" for number in range(8000)]
    (tmp_path / "questions.csv").write_text("\n".join([HEADER, *rows]))
    start = time.process_time()
    files = read_questions(tmp_path, tmp_path / "questions.csv", labelled=True)[1]
    assert len(sources_state(tmp_path / "questions.csv", files)) == 64 and len(files) == 8000
    # quadratic work would take minutes; a busy machine doubles the 1 s
    assert time.process_time() - start < 5
