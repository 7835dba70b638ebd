"""Functions for the rules: runs, settings of a job, what it needs, models. No rule stands here.

Identity of a job. Its stage is handed `params.settings` (JSON: exactly the configuration that changes its result)
and carries `params.code` (a fingerprint of the modules it imports). What cannot change a result (device, batch sizes of
inference, time between checkpoints, where MLflow listens) goes round Snakemake's bookkeeping: it is exported here, once,
in the environment variable VIARL_RUNTIME as JSON, and the stages look up there what they miss in --settings.
Snakemake itself sets OMP_NUM_THREADS and its kin from the threads of each rule.

Runs. {run} in a path is empty for the main run and names an ablation or a training seed otherwise (viarl/runs.py). A rule
says with `needs` which kinds of file it takes, and each is taken from the simplest run that has the same one.
"""

import hashlib
import json
import re
import shutil
from functools import partial

from snakemake.persistence.file import FilePersistence

from viarl.datasets.local import local_videos
from viarl.fingerprint import fingerprint
from viarl.runs import Graph, compared_runs, run_name, split_run
from viarl.tracking import git_tags


def keep_locks_of_others():
    """A command that ends removes its own locks alone; Snakemake 9.27 removes those of every command in the folder."""

    def remove_own(persistence):
        for lock in persistence._lockfile.values():
            if os.path.exists(lock):
                os.remove(lock)
        persistence._lockfile.clear()

    FilePersistence._delete_locks = remove_own
    FilePersistence.cleanup_locks = lambda persistence: shutil.rmtree(persistence._lockdir)  # --unlock


keep_locks_of_others()

# SLURM sends TERM to all of a job at once. The shell and tee outlive it, so that the job lasts until its stage has saved
# its state, and the log holds what it said.
shell.prefix("trap : TERM; tee() {{ trap '' TERM INT; command tee \"$@\"; }}; ")

SPLITS = {"needle_train": "train", "needle_validation": "validation", "needle": "test", "needle_shifted": "shifted"}
FILES = {  # what rules hand on to others
    "questions": "<data>/{run}sets/{set}/items.jsonl",
    "videos": "<data>/{run}sets/{set}/videos.jsonl",
    "base_model": "<data>/{run}stand_ins/{role}/model.safetensors",
    "frames": "<data>/{run}frames/{set}/{shard}.json",
    "similarities": "<data>/{run}clip/{set}/{shard}.safetensors",
    "kept_questions": "<results>/{run}filter/train_items.jsonl",
    "selector": "<results>/{run}cycle{c}/selector/model.safetensors",
    "selected": "<results>/{run}cycle{c}/selected/{set}.parquet",
    "answerer": "<results>/{run}cycle{c}/answerer/model.safetensors",
    "rows": "<results>/{run}cycle{c}/evaluate/{set}.parquet",
}
MAKERS = {
    "frames": "cache_frames",
    "similarities": "score_frames",
    "kept_questions": "filter_guessable",
    "selector": "train_selector",
    "selected": "select_frames",
    "answerer": "tune_answerer",
    "rows": "evaluate",
}


def maker(config, kind, w):
    """The stage that makes a kind of file, "" where none does."""
    if kind in ("questions", "videos"):
        return "make_needle" if w["set"] in SPLITS else "import_local"
    if kind == "base_model":
        return "build_stand_ins" if config[w["role"]]["model"] == "stand-in" else ""
    if kind == "selector" and w["c"] == "0":
        return "initialise_selector"
    return MAKERS[kind]


GRAPH = Graph(config, FILES, maker)
NAMES = {kind: set(re.findall(r"{(\w+)}", pattern)) - {"run"} for kind, pattern in FILES.items()}


def of(kind, **fixed):
    """The files of a kind with a job's own wildcards, or with values given here (may be functions of config and w).

    All shards of a set where the job has no shard; in cycle 0 the base model of a role, but for a selector that is
    initialised (selector.start).
    """

    def references(config, w):
        known = {**w, **{name: str(value(config, w) if callable(value) else value) for name, value in fixed.items()}}
        untouched = kind == "answerer" or (kind == "selector" and not initialised(config))
        if untouched and known["c"] == "0":
            return [("base_model", {"role": kind})]
        own = {name: known[name] for name in NAMES[kind] if name in known}
        if "shard" in NAMES[kind] - set(own):
            return [(kind, own | {"shard": str(shard)}) for shard in range(shards(config, own))]
        return [(kind, own)]

    return references


