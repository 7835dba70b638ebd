"""The shared-prefix forward against ordinary forwards with the prompt repeated, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from viarl.selection.prompt import selector_messages
from viarl.stand_ins.architecture import Size, build_tokenizer, build_vlm
from viarl.training.rl.attention import NAME, enable
from viarl.training.rl.prefix import Group, plain_log_probs, shared_log_probs

TEXTS = ["<think>find the blue card</think><index>[1, 2, 3, 4]</index>", 'The question is "Which?"', "system user"]


def exact_norm(self, hidden_states):
    """The RMS norm of Qwen2.5-VL without its detour over float32, which would hide differences below 1e-7."""
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


@pytest.fixture(scope="module")
def model(vlm):
    return vlm.model


@pytest.fixture(scope="module")
def vlm():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm, "forward", exact_norm)
        yield _vlm()


def _vlm():
    torch.manual_seed(0)
    built = build_vlm(build_tokenizer(TEXTS * 3, 32), Size(hidden=32, layers=2, mlp=64, vision_hidden=32))
    enable(built.model.double())
    return built


@pytest.fixture(scope="module")
def pixel_groups(vlm):
    """Two prompts of different length, with completions of 1 to 9 tokens; prompts hold pixels."""
    rng = np.random.default_rng(0)
    groups = []
    for frames, question, lengths in ((5, "Which?", (4, 9, 1)), (9, "Which shape is it, then?", (7, 2))):
        pixels, grid = vlm.pixels(rng.integers(0, 255, (frames, 28, 56, 3), dtype=np.uint8))
        prompt = vlm.prompt(selector_messages("short", question, frames, 2), pixels.double(), grid)
        completions = tuple(torch.from_numpy(rng.integers(0, 250, length)) for length in lengths)
        groups.append(Group(prompt, completions))
    return groups


@pytest.fixture(scope="module")
def groups(vlm, pixel_groups):
    prompts = vlm.with_features([group.prompt for group in pixel_groups])
    return [replace(group, prompt=prompt) for group, prompt in zip(pixel_groups, prompts, strict=True)]


def gradients(model, result):
    weights = torch.linspace(-1, 1, result.log_probs.numel(), dtype=torch.float64).view_as(result.log_probs)
    model.zero_grad()
    (result.log_probs * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# eager attention rounds its softmax to float32, in a float64 model too
@pytest.mark.parametrize(("attention", "tolerance"), [(NAME, 1e-12), ("sdpa", 1e-12), ("eager", 1e-5)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_gradients_equal_the_plain_forward(model, groups, attention, tolerance, temperature):
    model.set_attn_implementation({"text_config": attention})
    shared = shared_log_probs(model, groups, pad=0, temperature=temperature)
    plain = plain_log_probs(model, groups, pad=0, temperature=temperature)
    assert shared.mask.tolist() == plain.mask.tolist()
    assert shared.mask.sum(1).tolist() == [4, 9, 1, 7, 2]
    assert torch.allclose(shared.log_probs, plain.log_probs, atol=tolerance)
    assert torch.allclose(shared.entropy, plain.entropy, atol=tolerance)
    ours, theirs = gradients(model, shared), gradients(model, plain)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < tolerance
    enable(model)


def test_positions_follow_the_video(model, groups):
    """M-RoPE: a completion goes on from the largest position of its prompt, not from its number of tokens."""
    wrong = replace(groups[0].prompt, positions=torch.arange(groups[0].prompt.length).expand(3, -1))
    moved = shared_log_probs(model, [replace(groups[0], prompt=wrong)], pad=0)
    assert not torch.allclose(moved.log_probs, shared_log_probs(model, groups[:1], pad=0).log_probs, atol=1e-3)


def test_gradient_checkpointing_and_chunks_change_nothing(model, groups, monkeypatch):
    expected = gradients(model, shared_log_probs(model, groups, pad=0))
    monkeypatch.setattr("viarl.training.rl.prefix.LOGITS_A_CHUNK", 5 * model.config.text_config.vocab_size)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    got = gradients(model, shared_log_probs(model, groups, pad=0))
    model.gradient_checkpointing_disable()
    model.eval()
    assert max(float((got[name] - expected[name]).abs().max()) for name in expected) < 1e-12


def test_pixels_give_gradients_to_the_vision_tower(model, groups, pixel_groups):
    from_pixels = shared_log_probs(model, pixel_groups, pad=0)
    assert torch.allclose(from_pixels.log_probs, shared_log_probs(model, groups, pad=0).log_probs, atol=1e-12)
    shared, plain = gradients(model, from_pixels), gradients(model, plain_log_probs(model, pixel_groups, pad=0))
    tower = [name for name in shared if ".visual." in name]
    assert tower and any(shared[name].abs().max() > 0 for name in tower)
    # the tower's rotary positions are rounded to float32
    assert max(float((shared[name] - plain[name]).abs().max()) for name in shared) < 1e-5


def test_a_video_is_never_dropped(model, groups):
    prompt = groups[0].prompt
    for broken in (
        replace(prompt, features=None),
        replace(prompt, features=None, grid=None),
        replace(prompt, features=prompt.features[:-1]),
    ):
        with pytest.raises(ValueError, match="video"):
            shared_log_probs(model, [replace(groups[0], prompt=broken)], pad=0)


def test_an_attention_without_masks_is_refused(model, groups):
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(ValueError, match="sdpa"):
            shared_log_probs(model, groups, pad=0)
    finally:
        model.config.get_text_config()._attn_implementation = NAME
