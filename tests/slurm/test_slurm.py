"""The smoke preset on a real SLURM cluster, then two faults; `make test-slurm`. test_faults.py has the others."""

import json
from collections.abc import Callable

import pytest

from tests.dag.conftest import REPOSITORY
from tests.slurm.conftest import PRESET, SMOKE, Copy, snakemake
from viarl.files import sha256_file

pytestmark = pytest.mark.slurm


def test_smoke(smoke: Copy) -> None:
    """`snakemake --profile slurm` makes the evaluation of cycle 2, and nothing is stale then without SLURM either."""
    summary = json.loads((smoke.root / SMOKE).read_text())
    assert summary["cycle"] == 2
    assert "Nothing to be done" in smoke.locally("--dry-run", SMOKE, *PRESET)


def test_same_as_without_slurm(smoke: Copy) -> None:
    """The evaluation equals, bit by bit, that of a run without SLURM, where this checkout holds one (`make e2e`)."""
    if not (REPOSITORY / SMOKE).exists() or "Nothing to be done" not in snakemake(
        REPOSITORY, smoke.cluster, "--dry-run", "--nolock", SMOKE, *PRESET
    ):
        pytest.skip(f"no current {SMOKE} here to compare with: `make e2e` makes it")
    assert sha256_file(smoke.root / SMOKE) == sha256_file(REPOSITORY / SMOKE)


def test_queue(smoke: Copy) -> None:
    """The queue saw tens of jobs; those that train got a GPU, generated videos did not need one."""
    jobs = smoke.cluster.run("squeue", "--noheader", "--states=all", "--format=%k|%b|%T|%Z").splitlines()
    rows = [job.split("|")[:3] for job in jobs if job.endswith(f"|{smoke.root}")]
    assert 20 <= len(rows) <= 60
    assert {state for _, _, state in rows} == {"COMPLETED"}
    assert {gres for comment, gres, _ in rows if comment.startswith("rule_train_selector")} == {"gres:gpu:1"}
    assert {gres for comment, gres, _ in rows if comment.startswith("rule_make_needle")} == {"N/A"}


def test_cancelled_then_node_lost(copy: Copy, undisturbed: Callable[[], dict[str, str]]) -> None:
    """A cancelled training and one whose node dies go on from their checkpoints, without a word from the user."""
    cluster = copy.cluster
    run = copy.start()
    cancelled = run.trainer()
    cluster.run("scancel", cancelled)
    job = run.trainer()
    assert job != cancelled
    node = cluster.node_of(job)
    cluster.kill_node(node)
    run.wait_for(lambda: cluster.nodes()[node].startswith("down"), f"{node} is known to be down")
    run.trainer()
    cluster.start_node(node)
    assert run.finish() == undisturbed()
    assert run.states() == ["CANCELLED", "COMPLETED"]
