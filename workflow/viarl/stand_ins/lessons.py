"""Questions on pretraining films, and the batches from which a selector stand-in's language model learns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from viarl.datasets.needle import TEMPORAL_TASKS, question, repeated_cards
from viarl.models.encode import Prompt
from viarl.models.vlm import Vlm
from viarl.selection.prompt import selector_messages
from viarl.stand_ins.corpus import thought
from viarl.stand_ins.films import Films


@dataclass(frozen=True)
class Lesson:
    """A question on film number `video`, the thought that precedes the list, and where the card is in view.

    evidence: the candidate frames that show the card; context: those of other cards that the question depends on.
    """

    video: int
    task: str
    question: str
    thought: str
    evidence: tuple[int, ...]
    context: tuple[int, ...] = ()


def all_lessons(films: Films) -> list[Lesson]:
    """Return every well-posed question on the films."""
    lessons = []
    for video, scene in enumerate(films.scenes):
        marker = next(place for place, card in enumerate(scene.cards) if card.colour == scene.marker)
        plain = [("none", card) for card, shown in enumerate(scene.cards) if shown.colour != scene.repeated]
        for task, card in [*plain, *((task, None) for task in TEMPORAL_TASKS)]:
            try:
                asked = question(scene, task, card)
            except ValueError:  # this scene's cards give the task no single answer
                continue
            rivals = [place for place in repeated_cards(scene) if place != asked.card]
            needed = [] if task == "none" else [*rivals, marker]
            context = tuple(int(frame) for place in needed for frame in films.evidence(video, place))
            evidence = tuple(int(frame) for frame in films.evidence(video, asked.card))
            words = thought(scene.cards[asked.card].colour, task, scene.marker)
            lessons.append(Lesson(video, task, asked.text, words, evidence, context))
    return lessons


def draw_lessons(lessons: Sequence[Lesson], rng: np.random.Generator, temporal_share: float) -> Iterator[Lesson]:
    """Yield random lessons without end, `temporal_share` of them temporal, their tasks equally often."""
    by_task = {task: [lesson for lesson in lessons if lesson.task == task] for task in ("none", *TEMPORAL_TASKS)}
    temporal = [task for task in TEMPORAL_TASKS if by_task[task]]  # a handful of films may lack a task
    while True:
        task = str(rng.choice(temporal)) if rng.random() < temporal_share else "none"
        yield by_task[task][int(rng.integers(len(by_task[task])))]


def some_frames(lesson: Lesson, shown: int, candidates: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `shown` candidate frames, ascending: evidence, context as far as there is room, and random others.

    A frame of the evidence or context that found no room is not shown at all.
    """
    must = [*lesson.evidence, *lesson.context][:shown]
    others = np.setdiff1d(np.arange(candidates), [*lesson.evidence, *lesson.context])
    chosen = rng.choice(others, shown - len(must), replace=False)
    return np.sort(np.concatenate([must, chosen]).astype(np.int64))


class Classroom:
    """Batches of lessons on cached vision features, (V, N, D): one token a candidate frame."""

    def __init__(self, vlm: Vlm, features: torch.Tensor, template: str, selected: int) -> None:
        self.vlm, self.features, self.template, self.selected = vlm, features, template, selected
        self.candidates = features.shape[1]
        self._merge = vlm.processor.video_processor.merge_size
        self._prompts: dict[tuple[str, int], Prompt] = {}

    def prompt(self, lesson: Lesson, shown: np.ndarray | None = None) -> Prompt:
        """Return the selection prompt of a lesson, with all candidate frames or only those `shown`."""
        features = self.features[lesson.video]
        if shown is not None:
            features = features[torch.from_numpy(shown)]
        key = (lesson.question, len(features))
        if key not in self._prompts:
            messages = selector_messages(self.template, lesson.question, self.candidates, self.selected)
            grid = torch.tensor([len(features), self._merge, self._merge])
            self._prompts[key] = self.vlm.prompt(messages, grid=grid)
        return replace(self._prompts[key], features=features)

    def opening(self, lesson: Lesson) -> str:
        """Return a completion up to its first number."""
        return f"<think>{lesson.thought}</think><index>["

    def completion(self, lesson: Lesson, first: int) -> str:
        """Return a whole completion that names `selected` consecutive frames from `first`, or the last ones."""
        first = min(first, self.candidates - self.selected)
        numbers = ", ".join(str(first + step) for step in range(self.selected))
        return f"{self.opening(lesson)}{numbers}]</index>{self.vlm.tokenizer.eos_token}"

    def loss(
        self, prompts: Sequence[Prompt], lessons: Sequence[Lesson], texts: Sequence[str], first_number_weight: float
    ) -> tuple[torch.Tensor, float]:
        """Return the mean cross-entropy of the completions' tokens, and that of the first numbers alone.

        The first number is the one token that needs the video; `first_number_weight` is what it counts.
        """
        losses, mask = self.vlm.log_probs(prompts, texts)
        losses, weights = -losses, mask.float()  # (B, T)
        heads = self.vlm.tokenizer([self.opening(lesson) for lesson in lessons], add_special_tokens=False)["input_ids"]
        places = torch.arange(len(heads)), torch.tensor([len(head) for head in heads])
        weights[places] = first_number_weight
        return (losses * weights).sum() / weights.sum(), float(losses[places].mean().detach())
