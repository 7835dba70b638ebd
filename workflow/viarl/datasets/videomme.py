"""Video-MME: 2,700 questions on 900 videos, with subtitles for most of them.

videomme/test-00000-of-00001.parquet holds a row a question: video_id "001", videoID (YouTube's), question_id "001-1",
duration (short, medium, long), domain, sub_category, task_type, question, options ("A. …"), answer (a letter).
videos_chunked_01..20.zip hold data/<videoID>.mp4 (some end in .MP4 or .mkv), subtitle.zip subtitle/<videoID>.srt.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from viarl.datasets.choices import letter_of, options_of
from viarl.datasets.parsed import Notes, Parsed, Record, file_name, label, name_of, text
from viarl.items import Item, safe_id

ANNOTATIONS = ("videomme/test-*.parquet",)
ARCHIVES = ("videos_chunked_*.zip",)
SUBTITLES = ("subtitle.zip",)


def parse(files: dict[str, Path], subtitles: bool = False) -> Parsed:
    """Return the questions; with `subtitles`, Item.subtitles names "subtitles/<video id>.srt" for every video."""
    found = Parsed("videomme")
    for where, _, _, record in found.read(files):
        item = found.add(name_of(record.get("question_id"), where), _item, record)
        if item and subtitles:
            found.by_id[item.id] = replace(item, subtitles=f"subtitles/{item.video}.srt")
            found.subtitles[item.video] = f"subtitle/{file_name(record, 'videoID')}.srt"
    return found


def with_subtitles(items: list[Item], videos: Collection[str]) -> list[Item]:
    """Return the items with Item.subtitles kept where the video is among those whose subtitles exist, "" elsewhere."""
    return [item if item.video in videos else replace(item, subtitles="") for item in items]


def _item(record: Record, _: Notes) -> tuple[Item, str]:
    video, options, task = file_name(record, "videoID"), options_of(record, "options"), label(record, "task_type")
    id, question = safe_id(text(record, "question_id")), text(record, "question")
    answer = letter_of(text(record, "answer"), options)
    groups = (f"duration={label(record, 'duration')}", f"domain={label(record, 'domain')}", f"task={task}")
    return Item(id, safe_id(video), question, options, answer, task, groups=groups), f"data/{video}.mp4"
