"""Runs of one configuration: the main one, other training seeds, ablations; and which files they share.

A run is named by the folder of its files below the roots: "" is the main run, "seed1/" the same with another training
seed, "ablations/no_length/" an ablation, "ablations/no_length/seed1/" both. A file is the same in two runs when its
stage has the same settings in both and all that the stage needs is the same too. Then it is made once, in the simplest
of these runs, and the others read it there: nothing that an ablation does not touch is computed again.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from viarl.config.check import check
from viarl.faults import nearest
from viarl.files import sha256_json
from viarl.models.files import pinned

RUN = r"(?:ablations/\w+/)?(?:seed\d+/)?"  # matches the empty name too

COMMON = frozenset({"pathvars", "ablations", "compare", "tracking", "report"})  # what no ablation can have for itself

Config = Mapping[str, Any]
Wildcards = Mapping[str, str]
Reference = tuple[str, Wildcards]  # a kind of file and its wildcards


def run_name(ablation: str = "", seed: int | None = None) -> str:
    """Return the name of a run; None stands for the configuration's own seed."""
    return (f"ablations/{ablation}/" if ablation else "") + ("" if seed is None else f"seed{seed}/")


def split_run(run: str) -> tuple[str, int | None]:
    """Return (ablation or "", seed or None) of a run's name."""
    found = re.fullmatch(r"(?:ablations/(\w+)/)?(?:seed(\d+)/)?", run)
    if found is None:
        raise ValueError(f"{run!r} is no run; a run is named like 'ablations/no_length/seed1/'")
    return found[1] or "", None if found[2] is None else int(found[2])


def overlaid(config: Config, overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration with an overlay's values in place, key by key."""
    result = copy.deepcopy(dict(config))
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = overlaid(result[key], value) if both else copy.deepcopy(value)
    return result


def run_config(config: Config, run: str) -> dict[str, Any]:
    """Return the configuration of a run; ValueError where the ablation is not in `config`."""
    ablation, seed = split_run(run)
    known = config["ablations"]
    if ablation and ablation not in known:
        raise ValueError(f"there is no ablation {ablation!r} in the configuration; {nearest(ablation, known)}")
    result = overlaid(config, known[ablation]["overlay"] if ablation else {})
    if seed is not None:
        result["seed"] = seed
    return result


def compared_runs(config: Config) -> list[str]:
    """Return the runs of the comparison table: the main run's seeds, then each compared ablation's."""
    seeds = config["compare"]["seeds"]
    found = [("", seeds)]
    found += [(name, config["ablations"][name].get("seeds", seeds)) for name in config["compare"]["ablations"]]
    own = config["seed"]  # is not named
    return [run_name(name, None if seed == own else seed) for name, seeds in found for seed in seeds]


def check_runs(config: Config) -> None:
    """Raise ValueError, one line a finding, where the configuration or that of an ablation is wrong."""
    check(config)
    problems = []
    for name, ablation in config["ablations"].items():
        where = f"config: ablations.{name}"
        overlay = ablation["overlay"]
        problems += [
            f"{where}.overlay.{key}: an ablation cannot change it, for it is common to all runs; take it out"
            for key in sorted(COMMON & set(overlay))
        ]
        problems += [
            f"{where}.overlay.local.{key}: every run has the same questions and videos of yours; take it out"
            for key in sorted({"folder", "questions"} & set(overlay.get("local") or {}))
        ]
        if name == "main":
            problems.append(f"{where}: the run without an ablation has this name; take another")
        if "seed" in overlay:
            problems.append(f"{where}.overlay.seed: the seeds of an ablation stand in ablations.{name}.seeds; move it")
        try:
            check(overlaid(config, overlay))
        except ValueError as error:
            problems += [line.replace("config: ", f"{where}.overlay: ", 1) for line in str(error).splitlines()]
    for name in config["compare"]["ablations"]:
        if name not in config["ablations"]:
            problems.append(f"config: compare.ablations: {name!r} is no ablation; {nearest(name, config['ablations'])}")
        elif "benchmarks" in config["ablations"][name]["overlay"]:
            what = "has benchmarks of its own, and runs are compared on those of the main run"
            problems.append(f"config: compare.ablations: {name!r} {what}; take {name!r} out, or its benchmarks")
    if problems:
        raise ValueError("\n".join(problems))


class Graph:
    """The stages' files, what they depend on, and in which run each one lies.

    `patterns` are the paths of each kind of file, with {run} and other wildcards. `maker` names the stage that makes a
    file of a configuration, "" where none does: the model of a role that comes from a hub or a folder. The rules fill
    `settings` and `needs` (of stages that need nothing from others, nothing): functions of a run's configuration and a
    stage's wildcards, without `run`, that return its settings, and references to files.
    """

    def __init__(
        self, config: Config, patterns: Mapping[str, str], maker: Callable[[Config, str, Wildcards], str]
    ) -> None:
        self.main, self.patterns, self.maker = config, patterns, maker
        self.settings: dict[str, Callable[[Config, Wildcards], Mapping[str, Any]]] = {}
        self.needs: dict[str, Callable[[Config, Wildcards], Iterable[Reference]]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._identities: dict[tuple[str, str, str], str] = {}

    def config(self, run: str) -> dict[str, Any]:
        """Return a run's configuration (do not change it)."""
        if run not in self._configs:
            self._configs[run] = run_config(self.main, run)
        return self._configs[run]

    def path(self, run: str, kind: str, wildcards: Wildcards) -> str:
        """Return where a run finds a file; "" where no stage makes it."""
        if not self.maker(self.config(run), kind, wildcards):
            return ""
        return self.patterns[kind].format(run=self.home(run, kind, wildcards), **wildcards)

    def home(self, run: str, kind: str, wildcards: Wildcards) -> str:
        """Return the simplest run that has the same file."""
        ablation, seed = split_run(run)
        identity = self.identity(run, kind, wildcards)
        for simpler in (run_name(), run_name("", seed), run_name(ablation)):
            if self.identity(simpler, kind, wildcards) == identity:
                return simpler
        return run

    def identity(self, run: str, kind: str, wildcards: Wildcards) -> str:
        """Return a hash of all that a file of a run depends on, code left out."""
        key = (run, kind, json.dumps(wildcards, sort_keys=True))
        if key not in self._identities:
            config = self.config(run)
            stage = self.maker(config, kind, wildcards)
            known = self.settings[stage](config, wildcards) if stage else pinned(config[wildcards["role"]])
            needed = self.needs[stage](config, wildcards) if stage in self.needs else ()
            needs = [self.identity(run, *reference) for reference in needed]
            self._identities[key] = sha256_json([stage, kind, dict(wildcards), known, *needs])
        return self._identities[key]