def shards(config, w):
    """The number of jobs that share the work on a set."""
    return config["frames"]["shards"]["training" if w["set"] == training_set(config) else "benchmark"]


def initialised(config):
    """Whether cycle 0 has a selector that was tuned on labels, in place of the untouched base model."""
    return config["selector"]["start"]["labels"] != "none"


def previous(kind):
    """The file of a kind of the cycle before."""
    return of(kind, c=lambda config, w: int(w["c"]) - 1)


def needs(stage, **files):
    """The named inputs of a stage, each given by `of` or a function like it; what an ablation shares is not its own."""
    GRAPH.needs[stage] = lambda config, w: [one for references in files.values() for one in references(config, w)]

    def paths(references, w):
        own = {name: value for name, value in w.items() if name != "run"}
        try:
            config = GRAPH.config(w.run)
        except ValueError as error:
            sys.exit(str(error))
        for kind in FILES:
            made = NAMES[kind] == set(own) and maker(config, kind, own) == stage
            if made and (home := GRAPH.home(w.run, kind, own)) != w.run:
                shared = workflow.pathvars.apply(FILES[kind].format(**own, run=home))
                sys.exit(f"{w.run} shares this file with a simpler run: ask for {shared}")
        found = [GRAPH.path(w.run, *one) for one in references(config, own)]
        return [path for path in found if path]

    return {name: partial(paths, references) for name, references in files.items()}


def settings(stage, *parts, module="viarl.stages.{stage}"):
    """A params function: the JSON text of a job's settings, keys sorted so that equal settings are equal text.

    `parts` are functions of a run's configuration and a job's wildcards that return mappings. The job's name for the
    tracking is added, and the fingerprint of `module`, whose name may hold wildcards.
    """

    def known(config, w):
        return {key: value for part in parts for key, value in part(config, w).items()}

    GRAPH.settings[stage] = known

    def text(w):
        own = {name: value for name, value in w.items() if name != "run"}
        run = w.get("run", "")
        job = {"stage": stage, "run": run, "wildcards": own, "code": fingerprint(module.format(stage=stage, **w))}
        if "c" in own:
            job["cycle"] = int(w.c)
        return json.dumps(known(GRAPH.config(run), own) | {"tracking": job}, sort_keys=True)

    return text


def only(mapping, names):
    """A mapping's entries of these names."""
    return {name: value for name, value in mapping.items() if name in names}


def without(mapping, names):
    """A mapping's entries but those of these names."""
    return {name: value for name, value in mapping.items() if name not in names}


def pick(section, *names):
    """A part of the settings: the named keys of a section of the configuration."""
    return lambda config, w: {name: config[section][name] for name in names}


def section(*names):
    """A part of the settings: whole sections of the configuration."""
    return lambda config, w: {name: config[name] for name in names}


# Keys that bound memory and time, and change no result.
NO_RESULT = ["save_every", "groups_per_microbatch", "groups_per_rollout", "micro_batch_size", "gradient_checkpointing"]
# Settings that several rules are made of. How a model is asked says nothing of how it is trained.
ASK = ["prompt", "max_new_tokens", "dtype", "attention"]


def cycle(config, w):
    """The cycle of a job."""
    return {"cycle": int(w["c"])}


def needle_set(config, w):
    """One set of needle videos."""
    split = SPLITS[w["set"]]
    return {"set": w["set"], "split": split, "count": config["needle"]["videos"][split]}


def selector(config, w):
    """How the selector is asked."""
    return {"selector": only(config["selector"], ASK)}


def answerer(config, w):
    """How the answerer is asked."""
    return {"answerer": only(config["answerer"], ASK)}


def lora(section):
    """The adapters of a model; their size is no part of it where there are none."""
    return {"lora": section["lora"] if section["lora"]["enabled"] else {"enabled": False}}


def training(config, w):
    """How the selector is trained."""
    return {
        "selector": only(config["selector"], [*ASK, "length_range"]) | lora(config["selector"]),
        "training": without(config["selector"]["training"], NO_RESULT),
    }


def start(config, w):
    """How the selector is tuned on labels before cycle 1."""
    known = {"start": without(config["selector"]["start"], NO_RESULT)} | lora(config["selector"])
    return {"selector": only(config["selector"], ASK) | known}


def label_sources(config, w):
    """What labels are made of besides questions and frames: CLIP's need similarities."""
    by_clip = config["selector"]["start"]["labels"] == "clip_topk"
    return of("similarities", set=training_set)(config, w) if by_clip else []


