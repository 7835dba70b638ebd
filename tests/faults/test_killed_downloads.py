"""Downloads that are killed at any moment end in the same bytes as one that was not."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.hub_world import fetch, hub_of_all_sets, outputs, published_sets
from tests.unit.processes import end_of, start_child
from viarl import files

pytestmark = pytest.mark.e2e
__all__ = ["hub_of_all_sets", "published_sets"]  # fixtures
LESS = {"mlvu": {"limit": 6}}  # of many videos, each a file


@pytest.mark.parametrize("name", ["videomme_subtitles", "llava_video_train", "lvbench", "mlvu"])
def test_killed_ten_times_it_ends_in_the_same_bytes(hub: HubServer, tmp_path: Path, name: str) -> None:
    """kill -9 at random moments, connections that break at random bytes; then an undisturbed end."""
    fetch(tmp_path / "calm", name, **LESS.get(name, {}))
    generator = random.Random(name)
    hub.chunk, hub.chunk_s = 512, 0.001
    hub.cut = lambda size: generator.randrange(1, size + 1) if generator.random() < 0.2 else None
    began = time.monotonic()
    assert end_of(start_child(lambda: fetch(tmp_path / "measured", name, **LESS.get(name, {})))) == 0
    whole_s = time.monotonic() - began
    killed = 0
    while killed < 10:
        child = start_child(lambda: fetch(tmp_path / "killed", name, **LESS.get(name, {})))
        time.sleep(generator.uniform(0.02, whole_s))
        os.kill(child, signal.SIGKILL)
        if end_of(child) == -signal.SIGKILL:
            killed += 1
        elif generator.random() < 0.5:  # it was done: once more from the store, or from nothing
            shutil.rmtree(tmp_path / "killed")
    hub.chunk, hub.chunk_s, hub.cut = 16384, 0, lambda size: None
    check_same_end(tmp_path, name)


@pytest.mark.parametrize("name", ["videomme_subtitles", "llava_video_train"])
@pytest.mark.parametrize("before", [True, False])
def test_killed_around_any_rename_it_ends_the_same(hub: HubServer, tmp_path: Path, name: str, before: bool) -> None:
    """Every file gets its name by a rename, so between two of them nothing happens that counts."""
    fetch(tmp_path / "calm", name, **LESS.get(name, {}))
    real = Path.replace

    def die_at(number: int) -> None:
        calls = iter(range(number, -1, -1))

        def replace_(self: Path, target: Path) -> Path:
            last = next(calls) == 0
            if last and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(self, target)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Path.replace = replace_  # type: ignore[method-assign]
        fetch(tmp_path / "killed", name, **LESS.get(name, {}))

    for number in range(100):
        if end_of(start_child(lambda number=number: die_at(number))) == 0:  # type: ignore[misc]
            break
        check_same_end(tmp_path, name)
        shutil.rmtree(tmp_path / "killed")
    assert 10 < number < 99


def check_same_end(root: Path, name: str) -> None:
    files._sweep.cache_clear()  # as in a process of its own
    fetch(root / "killed", name, **LESS.get(name, {}))
    assert outputs(root / "killed", name) == outputs(root / "calm", name)
    endings = (".part", ".tmp", ".zip", ".gz")
    assert not [path for path in (root / "killed").rglob("*") if path.suffix in endings]
