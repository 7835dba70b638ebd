"""LVBench: 1,549 questions on 103 videos of about an hour.

video_info.meta.jsonl (zai-org/LVBench, formerly THUDM/LVBench) holds a video a line: key (YouTube's id), type,
video_info (duration_minutes, …) and qa, a list of uid, question (its options in lines "(A) …" behind it), answer (a
letter), question_type (a list: several of the six abilities) and time_reference, "MM:SS-MM:SS" with minutes that exceed
59, or "H:MM:SS-H:MM:SS". The videos are one zip in fourteen parts, all_videos_split.zip.001..014 (AIWinter/LVBench), of
all_videos/<key>.mp4.

Item.evidence is the time_reference; about 15 are "None" or end before they begin: kept, noted, without evidence.
"""

import re
from pathlib import Path
from typing import Any

from viarl.datasets.choices import letter_of, split_question
from viarl.datasets.parsed import MALFORMED, MISSING, Notes, Parsed, Unusable, file_name, label, seconds, text, texts
from viarl.faults import shown
from viarl.items import Item, safe_id

ANNOTATIONS = ("video_info.meta.jsonl",)
ARCHIVES = ("all_videos_split.zip.*",)

_TIME = r"\s*(?:(\d{1,3}):)?(\d{1,4}):([0-5]\d)\s*"


def parse(files: dict[str, Path]) -> Parsed:
    """Return the questions; Item.groups has a "type=…" for every ability. Errors: `viarl.datasets.parsed.records`."""
    found = Parsed("lvbench")
    for where, _, _, record in found.read(files):
        asked = record.get("qa")
        if not isinstance(asked, list) or not asked:
            found.drop(where, Unusable(MISSING if asked is None else MALFORMED, f"qa: {shown(asked)}"))
            continue
        for place, one in enumerate(asked, 1):
            found.add(f"{where}:{place}", _item, record, one)
    return found


def evidence_of(reference: Any, notes: Notes) -> tuple[tuple[float, float], ...]:
    """Return the interval of a time_reference in seconds; nothing, with a note, where it names none."""
    found = re.fullmatch(f"{_TIME}-{_TIME}", reference) if isinstance(reference, str) else None
    if found is None:
        notes.append(("time reference unknown", f"time_reference: {shown(reference)}"))
        return ()
    hours, minutes, whole, *end = (int(part or 0) for part in found.groups())
    start_s, end_s = 3600 * hours + 60 * minutes + whole, 3600 * end[0] + 60 * end[1] + end[2]
    if end_s < start_s:
        notes.append(("time reference reversed", f"time_reference: {shown(reference)}"))
        return ()
    return ((float(start_s), float(end_s)),)


def _item(record: dict[str, Any], asked: Any, notes: Notes) -> tuple[Item, str]:
    if not isinstance(asked, dict):
        raise Unusable(MALFORMED, f"qa: {shown(asked)} is no question")
    key = file_name(record, "key")
    uid = asked.get("uid")
    number = str(uid) if type(uid) is int else text(asked, "uid")
    kinds = asked.get("question_type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    types = [label({"question_type": one}, "question_type") for one in texts({"question_type": kinds}, "question_type")]
    groups = tuple(f"type={kind}" for kind in dict.fromkeys(types))
    question, options = split_question(text(asked, "question"))
    about = record.get("video_info")
    answer = letter_of(text(asked, "answer"), options)
    duration = seconds(about if isinstance(about, dict) else {}, "duration_minutes", notes, unit=60)
    evidence = evidence_of(asked.get("time_reference"), notes)
    id, video = safe_id(f"{key}-{number}"), safe_id(key)
    item = Item(id, video, question, options, answer, "", duration, evidence, groups=groups)
    return item, f"{key}.mp4"  # in AIWinter's archive below all_videos/, in lmms-lab's at the top
