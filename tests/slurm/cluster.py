"""A real SLURM cluster of three nodes on this machine, for as long as a `with` lasts.

    with Cluster() as cluster:
        subprocess.run(["srun", "hostname"], env=cluster.environment)

Two nodes have a GPU resource (no real device: it is counted and numbered, not computed on). The nodes advertise more
CPUs and memory than there are. Everything lies in a temporary folder and listens on loopback only; what must lie
elsewhere is two links in /etc/slurm, since jobs look for their configuration there. A machine that has a SLURM
of its own is refused. At the end, by whatever way, all processes are killed and links and folder are removed; after a
kill -9 the next start does it, or `python -m tests.slurm.cluster --stop`.

Processes are told by an entry of their environment, which daemons and jobs inherit; slurmstepd, which writes over its
environment, by the log file of its node.

By hand: `python -m tests.slurm.cluster` starts, prints the environment and waits for Ctrl-C. It needs root, and apt-get
where SLURM is not installed.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "scontrol", "squeue", "scancel", "sinfo")
NODES = {"gpu1": True, "gpu2": True, "cpu1": False}  # name: has a GPU
PREFIX = "viarl-slurm-"
MARK = "VIARL_TEST_CLUSTER"  # in the environment of every process: the cluster's folder
NODE_MARK = "SLURMD_NODENAME"  # of a node's processes: its name; SLURM sets it in jobs, we in the daemons
CONFIGURATION = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
POLICY = Path("/usr/sbin/policy-rc.d")  # asked by apt whether a new service may start

# Several slurmd on one host, without systemd, cgroups and accounting. Requeued jobs wait as long as a credential lives.
SLURM_CONF = """\
ClusterName=viarl
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=15
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=3600
GresTypes=gpu
{nodes}
PartitionName=gpu Nodes=gpu1,gpu2 Default=YES PriorityTier=1
PartitionName=cpu Nodes=cpu1
PartitionName=high Nodes=gpu1,gpu2 PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=24000"


class ClusterError(RuntimeError):
    """The cluster cannot be started here; one line says why."""


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints; ClusterError with the end of its output if it fails."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stdout[-2000:].strip()}")
    return done.stdout


