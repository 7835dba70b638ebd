"""What a change makes stale: the jobs whose result it can change, and what follows them; never anything else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import zoo
from tests.dag.conftest import Plan, Workflow, copy_workflow
from tests.dag.staleness import CONFIG, MARKS, REPOSITORY, TABLE, Row, keys, readme_table, rows
from viarl.config.runs import overlaid

pytestmark = pytest.mark.dag


def edit(workflow: Workflow, module: str, change: Callable[[str], str]) -> None:
    """Change the text of a module of the copy."""
    path = workflow.root / "workflow" / Path(*module.split(".")).with_suffix(".py")
    path.write_text(change(path.read_text()))


def test_every_key_has_a_row() -> None:
    """A new key of the configuration needs one."""
    assert [row.key for row in rows()] == list(dict.fromkeys(row.key for row in rows()))
    assert {row.key for row in rows()} == keys().keys()
    unnamed = {key for key, row in TABLE["keys"].items() if "again" not in row}
    assert unnamed == {name for name, counts in keys().items() if not counts}


def test_readme_has_the_table() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text.partition(MARKS[0])[2].partition(MARKS[1])[0].strip() == readme_table()


@pytest.fixture(scope="module")
def done(_finished: Workflow) -> Workflow:
    """The default, done, with videos of the user's own beside it; nothing here changes it."""
    (_finished.root / "mine").mkdir(exist_ok=True)
    (_finished.root / "mine" / "a.mp4").write_bytes(b"x")
    (_finished.root / "mine.csv").write_text("video,question,options,answer\na.mp4,Why?,this|that,A\n")
    return _finished


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.key)
def test_key(done: Workflow, row: Row) -> None:
    assert done.plan(overlay=row.overlay).counts == row.jobs


@pytest.mark.parametrize(
    ("change", "rule", "jobs"),
    [
        ({"limit": 50}, "fetch_dataset", 2),
        ({"archives": 1}, "fetch_dataset", 2),
        ({"validation_share": 0.1}, "fetch_dataset", 1),
        ({"split_seed": 1}, "fetch_dataset", 1),
        ({"lvbench_videos": "lmms-lab/LVBench"}, "fetch_dataset", 1),
        ({"viarl_data_parts": ["random_8k"]}, "fetch_dataset", 0),  # of another set
        ({"revisions": {"AIWinter/LVBench": "v2"}}, "fetch_dataset", 1),
        ({"revisions": {"lmms-lab/LLaVA-Video-178K": "v2"}}, "fetch_dataset", 1),
        ({"revisions": {"MLVU/MVLU": "v2"}}, "fetch_dataset", 0),
        ({"keep_archives": True, "max_missing_share": 1.0}, "fetch_dataset", 0),
    ],
)
def test_what_concerns_a_download_makes_it_again(
    downloaded: Workflow, change: dict[str, Any], rule: str, jobs: int
) -> None:
    """And what follows; a download that is done again finds its files where they are."""
    counts = downloaded.plan("results/data_card.json", overlay=overlaid(DOWNLOADS, {"hub": change})).counts
    assert counts[rule] == jobs
    assert bool(counts) == bool(jobs)


DOWNLOADS = {"dataset": "llava_video", "benchmarks": ["lvbench"]}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """Everything up to the data card of two data sets from a hub, done."""
    workflow = copy_workflow(tmp_path_factory.mktemp("downloaded"))
    (workflow.root / "downloads.yaml").write_text(yaml.safe_dump(DOWNLOADS))
    workflow.pretend("results/data_card.json", "--configfile", "downloads.yaml")
    return workflow


