"""The launcher: several processes end as one, whatever happens to one of them; a training through the rules."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
DDP, FSDP2 = (REPOSITORY / "envs" / "accelerate" / f"{name}.yaml" for name in ("ddp", "fsdp2"))
CONFIGURATION = ["presets/smoke.yaml", "tests/e2e/launch.yaml"]

pytestmark = pytest.mark.e2e


def start(how: str, processes: int = 2, device: str = "cpu", config: Path = DDP) -> subprocess.Popen[str]:
    """Start launch_probe in some processes."""
    runtime = {"device": device, "launcher": {"processes": processes, "config": str(config) if processes > 1 else None}}
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-m", "viarl.training.launch", "launch_probe", how],
        env=os.environ | {"VIARL_RUNTIME": json.dumps(runtime), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome(how: str, processes: int = 2, device: str = "cpu", config: Path = DDP) -> tuple[int, str]:
    """Return exit status and output of a probe."""
    run = start(how, processes, device, config)
    said, _ = run.communicate(timeout=300)
    return run.returncode, said


def test_an_error_or_a_kill_in_one_process_ends_all() -> None:
    status, said = outcome("raise")
    assert status == 1
    assert "[process 2 of 2] ValueError: process 1 has a reason" in said and "of process 0" in said
    assert "step 1 of process 1" in said  # the last lines of the one that failed
    assert said.splitlines()[-1].startswith("error: process 2 of 2 ended with status 1")
    status, said = outcome("kill")
    assert status == 128 + signal.SIGKILL
    assert "of process 1" not in said and "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: process 2 of 2 was killed by SIGKILL")


def test_a_signal_reaches_all_and_the_status_tells_of_it() -> None:
    run = start("run")
    assert run.stdout is not None
    said = ""
    while "step 3 of" not in said:
        said += run.stdout.readline()
    for _ in range(3):  # clusters send it several times
        run.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    rest, _ = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM, rest
    assert "process 0 has saved" in rest and "Traceback" not in rest and "process 1" not in said + rest


def test_what_ends_well_ends_with_zero_and_one_process_is_the_stage_itself() -> None:
    assert outcome("end")[0] == 0
    status, said = outcome("early", processes=1)
    assert status == 1 and "wrong settings" in said and "[process" not in said


def test_shards_without_a_gpu_are_refused_at_once() -> None:
    status, said = outcome("end", config=FSDP2)
    assert status == 1 and "FSDP needs GPUs, and there are none" in said and len(said.splitlines()) == 1


def test_too_few_gpus_are_refused_at_once() -> None:
    status, said = outcome("end", processes=64, device="cuda")
    assert status == 1
    assert f"launcher.processes = 64, but this job sees {torch.cuda.device_count()} GPUs" in said


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("config", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_two_gpus_train_a_selector_through_the_rules(tmp_path: Path, config: str) -> None:
    """The model is the one that a single process trains, and neither makes the other stale."""

    def snakemake(processes: int) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", target, "--configfile", *CONFIGURATION]
        command += ["--config", f"pathvars={{results: {root}}}", "device=cuda"]
        command += [f"launcher={{processes: {processes}, config: {config if processes > 1 else 'ddp'}}}"]
        done = subprocess.run(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout

    root, two = tmp_path / "results", tmp_path / "two.safetensors"
    target = str(root / "cycle1" / "selector" / "model.safetensors")
    snakemake(2)
    log = (root / "logs" / "train_selector" / "cycle1.log").read_text()
    assert log.count("steps of selector training: 0/3") == 1
    assert "Nothing to be done" in snakemake(1)
    shutil.move(target, two)
    snakemake(1)
    left, right = load_file(target), load_file(two)
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-3
