"""Pretraining of the answerer stand-in: the vision tower by linear probes, then letters, then whole replies.

Letters: without a video, to name each option's letter; from whole replies alone this came late or never. Replies: from
the frozen tower's features of one, two or all selected frames, "blue star B": the card it looked for, the shape it saw
there, the letter. A share of the rows lacks the card, and the reply says so ("blue none B", a random letter).

So that tuning on selected frames matters, two things are left to it: one colour of cards, of which pretraining never
shows the evidence, and two cards of the same colour in view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from viarl.answer.asking import answerer_messages
from viarl.answer.letter import extract_letter
from viarl.datasets.needle import COLOURS, OPTIONS, SHAPES, generator
from viarl.files import write_text
from viarl.items import LETTERS
from viarl.models.save import save_model
from viarl.models.vlm import Vlm
from viarl.stand_ins.architecture import Size, build_vlm
from viarl.stand_ins.corpus import question_text, stand_in_tokenizer
from viarl.stand_ins.films import HELD_OUT_STREAM, NO_CARD, TEMPORAL_SHARE, Films, film
from viarl.stand_ins.optimise import Optimiser, cosine
from viarl.stand_ins.replies import Example, Examples, reply_loss
from viarl.stand_ins.settings import StandInSettings
from viarl.video.encode import shrink

SIZE = Size(layers=4, vision_layers=2)
_ADAMW: Any = {"share": partial(cosine, floor=0.02), "weight_decay": 0.01}


@dataclass(frozen=True)
class AnswererRecipe:
    """How the answerer stand-in is trained: the vision tower, the letters, the replies, and how it is measured.

    `blind`, `alone`, `pair` are the shares of the rows without a frame, with one and with two; the others have all K,
    and a share `unseen` of them lacks the card in question.
    """

    videos: int = 500
    held_out: int = 120
    vision_steps: int = 500
    vision_batch: int = 128
    vision_rate: float = 2e-3
    shift: int = 6  # pixels by which frames are moved at random, so that few videos show cards everywhere
    letter_steps: int = 110
    letter_batch: int = 48
    steps: int = 300
    batch: int = 40
    rate: float = 2e-3
    blind: float = 0.05
    alone: float = 0.35
    pair: float = 0.15
    unseen: float = 0.2
    temporal: float = TEMPORAL_SHARE  # then only one of the two cards is in view
    withheld: str = "cyan"  # the colour that is asked about only where the card is not in view
    questions: int = 400  # that each figure is measured on


def resized(films: Films, pixels: int) -> np.ndarray:
    """Return the films' frames as the frame cache hands them to the answerer: (V, N, h, w, 3) uint8."""
    if max(films.frames.shape[2:4]) <= pixels:
        return films.frames
    return np.array([[shrink(frame, pixels) for frame in video] for video in films.frames])


