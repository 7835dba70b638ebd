"""The user's own videos: what is read, how it is split, and what every fault is called."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from viarl.datasets.local import import_questions, safe_id, split_videos
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
    (videos / "empty.mp4").touch()
    (tmp_path / "secret.mp4").write_bytes(b"outside")
    (videos / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (videos / "loop.mp4").symlink_to(videos / "loop.mp4")
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
    others, same = import_questions(
        folder, write(folder, "\n".join(map(json.dumps, lines)), "questions.jsonl"), labelled=False
    )
    assert videos == same and [video.id for video in videos] == ["v1.mp4", safe_id("sub/my film.mp4")]
    assert items[0] == others[0] and items[0].evidence == ((1.0, 2.5), (4.0, 4.0)) and items[0].answer == "B"
    assert items[1].options == ("the dog", "a cat") and items[1].answer == "B" and items[1].id.endswith("-4")
    assert items[2].options == () and items[2].answer == ""
    assert Path(videos[1].path).read_bytes() == b"content 0"


FAULTS: dict[str, tuple[str, str]] = {
    "no such video": ("v9.mp4,Q,a|b,A", "row 2: video: 'v9.mp4' is no file in .*; correct the name or add the file"),
    "a folder": ("sub,Q,a|b,A", "row 2: video: 'sub' is no file"),
    "empty video": ("empty.mp4,Q,a|b,A", r"row 2: video: 'empty\.mp4' is empty \(0 bytes\); copy it again"),
    "no video": (",Q,a|b,A", "row 2: video: empty; give the file's name"),
    "absolute": ("/etc/hosts,Q,a|b,A", "row 2: video: '/etc/hosts' is absolute; give it relative"),
    "upwards": ("../secret.mp4,Q,a|b,A", "row 2: video: .* leads out of local.folder"),
    "upwards inside": ("sub/../../secret.mp4,Q,a|b,A", "row 2: video: .* leads out of local.folder"),
    "link outwards": ("link.mp4,Q,a|b,A", "row 2: video: .* leads out of local.folder"),
    "link to itself": ("loop.mp4,Q,a|b,A", "row 2: video: 'loop.mp4' cannot be opened"),
    "long name": ("v" * 300 + ",Q,a|b,A", "row 2: video: 'vvv.*cannot be opened.*; correct the name"),
    "zero byte": ("v1.mp4,Q\0,a|b,A", "row 2: (question: holds a character|no valid CSV)"),
    "no question": ("v1.mp4, ,a|b,A", "row 2: question: empty; write the question, or remove the row"),
    "one option": ("v1.mp4,Q,a,A", r"row 2: options: 1 given; give 2 to 10, in CSV separated by \|"),
    "eleven options": ("v1.mp4,Q,a|b|c|d|e|f|g|h|i|j|k,A", "row 2: options: 11 given"),
    "empty option": ("v1.mp4,Q,a||b,A", "row 2: options: .* holds an empty option; remove it"),
    "option twice": ("v1.mp4,Q,a|b|A,B", "row 2: options: .* holds an option twice"),
    "no options": ("v1.mp4,Q,,A", "row 2: answer: 'A', but there are no options; add them"),
    "no answer": ("v1.mp4,Q,a|b,", "row 2: answer: empty, but training needs options and answer"),
    "neither": ("v1.mp4,Q,,", "row 2: options: empty, but training needs options and answer"),
    "wrong letter": ("v1.mp4,Q,a|b,C", "row 2: answer: 'C' is neither one of AB nor the text of an option; correct it"),
    "two meanings": ("v1.mp4,Q,b|a,A", "row 2: answer: 'A' is a letter, and the text of option B; reword"),
    "a comma": (
        "v1.mp4,Q, and more,a|b,A",
        "row 2: not the 4 columns of the header; put texts that hold commas in quot",
    ),
    "too few columns": ("v1.mp4,Q", "row 2: not the 4 columns of the header"),
    "open quotes": ('v1.mp4,"Q,a|b,A', r"row \d: no valid CSV .*; check its quotes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_a_csv_is_named(folder: Path, name: str) -> None:
    row, message = FAULTS[name]
    path = write(folder, f"{HEADER}\n{row}\n")
    with pytest.raises(ValueError, match=f"{path} {message}"):
        import_questions(folder, path, labelled=True)


GOOD = {"video": "v1.mp4", "question": "Q", "options": ["a", "b"], "answer": "A"}
JSON_FAULTS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "row 1: not JSON .*; write one JSON object a line"),
    "a list": ([1], "row 1: not a JSON object"),
    "unknown field": ({**GOOD, "anwser": "A"}, r"row 1: unknown fields \['anwser'\]; known are"),
    "missing field": ({"video": "v1.mp4"}, "row 1: question: the field is missing; add it"),
    "number": ({**GOOD, "question": 3}, "row 1: question: 3 is no text; put it in quotes"),
    "options": ({**GOOD, "options": {"A": "a"}}, "row 1: options: .* is no list of texts"),
    "option": ({**GOOD, "options": ["a", 2]}, "row 1: options: .* is no list of texts"),
    "surrogate": ('{"video": "v1.mp4", "question": "\\ud800"}', "row 1: question: holds a character that is none"),
    "evidence": ({**GOOD, "evidence": [1, 2]}, "row 1: evidence: .* is no list of spans"),
    "evidence text": ({**GOOD, "evidence": "from 3 to 4"}, "row 1: evidence: .* is no list of spans"),
    "evidence order": ({**GOOD, "evidence": [[4, 3]]}, "row 1: evidence: 4.0-3.0 s must begin at 0 or later"),
    "evidence infinite": ('{"video": "v1.mp4", "question": "Q", "evidence": [[0, NaN]]}', "row 1: evidence: 0.0-nan"),
}


@pytest.mark.parametrize("name", JSON_FAULTS)
def test_every_fault_of_a_jsonl_is_named(folder: Path, name: str) -> None:
    record, message = JSON_FAULTS[name]
    path = write(folder, record if isinstance(record, str) else json.dumps(record), "questions.jsonl")
    with pytest.raises(ValueError, match=f"{path} {message}"):
        import_questions(folder, path, labelled=False)


def test_all_faults_come_at_once_a_line_each(folder: Path) -> None:
    rows = [f"v{number}.mp4,Q,a|b,A" for number in range(70)]
    path = write(folder, "\n".join([HEADER, *rows]))
    with pytest.raises(ValueError) as caught:
        import_questions(folder, path, labelled=True)
    lines = str(caught.value).splitlines()
    assert len(lines) == 51 and all(str(path) in line for line in lines[:50]) and lines[-1] == "… and 14 more"


def test_whole_files_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    for text, name, message in (
        ("", "a.csv", "empty; the first row names the columns"),
        (HEADER, "b.csv", "holds no questions; add one a row"),
        ("video;question\nv1.mp4;Q", "c.csv", "unknown fields .*columns are separated by commas"),
        ("video,question,video\n", "d.csv", "video: the field comes twice"),
        ("question\nQ", "e.csv", "video: the field is missing"),
        ("video\tquestion\nv1.mp4\tQ\tR", "f.tsv", "texts that hold tabs"),
        ("\n", "g.jsonl", "holds no questions"),
        ("x", "h.xlsx", r"the name must end in \.csv, \.tsv, \.jsonl, \.json"),
    ):
        with pytest.raises(ValueError, match=message):
            import_questions(folder, write(folder, text, name), labelled=False)
    (tmp_path / "latin.csv").write_bytes(f"{HEADER}\nv1.mp4,Qué,a|b,A".encode("latin-1"))
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte \d+\); save it as UTF-8"):
        import_questions(folder, tmp_path / "latin.csv", labelled=False)
    with pytest.raises(FileNotFoundError, match=r"local\.questions .* is not a file"):
        import_questions(folder, tmp_path / "none.csv", labelled=False)
    with pytest.raises(FileNotFoundError, match=r"local\.folder .* is not a folder"):
        import_questions(tmp_path / "none", write(folder, HEADER), labelled=False)


def test_a_file_without_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(ValueError, match=r"row 2: video: 'v1.mp4' may not be read; change its permissions"):
        import_questions(folder, write(folder, f"{HEADER}\nv1.mp4,Q,a|b,A"), labelled=True)


def test_ids_are_safe_and_given_once(folder: Path) -> None:
    long = "x" * 250
    for text in ("a b", "../up", "ünï", ".hidden", "-dash", "a/b", "…", long):
        name = safe_id(text)
        assert name != text and len(name) <= 200 and name[0].isalnum() and not set(name) & set("/ \\")
    assert safe_id("clip_1.mp4") == "clip_1.mp4"
    assert len({safe_id(text) for text in ("a b", "a/b", "a_b", "a  b")}) == 4
    path = write(folder, "id,video,question\nq,v1.mp4,Q\nq,v2.mp4,Q\n")
    with pytest.raises(ValueError, match="row 3: id: 'q' names an earlier question too"):
        import_questions(folder, path, labelled=False)


def test_equal_contents_are_on_one_side() -> None:
    videos = [Video(f"v{number}", "", 1, str(number // 2)) for number in range(20)]
    train, validation = split_videos(videos, 0.2, seed=1)
    assert train | validation == {video.id for video in videos} and not train & validation
    assert (
        len(validation) == 4
        and {f"v{number ^ 1}" for number in map(int, (name[1:] for name in validation))} == validation
    )
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
