"""What tests of downloads share: all data sets' fixtures on a hub on loopback, and the stage that fetches from it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import layouts
from tests.hub_server import HubServer
from viarl.datasets.hub import client, store
from viarl.datasets.settings import HubRuntime
from viarl.files import read_json
from viarl.stages.fetch_dataset import Settings, main


@pytest.fixture(scope="module", name="published")
def published_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories of all data sets."""
    root = tmp_path_factory.mktemp("published")
    films = layouts.films(root / "films")
    for name in layouts.NAMES:
        layouts.write(name, root / "repositories", films)
    return root / "repositories"


@pytest.fixture(name="hub")
def hub_of_all_sets(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(client, "WAIT_S", 1e-5)  # times 3 to the 9th at most
    monkeypatch.setattr(store, "WAIT_S", 0.05)
    with HubServer() as server:
        server.add_folders(published)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def settings_of(root: Path, name: str, **changes: Any) -> Settings:
    folder = root / "sets" / name
    known = Settings(
        folder / "items.jsonl",
        folder / "videos.jsonl",
        folder / "manifest.json",
        folder / "data_card.json",
        root / "hub",
        name,
        validation_share=0.3,
        hub=HubRuntime(max_missing_share=0.4),
    )
    return replace(known, **changes)


def fetch(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Fetch a set and return its card."""
    settings = settings_of(root, name, **changes)
    main(settings)
    card: dict[str, Any] = read_json(settings.card)
    return card


def outputs(root: Path, name: str) -> dict[str, bytes]:
    """Return the bytes of a set's files."""
    return {path.name: path.read_bytes() for path in (root / "sets" / name).iterdir() if path.is_file()}
