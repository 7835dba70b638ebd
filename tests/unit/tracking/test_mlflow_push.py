"""The mirror in MLflow: one parent for each ablation and seed, everything once, whatever was killed in between."""

import json
from typing import Any

import pytest
import yaml

from mirrored import CONFIG, RUNS, client, fill, history, mirror, settings, summarise, train
from viarl.stages import sync_mlflow
from viarl.tracking.mlflow import push
from viarl.tracking.record import Tracking, mark_path, records


def view(known: Tracking) -> Any:
    """The saved view of the root's experiment."""
    (experiment,) = [one for one in client(known).search_experiments() if "viarl.root" in one.tags]
    return json.loads(experiment.tags["mlflow.sharedViewState.ablations"])


def artifacts(known: Tracking, run: Any, folder: str = "") -> list[str]:
    """Paths of a run's artifacts."""
    return [entry.path for entry in client(known).list_artifacts(run.info.run_id, folder)]


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
    known = settings(tmp_path)
    fill(tmp_path)
    sync_mlflow.main(sync_mlflow.Settings(known))
    before, _ = mirror(known)
    store = client(known)
    store.set_tag(before["main seed 0"].info.run_id, "mlflow.note.content", "the one to look at")
    store.set_tag(before["main seed 1"].info.run_id, "mlflow.runName", "my second")
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
    assert store.get_run(before["main seed 0"].info.run_id).info.lifecycle_stage == "deleted"


def test_two_roots_on_one_server_do_not_mix(tmp_path):
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(tmp_path / name, "")
        sync_mlflow.main(sync_mlflow.Settings(settings(tmp_path / name, uri=uri)))
    store = client(settings(tmp_path, uri=uri))
    found = {one.name: one.experiment_id for one in store.search_experiments() if one.name != "Default"}
    assert set(found) == {f"viarl {tmp_path / name}" for name in ("a", "b")}
    for number in found.values():
        runs = [run.info.run_name for run in store.search_runs([number])]
        assert sorted(runs) == ["main seed 0", "train_selector cycle 1 (main seed 0)"]


def test_a_root_that_was_moved_has_its_artifacts_with_it(tmp_path):
    """MLflow keeps an experiment's artifacts where they went first, so the moved root has a new one, whole."""
    (tmp_path / "a").mkdir()
    summarise(tmp_path / "a", "", 0, 0.4)
    sync_mlflow.main(sync_mlflow.Settings(settings(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    known = settings(tmp_path / "b")
    summarise(tmp_path / "b", "", 1, 0.5)
    for _ in range(2):
        sync_mlflow.main(sync_mlflow.Settings(known))
    assert not (tmp_path / "a").exists()
    store = client(known)
    names = {one.name: one.experiment_id for one in store.search_experiments() if one.name != "Default"}
    assert set(names) == {f"viarl {tmp_path / name}" for name in ("a", "b")}
    found = {run.info.run_name: run for run in store.search_runs([names[f"viarl {tmp_path / 'b'}"]])}
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
            for path in records(tmp_path):  # lost with the push that wrote them
                mark_path(path).unlink(missing_ok=True)
            try:
                push(known, records(tmp_path))
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
