"""The stand-ins' tokenizer, films, answerer and CLIP: what they read, that they learn, and that they survive saving."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from told import CANDIDATES, TOLD
from viarl.answer.asking import answerer_messages
from viarl.datasets.needle import COLOURS, SHAPES, TASKS, draw_question, generator
from viarl.models.clip import load_clip
from viarl.models.clip_weights import clip_problem
from viarl.models.vlm import Vlm
from viarl.selection.prompt import parse_selection, selector_messages
from viarl.stages.build_stand_ins import Settings, main
from viarl.stand_ins import answerer
from viarl.stand_ins.architecture import build_processor, build_vlm
from viarl.stand_ins.corpus import NOT_SEEN, question_text, reply, stand_in_tokenizer, thought
from viarl.stand_ins.films import NO_CARD, Films, film
from viarl.stand_ins.replies import Examples, reply_loss


@pytest.fixture(scope="module")
def tokenizer():
    return stand_in_tokenizer(CANDIDATES)


@pytest.fixture(scope="module")
def films() -> Films:
    return film(seed=3, count=4, candidates=CANDIDATES)


@pytest.mark.parametrize("word", [*COLOURS, "Which", "find", "think", "index", "user", "assistant"])
def test_words_that_open_a_text_are_single_tokens(tokenizer, word: str) -> None:
    assert len(tokenizer.tokenize(word)) == 1


OTHER_WORDS = ["card", "beginning", "end", "before", "after", "shape", "the", "at", "is", "on"]


@pytest.mark.parametrize("word", [*COLOURS, *SHAPES, NOT_SEEN, *"ABCD", *OTHER_WORDS])
def test_words_after_a_space_are_single_tokens(tokenizer, word: str) -> None:
    assert len(tokenizer.tokenize(f" {word}")) == 1


def test_frame_numbers_are_single_tokens_wherever_they_stand(tokenizer) -> None:
    for number in range(CANDIDATES):
        ids = tokenizer(f"<index>[{number}, {number}]</index>")["input_ids"]
        assert sum(tokenizer.decode([token]) == str(number) for token in ids) == 2


def test_every_completion_is_valid_fits_and_reads_back_unchanged(tokenizer) -> None:
    for task in TASKS:
        text = f"<think>{thought('purple', task, 'yellow')}</think><index>[28, 29, 30, 31]</index>"
        ids = tokenizer(text + tokenizer.eos_token)["input_ids"]
        assert len(ids) <= 32  # selector.max_new_tokens of the default
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert parse_selection(text, CANDIDATES, 4).indices == (28, 29, 30, 31)


def test_the_corpus_words_questions_as_the_data_set_does(films: Films) -> None:
    rng = generator(0, "test")
    for scene in films.scenes:
        for task in TASKS:
            asked = draw_question(scene, task, rng)
            if asked is not None:
                assert asked.text == question_text(scene.cards[asked.card].colour, task, scene.marker)


def test_the_tokenizer_is_the_same_every_time(tokenizer) -> None:
    assert stand_in_tokenizer(CANDIDATES).get_vocab() == tokenizer.get_vocab()


def test_films_show_each_card_in_two_candidate_frames(films: Films) -> None:
    assert films.frames.shape == (4, CANDIDATES, 56, 56, 3)
    for video, scene in enumerate(films.scenes):
        assert all(len(films.evidence(video, card)) == 2 for card in range(len(scene.cards)))
    white = (films.frames.min(-1) > 215).mean((2, 3))
    assert white[films.cards == NO_CARD].max() < white[films.cards != NO_CARD].min()


@pytest.fixture
def examples(tokenizer, films: Films) -> Examples:
    torch.manual_seed(0)
    return Examples(build_vlm(tokenizer, answerer.SIZE), films, films.frames, "short")


def test_examples_show_what_their_view_promises(examples: Examples, films: Films) -> None:
    rng = np.random.default_rng(0)
    for view, task in (("seen", None), ("unseen", None), ("both", "end"), ("both", "before")):
        for _ in range(20):
            example = examples.draw(rng, 4, view, task)
            scene = films.scenes[example.video]
            card = scene.cards[example.asked.card]
            in_view = set(films.cards[example.video, list(example.frames)])
            same = {place for place, other in enumerate(scene.cards) if other.colour == card.colour}
            assert len(set(example.frames)) == 4 and list(example.frames) == sorted(example.frames)
            assert in_view & same == {"seen": {example.asked.card}, "unseen": set(), "both": same}[view]
            shape = card.shape if view != "unseen" else NOT_SEEN
            assert example.text == reply(card.colour, shape, example.letter)
            assert example.options["ABCD".index(example.letter)] == card.shape


def test_lessons_never_show_the_withheld_colour(examples: Examples) -> None:
    rng, recipe = np.random.default_rng(0), answerer.AnswererRecipe(withheld="red")
    for _ in range(200):
        lesson = answerer._lesson(examples, recipe, 4, rng)
        assert not lesson.text.startswith("red") or NOT_SEEN in lesson.text


def test_the_answerer_learns_a_few_replies_by_heart(examples: Examples) -> None:
    rng = np.random.default_rng(0)
    drawn = [examples.draw(rng, count) for count in (1, 2, 4, 4)]
    prompts = [examples.prompt(example) for example in drawn]
    texts = [example.text for example in drawn]
    optimizer = torch.optim.AdamW(answerer.language_parameters(examples.vlm.model), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = reply_loss(examples.vlm, prompts, texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < losses[0]
    assert answerer.accuracy(examples, drawn) == 1.0


def test_the_reply_loss_ignores_padding_and_what_is_not_counted(examples: Examples) -> None:
    vlm = examples.vlm
    asked = question_text("red", "none", "")
    prompt = vlm.prompt(answerer_messages("short", asked, ["star", "moon"], frames=False))
    short, long = "red star A", "red star A moon B"
    with torch.no_grad():
        one = reply_loss(vlm, [prompt], [short])
        other = reply_loss(vlm, [prompt], [long])
        both = reply_loss(vlm, [prompt] * 2, [short, long])
        first = reply_loss(vlm, [prompt], [short], slice(0, 1))
        rest = reply_loss(vlm, [prompt], [short], slice(1, None))
    torch.testing.assert_close(both, (4 * one + 6 * other) / 10)
    torch.testing.assert_close(one, (first + 3 * rest) / 4)


def test_probes_teach_the_vision_tower(examples: Examples, films: Films, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = answerer.AnswererRecipe(vision_steps=20, vision_batch=32)
    answerer.train_vision(examples.vlm, films, films.frames, recipe, seed=0)
    assert float(capsys.readouterr().err.strip().rsplit("loss ", 1)[1]) < 3.0  # 2 ln 7 = 3.9 at the start


def _settings(role: str, folder: Path, effort: float = 0.01) -> Settings:
    return Settings(role, replace(TOLD, effort=effort), folder / "model.safetensors")


def test_the_stage_builds_an_answerer_that_loads_as_an_ordinary_checkpoint(tmp_path: Path) -> None:
    main(_settings("answerer", tmp_path))
    vlm = Vlm.load(tmp_path, device="cpu")
    assert vlm.tokenizer.get_vocab() == stand_in_tokenizer(CANDIDATES).get_vocab()
    prompt = vlm.prompt(answerer_messages("short", "Which shape?", ["star", "moon"], frames=False))
    assert 1 <= len(vlm.complete([prompt], max_new_tokens=8)[0]) <= 8
    assert "Not taught" in (tmp_path / "card.md").read_text()


def test_the_stage_builds_a_clip_that_open_clip_loads(tmp_path: Path) -> None:
    main(_settings("clip", tmp_path))
    clip = load_clip(tmp_path, device="cpu")
    images = clip.encode_images([np.full((28, 28, 3), value, np.uint8) for value in (0, 200)])
    texts = clip.encode_texts(["a blue card with a star", "nothing"])
    assert images.shape == texts.shape == (2, 64)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=-1), torch.ones(4))
    ended, open_ended = (clip.encode_texts([f"a card {mark} with a blue star"]) for mark in ("<end_of_text>", "<x>"))
    assert not torch.allclose(ended, clip.encode_texts(["a card"]), atol=1e-3) and not torch.allclose(ended, open_ended)
    assert "by chance" in (tmp_path / "card.md").read_text()


def test_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no open_clip model"):
        load_clip(tmp_path)
    for name, weights, message in (("ViT-B-32", "no-such", "known are .*openai"), ("ViT-B-32", "openai", "-quickgelu")):
        with pytest.raises(ValueError, match=message):
            load_clip(name, weights)
    with pytest.raises(ValueError, match="the roles are selector, answerer and clip"):
        main(_settings("critic", tmp_path))
    with pytest.raises(ValueError, match="effort"):
        replace(TOLD, effort=0.0)


def test_weights_that_open_clip_would_run_with_another_activation_are_refused() -> None:
    """For every model and weights that it knows; the name that a refusal gives is right."""
    named = 0
    for name, tag in open_clip.list_pretrained():
        model, weights = open_clip.get_model_config(name), open_clip.get_pretrained_cfg(name, tag)
        fits = model.get("quick_gelu", False) == weights.get("quick_gelu", False)
        problem = clip_problem(name, tag)
        assert (problem == "") == fits, (name, tag)
        if other := re.search(r"set it to (\S+)$", problem):
            assert clip_problem(other[1], tag) == ""
            named += 1
    assert named > 20


def test_effort_scales_but_leaves_something() -> None:
    assert [TOLD.scaled(500), TOLD.scaled(10)] == [5, 2]
    assert answerer.scaled_recipe(replace(TOLD, effort=1.0)) == answerer.AnswererRecipe()


def test_the_selection_prompt_is_short(tokenizer) -> None:
    processor = build_processor(tokenizer)
    messages = selector_messages("short", question_text("blue", "after", "cyan"), CANDIDATES, 4)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert len(tokenizer(text)["input_ids"]) < 48
