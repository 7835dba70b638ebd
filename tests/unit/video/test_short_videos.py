"""Videos with fewer frames than N, from the file on: everything keeps to their true index range."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hard_videos as hard
from small_answerer import save_vlm, small_vlm
from small_selector import WEIGHTS
from viarl.answer.load import load_answerer
from viarl.answer.settings import AnswererSettings
from viarl.command import parse
from viarl.evaluate.rows import read_rows
from viarl.evaluate.selectors import LEARNED, TRAINING_FREE
from viarl.files import sha256_file
from viarl.items import Item, Video, write_records
from viarl.selection.learned import load_selector
from viarl.selection.picks import GREEDY, SAMPLED, read_picks
from viarl.selection.prompt import parse_selection
from viarl.selection.similarities import similarities, write_scores
from viarl.selection.uniform import uniform
from viarl.stages import cache_frames, evaluate, select_frames
from viarl.training.filtering import Filter
from viarl.training.rl.rollout import PixelPrompts
from viarl.training.rl.scoring import RecallOf, score_completions
from viarl.training.rl.settings import SelectorTask, Training
from viarl.training.rl.trainer import SelectorTrainer
from viarl.training.settings import FilterSettings
from viarl.training.sft.labels import Labels
from viarl.video.cache import FrameCache
from viarl.video.overlay import NumberStyle, draw_number

N, K = 32, 8
COUNTS = {
    "long": 32,
    "middle": 20,
    "short": 6,
}  # candidates: all of N, fewer than N, fewer than K (of 100, 21, 7 frames)
ASK = AnswererSettings(prompt="short", max_new_tokens=6)
ITEMS = [
    Item(f"{name}{number}", name, f"which shape is it{' now' * number}?", ("star", "moon"), "AB"[number],
         evidence=((0.0, 0.1),))
    for name in COUNTS for number in range(2)
]  # fmt: skip


class Clip:
    """Similarity falls with the brightness of the frame."""

    def encode_images(self, images: Any) -> Any:
        return torch.tensor([[float(image.mean()), 100.0] for image in images])

    def encode_texts(self, texts: Any) -> Any:
        return torch.tensor([[0.0, 1.0]] * len(texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cached frames, similarities, questions and a model."""
    root = tmp_path_factory.mktemp("short")
    paths = {name: hard.encode(root / f"{name}.mp4", frames) for name, frames in zip(COUNTS, (100, 21, 7), strict=True)}
    videos = [Video(name, str(path), path.stat().st_size, sha256_file(path)) for name, path in paths.items()]
    write_records(root / "videos.jsonl", videos)
    cache_frames.main(
        cache_frames.Settings(root / "videos.jsonl", root / "0.json", N, 28, 56, 90, "pyav", 60.0, 0.0, 0, 1)
    )
    write_records(root / "items.jsonl", ITEMS)
    write_scores(root / "0.safetensors", similarities(Clip(), FrameCache([root / "0.json"]), ITEMS, 8))
    save_vlm(small_vlm(), root / "model")
    return root


@pytest.fixture
def cache(folder: Path) -> FrameCache:
    return FrameCache([folder / "0.json"], NumberStyle(13))


def test_prompt_numbers_and_fallback(folder: Path, cache: FrameCache) -> None:
    """The prompt names the true range, frames carry 0 to n - 1, and an invalid list falls back inside it."""
    prompts = load_selector(folder / "model", ASK, cache, K, "cpu")
    decode = prompts.vlm.tokenizer.decode
    for item in ITEMS[::2]:
        count, wanted = COUNTS[item.video], min(K, COUNTS[item.video])
        assert prompts.count(item) == PixelPrompts(prompts).count(item) == cache.count(item.video) == count
        for source in (prompts, PixelPrompts(prompts)):
            (prompt,) = source.prompts([item])
            assert f"Name {wanted} of {count} frames." in decode(prompt.input_ids)
            assert prompt.grid is not None and int(prompt.grid[0]) == count
        raw, numbered = cache.raw_frames(item.video), cache.selector_frames(item.video)
        expected = raw[-1].copy()
        draw_number(expected, count - 1, NumberStyle(13))
        assert len(numbered) == count and np.array_equal(numbered[-1], expected)
        reply = "<think>x</think><index>[{}]</index>"
        good = parse_selection(reply.format(", ".join(map(str, range(wanted)))), count, K)
        assert good.index_valid and good.indices == tuple(range(wanted))
        for wrong in (range(count - wanted + 1, count + 1), range(K + 1)):
            bad = parse_selection(reply.format(", ".join(map(str, wrong))), count, K)
            assert not bad.index_valid and bad.indices == tuple(uniform(count, K)) and max(bad.indices) == count - 1


