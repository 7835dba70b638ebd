"""Video-MME (lmms-lab/Video-MME): 2,700 questions on 900 videos, with subtitles for most of them.

videomme/test-00000-of-00001.parquet holds a row a question: video_id "001", videoID (YouTube's), question_id "001-1",
duration (short, medium, long), domain, sub_category, task_type, question, options ("A. …"), answer (a letter).
videos_chunked_01..20.zip hold data/<videoID>.mp4 (a few .MP4 or .mkv), subtitle.zip holds subtitle/<videoID>.srt.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from viarl.datasets.common import (
    Collector,
    Parsed,
    Record,
    Unusable,
    file_name,
    label,
    letter_of,
    options_of,
    records,
    text,
)
from viarl.items import Item, safe_id

SOURCE = "videomme"
REPOSITORIES = (("questions", "lmms-lab/Video-MME"), ("videos", "lmms-lab/Video-MME"))
ANNOTATIONS = ("videomme/test-*.parquet",)
ARCHIVES = ("videos_chunked_*.zip",)
SUBTITLE_ARCHIVES = ("subtitle.zip",)


def parse(files: dict[str, Path], subtitles: bool = False) -> Parsed:
    """Return the questions; with `subtitles`, Item.subtitles names "subtitles/<video id>.srt" for every video.

    Some videos have no subtitles: whoever extracts them sets Item.subtitles to "" where the member is missing.
    """
    found = Collector(SOURCE)
    for name, number, record in records(files):
        if isinstance(record, Unusable):
            found.drop(f"{name}:{number}", record)
            continue
        called = str(record.get("question_id") or f"{name}:{number}")
        item = found.add(called, partial(_item, record))
        if item and subtitles:
            found.items[item.id] = replace(item, subtitles=f"subtitles/{item.video}.srt")
            found.subtitles[item.video] = f"subtitle/{text(record, 'videoID')}.srt"
    return found.parsed()


def _item(record: Record) -> tuple[Item, str]:
    video = file_name(record, "videoID")
    options = options_of(record, "options")
    task = label(record, "task_type")
    groups = (
        f"duration={label(record, 'duration')}",
        f"domain={label(record, 'domain')}",
        f"task={task}",
    )
    item = Item(
        id=safe_id(text(record, "question_id")),
        video=safe_id(video),
        question=text(record, "question"),
        options=options,
        answer=letter_of(text(record, "answer"), options),
        task=task,
        source=SOURCE,
        groups=groups,
    )
    return item, f"data/{video}.mp4"
