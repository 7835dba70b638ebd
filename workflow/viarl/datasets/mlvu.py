"""MLVU, the development set as first published: 2,593 questions of nine tasks, seven of them multiple-choice (2,175).

MLVU/json/<number>_<task>.json lists records of video, duration (seconds), question, candidates, answer (the right
candidate's text) and question_type; the two generation tasks, subPlot and summary, have no candidates. The videos lie
as files in MLVU/video/<stem of the json>/; the same name in two of those folders is not the same video.

Of the 2,175, 2,165 are usable: in two the answer is no candidate, in five it comes twice, in three it is empty.
In ten more only wrong ones repeat: kept, as every harness does.
"""

from pathlib import Path, PurePosixPath

from viarl.datasets.choices import letter_of_text, options_of
from viarl.datasets.parsed import Notes, Parsed, Record, Unusable, file_name, label, seconds, text
from viarl.items import Item, safe_id

ANNOTATIONS = ("MLVU/json/*.json",)
ARCHIVES = ("MLVU/video/*/*.mp4",)


def parse(files: dict[str, Path]) -> Parsed:
    """Return the multiple-choice questions; Item.task is the question_type. Errors: `records`."""
    found = Parsed("mlvu")
    for where, name, number, record in found.read(files):
        found.add(where, _item, record, PurePosixPath(name).stem, number)
    return found


def _item(record: Record, folder: str, number: int, notes: Notes) -> tuple[Item, str]:
    task = label(record, "question_type")
    if task in ("subPlot", "summary"):
        raise Unusable("generation task", task)
    video = f"{folder}/{file_name(record, 'video')}"
    options, question = options_of(record, "candidates"), text(record, "question")
    answer = letter_of_text(text(record, "answer", empty=True), options)
    duration, id = seconds(record, "duration", notes), safe_id(f"{folder}-{number}")
    return Item(id, safe_id(video), question, options, answer, task, duration), f"MLVU/video/{video}"
