"""Chaos: the smoke preset again and again, each time with one fault at a random moment; eval.json must stay the same.

    python -m tests.chaos --folder ../chaos                    # 20 runs; about 4 minutes each on 2 cores
    python -m tests.chaos --folder ../chaos --runs 3 --seed 5 --only kill_main kill_group
    python -m tests.chaos --folder ../chaos --first 8          # the same series from its run 8 on

Each run starts from nothing in a clone of this checkout's last commit (`.venv` is linked). After the fault the same
command is given again, and before it only what Snakemake's or a stage's own message asks for: `--unlock`,
`--rerun-incomplete`, the deletion of a file that a message names. The folder holds the digests of the undisturbed run
(made once for a commit), the logs, and chaos.json, the summary. Clones of runs that went well are deleted.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from tests.chaos.checkout import REPOSITORY, SMOKE, Checkout, wait
from tests.chaos.faults import FAULTS, free_port, start_server, tracked_by, truncate

TARGET = SMOKE / "cycle2/eval.json"
MOST_COMMANDS = 8
DISK_MB = 400
# What a message asks for: a part of the message, and what it is called in the report.
LOCKED, INCOMPLETE = "Directory cannot be locked", "--rerun-incomplete"


@dataclass
class Report:
    """What is told of one run: `commands` after the fault, temporary files that are `left`, `notes` of oddities."""

    number: int
    fault: str
    share: float
    seconds_in: float = 0.0
    hit: str = ""
    commands: list[str] = field(default_factory=list)
    equal: bool = False
    same_models: bool = False
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """The line that is printed."""
        state = "equal" if self.equal else "NOT EQUAL"
        extra = [*self.notes, *([f"left: {len(self.left)} temporary files"] if self.left else [])]
        where = self.hit or "no stage"
        return (
            f"{self.number:3} {self.fault:16} at {self.seconds_in:4.0f} s ({self.share:3.0%}) in {where}: "
            f"{'; '.join(self.commands)}; {state}; {self.seconds:.0f} s" + "".join(f"; {note}" for note in extra)
        )


def records_lost(run: Checkout, fault: str, port: int, limit_s: float) -> str:
    """Sync the records to the store (a server that is started again, or SQLite) and say if some are not there."""
    store = run.folder / SMOKE / "mlflow.db"
    if fault == "mlflow_killed":
        start_server(run, port)
        store = run.folder / "server.db"
    else:
        run.overlays.pop()
    status, _ = run.run("sync_mlflow", limit_s=limit_s)
    records = list((run.folder / SMOKE / "tracking").rglob("*.jsonl"))
    with sqlite3.connect(store) as connection:
        stages = "select run_uuid from tags where key = 'mlflow.parentRunId'"  # the parents stand for no record
        count = f"select count(*) from runs where status = 'FINISHED' and run_uuid in ({stages})"
        ended = connection.execute(count).fetchone()[0]
    return "" if status == 0 and ended == len(records) else f"MLflow has {ended} of {len(records)} records"


def recover(run: Checkout, report: Report, spoilt: Path | None, limit_s: float) -> None:
    """Give the same command, and before it what the messages ask for, until it succeeds."""
    options: list[str] = []
    while len(report.commands) < MOST_COMMANDS:
        status, text = run.run(str(TARGET), *options, limit_s=limit_s)
        report.commands.append(" ".join(["command", *options]))
        if status == 0:
            return
        if LOCKED in text:
            run.run("--unlock", limit_s=limit_s)
            report.commands.append("--unlock")
        elif INCOMPLETE in text and not options:
            options = [INCOMPLETE]
        elif spoilt and (asked := asked_to_delete(text, run.folder)):
            for path in asked:
                path.unlink()
                report.commands.append(f"rm {path.relative_to(run.folder)}")
        else:
            report.notes.append("failed: " + last_error(text))
            psutil.wait_procs(list(run.stages().values()), limit_s)  # orphans of the killed run


def is_json(path: Path) -> bool:
    """Tell whether a file can be read as JSON."""
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def asked_to_delete(text: str, folder: Path) -> list[Path]:
    """Return the files that error lines ask to delete: "delete PATH", or "PATH …; delete it"."""
    found = set()
    for line in text.splitlines():
        if line.startswith("error: ") and (asked := re.search(r"\bdelete (\S+)", line)):
            named = re.search(r"\S*results/smoke/\S+", line) if asked[1] == "it" else asked
            found |= {folder / named[named.re.groups].rstrip(":;,.")} if named else set()
    return sorted(path for path in found if path.is_file())


def last_error(text: str) -> str:
    """Return the line that explains a failure."""
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("error: ") or re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:200]


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of eval.json and of the trained models."""
    paths = [
        TARGET,
        *(SMOKE / f"cycle{c}/{role}/model.safetensors" for c in (1, 2) for role in ("selector", "answerer")),
    ]
    existing = [path for path in paths if (folder / path).exists()]
    return {str(path): hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in existing}


@dataclass(frozen=True)
class Standard:
    """The undisturbed run that the others are compared with, and where and how all of them run."""

    folder: Path
    cores: int
    commit: str
    digests: dict[str, str]
    seconds: float


