"""Small copies of the public data sets in exactly their published layouts, with every known trap.

`write(name, folder, videos)` makes `folder`/<hub id>/ of each repository of the set: annotations and archives. What a
record is there for stands beside it; GONE are videos that are asked about and that no archive holds.
"""

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.unit import hard_videos
from viarl.datasets.hub.sets import SETS

NAMES = ("llava_video", "viarl_data", "videomme", "mlvu", "mlvu_repacked", "lvbench")
LETTER_ONLY = "Please respond with only the letter of the correct answer."
FULL_OPTION = "Please provide your answer by stating the letter followed by the full option."
YOUTUBE = "liwei_youtube_videos/videos/youtube_video_2024"
GONE = "gone0000000"

Record = dict[str, Any]


def module(name: str) -> ModuleType:
    """Return the module that parses a set."""
    return import_module(f"viarl.datasets.{name}")


def repositories(name: str) -> dict[str, str]:
    """Return the hub ids of a set by role."""
    made = next(made for made in SETS.values() if made.source == name)
    return {"questions": made.repositories[0], "videos": [*made.repositories, made.repositories[0]][1]}


def annotations(name: str, folder: Path) -> dict[str, Path]:
    """Return the annotation files that `write` made, by path in the repository."""
    home = folder / repositories(name)["questions"]
    found = {path for pattern in module(name).ANNOTATIONS for path in home.glob(pattern)}
    return {path.relative_to(home).as_posix(): path for path in sorted(found)}


def films(folder: Path, count: int = 4) -> list[Path]:
    """Write `count` short films that differ, a few kB each."""
    folder.mkdir(parents=True, exist_ok=True)
    return [hard_videos.encode(folder / f"film{index}.mp4", frames=50 + 10 * index) for index in range(count)]


def write(name: str, folder: Path, videos: Sequence[Path]) -> None:
    """Write the repositories of a set below `folder`; the videos are used again and again."""
    ids = repositories(name)
    _WRITERS[name](folder / ids["questions"], folder / ids["videos"], list(videos))


def _json(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=4), encoding="utf-8")


def _json_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _parquet(path: Path, records: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)


def _zip(target: Any, members: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for member, content in members:
            archive.writestr(zipfile.ZipInfo(member), content)  # a fixed date, so always the same bytes


def _tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for member, content in members:
            about = tarfile.TarInfo(member)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def _with_films(members: Sequence[str], videos: Sequence[Path]) -> list[tuple[str, bytes]]:
    return [(member, video.read_bytes()) for member, video in zip(members, cycle(videos), strict=False)]


# Video-MME ------------------------------------------------------------------------------------------------------------

_MME_VIDEOS = {  # videoID: class of duration, domain, and how its file is called
    "fFjv93ACGo8": ("short", "Knowledge", "mp4"),
    "-0yLg7_TQ9k": ("short", "Film & Television", "mp4"),  # begins with a hyphen: no name for a file
    "N1cdUjctpG8": ("medium", "Sports Competition", "MP4"),
    "7D-gxaie6UI": ("medium", "Knowledge", "mkv"),
    "eMqbhvP-uT4": ("long", "Life Record", "mp4"),
    GONE: ("long", "Multilingual", None),
}
_MME_TASKS = ("Counting Problem", "Action Reasoning", "Temporal Perception")
SRT = (
    "\ufeff1\r\n00:00:00,000 --> 00:00:01,500\r\n"
    '<font color="white" size=".72c">it begins with a walk</font>\r\n\r\n'
    "2\r\n00:00:01,000 --> 00:00:02,400\r\n"
    '<font color="white" size=".72c">and goes on &amp; on</font>\r\n\r\n'
    "3\r\n00:00:09,000 --> 00:00:04,000\r\n"
    '<font color="white" size=".72c">backwards</font>\r\n\r\n'
)


def _videomme(questions: Path, home: Path, videos: list[Path]) -> None:
    rows = []
    for number, (video, (duration, domain, _)) in enumerate(_MME_VIDEOS.items(), 1):
        for place, task in enumerate(_MME_TASKS, 1):
            rows.append(
                {
                    "video_id": f"{number:03}",
                    "duration": duration,
                    "domain": domain,
                    "sub_category": "Humanity & History",
                    "url": f"https://www.youtube.com/watch?v={video}",
                    "videoID": video,
                    "question_id": f"{number:03}-{place}",
                    "task_type": task,
                    "question": f"Which of these is the {task.lower()} of film {number}?",
                    "options": [f"{letter}. Thing {ord(letter) + number}." for letter in "ABCD"],
                    "answer": "ABCD"[(number + place) % 4],
                }
            )
    rows[1]["options"][2] = "C.Thing without a space."
    rows.append({**rows[0], "question": "The id comes twice?"})
    rows.append({**rows[0], "question_id": "900-1", "answer": "E"})  # beyond the options
    rows.append({**rows[0], "question_id": "900-2", "answer": None})
    _parquet(questions / "videomme/test-00000-of-00001.parquet", rows)
    home.mkdir(parents=True, exist_ok=True)
    files = [f"data/{video}.{suffix}" for video, (*_, suffix) in _MME_VIDEOS.items() if suffix]
    members = _with_films(files, videos)
    _zip(home / "videos_chunked_01.zip", members[:3])
    _zip(home / "videos_chunked_02.zip", members[3:])
    spoken = [(f"subtitle/{video}.srt", SRT.encode()) for video in ("fFjv93ACGo8", "-0yLg7_TQ9k", "eMqbhvP-uT4")]
    _zip(home / "subtitle.zip", spoken)


# LLaVA-Video-178K and ViaRL_data --------------------------------------------------------------------------------------

_YOUTUBE_VIDEOS = ("HBxn56l9WcU", "nJ11r1kVt14", "-NKVXEoY9vA", "7nRmsEw7nsE", "PJY98RKW-tA", "UKLnTkIzsxs")
_COLOURS = ("Red", "Green", "Blue", "Yellow")


def _asked(number: int, request: str = LETTER_ONLY, options: Sequence[str] = _COLOURS) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=False)]
    return "\n".join([f"What colour is the coat of person {number}?", *lines, request])


