"""Runs: names, configurations, and which files an ablation shares."""

import copy
from pathlib import Path

import pytest
import yaml

from viarl.config.runs import Graph, check_runs, compared_runs, run_config, run_name, split_run

CONFIG = yaml.safe_load((Path(__file__).resolve().parents[3] / "config.yaml").read_text(encoding="utf-8"))


def config(**ablations: dict) -> dict:
    """The default configuration with ablations of these overlays."""
    changed = copy.deepcopy(CONFIG)
    changed["ablations"] = {name: {"hypothesis": "why", "overlay": overlay} for name, overlay in ablations.items()}
    return changed


def graph(config: dict) -> Graph:
    """A chain of three stages: frames (of K), training (of the reward and the seed), rows."""
    made = Graph(
        config,
        {"frames": "data/{run}frames", "model": "{run}cycle{c}/model", "rows": "{run}rows{c}"},
        lambda config, kind, w: kind,
    )
    made.settings["frames"] = lambda config, w: {"candidates": config["frames"]["candidates"]}
    made.settings["model"] = lambda config, w: {"reward": config["reward"], "seed": config["seed"]}
    made.settings["rows"] = lambda config, w: {"selectors": config["evaluation"]["selectors"]}
    made.needs["model"] = lambda config, w: [("frames", {})]
    made.needs["rows"] = lambda config, w: [("model", w), ("frames", {})]
    return made


@pytest.mark.parametrize(
    ("ablation", "seed", "name"),
    [("", None, ""), ("", 3, "seed3/"), ("a_1", None, "ablations/a_1/"), ("a", 0, "ablations/a/seed0/")],
)
def test_names(ablation: str, seed: int | None, name: str) -> None:
    assert run_name(ablation, seed) == name
    assert split_run(name) == (ablation, seed)


def test_what_is_no_run() -> None:
    with pytest.raises(ValueError, match="is no run"):
        split_run("ablations/../x/")
    with pytest.raises(ValueError, match=r"no ablation 'shrot'.*did you mean 'short'"):
        run_config(config(short={"reward": {"length": 0}}), "ablations/shrot/")


def test_configuration_of_a_run() -> None:
    known = run_config(config(short={"reward": {"length": 0}}), "ablations/short/seed5/")
    assert known["reward"] == CONFIG["reward"] | {"length": 0}
    assert known["seed"] == 5
    assert known["frames"] == CONFIG["frames"]


def test_an_ablation_owns_what_it_touches_and_what_follows() -> None:
    made = graph(config(short={"reward": {"length": 0}}, many={"frames": {"candidates": 64}}, wide={"cycles": 4}))
    c = {"c": "1"}
    assert made.path("ablations/short/", "frames", {}) == "data/frames"
    assert made.path("ablations/short/", "model", c) == "ablations/short/cycle1/model"
    assert made.path("ablations/short/", "rows", c) == "ablations/short/rows1"
    assert made.path("ablations/many/", "frames", {}) == "data/ablations/many/frames"
    assert made.path("ablations/many/", "rows", c) == "ablations/many/rows1"
    assert made.path("ablations/wide/", "rows", {"c": "4"}) == "rows4"


def test_seeds_share_what_no_seed_touches() -> None:
    made = graph(config(short={"reward": {"length": 0}}, many={"frames": {"candidates": 64}}, wide={"cycles": 4}))
    c = {"c": "1"}
    assert made.path("seed1/", "frames", {}) == "data/frames"
    assert made.path("seed1/", "model", c) == "seed1/cycle1/model"
    assert made.path("ablations/wide/seed1/", "model", c) == "seed1/cycle1/model"
    assert made.path("ablations/many/seed1/", "frames", {}) == "data/ablations/many/frames"
    assert made.path("ablations/short/seed1/", "model", c) == "ablations/short/seed1/cycle1/model"
    own = made.main["seed"]
    assert made.path(f"seed{own}/", "model", c) == "cycle1/model"


def test_compared_runs() -> None:
    known = config(short={"reward": {"length": 0}}, long={"reward": {"length": 1}})
    known["ablations"]["long"]["seeds"] = [0]
    known["compare"] = {"ablations": ["short", "long"], "seeds": [0, 2]}
    assert compared_runs(known) == ["", "seed2/", "ablations/short/", "ablations/short/seed2/", "ablations/long/"]


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ({"reward": {"lenght": 0}}, "ablations.x.overlay: reward.lenght = 0: unknown key; did you mean 'length'?"),
        ({"frames": {"selected": 99}}, "ablations.x.overlay: frames.selected = 99: more than frames.candidates"),
        ({"local": {"folder": "f"}}, "ablations.x.overlay.local.folder: every run has the same questions and videos"),
        ({"pathvars": {"data": "d"}}, "ablations.x.overlay.pathvars: an ablation cannot change it"),
        ({"seed": 3}, "ablations.x.overlay.seed: the seeds of an ablation stand in ablations.x.seeds"),
    ],
)
def test_wrong_ablations_are_named(overlay: dict, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        check_runs(config(x=overlay))
    assert f"config: {expected}" in str(error.value)


def test_a_comparison_of_what_is_not_there() -> None:
    known = config(short={"reward": {"length": 0}})
    known["compare"]["ablations"] = ["shrot"]
    with pytest.raises(ValueError, match=r"compare\.ablations: 'shrot' is no ablation; did you mean 'short'\?"):
        check_runs(known)


def test_a_comparison_on_other_benchmarks() -> None:
    known = config(other={"benchmarks": ["needle"]})
    known["compare"]["ablations"] = []
    check_runs(known)
    known["compare"]["ablations"] = ["other"]
    with pytest.raises(ValueError, match=r"compare\.ablations: 'other' has benchmarks of its own"):
        check_runs(known)