def test_select_frames_and_evaluate(folder: Path, cache: FrameCache) -> None:
    line = ["--settings", json.dumps({"seed": 1, "selected": K, "number_pixels": 13, "temperature": 1.0,
            "selector": {"prompt": "short", "max_new_tokens": 6}, "device": "cpu"})]  # fmt: skip
    for name, file in (("items", "items.jsonl"), ("manifests", "0.json"), ("selector-model", "model")):
        line += [f"--{name}", str(folder / file)]
    select_frames.main(parse(select_frames.Settings, [*line, "--output", str(folder / "picks.parquet")]))
    for decode in (GREEDY, SAMPLED):
        for pick in read_picks(folder / "picks.parquet", decode).values():
            assert not pick.failed and len(set(pick.indices)) == min(K, COUNTS[pick.video])
            assert 0 <= min(pick.indices) <= max(pick.indices) < COUNTS[pick.video]
    selectors = [*TRAINING_FREE, *LEARNED]
    line = ["--settings", json.dumps({"benchmark": "x", "cycle": 1, "selected": K, "device": "cpu",
            "answerer": {"prompt": "short", "max_new_tokens": 4},
            "evaluation": {"selectors": selectors, "random_seeds": 2}})]  # fmt: skip
    files = {"items": "items.jsonl", "manifests": "0.json", "scores": "0.safetensors", "base": "picks.parquet",
             "learned": "picks.parquet", "answerer-model": "model", "base-answerer-model": "model"}  # fmt: skip
    for name, file in files.items():
        line += [f"--{name}", str(folder / file)]
    evaluate.main(parse(evaluate.Settings, [*line, "--output", str(folder / "rows.parquet")]))
    rows = read_rows([folder / "rows.parquet"])
    assert set(rows["selector"]) == set(selectors) and not rows["failed"].any()
    for video, indices in zip(rows["video"], rows["indices"], strict=True):
        assert sorted(set(indices)) == list(indices) and len(indices) == min(K, COUNTS[video])
        assert max(indices) < COUNTS[video]
    oracle = rows[rows["selector"] == "oracle"].set_index("video")["indices"]
    assert all(0 in indices for indices in oracle)  # the evidence is at the start


def test_reward_filter_and_labels(folder: Path, cache: FrameCache) -> None:
    """A completion that is right for a long video is out of range for a short one, and earns nothing for it."""
    answerer = load_answerer(folder / "model", ASK, cache, "cpu")
    last = "<think>x</think><index>[24, 25, 26, 27, 28, 29, 30, 31]</index>"
    six = "<think>x</think><index>[0, 1, 2, 3, 4, 5]</index>"
    asked = [(item, text) for item in ITEMS[::2] for text in (last, six)]
    scored = score_completions(
        [item for item, _ in asked],
        [cache.count(item.video) for item, _ in asked],
        [text for _, text in asked],
        [9] * len(asked),
        answerer,
        SelectorTask(
            Training(algorithm="reinforce++", steps=1, prompts_per_step=1, group_size=2, learning_rate=1e-4),
            K,
            9,
            (1, 9),
            {"index": 1.0},
        ),
    )
    valid = {(item.video, text): one.reward["index"] for (item, text), one in zip(asked, scored, strict=True)}
    assert {key for key, value in valid.items() if value} == {("long", last), ("short", six)}
    recall = RecallOf(cache)
    recalls = [recall(item, one.outcome.selection.indices) for (item, _), one in zip(asked, scored, strict=True)]
    assert recalls[1:] == [1.0] * 5
    scores = {own.id: np.arange(COUNTS[own.video], dtype=np.float32) for own in ITEMS}
    for rule in ("contrast", "variance"):
        assert len(Filter(answerer, cache, scores, K, 0, FilterSettings(rule=rule)).reasons(ITEMS, rule)) == len(ITEMS)
    for kind, noise in (("oracle", 0.0), ("clip_topk", 0.0), ("oracle", 1.0)):
        for item in ITEMS:
            frames = Labels(kind, cache, scores, K, noise).frames(item)
            assert len(set(frames)) == min(K, COUNTS[item.video]) and max(frames) < COUNTS[item.video]


def test_reinforcement_on_a_mixture(folder: Path, cache: FrameCache, tmp_path: Path) -> None:
    """Groups of long and short videos in one batch."""
    prompts = load_selector(folder / "model", ASK, cache, K, "cpu")
    training = Training(algorithm="reinforce++", steps=2, prompts_per_step=3, group_size=2, learning_rate=1e-4)
    task = SelectorTask(training, K, 6, (1, 5), WEIGHTS)
    answerer = load_answerer(folder / "model", ASK, cache, "cpu")
    trainer = SelectorTrainer(prompts.vlm, ITEMS, prompts, answerer, task, tmp_path, (), RecallOf(cache))
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 2 and all(0 <= entry["evidence_recall"] <= 1 for entry in log)
