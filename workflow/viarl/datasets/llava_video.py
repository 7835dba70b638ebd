"""LLaVA-Video-178K, the multiple-choice questions on YouTube videos of 2 to 3 minutes: the paper's training set.

2_3_m_youtube_v0_1/2_3_m_youtube_mc_v0_1_qa_processed.json lists 39,967 records: id (YouTube's), data_source, video
"liwei_youtube_videos/videos/youtube_video_2024/ytb_<id>.mp4" and conversations, in which a turn of "human" holds a
question with its options and a request for the form of the answer, and the turn of "gpt" after it the answer, "A", "A."
or "A. its text." The videos lie under the same path in 2_3_m_youtube_v0_1_videos_{1..98}.tar.gz, 520 GB in all.
"""

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from viarl.datasets.choices import letter_of, split_question
from viarl.datasets.parsed import MALFORMED, MISSING, Notes, Parsed, Record, Unusable, text
from viarl.faults import shown
from viarl.items import Item, safe_id

FOLDER = "2_3_m_youtube_v0_1"
ANNOTATIONS = (f"{FOLDER}/2_3_m_youtube_mc_v0_1_qa_processed.json",)
ARCHIVES = (f"{FOLDER}/{FOLDER}_videos_*.tar.gz",)

_HOME = "liwei_youtube_videos/videos/youtube_video_2024/"
_REQUESTS = (
    "Please provide your answer by stating the letter followed by the full option.",
    "Please respond with only the letter of the correct answer.",
)


def parse(files: dict[str, Path]) -> Parsed:
    """Return the questions, several for a video. Errors: `viarl.datasets.parsed.records`."""
    found = Parsed("llava_video")
    for where, _, number, record in found.read(files):
        try:
            for turn, (asked, answered) in enumerate(_pairs(record), 1):
                found.add(f"{where}:{turn}", _item, record, asked, answered, f"{number}-{turn}")
        except Unusable as why:
            found.drop(where, why)
    return found


def asked_of(prompt: str) -> tuple[str, tuple[str, ...]]:
    """Return question and options of a turn, without the image's mark and the request for the form of the answer."""
    prompt = prompt.replace("<image>", "").replace("<video>", "").strip()
    for request in _REQUESTS:
        prompt = prompt.removesuffix(request).rstrip()
    return split_question(prompt)


def video_of(record: Record) -> tuple[str, str]:
    """Return a video's id and its path in the archives; what comes before the set's own folder is left out."""
    path = text(record, "video")
    _, home, name = path.rpartition(_HOME)
    if not home:  # a folder of the set that we do not know, or somebody's own: the file's name is all that is sure
        name = PurePosixPath(path).name
    if not PurePosixPath(name).name or "\\" in name or ".." in PurePosixPath(name).parts or not name.isprintable():
        raise Unusable(MALFORMED, f"video: {shown(path)} is no name of a file")
    return safe_id(name), f"{home}{name}"


def _pairs(record: Record) -> Iterable[tuple[Any, Any]]:
    """Return the turns that ask with those that answer; one that is missing is None."""
    if (turns := record.get("conversations")) is None:
        raise Unusable(MISSING, "conversations")
    if not isinstance(turns, list) or not turns:
        raise Unusable(MALFORMED, f"conversations: {shown(turns)} is no list of turns")
    return zip_longest(turns[::2], turns[1::2])


def _said(turn: Any, who: str) -> str:
    if turn is None:
        raise Unusable(MISSING, f"the turn of {who}")
    if not isinstance(turn, dict) or turn.get("from") != who:
        raise Unusable(MALFORMED, f"{shown(turn)} is no turn of {who}")
    return text(turn, "value")


def _item(record: Record, asked: Any, answered: Any, number: str, _: Notes) -> tuple[Item, str]:
    video, member = video_of(record)
    question, options = asked_of(_said(asked, "human"))
    answer = letter_of(_said(answered, "gpt"), options)
    return Item(f"{video}-{number}", video, question, options, answer), member
