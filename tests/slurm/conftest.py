"""One cluster for all tests of this folder, and copies of the workflow whose runs it disturbs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.dag.conftest import copy_workflow
from tests.slurm.cluster import Cluster, ClusterError, kill, processes
from viarl.files import sha256_file

# Few jobs at a time, as the nodes are one machine.
PROFILE = ["--profile", "slurm", "--jobs", "4"]
SUBMIT = [sys.executable, str(Path(__file__).with_name("often.py")), *PROFILE]
# What the README tells to do after a kill -9 of Snakemake: cancel the jobs of this folder.
CANCEL = (
    """squeue --me --noheader --format='%i %Z' | awk -v folder="$PWD" '$2 == folder {print $1}' | xargs -r scancel"""
)
SMOKE = "results/smoke/cycle2/eval.json"
PRESET = ["--configfile", "presets/smoke.yaml"]
# Faults hit cycle 1 of the smoke preset, with trainings that are long enough to be hit.
FAULTS = "results/smoke/cycle1/eval.json"
OVERLAY = {
    "benchmarks": ["needle"],
    "selector": {"training": {"steps": 40, "save_every": 5}},
    "answerer": {"tuning": {"steps": 40, "save_every": 5}},
}


@dataclass(frozen=True)
class Run:
    """A running `snakemake --profile slurm` in a copy of the workflow at `root`."""

    root: Path
    cluster: Cluster
    process: subprocess.Popen[bytes]

    def wait_for(self, ready: Callable[[], object], what: str, seconds: float = 300) -> None:
        """Wait until `ready()`; fail with the end of the log if the run ends before, or after that many seconds."""
        end = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, f"the run ended before: {what}\n{self.log()}"
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.log()}"
            time.sleep(0.5)

    def trainer(self, rule: str = "train_selector") -> str:
        """Return the number of the rule's job once it runs and has written a checkpoint since."""
        folder = self.root / "results/smoke/cycle1/checkpoints" / rule.rpartition("_")[2]
        before: dict[str, int] = {}  # the last step when a job was first seen running

        def ready() -> bool:
            running = self.cluster.jobs(self.root, rule, "running")
            return any(_last_step(folder) > before.setdefault(job, _last_step(folder)) for job in running)

        self.wait_for(ready, f"{rule} runs and has a new checkpoint")
        return [*before][-1]

    @contextmanager
    def held(self, rule: str) -> Iterator[None]:
        """Hold the rule's stage until SIGTERM waits for it: SLURM looks at time limits every half minute only."""
        command = ["-m", f"viarl.stages.{rule}"]
        (process,) = (number for number in processes(_mark(self.root)) if _command(number)[1:3] == command)
        os.kill(process, signal.SIGSTOP)
        try:
            yield
            self.wait_for(lambda: _waits_for(process, signal.SIGTERM), f"{rule} is sent SIGTERM", 90)
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def states(self, rule: str = "train_selector") -> list[str]:
        """Return the states of the rule's jobs, in the order of submission."""
        jobs = self.cluster.jobs(self.root, rule)
        return [jobs[number] for number in sorted(jobs, key=int)]

    def finish(self) -> dict[str, str]:
        """Wait for the end, which must be a success, and return the hashes of what was made."""
        assert self.process.wait(timeout=900) == 0, self.log()
        return _hashes(self.root)

    def log(self) -> str:
        """Return the end of what Snakemake and the jobs that failed said."""
        logs = sorted((self.root / "results/logs/slurm").rglob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(path.read_text()[-4000:] for path in (*logs[-2:], self.root / "snakemake.log"))


def _last_step(folder: Path) -> int:
    return max(
        (int(path.parent.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*/complete.json")), default=0
    )


def _hashes(root: Path) -> dict[str, str]:
    """Hashes of the evaluation of cycle 1 and of the models, which tell more than the few questions they answer."""
    models = [f"results/smoke/cycle1/{role}/model.safetensors" for role in ("selector", "answerer")]
    return {name: sha256_file(root / name) for name in (FAULTS, *models)}


def _mark(root: Path) -> dict[str, str]:
    return {"VIARL_TEST_COPY": str(root)}  # in the environment of a run's processes


def _command(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return []  # it ended meanwhile


def _waits_for(process: int, number: signal.Signals) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True  # SLURM cancelled the step, which let it go on too, and it has ended
    return bool(int(re.search(r"ShdPnd:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)  # type: ignore[index]


@dataclass(frozen=True)
class Copy:
    """A copy of the workflow at `root`, whose jobs go to the cluster."""

    root: Path
    cluster: Cluster

    def change_profile(self, rule: str, **resources: str) -> None:
        """Change what a rule asks for, in this copy's slurm/config.yaml."""
        path = self.root / "slurm" / "config.yaml"
        profile = yaml.safe_load(path.read_text())
        profile["set-resources"][rule] = profile["set-resources"].get(rule, {}) | resources
        path.write_text(yaml.safe_dump(profile))

    def start(self, *arguments: str, submit: Sequence[str] = SUBMIT) -> Run:
        """Start `snakemake --profile slurm` with these arguments, by default up to the evaluation of cycle 1."""
        arguments = arguments or (FAULTS, *PRESET, "overlay.yaml")
        with (self.root / "snakemake.log").open("ab") as log:
            process = subprocess.Popen(
                [*submit, *arguments], cwd=self.root, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        return Run(self.root, self.cluster, process)

    @property
    def _environment(self) -> dict[str, str]:
        return self.cluster.environment | _mark(self.root)

    def kill(self) -> None:
        """End what still runs here, after a test that failed too."""
        kill(_mark(self.root))
        for job in self.cluster.jobs(self.root, states="pending,running,completing"):
            with suppress(ClusterError):  # it ended meanwhile
                self.cluster.run("scancel", job)

    def recover(self) -> None:
        """Do what the README says after Snakemake was killed: cancel this folder's jobs, and unlock it."""
        subprocess.run(["bash", "-c", CANCEL], cwd=self.root, env=self._environment, check=True)
        assert self.start("--unlock").process.wait(timeout=120) == 0

    def locally(self, *arguments: str) -> str:
        """Run Snakemake without SLURM and return what it prints."""
        return snakemake(self.root, self.cluster, *arguments)


def snakemake(root: Path, cluster: Cluster, *arguments: str) -> str:
    """Run Snakemake without SLURM in a folder; fail with the end of what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=root,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; every process that uses it ends with it."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(Cluster())
        except ClusterError as error:
            pytest.fail(str(error), pytrace=False)
        yield started


@pytest.fixture(scope="session")
def smoke(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A fresh copy of the workflow in which the smoke preset went through the cluster."""
    copy = Copy(copy_workflow(tmp_path_factory.mktemp("smoke")).root, cluster)
    run = copy.start(SMOKE, *PRESET)
    assert run.process.wait(timeout=1800) == 0, run.log()
    return copy


def _copied(smoke: Copy, root: Path) -> Copy:
    shutil.copytree(smoke.root, root, symlinks=True)
    (root / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    return Copy(root, smoke.cluster)


@pytest.fixture(scope="session")
def undisturbed(smoke: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, str]]]:
    """Gives the hashes of cycle 1's evaluation and models with the overlay, made beside, without SLURM and faults."""
    copy = _copied(smoke, tmp_path_factory.mktemp("undisturbed") / "copy")

    def make() -> dict[str, str]:
        copy.locally(FAULTS, *PRESET, "overlay.yaml")
        return _hashes(copy.root)

    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(make).result


@pytest.fixture
def copy(smoke: Copy, tmp_path: Path) -> Iterator[Copy]:
    """A copy in which the smoke preset is done and the overlay is not; its processes are killed at the end."""
    copied = _copied(smoke, tmp_path / "copy")
    yield copied
    copied.kill()
