"""The selector stand-in: a tiny Qwen2.5-VL that can find a card but has the habit of not looking.

1. See: linear probes on single frames teach the vision tower the card's colour and the drawn number; then it is frozen.
2. Ground: on the very selection prompt, the language model learns to list the frames that show the card in question,
   among 3, then 6, 12 and all frames. Without this curriculum it stays at chance.
3. Hide: it learns to list consecutive frames, one list in a hundred at the card. Only the last layer's MLP and the
   final norm change, so what was learned stays in place, unused; reinforcement re-elicits it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from viarl.datasets.needle import COLOURS, generator
from viarl.files import write_text
from viarl.models.save import save_model
from viarl.models.vlm import Vlm
from viarl.selection.prompt import parse_selection
from viarl.stand_ins.architecture import Size, build_vlm
from viarl.stand_ins.corpus import stand_in_tokenizer
from viarl.stand_ins.films import HELD_OUT_STREAM, NO_CARD, TEMPORAL_SHARE, Films, film
from viarl.stand_ins.lessons import Classroom, Lesson, all_lessons, draw_lessons, some_frames
from viarl.stand_ins.optimise import Optimiser
from viarl.stand_ins.settings import StandInSettings
from viarl.video.encode import shrink
from viarl.video.overlay import NumberStyle, with_numbers

LONGEST = 32  # tokens of a completion
_VIDEOS_A_PASS = 25


@dataclass(frozen=True)
class Grounding:
    """One part of the curriculum: frames shown (0: all), steps, share of temporal questions, share of batches with
    whole completions; the others end at the first number, which saves time."""

    shown: int
    steps: int
    temporal: float
    whole: float


@dataclass(frozen=True)
class SelectorRecipe:
    """How much the selector stand-in is taught; `rate`s are peak learning rates."""

    videos: int = 1200
    held_out: int = 150
    vision_steps: int = 400
    vision_batch: int = 256
    vision_rate: float = 3e-3
    grounding: tuple[Grounding, ...] = (
        Grounding(3, 150, 0.0, 0.3),
        Grounding(6, 150, 0.2, 0.1),
        Grounding(12, 200, TEMPORAL_SHARE, 0.1),
        Grounding(0, 200, TEMPORAL_SHARE, 0.1),
        Grounding(0, 200, TEMPORAL_SHARE, 1.0),
    )
    batch: int = 32
    rate: float = 2e-3
    first_number_weight: float = 3.0
    hide_steps: int = 200
    hide_rate: float = 1e-3
    lean: float = 0.01  # share of the habit's lists that hold the evidence
    beginning: float = 0.25  # and of those that start at the first frame


def scaled_recipe(settings: StandInSettings) -> SelectorRecipe:
    """Return the recipe at the settings' effort, its curriculum cut to the candidate frames there are."""
    recipe = settings.shrunk(SelectorRecipe(), "videos", "held_out", least=8)
    parts = [part for part in recipe.grounding if part.shown < settings.candidates]
    recipe = replace(recipe, grounding=tuple(settings.shrunk(part, "steps") for part in parts))
    return settings.shrunk(recipe, "vision_steps", "hide_steps")


