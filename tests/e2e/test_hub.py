"""Every data set from a hub through the workflow: downloaded, decoded, evaluated, accounted for; then nothing to do.

The hub is a local one with the published layouts; its videos are needle videos, some are missing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import layouts
from tests.dag.conftest import copy_workflow
from tests.hub_server import HubServer
from viarl.datasets.needle import plan
from viarl.datasets.needle_render import encode, render

pytestmark = pytest.mark.e2e

OVERLAY = {
    "dataset": "viarl_data",
    "benchmarks": ["videomme", "videomme_subtitles", "mlvu", "mlvu_repacked", "lvbench", "llava_video_validation"],
    "hub": {"validation_share": 0.2, "max_missing_share": 0.4},
    "stand_ins": {"effort": 0.001},
    "evaluation": {"selectors": ["uniform", "clip_topk", "oracle", "base", "learned"], "bootstrap": 10},
}
TARGETS = ["results/smoke/cycle0/eval.json", "results/smoke/data_card.json"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    videos = []
    for index in range(3):
        scene = plan(0, "test", index)
        videos.append(tmp_path / f"{scene.id}.mp4")
        encode(render(scene), videos[-1], scene.quality)
    for name in layouts.NAMES:
        layouts.write(name, tmp_path / "published", videos)
    with HubServer() as server:
        server.add_folders(tmp_path / "published")
        yield server


def test_from_a_hub_to_the_evaluation(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    root = copy_workflow(tmp_path / "copy").root
    (root / "hub.yaml").write_text(yaml.safe_dump(OVERLAY))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *TARGETS]
    command += ["--configfile", "presets/smoke.yaml", "hub.yaml"]
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": ""}

    def run() -> str:
        done = subprocess.run(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout

    run()
    summary = json.loads((root / "results/smoke/cycle0/eval.json").read_text())
    card = json.loads((root / "results/smoke/data_card.json").read_text())
    assert set(card["sets"]) == {"viarl_data_train", *OVERLAY["benchmarks"]}
    gone = set()
    for name, known in card["sets"].items():
        assert known["found"] == known["kept"] + sum(known["dropped"].values())
        if name in summary["benchmarks"]:
            assert summary["benchmarks"][name]["n"] == known["kept"]  # questions on missing videos count
            (frames,) = (root / f"results/smoke/data/frames/{name}").glob("*.json")
            bad = json.loads(frames.read_text())["bad"]
            assert bad == dict.fromkeys(known["videos"]["missing"], "is missing at its source")
            gone |= bad.keys()
    assert gone
    train = card["sets"]["viarl_data_train"]
    assert card["filter"]["found"] == train["kept"]
    assert card["filter"]["dropped"].get("unreadable video", 0) == train["questions_on_missing_videos"]
    asked = len(hub.requests)
    assert "Nothing to be done" in run()
    assert len(hub.requests) == asked
