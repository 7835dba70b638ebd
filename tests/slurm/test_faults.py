"""More faults on the cluster, each run minutes long; on demand: `make test-slurm TESTS=tests/slurm`."""

import re
import signal
from collections.abc import Callable

import pytest

from tests.slurm.conftest import Copy

pytestmark = pytest.mark.slurm


def test_memory_preemption_time_limit(copy: Copy, undisturbed: Callable[[], dict[str, str]]) -> None:
    """Too little memory, a higher partition, a time limit: the same evaluation, without a word from the user."""
    cluster = copy.cluster
    copy.change_profile("train_selector", mem_mb="700 * attempt * attempt")
    run = copy.start()

    # too little memory: the next attempt asks for more
    run.wait_for(lambda: len(run.states()) == 2, "train_selector is submitted again")
    killed, preempted = sorted(cluster.jobs(copy.root, "train_selector"), key=int)
    noticed = re.compile(rf"\b(Job {killed}|StepId={killed}\.\w+) exceeded memory limit")
    assert any(noticed.search(log.read_text()) for log in cluster.root.glob("log/*.log"))

    # a higher partition: SLURM starts the job anew, under its number
    assert run.trainer() == preempted
    node = cluster.node_of(preempted)
    important = ["--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 5"]
    cluster.run("sbatch", *important)
    run.wait_for(lambda: cluster.jobs(copy.root)[preempted] != "RUNNING", "train_selector gives way")
    assert run.trainer() == preempted

    # a time limit: the job is told before, saves a checkpoint and fails; the next attempt goes on from there
    job = run.trainer("tune_answerer")
    with run.held("tune_answerer"):
        cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=4")  # minutes: less than the profile's warning
    assert run.finish() == undisturbed()
    assert run.states() == ["FAILED", "COMPLETED"]
    assert run.states("tune_answerer") == ["FAILED", "COMPLETED"]


def test_snakemake_killed(copy: Copy, undisturbed: Callable[[], dict[str, str]]) -> None:
    """After a kill -9 of Snakemake its jobs go on; the README's commands cancel them, and the next run goes on."""
    run = copy.start()
    job = run.trainer()
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    assert copy.cluster.jobs(copy.root)[job] == "RUNNING"
    copy.recover()
    assert copy.start().finish() == undisturbed()
