"""Which jobs a target needs, for the default and for overlays."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from tests.dag.conftest import REPOSITORY, Workflow, copy_workflow
from viarl.items import read_videos

pytestmark = pytest.mark.dag

ONE_CYCLE = {"train_selector": 1, "select_frames": 3, "tune_answerer": 1, "evaluate": 2, "summarise_evaluation": 1}
DATA = {"make_needle": 3, "build_stand_ins": 3, "cache_frames": 6, "score_frames": 6, "filter_guessable": 1}
CYCLE_0 = {"select_frames": 2, "evaluate": 2, "summarise_evaluation": 1}


def total(*parts: dict[str, int]) -> dict[str, int]:
    """Add up job counts."""
    return {rule: sum(part.get(rule, 0) for part in parts) for part in parts for rule in part}


def test_default(fresh: Workflow) -> None:
    """Without a target: every cycle's evaluation and the report."""
    plan = fresh.plan()
    assert plan.counts == total(DATA, CYCLE_0, ONE_CYCLE, ONE_CYCLE, {"make_report": 1})
    assert {"results/cycle0/eval.json", "results/cycle1/eval.json", "results/cycle2/eval.json"} <= plan.outputs


def test_last_evaluation_alone(fresh: Workflow) -> None:
    """The evaluation of cycle 2 needs the tables of the cycles before, but not their summaries nor the report."""
    plan = fresh.plan("results/cycle2/eval.json")
    summaries = {path for path in plan.outputs if path.endswith("eval.json")}
    assert summaries == {"results/cycle2/eval.json"}
    assert plan.counts["train_selector"] == 2
    assert "make_report" not in plan.counts


def test_cycle_0_trains_nothing(fresh: Workflow) -> None:
    plan = fresh.plan("results/cycle0/eval.json")
    assert not {"train_selector", "tune_answerer", "filter_guessable"} & set(plan.counts)


def test_smoke_has_a_root_of_its_own(fresh: Workflow) -> None:
    """The same rules as the default, everything below results/smoke."""
    plan = fresh.plan("--configfile", "presets/smoke.yaml")
    assert set(plan.counts) == {*DATA, *ONE_CYCLE, "make_report"}
    assert plan.outputs and all(path.startswith("results/smoke/") for path in plan.outputs)


def test_another_seed(fresh: Workflow) -> None:
    """A training seed shares the data of its root, and is asked for by its path."""
    plan = fresh.plan("results/smoke/seed1/cycle2/eval.json", "--configfile", "presets/smoke.yaml")
    assert "results/smoke/data/sets/needle/items.jsonl" in plan.outputs
    assert {path for path in plan.outputs if "/seed" in path and "/data/" in path} == set()
    assert plan.counts["train_selector"] == 2


def test_paper_scale(fresh: Workflow) -> None:
    """Hub models and data sets need neither stand-ins nor generated videos; the jobs stay in the low hundreds."""
    plan = fresh.plan("--configfile", "presets/paper.yaml")
    assert not {"build_stand_ins", "make_needle"} & set(plan.counts)
    assert plan.counts["fetch_dataset"] == 1 + 3
    assert plan.counts["cache_frames"] == 16 + 3 * 4
    assert sum(plan.counts.values()) < 200
    assert all(path.startswith("results/paper/") for path in plan.outputs)


def test_a_grid_of_ablations_at_paper_scale(fresh: Workflow) -> None:
    """8,000 training videos, 3 benchmarks, 4 cycles, 10 ablations: a cluster sees hundreds of jobs, not thousands."""
    names = [f"length_{weight}" for weight in range(1, 11)]
    overlay = {
        "cycles": 4,
        "ablations": {
            name: {"hypothesis": "h", "overlay": {"reward": {"length": 0.01 * weight}}}
            for weight, name in enumerate(names, 1)
        },
        "compare": {"ablations": names, "seeds": [0]},
    }
    start = time.monotonic()
    plan = fresh.plan("all", "results/paper/comparison.csv", "presets/paper.yaml", overlay=overlay)
    assert time.monotonic() - start < 60  # 5 s of a free core; the rest is other work beside this test
    assert plan.counts["train_selector"] == 11 * 4
    assert plan.counts["evaluate"] == 3 * (1 + 11 * 4)
    assert sum(plan.counts.values()) < 500


