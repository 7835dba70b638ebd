"""What tests of downloads share: all data sets' fixtures on a hub on loopback, and the stage that fetches from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import layouts
from tests.hub_server import HubServer
from viarl.datasets.hub import client, store
from viarl.datasets.hub.dataset import Choice
from viarl.datasets.hub.sets import SETS
from viarl.datasets.hub.settings import HubRuntime
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


HUB = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text(encoding="utf-8"))["hub"]


def settings_of(root: Path, name: str, hub: HubRuntime | None = None, **changes: Any) -> Settings:
    """Return the settings of a set's job with keys of the section `hub` changed; `hub` is what changes no result."""
    folder = root / "sets" / name
    files = [folder / file for file in ("items.jsonl", "videos.jsonl", "manifest.json", "data_card.json")]
    taken = SETS[name].taken(HUB | {"validation_share": 0.3} | changes)
    choice = Choice(**taken | {"drawings": tuple(taken["drawings"])})
    return Settings(*files, root / "hub", name, choice, hub or HubRuntime(max_missing_share=0.4))


def fetch(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Fetch a set and return its card."""
    settings = settings_of(root, name, **changes)
    main(settings)
    card: dict[str, Any] = read_json(settings.card)
    return card


def outputs(root: Path, name: str) -> dict[str, bytes]:
    """Return the bytes of a set's files."""
    return {path.name: path.read_bytes() for path in (root / "sets" / name).iterdir() if path.is_file()}
