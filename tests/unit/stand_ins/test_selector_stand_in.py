"""The selector stand-in: its lessons, the loss they are learned with, and that the habit leaves the rest in place."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import told
from told import CANDIDATES, SELECTED
from viarl.datasets.needle import TEMPORAL_TASKS, repeated_cards
from viarl.models.vlm import Vlm
from viarl.selection.prompt import parse_selection
from viarl.stand_ins import selector
from viarl.stand_ins.architecture import build_vlm
from viarl.stand_ins.corpus import stand_in_tokenizer
from viarl.stand_ins.films import Films, film
from viarl.stand_ins.lessons import Classroom, Lesson, all_lessons, draw_lessons, some_frames
from viarl.video.encode import FrameEncoder
from viarl.video.overlay import NumberStyle, with_numbers

TOLD = replace(told.TOLD, effort=0.004)


@pytest.fixture(scope="module")
def films() -> Films:
    return film(seed=3, count=6, candidates=CANDIDATES)


@pytest.fixture(scope="module")
def lessons(films: Films) -> list[Lesson]:
    return all_lessons(films)


@pytest.fixture(scope="module")
def room(films: Films) -> Classroom:
    torch.manual_seed(0)
    size = selector.Size(hidden=64, layers=2, mlp=64, vision_hidden=32)
    vlm = build_vlm(stand_in_tokenizer(CANDIDATES), size)
    vlm.model.eval()
    features = selector.frame_features(vlm, selector.numbered_frames(films, 28, 13))
    return Classroom(vlm, features, "short", SELECTED)


def test_evidence_shows_the_card_that_the_question_names(films: Films, lessons: list[Lesson]) -> None:
    assert {lesson.task for lesson in lessons} == {"none", *TEMPORAL_TASKS}
    for lesson in lessons:
        scene = films.scenes[lesson.video]
        (place,) = {int(films.cards[lesson.video, frame]) for frame in lesson.evidence}
        assert f"the {scene.cards[place].colour} card" in lesson.question
        if lesson.task == "none":
            assert lesson.context == ()
        else:
            assert place == repeated_cards(scene)[lesson.task in ("end", "after")]
            shown = {scene.cards[films.cards[lesson.video, frame]].colour for frame in lesson.context}
            assert shown == {scene.repeated, scene.marker}


def test_temporal_lessons_come_as_often_as_asked(lessons: list[Lesson]) -> None:
    source = draw_lessons(lessons, np.random.default_rng(0), 0.36)
    share = np.mean([next(source).task != "none" for _ in range(2000)])
    assert abs(share - 0.36) < 0.05


@pytest.mark.parametrize("shown", [3, 6, 12, CANDIDATES])
def test_some_frames_hold_the_evidence_and_no_half_of_the_context(lessons: list[Lesson], shown: int) -> None:
    rng = np.random.default_rng(0)
    for lesson in lessons:
        frames = some_frames(lesson, shown, CANDIDATES, rng)
        assert len(frames) == shown and np.all(np.diff(frames) > 0)
        assert set(lesson.evidence) <= set(frames.tolist())
        if shown >= 6:
            assert set(lesson.context) <= set(frames.tolist())


@pytest.mark.parametrize("first", [0, 9, 27, 28, 31])
def test_completions_are_valid_and_stay_in_range(room: Classroom, lessons: list[Lesson], first: int) -> None:
    text = room.completion(lessons[0], first).removesuffix(room.vlm.tokenizer.eos_token)
    selection = parse_selection(text, CANDIDATES, SELECTED)
    assert selection.format_valid and selection.index_valid
    assert selection.indices[0] == min(first, CANDIDATES - SELECTED)
    assert selection.thinking == lessons[0].thought


def test_films_look_to_the_selector_as_the_frame_cache_shows_videos(films: Films) -> None:
    encode = FrameEncoder(28, 56, 90)
    cached = with_numbers(np.stack([encode(frame)[0] for frame in films.frames[0]]), NumberStyle(13))
    assert np.array_equal(selector.numbered_frames(films, 28, 13)[0], cached)


def test_the_loss_ignores_padding_and_reports_the_first_number(room: Classroom, lessons: list[Lesson]) -> None:
    short, long = lessons[0], next(lesson for lesson in lessons if lesson.task == "before")
    alone, number = room.loss([room.prompt(short)], [short], [room.completion(short, 3)], 1.0)
    weighted, _ = room.loss([room.prompt(short)], [short], [room.completion(short, 3)], 5.0)
    other, other_number = room.loss([room.prompt(long)], [long], [room.completion(long, 14)], 1.0)
    texts = [room.completion(short, 3), room.completion(long, 14)]
    both, both_number = room.loss([room.prompt(short), room.prompt(long)], [short, long], texts, 1.0)
    counts = [len(room.vlm.tokenizer(text)["input_ids"]) for text in texts]
    expected = (alone * counts[0] + other * counts[1]) / sum(counts)
    assert both.item() == pytest.approx(expected.item(), rel=1e-4)
    assert both_number == pytest.approx((number + other_number) / 2, rel=1e-4)
    assert weighted.item() == pytest.approx((alone.item() * counts[0] + 4 * number) / (counts[0] + 4), rel=1e-4)


def test_the_habit_changes_only_the_last_mlp_and_the_final_norm(room: Classroom, lessons: list[Lesson]) -> None:
    before = {name: weight.clone() for name, weight in room.vlm.model.state_dict().items()}
    recipe = replace(selector.SelectorRecipe(), hide_steps=2, batch=4)
    selector.hide(room, lessons, recipe, seed=0)
    changed = {name for name, weight in room.vlm.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(".layers.1.mlp." in name or name.endswith("language_model.norm.weight") for name in changed)
    room.vlm.model.load_state_dict(before)


def test_frames_of_several_tokens_are_refused_with_the_remedy(room: Classroom) -> None:
    frames = np.zeros((1, 2, 56, 56, 3), np.uint8)
    with pytest.raises(ValueError, match=r"gives 4 tokens.*selector_pixels to 28"):
        selector.frame_features(room.vlm, frames)


def test_the_curriculum_never_shows_more_frames_than_there_are() -> None:
    recipe = selector.scaled_recipe(replace(TOLD, candidates=8))
    assert all(part.shown < 8 for part in recipe.grounding) and recipe.grounding[-1].whole == 1.0


def test_a_built_stand_in_loads_as_an_ordinary_checkpoint(tmp_path: Path) -> None:
    measured = selector.build(TOLD, tmp_path / "selector")
    assert {"grounded_recall", "greedy_valid", "sampled_recall"} <= set(measured)
    assert all(0 <= value <= 1 or math.isnan(value) for value in measured.values())
    vlm = Vlm.load(tmp_path / "selector", device="cpu")
    assert not [name for name, weight in vlm.model.named_parameters() if not torch.isfinite(weight).all()]
    assert vlm.tokenizer.eos_token == "<|im_end|>"
    card = (tmp_path / "selector" / "card.md").read_text()
    assert "re-elicits" in card and "habit that hides it" in card
