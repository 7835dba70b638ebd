"""What the builders of stand-ins are told in tests; `effort` as little as shows that they work."""

from viarl.stand_ins.settings import StandInSettings

CANDIDATES, SELECTED = 32, 4
TOLD = StandInSettings(
    seed=3,
    effort=0.01,
    candidates=CANDIDATES,
    selected=SELECTED,
    selector_pixels=28,
    answerer_pixels=56,
    number_pixels=13,
    selector_prompt="short",
    answerer_prompt="short",
)
