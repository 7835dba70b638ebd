"""The mirror in MLflow: one parent for each ablation and seed, everything once, whatever was killed in between."""

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
import yaml

from viarl import mlflow_push, tracking
from viarl.stages import sync_mlflow
from viarl.tracking import Tracking, git_tags

REPOSITORY = Path(__file__).parents[2]
CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text()) | {
    "ablations": {
        "no_length": {"hypothesis": "Length pays nothing.", "overlay": {"reward": {"length": 0.0}}},
        "no_answer": {"hypothesis": "Without it nothing is learned.", "overlay": {"reward": {"answer": 0.0}}},
    }
}
RUNS = {
    "": "main seed 0",
    "seed1/": "main seed 1",
    "ablations/no_length/": "no_length seed 0",
    "ablations/no_length/seed1/": "no_length seed 1",
    "ablations/no_answer/": "no_answer seed 0",
    "ablations/no_answer/seed1/": "no_answer seed 1",
}


def settings(root: Path, stage: str = "", run: str = "", config: dict[str, Any] = CONFIG, **more: Any) -> Tracking:
    """Settings of a stage as a workflow hands them over; short stages leave their push to the end."""
    known = {"defer_below_s": 1e9, "tags": {"git_commit": "c0ffee"}, "code": "beef"} | more
    cycle = known["wildcards"].get("c") if "wildcards" in known else None
    known["cycle"] = None if cycle is None else int(cycle)
    fingerprint = tracking.sha256_json(config)[:16]
    return Tracking(root=root, stage=stage, run=run, config=fingerprint, configuration=config, **known)


def train(root: Path, run: str, config: dict[str, Any] = CONFIG, steps: int = 4, **more: Any) -> None:
    """Write the record of a training of cycle 1."""
    items = root / "items.jsonl"
    items.write_text("{}\n")
    with tracking.start(
        settings(root, "train_selector", run, config, wildcards={"c": "1"}, **more), {"lr": 0.1}, {"items": items}
    ) as recorded:
        for step in range(1, steps + 1):
            recorded.log_metrics({"reward/total": step / 7, "kl": 0.01 * step, "seconds/rollout": 2.0}, step)


def summarise(root: Path, run: str, cycle: int, accuracy: float, config: dict[str, Any] = CONFIG) -> None:
    """Write the record and the file of a cycle's evaluation."""
    path = root / run / f"cycle{cycle}" / "eval.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"accuracy": accuracy}))
    with tracking.start(
        settings(root, "summarise_evaluation", run, config, wildcards={"c": str(cycle)}), {"bootstrap": 10}
    ) as recorded:
        metrics = {}
        for name, value in (("learned/accuracy_", accuracy), ("uniform/accuracy_", 0.3), ("oracle/accuracy_", 0.9)):
            metrics |= {f"needle/{name}{end}": value + by for end, by in (("low", -0.1), ("value", 0), ("high", 0.1))}
        metrics |= {f"needle/learned-uniform/{end}": accuracy - 0.3 for end in ("low", "value", "high")}
        recorded.log_metrics(metrics | {"needle/learned/evidence_recall": 0.5, "needle/learned/valid_rate": 0.9})
        recorded.log_artifact(path)


def fill(root: Path, steps: int = 4) -> None:
    """Write the records of all runs, `steps` of each training but the ablations'; the data are the main run's alone."""
    with tracking.start(settings(root, "make_needle", wildcards={"set": "needle"})) as recorded:
        recorded.log_metrics({"videos": 3})
    for place, run in enumerate(RUNS):
        train(root, run, steps=4 if run.startswith("ablations/") else steps)
        for cycle in range(2):
            summarise(root, run, cycle, 0.4 + 0.1 * cycle + 0.01 * place)


def mirror(known: Tracking) -> tuple[dict[str, Any], list[Any]]:
    """Return the root's parents by name and the other runs; each must hold each point once."""
    from mlflow import MlflowClient

    client = MlflowClient(known.destination)
    (experiment,) = [one for one in client.search_experiments() if one.tags.get("viarl.experiment")]
    found = list(client.search_runs([experiment.experiment_id], max_results=1000))
    for run in found:
        for key in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), (run.info.run_name, key)
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    parents = [run for run in found if run not in children]
    named = {run.info.run_name: run for run in parents}
    assert len(named) == len(parents)
    return named, children


