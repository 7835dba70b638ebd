"""Selectors side by side, their rows, and eval.json."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from small_answerer import MemoryCache, item, save_vlm, small_answerer, small_vlm
from viarl.answer import base as answerer_base
from viarl.answer.answerer import Reply
from viarl.command import parse
from viarl.evaluate.rows import SCHEMA, read_rows, write_rows
from viarl.evaluate.selectors import LEARNED, TRAINING_FREE, Sources, choose, evaluate
from viarl.evaluate.summary import summarise
from viarl.files import read_json
from viarl.items import write_records
from viarl.selection.picks import GREEDY, SAMPLED, Pick, write_picks
from viarl.selection.similarities import read_scores, similarities, write_scores
from viarl.stages import evaluate as evaluate_stage
from viarl.stages import score_frames, summarise_evaluation

CACHE = MemoryCache({"v0": 8, "v1": 3}, bad={"v2": "does not open"})
SELECTORS = [*TRAINING_FREE, *LEARNED]
EVAL_SCHEMA = read_json(Path(__file__).parents[3] / "workflow/schemas/eval.schema.json")


def items() -> list[Any]:
    return [
        item(0, "v0", "A", evidence=((2.0, 3.0),), task="none"),
        item(1, "v0", "B", evidence=((6.0, 7.0),), task="end"),
        item(2, "v1", "C", evidence=((0.0, 0.0),), task="end"),
        item(3, "v2", "D", evidence=((1.0, 2.0),), task="none"),
    ]


def picks(decode: str) -> dict[str, Pick]:
    texts = {"q0": (2, 3), "q1": (0, 1), "q2": (0, 2)}
    found = {
        own: Pick(own, "v", decode, f"picked {frames}", own != "q1", "" if own != "q1" else "no list", frames, 5)
        for own, frames in texts.items()
    }
    return found | {"q3": Pick("q3", "v2", decode, "", False, "", (), 0, "video v2: does not open")}


def sources(**changes: Any) -> Sources:
    scores = {own.id: np.linspace(0, 1, CACHE.count(own.video)) for own in items()[:3]}
    found = {pair: picks(pair[1]) for pair in LEARNED.values()}
    return replace(Sources(CACHE, scores, found), **changes)


class Knows:
    """Right where frame 2 is among the frames, else silent."""

    asked = 0

    def answer(self, requests: Any, progress: Any = None) -> list[Reply]:
        return [Reply("x", request.item.answer if 2 in request.frames else "") for request in requests]


def table(cycle: int = 1, own: Any = None, answerer: Any = None, **changes: Any) -> list[dict[str, Any]]:
    choices = choose(own or items(), sources(**changes), SELECTORS, 2, 5)
    return evaluate(choices, answerer or Knows(), sources(**changes), benchmark="needle", cycle=cycle, protocol="own")


def frame(*tables: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in tables for row in rows])


def test_every_selector_has_every_item_and_random_ones_five_draws() -> None:
    rows = frame(table())
    counts = rows.groupby(["selector", "item"])["draw"].count()  # the item that failed weighs as much as the others
    draws = {name: 5 if name in ("random", "qframe") else 1 for name in SELECTORS}
    assert counts.to_dict() == {(name, own.id): draws[name] for name in SELECTORS for own in items()}
    assert set(rows.columns) == set(SCHEMA.names)
    assert rows.groupby("selector")["item"].nunique().eq(4).all()


def test_choices_of_each_selector() -> None:
    chosen = {(c.selector, c.item.id): c for c in choose(items(), sources(), SELECTORS, 2, 1)}
    assert chosen["uniform", "q0"].indices == (0, 7)
    assert chosen["clip_topk", "q0"].indices == (6, 7)
    assert chosen["oracle", "q0"].indices == (2, 3)
    assert chosen["learned", "q0"].indices == (2, 3) and chosen["learned", "q0"].text == "picked (2, 3)"
    assert not chosen["learned", "q1"].valid and chosen["learned", "q1"].reason == "no list"
    assert all(len(choice.indices) == 2 for choice in chosen.values() if not choice.failed)


def test_failures_are_rows_that_count_as_wrong() -> None:
    without = {own: value for own, value in sources().scores.items() if own != "q0"}
    rows = frame(table(scores=without, picks={}))
    bad = rows[rows["item"] == "q3"]
    assert set(bad["failed"]) == {"unreadable video"} and set(bad["reason"]) == {"does not open"}
    assert not bad["correct"].any() and (bad["evidence_recall"] == 0).all()
    assert set(rows[rows["failed"] == "no similarities"]["selector"]) == {"clip_topk", "bolt", "aks", "qframe"}
    assert set(rows[rows["failed"] == "no selection"]["selector"]) == set(LEARNED)
    summary = summarise(rows, 1, ["needle"], 50)["benchmarks"]["needle"]
    assert summary["n"] == 4
    learned = summary["selectors"]["learned"]
    assert learned["n_failed"] == 4 and learned["failures"] == {"no selection": 3, "unreadable video": 1}
    assert learned["accuracy"]["value"] == 0 and learned["valid_rate"] is None


def test_recall_and_correctness_of_rows() -> None:
    rows = {(row["selector"], row["item"]): row for row in table()}
    assert rows["oracle", "q0"]["evidence_recall"] == 1 and rows["oracle", "q0"]["correct"]
    assert rows["uniform", "q0"]["evidence_recall"] == 0 and not rows["uniform", "q0"]["correct"]
    assert rows["uniform", "q1"]["evidence_recall"] == 1 and not rows["uniform", "q1"]["correct"]


def test_oracle_without_evidence_is_the_best_of_random_draws_beside_the_best_blind_reply() -> None:
    unknown = [replace(items()[0], evidence=()), items()[1]]

    class Lucky(Knows):
        def answer(self, requests: Any, progress: Any = None) -> list[Reply]:
            options = [request.item.options for request in requests]
            self.turns = [own.index("star") for own, r in zip(options, requests, strict=True) if not r.frames]
            # blind: always "B"; else right with frame 2
            return [Reply("", ("B" if not r.frames else r.item.answer if 2 in r.frames else "")) for r in requests]

    lucky = Lucky()
    choices = choose(unknown, sources(), ["random", "oracle"], 2, 20)
    rows = evaluate(choices, lucky, sources(), benchmark="b", cycle=0)
    by = {(row["selector"], row["item"]): row for row in rows if row["selector"] != "random"}
    assert len(rows) == 40 + 4  # the best draws alone are kept
    assert by["oracle", "q0"]["reason"] == "best of 20" and by["oracle", "q0"]["correct"]
    assert 2 in by["oracle", "q0"]["indices"] and by["oracle", "q1"]["reason"] == ""
    # the letter is that of the item as it stands: "B" after one rotation is "A"
    assert by["blind", "q0"]["letter"] == "A" and by["blind", "q0"]["correct"]
    assert by["blind", "q1"]["letter"] == "B" and by["blind", "q1"]["reason"] == "best of 4"
    assert lucky.turns == [0, 1, 2, 3] * 2


def test_unknown_selectors_and_stale_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['best'\] are unknown"):
        choose(items(), sources(), ["best"], 2, 1)
    with pytest.raises(ValueError, match="'q0' has 5 similarities for 8 frames"):
        choose(items(), sources(scores={"q0": np.zeros(5)}), ["aks"], 2, 1)


def test_summary_has_the_documented_schema_and_pairs() -> None:
    later = [
        {**row, "cycle": 2, "correct": row["correct"] or (row["selector"] == "learned" and row["item"] == "q1")}
        for row in table()
    ]
    rows = frame(table(0), table(1), later)
    summary = summarise(rows, 2, ["needle"], 200)
    jsonschema.Draft202012Validator(EVAL_SCHEMA).validate(summary)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    part = summary["benchmarks"]["needle"]
    assert (part["n"], part["videos"]) == (4, 3)
    others = set(SELECTORS) - {"learned"}
    assert set(part["paired"]) >= {f"learned-{other}" for other in others} | {"cycle2-cycle1", "cycle2-cycle0"}
    assert part["paired"]["cycle2-cycle1"]["value"] == 0.25  # q1 of four
    # learned: q0 has frame 2, q2 has frame 2, q1 since this cycle; uniform has frame 2 in q2 alone
    assert part["selectors"]["learned"]["accuracy"]["value"] == 0.75
    assert part["paired"]["learned-uniform"]["value"] == 0.5
    assert part["selectors"]["learned"]["valid_rate"] == pytest.approx(2 / 3)
    assert part["selectors"]["learned"]["invalid"] == {"no list": 1}
    end = part["selectors"]["learned"]["by_task"]["end"]
    assert end.keys() == {"n", "accuracy", "evidence_recall", "evidence_interval", "four_way"}
    assert (end["n"], end["evidence_recall"]) == (2, 0.5)
    shares = {"right_frames_right_answer": 0.5, "right_frames_wrong_answer": 0.0}
    assert end["four_way"] == shares | {"wrong_frames_right_answer": 0.5, "wrong_frames_wrong_answer": 0.0}
    assert set(summarise(frame(table(0)), 0, ["needle"], 20)["benchmarks"]["needle"]["paired"]) >= {"learned-base"}


def test_random_is_the_mean_over_its_draws() -> None:
    rows = frame(table())
    own = rows[rows["selector"] == "random"]
    entry = summarise(rows, 1, ["needle"], 50)["benchmarks"]["needle"]["selectors"]["random"]
    expected = own.groupby("item")["correct"].mean().mean()
    assert entry["accuracy"]["value"] == pytest.approx(expected, abs=1e-6)
    assert len(entry["draws"]) == 5 and np.mean(entry["draws"]) == pytest.approx(expected, abs=1e-6)


def test_items_without_an_answer_are_counted_and_left_out() -> None:
    own = [*items(), item(4, "v0", "")]
    rows = frame(table(own=own, picks={pair: picks(pair[1]) | {"q4": picks("x")["q0"]} for pair in LEARNED.values()}))
    part = summarise(rows, 1, ["needle"], 50)["benchmarks"]["needle"]
    assert (part["n"], part["n_without_answer"]) == (4, 1)


def test_rows_that_do_not_fit_are_refused() -> None:
    rows = frame(table())
    with pytest.raises(ValueError, match="no rows of cycle 3"):
        summarise(rows, 3, ["needle"], 10)
    with pytest.raises(ValueError, match="no rows of cycle 1"):
        summarise(rows, 1, ["other"], 10)
    lacking = rows[~((rows["selector"] == "aks") & (rows["item"] == "q0"))]
    with pytest.raises(ValueError, match=r"\['aks'\] lack rows"):
        summarise(lacking, 1, ["needle"], 10)
    with pytest.raises(ValueError, match="different items"):
        summarise(frame(table(0, items()[:3]), table(1)), 1, ["needle"], 10)
    with pytest.raises(ValueError, match="known answer"):
        summarise(rows.assign(answer=""), 1, ["needle"], 10)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = table()
    write_rows(tmp_path / "a.parquet", rows)
    write_rows(tmp_path / "b.parquet", table(2))
    read = read_rows([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert len(read) == 2 * len(rows) and set(read["cycle"]) == {1, 2}
    assert list(read.loc[0, "indices"]) == rows[0]["indices"]
    (tmp_path / "c.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"c\.parquet is no parquet file"):
        read_rows([tmp_path / "c.parquet"])


def test_real_answers_do_not_depend_on_the_batch() -> None:
    small, large = (table(answerer=small_answerer(CACHE, size)) for size in (2, 64))
    pd.testing.assert_frame_equal(frame(small), frame(large))


class Clip:
    """Embeds an image as its mean colour and a text by its length; not of unit length."""

    def encode_images(self, images: Any) -> Any:
        import torch

        self.images = max(getattr(self, "images", 0), len(images))
        return torch.tensor(np.stack([image.reshape(-1, 3).mean(0) for image in images])).float()

    def encode_texts(self, texts: Any) -> Any:
        import torch

        return torch.tensor([[len(text), 1.0, 5.0] for text in texts])


def test_similarities_are_cosines_whatever_the_batch(tmp_path: Path) -> None:
    clip = Clip()
    one, many = (similarities(clip, CACHE, items(), size) for size in (2, 100))
    assert clip.images == 11 and set(one) == {"q0", "q1", "q2"}  # the bad video's item is left out
    for own in items()[:3]:
        colours = np.stack([image.reshape(-1, 3).mean(0) for image in CACHE.raw_frames(own.video)])
        text = np.array([len(own.question), 1.0, 5.0])
        expected = colours @ text / np.linalg.norm(colours, axis=1) / np.linalg.norm(text)
        assert one[own.id] == pytest.approx(expected, abs=1e-6) and one[own.id].dtype == np.float32
        assert many[own.id] == pytest.approx(expected, abs=1e-6)
    write_scores(tmp_path / "0.safetensors", one)
    write_scores(tmp_path / "1.safetensors", {})
    read = read_scores([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
    assert {own: value.tolist() for own, value in read.items()} == {own: value.tolist() for own, value in one.items()}
    (tmp_path / "1.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        read_scores([tmp_path / "1.safetensors"])


def test_stage_scores_the_items_of_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = MemoryCache({"v1": 3}, bad={"v2": "does not open"})
    monkeypatch.setattr(score_frames, "FrameCache", lambda manifests: shard)
    monkeypatch.setattr(score_frames, "load_clip", lambda name, pretrained, device: Clip())
    write_records(tmp_path / "items.jsonl", items())
    line = ["--settings", json.dumps({"clip": {"pretrained": None}}), "--model", "ViT-B-32"]
    for name, file in {"items": "items.jsonl", "manifest": "0.json", "output": "0.safetensors"}.items():
        line += [f"--{name}", str(tmp_path / file)]
    score_frames.main(parse(score_frames.Settings, line))
    assert {own: value.shape for own, value in read_scores([tmp_path / "0.safetensors"]).items()} == {"q2": (3,)}


def run_evaluation(folder: Path, own: Any, benchmark: str, cycles: tuple[int, ...] = (0,), **evaluation: Any) -> None:
    """Run the stage on items, with an untrained answerer, into cycle<c>.parquet."""
    save_vlm(small_vlm(), folder / "answerer")
    write_records(folder / "items.jsonl", own)
    write_scores(folder / "0.safetensors", dict(sources().scores))
    write_picks(folder / "picks.parquet", [*picks(GREEDY).values(), *picks(SAMPLED).values()])
    settings = {
        "benchmark": benchmark,
        "modules": {benchmark: "videomme"} if benchmark.startswith("videomme") else {},
        "subtitles": benchmark.endswith("_subtitles"),
        "selected": 2,
        "answerer": {"prompt": "short", "max_new_tokens": 4},
        "evaluation": {"selectors": SELECTORS, "random_seeds": 2, "batch_size": 7, **evaluation},
        "device": "cpu",
    }
    for cycle in cycles:
        line = ["--settings", json.dumps({**settings, "cycle": cycle})]
        files = {"items": "items.jsonl", "manifests": "0.json", "scores": "0.safetensors"}
        files |= dict.fromkeys(("base", "learned"), "picks.parquet")
        files |= dict.fromkeys(("answerer-model", "base-answerer-model"), "answerer")
        for name, file in (files | {"output": f"cycle{cycle}.parquet"}).items():
            line += [f"--{name}", str(folder / file)]
        evaluate_stage.main(parse(evaluate_stage.Settings, line))


def test_stages_from_files_to_eval_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_stage, "FrameCache", lambda manifests: CACHE)
    run_evaluation(tmp_path, items(), "needle", (0, 1))
    rows = tuple(tmp_path / f"cycle{cycle}.parquet" for cycle in (1, 0))
    output = tmp_path / "eval.json"
    summarise_evaluation.main(summarise_evaluation.Settings(rows, output, 1, ("needle",), 50))
    written = read_json(output)
    jsonschema.Draft202012Validator(EVAL_SCHEMA).validate(written)
    part = written["benchmarks"]["needle"]
    assert part["paired"]["cycle1-cycle0"] == {"value": 0, "low": 0, "high": 0}  # the same models
    assert set(part["selectors"]) == set(SELECTORS)


def test_a_protocol_and_subtitles_reach_answerer_and_eval_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_stage, "FrameCache", lambda manifests: CACHE)
    asked: list[str] = []
    real = answerer_base.answerer_chat
    monkeypatch.setattr(answerer_base, "answerer_chat", lambda text, *on: (asked.append(text), real(text, *on))[1])
    (tmp_path / "v0.srt").write_text("1\n00:00:02,000 --> 00:00:04,000\nred it is\n")
    durations = ("short", "short", "medium", "long")
    own = [
        replace(each, source="videomme", groups=(f"duration={duration}",), subtitles="v0.srt" * (each.video == "v0"))
        for each, duration in zip(items(), durations, strict=True)
    ]
    name = "videomme_subtitles"
    run_evaluation(tmp_path, own, name, protocol="lmms-eval")
    opening = "This video's subtitles are listed below: \n"
    assert all(text.startswith(opening) and text.endswith("\nThe best answer is:") for text in asked)
    assert {text.removeprefix(opening).partition("\n")[0] for text in asked} == {
        "red it is",  # learned, oracle: frames 2 and 3
        "",  # uniform: frames 0 and 7
        "No subtitles available",  # v1
    }
    rows = read_rows([tmp_path / "cycle0.parquet"])
    assert set(rows["protocol"]) == {"lmms-eval"} and list(rows.loc[0, "groups"]) == ["duration=short"]
    output = tmp_path / "eval.json"
    settings = summarise_evaluation.Settings((tmp_path / "cycle0.parquet",), output, 0, (name,), 50, {name: "videomme"})
    summarise_evaluation.main(settings)
    written = read_json(output)
    jsonschema.Draft202012Validator(EVAL_SCHEMA).validate(written)
    part = written["benchmarks"]["videomme_subtitles"]
    assert part["protocol"] == "lmms-eval"
    assert part["headlines"]["overall"]["groups"] == {"long": 1, "medium": 1, "short": 2}
    assert part["headlines"]["overall"]["n"] == 4  # the unreadable video stays in the denominator
