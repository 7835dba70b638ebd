"""The public data sets as items: what their layouts give, every known trap, and records that are broken at random."""

import copy
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import layouts
from viarl.datasets import lvbench, videomme
from viarl.datasets.choices import letter_of, letter_of_text, split_question, without_letters
from viarl.datasets.parsed import LISTED, Parsed, Unusable, located, records
from viarl.items import Item, read_items, write_records

Sets = dict[str, Path]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """The folder of each set; the module writes nothing into them."""
    home = tmp_path_factory.mktemp("sets")
    films = layouts.films(home / "films", 3)
    for name in layouts.NAMES:
        layouts.write(name, home / name, films)
    return {name: home / name for name in layouts.NAMES}


def parse(sets: Sets, name: str, **options: Any) -> Parsed:
    parsed = layouts.module(name).parse(layouts.annotations(name, sets[name]), **options)
    assert isinstance(parsed, Parsed)
    return parsed


def items(parsed: Parsed) -> dict[str, Item]:
    return {item.id: item for item in parsed.items}


def reasons(parsed: Parsed) -> dict[str, str]:
    return {one.id.rpartition("/")[2]: one.reason for one in parsed.dropped}


def archived(folder: Path) -> list[str]:
    """Return the names of all videos of a set, in archives or as files."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")]
    for path in sorted(folder.rglob("*.zip")):
        names += zipfile.ZipFile(path).namelist()
    for path in sorted(folder.rglob("*.tar.gz")):
        with tarfile.open(path) as archive:
            names += archive.getnames()
    if parts := sorted(folder.rglob("*.zip.0*")):
        names += zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts))).namelist()
    return names


@pytest.mark.parametrize("name", layouts.NAMES)
def test_every_question_is_kept_or_dropped_and_kept_ones_survive_a_file(name: str, sets: Sets, tmp_path: Path) -> None:
    parsed = parse(sets, name)
    card = parsed.card()
    assert card["found"] == card["kept"] + sum(card["dropped"].values()) > 0 and card["kept"] == len(parsed.items)
    assert card["dropped"] and len(card["listed"]) == len(parsed.dropped) + len(parsed.notes) <= LISTED
    write_records(tmp_path / "items.jsonl", parsed.items)
    assert read_items(tmp_path / "items.jsonl") == parsed.items
    assert {item.source for item in parsed.items} == {name} and all(item.answer for item in parsed.items)
    assert set(parsed.members) == {item.video for item in parsed.items}


@pytest.mark.parametrize("name", layouts.NAMES)
def test_every_video_is_found_in_the_archives_but_for_those_that_are_gone(name: str, sets: Sets) -> None:
    parsed = parse(sets, name)
    names = archived(sets[name])
    found = located(parsed.members, names)
    missing = set(parsed.members) - set(found)
    assert len(missing) == 1 and layouts.GONE in missing.pop()
    assert set(found.values()) <= set(names) and len(set(found.values())) == len(found)


@pytest.mark.parametrize("name", layouts.NAMES)
def test_fixtures_are_the_same_bytes_each_time_and_small(name: str, sets: Sets, tmp_path: Path) -> None:
    layouts.write(name, tmp_path, sorted((sets[name].parent / "films").iterdir()))
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert all((sets[name] / path).read_bytes() == content for path, content in written.items())
    assert sum(map(len, written.values())) < 600_000


def test_a_member_is_found_by_its_ending_and_with_another_suffix() -> None:
    names = ["x/data/a.mp4", "data/b.MP4", "data/c.mkv", "other/a.mp4", "data/d.txt", "copy/x/data/a.mp4"]
    members = {one: f"data/{one}.mp4" for one in "abcde"}
    assert located(members, names) == {"a": "x/data/a.mp4", "b": "data/b.MP4", "c": "data/c.mkv"}
    assert located({"a": "a.mp4"}, ["not-a.mp4", "z/a.mp4"]) == {"a": "z/a.mp4"}
    assert located({"s": "subtitle/s.srt"}, ["subtitle/s.mp4"]) == {}
    assert located({"e": "data/caf\u00e9.mp4"}, ["data/cafe\u0301.mkv"]) == {"e": "data/cafe\u0301.mkv"}


# Options and answers --------------------------------------------------------------------------------------------------


def test_answers_are_read_in_every_notation() -> None:
    options = ("Red", "Green", "Blue, or so.", "Yellow")
    for answer in (
        "C",
        "C.",
        "(C)",
        "C)",
        "C:",
        "C. Blue, or so.",
        "(C) Blue, or so",
        "Blue, or so",
        "C. something",
        "c",
        "(c)",
        "c.",
    ):
        assert letter_of(answer, options) == "C", answer
    for answer, reason in (
        ("E", "answer is no option's letter"),
        ("A. Green", "letter and text of the answer differ"),
        ("A green one", "answer not among the options"),
        ("Purple", "answer not among the options"),
        ("", "answer not among the options"),
    ):
        with pytest.raises(Unusable, match=reason):
            letter_of(answer, options)


def test_a_letter_beats_an_option_that_is_that_letter() -> None:
    assert letter_of("A.", ("B", "A", "C")) == "A"
    assert letter_of_text("A", ("B", "A", "C")) == "B"
    assert (
        letter_of("a", ("b", "a", "c")) == letter_of("e", ("x", "e")) == "B"
    )  # as small letters, they are texts first
    assert letter_of("cafe\u0301", ("tea", "caf\u00e9")) == "B"
    assert letter_of("A. Smith", ("J. Jones", "A. Smith")) == "B"


def test_a_right_option_that_comes_twice_or_is_empty_is_refused_and_a_wrong_one_is_not() -> None:
    with pytest.raises(Unusable, match="right option comes twice"):
        letter_of("A", ("Three", "Six", "Three."))
    with pytest.raises(Unusable, match="right option is empty"):
        letter_of_text("", ("Three", "", "Six"))
    assert letter_of_text("Six", ("Three", "Six", "Three", "")) == "B"


def test_letters_before_options_go_where_most_have_them() -> None:
    assert without_letters(["A. one", "B.two", "(C) three", "four"]) == ("one", "two", "three", "four")
    assert without_letters(["A. Smith", "J. Jones", "B. Brown"]) == ("A. Smith", "J. Jones", "B. Brown")
    assert without_letters(["B. one", "A. two"]) == ("B. one", "A. two")


def test_a_question_ends_where_its_options_begin() -> None:
    assert split_question("Who?\n(A) he\n(B) she") == ("Who?", ("he", "she"))
    assert split_question("Question: Who?\nOptions:\nA. he\nB. she,\nwho sings") == ("Who?", ("he", "she, who sings"))
    assert split_question("Two lines\nA: here?\n\nA. he\nB. she") == ("Two lines\nA: here?", ("he", "she"))
    long = "\n".join(f"{letter}. {letter}" for letter in "ABCDEFGHIJK")
    for text in ("A. he\nC. it\nB. she", "A. he\nB. she\nD. it", "A. he\nB. she\nB. it", long):
        with pytest.raises(Unusable, match="are not A, B, C"):
            split_question(f"Who?\n{text}")
    assert len(split_question(f"Who?\n{long[:-5]}")[1]) == 10
    for text in ("Who?", "Who?\nA. he", "Who?\nB. he\nC. she", "A. he\nB. she"):
        with pytest.raises(Unusable):
            split_question(text)


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_a_question_that_holds_a_control_token_is_counted(token: str) -> None:
    parsed = Parsed("x")
    for place, item in enumerate(
        [Item("q1", "v", f"What{token}?", ("a", "b"), "A"), Item("q2", "v", "Who?", ("a", f"b {token}"), "A")]
    ):
        assert parsed.add(f"file:{place}", lambda notes, item=item: (item, "v.mp4")) is None
    assert parsed.add("file:2", lambda notes: (Item("q3", "v", "Is <|x|> <think>?", ("a", "b"), "A"), "v.mp4"))
    assert parsed.card()["dropped"] == {"control token of a model in a text": 2}
    assert {one.detail for one in parsed.dropped} == {token}


# The sets -------------------------------------------------------------------------------------------------------------


def test_videomme_reports_by_duration_domain_and_task(sets: Sets) -> None:
    parsed = parse(sets, "videomme")
    item = items(parsed)["002-1"]
    assert item.groups == ("duration=short", "domain=Film & Television", "task=Counting Problem")
    assert item.task == "Counting Problem" and item.options == ("Thing 67.", "Thing 68.", "Thing 69.", "Thing 70.")
    assert item.video.startswith("0yLg7_TQ9k-") and parsed.members[item.video] == "data/-0yLg7_TQ9k.mp4"
    assert items(parsed)["001-2"].options[2] == "Thing without a space."
    assert not any(item.subtitles for item in parsed.items) and not parsed.subtitles


def test_videomme_drops_an_id_that_comes_twice_a_letter_beyond_the_options_and_a_missing_field(sets: Sets) -> None:
    assert reasons(parse(sets, "videomme")) == {
        "001-1": "id comes twice",
        "900-1": "answer is no option's letter",
        "900-2": "field missing",
    }


def test_videomme_with_subtitles_names_those_that_exist(sets: Sets) -> None:
    parsed = parse(sets, "videomme", subtitles=True)
    assert all(item.subtitles == f"subtitles/{item.video}.srt" for item in parsed.items)
    archive = zipfile.ZipFile(next(sets["videomme"].rglob("subtitle.zip")))
    exist = located(parsed.subtitles, archive.namelist())
    kept = videomme.with_subtitles(parsed.items, exist)
    assert {item.video for item in kept if item.subtitles} == set(exist) and len(exist) == 3
    assert [item.id for item in kept] == [item.id for item in parse(sets, "videomme").items]


def test_llava_gives_an_item_a_turn_without_marks_and_requests(sets: Sets) -> None:
    parsed = parse(sets, "llava_video")
    first = [item for item in parsed.items if item.video == "ytb_HBxn56l9WcU.mp4"]
    assert [item.id for item in first][:4] == [f"ytb_HBxn56l9WcU.mp4-{turn}" for turn in ("1-1", "1-2", "1-3", "8-1")]
    assert first[0].question == "What colour is the coat of person 0?"
    assert first[0].options == first[1].options == ("Red", "Green", "Blue", "Yellow") and len(first[2].options) == 3
    assert [item.answer for item in first[:4]] == ["A", "A", "C", "B"]  # "A.", "A. Red.", "C", "B."
    assert not any("Please" in text or "<" in text for item in parsed.items for text in (item.question, *item.options))
    assert parsed.members["ytb_HBxn56l9WcU.mp4"] == f"{layouts.YOUTUBE}/ytb_HBxn56l9WcU.mp4"


def test_llava_drops_turns_that_cannot_be_used_each_with_its_reason(sets: Sets) -> None:
    found = {name.partition(":")[2]: reason for name, reason in reasons(parse(sets, "llava_video")).items()}
    assert found == {
        "9:1": "answer is no option's letter",
        "10:1": "letter and text of the answer differ",
        "11:2": "field missing",
        "12:1": "not 2 to 10 options",
        "13": "field malformed",
        **{f"14:{turn}": "field missing" for turn in (1, 2, 3)},
        **{f"15:{turn}": "field malformed" for turn in (1, 2, 3)},
        "16": "record is no JSON object",
    }


def test_viarl_data_names_the_videos_as_llava_does_and_keeps_a_question_once(sets: Sets) -> None:
    parsed, llava = parse(sets, "viarl_data"), parse(sets, "llava_video")
    assert parsed.members == llava.members  # the paths of somebody's machine are left out
    both = [item for item in parsed.items if len(item.groups) == 2]
    assert len(both) == 4 and both[0].groups == ("part=rl_random_8k", "part=rl_random_8k_16frames")
    assert {group for item in parsed.items for group in item.groups} == {
        "part=random_8k", "part=rl_random_8k", "part=rl_random_8k_16frames",
    }  # fmt: skip
    card = parsed.card()["dropped"]
    assert card == {"field malformed": 1, "open-ended question": 1, "question comes twice": 4,
                    "record is no JSON object": 1}  # fmt: skip


def test_mlvu_drops_what_has_no_single_right_candidate_and_the_generation_tasks(sets: Sets) -> None:
    parsed = parse(sets, "mlvu")
    assert reasons(parsed) == {
        "1_plotQA.json:4": "right option comes twice",
        "2_needle.json:5": "answer not among the options",
        "2_needle.json:7": "answer not among the options",
        "3_ego.json:4": "right option is empty",
        "7_topic_reasoning.json:4": "field malformed",
        "8_sub_scene.json:1": "generation task",
        "9_summary.json:1": "generation task",
    }
    assert sum("needle_4" in item.video or "needle_5" in item.video for item in parsed.items) == 2  # its other ones


def test_mlvu_keeps_and_notes_wrong_candidates_that_repeat_or_are_empty(sets: Sets) -> None:
    parsed = parse(sets, "mlvu")
    assert parsed.card()["noted"] == {"a wrong option is empty": 1, "duration unknown": 1, "wrong options repeat": 2}
    item = items(parsed)["1_plotQA-5"]
    assert item.options == ("Blue", "Red", "White", "Blue") and item.answer == "B"


def test_mlvu_tells_videos_of_one_name_in_two_folders_apart(sets: Sets) -> None:
    parsed = parse(sets, "mlvu")
    plot, topic = items(parsed)["1_plotQA-1"], items(parsed)["7_topic_reasoning-1"]
    assert plot.video != topic.video and plot.duration == topic.duration == 301.0
    assert parsed.members[plot.video] == "MLVU/video/1_plotQA/movie101_1.mp4"
    assert parsed.members[topic.video] == "MLVU/video/7_topic_reasoning/movie101_1.mp4"
    assert plot.task == "plotQA" and items(parsed)["4_count-1"].answer == "D"  # the text "2", not the second


def test_both_packings_of_mlvu_name_the_tasks_alike(sets: Sets) -> None:
    plain, repacked = parse(sets, "mlvu"), parse(sets, "mlvu_repacked")
    assert {item.task for item in plain.items} == {item.task for item in repacked.items}
    assert len({item.id for item in repacked.items}) == 22 and repacked.items[0].duration == 301.5
    assert repacked.card()["dropped"] == {"not 2 to 10 options": 1, "right option comes twice": 1}


def test_lvbench_gives_several_abilities_and_the_length(sets: Sets) -> None:
    item = items(parse(sets, "lvbench"))["28CIeC8cZks-6"]
    assert item.groups == ("type=event understanding", "type=temporal grounding")
    assert item.duration == 71 * 60 and item.options == ("Red", "Green", "Blue", "Yellow") and item.answer == "C"
    assert items(parse(sets, "lvbench"))["28CIeC8cZks-902"].groups == ("type=reasoning",)


def test_lvbench_times_may_exceed_an_hour_and_are_unknown_where_they_say_nothing() -> None:
    notes: list[tuple[str, str]] = []
    assert lvbench.evidence_of("71:15-72:03", notes) == ((4275.0, 4323.0),)
    assert lvbench.evidence_of("1:02:03 - 1:02:09", notes) == ((3723.0, 3729.0),)
    assert lvbench.evidence_of("00:07-00:07", notes) == ((7.0, 7.0),) and not notes
    assert [lvbench.evidence_of(times, notes) for times in ("None", None, "12:75-13:00", 5, "10:40-09:50")] == [()] * 5
    assert [reason for reason, _ in notes] == ["time reference unknown"] * 4 + ["time reference reversed"]


def test_lvbench_counts_what_it_drops_and_notes(sets: Sets) -> None:
    parsed = parse(sets, "lvbench")
    assert reasons(parsed) == {
        "video_info.meta.jsonl:2:7": "answer is no option's letter",
        "video_info.meta.jsonl:2:8": "not 2 to 10 options",
        "video_info.meta.jsonl:2:10": "id comes twice",
        "video_info.meta.jsonl:5": "field missing",
        "video_info.meta.jsonl:6": "record is no JSON object",
    }
    assert parsed.card()["noted"] == {"time reference reversed": 4, "time reference unknown": 5}
    assert sum(bool(item.evidence) for item in parsed.items) == 13


# What is broken -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"<html>Not found</html>", b"", b"{}", b"[]", b'["a"]', b"\xff\xfe\0", b"[" * 99_999]
)
@pytest.mark.parametrize("name", layouts.NAMES)
def test_a_file_without_records_is_refused_by_name_with_the_remedy(name: str, content: bytes, tmp_path: Path) -> None:
    suffix = layouts.module(name).ANNOTATIONS[0].rpartition(".")[2]
    if suffix == "jsonl" and content == b"{}":
        content = b"null"  # {} is a record, of which everything is missing
    path = tmp_path / f"annotations.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"annotations\.{suffix}.*(downloaded again|UTF-8)"):
        layouts.module(name).parse({path.name: path})


@pytest.mark.parametrize("name", layouts.NAMES)
def test_no_file_or_a_strange_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no annotation file was given"):
        layouts.module(name).parse({})
    with pytest.raises(ValueError, match=r"read\.me: annotation files end in"):
        layouts.module(name).parse({"read.me": tmp_path})


STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 1e308, float("nan"), float("inf"), "", " ", "x", "A", "\ud800", "a\0b", "a\nb=\x01",
    "../../etc/passwd", "/", "..", ".", "\\", "A." * 3000, [], {}, [[]], [None], {"a": {}}, ["A"] * 12,
    "<answer></answer>",
)  # fmt: skip


def places(value: Any, holder: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield every (holder, key) in a record."""
    if holder is not None:
        yield holder, key
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, value, name)


