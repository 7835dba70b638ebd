"""Hash the files of a model's folder that the configuration names: by their content they are known, not by their names.

What a stage makes has such a file beside it (viarl.models.save).
"""

from dataclasses import dataclass, field
from pathlib import Path

from viarl.command import run
from viarl.files import KnownHashes, write_json
from viarl.models.files import checkpoint_files
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run


@dataclass(frozen=True)
class Settings:
    """A folder of the user's own -> size and SHA-256 of each of its files that a model is read from."""

    folder: Path
    output: Path
    known_hashes: Path  # so that each file is read once
    role: str
    model: str
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Hash and write; OSError naming a file that cannot be read."""
    with start_run(settings.tracking, {"role": settings.role, "model": settings.model}):
        files = checkpoint_files(settings.folder)
        with KnownHashes(settings.known_hashes) as known:
            hashes = {path.name: {"size": path.stat().st_size, "sha256": known.sha256(path)} for path in files}
        write_json(settings.output, hashes)
    print(f"{settings.role}: {len(files)} files of {settings.folder}", flush=True)


if __name__ == "__main__":
    run(Settings, main)
