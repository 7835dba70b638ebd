"""The protocol lmms-eval against lmms-eval itself: same prompts, letters and scores (`make peer`, on demand).

The same records, in their published layouts, go through lmms-eval's task functions and through this project's parsers,
protocol and summary. Where the two differ on purpose:

- An option line or question with white space at its ends loses it here, in the parsers.
- Of subtitles lmms-eval shows lines with a certain font tag alone, rounds times to frames, and its order is that of a
  Python set; here every line counts, times are compared, and the order is the file's.
- lmms-eval's MLVU mean counts a task without questions as 0; here the mean is over the tasks that there are.
- A letter that is none of the item's options is a wrong letter there and no letter here; both score 0.
"""

import importlib
import importlib.metadata
import json
import random
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from viarl.datasets import lvbench, mlvu_repacked, videomme
from viarl.evaluate.benchmarks import Benchmark, benchmark
from viarl.evaluate.protocols import protocol
from viarl.evaluate.spoken import SpokenLines
from viarl.evaluate.summary import summarise
from viarl.items import Item

pytestmark = pytest.mark.peer
lmms_eval = pytest.importorskip("lmms_eval", reason="lmms-eval is in an environment of its own: make peer")
TASKS = Path(lmms_eval.__path__[0]) / "tasks"
LETTERS = "ABCD"
DURATIONS = ("short", "medium", "long")
DOMAINS = ("Knowledge", "Film & Television", "Sports Competition", "Life Record")
MME_TASKS = ("Counting Problem", "Action Reasoning", "OCR Problems")
MLVU_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
TYPES = ("entity recognition", "event understanding", "temporal grounding", "reasoning")
REPLIES = (
    *("A", "B.", "(C)", "D)", "C. a thing", "(B) a thing", " b ", "A) It", "", "E", "none", "...", "'D'", "“A”"),
    *("The answer is B", "The answer is (C).", "Answer: C", "answer: d", "The best answer is A, not B", "I choose D."),
    *(
        "The correct option is D.",
        "My answer is: C",
        "Best option: (B",
        "Option A is right",
        "It is A. Or B?",
        "A or B",
    ),
    *(
        "Based on the video, the correct answer is B. A dog runs.",
        "NBA",
        "A dog",
        "Because of A: then B) and (C).",
        "xDx",
    ),
    *(
        "정답은 B입니다",
        "答案是C",
        "我选D",
        "答えはA",
        "<think>A or B</think> C",
        "B\n\nBecause A is wrong",
        "D,",
        "a\nB\nc",
    ),
)
PIECES = (
    *("A", "B", "C", "D", "E", "a", "b", " ", " ", "\n", ".", ",", ":", ")", "(", "!", "'", '"', "NBA", "Dog", "word"),
    *(
        "the answer is ",
        "The Answer Is ",
        "answer is",
        "correct option is ",
        "I choose ",
        "my choice is",
        "best option is",
    ),
    *(
        "the best answer is ",
        "choice is ",
        "i pick ",
        "my answer is ",
        "correct choice is ",
        "答案是",
        "정답은 ",
        "选",
        "답:",
        "İ",
    ),
)


@pytest.fixture(scope="module")
def original() -> dict[str, types.ModuleType]:
    """lmms-eval's task modules, without the package's own start, which loads torch and every model."""
    package = types.ModuleType("lmms_eval.tasks")
    package.__path__ = [str(TASKS)]
    sys.modules.setdefault("lmms_eval.tasks", package)
    print("lmms-eval", importlib.metadata.version("lmms-eval"))
    return {name: importlib.import_module(f"lmms_eval.tasks.{name}.utils") for name in ("videomme", "mlvu", "lvbench")}


def wording(task: str) -> dict[str, Any]:
    """What lmms-eval hands its functions for a model without a prompt of its own, from the task's file."""
    lines = (TASKS / task).read_text().splitlines()
    plain = "\n".join(line for line in lines if "!function" not in line)
    return dict(yaml.safe_load(plain)["lmms_eval_specific_kwargs"]["default"])


def mme_records() -> list[dict[str, Any]]:
    """Rows of Video-MME: 12 videos, three questions each."""
    return [
        {
            "video_id": f"{number:03}",
            "videoID": f"-video_{number}",
            "duration": DURATIONS[number % 3],
            "domain": DOMAINS[number % 4],
            "sub_category": "Law",
            "url": "",
            "question_id": f"{number:03}-{place}",
            "task_type": task,
            "question": f"What {{happens}} in {number}, part {place}?",
            "options": [f"{letter}. Thing {letter}{number}." for letter in LETTERS],
            "answer": LETTERS[(number + place) % 4],
        }
        for number in range(12)
        for place, task in enumerate(MME_TASKS)
    ]


def mlvu_records() -> list[dict[str, Any]]:
    """Rows of MLVU, repacked: the tasks have different numbers of questions."""
    rows = []
    for many, task in enumerate(MLVU_TASKS, 2):
        for number in range(many):
            options = [f"thing {number}", "a red card", "0", "nothing of all this."]
            lines = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))
            row = {"video_name": f"{task}_{number // 2}.mp4", "duration": 300.0, "task_type": task}
            row |= {"question": f"What is shown in {number} of {task}?\n{lines}", "candidates": options}
            rows.append(row | {"answer": LETTERS[number % 4], "question_id": str(number)})
    return rows


