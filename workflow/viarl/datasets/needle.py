"""The needle data set: generated videos where a few short cards carry the answers, in the spirit of MLVU's Needle QA.

A scene is a stream of coloured distractors over a moving background. Four or five cards appear, each for a sixteenth of
the video: a square of one of six colours with one of six white shapes. One colour, the repeated one, is on two cards;
another card, the marker, lies between them. A question names a colour that occurs once, or the repeated colour with
words of time ("at the beginning", "before the red card"); the repeated colour's other card is then always an option.
Everything follows from a seed, a stream (one for each split) and an index; streams never share a scene.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viarl.items import LETTERS, Item

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "cross", "moon")
TEMPORAL_TASKS = ("beginning", "end", "before", "after")
TASKS = ("none", *TEMPORAL_TASKS)
SPLITS = ("train", "validation", "test", "shifted")
FRAME_RATE = 8  # frames a second
FRAME_PIXELS = 56
SLOTS = 32  # a card starts at a multiple of 1/32 of the video and lasts two of them
MAX_QUESTIONS = 4  # a video has at least four cards, and each is asked about once at most
OPTIONS = 4

# Of eleven questions four are temporal, one of each kind: 36%.
_TASK_CYCLE = ("none", "beginning", "none", "after", "none", "none", "end", "none", "none", "before", "none")
_LENGTHS = {"shifted": (48, 96, 128)}  # frames; 64 elsewhere
_BACKGROUNDS = {"shifted": ("rings", "plaid", "rain")}
_QUALITY = {"shifted": (29, 33)}  # x264 constant rate factor, lowest and highest; higher is coarser


@dataclass(frozen=True)
class Thing:
    """A coloured shape in view in frames first..last. Centre x, y at `first`, drift and size in pixels."""

    colour: str
    shape: str
    first: int
    last: int
    x: float
    y: float
    dx: float
    dy: float
    size: int


@dataclass(frozen=True)
class Scene:
    """The script of one video. Cards are in order of time; `repeated` and `marker` are colours."""

    id: str
    frames: int
    background: str
    texture: int
    quality: int
    repeated: str
    marker: str
    cards: tuple[Thing, ...]
    distractors: tuple[Thing, ...]

    def evidence(self, card: int) -> tuple[float, float]:
        """First and last time, in seconds, at which a card is in view."""
        return self.cards[card].first / FRAME_RATE, self.cards[card].last / FRAME_RATE

    def visible(self, frame: int) -> Thing | None:
        """The card in view in a frame; cards never overlap in time."""
        return next((card for card in self.cards if card.first <= frame <= card.last), None)


@dataclass(frozen=True)
class Question:
    """A question on a scene: its text, its task, and the index of the card that answers it."""

    text: str
    task: str
    card: int


def generator(seed: int, stream: str, *path: int) -> np.random.Generator:
    """Return the random generator of a stream; different streams and paths are independent."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), *path])


def _starts(rng: np.random.Generator, count: int) -> list[int]:
    """Slots at which `count` cards start: in order, each two slots long, at least one free slot between two cards."""
    free = SLOTS - 2 * count - (count - 1)
    cuts = np.sort(rng.choice(free + count, count, replace=False)) - np.arange(count)
    return [int(cut) + 3 * place for place, cut in enumerate(cuts)]


def _cards(rng: np.random.Generator, frames: int) -> tuple[tuple[Thing, ...], str, str]:
    count = int(rng.integers(4, 6))
    halves = bool(rng.integers(2))  # half of the scenes: the repeated cards lie in different halves of the video
    while True:
        starts = _starts(rng, count)
        first, middle, last = sorted(int(place) for place in rng.choice(count, 3, replace=False))
        if not halves or starts[first] + 1 < SLOTS // 2 <= starts[last]:
            break
    repeated, marker, *rest = (str(colour) for colour in rng.permutation(COLOURS))
    kinds, others = {first: repeated, middle: marker, last: repeated}, iter(rest)
    colours = [kinds[place] if place in kinds else next(others) for place in range(count)]
    shapes = [str(shape) for shape in rng.choice(SHAPES, count)]
    while shapes[first] == shapes[last]:
        shapes[last] = str(rng.choice(SHAPES))
    cards = []
    for start, colour, shape in zip(starts, colours, shapes, strict=True):
        begin, lasts = start * frames // SLOTS, 2 * frames // SLOTS
        size = 2 * int(rng.integers(13, 17))
        low, high = size / 2 + 1, FRAME_PIXELS - size / 2 - 1
        x, y = rng.uniform(low, high, 2)
        target_x, target_y = rng.uniform(low, high, 2)
        drift = 0.5 / lasts  # a card covers at most half of the way to another place inside the frame
        dx, dy = (target_x - x) * drift, (target_y - y) * drift
        cards.append(Thing(colour, shape, begin, begin + lasts - 1, x, y, dx, dy, size))
    return tuple(cards), repeated, marker


