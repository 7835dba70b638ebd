"""Measure what the README claims about speed: `make bench` writes results/bench.json.

Each part compares our path with the usual one within the same run, so that its ratios hold on a noisy machine.
"""

import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import evaluation, frame_cache, rl_step
from viarl.command import run
from viarl.files import read_json, write_json

PARTS = {"rl_step": rl_step.measure, "frame_cache": frame_cache.measure, "evaluation": evaluation.measure}


@dataclass(frozen=True)
class Settings:
    """Where the figures go, and which parts to measure (all by default; others keep their last figures)."""

    output: Path
    parts: tuple[str, ...] = tuple(PARTS)


def main(settings: Settings) -> None:
    """Run each part in a fresh temporary folder and write bench.json after each, so that a kill loses one part."""
    if unknown := set(settings.parts) - set(PARTS):
        raise ValueError(f"parts: {sorted(unknown)} are unknown; choose from {sorted(PARTS)}")
    results = read_json(settings.output) if settings.output.exists() else {}
    results["machine"] = {"processor": platform.machine(), "python": platform.python_version()}
    for part in settings.parts:
        print(f"measuring {part} …", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results[part] = PARTS[part](Path(folder))
        write_json(settings.output, results)
        print(f"{part}: {results[part]}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
