"""What the three stand-ins' builders are told."""

from dataclasses import replace
from typing import Any, TypeVar

from viarl.sections import Rate, Seed, key, section

R = TypeVar("R", bound=Any)


@section
class StandIns:
    """The tiny models that make the default run without a download."""

    seed: Seed = key("of their weights and of their own pretraining videos")
    effort: Rate = key("share of the full pretraining; below 1 for tests only, as next to nothing is learned")


@section
class StandInSettings(StandIns):
    """What shapes one stand-in; what does not concern its role is left at 0 or ""."""

    candidates: int = key("frames offered to the selector")
    selected: int = key("frames handed to the answerer", default=0)
    selector_pixels: int = key("longest side of the selector's frames", default=0, unit="px")
    answerer_pixels: int = key("longest side of the answerer's frames", default=0, unit="px")
    number_pixels: int = key("height of the red frame numbers", default=0, unit="px")
    selector_prompt: str = key("name of the selector's prompt text", default="")
    answerer_prompt: str = key("name of the answerer's prompt text", default="")

    def scaled(self, count: int, least: int = 2) -> int:
        """Return the number of videos or steps that remain of `count` at this effort."""
        return max(least, round(count * self.effort))

    def shrunk(self, recipe: R, *names: str, least: int = 2) -> R:
        """Return a recipe with these counts of it `scaled`."""
        return replace(recipe, **{name: self.scaled(getattr(recipe, name), least) for name in names})
