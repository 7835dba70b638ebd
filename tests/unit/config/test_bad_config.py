"""Mistakes in the configuration: each is named in one clear line, with the remedy, before any job.

The tables hold (what is given, a pattern that the line must match).
"""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from said import one_line
from viarl.config.check import check
from viarl.config.files import check_files, typed
from viarl.config.runs import overlaid
from viarl.faults import LISTED

REPOSITORY = Path(__file__).resolve().parents[3]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def training(**values: Any) -> dict[str, Any]:
    return {"selector": {"training": values}}


def local(**values: Any) -> dict[str, Any]:
    return {"dataset": "local", "local": {"folder": str(REPOSITORY), "questions": str(__file__), **values}}


def key(name: str, value: Any, says: str) -> tuple[dict[Any, Any], str]:
    """One key and its value, with which the line begins, and how the line goes on."""
    overlay = value
    for part in reversed(name.split(".")):
        overlay = {part: overlay}
    return overlay, f"{re.escape(f'{name} = {value!r}')}: {says}"


def pathvar(**values: str) -> dict[str, Any]:
    return {"pathvars": values}


CONFIG: dict[str, tuple[dict[Any, Any], str]] = {
    # keys
    "unknown key": ({"cycle": 3}, "cycle = 3: unknown key; did you mean 'cycles'?"),
    "unknown key, second level": ({"frames": {"candidate": 8}}, "frames.candidate = 8: unknown key; did you mean 'can"),
    "unknown key, level 3": key("selector.training.learning_rat", 1.0, "unknown key; did you mean 'learning_rate'?"),
    "unknown key, nothing near": key("reward.style", 1, "unknown key; known are answer, format, index, length"),
    "a key that is no text": ({True: 1}, "True = 1: unknown key"),
    # types: each kind of value where another belongs
    "text for a whole number": ({"cycles": "two"}, "cycles = 'two': wrong type; write a whole number"),
    "fraction for a whole number": key("frames.selected", 2.5, "wrong type; write a whole nu"),
    "a point in a whole number": ({"seed": 2.0}, "seed = 2.0: wrong type; write a whole number without a point"),
    "true for a number or a word": ({"cycles": True}, "cycles = True: wrong type; write a whole number or auto"),
    "true for a whole number": ({"seed": True}, "seed = True: wrong type; write a whole number"),
    "number for true": ({"filter": {"drop_never_right": 1}}, "drop_never_right = 1: wrong type; write true or false"),
    "null for a number": ({"reward": {"answer": None}}, "reward.answer = None: wrong type; write a number"),
    "list for a number": ({"reward": {"answer": [1]}}, r"reward.answer = \[1\]: wrong type; write a number"),
    "number for a section": ({"reward": 3}, "reward = 3: wrong type; write a mapping of keys"),
    "emptied section": ({"frames": None}, "frames = None: wrong type; write a mapping of keys"),
    "list for a section": ({"clip": [1]}, r"clip = \[1\]: wrong type; write a mapping of keys"),
    "text for a list": ({"benchmarks": "needle"}, "benchmarks = 'needle': wrong type; write a list"),
    "mapping for text": ({"tracking": {"experiment": {"a": 1}}}, "tracking.experiment = .*: wrong type; write a text"),
    "power of ten without a point": (training(learning_rate="4e-7"), "it has a point, as in 4.0e-7"),
    "a very long value": ({"cycles": "x" * 10**6}, r"cycles = 'x{120}'… \(999880 characters more\): wrong type"),
    # ranges
    "negative weight": ({"reward": {"index": -1}}, "reward.index = -1: out of range; it must be at least 0"),
    "negative seed": ({"seed": -1}, "seed = -1: out of range; it must be at least 0"),
    "seed too large": ({"seed": 2**31}, "seed = 2147483648: out of range; it must be at most 2147483647"),
    "odd N": ({"frames": {"candidates": 31}}, "frames.candidates = 31: out of range; it must be a multiple of 2"),
    "huge N": key("frames.candidates", 10**12, "out of range; it must be at most"),
    "huge steps": (training(steps=10**30), "selector.training.steps = 1000.*: out of range; it must be at most"),
    "learning rate 5": (training(learning_rate=5.0), "learning_rate = 5.0: out of range; it must be at most 1"),
    "no steps": (training(steps=0), "selector.training.steps = 0: out of range; it must be at least 1"),
    "nan": (training(learning_rate=float("nan")), "learning_rate = nan: wrong type; write a number that is finite"),
    "infinite": key("reward.answer", float("inf"), "wrong type; write a number that is finite"),
    "noise above 1": key("selector.start.noise", 1.5, "out of range; it must be at"),
    "start warms up too long": key("selector.start.warmup_steps", 61, "more than selector.start.steps = 60"),
    "unknown labels": key("selector.start.labels", "orakel", "unknown value; did you mean 'oracle'?"),
    "labels that are null": ({"selector": {"start": {"labels": None}}}, "selector.start.labels = None: unknown value"),
    "prompts that processes cannot share": (
        {"launcher": {"processes": 16}},
        "selector.training.prompts_per_step = 24: no multiple of launcher.processes = 16; change one of them",
    ),
    "batches that processes cannot share": (
        {"launcher": {"processes": 3}},
        "answerer.tuning.batch_size = 32: no multiple of launcher.processes = 3; change one of them",
    ),
    "microbatches that do not divide a process's share": (
        {"launcher": {"processes": 4}, **training(groups_per_microbatch=4)},
        "selector.training.groups_per_microbatch = 4: does not divide selector.training.prompts_per_step = 24 over "
        "launcher.processes = 4",
    ),
    "microbatches that do not divide the batch": key(
        "answerer.tuning.micro_batch_size", 5, "does not divide answerer.tuning.batch_size = 32; change one of them, or"
    ),
    "evaluation on the training videos": (
        local() | {"benchmarks": ["local"]},
        r"benchmarks = \['local'\]: 'local' holds the videos that dataset = 'local' trains on; name 'local_validation'",
    ),
    "validation share of videos that are not trained on": key(
        "benchmarks", ["local_validation"], "'local_validation' is the share of your videos that dataset"
    ),
    "folder that nothing uses yet": ({"local": {"folder": "absent"}}, "local.folder = 'absent': not found; give the"),
    "too few tokens for the list": (
        {"frames": {"selected": 8}},
        "selector.max_new_tokens = 32: too few for the stand-in to name frames.selected = 8 frames; raise it to 38",
    ),
    "more questions than things to ask": key("needle.questions_per_video", 5, "out of range; it must be at most 4"),
    "CLIP's name": (
        {"clip": {"model": "ViT-L-41", "pretrained": "openai"}},
        "clip.model = 'ViT-L-41': unknown to open_clip; did you mean 'ViT-L-1",
    ),
    "CLIP with another activation": (
        {"clip": {"model": "ViT-L-14", "pretrained": "openai"}},
        "clip.model = 'ViT-L-14': it computes with GELU, and .* with QuickGELU; set it to ViT-L-14-quickgelu",
    ),
    "weights of another CLIP": (
        {"clip": {"model": "ViT-L-14-quickgelu", "pretrained": "laion2b_s32b_b82k"}},
        "clip.pretrained = 'laion2b_s32b_b82k': .*; set clip.model to ViT-L-14$",
    ),
    "weights that CLIP has not": (
        {"clip": {"model": "ViT-L-14", "pretrained": "opnai"}},
        "clip.pretrained = 'opnai': .*did you mean 'openai'",
    ),
    "a CLIP without weights": (
        {"clip": {"model": "ViT-S-32", "pretrained": "openai"}},
        "clip.pretrained = .*none of an",
    ),
    "weights beside a repository's": (
        {"clip": {"model": "hf-hub:a/b", "pretrained": "openai"}},
        "clip.pretrained = 'openai': the weights are those of hf-hub:a/b; set it to null",
    ),
    "tracking without http": key("tracking.uri", "localhost:5000", "names no kind of store; write http://host:port"),
    "variable in a path": (pathvar(results="$SCRATCH/viarl"), "pathvars.results = .*: variables are not expanded"),
    "a path in two spellings": (pathvar(results="./results/"), "pathvars.results = .*: write it as results, as"),
    "unknown launcher configuration": key("launcher.config", "fsdp", "no such file; did you mean 'fsdp2'?"),
    "shards without GPUs": (
        {"device": "cpu", "launcher": {"processes": 2, "config": "fsdp2"}},
        "launcher.config = 'fsdp2': needs GPUs, but device = 'cpu'; set it to 'ddp'",
    ),
    "share above 1": ({"frames": {"max_bad_share": 2}}, "frames.max_bad_share = 2: out of range; it must be at most 1"),
    "quality 100": key("frames.jpeg_quality", 100, "out of range; it must be at most 95"),
    "no benchmark": ({"benchmarks": []}, r"benchmarks = \[\]: out of range; it must be of a length of at least 1"),
    "three lengths": ({"selector": {"length_range": [1, 2, 3]}}, "length_range = .*: .* of a length of at most 2"),
    "empty text": ({"tracking": {"experiment": ""}}, "tracking.experiment = '': out of range"),
    "line end at the end": ({"tracking": {"experiment": "a\n"}}, r"tracking.experiment = 'a\\n': holds a line end or"),
    "name of an ablation": (
        {"ablations": {"No length": {"hypothesis": "h", "overlay": {"seed": 1}}}},
        r"ablations: 'No length' is not of the form \^\[a-z0-9_\]\+\$; rename it",
    ),
    "ablation of nothing": (
        {"ablations": {"none": {"hypothesis": "h", "overlay": {}}}},
        r"ablations.none.overlay = {}: out of range; it must be of a length of at least 1",
    ),
    # words
    "unknown data set": ({"dataset": "needles"}, "dataset = 'needles': unknown value; did you mean 'needle'?"),
    "benchmark for training": ({"benchmarks": ["needle_train"]}, "benchmarks.0 = 'needle_train': unknown value"),
    "benchmark twice": ({"benchmarks": ["needle", "needle"]}, "benchmarks = .*: an entry stands twice; remove one"),
    "unknown protocol": ({"evaluation": {"protocol": "lmms_eval"}}, "did you mean 'lmms-eval'?"),
    "unknown selector": ({"evaluation": {"selectors": ["uniform", "learned", "bold"]}}, "did you mean 'bolt'?"),
    "unknown algorithm": (training(algorithm="reinforce"), r"did you mean 'reinforce\+\+'?"),
    # what contradicts itself
    "K > N": ({"frames": {"selected": 40}}, "frames.selected = 40: more than frames.candidates = 32, .*; lower"),
    "small above large": key("frames.selector_pixels", 64, "more than frames.answerer"),
    "number above frame": key("frames.number_pixels", 29, "more than frames.selector_pix"),
    "group of one": (training(group_size=1), r"selector.training.group_size = 1: .*set it to 2 or more \(paper: 8\)"),
    "rollout reused unevenly": key("selector.training.updates_per_rollout", 3, "selector.training.steps = 16"),
    "empty length range": ({"selector": {"length_range": [32, 8]}}, r"selector.length_range = \[32, 8\]: empty; give"),
    "unreachable lengths": ({"selector": {"length_range": [80, 512]}}, "for selector.max_new_tokens = 32; lower the"),
    "long warm-up": key("selector.training.warmup_steps", 1000, "more than selector.training.steps = 16; lower it"),
    "long warm-up, answerer": key("answerer.tuning.warmup_steps", 1000, "more than answerer.tuning.steps = 80"),
    "zero weights": ({"reward": dict.fromkeys(DEFAULT["reward"], 0)}, "reward = .*: all weights are 0, .*; raise one"),
    "no such model": key("selector.model", "standin", "no such .*did you mean 'stand-in'"),
    "no model folder": ({"answerer": {"model": "./nowhere"}}, "answerer.model = './nowhere': .*config.json is missing"),
    "~ in a model": key("answerer.model", "~/qwen", "~ is not expanded; write the folder"),
    "an option for a model": key("answerer.model", "-m", "begins with -, as an option does; write ./-m"),
    "prompt of the paper": ({"answerer": {"prompt": "paper"}}, "the stand-in knows the prompt 'short' alone; set it"),
    "weights for a stand-in": ({"clip": {"pretrained": "openai"}}, "clip.pretrained = 'openai': .*; set it to null"),
    "no weights": ({"clip": {"model": "ViT-L-14"}}, "would have random weights; name the weights, for example openai"),
    "no uniform": key("evaluation.selectors", ["learned"], ".*'uniform' is missing.*; add it"),
    "no folder of videos": (local(folder=None), "local.folder = None: dataset names 'local'; give the folder of your"),
    "folder not found": (local(folder="nowhere"), "local.folder = 'nowhere': not found"),
    "folder for a file": (local(questions=str(REPOSITORY)), "local.questions = .*: not found; give the file of your"),
    "nothing to validate on": (
        local(validation_share=0) | {"benchmarks": ["local_validation"]},
        "local.validation_share = 0: .*would be empty; raise it",
    ),
    "nothing left to validate on": (
        {"hub": {"validation_share": 0}, "benchmarks": ["llava_video_validation"]},
        "hub.validation_share = 0: benchmarks names 'llava_video_validation', which would be empty; raise it",
    ),
    "unknown source": key("hub.revisions.lmms-lab/VideoMME", "main", "unknown key; did you mean 'lmms-lab/Video-MME'"),
    "no videos": ({"hub": {"limit": 0}}, "hub.limit = 0: out of range; it must be at least 1"),
    "no revision": ({"hub": {"revisions": {"MLVU/MVLU": "a b"}}}, "hub.revisions.MLVU/MVLU: 'a b' is not of the form"),
    "~ in a folder": (local(folder="~/v"), "local.folder = '~/v': ~ is not expanded"),
    # folders that are written to
    "~ in a path": key("pathvars.results", "~/results", "~ is not expanded; write the folder in full"),
    "an option for a path": (pathvar(results="-out"), "pathvars.results = '-out': begins with -, as an option does"),
    "empty path": (pathvar(results=""), "pathvars.results = '': out of range"),
    "blank path": (pathvar(results=" "), "pathvars.results = ' ': blank; write a folder"),
    "line end in a path": key("pathvars.data", "a\nb", "holds a line end or another control character; remove it"),
    "path up": (pathvar(results="a/../../b"), r"pathvars.results = .* by \.\.; write the folder in full, from / on"),
    "unknown path": (pathvar(data="<rot>/x"), "pathvars.data = .*: <rot> cannot be put in here; use <results>"),
    "wildcard in a path": (pathvar(results="out/{x}"), "pathvars.results = .*have a meaning of their own in paths"),
    "file for a folder": key("pathvars.results", "/dev/null/x", "/dev/null is a file; name a folder"),
}


