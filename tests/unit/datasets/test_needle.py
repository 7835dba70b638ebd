"""The needle data set: balance, separation of the splits, evidence that is where it is said to be, determinism."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from viarl.datasets import needle
from viarl.datasets.needle import COLOURS, FRAME_RATE, SLOTS, Scene, make_set, plan, question, repeated_cards
from viarl.datasets.needle_render import RGB, decode, encode, filmed, render
from viarl.items import LETTERS, read_items, read_videos
from viarl.stages.make_needle import Settings, main
from viarl.video.format import sample_indices

SEED = 7


@pytest.fixture(scope="module")
def test_set() -> tuple[dict[str, Scene], list]:
    scenes, items = make_set(SEED, "test", 250, 2)
    return {scene.id: scene for scene in scenes}, items


def test_letters_are_balanced_among_plain_and_temporal_questions(test_set) -> None:
    _, items = test_set
    for temporal in (False, True):
        counts = Counter(item.answer for item in items if (item.task != "none") == temporal)
        assert set(counts) == set("ABCD")
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_third_of_the_questions_is_temporal_and_its_kinds_are_balanced(test_set) -> None:
    _, items = test_set
    counts = Counter(item.task for item in items)
    temporal = [counts[task] for task in needle.TEMPORAL_TASKS]
    assert 0.34 <= sum(temporal) / len(items) <= 0.4
    assert max(temporal) - min(temporal) <= 1


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_questions_of_a_video_are_about_different_cards(number: int) -> None:
    scenes, items = make_set(SEED, "train", 60, number)
    assert len(items) == 60 * number
    for scene in scenes:
        evidence = [item.evidence for item in items if item.video == scene.id]
        assert len(set(evidence)) == number


def test_more_questions_than_cards_are_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 4"):
        make_set(SEED, "train", 5, 5)
    with pytest.raises(ValueError, match="unknown; known are train"):
        make_set(SEED, "dev", 5, 2)


def test_the_answer_is_the_shape_of_the_card_that_the_question_means(test_set) -> None:
    scenes, items = test_set
    for item in items:
        scene = scenes[item.video]
        begin, end = (time * FRAME_RATE for time in item.evidence[0])
        asked = next(card for card in scene.cards if (card.first, card.last) == (begin, end))
        assert item.options[LETTERS.index(item.answer)] == asked.shape
        assert len(set(item.options)) == 4
        same = [card for card in scene.cards if card.colour == asked.colour]
        assert f"the {asked.colour} card" in item.question
        if item.task == "none":
            assert same == [asked]
            continue
        (other,) = (card for card in same if card is not asked)
        assert other.shape in item.options and other.shape != asked.shape
        markers = [card for card in scene.cards if card.colour == scene.marker]
        assert len(markers) == 1
        if item.task in ("before", "after"):
            assert item.question.endswith(f"{item.task} the {scene.marker} card?")
        earlier, later = sorted(same, key=lambda card: card.first)
        assert earlier.last < markers[0].first and markers[0].last < later.first
        assert asked is (earlier if item.task in ("beginning", "before") else later)
        if item.task in ("beginning", "end"):
            assert earlier.last < scene.frames / 2 <= later.first


def test_a_question_without_a_single_answer_is_refused() -> None:
    scene = next(scene for scene in (plan(SEED, "train", index) for index in range(99)) if not _in_halves(scene))
    with pytest.raises(ValueError, match="no single answer"):
        question(scene, "beginning")
    with pytest.raises(ValueError, match="occurs once"):
        question(scene, "none", repeated_cards(scene)[0])


def _in_halves(scene: Scene) -> bool:
    first, last = (scene.cards[place] for place in repeated_cards(scene))
    return first.last < scene.frames // 2 <= last.first


def test_colours_and_places_do_not_tell_the_answer(test_set) -> None:
    """Answering by the commonest shape of a colour, or of a time, is no better than chance allows."""
    scenes, items = test_set
    for feature in (lambda item: item.question.split(" card")[0], lambda item: int(item.evidence[0][0])):
        groups: dict[object, Counter[str]] = {}
        for item in items:
            groups.setdefault(feature(item), Counter())[item.options[LETTERS.index(item.answer)]] += 1
        commonest = sum(max(counts.values()) for counts in groups.values())
        assert commonest / len(items) < 0.32
    assert len(scenes) == 250


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_evidence_is_in_the_pixels_of_exactly_the_candidates_it_covers(split: str) -> None:
    """White shapes are seen when and only when a card is in view, and in the evidence on the asked card's colour."""
    scenes, items = make_set(SEED, split, 8, 2)
    for scene in scenes:
        frames = filmed(scene)
        assert frames.shape == (scene.frames, 56, 56, 3)
        chosen = sample_indices(scene.frames, SLOTS)
        white = (frames[chosen].min(-1) > 215).mean((1, 2))
        in_view = np.array([scene.visible(int(frame)) is not None for frame in chosen])
        assert white[in_view].min() > 0.015 > 0.003 > white[~in_view].max()
        for item in (item for item in items if item.video == scene.id):
            (start, end) = item.evidence[0]
            inside = (chosen / FRAME_RATE >= start) & (chosen / FRAME_RATE <= end)
            assert inside.sum() == 2 and in_view[inside].all()
            asked_about = item.question.split(" card")[0] + " card"
            asked = next(colour for colour in COLOURS if f"the {colour} card" in asked_about)
            for frame in frames[chosen][inside]:
                near = {name: (np.abs(frame.astype(int) - rgb).max(-1) < 60).mean() for name, rgb in RGB.items()}
                assert near[asked] > 0.04, (item.id, near)


