"""Encoding and generation: cached features, shared prefill, and agreement with transformers' own generate."""

import json

import numpy as np
import pytest
import torch

from small_answerer import save_vlm
from viarl.models.encode import Prompt, video_outputs
from viarl.models.vlm import Vlm
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import Size, build_tokenizer, build_vlm
from viarl.training.rl.prefix import Group, plain_log_probs

TEXTS = ["<think>find the blue card</think><index>[1, 2]</index>", 'The question is "Which shape is on the blue card?"']


@pytest.fixture(scope="module")
def vlm() -> Vlm:
    torch.manual_seed(0)
    built = build_vlm(build_tokenizer(TEXTS * 5, frames=32), Size(hidden=64, layers=2, mlp=96, vision_hidden=32))
    built.model.eval()
    return built


def make_prompt(vlm: Vlm, words: int, frames: int = 8) -> Prompt:
    random = np.random.default_rng(words)
    pixels, grid = vlm.pixels(random.integers(0, 255, (frames, 28, 28, 3), dtype=np.uint8))
    question = "Which shape is on the blue card" + " please" * words
    return vlm.prompt(selector_messages("short", question, frames, 2), pixels, grid)


def test_small_frames_are_not_enlarged(vlm) -> None:
    assert make_prompt(vlm, 1).grid.tolist() == [8, 2, 2]


def test_text_goes_on_behind_a_video_as_qwen_was_trained(vlm, tmp_path) -> None:
    """The rule of Qwen2.5-VL's own code: one past the largest position so far, be that a frame's or a row's."""
    save_vlm(vlm, tmp_path / "stand-in")
    inside = Vlm.load(tmp_path / "stand-in", device="cpu")
    assert inside.model.config.text_inside_video is True
    config = json.loads((tmp_path / "stand-in" / "config.json").read_text())
    del config["text_inside_video"]
    (tmp_path / "stand-in" / "config.json").write_text(json.dumps(config))
    behind = Vlm.load(tmp_path / "stand-in", device="cpu")
    for frames, sides in ((8, 28), (2, 140)):  # 8 frames of 1 x 1 tokens, 2 frames of 5 x 5
        pixels, grid = behind.pixels(np.zeros((frames, sides, sides, 3), dtype=np.uint8))
        chat = selector_messages("short", "Which?", frames, 2)
        one, other = (one.prompt(chat, pixels, grid) for one in (inside, behind))
        video = (other.token_types == 2).nonzero()[:, 0]
        first, last = int(video[0]), int(video[-1])
        side = sides // 28
        shown = [first + frame for frame in range(frames) for _ in range(side * side)]
        assert other.positions[0, first : last + 1].tolist() == shown
        start = first + max(frames, side)
        text = torch.arange(start, start + other.length - last - 1)
        assert torch.equal(other.positions[:, last + 1 :], text.expand(3, -1))
        assert other.next_position == start + len(text)
        assert torch.equal(one.positions[:, : last + 1], other.positions[:, : last + 1])
        assert int(one.positions[0, last + 1]) == first + side  # amid the frames, or behind them


def library_reply(vlm: Vlm, prompt: Prompt, tokens: int) -> torch.Tensor:
    """What transformers' own generate writes behind a prompt with pixels, greedily."""
    return vlm.model.generate(
        input_ids=prompt.input_ids[None],
        attention_mask=torch.ones_like(prompt.input_ids)[None],
        pixel_values_videos=prompt.pixels,
        video_grid_thw=prompt.grid[None],
        second_per_grid_ts=torch.tensor([0.5]),
        mm_token_type_ids=prompt.token_types[None],
        max_new_tokens=tokens,
        do_sample=False,
        suppress_tokens=vlm.suppressed,
    )[0, prompt.length :]


@pytest.mark.parametrize("frames", [4, 30])
def test_greedy_equals_transformers_generate_and_does_not_depend_on_the_batch(vlm, frames: int) -> None:
    prompts = [make_prompt(vlm, words, frames) for words in (0, 3, 9)]
    together = vlm.complete(prompts, max_new_tokens=12)
    for prompt, batched in zip(prompts, together, strict=True):
        alone = vlm.complete([prompt], max_new_tokens=12)[0]
        reference = library_reply(vlm, prompt, 12)
        assert torch.equal(batched, alone) and torch.equal(batched, reference[: len(batched)])


def test_a_completion_ends_at_any_closing_token_of_the_model(vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-VL's generation_config names two, of which its tokenizer knows one."""
    eos = vlm.tokenizer.eos_token_id
    assert vlm.closing == [eos]  # a single id, of both
    prompts = [make_prompt(vlm, words) for words in (0, 3)]
    long = library_reply(vlm, prompts[0], 6).tolist()
    other = long[2]
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [other, eos])
    assert vlm.closing == [eos, other]
    replies = vlm.complete(prompts, max_new_tokens=6)
    for prompt, reply in zip(prompts, replies, strict=True):
        assert torch.equal(reply, library_reply(vlm, prompt, 6))
    end = long.index(other)
    assert replies[0].tolist() == long[: end + 1]
    assert vlm.text(replies[0]) == vlm.tokenizer.decode(long[:end], clean_up_tokenization_spaces=False)


def test_sampling_follows_the_models_distribution(vlm) -> None:
    model, prompt = vlm.model, vlm.with_features([make_prompt(vlm, 2)])
    seeded = torch.Generator().manual_seed(0)
    draws = vlm.complete(prompt, max_new_tokens=1, completions=4000, temperature=1.0, generator=seeded)
    counts = torch.bincount(torch.stack(draws)[:, 0], minlength=model.config.text_config.vocab_size) / 4000
    with torch.no_grad():
        logits = model(
            input_ids=prompt[0].input_ids[None],
            position_ids=prompt[0].positions[:, None],
            mm_encoder_outputs=video_outputs(prompt, torch.device("cpu")),
        ).logits[0, -1]
    logits[vlm.suppressed] = -torch.inf
    assert (counts - logits.softmax(-1)).abs().max() < 0.03


def test_suppressed_tokens_are_never_sampled(vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert vlm.suppressed == sorted(vlm.tokenizer.convert_tokens_to_ids(marks))
    prompt = [make_prompt(vlm, 2)]
    best = int(vlm.complete(prompt, max_new_tokens=1)[0][0])
    monkeypatch.setattr(vlm, "suppressed", [best])
    assert int(vlm.complete(prompt, max_new_tokens=1)[0][0]) != best


def test_log_probs_are_those_of_each_text_by_itself(vlm) -> None:
    prompts = vlm.with_features([make_prompt(vlm, words) for words in (0, 5)])
    texts = ["find the card", "[1]<|im_end|>"]
    together, mask = vlm.log_probs(prompts, texts)
    assert mask.sum(1).tolist() == [len(vlm.tokenizer(text)["input_ids"]) for text in texts]
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids = torch.tensor(vlm.tokenizer(text)["input_ids"])
        own = plain_log_probs(vlm.model, [Group(prompt, (ids,))], pad=0).log_probs[0]
        assert torch.allclose(together[row][mask[row] == 1], own, atol=1e-5)


def test_a_video_is_never_dropped_in_silence(vlm) -> None:
    prompt = make_prompt(vlm, 1)
    with pytest.raises(ValueError, match="no vision features"):
        video_outputs([prompt], torch.device("cpu"))
    with pytest.raises(ValueError, match="video parts"):
        vlm.prompt(selector_messages("short", "Which?", 8, 2))
