"""An MLflow server that is killed while a stage logs: the stage goes on, and the next push brings what it missed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from viarl import tracking
from viarl.tracking import Tracking

pytestmark = pytest.mark.e2e


class Server:
    """A real MLflow server on the loopback interface, its store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = f"sqlite:///{self.folder / 'server.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """Kill it with all its workers, if it runs."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_nothing_is_lost_or_doubled(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    uri = f"http://127.0.0.1:{server.port}"
    settings = Tracking(root=tmp_path / "results", uri=uri, stage="train_selector", push_every_s=0.0)
    with tracking.start(settings, {"lr": 0.1}) as run:
        for step in range(6):
            run.log_metrics({"loss": float(step)}, step=step)
            if step == 2:
                server.kill()
    assert "nothing was pushed to MLflow" in capfd.readouterr().err
    server.start()
    assert tracking.push(settings, tracking.records(settings.root)) == 1
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name(settings.experiment).experiment_id])
    points = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(step, float(step)) for step in range(6)]
    assert found.info.status == "FINISHED"
