"""More faults on the cluster, each minutes long; on demand: `make test-slurm TESTS=tests/slurm`."""

import signal

import pytest

from tests.slurm.conftest import Copy

pytestmark = pytest.mark.slurm


def test_out_of_memory(copy: Copy, undisturbed: str) -> None:
    """A training that needs more memory than it asked for is submitted again and asks for more."""
    copy.change_profile("train_selector", mem_mb="700 * attempt * attempt")
    run = copy.start()
    assert run.finish() == undisturbed
    first, _ = sorted(copy.cluster.jobs(copy.root, "train_selector"), key=int)
    assert any(f"Job {first} exceeded memory limit" in log.read_text() for log in copy.cluster.root.glob("log/*.log"))
    assert run.states() == ["FAILED", "COMPLETED"]


def test_preempted(copy: Copy, undisturbed: str) -> None:
    """A training that gives way to a higher partition starts anew under its number and goes on from its checkpoint."""
    run = copy.start()
    job = run.trainer()
    node = copy.cluster.node_of(job)
    important = ["--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 5"]
    copy.cluster.run("sbatch", *important)
    run.wait_for(lambda: copy.cluster.jobs(copy.root)[job] != "RUNNING", "the training gives way")
    assert run.trainer() == job
    assert run.finish() == undisturbed
    assert run.states() == ["COMPLETED"]


@pytest.mark.parametrize("rule", ["train_selector", "tune_answerer"])
def test_time_limit(copy: Copy, undisturbed: str, rule: str) -> None:
    """Before its time limit a training is told, saves a checkpoint and fails; the next attempt goes on from there."""
    run = copy.start()
    job = run.trainer(rule)
    copy.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # minutes: less than the profile's warning
    run.wait_for(lambda: copy.cluster.jobs(copy.root)[job] != "RUNNING", "the training is told", seconds=60)
    assert copy.cluster.jobs(copy.root)[job] in ("FAILED", "CANCELLED", "TIMEOUT")
    assert run.finish() == undisturbed
    assert run.states(rule)[-1] == "COMPLETED"


def test_snakemake_killed(copy: Copy, undisturbed: str) -> None:
    """After a kill -9 of Snakemake its jobs go on; the README's commands cancel them and the next run goes on."""
    run = copy.start()
    job = run.trainer()
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    assert copy.cluster.jobs(copy.root)[job] == "RUNNING"
    copy.recover()
    assert copy.start().finish() == undisturbed