def lvbench_records() -> list[dict[str, Any]]:
    """Lines of LVBench's list of videos."""
    lines = []
    for number in range(5):
        asked = [
            {
                "uid": f"{number}{place}",
                "question": f"What is thing {number}{place}?\n(A) one\n(B) two\n(C) three\n(D) four",
                "answer": LETTERS[(number * place) % 4],
                "question_type": list(TYPES[place : place + 1 + number % 2]),
                "time_reference": "00:01-00:02",
            }
            for place in range(4)
        ]
        lines.append({"key": f"video{number}", "type": "tv", "video_info": {"duration_minutes": 70}, "qa": asked})
    return lines


def as_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Path]:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return {f"test/{path.name}": path}


@pytest.fixture
def both(tmp_path: Path) -> dict[str, tuple[list[dict[str, Any]], list[Item]]]:
    """The records as lmms-eval's documents, and as items, in the same order."""
    path = tmp_path / "video_info.meta.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lvbench_records()))
    mme, mlvu = mme_records(), mlvu_records()
    lvb = [
        {**question, "video_path": f"{record['key']}.mp4"} for record in lvbench_records() for question in record["qa"]
    ]
    return {
        "videomme": (mme, videomme.parse(as_parquet(tmp_path / "test-0.parquet", mme)).items),
        "mlvu": (mlvu, mlvu_repacked.parse(as_parquet(tmp_path / "test-1.parquet", mlvu)).items),
        "lvbench": (lvb, lvbench.parse({path.name: path}).items),
    }


BENCHMARKS = {"videomme": "videomme/videomme.yaml", "mlvu": "mlvu/mlvu_dev.yaml", "lvbench": "lvbench/lvbench.yaml"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_prompts(name: str, original: dict[str, types.ModuleType], both: dict[str, Any]) -> None:
    documents, items = both[name]
    ask = getattr(original[name], f"{name}_doc_to_text")
    theirs = [ask(document, wording(BENCHMARKS[name])) for document in documents]
    assert [protocol("lmms-eval", "short", benchmark(name)).text(item, [0]) for item in items] == theirs
    assert len(set(theirs)) == len(documents)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_letters(name: str, original: dict[str, types.ModuleType], both: dict[str, Any]) -> None:
    """Replies that models give, and 20,000 made of their pieces."""
    draw = random.Random(0)
    made = ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(20000)]
    item = both[name][1][0]
    read = protocol("lmms-eval", "short", Benchmark()).letter
    different = [
        (reply, read(reply, item), theirs)
        for reply in (*REPLIES, *made)
        if read(reply, item) != (theirs := original[name].extract_characters_regex(reply))
    ]
    assert not different, different[:10]


def scored(items: Sequence[Item], replies: Sequence[str], name: str) -> dict[str, Any]:
    """Our figures of the uniform selector."""
    rows = []
    for item, reply in zip(items, replies, strict=True):
        letter = protocol("lmms-eval", "short", Benchmark()).letter(reply, item)
        row = {"benchmark": name, "cycle": 0, "protocol": "lmms-eval", "item": item.id, "video": item.video}
        row |= {"task": item.task, "groups": list(item.groups), "selector": "uniform", "draw": 0, "valid": True}
        row |= {"reason": "", "failed": "", "answer": item.answer, "correct": letter == item.answer}
        rows.append(row | {"evidence_recall": float("nan")})
    content = summarise(pd.DataFrame(rows), 0, [name], 20, headlines={name: benchmark(name).headlines})
    return dict(content["benchmarks"][name])


def results(name: str, metric: str, module: types.ModuleType, documents: Any, replies: Sequence[str]) -> list[Any]:
    process = getattr(module, f"{name}_process_results")
    return [process(document, [reply])[metric] for document, reply in zip(documents, replies, strict=True)]


def said(module: types.ModuleType, aggregate: Any, values: list[Any]) -> tuple[float, dict[str, float]]:
    """The score that lmms-eval returns, and those of groups that it only logs, in percent."""
    messages: list[str] = []
    sink = module.eval_logger.add(messages.append, format="{message}")
    try:
        score = aggregate(values)
    finally:
        module.eval_logger.remove(sink)
    parts = [message.strip().removeprefix("Evaluation on ").rpartition(": ") for message in messages]
    return score, {name: float(value.rstrip("%")) for name, _, value in parts if value.endswith("%")}


def replies_to(documents: Sequence[Any], seed: int) -> list[str]:
    """Replies of all kinds; half of them name the right option."""
    draw = random.Random(seed)
    right = ("{}", "({})", "The answer is {}.", "{}. It is so")
    return [
        draw.choice(right).format(document["answer"]) if draw.random() < 0.5 else draw.choice(REPLIES)
        for document in documents
    ]


