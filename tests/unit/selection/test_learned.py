"""The learned selector: features once a video, picks that depend on the item alone, the table of picks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from small_answerer import save_vlm
from viarl.items import Item, read_items, write_records
from viarl.models.settings import ModelSettings
from viarl.models.vlm import Vlm
from viarl.selection import learned
from viarl.selection.learned import SelectorPrompts, item_draws, select
from viarl.selection.picks import GREEDY, SAMPLED, read_picks
from viarl.stages import select_frames
from viarl.stand_ins.architecture import Size, build_tokenizer, build_vlm

TEXTS = ["Name 4 of 12 frames.", 'The question is "Which shape?"', "<think>a</think><index>[1, 2, 3, 4]</index>"]
SMALL = Size(hidden=32, layers=1, heads=2, key_value_heads=1, mlp=32, vision_hidden=16)
ITEMS = [Item(f"i{i}", f"v{i // 2}", f"Which shape{' now' * (i % 4)}?", ("a", "b"), "A") for i in range(9)]


class Frames:
    """A frame cache in memory; video v1 is short, v9 is bad."""

    def __init__(self, manifests: Sequence[Path] = (), number: object = None) -> None:
        self.bad = {"v9": "it cannot be read"}
        self.read: list[str] = []

    def __contains__(self, video: str) -> bool:
        return video in {f"v{index}" for index in range(5)}

    def count(self, video: str) -> int:
        return 3 if video == "v1" else 12

    def times(self, video: str) -> np.ndarray:
        return np.arange(self.count(video), dtype=np.float64)

    def selector_frames(self, video: str) -> np.ndarray:
        self.read.append(video)
        rng = np.random.default_rng(int(video[1:]))
        return rng.integers(0, 256, (self.count(video), 28, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def selector() -> Vlm:
    torch.manual_seed(0)
    vlm = build_vlm(build_tokenizer(TEXTS * 3, 12), SMALL)
    vlm.model.eval()
    return vlm


def source(selector: Vlm, cache: Any = None, **options: Any) -> SelectorPrompts:
    return SelectorPrompts(selector, cache or Frames(), "short", 4, **options)


def draw(selector: Vlm, items: Sequence[Item], batch_size: int, **options: Any) -> dict[str, str]:
    values = {"temperature": 1.0, "seed": 3, "max_new_tokens": 8} | options
    picked = select(source(selector), items, batch_size=batch_size, **values)
    return {one.item_id: one.text for one in picked}


def test_a_draw_depends_on_the_item_and_the_seed_alone(selector: Vlm) -> None:
    together = draw(selector, ITEMS, 9)
    assert draw(selector, ITEMS[::-1], 2) == together
    assert draw(selector, ITEMS[4:5], 1) == {"i4": together["i4"]}
    assert draw(selector, ITEMS, 9, seed=4) != together
    longer = draw(selector, ITEMS, 9, max_new_tokens=12)
    assert all(longer[item].startswith(text.rstrip("�")) for item, text in together.items())
    assert len(set(together.values())) == len(ITEMS)


def test_draws_are_uniform_and_begin_alike(selector: Vlm) -> None:
    draws = item_draws(1, "a", 20000)
    assert torch.equal(item_draws(1, "a", 7), draws[:7])
    assert abs(float(draws.mean()) - 0.5) < 0.01 and float(draws.min()) >= 0 and float(draws.max()) < 1
    assert not torch.equal(item_draws(1, "b", 7), draws[:7]) and not torch.equal(item_draws(2, "a", 7), draws[:7])


def test_greedy_equals_the_models_own_generate(selector: Vlm) -> None:
    one = select(source(selector), ITEMS[:1], temperature=0, seed=0, max_new_tokens=6, batch_size=1)[0]
    pixels, grid = selector.pixels(Frames().selector_frames("v0"))
    prompt = source(selector).prompts(ITEMS[:1])[0]
    tokens = selector.model.generate(
        input_ids=prompt.input_ids[None],
        attention_mask=torch.ones_like(prompt.input_ids)[None],
        pixel_values_videos=pixels,
        video_grid_thw=grid[None],
        second_per_grid_ts=torch.tensor([0.5]),
        mm_token_type_ids=prompt.token_types[None],
        max_new_tokens=6,
        do_sample=False,
        suppress_tokens=selector.suppressed,
    )[0, prompt.length :]
    assert one.text == selector.text(tokens)


def test_prompts_say_the_true_number_of_frames(selector: Vlm) -> None:
    text = selector.tokenizer.decode(source(selector).prompts([ITEMS[2]])[0].input_ids)
    assert "Name 3 of 3 frames." in text and "A." not in text
    picked = select(source(selector), ITEMS[2:3], temperature=0, seed=0, max_new_tokens=2, batch_size=4)
    assert picked[0].selection.indices == (0, 1, 2) and not picked[0].selection.index_valid


def test_features_are_computed_once_a_video(selector: Vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def counted(vlm: Vlm, videos: Any) -> Any:
        passes.append(len(videos))
        return real(vlm, videos)

    real = Vlm.features
    monkeypatch.setattr(Vlm, "features", counted)
    cache = Frames()
    prompts = source(selector, cache)
    first = prompts.prompts(ITEMS)
    assert passes == [5] and cache.read == [f"v{index}" for index in range(5)]
    again = prompts.prompts(ITEMS)
    assert passes == [5] and all(a.features is b.features for a, b in zip(first, again, strict=True))
    monkeypatch.setattr(learned, "PATCHES_A_PASS", 100)
    split = source(selector).prompts(ITEMS)
    assert passes[1:] == [2, 2, 1]
    assert all(torch.allclose(a.features, b.features, atol=1e-5) for a, b in zip(first, split, strict=True))  # type: ignore[arg-type]


def test_features_on_disk_serve_the_same_tower_and_frames_only(selector: Vlm, tmp_path: Path) -> None:
    first = source(selector, features_folder=tmp_path).prompts(ITEMS)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 5
    before = files[0].stat().st_mtime_ns
    second = source(selector, features_folder=tmp_path).prompts(ITEMS)
    assert files[0].stat().st_mtime_ns == before
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, second, strict=True))  # type: ignore[arg-type]
    files[0].write_bytes(files[0].read_bytes()[:40])  # damaged: made again

    class Others(Frames):
        def selector_frames(self, video: str) -> np.ndarray:
            return 255 - super().selector_frames(video) if video == "v1" else super().selector_frames(video)

    third = source(selector, Others(), features_folder=tmp_path).prompts(ITEMS)
    equal = [torch.equal(a.features, b.features) for a, b in zip(first, third, strict=True)]  # type: ignore[arg-type]
    assert equal == [item.video != "v1" for item in ITEMS]
    source(build_vlm(selector.tokenizer, SMALL), features_folder=tmp_path).prompts(ITEMS)
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_is_bounded_and_forgets_the_longest_unused(selector: Vlm) -> None:
    cache = Frames()
    own = source(selector).prompts(ITEMS[:1])[0]
    assert own.features is not None
    prompts = source(selector, cache, keep_bytes=2 * own.features.nbytes)
    for video in ("v0", "v2", "v0", "v3", "v0", "v2"):  # v3 takes the place of v2
        prompts.prompts([replace(ITEMS[0], video=video)])
    assert cache.read == ["v0", "v2", "v3", "v2"]
    larger = source(selector, cache, keep_bytes=own.features.nbytes - 1)  # than what there is room for
    (first,), (again,) = larger.prompts(ITEMS[:1]), larger.prompts(ITEMS[:1])
    assert torch.equal(first.features, again.features) and cache.read[4:] == ["v0", "v0"]  # type: ignore[arg-type]


def test_a_bad_video_is_named(selector: Vlm) -> None:
    with pytest.raises(ValueError, match="item 'i0': no frames of video 'v9': it cannot be read"):
        source(selector).prompts([replace(ITEMS[0], video="v9")])


@pytest.fixture
def settings(selector: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> select_frames.Settings:
    """Of the stage, on four items and one whose video is bad."""
    save_vlm(selector, tmp_path / "model")
    monkeypatch.setattr(select_frames, "FrameCache", Frames)
    write_records(tmp_path / "items.jsonl", [ITEMS[3], replace(ITEMS[0], id="bad", video="v9"), *ITEMS[:3]])
    return select_frames.Settings(
        items=tmp_path / "items.jsonl",
        manifests=(),
        selector_model=tmp_path / "model",
        output=tmp_path / "picks.parquet",
        seed=1,
        selected=4,
        number_pixels=13,
        temperature=1.0,
        selector=ModelSettings(prompt="short", max_new_tokens=8, batch_size=1),
        device="cpu",
    )


def test_a_stage_that_was_killed_goes_on(settings: select_frames.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    select_frames.main(settings)
    undisturbed = settings.output.read_bytes()
    settings.output.unlink()
    real, calls = Vlm.complete, []

    def complete(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # of eight
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(Vlm, "complete", complete)
    with pytest.raises(KeyboardInterrupt):
        select_frames.main(settings)
    assert not settings.output.exists()
    select_frames.main(settings)
    assert len(calls) == 6 + 3 and settings.output.read_bytes() == undisturbed
    assert sorted(path.name for path in settings.output.parent.iterdir()) == ["items.jsonl", "model", "picks.parquet"]
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        select_frames.main(settings)
    select_frames.main(replace(settings, seed=2))  # finds nothing of the other seed's
    assert len(calls) == 6 + 8


def test_the_stage_lists_every_item_in_order(settings: select_frames.Settings, tmp_path: Path) -> None:
    items = read_items(settings.items)
    select_frames.main(settings)
    greedy, sampled = (read_picks(settings.output, decode) for decode in (GREEDY, SAMPLED))
    assert list(greedy) == list(sampled) == [item.id for item in items]
    assert greedy["bad"].failed == "video v9: it cannot be read" and greedy["bad"].indices == ()
    assert greedy["i2"].indices == (0, 1, 2) and greedy["i2"].reason == "no index block" and not greedy["i2"].failed
    assert greedy["i0"].text != sampled["i0"].text and sampled["i0"].tokens <= 8
    with pytest.raises(ValueError, match="temperature must be above 0"):
        replace(settings, temperature=0.0)
    (tmp_path / "picks.parquet").write_text("no table")
    with pytest.raises(ValueError, match="no table of picks"):
        read_picks(settings.output)
