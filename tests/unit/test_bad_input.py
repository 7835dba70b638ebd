"""What people give by mistake: each case is named in one clear line, with the remedy, and nothing is written.

The tables hold (what is given, a pattern that the line must match). Configurations are refused before any job; files of
questions by the stage that reads them, at its real command line; bad videos are listed in the manifest of their shard.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hard_videos as hard
import pytest
import yaml
from PIL import Image

from viarl.config import check, check_files, typed
from viarl.faults import LISTED
from viarl.files import LONGEST_LINE, sha256_file
from viarl.items import Video, read_items, read_videos, write_records
from viarl.runs import overlaid
from viarl.stages import cache_frames, import_local
from viarl.stages.command import run
from viarl.video import fallback, reader, writer
from viarl.video.format import VideoError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def training(**values: Any) -> dict[str, Any]:
    return {"selector": {"training": values}}


def local(**values: Any) -> dict[str, Any]:
    return {"dataset": "local", "local": {"folder": str(REPOSITORY), "questions": str(__file__), **values}}


def pathvar(**values: str) -> dict[str, Any]:
    return {"pathvars": values}


# ---------------------------------------------------------------------------------------------------- configuration

CONFIG: dict[str, tuple[dict[Any, Any], str]] = {
    # keys
    "unknown key": ({"cycle": 3}, "cycle = 3: unknown key; did you mean 'cycles'?"),
    "unknown key, second level": ({"frames": {"candidate": 8}}, "frames.candidate = 8: unknown key; did you mean 'can"),
    "unknown key, third level": (
        training(learning_rat=1.0),
        "selector.training.learning_rat = 1.0: unknown key; did you mean 'learning_rate'?",
    ),
    "unknown key, nothing near": (
        {"reward": {"style": 1}},
        "reward.style = 1: unknown key; known are answer, format, index, length",
    ),
    "a key that is no text": ({True: 1}, "True = 1: unknown key"),
    # types: each kind of value where another belongs
    "text for a whole number": ({"cycles": "two"}, "cycles = 'two': wrong type; write a whole number"),
    "fraction for a whole number": (
        {"frames": {"selected": 2.5}},
        "frames.selected = 2.5: wrong type; write a whole nu",
    ),
    "a point in a whole number": ({"seed": 2.0}, "seed = 2.0: wrong type; write a whole number without a point"),
    "true for a whole number": ({"seed": True}, "seed = True: wrong type; write a whole number"),
    "number for true": ({"filter": {"drop_never_right": 1}}, "drop_never_right = 1: wrong type; write true or false"),
    "null for a number": ({"reward": {"answer": None}}, "reward.answer = None: wrong type; write a number"),
    "list for a number": ({"reward": {"answer": [1]}}, r"reward.answer = \[1\]: wrong type; write a number"),
    "number for a section": ({"reward": 3}, "reward = 3: wrong type; write a mapping of keys"),
    "emptied section": ({"frames": None}, "frames = None: wrong type; write a mapping of keys"),
    "list for a section": ({"clip": [1]}, r"clip = \[1\]: wrong type; write a mapping of keys"),
    "text for a list": ({"benchmarks": "needle"}, "benchmarks = 'needle': wrong type; write a list"),
    "mapping for a text": (
        {"tracking": {"experiment": {"a": 1}}},
        "tracking.experiment = .*: wrong type; write a text",
    ),
    "power of ten without a point": (training(learning_rate="4e-7"), "it has a point, as in 4.0e-7"),
    "a very long value": ({"cycles": "x" * 10**6}, r"cycles = 'x{120}'… \(999880 characters more\): wrong type"),
    # ranges
    "negative weight": ({"reward": {"index": -1}}, "reward.index = -1: out of range; it must be at least 0"),
    "negative seed": ({"seed": -1}, "seed = -1: out of range; it must be at least 0"),
    "seed too large": ({"seed": 2**31}, "seed = 2147483648: out of range; it must be at most 2147483647"),
    "odd N": ({"frames": {"candidates": 31}}, "frames.candidates = 31: out of range; it must be a multiple of 2"),
    "huge N": (
        {"frames": {"candidates": 10**12}},
        "frames.candidates = 1000000000000: out of range; it must be at most",
    ),
    "huge steps": (training(steps=10**30), "selector.training.steps = 1000.*: out of range; it must be at most"),
    "learning rate 5": (training(learning_rate=5.0), "learning_rate = 5.0: out of range; it must be at most 1"),
    "no steps": (training(steps=0), "selector.training.steps = 0: out of range; it must be at least 1"),
    "nan": (training(learning_rate=float("nan")), "learning_rate = nan: wrong type; write a number that is finite"),
    "infinite": (
        {"reward": {"answer": float("inf")}},
        "reward.answer = inf: wrong type; write a number that is finite",
    ),
    "noise above 1": (
        {"selector": {"start": {"noise": 1.5}}},
        "selector.start.noise = 1.5: out of range; it must be at",
    ),
    "start warms up too long": (
        {"selector": {"start": {"warmup_steps": 61}}},
        "selector.start.warmup_steps = 61: more than selector.start.steps = 60",
    ),
    "unknown labels": (
        {"selector": {"start": {"labels": "orakel"}}},
        "selector.start.labels = 'orakel': unknown value; did you mean 'oracle'?",
    ),
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
    "microbatches that do not divide the batch": (
        {"answerer": {"tuning": {"micro_batch_size": 5}}},
        "answerer.tuning.micro_batch_size = 5: does not divide answerer.tuning.batch_size = 32; change one of them, or",
    ),
    "unknown launcher configuration": (
        {"launcher": {"config": "fsdp"}},
        "launcher.config = 'fsdp': no such file; did you mean 'fsdp2'?",
    ),
    "shards without GPUs": (
        {"device": "cpu", "launcher": {"processes": 2, "config": "fsdp2"}},
        "launcher.config = 'fsdp2': needs GPUs, but device = 'cpu'; set it to 'ddp'",
    ),
    "share above 1": ({"frames": {"max_bad_share": 2}}, "frames.max_bad_share = 2: out of range; it must be at most 1"),
    "quality 100": (
        {"frames": {"jpeg_quality": 100}},
        "frames.jpeg_quality = 100: out of range; it must be at most 95",
    ),
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
    "small above large": (
        {"frames": {"selector_pixels": 64}},
        "frames.selector_pixels = 64: more than frames.answerer",
    ),
    "number above frame": (
        {"frames": {"number_pixels": 29}},
        "frames.number_pixels = 29: more than frames.selector_pix",
    ),
    "group of one": (training(group_size=1), r"selector.training.group_size = 1: .*set it to 2 or more \(paper: 8\)"),
    "rollout reused unevenly": (
        training(updates_per_rollout=3),
        "updates_per_rollout = 3: selector.training.steps = 16",
    ),
    "empty length range": ({"selector": {"length_range": [32, 8]}}, r"selector.length_range = \[32, 8\]: empty; give"),
    "unreachable lengths": ({"selector": {"length_range": [80, 512]}}, "for selector.max_new_tokens = 32; lower the"),
    "long warm-up": (
        training(warmup_steps=1000),
        "warmup_steps = 1000: more than selector.training.steps = 16; lower it",
    ),
    "long warm-up, answerer": (
        {"answerer": {"tuning": {"warmup_steps": 1000}}},
        "more than answerer.tuning.steps = 80",
    ),
    "zero weights": ({"reward": dict.fromkeys(DEFAULT["reward"], 0)}, "reward = .*: all weights are 0, .*; raise one"),
    "no such model": (
        {"selector": {"model": "standin"}},
        "selector.model = 'standin': no such .*did you mean 'stand-in'",
    ),
    "no model folder": ({"answerer": {"model": "./nowhere"}}, "answerer.model = './nowhere': .*config.json is missing"),
    "~ in a model": (
        {"answerer": {"model": "~/qwen"}},
        "answerer.model = '~/qwen': ~ is not expanded; write the folder",
    ),
    "prompt of another model": (
        {"answerer": {"prompt": "paper"}},
        "the stand-in knows the prompt 'short' alone; set it",
    ),
    "weights for a stand-in": ({"clip": {"pretrained": "openai"}}, "clip.pretrained = 'openai': .*; set it to null"),
    "no weights": ({"clip": {"model": "ViT-L-14"}}, "would have random weights; name the weights, for example openai"),
    "no uniform": (
        {"evaluation": {"selectors": ["learned"]}},
        "evaluation.selectors = .*'uniform' is missing.*; add it",
    ),
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
    "unknown repository": (
        {"hub": {"revisions": {"lmms-lab/VideoMME": "main"}}},
        "hub.revisions.lmms-lab/VideoMME = 'main': unknown key; did you mean 'lmms-lab/Video-MME'",
    ),
    "no videos": ({"hub": {"limit": 0}}, "hub.limit = 0: out of range; it must be at least 1"),
    "no revision": ({"hub": {"revisions": {"MLVU/MVLU": "a b"}}}, "hub.revisions.MLVU/MVLU: 'a b' is not of the form"),
    "~ in a folder": (local(folder="~/v"), "local.folder = '~/v': ~ is not expanded"),
    # folders that are written to
    "~ in a path": (
        pathvar(results="~/results"),
        "pathvars.results = '~/results': ~ is not expanded; write the folder in full",
    ),
    "empty path": (pathvar(results=""), "pathvars.results = '': out of range"),
    "blank path": (pathvar(results=" "), "pathvars.results = ' ': blank; write a folder"),
    "line end in a path": (
        pathvar(data="a\nb"),
        r"pathvars.data = 'a\\nb': holds a line end or another control character; remove it",
    ),
    "path upwards": (
        pathvar(results="a/../../b"),
        r"pathvars.results = .* by \.\.; write the folder in full, from / on",
    ),
    "unknown path": (
        pathvar(data="<rot>/x"),
        "pathvars.data = .*: <rot> cannot be put in here; use <results>",
    ),
    "wildcard in a path": (pathvar(results="out/{x}"), "pathvars.results = .*have a meaning of their own in paths"),
    "file for a folder": (
        pathvar(results="/dev/null/x"),
        "pathvars.results = '/dev/null/x': /dev/null is a file; name a folder",
    ),
}


def one_line(error: BaseException | str, pattern: str) -> None:
    """Assert that the message has exactly one line, that it matches, and that it is short enough to read."""
    text = str(error)
    assert len(text.splitlines()) == 1 and len(text) < 600, text
    assert re.search(pattern, text), text


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
    (tmp_path / "model.safetensors").touch()
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
    check_files([REPOSITORY / "config.yaml", REPOSITORY / "workflow/schemas/config.schema.yaml"])
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
    "text for a number": (
        ["--config", "cycles=two"],
        b"",
        "^config: cycles = 'two': wrong type; write a whole number or auto$",
    ),
    "unknown key": (["--config", "cycels=3"], b"", "^config: cycels = 3: unknown key; did you mean 'cycles'[?]$"),
    "a key twice": (
        [],
        b"seed: 1\nseed: 2\n",
        "^config: .*mine.yaml line 2: seed stands in line 1 already; remove one",
    ),
    "K > N": ([], b"frames: {selected: 64}\n", "^config: frames.selected = 64: more than frames.candidates = 32"),
    "not YAML": ([], b"seed: [\n", "^Config file is not valid JSON or YAML"),  # Snakemake's own words
}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow in a folder with a copy of the default configuration."""
    shutil.copy2(REPOSITORY / "config.yaml", folder / "config.yaml")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(REPOSITORY / "Snakefile"),
        "-d",
        str(folder),
        "--cores",
        "1",
    ]
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
def test_a_rule_refuses_bad_questions_and_leaves_nothing(tmp_path: Path) -> None:
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
    assert re.search(r"^error: questions\.csv row 2: answer: 'E' is neither one of AB", said, re.MULTILINE), said
    assert re.search(r"^questions\.csv row 3: video: '../v\.mp4' leads out of local\.folder", said, re.MULTILINE), said
    assert not list(tmp_path.glob("results/data/**/*.jsonl*"))


