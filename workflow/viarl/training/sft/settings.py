"""Settings of supervised tuning: of the answerer, and of a selector that starts from labels."""

from typing import ClassVar, Literal

from viarl.answer.settings import AnswererSettings
from viarl.models.settings import Lora, ModelSettings
from viarl.sections import Count, Share, Whole, key, section
from viarl.training.settings import Optimiser


@section
class Supervised(Optimiser):
    """Hyperparameters of a supervised tuning."""

    where: ClassVar[str] = ""  # in the configuration

    batch_size: Count = key("questions in a step", source="scripts: 8")
    micro_batch_size: Whole = key("questions in one forward and backward pass, 0 = all", default=0, counts=False)

    @property
    def vision(self) -> bool:
        """Whether the vision tower is trained."""
        return getattr(self, "train_vision", False)

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """Return (questions in a forward pass, passes in a step) of each of some processes; ValueError if uneven."""
        size = self.micro_batch_size or self.batch_size // processes
        if size < 1 or self.batch_size % (size * processes):
            raise ValueError(
                f"{self.where}.batch_size {self.batch_size} is no multiple of {processes} processes x "
                f"micro_batch_size {size}; change one of them"
            )
        return size, self.batch_size // (size * processes)


@section
class Start(Supervised):
    """How the selector is tuned on labelled frames before cycle 1; the vision tower is frozen."""

    where: ClassVar[str] = "selector.start"

    labels: Literal["none", "clip_topk", "oracle"] = key(
        "with none, cycle 0 has the untouched model, and the other keys here do nothing",
        default="none",
        source="paper: none",
    )
    noise: Share = key("share of the questions that get K random frames for a label", default=0.0)


@section
class Tuning(Supervised):
    """How the answerer is tuned on the selector's frames."""

    where: ClassVar[str] = "answerer.tuning"

    steps: Whole = key("optimiser steps in each cycle; 0: the answerer stays as it is", source="ours")
    train_vision: bool = key("train the vision tower too", default=False, source="paper: true")
    target: Literal["letter", "text_letter", "restated_text_letter"] = key(
        "the reply that it is tuned towards; restated… keeps its own first words",
        default="letter",
        source="paper: letter",
    )


@section
class InitialisedSelector(ModelSettings):
    """How the selector is asked, how it is tuned on labels, and whether adapters are."""

    start: Start
    lora: Lora = Lora()


@section
class TunedAnswerer(AnswererSettings):
    """How the answerer is asked, and how it is tuned."""

    tuning: Tuning
    lora: Lora = Lora()