def broken(record: Any, rng: random.Random) -> Any:
    """Return a copy in which up to three things are deleted, replaced, or repeated."""
    record = copy.deepcopy(record)
    for _ in range(rng.randrange(4)):
        if not (found := list(places(record))):
            break
        holder, key = rng.choice(found)
        act = rng.randrange(4)
        if act == 0:
            del holder[key]
        elif act == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(STRANGE))
    return record if rng.random() < 0.95 else rng.choice(STRANGE)


@pytest.mark.parametrize("name", layouts.NAMES)
def test_records_broken_at_random_are_dropped_with_a_reason_and_never_raise(
    name: str, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = layouts.module(name)
    files = layouts.annotations(name, sets[name])
    read = [entry for entry in records(files) if isinstance(entry[2], dict)]
    rng = random.Random(name)
    kept = dropped = 0
    for _ in range(60):
        raw = [(file, number, broken(record, rng)) for file, number, record in read]
        given = [(file, number, one if isinstance(one, dict) else Unusable("none")) for file, number, one in raw]
        monkeypatch.setattr("viarl.datasets.parsed.records", lambda _, given=given: iter(given))
        parsed = module.parse(files)
        assert parsed.found == len(parsed.items) + len(parsed.dropped) >= len(given)
        assert all(one.reason and one.id for one in parsed.dropped)
        json.dumps(parsed.card(), ensure_ascii=False, allow_nan=False).encode()
        write_records(tmp_path / "items.jsonl", parsed.items)
        assert read_items(tmp_path / "items.jsonl") == parsed.items
        assert all(not member.startswith("/") and ".." not in member.split("/") for member in parsed.members.values())
        kept, dropped = kept + len(parsed.items), dropped + len(parsed.dropped)
    assert kept > 200 and dropped > 200


@pytest.mark.parametrize("name", layouts.NAMES)
def test_files_cut_or_overwritten_at_random_are_refused_or_parsed(name: str, sets: Sets, tmp_path: Path) -> None:
    rng = random.Random(name)
    files = layouts.annotations(name, sets[name])
    for turn in range(20):
        spoilt = {}
        for file, path in files.items():
            content = bytearray(path.read_bytes())
            at = rng.randrange(len(content))
            if turn % 2:
                del content[at:]
            else:
                content[at : at + 20] = rng.randbytes(20)
            spoilt[file] = tmp_path / f"{turn}-{Path(file).name}"
            spoilt[file].write_bytes(content)
        try:
            parsed = layouts.module(name).parse(spoilt)
        except ValueError as error:
            assert str(tmp_path) in str(error)
        else:
            assert parsed.found == len(parsed.items) + len(parsed.dropped)