def shifted(frames: np.ndarray, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Move each frame, (B, h, w, 3), by up to `pixels` in each direction; the border is repeated outwards."""
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    corners = rng.integers(0, 2 * pixels + 1, (len(frames), 2))
    return np.stack([frame[y : y + height, x : x + width] for frame, (y, x) in zip(padded, corners, strict=True)])


def train_vision(vlm: Vlm, films: Films, frames: np.ndarray, recipe: AnswererRecipe, seed: int) -> None:
    """Teach the tower to put a card's colour and shape into every token of its frame; the probes are thrown away."""
    rng = generator(seed, "answerer vision")
    colours, shapes = films.labels("colour", COLOURS), films.labels("shape", SHAPES)
    shown, empty = np.argwhere(films.cards != NO_CARD), np.argwhere(films.cards == NO_CARD)
    model, kinds = vlm.model, len(COLOURS) + 1
    probe = torch.nn.Linear(model.config.text_config.hidden_size, kinds + len(SHAPES) + 1)
    parameters, blanks = [*model.model.visual.parameters(), *probe.parameters()], recipe.vision_batch // 8
    optimiser = Optimiser("answerer vision steps", parameters, recipe.vision_rate, recipe.vision_steps, **_ADAMW)
    for _ in range(recipe.vision_steps):
        rows = np.concatenate([rng.choice(shown, recipe.vision_batch - blanks), rng.choice(empty, blanks)])
        video, frame = rows.T
        pixels, grid = vlm.pixels(shifted(frames[video, frame], recipe.shift, rng))
        features = model.model.get_video_features(pixels, grid[None], return_dict=True).pooler_output[0]
        scores = probe(features.view(len(rows), -1, features.shape[-1])).transpose(1, 2)  # (B, classes, tokens a frame)
        truths = (torch.from_numpy(kind[video, frame])[:, None] for kind in (colours, shapes))
        colour, shape = (truth.expand(-1, scores.shape[-1]) for truth in truths)
        colour_loss = functional.cross_entropy(scores[:, :kinds], colour)
        optimiser.step(colour_loss + functional.cross_entropy(scores[:, kinds:], shape))


def _lesson(examples: Examples, recipe: AnswererRecipe, selected: int, rng: np.random.Generator) -> Example:
    """Draw a training example; the withheld colour is asked about only where its card is not in view."""
    bounds = np.cumsum([recipe.blind, recipe.alone, recipe.pair])
    count = (0, 1, min(2, selected), selected)[int(np.searchsorted(bounds, rng.random(), side="right"))]
    unseen = count == 0 or (count == selected and rng.random() < recipe.unseen)
    while True:
        example = examples.draw(rng, count, "unseen" if unseen else "seen", temporal=recipe.temporal)
        if unseen or examples.colour(example) != recipe.withheld:
            return example


def language_parameters(model: Any) -> list[torch.nn.Parameter]:
    """Return all parameters but the vision tower's."""
    return [parameter for name, parameter in model.named_parameters() if "visual" not in name]


def train_letters(vlm: Vlm, template: str, recipe: AnswererRecipe, seed: int) -> None:
    """Teach the language model to name the options' letters, in any order: "blue star B moon A cross D circle C"."""
    rng = generator(seed, "answerer letters")
    parameters = language_parameters(vlm.model)
    optimiser = Optimiser("answerer letter steps", parameters, recipe.rate, recipe.letter_steps, **_ADAMW)
    for _ in range(recipe.letter_steps):
        prompts, replies = [], []
        for _ in range(recipe.letter_batch):
            colour = str(rng.choice(COLOURS))
            choices = [str(shape) for shape in rng.permutation(SHAPES)[:OPTIONS]]
            asked = question_text(colour, "none", "")
            prompts.append(vlm.prompt(answerer_messages(template, asked, choices, frames=False)))
            named = [f"{choices[place]} {LETTERS[place]}" for place in rng.permutation(OPTIONS)]
            replies.append(" ".join([colour, *named]))
        # every second token: the colour and the letters; which option comes next cannot be known
        optimiser.step(reply_loss(vlm, prompts, replies, slice(None, None, 2)))


def train_replies(examples: Examples, recipe: AnswererRecipe, selected: int, seed: int) -> None:
    """Teach the language model to reply, on the frozen tower's features."""
    rng = generator(seed, "answerer questions")
    parameters = language_parameters(examples.vlm.model)
    optimiser = Optimiser("answerer reply steps", parameters, recipe.rate, recipe.steps, **_ADAMW)
    for _ in range(recipe.steps):
        batch = [_lesson(examples, recipe, selected, rng) for _ in range(recipe.batch)]
        prompts = [examples.prompt(example) for example in batch]
        optimiser.step(reply_loss(examples.vlm, prompts, [example.text for example in batch]))


def accuracy(examples: Examples, drawn: Sequence[Example]) -> float:
    """Return the share of examples whose greedy reply names the right letter."""
    right = 0
    for start in range(0, len(drawn), 64):
        batch = drawn[start : start + 64]
        completions = examples.vlm.complete([examples.prompt(example) for example in batch], max_new_tokens=8)
        for example, completion in zip(batch, completions, strict=True):
            right += extract_letter(examples.vlm.text(completion), example.options) == example.letter
    return right / len(drawn)


def measure(examples: Examples, recipe: AnswererRecipe, selected: int, seed: int) -> dict[str, float]:
    """Return accuracies on held-out films, with the data set's share of temporal questions."""
    found = {}
    for name, count, view, task in (
        ("oracle", selected, "seen", None),
        ("no_evidence", selected, "unseen", None),
        ("blind", 0, "unseen", None),
        ("two_cards", selected, "both", "end"),
    ):
        rng = generator(seed, f"answerer {name}")
        drawn = [examples.draw(rng, count, view, task, recipe.temporal) for _ in range(recipe.questions)]
        found[name] = accuracy(examples, drawn)
        if name == "oracle":
            withheld = [example for example in drawn if examples.colour(example) == recipe.withheld]
            found["withheld"] = accuracy(examples, withheld) if withheld else 0.0
    return found


def scaled_recipe(settings: StandInSettings) -> AnswererRecipe:
    """Return the recipe at the settings' effort."""
    return settings.shrunk(AnswererRecipe(), "videos", "held_out", "vision_steps", "letter_steps", "steps", "questions")


def build(settings: StandInSettings, folder: Path) -> dict[str, float]:
    """Pretrain the answerer stand-in, write its checkpoint folder, and return its figures on held-out scenes."""
    recipe = scaled_recipe(settings)
    seed, selected, pixels = settings.seed, settings.selected, settings.answerer_pixels
    torch.manual_seed(seed)
    vlm = build_vlm(stand_in_tokenizer(settings.candidates), SIZE)
    films = film(seed, recipe.videos, settings.candidates)
    frames = resized(films, pixels)
    train_vision(vlm, films, frames, recipe, seed)
    examples = Examples(vlm, films, frames, settings.answerer_prompt)
    train_letters(vlm, settings.answerer_prompt, recipe, seed)
    train_replies(examples, recipe, selected, seed)
    vlm.model.eval()
    held_out = film(seed, recipe.held_out, settings.candidates, HELD_OUT_STREAM)
    unseen = Examples(vlm, held_out, resized(held_out, pixels), settings.answerer_prompt)
    measured = measure(unseen, recipe, selected, seed)
    write_text(folder / "card.md", model_card(settings, recipe, measured))
    save_model(vlm.model, vlm.processor, folder)
    return measured


def model_card(settings: StandInSettings, recipe: AnswererRecipe, measured: dict[str, float]) -> str:
    """Return the model card, Markdown."""
    return f"""# Answerer stand-in

A tiny Qwen2.5-VL (transformers' own classes), {SIZE.layers} layers of width {SIZE.hidden}, trained from scratch so that
the default run needs no download. It stands where a pretrained answerer stands in a real run; of no other use.

**Taught:** the colour and shape of cards ({recipe.vision_steps} steps of the vision tower); the options' letters
({recipe.letter_steps} steps); to find the card that a question names among up to {settings.selected} frames and to
reply "blue star B" ({recipe.steps} steps of {recipe.batch} questions); where the card is not in view, to say so and
guess ("blue none B"). From {recipe.videos} generated videos (seed {settings.seed}, stream "pretraining") that are in no
other set.

**Not taught, so that tuning matters:** cards of one colour ({recipe.withheld}), of which it never saw the evidence; to
tell two cards of one colour apart by the question's words of time.

Measured on {recipe.questions} questions on held-out pretraining scenes, chance being {1 / OPTIONS:.2f}:

| the card in question | accuracy |
|---|---|
| in view | {measured["oracle"]:.3f} |
| in view, of the colour not taught | {measured["withheld"]:.3f} |
| not in view | {measured["no_evidence"]:.3f} |
| no video | {measured["blind"]:.3f} |
| in view with another of its colour, "at the end" | {measured["two_cards"]:.3f} |
"""
