"""A clone of this checkout in which Snakemake runs the smoke preset, and the processes that belong to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = Path("results/smoke")
PRESET = "presets/smoke.yaml"
NO_RESULT = {"logs", "benchmarks", "tracking", "mlartifacts"}


class Checkout:
    """A clone in which Snakemake runs, with the processes that were started in it."""

    def __init__(self, folder: Path, log: Path, cores: int, commit: str) -> None:
        self.folder, self.log, self.cores = folder, log, cores
        self.overlays: list[str] = []
        self.sessions: list[int] = []
        self.main: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(folder)], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=folder, check=True)
        (folder / ".venv").symlink_to((REPOSITORY / ".venv").resolve())
        log.unlink(missing_ok=True)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in a session of its own; its output is appended to the log."""
        command = [sys.executable, "-m", "snakemake", "--cores", str(self.cores), *arguments]
        return self.spawn([*command, "--configfile", PRESET, *self.overlays])

    def spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own."""
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.sessions.append(process.pid)
        return process

    def run(self, *arguments: str, limit_s: float) -> tuple[int, str]:
        """Run Snakemake to its end and return its status and what was printed meanwhile."""
        before = self.log.stat().st_size if self.log.exists() else 0
        process = self.start(*arguments)
        status = wait(process, limit_s)
        with self.log.open("rb") as log:
            log.seek(before)
            return status, log.read().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All living processes of the sessions that were started here."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) in self.sessions and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        return found

    def stages(self) -> dict[str, psutil.Process]:
        """The stages that run now, by name."""
        found = {}
        for process in self.processes():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if len(command) > 2 and command[1] == "-m" and command[2].startswith("viarl.stages."):
                found[command[2].removeprefix("viarl.stages.")] = process
        return found

    def results(self) -> list[Path]:
        """The files that rules made so far, without records, logs and temporary files."""
        root = self.folder / SMOKE
        files = (path for path in root.glob("*/**/*") if path.is_file() and not path.name.startswith("."))
        return sorted(path for path in files if path.relative_to(root).parts[0] not in NO_RESULT)

    def end(self) -> None:
        """Kill what still runs of all that was started here."""
        for process in self.processes():
            process.kill()


def wait(process: subprocess.Popen[bytes], limit_s: float) -> int:
    """Wait for a process; past the limit its session is killed and the status is -9."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