TESTED = {"benchmarks": ["mlvu", "mlvu_repacked", "lvbench"]}


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The untouched pair, evaluated on three sets from a hub."""
    workflow = copy_workflow(tmp_path_factory.mktemp("tested"))
    (workflow.root / "tested.yaml").write_text(yaml.safe_dump(TESTED))
    workflow.pretend("results/cycle0/eval.json", "--configfile", "tested.yaml")
    return workflow


@pytest.mark.parametrize(
    ("module", "jobs", "sets"),
    [
        ("viarl.datasets.mlvu", {"fetch_dataset": 1, "evaluate": 1, "summarise_evaluation": 1}, {"mlvu"}),
        ("viarl.datasets.videomme", {}, set()),
        ("viarl.evaluate.benchmarks.mlvu", {"evaluate": 2, "summarise_evaluation": 1}, {"mlvu", "mlvu_repacked"}),
        ("viarl.evaluate.benchmarks.videomme", {}, set()),
        ("viarl.evaluate.headlines", {"summarise_evaluation": 1}, set()),
    ],
)
def test_what_is_imported_by_a_computed_name_concerns_its_own_sets(
    tested: Workflow, tmp_path: Path, module: str, jobs: dict[str, int], sets: set[str]
) -> None:
    """A parser its set, a benchmark's module the evaluations of its sets."""
    shutil.copytree(tested.root, tmp_path / "copy", symlinks=True)
    workflow = Workflow(tmp_path / "copy")
    edit(workflow, module, lambda text: f"{text}\nCHANGED = True\n")
    plan = workflow.plan("results/cycle0/eval.json", overlay=TESTED)
    rules = ("fetch_dataset", "evaluate", "summarise_evaluation")
    assert {rule: plan.counts[rule] for rule in rules if plan.counts[rule]} == jobs
    parts = {part.partition(".")[0] for path in plan.outputs for part in Path(path).parts}
    assert parts & set(TESTED["benchmarks"]) == sets


def test_a_new_line_in_the_sets_makes_nothing_stale(tested: Workflow, tmp_path: Path) -> None:
    """A benchmark that is added is fetched and evaluated, and summarised with the others, which stay as they are."""
    shutil.copytree(tested.root, tmp_path / "copy", symlinks=True)
    workflow = Workflow(tmp_path / "copy")
    library = workflow.root / "workflow" / "viarl"
    (library / "datasets" / "zoo.py").write_text(zoo.PARSER)
    (library / "evaluate" / "benchmarks" / "zoo.py").write_text(zoo.BENCHMARK)
    line = f'SETS = {{\n    "zoo": {zoo.LINE},'
    edit(workflow, "viarl.datasets.hub.sets", lambda text: text.replace("SETS = {", line))
    assert not workflow.plan("results/cycle0/eval.json", overlay=TESTED).jobs
    plan = workflow.plan("results/cycle0/eval.json", overlay={"benchmarks": [*TESTED["benchmarks"], "zoo"]})
    assert all("zoo" in path or path == "results/cycle0/eval.json" for path in plan.outputs)
    assert (plan.counts["fetch_dataset"], plan.counts["evaluate"]) == (1, 1)


def second_run(workflow: Workflow) -> Plan:
    assert not workflow.plan("results/cycle2/eval.json").jobs
    return workflow.plan()


def comment(workflow: Workflow) -> Plan:
    def change(text: str) -> str:
        first, _, rest = text.partition('"""\n')
        return f'{first} In other words.\n"""\n\n\n# A remark.\n{rest}'

    for module in ("viarl.training.rl.reward", "viarl.video.reader", "viarl.stages.evaluate"):
        edit(workflow, module, change)
    return workflow.plan()


def touch(workflow: Workflow) -> Plan:
    for path in [*(workflow.root / "results").rglob("*"), *(workflow.root / "workflow").rglob("*")]:
        if path.is_file():
            os.utime(path)
    return workflow.plan()


def resources(workflow: Workflow) -> Plan:
    assert not workflow.plan("--set-resources", "train_selector:mem_mb=99999").jobs
    return workflow.plan("--profile", "slurm")


def other_machine(workflow: Workflow) -> Plan:
    moved = workflow.root.with_name("moved")
    shutil.copytree(workflow.root, moved, symlinks=True)  # new times of the folders, other absolute paths
    return Workflow(moved).plan()


def deleted_intermediate(workflow: Workflow) -> Plan:
    (workflow.root / "results" / "data" / "frames" / "needle" / "0.json").unlink()
    return workflow.plan()


def deleted_result(workflow: Workflow) -> Plan:
    (workflow.root / "results" / "cycle2" / "eval.json").unlink()
    return workflow.plan()