def _turns(*said: str) -> list[Record]:
    return [{"from": "human" if place % 2 == 0 else "gpt", "value": text} for place, text in enumerate(said)]


def _youtube(video: str) -> str:
    return f"{YOUTUBE}/ytb_{video}.mp4"


def llava_records() -> list[Any]:
    """Return the records of the annotation file."""
    source = "2_3_m_youtube_v0_1"
    records: list[Any] = []
    for number, video in enumerate((*_YOUTUBE_VIDEOS, GONE)):
        colour = _COLOURS[number % 4]
        said = (
            f"<image>\n{_asked(number)}",
            f"{'ABCD'[number % 4]}.",
            _asked(number + 100, FULL_OPTION),
            f"{'ABCD'[number % 4]}. {colour}.",
            _asked(number + 200, options=_COLOURS[:3]),
            "C",
        )
        records.append({"id": video, "conversations": _turns(*said), "data_source": source, "video": _youtube(video)})
    first = records[0]
    records += [
        {**first, "conversations": _turns(f"<image>\n{_asked(300)}", "B.")},  # a second record on the same video
        {**first, "conversations": _turns(_asked(301), "E.")},  # beyond the options
        {**first, "conversations": _turns(_asked(302, FULL_OPTION), "A. Blue.")},  # contradicts itself
        {**first, "conversations": _turns(_asked(303), "B.", _asked(304))},  # the last question has no answer
        {**first, "conversations": _turns("<image>\nDescribe the video.", "A man walks.")},
        {**first, "conversations": []},
        {key: value for key, value in first.items() if key != "video"},
        {**first, "video": "liwei_youtube_videos/../../../etc/passwd\\"},
        "no record",
    ]
    return records


def _youtube_archives(home: Path, videos: list[Path]) -> None:
    members = _with_films([_youtube(video) for video in _YOUTUBE_VIDEOS], videos)
    _tar(home / "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_videos_1.tar.gz", members[:3])
    _tar(home / "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_videos_2.tar.gz", members[3:])


def _llava_video(questions: Path, home: Path, videos: list[Path]) -> None:
    _json(questions / "2_3_m_youtube_v0_1/2_3_m_youtube_mc_v0_1_qa_processed.json", llava_records())
    _youtube_archives(home, videos)


