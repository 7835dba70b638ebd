"""A benchmark that is added in three places is fetched, parsed, asked in its own words and reported by its figures."""

import json
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from small_selector import CONFIG
from tests import layouts, zoo
from tests.hub_server import HubServer
from tests.hub_world import fetch, hub_of_all_sets, published_sets
from viarl import datasets
from viarl.config.check import check
from viarl.datasets import hub as hub_package
from viarl.datasets.hub.sets import SETS
from viarl.evaluate import benchmarks
from viarl.evaluate.benchmarks import benchmark
from viarl.evaluate.protocols import protocol
from viarl.evaluate.summary import summarise
from viarl.items import read_items

__all__ = ["hub_of_all_sets", "published_sets"]  # fixtures

RECORDS = (
    {"id": "1", "film": "a", "asked": "Who roars?", "options": ["lion", "fish"], "right": "A", "kind": "sound"},
    {"id": "2", "film": "a", "asked": "Who swims?", "options": ["lion", "fish"], "right": "B", "kind": "sight"},
    {"id": "3", "film": "b", "asked": "Who flies?", "options": ["owl", "fish"], "right": "A", "kind": "sight"},
)


@pytest.fixture
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"from viarl.datasets.hub.sets import HubSet\n\nADDED = {zoo.LINE}\n"
    for package, name, text in (
        (datasets, "zoo", zoo.PARSER),
        (benchmarks, "zoo", zoo.BENCHMARK),
        (hub_package, "added", line),
    ):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setitem(SETS, "zoo", import_module("viarl.datasets.hub.added").ADDED)


@pytest.mark.usefixtures("_added")
def test_a_new_benchmark(hub: HubServer, tmp_path: Path) -> None:
    check(CONFIG | {"benchmarks": ["zoo"]})
    home = tmp_path / "published" / "keeper" / "zoo"
    for film in layouts.films(home / "videos", 2):
        film.rename(film.with_stem("ab"[int(film.stem[-1])]))
    (home / "questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    hub.add_folders(tmp_path / "published")
    assert fetch(tmp_path, "zoo")["kept"] == len(RECORDS)
    items = read_items(tmp_path / "sets" / "zoo" / "items.jsonl")
    own = benchmark(SETS["zoo"].benchmark)
    assert protocol("viarl", "short", own).text(items[0], [0]) == "In the zoo: Who roars? <A> lion\n<B> fish"
    assert protocol("lmms-eval", "short", own).text(items[0], [0]).startswith("Who roars?\nA. lion\nB. fish\n")
    about = {"benchmark": "zoo", "cycle": 0, "protocol": "viarl", "selector": "uniform", "draw": 0, "valid": True}
    about |= {"reason": "", "failed": "", "evidence_recall": float("nan"), "groups": []}
    rows = [
        about | {"item": item.id, "video": item.video, "task": item.task, "answer": item.answer, "correct": right}
        for item, right in zip(items, (True, True, False), strict=True)
    ]
    content = summarise(pd.DataFrame(rows), 0, ["zoo"], 50, headlines={"zoo": own.headlines})
    figure = content["benchmarks"]["zoo"]["headlines"]["zoo mean"]
    assert figure["groups"] == {"sight": 2, "sound": 1} and figure["selectors"]["uniform"]["value"] == 0.75
