"""Qwen3-VL fits the one path: its own processor's prompt, DeepStack through cached features, the shared prefix."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from transformers.video_utils import VideoMetadata

from small_answerer import MemoryCache, item, save_vlm
from small_qwen3 import qwen3
from viarl.answer.answerer import Answerer, Request
from viarl.answer.asking import answerer_messages
from viarl.models.encode import forward_arguments, video_outputs
from viarl.models.vlm import Vlm
from viarl.selection.prompt import selector_messages
from viarl.training.rl.attention import enable
from viarl.training.rl.prefix import Group, plain_log_probs, shared_log_probs
from viarl.training.sft.dataset import AnswererPrompts, Collator, Example

TEXTS = ["<think>find</think><index>[1, 2]</index> <0.2 seconds> <11.9 seconds>", 'The question is "Which card?"'] * 5


@pytest.fixture(scope="module")
def vlm() -> Vlm:
    return qwen3(TEXTS)


def frames_of(count: int, seed: int = 0, width: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 28, width, 3), dtype=np.uint8)


def make_prompt(vlm: Vlm, count: int, question: str = "Which card?"):
    pixels, grid = vlm.pixels(frames_of(count, count))
    return vlm.prompt(selector_messages("short", question, count, 2), pixels, grid)


@pytest.mark.parametrize("count", [2, 6])
def test_the_prompt_is_that_of_the_models_own_processor(vlm, count: int) -> None:
    model, processor, prompt = vlm.model, vlm.processor, make_prompt(vlm, count)
    chat = selector_messages("short", "Which card?", count, 2)
    video = torch.from_numpy(frames_of(count, count).transpose(0, 3, 1, 2).copy())
    metadata = VideoMetadata(total_num_frames=count, fps=2.0, frames_indices=list(range(count)))
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    # as published, without the template's own marks around all patches (see viarl.models.families.timed_video)
    text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    expected = processor(
        text=[text],
        videos=[video],
        video_metadata=[[metadata]],
        do_sample_frames=False,
        size={"shortest_edge": 28 * 28, "longest_edge": 2**31},
        cap_pixels_per_frame=False,
        return_tensors="pt",
    )
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert torch.equal(prompt.pixels, expected["pixel_values_videos"])
    positions, _ = model.model.get_rope_index(
        expected["input_ids"], expected["mm_token_type_ids"], video_grid_thw=expected["video_grid_thw"]
    )
    assert torch.equal(prompt.positions, positions[:, 0])


def test_cached_features_give_the_plain_forward_and_deepstack_counts(vlm) -> None:
    model, prompts = vlm.model, [make_prompt(vlm, 6), make_prompt(vlm, 9, "Which card is it, then?")]
    featured = vlm.with_features(prompts)
    assert featured[0].features.shape == (3, 3, 32)  # tokens, the usual features and those for two layers, D
    with torch.no_grad():
        for prompt, own in zip(prompts, featured, strict=True):
            arguments = {"input_ids": prompt.input_ids[None], "position_ids": prompt.positions[:, None]}
            plain = model(**arguments, pixel_values_videos=prompt.pixels, video_grid_thw=prompt.grid[None]).logits
            cached = model(**arguments, mm_encoder_outputs=video_outputs([own], model.device)).logits
            assert torch.allclose(cached, plain, atol=1e-5)
            shallow = replace(own, features=torch.cat([own.features[:, :1], 0 * own.features[:, 1:]], 1))
            without = model(**arguments, mm_encoder_outputs=video_outputs([shallow], model.device)).logits
            assert not torch.allclose(without, plain, atol=1e-3)
        together = model(**forward_arguments(featured, model.device, 0), logits_to_keep=1).logits[1, -1]
        assert torch.allclose(together, cached[0, -1], atol=1e-5)


def test_greedy_equals_transformers_generate(vlm) -> None:
    prompts = [make_prompt(vlm, 6), make_prompt(vlm, 8, "Which card is it, then?")]
    together = vlm.complete(prompts, max_new_tokens=10)
    for prompt, batched in zip(prompts, together, strict=True):
        reference = vlm.model.generate(
            input_ids=prompt.input_ids[None],
            attention_mask=torch.ones_like(prompt.input_ids)[None],
            pixel_values_videos=prompt.pixels,
            video_grid_thw=prompt.grid[None],
            mm_token_type_ids=prompt.token_types[None],
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=vlm.suppressed,
        )[0, prompt.length :]
        assert torch.equal(batched, reference[: len(batched)])


@pytest.mark.parametrize("pixels", [False, True])
def test_the_shared_prefix_equals_the_plain_forward(vlm, pixels: bool) -> None:
    own = qwen3(TEXTS)
    model = own.model
    enable(model)
    prompts = [make_prompt(vlm, 6), make_prompt(vlm, 8, "Which card is it, then?")]
    prompts = prompts if pixels else own.with_features(prompts)
    rng = np.random.default_rng(0)
    groups = [
        Group(prompt, tuple(torch.from_numpy(rng.integers(0, 250, length)) for length in lengths))
        for prompt, lengths in zip(prompts, ((4, 7, 1), (3, 5)), strict=True)
    ]
    shared, plain = shared_log_probs(model, groups, pad=0), plain_log_probs(model, groups, pad=0)
    assert torch.allclose(shared.log_probs, plain.log_probs, atol=1e-4)

    def gradients(result):
        model.zero_grad()
        result.log_probs.sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    ours, theirs = gradients(shared), gradients(plain)
    assert any("deepstack" in name for name in ours) == pixels
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-3
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients(shared_log_probs(model, groups, pad=0))
    assert max(float((ours[name] - again[name]).abs().max()) for name in ours) < 1e-4


def test_the_answerer_caches_its_temporal_patches(vlm) -> None:
    """Replies from remembered patches equal those from the whole video; an odd number of frames, and one alone."""
    cache = MemoryCache({"v0": 9})
    answerer = Answerer(vlm, cache, "short", max_new_tokens=6, batch_size=4)
    for frames in ((1, 2, 5, 7), (2, 5, 8), (3,)):
        own = item(0)
        messages = answerer_messages("short", own.question, own.options, frames=True)
        pixels, grid = vlm.pixels(cache.answerer_frames("v0", frames))
        expected = vlm.complete([vlm.prompt(messages, pixels, grid)], max_new_tokens=6)[0]
        text = vlm.tokenizer.decode(expected, skip_special_tokens=True)
        assert answerer.answer([Request(own, frames)])[0].text == text
    prompts = AnswererPrompts(vlm, cache, "short", frozen=True)
    collator = Collator(vlm.tokenizer, [Example(item(0), (1, 2, 5), "star B")], prompts)
    assert collator([{"row": 0}])["video_features"][0].dim() == 3


def test_a_saved_one_loads_and_other_families_are_refused(vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Vlm.load(save_vlm(vlm, tmp_path), device="cpu")
    assert type(loaded.model) is type(vlm.model) and type(loaded.processor) is type(vlm.processor)
    assert all(torch.equal(own, loaded.model.state_dict()[name]) for name, own in vlm.model.state_dict().items())
    for kind in ("qwen3_vl_moe", "qwen2_vl"):
        config = AutoConfig.for_model(kind)
        monkeypatch.setattr("viarl.models.families.AutoConfig.from_pretrained", lambda *_, config=config, **__: config)
        with pytest.raises(ValueError, match=f"type '{kind}'.*fits qwen2_5_vl and qwen3_vl alone"):
            Vlm.load(tmp_path, device="cpu")
