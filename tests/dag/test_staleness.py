"""What a change makes stale: the jobs whose result it can change, and what follows them; never anything else."""

from pathlib import Path

import pytest

from tests.dag.conftest import Workflow

pytestmark = pytest.mark.dag

DATA_RULES = {"make_needle", "build_stand_ins", "cache_frames", "score_frames", "filter_guessable"}
TRAINING = {"train_selector": 2, "tune_answerer": 2, "summarise_evaluation": 2, "make_report": 1}


def edit(workflow: Workflow, module: str, text: str) -> None:
    """Append text to a module of the copy."""
    path = workflow.root / "workflow" / Path(*module.split(".")).with_suffix(".py")
    path.write_text(path.read_text() + text)


def test_second_run_does_nothing(finished: Workflow) -> None:
    """Also for the single file."""
    assert not finished.plan().jobs
    assert not finished.plan("results/cycle2/eval.json").jobs


def test_reward_weight(finished: Workflow) -> None:
    """Training and what follows it, in both cycles; no frames, no CLIP, no stand-ins, nothing of cycle 0."""
    plan = finished.plan(overlay={"reward": {"answer": 3.0}})
    assert plan.counts == TRAINING | {"select_frames": 6, "evaluate": 4}
    assert not any("cycle0" in path for path in plan.outputs)


def test_tuning_keeps_the_first_selector(finished: Workflow) -> None:
    """The answerer's learning rate touches cycle 1 from its tuning on."""
    plan = finished.plan(overlay={"answerer": {"tuning": {"learning_rate": 1.0e-4}}})
    assert plan.counts == TRAINING | {"train_selector": 1, "select_frames": 3, "evaluate": 4}
    assert "results/cycle1/selector/model.safetensors" not in plan.outputs


def test_more_cycles(finished: Workflow) -> None:
    """From 2 to 3: cycle 3 alone, and the report."""
    plan = finished.plan(overlay={"cycles": 3})
    report = {path for path in plan.outputs if path.startswith("results/report/")}
    assert all(path.startswith("results/cycle3/") for path in plan.outputs - report)
    assert plan.counts["train_selector"] == 1


def test_bootstrap(finished: Workflow) -> None:
    """The intervals need no new answers."""
    plan = finished.plan(overlay={"evaluation": {"bootstrap": 200}})
    assert plan.counts == {"summarise_evaluation": 3, "make_report": 1}


def test_one_more_benchmark(finished: Workflow) -> None:
    """Its own data and tables, and the summaries."""
    plan = finished.plan(overlay={"benchmarks": ["needle", "needle_shifted", "needle_validation"]})
    assert plan.counts["make_needle"] == 1
    assert plan.counts["evaluate"] == 3
    assert not {"train_selector", "build_stand_ins", "filter_guessable"} & set(plan.counts)


def test_what_cannot_change_a_result(finished: Workflow) -> None:
    """Device, batch sizes of inference, checkpoints in between, tracking."""
    overlay = {
        "device": "cpu",
        "clip": {"batch_size": 1},
        "answerer": {"batch_size": 1},
        "evaluation": {"batch_size": 1},
        "selector": {"training": {"save_every": 1}},
        "tracking": {"uri": "http://127.0.0.1:1", "experiment": "other"},
    }
    assert not finished.plan(overlay=overlay).jobs


def test_seeds_share_the_data(finished: Workflow) -> None:
    """Another training seed makes no data again."""
    plan = finished.plan("results/seed1/cycle2/eval.json")
    assert set(plan.counts) & DATA_RULES == {"filter_guessable"}
    assert all(path.startswith("results/seed1/") for path in plan.outputs)


def test_comment_changes_nothing(finished: Workflow) -> None:
    """A comment and a blank line in a module that training imports."""
    edit(finished, "viarl.rl.reward", "\n\n# A remark.\n")
    assert not finished.plan().jobs


def test_change_of_the_reward_retrains(finished: Workflow) -> None:
    """A change of meaning in a module that only training imports."""
    edit(finished, "viarl.rl.reward", "\nCHANGED = True\n")
    plan = finished.plan()
    assert plan.counts["train_selector"] == 2
    assert not DATA_RULES & set(plan.counts)
