"""A real MLflow server, killed while it is pushed to: everything arrives in the end, and once."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrored import CONFIG, REPOSITORY, RUNS, fill, history, mirror, settings, train
from viarl.stages import sync_mlflow
from viarl.tracking.mlflow import BATCH


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
        for _ in range(1200):
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


@pytest.mark.e2e
def test_a_server_killed_between_batches(server: Server, tmp_path: Path, monkeypatch, capsys) -> None:
    from mlflow import MlflowClient

    known = settings(tmp_path / "results", uri=f"http://127.0.0.1:{server.port}")
    known.root.mkdir()
    steps = 700  # 2,100 points are three batches
    fill(known.root, steps)
    log_batch, sent = MlflowClient.log_batch, []

    def counted(*arguments: Any, **options: Any) -> None:
        log_batch(*arguments, **options)
        if "metrics" in options:
            sent.append(len(options["metrics"]))
            if sent.count(BATCH["metrics"]) == 1:  # of three batches of a training
                server.kill()

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    with pytest.raises(ValueError, match="they are kept in"):
        sync_mlflow.main(sync_mlflow.Settings(known))
    monkeypatch.undo()
    train(known.root, "", steps=steps)  # pushes nothing; a stage that is ready goes on without the server
    server.start()
    # two stages end at the same moment, and each pushes all that waits
    program = (
        "import json, sys; from viarl.tracking.start import start_run; from viarl.command import parse;"
        " from viarl.stages.sync_mlflow import Settings;"
        " run = start_run(parse(Settings, []).tracking); run.__enter__(); run.__exit__(None, None, None)"
    )
    both = []
    for name in ("a", "b"):
        common = {"root": str(known.root), "uri": known.uri, "config": known.config, "configuration": CONFIG}
        runtime = {"tracking": common | {"stage": "extra", "wildcards": {"set": name}}}
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow"), "VIARL_RUNTIME": json.dumps(runtime)}
        both.append(subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE))
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 and not err, err
    sync_mlflow.main(sync_mlflow.Settings(known))
    assert "0 of " in capsys.readouterr().err.splitlines()[-1]

    parents, children = mirror(known)
    assert set(parents) == set(RUNS.values())
    trained = [child for child in children if child.data.tags["stage"] == "train_selector"]
    assert sorted(child.data.tags["run"] for child in trained) == sorted(["main", "main", *list(RUNS)[1:]])
    for child in trained:
        for key in ("reward/total", "kl", "seconds/rollout"):
            expected = 4 if child.data.tags["ablation"] != "main" else steps
            assert [step for step, _ in history(known, child, key)] == list(range(1, expected + 1))
    with sqlite3.connect(tmp_path / "server.db") as store:  # what the API might fold together
        twice = "select run_uuid, key, step from metrics group by run_uuid, key, step having count(*) > 1"
        assert store.execute(twice).fetchall() == []