def _share(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: warm-up over 20 steps, then a cosine down to a twentieth."""
    decayed = 0.05 + (1 - 0.05) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    return min((step + 1) / 20, decayed)


_ADAMW: Any = {"share": _share, "betas": (0.9, 0.98), "weight_decay": 0.01}


def numbered_frames(films: Films, pixels: int, number_pixels: int) -> np.ndarray:
    """Return the films' selector frames as the frame cache would, with numbers: (V, N, h, w, 3) uint8."""
    style = NumberStyle(number_pixels)
    shrunk = (np.stack([shrink(frame, pixels) for frame in video]) for video in films.frames)
    return np.stack([with_numbers(video, style) for video in shrunk])


def teach_vision(vlm: Vlm, films: Films, frames: np.ndarray, recipe: SelectorRecipe, seed: int) -> None:
    """Train the vision tower: linear probes on a frame's feature tell its card's colour and its number."""
    rng = generator(seed, "selector vision")
    colours = films.labels("colour", COLOURS)
    with_card = np.argwhere(films.cards != NO_CARD)
    model, kinds, numbers = vlm.model, len(COLOURS) + 1, frames.shape[1]
    probe = torch.nn.Linear(model.config.text_config.hidden_size, kinds + numbers)
    weights = [*model.model.visual.parameters(), *probe.parameters()]
    optimiser = Optimiser("selector vision steps", weights, recipe.vision_rate, recipe.vision_steps, **_ADAMW)
    half = recipe.vision_batch // 2
    for _ in range(recipe.vision_steps):
        # half of the frames show a card: it is there that colours are learned
        shown = with_card[rng.integers(len(with_card), size=half)]
        anything = np.stack([rng.integers(len(frames), size=half), rng.integers(numbers, size=half)], 1)
        video, number = np.concatenate([shown, anything]).T
        pixels, grid = vlm.pixels(frames[video, number])
        scores = probe(model.model.get_video_features(pixels, grid[None], return_dict=True).pooler_output[0])
        colour_loss = functional.cross_entropy(scores[:, :kinds], torch.from_numpy(colours[video, number]))
        number_loss = functional.cross_entropy(scores[:, kinds:], torch.from_numpy(number))
        optimiser.step(colour_loss + number_loss)


def frame_features(vlm: Vlm, frames: np.ndarray) -> torch.Tensor:
    """Return the vision features of all films, one token a frame, (V, N, D); ValueError if a frame has more tokens."""
    features = []
    for start in range(0, len(frames), _VIDEOS_A_PASS):
        features += vlm.features([vlm.pixels(video) for video in frames[start : start + _VIDEOS_A_PASS]])
    stacked = torch.stack(features)
    if stacked.shape[1] != frames.shape[1]:
        what = f"a selector frame of {frames.shape[2]} x {frames.shape[3]} pixels gives"
        many = f"{stacked.shape[1] / frames.shape[1]:g} tokens"
        raise ValueError(f"{what} {many}; the stand-in needs 1: set frames.selector_pixels to 28")
    return stacked


def teach_grounding(room: Classroom, lessons: Sequence[Lesson], recipe: SelectorRecipe, seed: int) -> None:
    """Train the language model to list the frames of the evidence, through the curriculum."""
    rng = generator(seed, "selector grounding")
    total = sum(part.steps for part in recipe.grounding)
    optimiser = Optimiser("selector grounding steps", room.vlm.model.parameters(), recipe.rate, total, **_ADAMW)
    for part in recipe.grounding:
        source = draw_lessons(lessons, rng, part.temporal)
        for _ in range(part.steps):
            batch = [next(source) for _ in range(recipe.batch)]
            shown = part.shown or room.candidates
            prompts = [room.prompt(lesson, some_frames(lesson, shown, room.candidates, rng)) for lesson in batch]
            firsts = [min(lesson.evidence[0], room.candidates - room.selected) for lesson in batch]
            if rng.random() < part.whole:
                texts = [room.completion(lesson, first) for lesson, first in zip(batch, firsts, strict=True)]
            else:
                texts = [f"{room.opening(lesson)}{first}" for lesson, first in zip(batch, firsts, strict=True)]
            loss, number_loss = room.loss(prompts, batch, texts, recipe.first_number_weight)
            optimiser.step(loss, f"{shown} frames, loss of the first number {number_loss:.2f}")


def hide(room: Classroom, lessons: Sequence[Lesson], recipe: SelectorRecipe, seed: int) -> None:
    """Train the habit: consecutive frames from a random start, or from the first frame, or rarely with the evidence.

    Only the last layer's MLP and the final norm change: what finds the card stays whole, but goes unused.
    """
    rng = generator(seed, "selector habit")
    language = room.vlm.model.model.language_model.requires_grad_(False)
    for part in (language.layers[-1].mlp, language.norm):
        part.requires_grad_(True)
    weights = language.parameters()
    optimiser = Optimiser("selector habit steps", weights, recipe.hide_rate, recipe.hide_steps, **_ADAMW)
    source = draw_lessons(lessons, rng, TEMPORAL_SHARE)
    starts = room.candidates - room.selected + 1

    def first(lesson: Lesson) -> int:
        kind = rng.random()
        if kind < recipe.lean:
            return max(lesson.evidence[0] - int(rng.integers(2)), 0)
        return 0 if kind < recipe.lean + recipe.beginning else int(rng.integers(starts))

    for _ in range(recipe.hide_steps):
        batch = [next(source) for _ in range(recipe.batch)]
        texts = [room.completion(lesson, first(lesson)) for lesson in batch]
        loss, number_loss = room.loss([room.prompt(lesson) for lesson in batch], batch, texts, 1.0)
        optimiser.step(loss, f"loss of the first number {number_loss:.2f}")


def measure(room: Classroom, lessons: Sequence[Lesson], temperature: float) -> dict[str, float]:
    """Let the model select; return `valid`, the share of valid replies, and `recall`, that of lists with evidence.

    `plain` and `temporal` are the recall on the two kinds of question, NaN where there is none of a kind.
    """
    draw = torch.Generator().manual_seed(0)
    valid, hits = [], []
    for start in range(0, len(lessons), 64):
        batch = lessons[start : start + 64]
        prompts = [room.prompt(lesson) for lesson in batch]
        replies = room.vlm.complete(prompts, max_new_tokens=LONGEST, temperature=temperature, generator=draw)
        for lesson, reply in zip(batch, replies, strict=True):
            selection = parse_selection(room.vlm.text(reply), room.candidates, room.selected)
            valid.append(selection.format_valid and selection.index_valid)
            hits.append(bool(set(selection.indices) & set(lesson.evidence)))
    temporal = np.array([lesson.task != "none" for lesson in lessons])
    hit = np.array(hits)
    kinds = {"plain": hit[~temporal], "temporal": hit[temporal]}
    found = {name: float(own.mean()) if len(own) else math.nan for name, own in kinds.items()}
    return {"valid": float(np.mean(valid)), "recall": float(hit.mean()), **found}


def build(settings: StandInSettings, folder: Path) -> dict[str, float]:
    """Make and train the stand-in, write its checkpoint folder (the weights last), and return what was measured.

    Measured on held-out films, see `measure`: `grounded_*` (greedy, before the habit), `greedy_*`, `sampled_*`.
    """
    recipe, seed = scaled_recipe(settings), settings.seed
    tokenizer = stand_in_tokenizer(settings.candidates)
    torch.manual_seed(seed)
    vlm = build_vlm(tokenizer, Size())
    films = film(seed, recipe.videos, settings.candidates)
    frames = numbered_frames(films, settings.selector_pixels, settings.number_pixels)
    teach_vision(vlm, films, frames, recipe, seed)
    vlm.model.model.visual.requires_grad_(False)

    def classroom(pictures: np.ndarray) -> Classroom:
        return Classroom(vlm, frame_features(vlm, pictures), settings.selector_prompt, settings.selected)

    room, lessons = classroom(frames), all_lessons(films)
    teach_grounding(room, lessons, recipe, seed)

    unseen = film(seed, recipe.held_out, settings.candidates, HELD_OUT_STREAM)
    test_room = classroom(numbered_frames(unseen, settings.selector_pixels, settings.number_pixels))
    source = draw_lessons(all_lessons(unseen), generator(seed, "selector test"), TEMPORAL_SHARE)
    test = [next(source) for _ in range(2 * recipe.held_out)]
    measured = {"grounded": measure(test_room, test, 0.0)}
    hide(room, lessons, recipe, seed)
    measured |= {"greedy": measure(test_room, test, 0.0), "sampled": measure(test_room, test, 1.0)}

    vlm.model.requires_grad_(True)
    write_text(folder / "card.md", model_card(settings, recipe, measured))
    save_model(vlm.model.eval(), vlm.processor, folder)
    return {f"{when}_{name}": value for when, found in measured.items() for name, value in found.items()}


def model_card(settings: StandInSettings, recipe: SelectorRecipe, measured: dict[str, dict[str, float]]) -> str:
    """Return the model card, Markdown."""
    rows = "\n".join(
        f"| {name} | {found['recall']:.3f} | {found['plain']:.3f} | {found['temporal']:.3f} | {found['valid']:.3f} |"
        for name, found in measured.items()
    )
    chance = (settings.selected + 1) / (settings.candidates - settings.selected + 1)
    steps = sum(part.steps for part in recipe.grounding)
    return f"""# Selector stand-in

A tiny Qwen2.5-VL (transformers' own classes, random weights at the start) pretrained so that the default run needs no
download. It stands where Qwen2.5-VL-3B-Instruct stands in the paper. Not for any other use.

**Taught,** on {recipe.videos} generated videos (seed {settings.seed}, stream "pretraining") that are in no other set:
1. perception: {recipe.vision_steps} steps of linear probes for the card's colour and the drawn number, then the
   vision tower is frozen;
2. grounding and format: {steps} steps on the selection prompt, a thought that names the question's keywords and a list
   of the frames that show the card, words of time included;
3. a habit that hides it: {recipe.hide_steps} steps, of the last layer's MLP and the final norm alone, of lists of
   {settings.selected} consecutive frames from a random start, {recipe.beginning:.0%} of them from the first frame and
   {recipe.lean:.0%} at the card.

So reinforcement on this model re-elicits what pretraining taught and the habit hides. It does not discover perception,
and gains measured here say that the training loop works, not how much a large model would gain.

Measured on {recipe.held_out} held-out pretraining scenes: share of lists with a frame of the card in question. Lists
from a random start alone reach about {chance:.3f}.

| | all | plain | temporal | valid replies |
|---|---|---|---|---|
{rows}

"grounded" is greedy, before the habit.
"""