def test_two_makings_are_identical_and_seeds_and_streams_differ() -> None:
    assert make_set(SEED, "train", 3, 2) == make_set(SEED, "train", 3, 2)
    assert (render(plan(SEED, "train", 1)) == render(plan(SEED, "train", 1))).all()
    streams = ("pretraining", "train", "validation", "test")
    drawn = [plan(seed, stream, 0).cards for seed in (7, 8) for stream in streams]
    assert len(set(drawn)) == len(drawn)


def test_no_scene_is_in_two_splits() -> None:
    seen: dict[object, str] = {}
    for stream in ("pretraining", "train", "validation", "test", "shifted"):
        for index in range(150):
            cards = plan(SEED, stream, index).cards
            assert cards not in seen
            seen[cards] = stream


def test_the_shifted_set_differs_in_backgrounds_lengths_and_compression() -> None:
    usual = [plan(SEED, "test", index) for index in range(60)]
    shifted = [plan(SEED, "shifted", index) for index in range(60)]
    for trait in ("background", "frames", "quality"):
        assert not {getattr(scene, trait) for scene in usual} & {getattr(scene, trait) for scene in shifted}


def test_encoding_is_deterministic_and_close_to_the_drawing(tmp_path: Path) -> None:
    scene = plan(SEED, "train", 0)
    drawn = render(scene)
    for name in ("a.mp4", "b.mp4"):
        encode(drawn, tmp_path / name, scene.quality)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert np.abs(decode(tmp_path / "a.mp4").astype(int) - drawn).mean() < 8


def test_the_stage_writes_a_set_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = Settings("needle", "test", SEED, 4, 2, tmp_path / "items.jsonl", tmp_path / "videos.jsonl")
    main(settings)
    videos, items = read_videos(settings.videos), read_items(settings.items)
    assert len(videos) == 4 and {item.video for item in items} == set(videos)
    kept, lost = sorted(Path(video.path) for video in videos.values())[:2]
    before = kept.stat().st_mtime_ns
    lost.unlink()
    main(settings)
    assert read_videos(settings.videos) == videos
    assert kept.stat().st_mtime_ns == before and lost.exists()


def test_videos_of_another_seed_are_made_again(tmp_path: Path) -> None:
    paths = tmp_path / "items.jsonl", tmp_path / "videos.jsonl"
    main(Settings("needle", "test", 1, 3, 2, *paths))
    first = read_videos(paths[1])
    main(Settings("needle", "test", 2, 2, 2, *paths))
    second = read_videos(paths[1])
    assert set(second) < set(first)
    assert all(second[name].sha256 != first[name].sha256 for name in second)
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2