# ------------------------------------------------------------------------------------------- the user's own questions

HEADER = "video,question,options,answer"
GOOD_ROW = "v1.mp4,Q,a|b,A"
CSV: dict[str, tuple[str, str]] = {
    "no such video": ("v9.mp4,Q,a|b,A", "video: 'v9.mp4' is no file in .*; correct the name or add the file"),
    "a folder": ("sub,Q,a|b,A", "video: 'sub' is no file but a folder or device"),
    "a folder named like a video": ("film.mp4,Q,a|b,A", "video: 'film.mp4' is no file but a folder"),
    "a named pipe": ("pipe.mp4,Q,a|b,A", "video: 'pipe.mp4' is no file but a folder or device"),
    "empty video": ("empty.mp4,Q,a|b,A", r"video: 'empty\.mp4' is empty \(0 bytes\); copy it again"),
    "no video": (",Q,a|b,A", "video: empty; give the file's name"),
    "absolute": ("/etc/hosts,Q,a|b,A", "video: '/etc/hosts' is absolute; give it relative"),
    "upwards": ("../secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "upwards inside": ("sub/../../secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "link outwards": ("link.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "link through a folder": ("outside/secret.mp4,Q,a|b,A", "video: .* leads out of local.folder"),
    "link to itself": ("loop.mp4,Q,a|b,A", "video: 'loop.mp4' cannot be opened .*loop"),
    "long name": ("v" * 300 + ",Q,a|b,A", "video: 'v{120}'… .*cannot be opened .File name too long.; correct the name"),
    "control character": ("v\x071.mp4,Q,a|b,A", r"video: 'v\\x071.mp4' holds a control character; rename the file"),
    "line end in a name": (
        '"v\n1.mp4",Q,a|b,A',
        r"row 3: video: 'v\\n1.mp4' holds a control character; rename the file",
    ),
    "no question": ("v1.mp4, ,a|b,A", "question: empty; write the question, or remove the row"),
    "one option": ("v1.mp4,Q,a,A", r"options: 1 given; give 2 to 10, in CSV separated by \|"),
    "eleven options": ("v1.mp4,Q,a|b|c|d|e|f|g|h|i|j|k,A", "options: 11 given"),
    "empty option": ("v1.mp4,Q,a||b,A", "options: .* holds an empty option; remove it"),
    "option twice": ("v1.mp4,Q,a|b|A,B", "options: .* holds an option twice; make them different"),
    "no options": ("v1.mp4,Q,,A", "answer: 'A', but there are no options; add them"),
    "no answer": ("v1.mp4,Q,a|b,", "answer: empty, but training needs options and answer"),
    "neither": ("v1.mp4,Q,,", "options: empty, but training needs options and answer"),
    "E of four": ("v1.mp4,Q,a|b|c|d,E", "answer: 'E' is neither one of ABCD nor the text of an option; correct it"),
    "not among the options": (
        "v1.mp4,Q,red|blue,green",
        "answer: 'green' is neither one of AB nor the text of an option",
    ),
    "two meanings": ("v1.mp4,Q,b|a,A", "answer: 'A' is a letter, and the text of option B; reword"),
    "a comma": ("v1.mp4,Q, and more,a|b,A", "not the 4 columns of the header; put texts that hold commas in quotes"),
    "too few columns": ("v1.mp4,Q", "not the 4 columns of the header"),
    "open quotes": ('v1.mp4,"Q,a|b,A', r"row \d: no valid CSV .*; check its quotes"),
}

GOOD = {"video": "v1.mp4", "question": "Q", "options": ["a", "b"], "answer": "A"}
JSONL: dict[str, tuple[Any, str]] = {
    "cut off": ("{", r"not JSON \(.* at character 2\); write one JSON object a line"),
    "trailing comma": ('{"video": "v1.mp4", "question": "Q",}', r"not JSON \(.*\); write one JSON object a line"),
    "a list": ([1], "not a JSON object but a list"),
    "a number": (3, "not a JSON object but a number"),
    "null": (None, "not a JSON object but null"),
    "nested without end": ("[" * 100_000, "nested too deeply"),
    "a number without end": ('{"video": ' + "9" * 10_000 + "}", "row 1: Exceeds the limit"),
    "unknown field": ({**GOOD, "anwser": "A"}, r"unknown fields \['anwser'\]; known are"),
    "missing field": ({"video": "v1.mp4"}, "question: the field is missing; add it"),
    "field twice": (
        '{"video": "v1.mp4", "question": "Q", "video": "v2.mp4"}',
        "video: the field comes twice; remove one",
    ),
    "number for a text": ({**GOOD, "question": 3}, "question: 3 is no text; put it in quotes"),
    "options as a mapping": ({**GOOD, "options": {"A": "a"}}, "options: .* is no list of texts"),
    "an option as a number": ({**GOOD, "options": ["a", 2]}, "options: .* is no list of texts"),
    "half a surrogate pair": ('{"video": "v1.mp4", "question": "\\ud800"}', "question: holds a character that is none"),
    "zero character": ({**GOOD, "question": "Q\0"}, r"question: holds a character that is none \(a zero byte"),
    "evidence": ({**GOOD, "evidence": [1, 2]}, "evidence: .* is no list of spans"),
    "evidence as text": ({**GOOD, "evidence": "from 3 to 4"}, "evidence: .* is no list of spans"),
    "evidence reversed": ({**GOOD, "evidence": [[4, 3]]}, "evidence: 4.0-3.0 s must begin at 0 or later"),
    "evidence without end": ({**GOOD, "evidence": [[0, 1e999]]}, "Infinity is no JSON number; write a finite number"),
}


def sparse(path: Path, begin: bytes = b"", size: int = 10**9) -> None:
    """Make a file of one line of a gigabyte that takes no room: zero bytes after the beginning."""
    with path.open("wb") as handle:
        handle.write(begin)
        handle.truncate(size)


FILES: dict[str, tuple[str, bytes | Callable[[Path], None], str]] = {
    "empty": ("a.csv", b"", "a.csv: empty; the first row names the columns: video, question"),
    "blank": ("a.csv", b"\n \n", "a.csv: empty; the first row names the columns"),
    "header only": ("a.csv", HEADER.encode(), "a.csv: holds no questions; add one a row"),
    "empty JSONL": ("a.jsonl", b"\n", "a.jsonl: holds no questions; add one a row"),
    "semicolons": ("a.csv", b"video;question\nv1.mp4;Q", "row 1: unknown fields .*columns are separated by commas"),
    "column twice": ("a.csv", b"video,question,video\n", "row 1: video: the field comes twice; remove one"),
    "column missing": ("a.csv", b"question\nQ", "row 1: video: the field is missing; add it"),
    "tabs too many": ("a.tsv", b"video\tquestion\nv1.mp4\tQ\tR", "row 2: not the 2 columns .*texts that hold tabs"),
    "a spreadsheet": ("a.xlsx", b"PK", r"the name must end in \.csv, \.tsv, \.jsonl, \.json; rename it"),
    "Latin-1": (
        "a.csv",
        f"{HEADER}\nv1.mp4,Qué,a|b,A".encode("latin-1"),
        r"line 2: not UTF-8 \(byte 39\); save it as UTF",
    ),
    "UTF-16": ("a.csv", f"{HEADER}\n{GOOD_ROW}".encode("utf-16"), "a.csv: is UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": (
        "a.csv",
        HEADER.encode("utf-16-le"),
        r"line 1: holds a zero byte \(byte 1\); save it as UTF-8",
    ),
    "UTF-32": ("a.jsonl", json.dumps(GOOD).encode("utf-32"), "a.jsonl: is UTF-32; save it as UTF-8"),
    "zero byte": ("a.csv", f"{HEADER}\nv1.mp4,Q\0,a|b,A".encode(), r"line 2: holds a zero byte \(byte 38\)"),
    "a line of 1 GB": ("a.jsonl", sparse, f"line 1: longer than {LONGEST_LINE} bytes"),
    "a row of 1 GB": ("a.csv", lambda path: sparse(path, HEADER.encode() + b"\nv1.mp4,"), "line 2: longer than"),
    "a named pipe": ("a.csv", os.mkfifo, "local.questions .* is not a file; give a CSV or JSONL file"),
    "a folder": ("a.csv", Path.mkdir, "local.questions .* is not a file"),
    "not there": ("a.csv", lambda path: None, "local.questions .* is not a file"),
    "id twice": (
        "a.csv",
        b"id,video,question,options,answer\nq,v1.mp4,Q,a|b,A\nq,v2.mp4,Q,a|b,A\n",
        "row 3: id: 'q' names an earlier question too",
    ),
    "names that differ in case": (
        "a.csv",
        f"{HEADER}\n{GOOD_ROW}\n{GOOD_ROW.replace('v1.mp4', 'V1.MP4')}\n".encode(),
        "row 3: video: 'V1.MP4' differs from 'v1.mp4' in case only; rename one of them",
    ),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are named like videos; the import does not decode them."""
    folder = tmp_path_factory.mktemp("films") / "videos"
    (folder / "sub").mkdir(parents=True)
    for name in ("v1.mp4", "v2.mp4", "V1.MP4"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty.mp4").touch()
    (folder / "film.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder.parent / "secret.mp4").write_bytes(b"outside")
    (folder / "link.mp4").symlink_to(folder.parent / "secret.mp4")
    (folder / "outside").symlink_to(folder.parent)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    return folder


@dataclass(frozen=True)
class Import:
    """Runs the stage import_local as its command line does."""

    folder: Path
    output: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, questions: Path) -> str:
        """Return what it says on standard error; assert that it fails in a few seconds and writes nothing."""
        settings = json.dumps({"set": "local_train", "validation_share": 0.5})
        items, videos = str(self.output / "items.jsonl"), str(self.output / "videos.jsonl")
        paths = ["--folder", str(self.folder), "--questions", str(questions), "--items", items, "--videos", videos]
        self.monkeypatch.setattr(sys, "argv", ["import_local", "--settings", settings, *paths])
        start = time.monotonic()
        with pytest.raises(SystemExit) as stopped:
            run(import_local.Settings, import_local.main)
        assert stopped.value.code == 1 and time.monotonic() - start < 5
        assert not self.output.exists()
        return self.capsys.readouterr().err


@pytest.fixture
def refused(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    return Import(films, tmp_path / "out", monkeypatch, capsys)


@pytest.mark.parametrize("name", CSV)
def test_row_of_a_csv(name: str, refused: Import, tmp_path: Path) -> None:
    row, pattern = CSV[name]
    path = tmp_path / "questions.csv"
    path.write_text(f"{HEADER}\n{row}\n")
    place = "" if pattern.startswith("row") else "row 2: "
    one_line(refused(path), f"^error: {path} {place}{pattern}")


@pytest.mark.parametrize("name", JSONL)
def test_line_of_a_jsonl(name: str, refused: Import, tmp_path: Path) -> None:
    record, pattern = JSONL[name]
    path = tmp_path / "questions.jsonl"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    place = "" if pattern.startswith("row") else "row 1: "
    one_line(refused(path), f"^error: {path} {place}.*{pattern}")


@pytest.mark.parametrize("name", FILES)
def test_whole_file_of_questions(name: str, refused: Import, tmp_path: Path) -> None:
    called, content, pattern = FILES[name]
    path = tmp_path / called
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    message = refused(path)
    assert message.startswith("error: ") and str(path) in message
    one_line(message.splitlines()[-1], pattern)


def test_all_faults_come_at_once_a_line_each(refused: Import, tmp_path: Path) -> None:
    """Also those before a place behind which nothing can be read."""
    path = tmp_path / "questions.csv"
    path.write_text("\n".join([HEADER, *(f"w{number}.mp4,Q,a|b,A" for number in range(70))]))
    lines = refused(path).splitlines()
    assert len(lines) == LISTED + 1 and all(str(path) in line for line in lines[:-1])
    assert lines[-1] == f"… and {70 - LISTED} more"
    path.write_bytes(f"{HEADER}\nw1.mp4,Q,a|b,A\nv1.mp4,Q,a|b,E\nv1.mp4,é,a|b,A".encode("latin-1"))
    assert [line.partition(f"{path} ")[2][:6] for line in refused(path).splitlines()] == ["row 2:", "row 3:", "line 4"]


def test_a_video_without_permission_is_named(refused: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the answers of the system are set."""
    path = tmp_path / "questions.csv"
    path.write_text(f"{HEADER}\n{GOOD_ROW}\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        one_line(refused(path), "row 2: video: 'v1.mp4' may not be read; change its permissions")

    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("viarl.datasets.local.sha256_file", fail)
    one_line(refused(path).splitlines()[-1], r"v1\.mp4: cannot be read \(Input/output error\); copy it again")


# -------------------------------------------------------------------------------------- items.jsonl and videos.jsonl

ITEM = {"id": "q2", "video": "v1", "question": "Which?", "options": ["a", "b"], "answer": "B"}
ITEMS: dict[str, tuple[Any, str]] = {
    "E of two": ({**ITEM, "answer": "E"}, "answer 'E' is not one of the letters 'AB' of its options"),
    "two letters": ({**ITEM, "answer": "AB"}, "answer 'AB' is not one of the letters"),
    "answer as a list": ({**ITEM, "answer": ["A"]}, "answer must be a text"),
    "answer without options": ({**ITEM, "options": []}, "answer 'B' is not one of the letters ''"),
    "id upwards": ({**ITEM, "id": "../q"}, "id '../q' must be 1-200 letters"),
    "video as a number": ({**ITEM, "video": 7}, "id 7 must be 1-200 letters"),
    "options as a text": ({**ITEM, "options": "ab"}, "options must be a list of texts"),
    "one option": ({**ITEM, "options": ["a"], "answer": "A"}, r"1 options; give 2 to 10, or \[\]"),
    "eleven options": ({**ITEM, "options": ["a"] * 11}, "11 options; give 2 to 10"),
    "right option twice": (
        {**ITEM, "options": ["a", "a"]},
        "options: the right one, 'a', comes twice; make them differ",
    ),
    "blank question": ({**ITEM, "question": "  "}, "question must be a non-empty text"),
    "question as a number": ({**ITEM, "question": 3}, "question must be a text, not 3"),
    "task as a list": ({**ITEM, "task": []}, r"task must be a text, not \[\]"),
    "duration as a text": ({**ITEM, "duration": "8"}, "duration must be a number of seconds, not '8'"),
    "negative duration": ({**ITEM, "duration": -1}, "duration must be a number of seconds, not -1"),
    "evidence as a number": ({**ITEM, "evidence": 5}, r"evidence must be a list of \[start, end\] in seconds, not 5"),
    "evidence reversed": ({**ITEM, "evidence": [[3, 1]]}, "an evidence interval ends before it starts: .*; correct it"),
    "groups no list": ({**ITEM, "groups": "duration=short"}, "groups must be a list of texts kind=value"),
    "group without value": (
        {**ITEM, "groups": ["short"]},
        r"groups must be a list of texts kind=value, not \['short'\]",
    ),
    "subtitles outside": ({**ITEM, "subtitles": "../a.srt"}, "subtitles '../a.srt' lead out of the folder"),
    "unknown field": ({**ITEM, "extra": 1}, r"unknown fields \['extra'\]; allowed are"),
    "missing field": ({k: v for k, v in ITEM.items() if k != "options"}, "the field 'options' is missing; add it"),
    "id twice": ({**ITEM, "id": "q1"}, "the id 'q1' was used before; ids must be unique"),
    "cut off": ('{"id": "q2", "vid', r"not JSON \(.*\); write one JSON object a line"),
    "a list": ([1], "not a JSON object but a list"),
    "not UTF-8": (b'{"id": "\xe9"}', "not UTF-8 .byte 9.; save it as UTF-8"),
}
VIDEO = {"id": "v2", "path": "videos/v2.mp4", "size": 3, "sha256": "ab"}
VIDEOS: dict[str, tuple[Any, str]] = {
    "missing field": ({"id": "v2"}, r"the fields \['path', 'size', 'sha256'\] are missing; make the file again"),
    "id upwards": ({**VIDEO, "id": "../v"}, "must be 1-200 letters"),
    "path upwards": ({**VIDEO, "path": "../../v.mp4"}, "path '../../v.mp4' leads out of the folder of the list"),
    "path as a number": ({**VIDEO, "path": 3}, "path must be the name of a file, not 3; make the file again"),
    "size as a text": ({**VIDEO, "size": "x"}, "size must be a whole number and sha256 a text; make the file again"),
    "id twice": ({**VIDEO, "id": "v1"}, "the id 'v1' was used before; ids must be unique"),
}


@pytest.mark.parametrize(
    ("read", "good", "table", "name"),
    [
        *((read_items, {**ITEM, "id": "q1"}, ITEMS, name) for name in ITEMS),
        *((read_videos, {**VIDEO, "id": "v1"}, VIDEOS, name) for name in VIDEOS),
    ],
)
def test_line_that_is_read_back(
    read: Callable[[Path], object], good: dict, table: dict[str, tuple[Any, str]], name: str, tmp_path: Path
) -> None:
    record, pattern = table[name]
    bad = record if isinstance(record, bytes) else (record if isinstance(record, str) else json.dumps(record)).encode()
    path = tmp_path / "records.jsonl"
    path.write_bytes(json.dumps(good).encode() + b"\n" + bad)
    if name == "not UTF-8":
        path.write_bytes(b"\n" + bad)
    with pytest.raises(ValueError) as caught:
        read(path)
    one_line(caught.value, f"^{path} line 2: .*{pattern}")


def test_an_empty_list_of_items_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("\n")
    with pytest.raises(ValueError) as caught:
        read_items(tmp_path / "items.jsonl")
    one_line(caught.value, r"items\.jsonl: holds nothing; make the file again with its rule")


# ------------------------------------------------------------------------------------------------------------ videos

FRONT = {"movflags": "faststart"}
HEVC = {"codec": "libx265", "options": {"x265-params": "keyint=30:bframes=4:open-gop=1:log-level=none"}}


def link_loop(path: Path) -> None:
    path.symlink_to(path)


def header_only(path: Path) -> None:
    hard.truncate(hard.encode(path.with_suffix(".whole.mp4"), 40, container=FRONT), path, 0.25)


def no_frames(path: Path) -> None:
    whole = hard.encode(path.with_suffix(".whole.mp4"), 40, container={"movflags": "frag_keyframe+empty_moov"})
    content = whole.read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])


def playlist(path: Path) -> None:
    hard.encode(path.with_name("segment.ts"), 40)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\nsegment.ts\n#EXT-X-ENDLIST\n")


BAD_VIDEOS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        lambda p: hard.truncate(hard.encode(p.with_suffix(".whole.mp4"), container=FRONT), p),
        "is truncated",
    ),
    "header_only": (header_only, "is truncated|cannot be opened as a video"),
    "corrupt": (lambda p: hard.corrupt(hard.encode(p.with_suffix(".whole.mp4")), p), "is damaged at"),
    "audio_only": (hard.audio_only, "has no video stream"),
    "no_frames": (no_frames, r"has 0 frame\(s\); at least 2 are needed"),
    "one_frame": (lambda p: hard.encode(p, frames=1), r"has 1 frame\(s\); at least 2 are needed"),
    "zero_bytes": (Path.touch, "cannot be opened as a video"),
    "text": (lambda p: p.write_text("no video at all\n" * 100), "cannot be opened as a video"),
    "html": (lambda p: p.write_text("<!doctype html><html>404</html>\n" * 50), "cannot be opened as a video"),
    "playlist": (playlist, "cannot be opened as a video"),
    "picture": (lambda p: Image.fromarray(hard.picture(1)).save(p, "PNG"), "cannot be opened as a video"),
    "pipe": (os.mkfifo, "is no file: .* is a folder, a pipe or device, or a link that leads nowhere"),
    "folder": (Path.mkdir, "is no file: .* is a folder"),
    "link_loop": (link_loop, "is no file: .*a link that leads nowhere"),
    "dead_link": (lambda p: p.symlink_to("nowhere.mp4"), "is no file: .*a link that leads nowhere"),
    "missing": (lambda p: None, "is not there: .* does not exist"),
    "huge": (lambda p: hard.encode(p, 2), "has frames of 128 x 64, more than .* pixels: scale it down"),
    "forbidden": (lambda p: hard.encode(p, 2), r"cannot be read \(Permission denied\): change its permissions"),
    "hanging": (lambda p: hard.encode(p, 2), r"the sequential reader was stopped after 0\.3 s \(`timeout_s`\)"),
}
HARD_VIDEOS: dict[str, tuple[dict[str, Any], int, int]] = {  # how it is encoded, frames kept of N = 16, frames in all
    "fewer_than_n": ({"frames": 7}, 6, 7),
    "rotated": ({"frames": 40, "rotation": 90}, 16, 40),
    "variable_rate": ({"frames": 40, "stamps_ms": [30 * n + (n % 7) for n in range(40)]}, 16, 40),
    "hevc_open_gop": ({"frames": 60, **HEVC}, 16, 60),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of one shard that holds all of these videos, made by one run of the stage."""
    folder = tmp_path_factory.mktemp("shard")
    videos = []
    for name, (make, _) in BAD_VIDEOS.items():
        make(folder / f"{name}.mp4")
        videos.append(Video(name, f"{name}.mp4", 1, "unknown"))
    for name, (options, _, _) in HARD_VIDEOS.items():
        hard.encode(folder / f"{name}.mp4", **options)
        videos.append(Video(name, f"{name}.mp4", 1, "unknown"))
    write_records(folder / "videos.jsonl", videos)
    true_seek, true_child, true_hash = reader.read_by_seeking, fallback.read_in_child, writer.sha256_file
    interpreter = folder / "python"
    interpreter.write_text(f'#!/bin/sh\ncase "$*" in *hanging*) exec sleep 60;; *) exec {sys.executable} "$@";; esac\n')
    interpreter.chmod(0o755)

    def seek(path: Path, *rest: Any) -> Any:
        if path.stem == "hanging":
            raise reader.SeekingFailed("refused by the test")
        with pytest.MonkeyPatch.context() as small:
            small.setattr(reader, "LARGEST_FRAME", 8000 if path.stem == "huge" else reader.LARGEST_FRAME)
            return true_seek(path, *rest)

    def child(method: str, path: Path, candidates: int, transform: Any, timeout_s: float) -> Any:
        return true_child(method, path, candidates, transform, 0.3 if path.stem == "hanging" else timeout_s)

    def hash_(path: Path) -> str:
        if path.stem == "forbidden":
            raise PermissionError(13, "Permission denied")  # root may read everything
        return true_hash(path)

    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "read_by_seeking", seek)
        patch.setattr(fallback, "read_in_child", child)
        patch.setattr(fallback.sys, "executable", str(interpreter))
        patch.setattr(writer, "sha256_file", hash_)
        cache_frames.main(shard_settings(folder, 1.0))
    assert time.monotonic() - start < 20
    return json.loads((folder / "frames" / "0.json").read_text())


def shard_settings(folder: Path, max_bad_share: float) -> cache_frames.Settings:
    manifest = folder / "frames" / "0.json"
    return cache_frames.Settings(folder / "videos.jsonl", manifest, 16, 28, 56, 90, "pyav", 30.0, max_bad_share, 0, 1)


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_video_is_listed_and_the_shard_finishes(name: str, manifest: dict[str, Any]) -> None:
    one_line(manifest["bad"][name], BAD_VIDEOS[name][1])
    assert name not in manifest["videos"]


@pytest.mark.parametrize("name", HARD_VIDEOS)
def test_hard_video_is_used(name: str, manifest: dict[str, Any]) -> None:
    """The true index range, and nothing is wrong with it; what the frames show is tested in test_reader.py."""
    _, kept, total = HARD_VIDEOS[name]
    assert (manifest["videos"][name]["n"], manifest["videos"][name]["total"]) == (kept, total)
    assert name not in manifest["bad"]


def test_too_many_bad_videos_are_named_in_part_and_listed_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"v{number:02}" for number in range(25)]
    for name in names:
        (tmp_path / f"{name}.mp4").write_text("no video")
    write_records(tmp_path / "videos.jsonl", [Video(name, f"{name}.mp4", 1, "unknown") for name in names])
    paths = ["--videos", str(tmp_path / "videos.jsonl"), "--manifest", str(tmp_path / "frames" / "0.json")]
    values = {"candidates": 16, "selector_pixels": 28, "answerer_pixels": 56, "jpeg_quality": 90, "reader": "pyav"}
    values |= {"timeout_s": 30.0, "max_bad_share": 0.5, "shard": 0, "shards": 1}
    monkeypatch.setattr(sys, "argv", ["cache_frames", "--settings", json.dumps(values), *paths])
    with pytest.raises(SystemExit):
        run(cache_frames.Settings, cache_frames.main)
    whole = tmp_path / "frames" / "0.bad.json"
    lines = capsys.readouterr().err.split("error: ")[1].splitlines()
    assert "25 of 25 videos" in lines[0] and "frames.max_bad_share = 0.5" in lines[0] and str(whole) in lines[0]
    assert lines[1].startswith("  v00: cannot be opened as a video") and lines[-1] == "… and 5 more"
    assert len(lines) == 22 and sorted(json.loads(whole.read_text())) == names
    assert sorted((tmp_path / "frames").iterdir()) == [whole]
    cache_frames.main(shard_settings(tmp_path, 1.0))
    assert not whole.exists() and len(json.loads((tmp_path / "frames" / "0.json").read_text())["bad"]) == 25


def test_a_cache_that_cannot_be_written_is_no_bad_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must stop the stage, not empty the data set."""
    path = hard.encode(tmp_path / "v.mp4", 4)
    write_records(tmp_path / "videos.jsonl", [Video("v", "v.mp4", path.stat().st_size, sha256_file(path))])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: .*v\.safetensors"):
        cache_frames.main(shard_settings(tmp_path, 1.0))
    assert not list((tmp_path / "frames").rglob("*.*"))


def test_an_answer_of_the_child_that_ends_early_is_no_reading(tmp_path: Path) -> None:
    """Whatever a child sends, it is read as JSON and pixels; a frame that is cut off is not used."""
    (tmp_path / "answer").write_bytes(b'{"shape": [2, 2, 3]}\n' + bytes(11))
    with (tmp_path / "answer").open("rb") as handle, pytest.raises(EOFError):
        fallback.receive(handle, bytes)
    (tmp_path / "answer").write_bytes(b'{"error": "is damaged"}\n')
    with (tmp_path / "answer").open("rb") as handle, pytest.raises(VideoError, match="is damaged"):
        fallback.receive(handle, bytes)
