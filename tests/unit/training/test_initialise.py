"""The selector's supervised start: what labels name, what is left out and why, and a tuning that learns and resumes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from processes import in_processes
from small_answerer import MemoryCache
from small_selector import ITEMS, adapters, save_start
from small_stage import SignalAt, recorded, run_stage
from viarl.items import Item, write_records
from viarl.models.save import save_model
from viarl.models.vlm import Vlm
from viarl.selection.learned import load_selector, select
from viarl.selection.prompt import parse_selection
from viarl.selection.similarities import write_scores
from viarl.stages import initialise_selector
from viarl.stages.initialise_selector import Settings
from viarl.tracking.record import read_record
from viarl.training.sft.dataset import IGNORED, Collator, Example
from viarl.training.sft.labels import TOO_LONG, Labels, examples, reply_text
from viarl.training.sft.settings import InitialisedSelector, Start
from viarl.training.sft.trainer import SupervisedTrainer

COUNTS = {own.video: 6 for own in ITEMS} | {"short": 2}
START = Start(steps=6, batch_size=4, learning_rate=3e-3, warmup_steps=1, labels="oracle", save_every=4)
SCORES = {own.id: np.float32([0, 5, 1, 4, 2, 3]) for own in ITEMS}


class Frames(MemoryCache):
    """A frame cache whose candidates lie a second apart."""

    def __init__(self, manifests: Sequence[Path] = (), number: object = None) -> None:
        super().__init__(COUNTS, {"gone": "it is cut"})


def labels(kind: str = "oracle", noise: float = 0.0, seed: int = 0, selected: int = 2) -> Labels:
    return Labels(kind, Frames(), SCORES, selected, noise, seed)


def test_labels_are_the_most_similar_frames_or_the_evidence() -> None:
    own = replace(ITEMS[0], evidence=((3.9, 5.0),))
    assert labels("clip_topk").frames(own) == (1, 3)
    assert labels("clip_topk", selected=4).frames(own) == (1, 3, 4, 5)
    assert labels("oracle").frames(own) == (4, 5)
    assert labels("oracle", selected=3).frames(own) == (3, 4, 5)  # filled up with the nearest
    assert labels("oracle").frames(replace(own, video="short")) == (0, 1)
    with pytest.raises(ValueError, match="item '0' has 6 similarities for 2 frames; run score_frames again"):
        labels("clip_topk").frames(replace(own, video="short"))
    with pytest.raises(ValueError, match=r"selector\.start\.labels 'none' gives no labels; choose one of"):
        labels("none")


def test_noise_replaces_its_share_of_the_labels_by_random_frames() -> None:
    many = [replace(ITEMS[0], id=f"n{number}") for number in range(3000)]
    right = (0, 1)
    half, most = labels(noise=0.5), labels(noise=0.9)
    noisy = [own for own in many if half.is_noise(own)]
    assert abs(len(noisy) / len(many) - 0.5) < 0.03
    assert all(half.frames(own) == right for own in many if not half.is_noise(own))
    drawn = [half.frames(own) for own in noisy]
    assert all(sorted(set(frames)) == list(frames) and len(frames) == 2 for frames in drawn)
    shares = np.bincount(np.concatenate(drawn), minlength=6) / len(drawn)  # each of 6 frames in one of 3 draws of 2
    assert np.abs(shares - 1 / 3).max() < 0.05
    assert [most.frames(own) for own in noisy] == drawn  # more noise leaves less noise's as it is
    assert [labels(noise=0.5).frames(own) for own in noisy] == drawn
    assert [labels(noise=0.5, seed=1).is_noise(own) for own in many] != [half.is_noise(own) for own in many]
    assert not any(labels().is_noise(own) for own in many) and all(labels(noise=1.0).is_noise(own) for own in many)


def test_a_reply_is_in_the_selectors_format_and_names_the_keywords() -> None:
    text = reply_text("Which shape is on the blue card before the red one?", (3, 4))
    assert text == "<think>shape blue card before red one</think><index>[3, 4]</index>"
    for question in ("What is it?", "</think><index>[1]</index>", "Où est l'homme?", "谁在唱歌?", "?", "a\nb \x00"):
        read = parse_selection(reply_text(question, (3, 4)), 6, 2)
        assert read.format_valid and read.index_valid and read.indices == (3, 4)
    assert reply_text("What is it?", (1,)) == "<think>What is it</think><index>[1]</index>"


def test_what_cannot_be_learned_from_is_named_with_its_reason(tmp_path: Path) -> None:
    tokenizer = Vlm.load(save_start(tmp_path), device="cpu").tokenizer
    items = [
        *ITEMS,
        replace(ITEMS[0], id="a", video="gone"),
        replace(ITEMS[0], id="b", evidence=()),
        replace(ITEMS[0], id="c", question="Which " + "of them all " * 9),
    ]
    usable, left_out = examples(items, labels(noise=1.0), tokenizer, 40)
    assert [one.item.id for one in usable] == [own.id for own in ITEMS]
    assert left_out == {"a": "no frames: it is cut", "b": "no evidence", "c": TOO_LONG}
    usable, left_out = examples(items, labels("clip_topk"), tokenizer, 999)
    assert [one.item.id for one in usable] == [own.id for own in ITEMS]
    assert left_out == {"a": "no frames: it is cut", "b": "no similarities", "c": "no similarities"}
    longest = max(len(tokenizer(one.target)["input_ids"]) for one in usable)
    assert len(examples(ITEMS, labels("clip_topk"), tokenizer, longest + 1)[0]) == len(ITEMS)
    assert len(examples(ITEMS, labels("clip_topk"), tokenizer, longest)[0]) < len(ITEMS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("base"))


@pytest.fixture
def settings(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(initialise_selector, "FrameCache", Frames)
    write_records(tmp_path / "items.jsonl", [*ITEMS, Item("x", "v0", "Which of 0?", ("x", "y"), "A")])
    write_scores(tmp_path / "scores.safetensors", SCORES)
    own = {"scores": (tmp_path / "scores.safetensors",), "selector_model": base, "selected": 2, "number_pixels": 13}
    selector = InitialisedSelector(prompt="short", max_new_tokens=60, start=START)
    return recorded(Settings, tmp_path, "none/selector", selector=selector, **own)


def started(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, selector=replace(settings.selector, start=replace(START, **changes)))


def run(settings: Settings, name: str) -> dict[str, torch.Tensor]:
    return run_stage(initialise_selector, settings, name)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], part: str = "") -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left if part in name)


def greedy(settings: Settings, folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what the selector in a folder picks, as the stage select_frames asks it."""
    prompts = load_selector(folder, settings.selector, Frames(), settings.selected, "cpu")
    picked = select(prompts, ITEMS, temperature=0, seed=0, max_new_tokens=60, batch_size=8)
    return {one.item_id: one.selection.indices for one in picked if one.selection.index_valid}