def _viarl_record(number: int, **changes: Any) -> Record:
    video = (*_YOUTUBE_VIDEOS, GONE)[number % 7]
    letter = "ABCD"[number % 4]
    return {
        "problem": _asked(number, "").strip(),
        "solution": f"<answer>{letter}</answer>",
        "problem_type": "multi_choice",
        "video": f"/data/LLaVA-Video-178K/2_3_m_youtube_v0_1/{_youtube(video)}",
        "original_question": f"<image>\n{_asked(number, FULL_OPTION)}",
        "original_answer": f"{letter}. {_COLOURS[number % 4]}.",
        **changes,
    }


def _viarl_data(questions: Path, home: Path, videos: list[Path]) -> None:
    stem = "2_3_m_youtube_mc_v0_1_qa"
    _json_lines(
        questions / f"{stem}_rl_random_8k.jsonl",
        [
            *(_viarl_record(number) for number in range(12)),
            _viarl_record(12, problem_type="open_ended", problem="What happens?", solution="<answer>Much.</answer>"),
            _viarl_record(13, solution="A"),  # without its tags
            '{"problem": "cut',
        ],
    )
    _json_lines(questions / f"{stem}_rl_random_8k_16frames.jsonl", [_viarl_record(number) for number in range(8, 20)])
    _json_lines(
        questions / f"{stem}_random_8k.jsonl",
        [_viarl_record(number, solution=f"<answer>{'ABCD'[number % 4]}.</answer>") for number in range(30, 36)],
    )
    _youtube_archives(home, videos)


# MLVU -----------------------------------------------------------------------------------------------------------------


def _mlvu_record(video: str, kind: str, number: int, **changes: Any) -> Record:
    return {
        "video": video,
        "duration": 300.0 + number,
        "question": f"What is thing {number} of {kind}?",
        "candidates": ["Yellow ", "Red", "Green", "Blue"],
        "answer": ("Yellow ", "Red", "Green", "Blue")[number % 4],
        "question_type": kind,
        **changes,
    }


def mlvu_records() -> dict[str, list[Record]]:
    """Return the records of the annotation files, by the files' stems."""
    files = {
        stem: [_mlvu_record(f"{called}_{number}.mp4", kind, number) for number in range(1, 4)]
        for stem, kind, called in (
            ("1_plotQA", "plotQA", "movie101"),
            ("2_needle", "findNeedle", "needle"),
            ("3_ego", "ego", "ego"),
            ("4_count", "count", "count"),
            ("5_order", "order", "order"),
            ("6_anomaly_reco", "anomaly_reco", "surveil"),
            ("7_topic_reasoning", "topic_reasoning", "movie101"),  # the names of 1_plotQA, other videos
        )
    }
    drone = {"candidates": ["Fishing", "Catching the drone", "Launching the drone", "Sunbathing"]}
    for video in ("needle_4.mp4", "needle_5.mp4"):
        files["2_needle"] += [
            _mlvu_record(video, "findNeedle", 4),
            _mlvu_record(video, "findNeedle", 5, **drone, answer="Catching a flying drone quadcopter"),
        ]
    for record in files["4_count"]:
        record |= {"candidates": ["3", "4", "0", "2"], "answer": "2"}
    files["1_plotQA"] += [
        _mlvu_record("movie101_2.mp4", "plotQA", 6, candidates=["Six", "Three", "Three", "Eight"], answer="Three"),
        _mlvu_record("movie101_2.mp4", "plotQA", 7, candidates=["Blue", "Red", "White", "Blue"], answer="Red"),
        _mlvu_record("movie101_3.mp4", "plotQA", 8, candidates=["", "There is", "There is not", ""], answer="There is"),
    ]
    files["3_ego"].append(_mlvu_record("ego_1.mp4", "ego", 9, candidates=["In a box", "", "On a shelf"], answer=""))
    files["7_topic_reasoning"].append(
        _mlvu_record("movie101_1.mp4", "topic_reasoning", 10, question="", candidates=[""] * 4, answer="")
    )
    files["5_order"].append(_mlvu_record(f"{GONE}.mp4", "order", 11, duration="unknown"))
    for stem, kind in (("8_sub_scene", "subPlot"), ("9_summary", "summary")):
        told = _mlvu_record(f"{kind}_1.mp4", kind, 1, answer="A man walks.", scoring_points=["A man", "walks"])
        files[stem] = [{key: value for key, value in told.items() if key != "candidates"}]
    return files


