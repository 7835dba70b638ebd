"""How trainings are started: what the launcher is told, and what accelerate makes of the shipped configurations."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from processes import FSDP2
from viarl.command import RUNTIME_VARIABLE
from viarl.config.check import check
from viarl.config.launcher import CHECKOUT, accelerate_file
from viarl.models.vlm import resolve_device
from viarl.processes import layout
from viarl.training.launch import Launcher, _accelerate_arguments, _told, launcher_of

DDP = yaml.safe_load(accelerate_file("ddp", CHECKOUT).read_text())


def environment(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, str]]:
    """Return accelerate's arguments for four processes, and the environment that it gives them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(variable, "lo")
    launcher = Launcher(4, accelerate_file(name, CHECKOUT), "cuda")
    known, _, _ = _validate_launch_command(_accelerate_arguments("viarl.stages.x", ["--a", "b"], launcher, "x"))
    known.deepspeed_fields_from_accelerate_config = ""  # accelerate sets it before it goes on
    made: dict[str, str] = prepare_deepspeed_cmd_env(known)[1] if known.use_deepspeed else prepare_multi_gpu_env(known)
    return known, made


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_accelerate_understands_the_shipped_configurations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known, made = environment(name, monkeypatch)
    assert (known.use_fsdp, known.use_deepspeed) == (name == "fsdp2", name == "deepspeed_zero3")
    assert (known.num_processes, known.num_machines, known.module) == (4, 1, True)
    script = [known.training_script, *known.training_script_args]
    assert script == ["viarl.training.process", "viarl.stages.x", "--a", "b"]
    assert known.num_cpu_threads_per_process == 2  # four share the job's eight cores
    assert made["ACCELERATE_MIXED_PRECISION"] == "no"
    if name == "fsdp2":  # what the tests with CPUs are given is what the file means
        assert FSDP2.items() <= made.items()
    if name == "deepspeed_zero3":
        assert made["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
        assert made["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"].lower() == "true"
    for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.setenv(variable, made.get(variable, "false"))
    assert bool(layout()) == (name != "ddp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("distributed_type: FSDP", "fsdp_config.fsdp_version must be 2, as in envs/accelerate/fsdp2.yaml"),
        ("num_machines: 2", "num_machines is 2; more machines than one are not supported"),
        ("distributed_type: TPU", "distributed_type is TPU; this project knows MULTI_GPU, FSDP, DEEPSPEED"),
        ("distributed_type: [", "cannot be read (while parsing a flow node"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}", "needs GPUs, but device = 'cpu'; set it to 'ddp'"),
    ],
)
def test_configurations_that_cannot_work_are_refused_before_any_job(tmp_path: Path, change: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(change if "[" in change else yaml.safe_dump(DDP | yaml.safe_load(change)))
    config = yaml.safe_load((CHECKOUT / "config.yaml").read_text())
    config |= {"device": "cpu", "launcher": {"processes": 2, "config": str(file)}}
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        check(config)
    assert str(raised.value).startswith("config: launcher.config") and len(str(raised.value).splitlines()) == 1
    assert str(file) in str(raised.value)


def test_an_ablation_may_be_started_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    several = {"launcher": {"processes": 2, "config": "envs/accelerate/ddp.yaml"}}
    runtime = {"device": "cpu", "launcher": {"processes": 1, "config": None}, "ablations": {"wide": several}}
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps(runtime))

    def of(run: str) -> Launcher:
        return launcher_of(["--settings", json.dumps({"tracking": {"run": run}}), "--items", "a.jsonl", "b.jsonl"])

    assert of("") == Launcher(1, None, "cpu") and of("seed1/").plain
    assert of("ablations/wide/seed1/") == Launcher(2, Path("envs/accelerate/ddp.yaml"), "cpu")
    monkeypatch.delenv(RUNTIME_VARIABLE)
    assert launcher_of([]).plain


@pytest.mark.parametrize(
    ("code", "told", "status"), [(143, [], 143), (-15, [15], 143), (143, [2], 130), (1, [15], 1), (-9, [], 137)]
)
def test_the_exit_status_tells_what_ended_it(code: int, told: list[int], status: int) -> None:
    assert _told(1, code, 2, told) == status


def test_a_signal_may_come_while_another_one_is_passed_on() -> None:
    """Clusters send several; where the first one's handler imports something, the second finds it half loaded."""
    program = """
import os, signal, subprocess, sys
from viarl.training.launch import Signals

class Hasty:
    def find_spec(self, name, *_):
        if "." in name and len(signals.told) < 3:
            os.kill(os.getpid(), signal.SIGTERM)

signals = Signals()
signals.listen()
child = subprocess.Popen(["sleep", "60"])
sys.meta_path.insert(0, Hasty())
os.kill(os.getpid(), signal.SIGTERM)
print(child.wait())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{-signal.SIGTERM}\n", "")


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("cuda") == torch.device("cuda", 3) and resolve_device("cpu") == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert resolve_device("cuda") == torch.device("cuda")
