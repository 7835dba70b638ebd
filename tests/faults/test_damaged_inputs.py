"""A result that was cut to half: every stage that reads it stops with one line that names it and says what to delete.

What the line asks to delete is made again by its rule, so that the same command goes on.
"""

import os
import re

import pytest

from tests.faults.conftest import World

pytestmark = pytest.mark.e2e

SETS, FRAMES, CLIP = "data/sets/needle", "data/frames/needle/0.json", "data/clip/needle/0.safetensors"
SELECTOR, ANSWERER = "data/stand_ins/selector", "data/stand_ins/answerer"
FRAME_FILE = "data/frames/needle/videos/*.safetensors"
TRAINED, TUNED = "cycle1/selector/model.safetensors", "cycle1/answerer/model.safetensors"
PICKS, ROWS = "cycle1/selected/needle.parquet", "cycle1/evaluate/needle.parquet"
CASES = [  # (output whose stage runs, input that is cut, what the line asks to delete)
    (FRAMES, f"{SETS}/videos.jsonl", f"{SETS}/videos.jsonl"),
    (CLIP, f"{SETS}/items.jsonl", f"{SETS}/items.jsonl"),
    (CLIP, FRAMES, FRAMES),
    (CLIP, FRAME_FILE, FRAMES),
    (CLIP, "data/stand_ins/clip/model.safetensors", "data/stand_ins/clip/model.safetensors"),
    (CLIP, "data/stand_ins/clip/open_clip_config.json", "data/stand_ins/clip/model.safetensors"),
    ("filter/train_items.jsonl", "data/sets/needle_train/items.jsonl", "data/sets/needle_train/items.jsonl"),
    ("filter/train_items.jsonl", f"{ANSWERER}/model.safetensors", f"{ANSWERER}/model.safetensors"),
    (TRAINED, "filter/train_items.jsonl", "filter/train_items.jsonl"),
    (TRAINED, "data/frames/needle_train/0.json", "data/frames/needle_train/0.json"),
    (TRAINED, "data/frames/needle_train/videos/*.safetensors", "data/frames/needle_train/0.json"),
    (TRAINED, f"{SELECTOR}/model.safetensors", f"{SELECTOR}/model.safetensors"),
    (TRAINED, f"{ANSWERER}/tokenizer.json", f"{ANSWERER}/model.safetensors"),
    (PICKS, TRAINED, TRAINED),
    (PICKS, "cycle1/selector/config.json", TRAINED),
    (PICKS, "cycle1/selector/processor_config.json", TRAINED),
    (TUNED, "cycle1/selected/needle_train.parquet", "cycle1/selected/needle_train.parquet"),
    (TUNED, f"{ANSWERER}/model.safetensors", f"{ANSWERER}/model.safetensors"),
    (ROWS, PICKS, PICKS),
    (ROWS, "cycle0/selected/needle.parquet", "cycle0/selected/needle.parquet"),
    (ROWS, CLIP, CLIP),
    (ROWS, TUNED, TUNED),
    ("cycle1/eval.json", ROWS, ROWS),
    ("cycle1/eval.json", "cycle0/evaluate/needle.parquet", "cycle0/evaluate/needle.parquet"),
    ("report/accuracy.png", "cycle1/eval.json", "cycle1/eval.json"),
    ("report/accuracy.png", ROWS, ROWS),
]


@pytest.mark.parametrize(("output", "cut", "remedy"), CASES)
def test_a_cut_input_is_named(world: World, output: str, cut: str, remedy: str) -> None:
    results = world.root / "results/smoke"
    for path in results.glob(cut):
        os.truncate(path, path.stat().st_size // 2)
    made = results / output
    made.unlink()
    outcome = world.run(f"results/smoke/{output}")
    assert outcome.status == 1
    assert outcome.last.startswith("error: "), outcome.text
    asked = re.search(r"\bdelete (\S+)", outcome.last)
    assert asked, outcome.last
    named = re.search(r"\S*results/smoke/\S+", outcome.last if asked[1] == "it" else asked[1])
    assert named and named[0].rstrip(":;,.").endswith(remedy), outcome.last
    assert output.startswith("report") or not made.exists()  # Snakemake removes what a failed job drew before it failed