def _mlvu(questions: Path, home: Path, videos: list[Path]) -> None:
    films = cycle(videos)
    for stem, records in mlvu_records().items():
        _json(questions / f"MLVU/json/{stem}.json", records)
        for video in sorted({record["video"] for record in records} - {f"{GONE}.mp4"}):
            path = home / f"MLVU/video/{stem}/{video}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(next(films), path)


def _mlvu_repacked(questions: Path, home: Path, videos: list[Path]) -> None:
    rows = []
    for task in ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning"):
        for number in range(1, 4):
            options = "\n".join(f"({letter}) {colour}" for letter, colour in zip("ABCD", _COLOURS, strict=True))
            rows.append(
                {
                    "video_name": f"{task}_{number}.mp4",
                    "duration": f"{300 + number}.5",
                    "question": f"What is thing {number} of {task}?\n{options}",
                    "answer": "ABCD"[number % 4],
                    "task_type": task,
                    "question_id": f"{number}",  # counts within a task
                }
            )
    rows.append({**rows[0], "question": "What has no options?"})
    rows.append({**rows[1], "question": "Which?\n(A) Red\n(B) Blue\n(C) Red\n(D) Green", "answer": "C"})
    rows.append({**rows[2], "video_name": f"{GONE}.mp4"})
    _parquet(questions / "mlvu/test-00000-of-00001.parquet", rows)
    home.mkdir(parents=True, exist_ok=True)
    names = sorted({row["video_name"] for row in rows} - {f"{GONE}.mp4"})
    members = _with_films([f"video_part/{name}" for name in names], videos)
    for part in range(2):
        _zip(home / f"video_part_{part + 1}.zip", members[part::2])


# LVBench --------------------------------------------------------------------------------------------------------------

_ABILITIES = ("key information retrieval", "event understanding", "summarization", "entity recognition", "reasoning")
_LV_VIDEOS = ("Cm73ma6Ibcs", "28CIeC8cZks", "-fFZcfnPr9E", GONE)


def lvbench_records() -> list[Any]:
    """Return the records of the annotation file."""
    uid = 0
    records: list[Any] = []
    for number, key in enumerate(_LV_VIDEOS):
        asked = []
        for place, times in enumerate(("00:01-00:02", "71:15-72:03", "1:02:03-1:02:09", "None", "10:40-09:50")):
            options = "\n".join(f"({letter}) {colour}" for letter, colour in zip("ABCD", _COLOURS, strict=True))
            asked.append(
                {
                    "uid": str(uid),
                    "question": f"What colour has thing {uid}?\n{options}",
                    "answer": "ABCD"[uid % 4],
                    "question_type": [_ABILITIES[place], "temporal grounding"][: 1 + place % 2],
                    "time_reference": times,
                }
            )
            uid += 1
        about = {"resolution": {"width": 1920, "height": 1080}, "fps": 25.0, "duration_minutes": 70 + number}
        records.append({"key": key, "type": "documentary", "video_info": about, "qa": asked})
    first = records[0]["qa"][0]
    records[1]["qa"] += [
        {**first, "uid": "900", "answer": "(B)"},
        {**first, "uid": "901", "answer": "F"},
        {**first, "uid": "902", "question": "What has no options?"},
        {**first, "uid": "902", "question_type": "reasoning"},  # as text, and without a time
        {**first, "uid": "902"},  # its id comes twice
    ]
    del records[1]["qa"][-2]["time_reference"]
    records += [{"key": "noquestions1", "type": "tv", "video_info": {}}, "{not json"]
    return records


def _lvbench(questions: Path, home: Path, videos: list[Path]) -> None:
    _json_lines(questions / "video_info.meta.jsonl", lvbench_records())
    home.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()
    _zip(whole, _with_films([f"all_videos/{key}.mp4" for key in _LV_VIDEOS[:-1]], videos))
    content = whole.getvalue()
    size = len(content) // 3 + 1  # cut anywhere, as `split` does
    for part in range(3):
        (home / f"all_videos_split.zip.{part + 1:03}").write_bytes(content[part * size : (part + 1) * size])


_WRITERS = {
    "llava_video": _llava_video,
    "viarl_data": _viarl_data,
    "videomme": _videomme,
    "mlvu": _mlvu,
    "mlvu_repacked": _mlvu_repacked,
    "lvbench": _lvbench,
}
