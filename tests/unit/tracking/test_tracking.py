"""Tracking records and their mirror in MLflow: nothing lost, nothing doubled, nothing stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mirrored import REPOSITORY, client, history
from viarl.stages import sync_mlflow
from viarl.tracking.mlflow import push
from viarl.tracking.record import Tracking, git_tags, mark_path, read_record
from viarl.tracking.start import start_run

WORKFLOW = REPOSITORY / "workflow"


@pytest.fixture
def settings(tmp_path: Path) -> Tracking:
    """A stage's tracking settings in a results root of their own."""
    return Tracking(
        record=tmp_path / "tracking/train_selector/c=1.jsonl",
        root=tmp_path,
        stage="train_selector",
        wildcards={"c": "1"},
        cycle=1,
        config="cafe",
        code="beef",
    )


def runs(settings: Tracking) -> list:
    """All MLflow runs of the settings' experiment that mirror a record."""
    store = client(settings)
    (experiment,) = [one for one in store.search_experiments() if one.tags.get("viarl.experiment")]
    assert experiment.name == f"viarl {settings.root}"
    found = store.search_runs([experiment.experiment_id])
    return [run for run in found if "mlflow.parentRunId" in run.data.tags]


def log(settings: Tracking, loss: float, step: int = 0, **params: float) -> None:
    """Run a stage that logs one number."""
    with start_run(settings, params=params) as run:
        run.log_metrics({"loss": loss}, step=step)


@pytest.mark.usefixtures("tables")
def test_a_run_is_mirrored_with_tags_params_metrics_and_artifacts(settings, tmp_path):
    @dataclass(frozen=True)
    class Stage:
        steps: int
        items: Path
        tracking: Tracking

    (tmp_path / "eval.json").write_text("{}")
    with start_run(settings, params=Stage(3, Path("a.jsonl"), settings)) as run:
        for step in range(3):
            run.log_metrics({"reward/total": step / 2, "seconds/rollout": 0.5}, step=step)
        run.log_params({"reward": {"answer": 2.0}})
        run.log_artifact(tmp_path / "eval.json", folder="evaluation")
        run.set_tag("resumed_from", "nothing")

    (found,) = runs(settings)
    assert found.info.run_name == "train_selector cycle 1 (main)"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"steps": "3", "items": "a.jsonl", "reward.answer": "2.0", "code": "beef"}
    expected = {"stage": "train_selector", "cycle": "1", "wildcard.c": "1", "results_root": str(tmp_path)}
    expected |= {"config_fingerprint": "cafe", "code_fingerprint": "beef", "resumed_from": "nothing"}
    assert expected.items() <= found.data.tags.items()
    assert history(settings, found, "reward/total") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert [entry.path for entry in client(settings).list_artifacts(found.info.run_id, "evaluation")] == [
        "evaluation/eval.json"
    ]
    assert (tmp_path / "mlartifacts").is_dir()


@pytest.mark.usefixtures("tables")
def test_more_points_than_one_batch_takes(settings):
    with start_run(settings, params={f"p{i}": i for i in range(230)}) as run:
        for step in range(450):
            run.log_metrics({"a": step, "b": -step}, step=step)
    (found,) = runs(settings)
    assert len(found.data.params) == 231
    assert history(settings, found, "b") == [(step, -step) for step in range(450)]


@pytest.mark.usefixtures("tables")
def test_pushing_again_doubles_nothing_even_when_the_mark_was_lost(settings):
    log(settings, 1.5, 1, a=1)
    assert push(settings, [settings.record]) == 0  # marked
    settings.record.with_name(f"{settings.record.name}.pushed").unlink()  # as if killed between push and mark
    assert push(settings, [settings.record]) == 1
    (found,) = runs(settings)
    assert history(settings, found, "loss") == [(1, 1.5)]


def test_a_store_that_was_deleted_is_filled_again(settings):
    log(settings, 1.5, 1)
    (settings.root / "mlflow.db").unlink()
    command = [sys.executable, "-m", "viarl.stages.sync_mlflow", "--settings", '{"tracking": {}}']
    runtime = json.dumps({"tracking": {"root": str(settings.root), "uri": None, "experiment": "viarl"}})
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOW), "VIARL_RUNTIME": runtime}
    for expected in ("1 of 1 records", "0 of 1 records"):
        sync = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert expected in sync.stderr


@pytest.mark.usefixtures("tables")
def test_an_error_in_the_stage_is_recorded_and_not_swallowed(settings):
    with pytest.raises(RuntimeError, match="boom"), start_run(settings):
        raise RuntimeError("boom")
    assert read_record(settings.record).status == "FAILED"
    assert runs(settings)[0].info.status == "FAILED"