def changed(*modules: str) -> Callable[[Workflow], Plan]:
    """Change the meaning of modules."""

    def change(workflow: Workflow) -> Plan:
        for module in modules:
            edit(workflow, module, lambda text: f"{text}\nCHANGED = True\n")
        return workflow.plan()

    return change


def new_benchmark(workflow: Workflow) -> Plan:
    return workflow.plan(overlay={"benchmarks": ["needle", "needle_shifted", "needle_validation"]})


MINE = {
    "benchmarks": ["local"],
    "local": {"folder": "mine", "questions": "mine.csv"},
    "selector": {"model": "weights", "prompt": "paper"},  # a folder
}
EVALUATION = "results/cycle0/eval.json"
EVALUATE_MINE = ("--no-hooks", "--configfile", "overlay.yaml", "--", EVALUATION)


def with_files_of_ones_own(workflow: Workflow) -> Workflow:
    """Add videos, questions and a model of the user's own, read for real, and the rest as if it were done."""
    files = {f"mine/{number}.mp4": f"video {number}" for number in range(8)}
    files["mine.csv"] = "video,question\n" + "".join(f"{number}.mp4,What?\n" for number in range(8))
    files |= {"weights/config.json": "{}", "weights/chat_template.jinja": "", "weights/model.safetensors": "weights"}
    for name, content in files.items():
        (workflow.root / name).parent.mkdir(exist_ok=True)
        (workflow.root / name).write_text(content)
    (workflow.root / "overlay.yaml").write_text(yaml.safe_dump(MINE))
    workflow.pretend(*EVALUATE_MINE)
    lists = ("results/data/sets/local/videos.jsonl", "results/data/own_models/selector.json")
    read = workflow.run("--force", *EVALUATE_MINE[:-1], *lists)
    assert Plan.of(read.output).counts == {"import_local": 1, "hash_model": 1}, read.output
    workflow.record(*EVALUATE_MINE)
    assert not workflow.plan(EVALUATION, overlay=MINE).jobs
    return workflow


def replaced(path: Path, content: str, **times: Any) -> None:
    """Put another file in the place of one, as `mv` does."""
    path.with_name("new").write_text(content)
    os.utime(path.with_name("new"), **times)
    path.with_name("new").replace(path)


def touched_own_files(workflow: Workflow) -> Plan:
    root = with_files_of_ones_own(workflow).root
    for path in (root / "mine/3.mp4", root / "mine.csv", root / "weights/model.safetensors"):
        os.utime(path)
    return Plan.of(workflow.run(*EVALUATE_MINE).output)


def copied_own_files(workflow: Workflow) -> Plan:
    root = with_files_of_ones_own(workflow).root
    shutil.copytree(root, root.with_name("moved"), symlinks=True, copy_function=shutil.copy)  # other times, inodes
    return Plan.of(Workflow(root.with_name("moved")).run(*EVALUATE_MINE).output)


def older_video(workflow: Workflow) -> Plan:
    replaced(with_files_of_ones_own(workflow).root / "mine/3.mp4", "VIDEO 3", times=(1e9, 1e9))
    return workflow.plan(EVALUATION, overlay=MINE)


def older_questions(workflow: Workflow) -> Plan:
    replaced(with_files_of_ones_own(workflow).root / "mine.csv", "video,question\n3.mp4,Who?\n", times=(1e9, 1e9))
    return workflow.plan(EVALUATION, overlay=MINE)


def older_weights(workflow: Workflow) -> Plan:
    replaced(with_files_of_ones_own(workflow).root / "weights/model.safetensors", "WEIGHTS", times=(1e9, 1e9))
    return workflow.plan(EVALUATION, overlay=MINE)


OTHERS = {
    "second_run": second_run,
    "comment": comment,
    "touch": touch,
    "resources": resources,
    "other_machine": other_machine,
    "deleted_intermediate": deleted_intermediate,
    "deleted_result": deleted_result,
    "reward_code": changed("viarl.training.rl.reward"),
    "reader_code": changed("viarl.video.reader"),
    "tracking_code": changed("viarl.progress", "viarl.tracking.record"),
    "new_benchmark": new_benchmark,
    "touched_own_files": touched_own_files,
    "copied_own_files": copied_own_files,
    "older_video": older_video,
    "older_questions": older_questions,
    "older_weights": older_weights,
}


