"""What goes wrong in a run: signals, a full disk, cut and deleted files, an MLflow server that is away."""

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil

from tests.chaos.checkout import Checkout

MLFLOW = [sys.executable, "-m", "mlflow"]


def one_stage(run: Checkout, chance: random.Random) -> tuple[str, psutil.Process] | None:
    """Return one of the running stages, waiting for one up to 20 s."""
    for _ in range(100):
        if running := run.stages():
            return chance.choice(sorted(running.items()))
        time.sleep(0.2)
    return None


def main_process(number: signal.Signals, group: bool = False) -> "Fault":
    """A signal to the main snakemake, or to it and all its jobs."""

    def fault(run: Checkout, _: random.Random) -> str:
        assert run.main is not None
        (os.killpg if group else os.kill)(run.main.pid, number)
        return ""

    return fault


def stage(*signals: tuple[signal.Signals, float]) -> "Fault":
    """Signals to one running stage, each followed by a pause in seconds."""

    def fault(run: Checkout, chance: random.Random) -> str:
        if (found := one_stage(run, chance)) is None:
            return "no stage ran"
        for number, pause in signals:
            try:
                found[1].send_signal(number)
            except psutil.NoSuchProcess:
                return f"{found[0]} had just ended"
            time.sleep(pause)
        return f"it hit {found[0]}"

    return fault


def victim(run: Checkout, chance: random.Random) -> Path | None:
    """Return one result: first a folder is drawn, then a file, so that the many videos do not outweigh the rest."""
    files = run.results()
    if not files:
        return None
    parent = chance.choice(sorted({path.parent for path in files}))
    return chance.choice([path for path in files if path.parent == parent])


def truncate(run: Checkout, chance: random.Random) -> str:
    """Cut a result to half of its bytes."""
    if (path := victim(run, chance)) is None:
        return "nothing was there"
    os.truncate(path, path.stat().st_size // 2)
    return f"it cut {path.relative_to(run.folder)}"


def delete(run: Checkout, chance: random.Random) -> str:
    """Delete a result."""
    if (path := victim(run, chance)) is None:
        return "nothing was there"
    path.unlink()
    return f"it deleted {path.relative_to(run.folder)}"


def fill_disk(run: Checkout, _: random.Random) -> str:
    """Fill the file system of the checkout, also the room that is freed, until the run has ended; then free it."""
    assert run.main is not None
    filler = run.folder / "filler"
    with filler.open("wb", buffering=0) as handle:
        while run.main.poll() is None:
            write_until_full(handle)
            time.sleep(0.2)
    filler.unlink()
    return "disk full until the run ended"


def write_until_full(handle: IO[bytes]) -> None:
    """Write zeros until nothing more fits, to the last bytes."""
    for size in (1 << 20, 1 << 12, 1):
        try:
            while handle.write(bytes(size)):
                pass
        except OSError:
            continue


def kill_server(run: Checkout, _: random.Random) -> str:
    """Kill the MLflow server."""
    server = run.sessions[0]
    os.killpg(server, signal.SIGKILL)
    return ""


def nothing(run: Checkout, _: random.Random) -> str:
    """No fault at the moment: it was there from the start, or it comes after the end."""
    return ""


Fault = Callable[[Checkout, random.Random], str]
FAULTS: dict[str, Fault] = {
    "kill_main": main_process(signal.SIGKILL),  # its jobs go on as orphans
    "kill_group": main_process(signal.SIGKILL, group=True),
    "terminate_main": main_process(signal.SIGTERM),
    "interrupt_main": main_process(signal.SIGINT),
    "interrupt_group": main_process(signal.SIGINT, group=True),  # Ctrl-C in a terminal
    "kill_stage": stage((signal.SIGKILL, 0)),
    "terminate_stage": stage((signal.SIGTERM, 0)),
    "pause_stage": stage((signal.SIGSTOP, 5), (signal.SIGCONT, 0)),
    "disk_full": fill_disk,
    "truncate": truncate,
    "truncate_after": nothing,  # a result is cut after the run has ended
    "delete": delete,
    "mlflow_dead": nothing,  # an address where nobody listens
    "mlflow_killed": kill_server,
}


def tracked_by(run: Checkout, port: int) -> None:
    """Let the run report to an MLflow server at this port."""
    overlay = run.folder / "tracking.yaml"
    overlay.write_text(f"tracking: {{uri: 'http://127.0.0.1:{port}'}}\n")
    run.overlays.append(overlay.name)


def start_server(run: Checkout, port: int) -> None:
    """Start an MLflow server whose store lies in the checkout, and wait until it answers."""
    store = f"sqlite:///{run.folder / 'server.db'}"
    run.spawn([*MLFLOW, "server", "--backend-store-uri", store, "--workers", "1", "--port", str(port)])
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"no MLflow server came up at port {port}; see {run.log}")


def free_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
