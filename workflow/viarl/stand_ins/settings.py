"""What the three stand-ins' builders are told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StandInSettings:
    """Settings of the configuration that shape a stand-in; what does not concern its role is left at 0 or "".

    Args:
        seed: of weights, pretraining videos and batches.
        effort: share of the full pretraining (videos and steps), above 0, at most 1; below 1 only for tests, as such
            a stand-in learns next to nothing.
        candidates, selected: frames offered to the selector, and handed to the answerer.
        selector_pixels, answerer_pixels: longest side of their frames, px.
        number_pixels: height of the red frame numbers, px.
        selector_prompt, answerer_prompt: names of their prompt texts.
    """

    seed: int
    effort: float
    candidates: int
    selected: int = 0
    selector_pixels: int = 0
    answerer_pixels: int = 0
    number_pixels: int = 0
    selector_prompt: str = ""
    answerer_prompt: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.effort <= 1:
            raise ValueError(f"stand_ins.effort is {self.effort}; set it above 0, at most 1")

    def scaled(self, count: int, least: int = 2) -> int:
        """Return the number of videos or steps that remain of `count` at this effort."""
        return max(least, round(count * self.effort))