def test_local_videos(fresh: Workflow, tmp_path: Path) -> None:
    """The user's own videos go through the same rules; needle stays available as a benchmark."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    question = {"video": "a.mp4", "question": "Why?", "options": ["this", "that"], "answer": "A"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question))
    local = {"folder": str(tmp_path / "videos"), "questions": str(tmp_path / "questions.jsonl")}
    overlay = {"dataset": "local", "benchmarks": ["local_validation", "needle"], "local": local}
    plan = fresh.plan(overlay=overlay)
    assert plan.counts["import_local"] == 2
    assert plan.counts["make_needle"] == 1
    assert plan.counts["train_selector"] == 2
    (tmp_path / "questions.jsonl").write_text(json.dumps(question | {"options": []}))
    done = fresh.run("-n", "--configfile", "overlay.yaml")
    assert done.returncode == 1 and "questions.jsonl row 1: answer: 'A', but there are no options" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("target", "overlay", "said"),
    [
        (
            "results/comparison.csv",
            {
                "ablations": {"few": {"hypothesis": "h", "overlay": {"needle": {"videos": {"test": 20}}}}},
                "compare": {"ablations": ["few"], "seeds": [0]},
            },
            "compare.ablations: 'few' has other questions of 'needle' than the main run",
        ),
        (
            "results/cycle1/eval.json",
            {"dataset": "viarl_data", "selector": {"start": {"labels": "oracle"}}},
            "selector.start.labels = 'oracle': dataset = 'viarl_data' says no evidence",
        ),
    ],
    ids=["comparison of other questions", "labels without evidence"],
)
def test_what_cannot_work_ends_the_plan(fresh: Workflow, target: str, overlay: dict, said: str) -> None:
    (fresh.root / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    done = fresh.run("-n", target, "--configfile", "overlay.yaml")
    assert done.returncode == 1 and said in done.output and "Traceback" not in done.output


def test_data_sets_from_a_hub(fresh: Workflow) -> None:
    """Each is downloaded by a job of its own, and their account is part of the whole."""
    overlay = {"dataset": "viarl_data", "benchmarks": ["videomme", "videomme_subtitles", "mlvu", "lvbench"]}
    plan = fresh.plan(overlay=overlay)
    assert plan.counts["fetch_dataset"] == 5
    assert plan.counts["write_data_card"] == 1
    assert {"make_needle", "import_local"}.isdisjoint(plan.counts)
    folder = "results/data/sets/viarl_data_train"
    assert {f"{folder}/{name}" for name in ("items.jsonl", "videos.jsonl", "manifest.json")} <= plan.outputs
    assert "results/data_card.json" in plan.outputs
    assert not any("_validation" in path for path in plan.outputs)


def test_an_ablation_of_the_data_shares_the_benchmarks(fresh: Workflow) -> None:
    ablations = {"few": {"hypothesis": "h", "overlay": {"hub": {"archives": 1}, "dataset": "llava_video"}}}
    overlay = {"dataset": "llava_video", "benchmarks": ["needle"], "ablations": ablations}
    overlay["compare"] = {"ablations": ["few"], "seeds": [0]}
    plan = fresh.plan("results/ablations/few/cycle1/eval.json", overlay=overlay)
    fetched = {path for path in plan.outputs if path.endswith("items.jsonl") and "/sets/" in path}
    assert fetched == {
        "results/data/ablations/few/sets/llava_video_train/items.jsonl",
        "results/data/sets/needle/items.jsonl",
    }


def test_validation_set_on_request(fresh: Workflow) -> None:
    plan = fresh.plan("results/cycle1/evaluate/needle_validation.parquet")
    assert "results/data/sets/needle_validation/items.jsonl" in plan.outputs


def test_answers_on_request(fresh: Workflow) -> None:
    plan = fresh.plan("results/cycle1/answers/needle.csv")
    assert plan.counts["answer_questions"] == 1
    assert "evaluate" not in plan.counts


ODD = ("movie {4K}.mkv", "a<b>.mkv", "a*b?[c].mkv", "sp ace 'q\" $HOME %s;|&.mkv", "-v.mp4", "..v.mp4", "#1.mp4")


@pytest.mark.parametrize("folder", ["my {dir} <x>", "-m", 'it\'s *[a]? "$HOME" %d'])
def test_names_of_ones_own_that_mean_something_elsewhere(folder: str, tmp_path: Path) -> None:
    """Braces, brackets, quotes, a leading hyphen: in the names of videos, of their folder, and of the questions."""
    workflow = copy_workflow(tmp_path / "copy")
    (workflow.root / folder).mkdir()
    rows = ["video,question,options,answer\n"]
    for name in ODD:
        (workflow.root / folder / name).write_text(name)
        rows.append('"{}",Why?,this|that,A\n'.format(name.replace('"', '""')))
    (workflow.root / f"{folder}.csv").write_text("".join(rows))
    overlay = {"dataset": "local", "benchmarks": ["needle"], "local": {"folder": folder, "questions": f"{folder}.csv"}}
    overlay["local"]["validation_share"] = 0
    assert workflow.plan(overlay=overlay).counts["import_local"] == 1
    done = workflow.run("--no-hooks", "--configfile", "overlay.yaml", "--", "results/data/sets/local_train/items.jsonl")
    assert done.returncode == 0, done.output
    listed = read_videos(workflow.root / "results/data/sets/local_train/videos.jsonl")
    assert {Path(video.path).read_text() for video in listed.values()} == set(ODD)


def test_a_checkout_whose_path_holds_braces_is_named(tmp_path: Path) -> None:
    workflow = copy_workflow(tmp_path / "my {dir}")
    done = workflow.run("-n")
    assert done.returncode == 1 and "Traceback" not in done.output
    assert f"{workflow.root}: braces in a path" in done.output.splitlines()[-1]


def test_answers_to_the_users_own_questions(fresh: Workflow, tmp_path: Path) -> None:
    """What the last cycle's pair says about all local videos; without videos, what is missing."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    (tmp_path / "questions.csv").write_text("video,question\na.mp4,Why?\n")
    local = {"folder": str(tmp_path / "videos"), "questions": str(tmp_path / "questions.csv")}
    plan = fresh.plan("results/answers.csv", overlay={"local": local, "cycles": 1})
    assert plan.counts["copy_answers"] == plan.counts["answer_questions"] == plan.counts["train_selector"] == 1
    assert "results/cycle1/answers/local.csv" in plan.outputs and "evaluate" not in plan.counts
    done = fresh.run("-n", "results/answers.csv")
    assert done.returncode == 1 and "config: local.questions = None: local needs it; give the path" in done.output


