"""build_stand_ins: build and pretrain the tiny selector, answerer or CLIP that a run without downloads starts from."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.stand_ins.settings import StandInSettings
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run

ROLES = ("selector", "answerer", "clip")  # modules of viarl.stand_ins; each needs other large libraries


@dataclass(frozen=True)
class Settings:
    """`role` is selector, answerer or clip; `model` is the weights file, whose folder becomes the checkpoint."""

    role: str
    stand_in: StandInSettings
    model: Path
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Build the role's stand-in, its model card beside the weights; ValueError for an unknown role."""
    role = settings.role
    with start_run(settings.tracking, params={"role": role, "stand_in": settings.stand_in}) as record:
        if role not in ROLES:
            raise ValueError(f"there is no stand-in for the role {role!r}; the roles are selector, answerer and clip")
        build = importlib.import_module(f"viarl.stand_ins.{role}").build
        measured: dict[str, float] = build(settings.stand_in, settings.model.parent)
        record.log_metrics(measured)
        record.log_artifact(settings.model.parent / "card.md")
    print(f"{settings.role} stand-in: " + ", ".join(f"{name} {value:.3f}" for name, value in measured.items()))


if __name__ == "__main__":
    run(Settings, main)
