"""A benchmark that is added in three places is fetched, parsed, asked in its own words and reported by its figures."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from small_selector import CONFIG
from tests import layouts, zoo
from tests.hub_server import HubServer
from tests.hub_world import fetch, hub_of_all_sets, published_sets
from viarl.config import check as checks
from viarl.datasets.hub.sets import SETS, HubSet
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
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("datasets", zoo.PARSER), ("evaluate.benchmarks", zoo.BENCHMARK)):
        module = ModuleType(f"viarl.{name}.zoo")
        exec(text, module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SETS, "zoo", eval(zoo.LINE, {"HubSet": HubSet}))


@pytest.mark.usefixtures("_added")
def test_a_new_benchmark(hub: HubServer, tmp_path: Path) -> None:
    checks.check(CONFIG | {"benchmarks": ["zoo"]})
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
