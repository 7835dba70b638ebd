"""The answerer: same replies as one plain request at a time, nothing asked or decoded twice."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from small_answerer import MemoryCache, item, small_answerer, small_vlm
from viarl.answer.answerer import Request
from viarl.answer.asking import answerer_messages
from viarl.answer.letter import extract_letter
from viarl.models.vlm import Vlm

COUNTS = {"v0": 8, "v1": 5}


def requests() -> list[Request]:
    frames = [(0, 1, 2), (5, 3, 1), (), (4, 2), (0,), (1, 2, 3, 4)]
    return [
        Request(item(number, f"v{number % 2}"), tuple(index for index in own if index < COUNTS[f"v{number % 2}"]))
        for number, own in enumerate(frames * 2)
    ]


def plain(request: Request, temporal_patch: int) -> str:
    """Answer one request by itself, the frames through the processor as one video."""
    vlm, cache = small_vlm(temporal_patch), MemoryCache(COUNTS)
    own = request.item
    messages = answerer_messages("short", own.question, own.options, bool(request.frames))
    if request.frames:
        prompt = vlm.prompt(messages, *vlm.pixels(cache.answerer_frames(own.video, sorted(request.frames))))
    else:
        prompt = vlm.prompt(messages)
    return vlm.text(vlm.complete([prompt], max_new_tokens=6)[0])


@pytest.mark.parametrize("temporal_patch", [1, 2])
def test_batched_replies_equal_plain_ones(temporal_patch: int) -> None:
    asked = requests()
    replies = small_answerer(MemoryCache(COUNTS), temporal_patch=temporal_patch).answer(asked)
    for request, reply in zip(asked, replies, strict=True):
        assert reply.text == plain(request, temporal_patch)
        assert reply.letter == extract_letter(reply.text, request.item.options)
    assert len({reply.text for reply in replies}) > 1


@pytest.mark.parametrize("temporal_patch", [1, 2])
def test_frames_as_images_are_asked_as_the_library_would(temporal_patch: int) -> None:
    vlm = small_vlm(temporal_patch)
    asked, cache = requests(), MemoryCache(COUNTS)
    replies = small_answerer(cache, 5, temporal_patch=temporal_patch, frames_as="images").answer(asked)
    for request, reply in zip(asked, replies, strict=True):
        own, frames = request.item, sorted(request.frames)
        messages = answerer_messages("short", own.question, own.options, bool(frames), len(frames))
        text = vlm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        pictures = [Image.fromarray(frame) for frame in cache.answerer_frames(own.video, frames)]
        inputs = vlm.processor(text=[text], images=pictures or None, return_tensors="pt")
        completion = vlm.model.generate(**inputs, max_new_tokens=6, do_sample=False, suppress_tokens=vlm.suppressed)
        own_tokens = completion[0, inputs["input_ids"].shape[1] :]
        assert reply.text == vlm.text(own_tokens)
    assert len({reply.text for reply in replies}) > 1


@pytest.mark.parametrize("frames_as", ["video", "images"])
@pytest.mark.parametrize("temporal_patch", [1, 2])
def test_passes_through_the_tower_are_bounded_within_a_video_too(
    temporal_patch: int, frames_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, cache = requests(), MemoryCache(COUNTS)
    how: dict[str, Any] = {"temporal_patch": temporal_patch, "frames_as": frames_as}
    expected = small_answerer(MemoryCache(COUNTS), **how).answer(asked)
    passes: list[int] = []

    def counted(vlm: Vlm, videos: Any) -> Any:
        passes.append(sum(len(pixels) for pixels, _ in videos))
        return real(vlm, videos)

    real = Vlm.features
    monkeypatch.setattr(Vlm, "features", counted)
    monkeypatch.setattr("viarl.answer.answerer.PATCHES_A_PASS", 20)  # a temporal patch has 8
    assert small_answerer(cache, **how).answer(asked) == expected
    assert max(passes) <= 20 < sum(passes)
    assert len(cache.decoded) == len(set(cache.decoded))  # still once a frame


def test_frames_change_the_features_that_the_answerer_gets() -> None:
    answerer = small_answerer(MemoryCache(COUNTS))
    first, second = answerer._patches([("v0", (0,)), ("v0", (1,))]).values()
    assert not torch.allclose(first.features, second.features)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_replies_do_not_depend_on_batch_size_order_or_repetition(batch_size: int) -> None:
    asked = requests()
    expected = small_answerer(MemoryCache(COUNTS)).answer(asked)
    other = small_answerer(MemoryCache(COUNTS), batch_size).answer(asked[::-1] + asked)
    assert other == expected[::-1] + expected


def test_nothing_is_asked_or_decoded_twice() -> None:
    cache = MemoryCache(COUNTS)
    answerer = small_answerer(cache)
    own, other = item(0), item(1)
    asked = [Request(own, (0, 1)), Request(own, (1, 0)), Request(other, (1, 2)), Request(own, (0, 1))]
    first = answerer.answer(asked)
    assert answerer.asked == 2 and sorted(cache.decoded) == [("v0", 0), ("v0", 1), ("v0", 2)]
    assert answerer.answer(asked) == first and answerer.asked == 2
    answerer.answer([Request(replace(own, options=own.options[::-1]), (0, 1))])  # other options: another question
    assert answerer.asked == 3 and len(cache.decoded) == 3


def test_features_leave_memory_beyond_the_bound() -> None:
    cache = MemoryCache(COUNTS)
    answerer = small_answerer(cache, 4, max_new_tokens=2, keep_bytes=2 * 2 * 64 * 4)
    answerer.answer([Request(item(0), (0, 1, 2, 3))])
    assert list(answerer._held) == [("v0", (2,)), ("v0", (3,))]  # 2 tokens x 64 x 4 bytes each
    assert answerer._held.currsize == 2 * 2 * 64 * 4


def test_frames_that_do_not_exist_are_refused() -> None:
    with pytest.raises(IndexError):
        small_answerer(MemoryCache(COUNTS)).answer([Request(item(0, "v1"), (5,))])


def test_no_requests() -> None:
    assert small_answerer(MemoryCache(COUNTS)).answer([]) == []