def with_labels(w):
    """An input function that takes no file, and ends the plan where a selector without labels is asked for."""
    if not initialised(GRAPH.config(w.run)):
        sys.exit("selector.start.labels is none: cycle 0 has the untouched selector, so there is nothing to make here")
    return []


def tuning(config, w):
    """How the answerer is tuned."""
    known = {"tuning": without(config["answerer"]["tuning"], NO_RESULT)} | lora(config["answerer"])
    return {"answerer": only(config["answerer"], ASK) | known}


def stand_in(config, w):
    """What the tiny model of a role is made for."""
    frames = {
        "selector": ["candidates", "selected", "selector_pixels", "number_pixels"],
        "answerer": ["candidates", "selected", "answerer_pixels"],
        "clip": ["candidates", "selector_pixels"],
    }[w["role"]]
    asked = {} if w["role"] == "clip" else {f"{w['role']}_prompt": config[w["role"]]["prompt"]}
    return {"role": w["role"], "stand_in": config["stand_ins"] | only(config["frames"], frames) | asked}


def sampling(config, w):
    """How a second pick of each question is drawn; the training set needs none."""
    trained_on = w["set"] == training_set(config)
    return {"temperature": None if trained_on else config["evaluation"]["temperature"]}


def training_set(config, w=None):
    """The name of the set that is trained on."""
    return f"{config['dataset']}_train"


def questions_of(config, w):
    """The questions of a set; of the training set, those that the filter kept."""
    kept = w["set"] == training_set(config)
    return [("kept_questions", {})] if kept else [("questions", {"set": w["set"]})]


def every_evaluation(config, w):
    """The tables of all benchmarks, of a cycle and of those before it."""
    cycles = range(int(w["c"]) + 1)
    return [("rows", {"c": str(c), "set": name}) for c in cycles for name in config["benchmarks"]]


def folder(files):
    """The folder of the first file of an input, "" where there is none."""
    return os.path.dirname(next(iter(files), ""))


def last_cycle(run=""):
    """The last cycle of a run; with `cycles: auto` it is known only when those before it are evaluated and judged."""
    config = GRAPH.config(run)
    if config["cycles"] != "auto":
        return config["cycles"]
    for c in range(1, config["max_cycles"]):
        with open(checkpoints.judge_gain.get(run=run, c=c).output.verdict) as verdict:
            if json.load(verdict)["stop"]:
                return c
    return config["max_cycles"]


def summaries(w):
    """eval.json of every cycle of the main run."""
    return expand("<results>/cycle{c}/eval.json", c=range(last_cycle() + 1))


def model(role, name=None):
    """A params function: folder or hub id of a role's model, from the input of its name, else from the configuration."""
    return lambda w, input: folder(input.get(name or role)) or GRAPH.config(w.run)[role]["model"]


def features(w, input):
    """A params function: the folder that keeps vision features of a set, beside the folder of its frames."""
    return folder(input.frames).replace("/frames/", "/features/")


def growing(amount):
    """A resources function: an amount for the first attempt, twice and three times that for the next ones."""
    return lambda w, attempt: amount * attempt


def runtime(config):
    """What stages are told round Snakemake's bookkeeping."""
    return {
        "device": config["device"],
        **only(config["frames"], ["max_bad_share", "timeout_s"]),
        "clip": only(config["clip"], ["batch_size"]),
        "selector": only(config["selector"], ["batch_size"]) | {"start": only(config["selector"]["start"], NO_RESULT)},
        "training": only(config["selector"]["training"], NO_RESULT),
        "answerer": only(config["answerer"], ["batch_size"])
        | {"tuning": only(config["answerer"]["tuning"], NO_RESULT)},
        "evaluation": only(config["evaluation"], ["batch_size"]),
    }


TRACKING = config["tracking"] | {
    "root": workflow.pathvars.apply("<results>"),
    "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
    "configuration": config,
    "tags": git_tags(workflow.basedir),
    "defer_below_s": 30.0,  # short jobs leave their push to the end of the workflow
}
os.environ.update(
    VIARL_RUNTIME=json.dumps(
        runtime(config)
        | {
            "tracking": TRACKING,
            "ablations": {name: runtime(GRAPH.config(run_name(name))) for name in config["ablations"]},
        }
    ),
    PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.environ.get("PYTHONPATH")])),
    OMP_WAIT_POLICY="passive",  # busy-waiting threads of two jobs on two cores slow each other down tens of times
    TOKENIZERS_PARALLELISM="false",
)
