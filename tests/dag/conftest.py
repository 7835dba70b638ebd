"""A copy of the workflow in a temporary folder, and what Snakemake would do there."""

import functools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """What a run, or a dry run, says: the rule and the outputs of every job."""

    jobs: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, said: str) -> "Plan":
        """Read what Snakemake prints."""
        jobs = []
        for block in re.split(r"\n(?=(?:local)?(?:rule|checkpoint) \w+:\n)", said)[1:]:
            rule = re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", block)
            output = re.search(r"^ {4}output: (.*)$", block, re.MULTILINE)
            assert rule is not None
            jobs.append((rule[1], tuple(output[1].split(", ")) if output else ()))
        return cls(tuple(jobs))

    @property
    def counts(self) -> Counter[str]:
        """Jobs of each rule, without the target rule."""
        return Counter(rule for rule, _ in self.jobs if rule != "all")

    @property
    def outputs(self) -> set[str]:
        """Every file that would be made."""
        return {path for _, paths in self.jobs for path in paths}


@functools.cache
def _planner() -> subprocess.Popen[str]:
    """Start the server that runs Snakemake; it ends with this process, which closes its stdin."""
    command = [sys.executable, str(Path(__file__).with_name("planner.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True)
class Done:
    """A run of Snakemake that has ended; `output` is stdout and stderr."""

    returncode: int
    output: str


@dataclass(frozen=True)
class Workflow:
    """A copy of the workflow at `root`."""

    root: Path

    def run(self, *arguments: str) -> Done:
        """Run Snakemake in the copy, in this checkout's environment."""
        request = {"cwd": str(self.root), "arguments": ["--cores", "2", *arguments]}
        planner = _planner()
        assert planner.stdin and planner.stdout
        planner.stdin.write(json.dumps(request) + "\n")
        planner.stdin.flush()
        return Done(**json.loads(planner.stdout.readline()))

    def plan(self, *arguments: str, overlay: dict | None = None) -> Plan:
        """Dry-run, with an overlay of the configuration if one is given."""
        if overlay is not None:
            (self.root / "overlay.yaml").write_text(yaml.safe_dump(overlay))
            presets = [argument for argument in arguments if argument.startswith("presets/")]
            targets = [argument for argument in arguments if argument not in presets]
            arguments = (*targets, "--configfile", *presets, "overlay.yaml")
        done = self.run("-n", *arguments)
        assert done.returncode == 0, done.output
        return Plan.of(done.output)

    def pretend(self, *arguments: str) -> None:
        """Make every output of a run as an empty file, and record the jobs as done."""
        for path in self.plan(*arguments).outputs:
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix:
                target.write_text(path)
            else:
                target.mkdir(exist_ok=True)
        self.record(*arguments)

    def record(self, *arguments: str) -> None:
        """Let Snakemake take what is there for what the jobs of a run have made now."""
        done = self.run("--touch", "--forceall", "--no-hooks", *arguments)
        assert done.returncode == 0, done.output


def copy_workflow(root: Path) -> Workflow:
    """Copy what the rules need."""
    root.mkdir(exist_ok=True)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(REPOSITORY / name, root / name)
    for name in ("workflow", "presets", "profiles", "envs", "slurm"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return Workflow(root)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A copy in which nothing was run; tests that use it change nothing in it."""
    return copy_workflow(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    workflow = copy_workflow(tmp_path_factory.mktemp("finished"))
    workflow.pretend()
    return workflow


@pytest.fixture
def finished(_finished: Workflow, tmp_path: Path) -> Workflow:
    """A copy of its own in which the default is done."""
    shutil.copytree(_finished.root, tmp_path / "copy", symlinks=True)
    return Workflow(tmp_path / "copy")
