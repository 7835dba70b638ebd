"""The configuration's part about data sets and folders: what names, paths and shares must fulfil together."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from viarl.datasets.hub.sets import SETS
from viarl.faults import nearest, shown


def path_problems(pathvars: Mapping[str, str]) -> Iterator[str]:
    """Folders that are written to: relative ones stay below the working directory, absolute ones may be anywhere."""
    may_hold = {"results": (), "data": ("results",)}
    for name, path in pathvars.items():
        where = f"pathvars.{name} = {shown(path)}"
        used = re.findall(r"<(.*?)>", path)
        plain = path.replace("<", "").replace(">", "")
        if not path.strip():
            yield f"{where}: blank; write a folder"
        elif path.startswith("~"):
            yield f"{where}: ~ is not expanded; write the folder in full"
        elif path.startswith("-"):
            yield f"{where}: begins with -, as an option does; name another folder, or write it in full, from / on"
        elif "$" in path:
            yield f"{where}: variables are not expanded; write the folder in full"
        elif ".." in Path(path).parts:
            yield f"{where}: leads out of the working directory by ..; write the folder in full, from / on"
        elif unknown := [entry for entry in used if entry not in may_hold[name]]:
            allowed = " or ".join(f"<{entry}>" for entry in may_hold[name]) or "nothing in angle brackets"
            yield f"{where}: <{unknown[0]}> cannot be put in here; use {allowed}"
        elif set(plain) & set("{}*?[]") or path.count("<") != len(used) or path.count(">") != len(used):
            yield f"{where}: {{}} [] <> * ? have a meaning of their own in paths; write the folder without"
        elif os.path.normpath(path) != path:
            yield f"{where}: write it as {os.path.normpath(path)}, as targets are named"
        elif not used:
            yield from _writable(where, Path(path))


def _writable(where: str, folder: Path) -> Iterator[str]:
    """Find out whether a folder can be made or written to, without making it."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    if not there.is_dir():
        yield f"{where}: {there} is a file; name a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"{where}: nothing may be written to {there}; change its permissions, or name another folder"


def data_problems(dataset: str, benchmarks: list[str], local: Mapping[str, Any]) -> Iterator[str]:
    sets = [dataset, *benchmarks]
    used = any(name.startswith("local") for name in sets)
    if "local_validation" in benchmarks and dataset != "local":
        what = "'local_validation' is the share of your videos that dataset = 'local' would not train on"
        yield f"benchmarks = {benchmarks!r}: {what}; name 'local', all of them"
        return
    if dataset == "local" and "local" in benchmarks:
        remedy = "name 'local_validation', the share of them that is held out"
        yield f"benchmarks = {benchmarks!r}: 'local' holds the videos that dataset = 'local' trains on; {remedy}"
    user = "dataset" if dataset == "local" else "benchmarks"
    asked = ("folder", "folder of your videos", os.path.isdir), ("questions", "file of your questions", os.path.isfile)
    for key, what, exists in asked:
        path = local[key]
        if path is None:
            if used:
                yield f"local.{key} = None: {user} names 'local'; give the {what}"
        elif path.startswith("~"):
            yield f"local.{key} = {shown(path)}: ~ is not expanded; write it in full"
        elif not exists(path):
            yield f"local.{key} = {shown(path)}: not found; give the {what}, a path that counts from {Path.cwd()}"
    if dataset == "local" and local["validation_share"] == 0 and "local_validation" in sets:
        yield "local.validation_share = 0: benchmarks names 'local_validation', which would be empty; raise it"


def hub_problems(benchmarks: list[str], hub: Mapping[str, Any]) -> Iterator[str]:
    known = {id for made in SETS.values() for id in made.repositories}
    for id in sorted(hub["revisions"].keys() - known):
        yield f"hub.revisions.{id} = {shown(hub['revisions'][id])}: unknown key; {nearest(id, known)}"
    if hub["validation_share"] == 0:
        for name in ("llava_video_validation", "viarl_data_validation"):
            if name in benchmarks:
                yield f"hub.validation_share = 0: benchmarks names {name!r}, which would be empty; raise it"