@pytest.mark.parametrize("name", CONFIG)
def test_configuration(name: str) -> None:
    overlay, pattern = CONFIG[name]
    with pytest.raises(ValueError) as caught:
        check(overlaid(DEFAULT, overlay))
    one_line(caught.value, "^config: .*" + pattern)


def test_missing_section() -> None:
    config = copy.deepcopy(DEFAULT)
    del config["reward"]
    with pytest.raises(ValueError) as caught:
        check(config)
    one_line(caught.value, "config: reward is missing: give it a value, as config.yaml does")


def test_all_that_is_wrong_is_said_at_once_and_bounded() -> None:
    """Types, ranges and contradictions together; a section with a wrong type is not looked at for contradictions."""
    overlay = {"sed": 1, "cycles": -1, "frames": {"selected": 40}, "reward": {"answer": "4"}}
    with pytest.raises(ValueError) as caught:
        check(overlaid(DEFAULT, overlay))
    assert [line.split()[1] for line in str(caught.value).splitlines()] == [
        "sed",
        "cycles",
        "reward.answer",
        "frames.selected",
    ]
    with pytest.raises(ValueError) as caught:
        check(overlaid(DEFAULT, {f"key{number}": 1 for number in range(LISTED + 7)}))
    lines = str(caught.value).splitlines()
    assert len(lines) == LISTED + 1 and lines[-1] == "… and 7 more"