def _distractors(rng: np.random.Generator, frames: int) -> tuple[Thing, ...]:
    """Two or three of each colour, so that a colour alone never tells where its card is."""
    drawn = []
    for colour in COLOURS:
        for _ in range(int(rng.integers(2, 4))):
            lasts = int(rng.integers(frames // 16, frames // 6))
            first = int(rng.integers(0, frames - lasts + 1))
            x, y = rng.uniform(4, FRAME_PIXELS - 4, 2)
            dx, dy = rng.uniform(-2, 2, 2) * 64 / frames
            kind = str(rng.choice(("ball", "ring", "bar")))
            size = 2 * int(rng.integers(4, 11))
            drawn.append(Thing(colour, kind, first, first + lasts - 1, x, y, dx, dy, size))
    return tuple(drawn[place] for place in rng.permutation(len(drawn)))


def plan(seed: int, stream: str, index: int) -> Scene:
    """Write the script of video `index` of a stream: a split's name or any other (the stand-ins' own pretraining)."""
    rng = generator(seed, stream, index)
    frames = int(rng.choice(_LENGTHS.get(stream, (64,))))
    background = str(rng.choice(_BACKGROUNDS.get(stream, ("gradient", "stripes", "blobs", "checks"))))
    low, high = _QUALITY.get(stream, (20, 26))
    cards, repeated, marker = _cards(rng, frames)
    texture, quality = int(rng.integers(2**31)), int(rng.integers(low, high + 1))
    distractors = _distractors(rng, frames)
    id = f"{stream}_{index:05d}"
    return Scene(id, frames, background, texture, quality, repeated, marker, cards, distractors)


def _suits(scene: Scene, task: str) -> bool:
    """Whether a temporal task is well-posed: "beginning" and "end" need the repeated cards in different halves."""
    if task in ("before", "after", "none"):
        return True
    first, last = repeated_cards(scene)
    return scene.cards[first].last < scene.frames // 2 <= scene.cards[last].first


def repeated_cards(scene: Scene) -> tuple[int, int]:
    """Indices of the earlier and the later card of the repeated colour."""
    first, last = (index for index, card in enumerate(scene.cards) if card.colour == scene.repeated)
    return first, last


def question(scene: Scene, task: str, card: int | None = None) -> Question:
    """Put a question: task "none" on a given `card`, or a temporal one; ValueError where it has not one answer."""
    if task == "none":
        if card is None or scene.cards[card].colour == scene.repeated:
            raise ValueError(f"{scene.id}: a question without words of time needs a card whose colour occurs once")
        return Question(f"Which shape is on the {scene.cards[card].colour} card?", task, card)
    if task not in TEMPORAL_TASKS or not _suits(scene, task):
        raise ValueError(f"{scene.id}: the task {task!r} is unknown or has no single answer in this scene")
    first, last = repeated_cards(scene)
    when = f"at the {task}" if task in ("beginning", "end") else f"{task} the {scene.marker} card"
    card = first if task in ("beginning", "before") else last
    return Question(f"Which shape is on the {scene.repeated} card {when}?", task, card)


def draw_question(scene: Scene, task: str, rng: np.random.Generator, taken: Sequence[int] = ()) -> Question | None:
    """Draw a question of a task on a card that is not in `taken`; None if the scene has none."""
    if task != "none":
        drawn = question(scene, task) if _suits(scene, task) else None
        return drawn if drawn is not None and drawn.card not in taken else None
    free = [index for index, card in enumerate(scene.cards) if card.colour != scene.repeated and index not in taken]
    return question(scene, task, int(rng.choice(free))) if free else None


def options(scene: Scene, asked: Question, letter: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Return four shapes with the true one at `letter`; for a temporal task the other repeated card's is among them."""
    true = scene.cards[asked.card].shape
    wrong = [str(shape) for shape in rng.permutation([shape for shape in SHAPES if shape != true])]
    if asked.task != "none":
        rival = next(scene.cards[index].shape for index in repeated_cards(scene) if index != asked.card)
        wrong.sort(key=lambda shape: shape != rival)  # the rival comes first
    wrong = [str(shape) for shape in rng.permutation(wrong[: OPTIONS - 1])]
    place = LETTERS.index(letter)
    return (*wrong[:place], true, *wrong[place:])


def _first_possible(scene: Scene, tasks: list[str], rng: np.random.Generator, taken: Sequence[int]) -> Question:
    """Draw the first of the waiting tasks that the scene can bear; later ones wait no longer than they must."""
    for task in tasks:
        if (found := draw_question(scene, task, rng, taken)) is not None:
            return found
    tasks.extend(_TASK_CYCLE)
    return _first_possible(scene, tasks, rng, taken)


def make_items(scenes: Sequence[Scene], questions_per_video: int, rng: np.random.Generator, source: str) -> list[Item]:
    """Put questions to scenes: different cards in each, tasks and letters balanced; ValueError for too many."""
    if not 1 <= questions_per_video <= MAX_QUESTIONS:
        raise ValueError(f"needle.questions_per_video is {questions_per_video}; set it between 1 and {MAX_QUESTIONS}")
    letters: dict[bool, list[str]] = {False: [], True: []}  # a deck each for plain and temporal questions
    waiting: list[str] = []
    items = []
    for scene in scenes:
        taken: list[int] = []
        for number in range(questions_per_video):
            if len(waiting) < len(_TASK_CYCLE):
                waiting.extend(_TASK_CYCLE)
            asked = _first_possible(scene, waiting, rng, taken)
            waiting.remove(asked.task)
            taken.append(asked.card)
            deck = letters[asked.task != "none"]
            if not deck:
                deck.extend(str(letter) for letter in rng.permutation(list(LETTERS[:OPTIONS])))
            letter = deck.pop()
            offered, evidence = options(scene, asked, letter, rng), (scene.evidence(asked.card),)
            about = (asked.task, scene.frames / FRAME_RATE, evidence, source)
            items.append(Item(f"{scene.id}_q{number}", scene.id, asked.text, offered, letter, *about))
    return items


def make_set(seed: int, split: str, videos: int, questions_per_video: int) -> tuple[list[Scene], list[Item]]:
    """Return the scenes and the questions of a split; ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"needle split {split!r} is unknown; known are {', '.join(SPLITS)}")
    scenes = [plan(seed, split, index) for index in range(videos)]
    source = "needle_shifted" if split == "shifted" else "needle"
    return scenes, make_items(scenes, questions_per_video, generator(seed, f"questions of {split}"), source)
