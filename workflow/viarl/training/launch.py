"""Start a stage in one process, or in several on this machine through `accelerate launch`.

    python -m viarl.training.launch viarl.stages.train_selector --settings '{…}' --items a.jsonl …

`launcher` in $VIARL_RUNTIME says how. The log is the first process's; of the others the last lines are shown, and only
where they fail. SIGTERM and SIGINT are passed on to all of them, which save a checkpoint and end; the exit status is
then 143 or 130, as that of one process. When one fails, the others are ended within half a minute.
"""

import importlib.util
import json
import logging
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import psutil  # here, for a signal's handler must not import: the next signal would find the module half loaded

from viarl.command import RUNTIME_VARIABLE, of_run
from viarl.config.launcher import KINDS, accelerate_kind
from viarl.progress import leave_broken_pipes, say

AGAIN_S = 5.0  # seconds until a signal is passed on again, for processes that were just being started


@dataclass(frozen=True)
class Launcher:
    """How a stage is started: `processes` on this machine, `config` of accelerate (a file), `plain` without either."""

    processes: int = 1
    config: Path | None = None
    device: str = "auto"

    @property
    def plain(self) -> bool:
        """Whether the stage is one ordinary process."""
        return self.processes == 1 and self.config is None


def launcher_of(arguments: Sequence[str]) -> Launcher:
    """Return how the stage with these arguments is started; an ablation may have it started in its own way."""
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--settings", default="{}")
    known, _ = parser.parse_known_args(arguments)
    runtime = of_run(json.loads(os.environ.get(RUNTIME_VARIABLE, "{}")), json.loads(known.settings))
    given = runtime.get("launcher", {})
    config = Path(given["config"]) if given.get("config") else None
    return Launcher(given.get("processes", 1), config, runtime.get("device", "auto"))


class Signals:
    """Passes SIGTERM and SIGINT on to the processes that this one started; `told` are those that came."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def listen(self) -> None:
        """Begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        signal.signal(signal.SIGALRM, lambda *_: self._pass_on(signal.SIGTERM))

    def stop(self) -> None:
        """End: nothing is left to be told, and what comes now must not change the exit status."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.told.append(number)
        leave_broken_pipes()
        if not self._pass_on(signal.SIGTERM if len(self.told) == 1 else number):
            raise SystemExit(128 + self.told[0])  # nothing was started yet
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)

    @staticmethod
    def _pass_on(number: int) -> bool:
        started = psutil.Process().children()
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return bool(started)


def run_several(module: str, arguments: Sequence[str], launcher: Launcher) -> int:
    """Run a stage in several processes; return the exit status.

    Errors: ValueError where there are fewer GPUs than processes, or none though they are needed.
    """
    signals = Signals()
    signals.listen()
    _check(launcher)
    # late, for they take seconds
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("agent.server.api", "multiprocessing.api"):  # they report each process that is ended
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    with TemporaryDirectory() as outputs:
        try:
            launch_command(_accelerate_arguments(module, arguments, launcher, outputs))
        except ChildFailedError as error:
            for number, failure in error.failures.items():
                if 0 < failure.exitcode < 128:  # the polite end by a signal has no more to say
                    _show(Path(outputs), number, launcher.processes)
            number, failure = error.get_first_failure()
            return _told(number, failure.exitcode, launcher.processes, signals.told)
        finally:
            signals.stop()
    return 0


def _show(outputs: Path, number: int, processes: int) -> None:
    """Print the last lines of a process, each with its number; the first one's are in the log."""
    for path in sorted(outputs.glob(f"*/attempt_0/{number}/std*.log")):
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in deque(lines, maxlen=30):
                shown = line.rstrip().rpartition("\r")[2]  # of a line that was written over, what was left to see
                say(f"[process {number + 1} of {processes}] {shown}")


def _check(launcher: Launcher) -> None:
    """Compare what is asked for with what this machine has; the configuration's own check has seen the file."""
    where = f"launcher.config: {launcher.config}:"
    kind = accelerate_kind(launcher.config) if launcher.config else None
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(f"{where} DeepSpeed is not installed; pip install deepspeed, or set launcher.config: fsdp2")
    if _on_cpu(launcher):
        if kind != KINDS[0]:
            raise ValueError(f"{where} {kind} needs GPUs, and there are none; set launcher.config: ddp")
    else:
        import torch

        if (found := torch.cuda.device_count()) < launcher.processes:
            raise ValueError(
                f"launcher.processes = {launcher.processes}, but this job sees {found} GPUs; lower it, or ask for as "
                f"many (SLURM: gres gpu:{launcher.processes} of the training rules in slurm/config.yaml)"
            )


def _on_cpu(launcher: Launcher) -> bool:
    import torch

    return launcher.device == "cpu" or (launcher.device == "auto" and not torch.cuda.is_available())


def _accelerate_arguments(module: str, arguments: Sequence[str], launcher: Launcher, outputs: str) -> Namespace:
    from accelerate.commands.launch import launch_command_parser

    options = ["--config_file", str(launcher.config), "--num_processes", str(launcher.processes), "--module"]
    known: Any = launch_command_parser().parse_args([*options, "viarl.training.process", module, *arguments])
    # of torch's launcher, which accelerate calls: the processes find each other through a file that is theirs alone (a
    # port for it would be open to all, and what comes through it is unpickled), and talk on loopback
    known.rdzv_backend, known.rdzv_conf = "c10d", "store_type=file"
    known.local_addr, known.main_process_port = "127.0.0.1", 0
    known.log_dir, known.redirects = outputs, ",".join(f"{number}:3" for number in range(1, launcher.processes))
    # the job's cores are shared by its processes
    known.num_cpu_threads_per_process = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // launcher.processes)
    known.signals_to_handle = "SIGHUP"  # those that end a job politely are handled here, without a time limit
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    if _on_cpu(launcher):
        os.environ["ACCELERATE_USE_CPU"] = "true"
    return known


def _told(number: int, code: int, processes: int, told: Sequence[int]) -> int:
    """Say how the training ended, and return the exit status for it."""
    status = 128 - code if code < 0 else code
    if status in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        return 128 + told[0] if told else status
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    say(
        f"error: process {number + 1} of {processes} {how}, and the others were ended; the cause stands above (SIGKILL "
        "comes from the system where memory is short). The same command goes on from the last checkpoint"
    )
    return status


def main() -> None:
    """Start the stage that the command line names."""
    module, arguments = sys.argv[1], sys.argv[2:]
    launcher = launcher_of(arguments)
    if launcher.plain:
        os.execv(sys.executable, [sys.orig_argv[0], "-m", module, *arguments])
    try:
        sys.exit(run_several(module, arguments, launcher))
    except ValueError as error:
        say(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