def test_a_stage_that_fails_fails_its_job(tmp_path: Path) -> None:
    """By its exit status, though `tee` comes after it: its own words are what is said, not that a file is missing."""
    workflow = copy_workflow(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    (tmp_path / "questions.csv").write_text("video,question,options,answer\na.mp4,Why?,this|that,A\n")
    local = f"local={{folder: {tmp_path / 'videos'}, questions: {tmp_path / 'questions.csv'}}}"
    done = workflow.run("results/data/sets/local_train/items.jsonl", "--no-hooks", "--config", local)
    assert done.returncode == 1
    assert "cannot be split" in (tmp_path / "results/logs/import_local/local_train.log").read_text()
    assert "non-zero exit code" in done.output and "MissingOutput" not in done.output


def test_an_answerer_that_is_not_tuned(fresh: Workflow) -> None:
    """Every cycle has the untouched one, and nobody picks frames for its tuning."""
    plan = fresh.plan("results/cycle2/eval.json", overlay={"answerer": {"tuning": {"steps": 0}}})
    assert "tune_answerer" not in plan.counts
    assert (plan.counts["train_selector"], plan.counts["evaluate"], plan.counts["select_frames"]) == (2, 6, 6)
    done = fresh.run("-n", "results/cycle1/answerer/model.safetensors", "--configfile", "overlay.yaml")
    assert done.returncode == 1 and "answerer.tuning.steps is 0" in done.output


def test_a_served_answerer(fresh: Workflow) -> None:
    """A stage's identity holds the model's name on the server, not where the server is; precision is the server's."""
    served = {"backend": "endpoint", "frames_as": "images", "endpoint": {"model": "one", "url": "http://h:1/v1"}}
    overlay = {"answerer": served | {"tuning": {"steps": 0}}}
    assert fresh.plan("results/cycle1/eval.json", overlay=overlay).counts["tune_answerer"] == 0
    done = fresh.run("-n", "-p", "results/cycle1/eval.json", "--configfile", "overlay.yaml")
    commands = [line for line in done.output.splitlines() if "python -m viarl.stages.evaluate" in line]
    asked = '"answerer": {"backend": "endpoint", "endpoint": {"model": "one"}, "frames_as": "images", '
    assert commands and all(asked + '"max_new_tokens": 8, "prompt": "short"}' in line for line in commands)


PROFILES = [path.relative_to(REPOSITORY) for path in REPOSITORY.glob("profiles/*/config.yaml")]


def test_no_key_stands_in_a_profile_and_in_the_default_too() -> None:
    """The one in profiles/default would win, and the other be dead."""
    default, *others = sorted([*PROFILES, Path("slurm/config.yaml")], key=lambda path: path.parent.name != "default")
    assert len(others) == 2
    keys = {path: set(yaml.safe_load((REPOSITORY / path).read_text())) for path in (default, *others)}
    assert [path for path in others if keys[path] & keys[default]] == []


@pytest.mark.parametrize(
    ("options", "limits", "resources"),
    [
        ("--profile profiles/workstation", {"gpu_jobs": 1}, {"gpu_jobs": "1"}),
        ("--resources mem_mb=1000 --profile profiles/workstation", {"gpu_jobs": 1, "mem_mb": 1000}, {"gpu_jobs": "1"}),
        ("--profile=profiles/workstation --resources gpu_jobs=2", {"gpu_jobs": 2}, {"gpu_jobs": "1"}),
        (
            "--profile profiles/workstation --set-resources train_selector:mem_mb=5",
            {"gpu_jobs": 1},
            {"gpu_jobs": "1", "mem_mb": "5"},
        ),
        (
            "--profile slurm --set-resources train_selector:mem_mb=5 --default-resources slurm_account=x",
            {},
            {"gres": "f'gpu:{threads}'", "nodes": "1", "mem_mb": "5", "slurm_account": "x"},
        ),
        ("--resources mem_mb=1000", {"mem_mb": 1000}, {}),
    ],
)
def test_the_command_line_changes_the_resources_that_it_names(
    options: str, limits: dict[str, int], resources: dict[str, str], tmp_path: Path
) -> None:
    """All others of the profile stay."""
    workflow = copy_workflow(tmp_path)
    with (tmp_path / "Snakefile").open("a") as snakefile:
        snakefile.write(
            "\nlimits = {name: one.value for name, one in workflow.global_resources.items() if name[0] != '_'}"
            "\nasked = {name: one.raw for name, one in workflow.get_rule('train_selector').resources.items()}"
            "\nprint('FOUND', json.dumps([limits, {name: str(raw) for name, raw in asked.items()}]))\n"
        )
    done = workflow.run("-n", *options.split(), "--", "results/cycle1/selector/model.safetensors")
    assert done.returncode == 0, done.output
    found = json.loads(re.search(r"^FOUND (.*)", done.output, re.MULTILINE)[1])  # type: ignore[index]
    assert found[0] == limits and resources.items() <= found[1].items()
    assert ("gpu_jobs" in found[1]) == ("workstation" in options)


def test_slurm_profile_is_found(fresh: Workflow) -> None:
    """`--profile slurm` works from a fresh checkout."""
    assert fresh.plan("--profile", "slurm").counts == fresh.plan().counts


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("sed=3", "config: sed = 3: unknown key; did you mean 'seed'?"),
        ("frames={selected: 33}", "config: frames.selected = 33: more than frames.candidates = 32"),
        ("selector={training: {group_size: 1}}", "config: selector.training.group_size = 1: "),
        ("dataset=local", "config: local.folder = None: "),
    ],
)
def test_bad_configuration_is_one_clean_line(fresh: Workflow, option: str, expected: str) -> None:
    """Before any job, without a traceback, even where a job was asked for in earnest."""
    done = fresh.run("--config", option)
    assert done.returncode == 1
    assert expected in done.output
    assert "Traceback" not in done.output
    assert "Building DAG" not in done.output
