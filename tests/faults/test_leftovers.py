"""Temporary files of killed writers go when their folder is next written to; those of living ones and others stay."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from viarl import files
from viarl.files import atomic_path, temporary_beside, write_text

WORKFLOW = Path(files.__file__).parents[1]


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from viarl.files import atomic_path
with atomic_path(Path({str(tmp_path)!r}) / "eval.json") as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(WORKFLOW)})
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp")
    folder = left.with_name(left.name.replace("eval.json", "model"))
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    write_text(tmp_path / "other.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_other_writers_keep_theirs(tmp_path: Path) -> None:
    kept = [f".eval.json.{socket.gethostname()}.{os.getppid()}.tmp", ".eval.json.another-machine.1.tmp", ".own.tmp"]
    for name in kept:
        (tmp_path / name).write_text("half")
    with atomic_path(tmp_path / "eval.json") as temporary:
        assert temporary == temporary_beside(tmp_path / "eval.json")
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "eval.json"])