@pytest.mark.usefixtures("tables")
def test_a_killed_stage_keeps_its_record_and_the_next_start_continues_it(settings):
    program = f"""
import os, signal
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run
from pathlib import Path
s = Tracking(record=Path({str(settings.record)!r}), root=Path({str(settings.root)!r}), stage="train_selector",
                      wildcards={{"c": "1"}}, cycle=1, config="cafe", code="beef")
with start_run(s, params={{"lr": 0.1}}) as run:
    for step in range(5):
        run.log_metrics({{"loss": step}}, step=step)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(WORKFLOW)})
    assert killed.returncode == -signal.SIGKILL
    assert read_record(settings.record).series("loss") == [(step, step) for step in range(5)]
    with settings.record.open("a") as handle:
        handle.write('{"kind": "metr')  # torn by the kill

    with start_run(settings, params={"lr": 0.1}) as run:  # resumes from a checkpoint of step 2
        for step in range(3, 8):
            run.log_metrics({"loss": step}, step=step)
    record = read_record(settings.record)
    assert record.status == "FINISHED"
    assert record.series("loss") == [(step, step) for step in range(8)]
    (found,) = runs(settings)
    assert history(settings, found, "loss") == [(step, step) for step in range(8)]


@pytest.mark.usefixtures("tables")
def test_other_parameters_start_a_new_run_and_the_unpushed_one_is_not_lost(settings):
    away = replace(settings, uri="http://127.0.0.1:9")
    with pytest.raises(KeyboardInterrupt), start_run(away, params={"lr": 0.1}) as run:
        run.log_metrics({"loss": 7.0}, step=1)
        raise KeyboardInterrupt
    log(settings, 8.0, 1, lr=0.2)
    found = {run.data.params["lr"]: run for run in runs(settings)}
    assert {lr: run.info.status for lr, run in found.items()} == {"0.1": "KILLED", "0.2": "FINISHED"}
    assert history(settings, found["0.1"], "loss") == [(1, 7.0)]


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("pushed", [False, True])
def test_a_killed_run_that_another_replaces_does_not_run_for_ever(settings, pushed):
    left = start_run(replace(settings, push_every_s=0.0 if pushed else 1e9), params={"lr": 0.1}).__enter__()
    left.log_metrics({"loss": 7.0}, step=1)  # then it is killed
    with start_run(settings, params={"lr": 0.2}):
        pass
    found = {run.data.params["lr"]: run for run in runs(settings)}
    assert {lr: run.info.status for lr, run in found.items()} == {"0.1": "KILLED", "0.2": "FINISHED"}
    assert history(settings, found["0.1"], "loss") == [(1, 7.0)]


@pytest.mark.usefixtures("tables")
def test_what_was_pushed_of_an_older_run_says_nothing_of_a_newer_one(settings):
    with start_run(settings, params={"lr": 0}):
        pass
    mark = json.loads(mark_path(settings.record).read_text())
    with start_run(replace(settings, uri="http://127.0.0.1:9"), params={"lr": 1}):
        pass
    assert not mark_path(settings.record).exists()
    # as if the first one's record had been just as long
    mark_path(settings.record).write_text(json.dumps(mark | {"bytes": settings.record.stat().st_size}))
    with start_run(settings, params={"lr": 2}):
        pass
    assert {run.data.params["lr"] for run in runs(settings)} == {"0", "1", "2"}


def test_an_unreachable_server_warns_stops_nothing_and_sync_makes_up_for_it(settings, capsys):
    away = replace(settings, uri="http://127.0.0.1:9")
    began = time.monotonic()
    log(away, 1.0)
    assert time.monotonic() - began < 20
    assert f"kept in {settings.record}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"tracking\.uri"):
        sync_mlflow.main(sync_mlflow.Settings(away))
    sync_mlflow.main(sync_mlflow.Settings(settings))
    assert "1 of 1 records" in capsys.readouterr().err
    assert history(settings, runs(settings)[0], "loss") == [(0, 1.0)]
    sync_mlflow.main(sync_mlflow.Settings(settings))
    assert "0 of 1 records" in capsys.readouterr().err


def test_a_stage_that_a_signal_ended_leaves_its_push_to_the_next(settings):
    with pytest.raises(SystemExit), start_run(settings) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise SystemExit(143)
    assert not (settings.root / "mlflow.db").exists()
    assert read_record(settings.record).status == "KILLED"
    log(settings, 2.0, 2)  # goes on with the record
    (found,) = runs(settings)
    assert found.info.status == "FINISHED"
    assert history(settings, found, "loss") == [(1, 1.0), (2, 2.0)]


def test_a_deferred_stage_is_pushed_by_the_next_one(settings):
    short = replace(settings, record=settings.record.with_name("short.jsonl"), defer_below_s=60.0)
    log(short, 1.0)
    assert not (settings.root / "mlflow.db").exists()
    with start_run(settings):
        pass
    assert len(runs(settings)) == 2


@pytest.mark.usefixtures("tables")
def test_a_long_stage_pushes_while_it_runs(settings):
    with start_run(replace(settings, push_every_s=0.0)) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        (found,) = runs(settings)
        assert found.info.status == "RUNNING"
        assert history(settings, found, "loss") == [(1, 1.0)]


def test_two_stages_that_create_the_store_at_once(settings):
    program = f"""
import sys
from pathlib import Path
from viarl.tracking.record import Tracking
from viarl.tracking.start import start_run
root = Path({str(settings.root)!r})
s = Tracking(record=root / "tracking/x" / (sys.argv[1] + ".jsonl"), root=root, stage="x")
with start_run(s) as run:
    run.log_metrics({{"loss": 1.0}})
"""
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOW)}
    stages = [
        subprocess.Popen([sys.executable, "-c", program, name], env=environment, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    for stage in stages:
        _, err = stage.communicate(timeout=60)
        assert stage.returncode == 0
        assert "warning" not in err
    assert len(runs(settings)) == 2


def test_nothing_is_recorded_without_a_record_file_or_on_another_rank(settings, monkeypatch):
    log(Tracking(), 1.0)
    monkeypatch.setenv("RANK", "1")
    log(settings, 1.0)
    assert list(settings.root.iterdir()) == []


def test_mlflow_is_not_imported_by_a_stage_that_defers(settings):
    program = "import sys; from viarl.tracking.start import start_run; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(WORKFLOW)}, check=True)


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"kind": "metrics", "time": 1, "step": 0, "values": {}}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl does not begin with a start entry"):
        read_record(path)
    path.write_text(json.dumps([1]) + "\n")
    with pytest.raises(ValueError, match="line 1"):
        read_record(path)


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