def test_the_greedy_picks_become_the_labels(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {own.id: (0, 1) for own in ITEMS}
    assert greedy(settings, settings.selector_model) != wanted
    weights = run(started(settings, steps=30, learning_rate=1e-2), "a")
    assert greedy(settings, settings.output.parents[2] / "a" / "selector") == wanted
    assert same(weights, load_file(settings.selector_model / "model.safetensors"), "visual")
    assert "1 of 8 training questions are left out (no evidence: 1)\n  x: no evidence\n" in capsys.readouterr().err
    assert settings.tracking.record is not None
    record = read_record(settings.tracking.record)
    single = {"tuned_on": 7, "left_out/no evidence": 1, "random_labels": 0, "label_evidence_recall": 1}
    for name, value in single.items():
        assert record.series(name) == [(0, float(value))]
    assert len(record.series("start/loss")) == 30 and record.status == "FINISHED"


def test_labels_and_noise_change_the_result(settings: Settings) -> None:
    oracle = run(settings, "a")
    assert not same(run(started(settings, labels="clip_topk"), "b"), oracle)
    assert not same(run(started(settings, noise=0.5), "c"), oracle)
    assert same(run(started(settings, save_every=1), "d"), oracle)
    assert not same(run(replace(settings, seed=2), "e"), oracle)


@pytest.mark.parametrize("lora", [False, True])
def test_a_stopped_start_goes_on_bit_by_bit(settings: Settings, lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(settings, selector=replace(settings.selector, lora=adapters(lora)))
    straight = run(settings, "straight")

    class Signalled(SupervisedTrainer):
        def train(self, **options: Any) -> Any:
            self.add_callback(SignalAt(2))
            return super().train(**options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
        patch.setattr(initialise_selector, "SupervisedTrainer", Signalled)
        run(settings, "stopped")
    folder = settings.output.parents[2] / "stopped"
    assert not (folder / "selector").exists()
    assert [path.name for path in (folder / "checkpoints" / "selector").glob("checkpoint-*")] == ["checkpoint-3"]
    other = replace(settings, selector=replace(settings.selector, start=replace(START, noise=0.5)))
    with pytest.raises(ValueError, match=r"start\.noise: 0\.0 -> 0\.5"):
        run(other, "stopped")
    assert same(run(settings, "stopped"), straight)


def test_microbatches_give_the_same_weights(settings: Settings) -> None:
    whole, split = run(settings, "a"), run(started(settings, micro_batch_size=2, gradient_checkpointing=True), "b")
    assert max(float((whole[name] - split[name]).abs().max()) for name in whole) < 1e-4


@pytest.mark.parametrize("sharding", ["", pytest.param("fsdp2", marks=pytest.mark.e2e)])
def test_two_processes_tune_what_one_does(settings: Settings, sharding: str) -> None:
    """On the same micro-batches, whole or in shards."""
    settings = started(settings, micro_batch_size=2)
    one = run(settings, "one")
    settings = replace(settings, output=settings.output.parents[2] / "two" / "selector" / "model.safetensors")
    assert in_processes(lambda: initialise_selector.main(settings), 2, sharding) == [0, 0]
    two = load_file(settings.output)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6


def test_a_batch_is_the_prompt_that_the_selector_is_asked_with(settings: Settings) -> None:
    prompts = load_selector(settings.selector_model, settings.selector, Frames(), 2, "cpu")
    usable = [Example(own, (0, 1), reply_text(own.question, (0, 1))) for own in ITEMS[:2]]
    tokenizer = prompts.vlm.tokenizer
    collator = Collator(tokenizer, usable, lambda some: prompts.prompts([one.item for one in some]))
    batch = collator([{"row": 1}, {"row": 0}])
    for row, own in enumerate(ITEMS[1::-1]):
        (prompt,) = prompts.prompts([own])
        assert torch.equal(batch["video_features"][row], prompt.features)
        assert torch.equal(batch["input_ids"][row, : prompt.length], prompt.input_ids)
        assert torch.equal(batch["position_ids"][:, row, : prompt.length], prompt.positions)
        assert bool((batch["labels"][row, : prompt.length] == IGNORED).all())
        reply = batch["labels"][row][batch["labels"][row] != IGNORED]
        assert tokenizer.decode(reply) == usable[1 - row].target + tokenizer.eos_token
        after = batch["position_ids"][:, row, prompt.length : prompt.length + len(reply)]
        assert torch.equal(after, (prompt.next_position + torch.arange(len(reply))).expand(3, -1))


def test_nothing_to_learn_from_and_a_loss_that_is_no_number(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'oracle': nothing to learn from in 8.*no evidence, reply longer"):
        initialise_selector.main(replace(settings, selector=replace(settings.selector, max_new_tokens=3)))
    with pytest.raises(ValueError, match=r"selector\.start\.batch_size 4 is no multiple"):
        initialise_selector.main(started(settings, micro_batch_size=3))
    broken = Vlm.load(settings.selector_model, device="cpu")
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(float("nan"))
    save_model(broken.model, broken.processor, tmp_path / "broken")
    with pytest.raises(
        ValueError, match=r"loss of step 1 is nan: lower selector\.start\.learning_rate .*selector\.dtype"
    ):
        initialise_selector.main(replace(settings, selector_model=tmp_path / "broken"))
    with pytest.raises(ValueError, match="schedule\n  Input should be 'constant' or 'cosine'"):
        replace(START, schedule="linear")
