"""Encoding and generation: cached features, shared prefill, and agreement with transformers' own generate."""

import json

import numpy as np
import pytest
import torch

from viarl.models.vlm import (
    Encoder,
    closing_tokens,
    completion_text,
    generate,
    load_model,
    video_outputs,
    with_features,
)
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import Size, build_model, build_processor, build_tokenizer

TEXTS = ["<think>find the blue card</think><index>[1, 2]</index>", 'The question is "Which shape is on the blue card?"']


@pytest.fixture(scope="module")
def vlm():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TEXTS * 5, frames=32)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, Size(hidden=64, layers=2, mlp=96, vision_hidden=32)).eval()
    return model, processor, Encoder(model, processor)


def make_prompt(encoder: Encoder, words: int, frames: int = 8):
    random = np.random.default_rng(words)
    pixels, grid = encoder.pixels(random.integers(0, 255, (frames, 28, 28, 3), dtype=np.uint8))
    question = "Which shape is on the blue card" + " please" * words
    return encoder.prompt(selector_messages("short", question, frames, 2), pixels, grid)


def test_small_frames_are_not_enlarged(vlm) -> None:
    assert make_prompt(vlm[2], 1).grid.tolist() == [8, 2, 2]


def test_text_goes_on_behind_a_video_as_qwen_was_trained(vlm, tmp_path) -> None:
    """The rule of Qwen2.5-VL's own code: one past the largest position so far, be that a frame's or a row's."""
    model, processor, inside = vlm
    model.save_pretrained(tmp_path / "stand-in")
    assert load_model(tmp_path / "stand-in", device="cpu").config.text_inside_video is True
    config = json.loads((tmp_path / "stand-in" / "config.json").read_text())
    del config["text_inside_video"]
    (tmp_path / "stand-in" / "config.json").write_text(json.dumps(config))
    behind = Encoder(load_model(tmp_path / "stand-in", device="cpu"), processor)
    for frames, sides in ((8, 28), (2, 140)):  # 8 frames of 1 x 1 tokens, 2 frames of 5 x 5
        pixels, grid = behind.pixels(np.zeros((frames, sides, sides, 3), dtype=np.uint8))
        one, other = (
            encoder.prompt(selector_messages("short", "Which?", frames, 2), pixels, grid)
            for encoder in (inside, behind)
        )
        video = (other.token_types == 2).nonzero()[:, 0]
        first, last = int(video[0]), int(video[-1])
        side = sides // 28
        assert other.positions[0, first : last + 1].tolist() == [
            first + frame for frame in range(frames) for _ in range(side * side)
        ]
        start = first + max(frames, side)
        text = torch.arange(start, start + other.length - last - 1)
        assert torch.equal(other.positions[:, last + 1 :], text.expand(3, -1))
        assert other.next_position == start + len(text)
        assert torch.equal(one.positions[:, : last + 1], other.positions[:, : last + 1])
        assert int(one.positions[0, last + 1]) == first + side  # amid the frames, or behind them


def library_reply(model, prompt, tokens: int) -> torch.Tensor:
    """What transformers' own generate writes behind a prompt with pixels, greedily."""
    return model.generate(
        input_ids=prompt.input_ids[None],
        attention_mask=torch.ones_like(prompt.input_ids)[None],
        pixel_values_videos=prompt.pixels,
        video_grid_thw=prompt.grid[None],
        second_per_grid_ts=torch.tensor([0.5]),
        mm_token_type_ids=prompt.token_types[None],
        max_new_tokens=tokens,
        do_sample=False,
    )[0, prompt.length :]


@pytest.mark.parametrize("frames", [4, 30])
def test_greedy_equals_transformers_generate_and_does_not_depend_on_the_batch(vlm, frames: int) -> None:
    model, processor, encoder = vlm
    closing = closing_tokens(model, processor)
    prompts = [make_prompt(encoder, words, frames) for words in (0, 3, 9)]
    together = generate(model, with_features(model, prompts), closing=closing, max_new_tokens=12)
    for prompt, batched in zip(prompts, together, strict=True):
        alone = generate(model, with_features(model, [prompt]), closing=closing, max_new_tokens=12)[0]
        reference = library_reply(model, prompt, 12)
        assert torch.equal(batched, alone) and torch.equal(batched, reference[: len(batched)])


def test_a_completion_ends_at_any_closing_token_of_the_model(vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-VL's generation_config names two, of which its tokenizer knows one."""
    model, processor, encoder = vlm
    eos = processor.tokenizer.eos_token_id
    assert closing_tokens(model, processor) == [eos]  # a single id, of both
    prompts = [make_prompt(encoder, words) for words in (0, 3)]
    long = library_reply(model, prompts[0], 6).tolist()
    other = long[2]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [other, eos])
    closing = closing_tokens(model, processor)
    assert closing == [eos, other]
    replies = generate(model, with_features(model, prompts), closing=closing, max_new_tokens=6)
    for prompt, reply in zip(prompts, replies, strict=True):
        assert torch.equal(reply, library_reply(model, prompt, 6))
    end = long.index(other)
    assert replies[0].tolist() == long[: end + 1]
    text = processor.tokenizer.decode(long[:end], clean_up_tokenization_spaces=False)
    assert completion_text(processor, replies[0], closing) == text


def test_sampling_follows_the_models_distribution(vlm) -> None:
    model, processor, encoder = vlm
    prompt = with_features(model, [make_prompt(encoder, 2)])
    arguments = {"closing": closing_tokens(model, processor), "max_new_tokens": 1}
    draws = generate(
        model, prompt, completions=4000, temperature=1.0, generator=torch.Generator().manual_seed(0), **arguments
    )
    counts = torch.bincount(torch.stack(draws)[:, 0], minlength=model.config.text_config.vocab_size) / 4000
    with torch.no_grad():
        logits = model(
            input_ids=prompt[0].input_ids[None],
            position_ids=prompt[0].positions[:, None],
            mm_encoder_outputs=video_outputs(prompt, torch.device("cpu")),
        ).logits[0, -1]
    assert (counts - logits.softmax(-1)).abs().max() < 0.03


def test_suppressed_tokens_are_never_sampled(vlm) -> None:
    model, processor, encoder = vlm
    prompt = with_features(model, [make_prompt(encoder, 2)])
    closing = closing_tokens(model, processor)
    best = int(generate(model, prompt, closing=closing, max_new_tokens=1)[0][0])
    assert int(generate(model, prompt, closing=closing, max_new_tokens=1, suppress=[best])[0][0]) != best


def test_a_video_is_never_dropped_in_silence(vlm) -> None:
    prompt = make_prompt(vlm[2], 1)
    with pytest.raises(ValueError, match="no vision features"):
        video_outputs([prompt], torch.device("cpu"))
    with pytest.raises(ValueError, match="video parts"):
        vlm[2].prompt(selector_messages("short", "Which?", 8, 2))