def undisturbed(folder: Path, cores: int) -> Standard:
    """Return the undisturbed run of the last commit; it is made where it is not there yet."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, text=True).strip()
    note = folder / "undisturbed.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("commit") != commit:
        shutil.rmtree(folder / "undisturbed", ignore_errors=True)
        began = time.monotonic()
        run = Checkout(folder / "undisturbed", folder / "undisturbed.log", cores, commit)
        status, text = run.run(str(TARGET), limit_s=3600)
        if status:
            sys.exit(f"the undisturbed run failed; see {run.log}\n{text[-3000:]}")
        known = {"commit": commit, "seconds": time.monotonic() - began, "digests": digests(run.folder)}
        note.write_text(json.dumps(known, indent=2) + "\n")
        shutil.rmtree(run.folder)
    return Standard(folder, cores, commit, known["digests"], known["seconds"])


def wait_for_moment(run: Checkout, share: float, seconds: float) -> bool:
    """Wait so many seconds, or until that share of the jobs is done where this run is faster; False if it ended."""
    assert run.main is not None
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done = re.findall(r"\((\d+)%\) done", run.log.read_text(errors="replace"))
        if done and int(done[-1]) >= 100 * share:
            break
        try:
            run.main.wait(0.5)
            return False
        except subprocess.TimeoutExpired:
            continue
    return run.main.poll() is None


def one_run(number: int, fault: str, chance: random.Random, standard: Standard) -> Report:
    """Run the preset with one fault, recover, compare and report."""
    report = Report(number, fault, share=chance.uniform(0.02, 0.95))
    limit_s = 300 + 8 * standard.seconds
    place = standard.folder / f"run{number:02}"
    mounted = fault == "disk_full"
    place.mkdir()
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)], check=True)
    began = time.monotonic()
    run = Checkout(place, place.with_suffix(".log"), standard.cores, standard.commit)
    try:
        port = free_port()
        if fault.startswith("mlflow"):
            tracked_by(run, port)
        if fault == "mlflow_killed":
            start_server(run, port)
        run.main = run.start(str(TARGET))
        started = time.monotonic()
        if wait_for_moment(run, report.share, report.share * standard.seconds):
            report.hit = " and ".join(sorted(run.stages()))
            report.notes += filter(None, [FAULTS[fault](run, chance)])
        else:
            report.notes.append("the run had ended before")
        report.seconds_in = time.monotonic() - started
        status = wait(run.main, limit_s)
        report.commands.append("ended well" if status == 0 else f"ended with {status}")
        if fault == "truncate_after":
            report.notes.append(truncate(run, chance))
        noted = re.search(r"it (?:cut|deleted) (\S+)", " ".join(report.notes))
        spoilt = run.folder / noted[1] if noted else None
        if status or fault in ("truncate", "truncate_after", "delete"):
            recover(run, report, spoilt, limit_s)
        target = run.folder / TARGET
        if spoilt == target and target.exists() and not is_json(target):  # nobody but you reads the target
            target.unlink()
            report.commands.append(f"rm {TARGET}")
            recover(run, report, None, limit_s)
        status, text = run.run(str(TARGET), limit_s=limit_s)
        if status or "Nothing to be done" not in text:
            report.notes.append("the same command did not say 'Nothing to be done' afterwards")
        if fault.startswith("mlflow"):
            report.notes += filter(None, [records_lost(run, fault, port, limit_s)])
        found = digests(run.folder)
        report.equal = found.get(str(TARGET)) == standard.digests[str(TARGET)]
        report.same_models = found == standard.digests
        if report.equal and not report.same_models:
            report.notes.append("the models differ")
        left = [path for path in (run.folder / SMOKE).rglob(".*") if path.name != ".snakemake_timestamp"]
        report.left = sorted(str(path.relative_to(run.folder)) for path in left)
    finally:
        run.end()
        if mounted:
            time.sleep(1)
            subprocess.run(["umount", "-l", str(place)], check=True)
    report.seconds = time.monotonic() - began
    if report.equal:
        shutil.rmtree(place)
    return report


def main() -> int:
    """Run, print a line a run, and return 0 if all were equal."""
    parser = argparse.ArgumentParser(
        "python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the runs lie; needs 1 GB")
    parser.add_argument("--runs", type=int, default=20, help="number of the last run")
    parser.add_argument("--first", type=int, default=1, help="number of the first run")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=sorted(FAULTS), default=sorted(FAULTS), metavar="FAULT",
                        help="faults to draw from: " + ", ".join(FAULTS))  # fmt: skip
    options = parser.parse_args()
    # a shell in the background ignores Ctrl-C for all it starts; the faults need the usual way
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    faults = [name for name in options.only if name != "disk_full" or os.geteuid() == 0]  # only root may mount
    random.Random(options.seed).shuffle(faults)
    standard = undisturbed(folder, options.cores)
    print(f"undisturbed: {standard.seconds:.0f} s, eval.json {standard.digests[str(TARGET)][:16]}", flush=True)
    reports = []
    for number in range(options.first, options.runs + 1):
        chance = random.Random(f"{options.seed} {number}")
        shutil.rmtree(folder / f"run{number:02}", ignore_errors=True)
        fault = faults[(number - 1) % len(faults)]
        reports.append(one_run(number, fault, chance, standard))
        print(reports[-1].line(), flush=True)
        (folder / "chaos.json").write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    equal = sum(report.equal for report in reports)
    print(f"{equal} of {len(reports)} equal")
    return 0 if equal == len(reports) else 1


if __name__ == "__main__":
    sys.exit(main())
