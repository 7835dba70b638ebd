"""Write data_card.json: what was found, kept and dropped, by reason, of each set that is used, and by the filter."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viarl.command import run
from viarl.files import read_json, write_json
from viarl.items import read_items
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run


@dataclass(frozen=True)
class Settings:
    """Questions of all sets, cards of those from a hub, the filter's report -> one card; a set's folder names it."""

    items: tuple[Path, ...]
    cards: tuple[Path, ...]
    filter: Path
    output: Path
    tracking: Tracking = field(default_factory=Tracking)


def main(settings: Settings) -> None:
    """Merge; ValueError for a file that is none of ours."""
    with start_run(settings.tracking, {}) as record:
        cards = {path.parent.name: read_json(path) for path in settings.cards}
        sets: dict[str, dict[str, Any]] = {}
        for path in settings.items:
            name, count = path.parent.name, len(read_items(path))
            sets[name] = cards.get(name, {"set": name, "found": count, "kept": count, "dropped": {}})
        write_json(settings.output, {"sets": dict(sorted(sets.items())), "filter": read_json(settings.filter)})
        record.log_metrics({f"kept/{name}": float(card["kept"]) for name, card in sets.items()})
        record.log_artifact(settings.output)
    kept = (f"{name}: kept {card['kept']} of {card['found']}" for name, card in sorted(sets.items()))
    print("; ".join(kept), flush=True)


if __name__ == "__main__":
    run(Settings, main)