def test_a_model_folder_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    overlay = {"answerer": {"model": str(tmp_path), "prompt": "paper"}}
    for name, pattern in (
        ("config.json", r"no \*\.safetensors, and others are never loaded"),
        (
            "pytorch_model.bin",
            r"pickled \(pytorch_model\.bin\), which are never loaded; .*save it with save_pretrained",
        ),
    ):
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError) as caught:
            check(overlaid(DEFAULT, overlay))
        one_line(caught.value, re.escape(f"config: answerer.model = {str(tmp_path)!r}: ") + ".*" + pattern)
    for name in ("model.safetensors", "chat_template.jinja"):
        (tmp_path / name).touch()
    check(overlaid(DEFAULT, overlay))


def test_folders_that_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute ones may be anywhere; what may not be written to is refused (root may do all: so the answer is set)."""
    check(overlaid(DEFAULT, pathvar(results=str(tmp_path / "new" / "folder"), data="<results>/data")))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError) as caught:
        check(overlaid(DEFAULT, pathvar(results=str(tmp_path / "new" / "folder"))))
    one_line(caught.value, f"pathvars.results = .*: nothing may be written to {tmp_path}; change its permissions")
    assert not (tmp_path / "new").exists()


CONFIG_FILES: dict[str, tuple[bytes, str]] = {
    "a target": (b'{"schema_version": 1, "cycle": 2}', "a result, no configuration; put -- between --configfile"),
    "a key twice": (b"seed: 1\ncycles: 3\nseed: 2\n", "line 3: seed stands in line 1 already; remove one of them"),
    "an inner key twice": (b"frames:\n  shards: 1\n  shards: 2\n", "line 3: frames.shards stands in line 2 already"),
    "twice in one line": (b"frames: {shards: 1, shards: 2}\n", "line 1: frames.shards stands in line 1 already"),
    "twice in JSON with tabs": (b'{\n\t"seed": 1,\n\t"seed": 2\n}', "line 3: seed stands in line 2 already"),
    "twice in a list": (b"a:\n- b: 1\n  b: 1\n", "line 3: a.b stands in line 2 already"),
    "tabs": (b"frames:\n\tshards: 1\n", r"line 2: not YAML \(found character '\\t' .*indent with blanks, not tabs"),
    "open bracket": (b"benchmarks: [needle\n", "line 2: not YAML .*; correct it"),
    "Latin-1": ("# größer\nseed: 1\n".encode("latin-1"), r"not UTF-8 \(byte 4\); save it as UTF-8"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), r"not UTF-8 \(byte 0\); save it as UTF-8"),
    "zero byte": (b"seed: 1\0", "not YAML .*; correct it"),
    "a list": (b"- seed\n", "holds no keys; write `key: value` lines, as config.yaml does"),
    "a text": (b"seed\n", "holds no keys"),
    "empty": (b"", "holds no keys"),
    "two documents": (b"seed: 1\n---\nseed: 2\n", "line 2: not YAML .*; correct it"),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_configuration_file(name: str, tmp_path: Path) -> None:
    content, pattern = CONFIG_FILES[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        check_files([REPOSITORY / "config.yaml", path])
    one_line(caught.value, f"^config: {path}:? {pattern}")


def test_no_configuration_file_of_ours_holds_a_key_twice(tmp_path: Path) -> None:
    """Also that a file that is not there is named, and that an anchor used often costs nothing."""
    check_files([REPOSITORY / "config.yaml"])
    check_files([*(REPOSITORY / "presets").glob("*.yaml"), *(REPOSITORY / "slurm").glob("*.yaml")])
    with pytest.raises(ValueError) as caught:
        check_files([tmp_path / "none.yaml"])
    one_line(caught.value, r"none\.yaml: cannot be read \(No such file or directory\); correct the name")
    laughs = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    (tmp_path / "laughs.yaml").write_text("\n".join(laughs))
    check_files([tmp_path / "laughs.yaml"])


def test_values_of_the_command_line() -> None:
    """`--config "reward={answer: four}"`, and a text that is no YAML."""
    for given, pattern in (
        ({"reward": {"answer": "four"}}, "reward.answer = 'four': wrong type; write a number"),
        ({"selector": {"model": "[a"}}, r"selector.model = '\[a': no such folder"),
    ):
        config = overlaid(DEFAULT, given)
        typed(config, given)
        with pytest.raises(ValueError) as caught:
            check(config)
        one_line(caught.value, "^config: " + pattern)


# -------------------------------------------------------------------------------------------- the real command line

PROCESS: dict[str, tuple[list[str], bytes, str]] = {
    "a text": (["--config", "cycles=two"], b"", "^config: cycles = 'two': wrong type; write a whole number or auto$"),
    "unknown key": (["--config", "cycels=3"], b"", "^config: cycels = 3: unknown key; did you mean 'cycles'[?]$"),
    "key twice": ([], b"seed: 1\nseed: 2\n", "^config: .*mine.yaml line 2: seed stands in line 1 already; remove one"),
    "K > N": ([], b"frames: {selected: 64}\n", "^config: frames.selected = 64: more than frames.candidates = 32"),
    "not YAML": ([], b"seed: [\n", "^Config file is not valid JSON or YAML"),  # Snakemake's own words
}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow in a folder with a copy of the default configuration."""
    shutil.copy2(REPOSITORY / "config.yaml", folder / "config.yaml")
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "-d", str(folder), "-c", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.dag
@pytest.mark.parametrize("name", PROCESS)
def test_snakemake_ends_before_any_job(name: str, tmp_path: Path) -> None:
    options, overlay, pattern = PROCESS[name]
    if overlay:
        (tmp_path / "mine.yaml").write_bytes(overlay)
        options = ["--configfile", str(tmp_path / "mine.yaml")]
    before = set(tmp_path.iterdir())
    done = snakemake(tmp_path, *options)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert re.search(pattern, done.stderr, re.MULTILINE), done.stderr
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"config.yaml", ".snakemake"}


@pytest.mark.dag
def test_bad_questions_end_the_plan(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v.mp4").write_bytes(b"x")
    (tmp_path / "questions.csv").write_text("video,question,options,answer\nv.mp4,Q,a|b,E\n../v.mp4,Q,a|b,A\n")
    overlay = {"benchmarks": ["local"], "local": {"folder": "videos", "questions": "questions.csv"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    done = snakemake(
        tmp_path, "results/data/sets/local/items.jsonl", "--no-hooks", "--configfile", str(tmp_path / "mine.yaml")
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    assert re.search(r"^questions\.csv row 2: answer: 'E' is neither one of AB", said, re.MULTILINE), said
    assert re.search(r"^questions\.csv row 3: video: '../v\.mp4' leads out of local\.folder", said, re.MULTILINE), said
    assert not list(tmp_path.glob("results/data/**/*.jsonl*"))