def processes(marks: dict[str, str], log: str = "") -> list[int]:
    """Return the processes that have these entries in their environment, or hold open a file whose name begins so."""
    wanted = {f"{key}={value}".encode() for key, value in marks.items()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ours = wanted <= set((folder / "environ").read_bytes().split(b"\0"))
            if log and not ours:
                ours = any(os.readlink(file).startswith(log) for file in (folder / "fd").iterdir())
        except OSError:
            continue  # it ended meanwhile
        if alive and ours:
            found.append(int(folder.name))
    return found


def kill(marks: dict[str, str], log: str = "") -> None:
    """Kill those processes, all at once: none sees and reports another's end."""
    for _ in range(50):
        if not (found := processes(marks, log)):
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
        time.sleep(0.1)
    raise ClusterError(f"processes {processes(marks, log)} cannot be killed")


def kill_all(root: Path) -> None:
    """Kill all processes of the cluster in a folder."""
    kill({MARK: str(root)}, f"{root}/log/slurmd-")


def install() -> None:
    """Install SLURM where it is missing, without starting the packages' own services."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"{', '.join(missing)} missing and no apt-get: install SLURM and munge, then run this again")
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    elif subprocess.run([str(POLICY), "slurmd", "start"], capture_output=True, check=False).returncode != 101:
        raise ClusterError(
            f"{POLICY} lets services start: let it exit 101, or install {' and '.join(PACKAGES)} yourself"
        )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        if not list(Path("/var/lib/apt/lists").glob("*Packages*")):
            run("apt-get", "update", "-q", environment=environment)
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES, environment=environment)
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)


def lock(root: Path) -> TextIO | None:
    """Return the file that marks the cluster in a folder as in use, None where another process holds it."""
    file = (root / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def stop_leftover() -> None:
    """Stop a test cluster that was left over; ClusterError if the machine has a SLURM of its own."""
    for path in (CONFIGURATION / name for name in FILES):
        if path.is_symlink() and path.readlink().parent.name.startswith(PREFIX):
            root = path.readlink().parent
            if root.is_dir() and not lock(root):
                raise ClusterError(f"another test cluster is running, in {root}: wait for its end")
            kill_all(root)
            path.unlink()
            shutil.rmtree(root, ignore_errors=True)
        elif path.exists() or path.is_symlink():
            raise ClusterError(f"{path} is not of this test cluster: this machine has a SLURM of its own, left alone")
    if "SLURM_CONF" in os.environ:
        raise ClusterError("SLURM_CONF is set: this machine has a SLURM of its own, left alone")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, through all `finally`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Cluster:
    """The cluster; `root` is its folder, `environment` that of the processes that may use it.

    Errors: ClusterError, one line, where it cannot be started; nothing is left behind then.
    """

    def __init__(self) -> None:
        self.root = Path()
        self.environment: dict[str, str] = {}
        self._lock: TextIO | None = None
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Cluster":
        if os.geteuid() != 0:
            raise ClusterError("the test cluster must be started by root: run this in a container, or with sudo")
        stop_leftover()
        install()
        self._stack.enter_context(signals_as_interrupt())
        self._stack.callback(self._stop)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = lock(self.root)
        self.root.chmod(0o755)  # munge refuses a socket in a folder that others cannot enter
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        self.environment[MARK] = str(self.root)
        for name in ("munge", "state", "run", "log", *(f"spool/{node}" for node in NODES)):
            (self.root / name).mkdir(parents=True)
        self._configure()
        self._start_munge()
        self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: set(self.nodes().values()) == {"idle"}, "the nodes", 30)

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = free_ports(1 + len(NODES))
        nodes, gpus = [], []
        for (name, has_gpu), port in zip(NODES.items(), ports[1:], strict=True):
            nodes.append(NODE.format(name=name, host=host, port=port) + (" Gres=gpu:1" if has_gpu else ""))
            if has_gpu:
                device = self.root / "dev" / name / "nvidia0"  # CUDA_VISIBLE_DEVICES is set for a character device
                device.parent.mkdir(parents=True)
                device.symlink_to("/dev/null")
                gpus.append(f"NodeName={name} Name=gpu File={device}\n")
        text = SLURM_CONF.format(host=host, root=self.root, ports=ports, nodes="\n".join(nodes))
        CONFIGURATION.mkdir(exist_ok=True)
        for name, content in zip(FILES, (text, "".join(gpus)), strict=True):
            (self.root / name).write_text(content)
            (CONFIGURATION / name).symlink_to(self.root / name)

    def _start_munge(self) -> None:
        folder = self.root / "munge"
        folder.chmod(0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        self.wait((folder / "socket").exists, "munged", 10)

    def _daemon(self, *command: str, **environment: str) -> None:
        with (self.root / "log" / "daemons.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._daemons.append(process)

    def _stop(self) -> None:
        """Kill and remove everything; a second Ctrl-C does not come between."""
        ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored} if main else {}
        try:
            if self.environment:
                kill_all(self.root)
                for daemon in self._daemons:
                    daemon.wait()
        finally:
            for name in FILES:
                link = CONFIGURATION / name
                if link.is_symlink() and link.readlink().parent == self.root:
                    link.unlink()
            if self.root.name.startswith(PREFIX):
                shutil.rmtree(self.root, ignore_errors=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, ready: Callable[[], object], what: str, seconds: float) -> None:
        """Wait until `ready()` is true; ClusterError after that many seconds, with the ends of the daemons' logs."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-1000:] for path in sorted((self.root / "log").glob("*.log")))
                raise ClusterError(f"{what}: not ready after {seconds} s\n{logs}")
            time.sleep(0.5)

    def run(self, *command: str) -> str:
        """Run a SLURM command and return what it prints."""
        return run(*command, environment=self.environment)

    @contextmanager
    def min_job_age(self, seconds: int) -> Iterator[None]:
        """Let SLURM forget jobs that many seconds after their end (a minute more or less) while a block runs."""
        file = self.root / FILES[0]
        before = file.read_text()
        try:
            file.write_text(before.replace("MinJobAge=3600", f"MinJobAge={seconds}"))
            self.run("scontrol", "reconfigure")
            yield
        finally:
            file.write_text(before)
            self.run("scontrol", "reconfigure")

    def nodes(self) -> dict[str, str]:
        """Return each node's state, as sinfo names it: idle, mixed, down, …; nothing while the controller starts."""
        try:
            lines = self.run("sinfo", "--Node", "--noheader", "--partition=gpu,cpu", "--format=%N %t").splitlines()
        except ClusterError:
            return {}
        return dict(line.split() for line in lines)

    def jobs(self, folder: Path, rule: str = "", states: str = "all") -> dict[str, str]:
        """Return the state of each job that Snakemake submitted from a folder, for one rule or all, by job number."""
        lines = self.run("squeue", "--noheader", f"--states={states}", "--format=%A|%T|%k|%Z").splitlines()
        rows = [line.split("|") for line in lines]
        comments = (f"rule_{rule}", f"rule_{rule}_wildcards_")
        return {
            number: state
            for number, state, comment, where in rows
            if where == str(folder) and (not rule or comment == comments[0] or comment.startswith(comments[1]))
        }

    def node_of(self, job: str) -> str:
        """Return the node that a job runs on."""
        return self.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()

    def start_node(self, name: str) -> None:
        """Start a node, again after `kill_node`."""
        self._daemon("slurmd", "-D", "-N", name, **{NODE_MARK: name})

    def kill_node(self, name: str) -> None:
        """Kill a node with everything that runs on it, as a power cut does."""
        kill({MARK: str(self.root), NODE_MARK: name}, f"{self.root}/log/slurmd-{name}.log")


def main() -> None:
    """Start a cluster by hand, or stop one that was left over."""
    parser = argparse.ArgumentParser(description="a SLURM cluster of three nodes on this machine, until Ctrl-C")
    parser.add_argument("--stop", action="store_true", help="stop a cluster that a kill -9 left over")
    if parser.parse_args().stop:
        stop_leftover()
        return
    with Cluster() as cluster:
        print(cluster.run("sinfo"), end="")
        print(f"export {MARK}={cluster.root}  # in the terminal that uses it: its processes end with the cluster")
        print("Ctrl-C stops it.", flush=True)
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except ClusterError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