@pytest.mark.parametrize("name", TABLE["others"])
def test_other_change(finished: Workflow, name: str) -> None:
    assert OTHERS[name](finished).counts == TABLE["groups"][TABLE["others"][name]["again"]]["jobs"]


def test_a_third_cycle_touches_nothing_before_it(done: Workflow) -> None:
    """From 2 to 3: files of cycle 3 alone, and the report."""
    plan = done.plan(overlay={"cycles": 3})
    assert all(path.startswith(("results/cycle3/", "results/report/")) for path in plan.outputs)


def test_a_video_with_the_time_and_size_of_the_one_before(finished: Workflow) -> None:
    """It is another file, and its frames are decoded; what fails over them stays stale."""
    video = with_files_of_ones_own(finished).root / "mine/3.mp4"
    before = video.stat()
    replaced(video, "VIDEO 3", ns=(before.st_atime_ns, before.st_mtime_ns))
    done = finished.run(*EVALUATE_MINE)
    assert done.returncode == 1 and "import_local" in Plan.of(done.output).counts
    assert "rule cache_frames:" in done.output  # it is no real video, and there is no other
    again = {"score_frames": 2, "select_frames": 1, "evaluate": 1, "summarise_evaluation": 1}
    assert finished.plan(EVALUATION, overlay=MINE).counts == again


def test_a_changed_job_that_failed_stays_stale(finished: Workflow) -> None:
    """What follows from its output was made of the one before."""
    change = {"reward": {"length": 0.5}}
    (finished.root / "overlay.yaml").write_text(yaml.safe_dump(change))
    done = finished.run("--no-hooks", "--configfile", "overlay.yaml", "--", "results/cycle2/eval.json")
    assert done.returncode == 1 and Plan.of(done.output).counts == {"train_selector": 1}  # its inputs are made up
    plan = finished.plan("results/cycle2/eval.json", overlay=change)
    assert plan.counts["train_selector"] == 2 and plan.counts["summarise_evaluation"] == 1


def test_weights_that_are_too_large_to_be_hashed_by_snakemake(finished: Workflow) -> None:
    """Touched or copied they make nothing stale; deleted they are made again where they are needed."""
    limit = ("--max-checksum-file-size", "10000")
    weights = [*(finished.root / "results").rglob("model.safetensors")]
    assert len(weights) == 3 + 2 * 2
    for path in weights:
        path.write_bytes(bytes(20000))
    finished.record(*limit)
    for path in weights:
        os.utime(path)
    assert not finished.plan(*limit).jobs
    copy = finished.root.with_name("moved")
    shutil.copytree(finished.root, copy, symlinks=True, copy_function=shutil.copy)
    assert not Workflow(copy).plan(*limit).jobs
    (finished.root / "results/cycle1/selector/model.safetensors").unlink()
    assert not finished.plan(*limit).jobs
    more = finished.plan("results/cycle1/evaluate/needle_validation.parquet", *limit)
    assert more.counts["train_selector"] == 1 and more.counts["tune_answerer"] == 1
    assert finished.plan("results/cycle1/selector/model.safetensors", *limit).counts == {"train_selector": 1}


def test_seeds_share_the_data(done: Workflow) -> None:
    plan = done.plan("results/seed1/cycle2/eval.json")
    assert not {"make_needle", "build_stand_ins", "cache_frames", "score_frames"} & set(plan.counts)
    assert all(path.startswith("results/seed1/") for path in plan.outputs)


STARTED = {
    "initialise_selector": 1, "select_frames": 8, "train_selector": 2, "tune_answerer": 2, "evaluate": 6,
}  # fmt: skip


