"""A disk that is full: the job fails and says so, nothing half-written lies where a rule would take it for whole."""

import re
from pathlib import Path

import pytest

from tests.faults.conftest import World
from viarl.files import write_json
from viarl.models.save import save_model
from viarl.models.vlm import Vlm

pytestmark = pytest.mark.e2e

FULL = "(?i)no space"


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for some bytes, in whole blocks, and return the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as handle:
        try:
            while handle.write(bytes(4096)):
                pass
        except OSError:
            pass
        handle.truncate(max(0, handle.tell() - leave))
    return filler


def test_frames_go_on_once_there_is_room(world: World, small_disk: Path) -> None:
    output = "results/smoke/data/frames/needle/0.json"
    manifest = small_disk / "frames" / "0.json"
    filler = fill(small_disk, 64 * 1024)
    failed = world.run(output, "--manifest", str(manifest))
    assert failed.status == 1 and re.search(FULL, failed.last)
    assert not manifest.exists()
    whole = [path for path in small_disk.rglob("*") if path.is_file() and path != filler]
    assert all(path.suffix == ".safetensors" for path in whole)  # videos that were finished; no temporary file
    filler.unlink()
    again = world.run(output, "--manifest", str(manifest))
    assert again.status == 0, again.text
    assert manifest.read_bytes() == (world.root / output).read_bytes()


def test_no_half_model_is_left(world: World, small_disk: Path) -> None:
    source = world.root / "results/smoke/data/stand_ins/answerer"
    vlm = Vlm.load(source, device="cpu")
    fill(small_disk, 64 * 1024)
    with pytest.raises(Exception, match=FULL):
        save_model(vlm.model, vlm.processor, small_disk / "answerer")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_an_old_file_survives_a_failed_write(small_disk: Path) -> None:
    path = small_disk / "eval.json"
    write_json(path, {"n": 1})
    fill(small_disk, 0)
    with pytest.raises(OSError, match=FULL):
        write_json(path, {"n": list(range(10000))})
    assert path.read_text() == '{\n  "n": 1\n}\n'
    assert sorted(entry.name for entry in small_disk.iterdir()) == ["eval.json", "filler"]
