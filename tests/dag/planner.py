"""A server that imports Snakemake once and runs each request in a fork of itself: a dry run takes half the time.

Requests and answers are lines of JSON on stdin and stdout: {"cwd": …, "arguments": […]} gives
{"returncode": …, "output": …}.
"""

import json
import os
import sys
import tempfile
from typing import IO

import pydantic  # noqa: F401, what the Snakefile needs is imported here once
import snakemake.cli


def run_forked(cwd: str, arguments: list[str], output: IO[bytes]) -> int:
    """Run Snakemake in a child process and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(cwd)
            sys.argv = ["snakemake", *arguments]
            snakemake.cli.main(arguments)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Answer requests until stdin ends."""
    snakemake.cli.get_argument_parser()  # finds all plugins, which takes as long as a dry run
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as output:
            status = run_forked(request["cwd"], request["arguments"], output)
            output.seek(0)
            text = output.read().decode(errors="replace")
        print(json.dumps({"returncode": status, "output": text}), flush=True)


if __name__ == "__main__":
    main()