CYCLE = {"train_selector": 1, "select_frames": 3, "tune_answerer": 1, "evaluate": 2}
TRAINED = {rule: 2 * count for rule, count in CYCLE.items()}
FILTERED = TRAINED | {"filter_guessable": 1}
STARTED = TRAINED | {"initialise_selector": 1, "select_frames": 8, "evaluate": 6}
OTHER_BUDGET = FILTERED | {"build_stand_ins": 2, "select_frames": 8, "evaluate": 6}
ABLATIONS = {  # what each of the default's ablations runs besides its summary, once the main run is done
    "no_format": TRAINED,
    "no_index": TRAINED,
    "no_answer": TRAINED,
    "no_length": TRAINED,
    "answer_only": TRAINED,
    "cycles_1": {},
    "cycles_3": CYCLE,
    "cycles_4": TRAINED,
    "start_clip": STARTED,
    "start_noisy": STARTED,
    "start_oracle": STARTED,
    "filter_none": FILTERED,
    "filter_blind": FILTERED,
    "filter_variance": FILTERED,
    "plain": TRAINED,
    "group_normalised": TRAINED,
    "budget_half": OTHER_BUDGET,
    "budget_double": OTHER_BUDGET,
    "lora": TRAINED,
    "lora_rate": TRAINED,
}


def test_every_ablation_is_in_the_table() -> None:
    assert set(CONFIG["ablations"]) == set(ABLATIONS) == set(CONFIG["compare"]["ablations"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_runs_what_it_touches(done: Workflow, name: str) -> None:
    """In its own folders alone; what goes beyond the main run's last cycle belongs to the main run."""
    cycles = CONFIG["ablations"][name]["overlay"].get("cycles", CONFIG["cycles"])
    plan = done.plan(f"results/ablations/{name}/cycle{cycles}/eval.json")
    assert plan.counts == ABLATIONS[name] | {"summarise_evaluation": 1}
    own = (f"results/ablations/{name}/", f"results/data/ablations/{name}/", "results/cycle3/", "results/cycle4/")
    assert all(path.startswith(own) for path in plan.outputs)


def test_a_new_ablation_adds_its_own_jobs_and_the_comparison(done: Workflow) -> None:
    """One that changes the reward: selector training, selection, tuning, evaluation and the comparison."""
    entry = {"hypothesis": "to see what happens", "overlay": {"reward": {"length": 0.1}}}
    compare = {"ablations": ["new"], "seeds": [0]}
    plan = done.plan("results/comparison.csv", overlay={"ablations": {"new": entry}, "compare": compare})
    assert plan.counts == TRAINED | {"summarise_evaluation": 1, "compare_runs": 1}
    assert "results/ablations/new/cycle2/eval.json" in plan.outputs


def test_cycles_until_nothing_is_gained(finished: Workflow) -> None:
    """Each cycle waits for the verdict on the one before; a cycle that is done is not done again."""
    auto = {"cycles": "auto", "max_cycles": 3}
    verdicts = [finished.root / "results" / f"cycle{c}" / "verdict.json" for c in (1, 2)]
    assert finished.plan(overlay=auto).counts["judge_gain"] == 1
    verdicts[0].write_text('{"stop": false}')
    plan = finished.plan(overlay=auto)
    assert (plan.counts["judge_gain"], plan.counts["train_selector"]) == (1, 0)
    verdicts[1].write_text('{"stop": true}')
    assert not finished.plan(overlay=auto).jobs
    verdicts[1].write_text('{"stop": false}')
    assert finished.plan(overlay=auto).counts["train_selector"] == 1
    assert finished.plan(overlay=auto | {"max_cycles": 2}).counts["train_selector"] == 0


def test_seeds_that_stop_at_different_cycles_are_compared_up_to_the_last(finished: Workflow) -> None:
    rows = [f"results/seed1/cycle2/evaluate/{name}.parquet" for name in ("needle", "needle_shifted")]
    finished.pretend(*rows)
    auto = {"cycles": "auto", "max_cycles": 3, "compare": {"ablations": [], "seeds": [0, 1]}}
    for run, c, stop in (("", 1, "true"), ("seed1/", 1, "false"), ("seed1/", 2, "false")):
        (finished.root / f"results/{run}cycle{c}/verdict.json").write_text(f'{{"stop": {stop}}}')
    plan = finished.plan("results/comparison.csv", overlay=auto)
    assert plan.counts["judge_gain"] == 0 and plan.counts["compare_runs"] == 1
    assert {f"results/{run}cycle3/evaluate/needle.parquet" for run in ("", "seed1/")} <= plan.outputs
