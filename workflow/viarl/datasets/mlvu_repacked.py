"""MLVU, the development set as repacked for lmms-eval (sy1998/MLVU_dev): 2,174 multiple-choice questions, 1,122 videos.

mlvu/test-00000-of-00001.parquet holds a row a question: video_name, duration (seconds), question (its options in lines
"(A) …" behind it), answer (a letter), task_type, question_id. video_part_1..8.zip hold the videos; their file names are
unique.
"""

from pathlib import Path

from viarl.datasets.choices import letter_of, options_of, split_question
from viarl.datasets.parsed import FEW_OPTIONS, Notes, Parsed, Record, Unusable, file_name, label, seconds, text
from viarl.items import Item, safe_id

ANNOTATIONS = ("mlvu/test-*.parquet",)
ARCHIVES = ("video_part_*.zip",)
TASKS = {"needle": "findNeedle"}  # so that the tasks have one name in both packings


def parse(files: dict[str, Path]) -> Parsed:
    """Return the questions; Item.task is the task_type under its name in `viarl.datasets.mlvu`. Errors: `records`."""
    found = Parsed("mlvu_repacked")
    for where, _, number, record in found.read(files):
        found.add(where, _item, record, number)
    return found


def _item(record: Record, number: int, notes: Notes) -> tuple[Item, str]:
    video, task = file_name(record, "video_name"), label(record, "task_type")
    question = text(record, "question")
    try:
        question, options = split_question(question)  # they stand there also where there is a list of candidates
    except Unusable as why:
        if why.reason != FEW_OPTIONS or record.get("candidates") is None:
            raise
        options = options_of(record, "candidates")
    answer, duration = letter_of(text(record, "answer"), options), seconds(record, "duration", notes)
    id = f"{safe_id(task)}-{number}"  # question_id counts within a task, if at all
    return Item(id, safe_id(video), question, options, answer, TASKS.get(task, task), duration), video