@pytest.mark.parametrize("seed", range(5))
def test_videomme_scores(seed: int, original: dict[str, types.ModuleType], both: dict[str, Any]) -> None:
    documents, items = both["videomme"]
    replies = replies_to(documents, seed)
    module = original["videomme"]
    values = results("videomme", "videomme_perception_score", module, documents, replies)
    score, logged = said(module, module.videomme_aggregate_results, values)
    ours = scored(items, replies, "videomme")
    assert 100 * ours["headlines"]["micro"]["selectors"]["uniform"]["value"] == pytest.approx(score, abs=1e-4)
    found = ours["selectors"]["uniform"]
    for kind, groups in {
        "video Type": found["by_group"]["duration"],
        "Categories": found["by_group"]["domain"],
        "Task Categories": found["by_task"],
    }.items():
        for group, figures in groups.items():
            assert 100 * figures["accuracy"]["value"] == pytest.approx(logged[f"{kind}: {group}"], abs=0.0501)
    durations = [logged[f"video Type: {duration}"] for duration in DURATIONS]
    overall = 100 * ours["headlines"]["overall"]["selectors"]["uniform"]["value"]
    assert overall == pytest.approx(np.mean(durations), abs=0.0501)


@pytest.mark.parametrize("seed", range(5))
def test_mlvu_scores(seed: int, original: dict[str, types.ModuleType], both: dict[str, Any]) -> None:
    documents, items = both["mlvu"]
    replies = replies_to(documents, seed)
    module = original["mlvu"]
    values = results("mlvu", "mlvu_percetion_score", module, documents, replies)
    score, logged = said(module, module.mlvu_aggregate_results_dev, values)
    ours = scored(items, replies, "mlvu")
    assert 100 * ours["headlines"]["M-Avg"]["selectors"]["uniform"]["value"] == pytest.approx(score, abs=1e-4)
    needle = 100 * ours["headlines"]["Needle QA"]["selectors"]["uniform"]["value"]
    assert needle == pytest.approx(logged["Task Categories: needle"], abs=0.0501)
    for task, figures in ours["selectors"]["uniform"]["by_task"].items():
        theirs = logged[f"Task Categories: {'needle' if task == 'findNeedle' else task}"]
        assert 100 * figures["accuracy"]["value"] == pytest.approx(theirs, abs=0.0501)


@pytest.mark.parametrize("seed", range(5))
def test_lvbench_scores(seed: int, original: dict[str, types.ModuleType], both: dict[str, Any]) -> None:
    documents, items = both["lvbench"]
    replies = replies_to(documents, seed)
    values = results("lvbench", "lvbench_score", original["lvbench"], documents, replies)
    ours = scored(items, replies, "lvbench")["headlines"]["micro"]["selectors"]["uniform"]["value"]
    assert ours == pytest.approx(np.mean(values), abs=1e-6)


SRT = "".join(
    f'{number}\n00:00:0{start},000 --> 00:00:0{end},000\n<font color="white" size=".72c">{said}</font>\n\n'
    for number, (start, end, said) in enumerate(
        [(0, 2, "it begins"), (1, 3, "twice at once"), (4, 5, "between the frames"), (6, 9, "it ends, they say")], 1
    )
)


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_prompts_with_subtitles(
    frames: int, original: dict[str, types.ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video of 100 frames, 10 a second; lmms-eval's frames are ours, by their times."""
    cv2 = pytest.importorskip("cv2")
    module = original["videomme"]
    monkeypatch.setattr(module, "base_cache_dir", str(tmp_path))
    documents = mme_records()[:4]  # one video with subtitles, and one without
    spoken_of = documents[0]["videoID"]
    home = tmp_path / module.cache_name
    for folder in ("data", "subtitle"):
        (home / folder).mkdir(parents=True)
    (home / "subtitle" / f"{spoken_of}.srt").write_text(SRT)
    writer = cv2.VideoWriter(str(home / "data" / f"{spoken_of}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(100):
        writer.write(np.zeros((64, 64, 3), dtype=np.uint8))
    writer.release()
    theirs = [
        module.videomme_doc_to_text_subtitle(
            document, wording("videomme/videomme_w_subtitle.yaml") | {"frame_num": frames}
        )
        for document in documents
    ]
    assert "it begins" in theirs[0] and "No subtitles available" in theirs[3]

    items = videomme.parse(as_parquet(tmp_path / "test-0.parquet", documents), subtitles=True).items
    items = videomme.with_subtitles(items, {items[0].video})
    target = tmp_path / items[0].subtitles
    target.parent.mkdir()
    target.write_text(SRT)
    shown = np.linspace(0, 99, frames, dtype=int)

    class Cache:
        """Knows when the frames are."""

        def times(self, video: str) -> np.ndarray:
            return np.arange(100) / 10

    lines = SpokenLines(items, tmp_path, Cache())  # type: ignore[arg-type]
    asking = protocol("lmms-eval", "short", benchmark("videomme"), lines, subtitled=True)
    assert [asking.text(item, shown.tolist()) for item in items] == theirs