def history(known: Tracking, run: Any, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric in MLflow."""
    from mlflow import MlflowClient

    points = MlflowClient(known.destination).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def view(known: Tracking) -> Any:
    """The saved view of the root's experiment."""
    from mlflow import MlflowClient

    (experiment,) = [one for one in MlflowClient(known.destination).search_experiments() if "viarl.root" in one.tags]
    return json.loads(experiment.tags["mlflow.sharedViewState.ablations"])


def artifacts(known: Tracking, run: Any, folder: str = "") -> list[str]:
    """Paths of a run's artifacts."""
    from mlflow import MlflowClient

    return [entry.path for entry in MlflowClient(known.destination).list_artifacts(run.info.run_id, folder)]


def check_whole(known: Tracking) -> None:
    """Every parent once with its numbers, every child once below it, every point once."""
    parents, children = mirror(known)
    assert set(parents) == set(RUNS.values())
    assert len(children) == len({child.info.run_name for child in children}) == 1 + 3 * len(RUNS)
    for place, name in enumerate(RUNS.values()):
        below = [child for child in children if child.data.tags["mlflow.parentRunId"] == parents[name].info.run_id]
        stages = ["summarise_evaluation cycle 0", "summarise_evaluation cycle 1", "train_selector cycle 1"]
        stages = [*(["make_needle set needle"] if not place else []), *stages]
        assert sorted(child.info.run_name for child in below) == [f"{stage} ({name})" for stage in stages]
        assert history(known, parents[name], "learned/needle") == [
            (0, 0.4 + 0.01 * place),
            (1, 0.4 + 0.1 + 0.01 * place),
        ]
        assert history(known, below_stage(below, "train_selector"), "reward/total") == [
            (step, step / 7) for step in range(1, 5)
        ]
        assert parents[name].info.status == "FINISHED"


def below_stage(children: list[Any], stage: str) -> Any:
    """The only child of a stage."""
    (found,) = [child for child in children if child.data.tags["stage"] == stage]
    return found


@pytest.mark.usefixtures("tables")
def test_runs_stand_side_by_side(tmp_path):
    known = settings(tmp_path)
    fill(tmp_path)
    sync_mlflow.main(sync_mlflow.Settings(known))
    check_whole(known)
    parents, children = mirror(known)
    parent = parents["no_length seed 1"]
    assert parent.data.params["reward.length"] == "0.0"
    assert parents["main seed 1"].data.params["reward.length"] == "0.2"
    assert parent.data.params["seed"] == "1"
    assert not any(key.startswith(("ablations", "tracking", "compare")) for key in parent.data.params)
    tags = {"ablation": "no_length", "seed": "1", "hypothesis": "Length pays nothing.", "git_commit": "c0ffee"}
    tags |= {"results_root": str(tmp_path)}
    assert tags.items() <= parent.data.tags.items()
    names = {name + end for name in ("learned", "uniform", "gain") for end in ("", "_low", "_high")}
    assert set(parent.data.metrics) == {f"{name}/needle" for name in names | {"recall", "valid"}}
    assert parent.data.metrics["learned_low/needle"] == pytest.approx(0.53 - 0.1)
    assert artifacts(known, parent) == ["config.yaml", "cycle0", "cycle1"]
    assert artifacts(known, parent, "cycle1") == ["cycle1/eval.json"]

    child = next(one for one in children if one.info.run_name == "train_selector cycle 1 (no_length seed 1)")
    assert (tags | {"cycle": "1", "code_fingerprint": "beef"}).items() <= child.data.tags.items()
    assert child.data.params == {"lr": "0.1", "data.items": "ca3d163bab055381", "code": "beef"}
    assert artifacts(known, child) == ["config.yaml"]
    shown = [f"metrics.`{name}/needle`" for name in ("learned", "uniform", "gain", "recall", "valid")]
    assert view(known) == {"selectedColumns": [*shown, "tags.`hypothesis`"]}


@pytest.mark.usefixtures("tables")
def test_changed_numbers_take_a_new_parent_and_nothing_of_people_is_lost(tmp_path):
    from mlflow import MlflowClient

    known = settings(tmp_path)
    fill(tmp_path)
    sync_mlflow.main(sync_mlflow.Settings(known))
    before, _ = mirror(known)
    client = MlflowClient(known.destination)
    client.set_tag(before["main seed 0"].info.run_id, "mlflow.note.content", "the one to look at")
    client.set_tag(before["main seed 1"].info.run_id, "mlflow.runName", "my second")
    other = CONFIG | {"frames": CONFIG["frames"] | {"selected": 3}}
    train(tmp_path, "", other)  # another configuration
    summarise(tmp_path, "seed1/", 1, 0.7)  # the same one, other numbers
    summarise(tmp_path, "ablations/no_length/", 2, 0.8)  # one more cycle
    sync_mlflow.main(sync_mlflow.Settings(known))

    after, children = mirror(known)
    assert "my second" in after  # a name that people gave stays
    after["main seed 1"] = after.pop("my second")
    ids = {name: (before[name].info.run_id, after[name].info.run_id) for name in RUNS.values()}
    assert {name for name, (old, new) in ids.items() if old != new} == {"main seed 0", "main seed 1"}
    assert after["main seed 0"].data.params["frames.selected"] == "3"
    assert after["main seed 0"].data.tags["mlflow.note.content"] == "the one to look at"
    assert history(known, after["main seed 1"], "learned/needle") == [(0, pytest.approx(0.41)), (1, 0.7)]
    steps = [step for step, _ in history(known, after["no_length seed 0"], "learned/needle")]
    assert steps == [0, 1, 2]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {run.info.run_id for run in after.values()}
    assert client.get_run(before["main seed 0"].info.run_id).info.lifecycle_stage == "deleted"


def test_two_roots_on_one_server_do_not_mix(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(tmp_path / name, "")
        sync_mlflow.main(sync_mlflow.Settings(settings(tmp_path / name, uri=uri)))
    client = MlflowClient(uri)
    found = {one.name: one.experiment_id for one in client.search_experiments() if one.name != "Default"}
    assert set(found) == {f"viarl {tmp_path / name}" for name in ("a", "b")}
    for number in found.values():
        runs = [run.info.run_name for run in client.search_runs([number])]
        assert sorted(runs) == ["main seed 0", "train_selector cycle 1 (main seed 0)"]


def test_a_root_that_was_moved_has_its_artifacts_with_it(tmp_path):
    """MLflow keeps an experiment's artifacts where they went first, so the moved root has a new one, whole."""
    from mlflow import MlflowClient

    (tmp_path / "a").mkdir()
    summarise(tmp_path / "a", "", 0, 0.4)
    sync_mlflow.main(sync_mlflow.Settings(settings(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    known = settings(tmp_path / "b")
    summarise(tmp_path / "b", "", 1, 0.5)
    for _ in range(2):
        sync_mlflow.main(sync_mlflow.Settings(known))
    assert not (tmp_path / "a").exists()
    client = MlflowClient(known.destination)
    names = {one.name: one.experiment_id for one in client.search_experiments() if one.name != "Default"}
    assert set(names) == {f"viarl {tmp_path / name}" for name in ("a", "b")}
    found = {run.info.run_name: run for run in client.search_runs([names[f"viarl {tmp_path / 'b'}"]])}
    assert set(found) == {"main seed 0", *(f"summarise_evaluation cycle {c} (main seed 0)" for c in (0, 1))}
    for cycle in (0, 1):
        run = found[f"summarise_evaluation cycle {cycle} (main seed 0)"]
        path = tmp_path / "b/mlartifacts" / run.info.run_id / "artifacts/eval.json"
        assert json.loads(path.read_text()) == {"accuracy": 0.4 + 0.1 * cycle}
    assert artifacts(known, found["main seed 0"]) == ["config.yaml", "cycle0", "cycle1"]


@pytest.mark.usefixtures("tables")
def test_a_record_that_is_pushed_late_says_what_it_ran_with(tmp_path):
    known = settings(tmp_path)
    train(tmp_path, "ablations/no_length/", code="first")
    later = {"hypothesis": "Length pays after all.", "overlay": {"reward": {"length": 0.1}}}
    train(tmp_path, "ablations/no_length/", CONFIG | {"ablations": {"no_length": later}}, code="second")
    sync_mlflow.main(sync_mlflow.Settings(known))
    _, children = mirror(known)
    assert len(children) == 2
    for child in children:
        first = child.data.params["code"] == "first"
        hypothesis = CONFIG["ablations"]["no_length"] if first else later
        assert child.data.tags["hypothesis"] == hypothesis["hypothesis"]
        text = (tmp_path / f"mlartifacts/{child.info.run_id}/artifacts/config.yaml").read_text()
        assert yaml.safe_load(text)["reward"]["length"] == (0.0 if first else 0.1)


def test_a_push_that_breaks_off_after_any_call_is_made_up_for(tmp_path, monkeypatch):
    """The worst case: the store did what it was asked, and its answer never came."""
    from mlflow import MlflowClient

    calls = {"left": 0}

    def breaking(call):
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            calls["left"] -= 1
            if calls["left"] == 0:
                raise ConnectionError("cut off")
            return result

        return wrapped

    for name in ("create_experiment", "create_run", "delete_run", "log_artifact", "log_batch", "log_text", "set_tag"):
        monkeypatch.setattr(MlflowClient, name, breaking(getattr(MlflowClient, name)))
    known = settings(tmp_path)

    def push_until_done() -> int:
        for attempt in range(1, 100):
            calls["left"] = attempt
            for path in tracking.records(tmp_path):  # lost with the push that wrote them
                tracking.mark_path(path).unlink(missing_ok=True)
            try:
                mlflow_push.push(known, tracking.records(tmp_path))
            except ConnectionError:
                continue
            return attempt
        raise AssertionError("the push never ended")

    for run in ("", "ablations/no_length/"):
        train(tmp_path, run)
        summarise(tmp_path, run, 0, 0.4)
    assert push_until_done() > 10
    summarise(tmp_path, "", 0, 0.5)  # replaces the parent
    assert push_until_done() > 5
    parents, children = mirror(known)
    assert set(parents) == {"main seed 0", "no_length seed 0"}
    assert len(children) == 5  # the first evaluation of the main run is history
    assert history(known, parents["main seed 0"], "learned/needle") == [(0, 0.5)]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {
        run.info.run_id for run in parents.values()
    }


@pytest.mark.usefixtures("tables")
def test_a_broken_record_is_named_and_stops_no_other(tmp_path, capsys):
    known = settings(tmp_path)
    train(tmp_path, "")
    broken = tmp_path / "tracking/evaluate/needle.jsonl"
    broken.parent.mkdir()
    broken.write_text('{"kind": "metrics", "time": 1, "step": 0, "values": {}}\n')
    broken.with_name("begun.jsonl").touch()  # a stage that starts at this moment
    sync_mlflow.main(sync_mlflow.Settings(known))
    assert len(mirror(known)[1]) == 1
    warnings = capsys.readouterr().err
    assert f"not pushed to MLflow: {broken}" in warnings
    assert "begun.jsonl" not in warnings


def test_commit_of_a_checkout_and_of_none(tmp_path):
    assert git_tags(tmp_path) == {}
    (tmp_path / "a").write_text("1")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "a"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = git_tags(tmp_path)
    assert len(clean["git_commit"]) == 40
    assert clean["git_changed_files"] == "no"
    (tmp_path / "a").write_text("2")
    assert git_tags(tmp_path) == clean | {"git_changed_files": "yes"}


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
            if sent.count(mlflow_push.BATCH["metrics"]) == 1:  # of three batches of a training
                server.kill()

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    with pytest.raises(ValueError, match="they are kept in"):
        sync_mlflow.main(sync_mlflow.Settings(known))
    monkeypatch.undo()
    train(known.root, "", steps=steps)  # pushes nothing; a stage that is ready goes on without the server
    server.start()
    # two stages end at the same moment, and each pushes all that waits
    program = (
        "import json, sys; from viarl import tracking; from viarl.stages.command import parse;"
        " from viarl.stages.sync_mlflow import Settings;"
        " run = tracking.start(parse(Settings, []).tracking); run.__enter__(); run.__exit__(None, None, None)"
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
