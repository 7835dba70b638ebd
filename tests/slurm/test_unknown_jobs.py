"""Jobs that SLURM forgets before Snakemake asks. Last, as those of the other tests are forgotten too."""

import sys
from pathlib import Path

import pytest

from tests.dag.conftest import copy_workflow
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import PRESET, PROFILE, Copy

pytestmark = pytest.mark.slurm
SELDOM = ["--slurm-init-seconds-before-status-checks", "120", "--latency-wait", "5"]


def test_a_job_that_slurm_forgot_is_judged_by_its_files(cluster: Cluster, tmp_path: Path) -> None:
    """One that was cancelled is submitted again, one that ended well counts; Snakemake alone waits for ever."""
    copy = Copy(copy_workflow(tmp_path / "copy").root, cluster)
    target = "results/smoke/data/frames/needle/0.json"
    with cluster.min_job_age(30):
        try:
            run = copy.start(target, *PRESET, *SELDOM, submit=[sys.executable, "-m", "snakemake", *PROFILE])
            run.wait_for(lambda: cluster.jobs(copy.root, "cache_frames", "running"), "cache_frames runs", 500)
            (cancelled,) = cluster.jobs(copy.root, "cache_frames")
            cluster.run("scancel", cancelled)
            assert run.process.wait(timeout=900) == 0, run.log()
            assert not cluster.jobs(copy.root, "cache_frames")
        finally:
            copy.kill()
    said = (copy.root / "snakemake.log").read_text()
    assert "SLURM forgets jobs 30 s after their end (MinJobAge)" in said
    assert said.count("SLURM no longer knows job") == 1 and f"knows job {cancelled}, and not all of its files" in said
    assert (copy.root / target).is_file()
