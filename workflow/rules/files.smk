"""Which files a job takes, and in which run they lie (viarl/config/runs.py). No rule stands here.

{run} in a path is empty for the main run and names an ablation or a training seed otherwise. A rule says with `needs` which
kinds of file it takes, and each is taken from the simplest run that has the same one.
"""

import json
import re
from functools import cache, partial

from viarl.datasets.local import read_questions, sources_state
from viarl.datasets.hub.sets import SETS
from viarl.files import state
from viarl.models.files import HASHES, WEIGHTS, checkpoint_files, own_folder, pinned
from viarl.config.runs import Graph, compared_runs, split_run

SPLITS = {"needle_train": "train", "needle_validation": "validation", "needle": "test", "needle_shifted": "shifted"}
FILES = {  # what rules hand on to others
    "questions": "<data>/{run}sets/{set}/items.jsonl",
    "videos": "<data>/{run}sets/{set}/videos.jsonl",
    "card": "<data>/{run}sets/{set}/data_card.json",
    "base_model": "<data>/{run}stand_ins/{role}/model.safetensors",
    "own_model": "<data>/{run}own_models/{role}.json",
    "frames": "<data>/{run}frames/{set}/{shard}.json",
    "similarities": "<data>/{run}clip/{set}/{shard}.safetensors",
    "kept_questions": "<results>/{run}filter/train_items.jsonl",
    "filter_report": "<results>/{run}filter/report.json",
    "selector": "<results>/{run}cycle{c}/selector/model.safetensors",
    "selected": "<results>/{run}cycle{c}/selected/{set}.parquet",
    "answerer": "<results>/{run}cycle{c}/answerer/model.safetensors",
    "rows": "<results>/{run}cycle{c}/evaluate/{set}.parquet",
}
MAKERS = {
    "frames": "cache_frames",
    "similarities": "score_frames",
    "kept_questions": "filter_guessable",
    "filter_report": "filter_guessable",
    "selector": "train_selector",
    "selected": "select_frames",
    "answerer": "tune_answerer",
    "rows": "evaluate",
}


def maker(config, kind, w):
    """The stage that makes a kind of file, "" where none does."""
    if kind in ("questions", "videos", "card") and w["set"] in SETS:
        return "fetch_dataset"
    if kind == "card":
        return ""
    if kind in ("questions", "videos"):
        return "make_needle" if w["set"] in SPLITS else "import_local"
    if kind == "base_model":
        return "build_stand_ins" if config[w["role"]]["model"] == "stand-in" else ""
    if kind == "own_model":
        return "hash_model" if own_folder(config[w["role"]]) else ""
    if kind == "selector" and w["c"] == "0":
        return "initialise_selector"
    return MAKERS[kind]


GRAPH = Graph(config, FILES, maker)
NAMES = {kind: set(re.findall(r"{(\w+)}", pattern)) - {"run"} for kind, pattern in FILES.items()}


def of(kind, **fixed):
    """The files of a kind with a job's own wildcards, or with values given here (may be functions of config and w).

    All shards of a set where the job has no shard; in cycle 0 the base model of a role, but for a selector that is
    initialised (selector.start); in every cycle that of the answerer where it is not tuned.
    """

    def references(config, w):
        known = {**w, **{name: str(value(config, w) if callable(value) else value) for name, value in fixed.items()}}
        untouched = kind == "answerer" or (kind == "selector" and not initialised(config))
        if kind == "base_model" or (untouched and known["c"] == "0") or (kind == "answerer" and not tuned(config)):
            role = {"role": known.get("role", kind)}
            return [("base_model", role), ("own_model", role)]  # one of them, or none for a model from a hub
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


def tuned(config):
    """Whether the answerer is tuned in each cycle."""
    return config["answerer"]["tuning"]["steps"] > 0


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
        return [one for path in found if path for one in watched(path)]

    return {name: partial(paths, references) for name, references in files.items()}


def watched(path):
    """A file as an input; weights must be there, but whether they changed says the small file of their hashes.

    Snakemake takes a large file that is touched or copied for a changed one.
    """
    home, name = os.path.split(path)
    return [ancient(path), os.path.join(home, HASHES)] if name == WEIGHTS else [path]


def label_sources(config, w):
    """What labels are made of besides questions and frames: CLIP's need similarities."""
    labels, dataset = config["selector"]["start"]["labels"], config["dataset"]
    if labels == "oracle" and dataset not in ("needle", "local"):
        sys.exit(
            f"config: selector.start.labels = 'oracle': dataset = {dataset!r} says no evidence; use clip_topk or none"
        )
    return of("similarities", set=training_set)(config, w) if labels == "clip_topk" else []


def made_if(made, otherwise):
    """An input function that takes no file, and ends the plan, saying why, where there is nothing to make."""
    return lambda w: [] if made(GRAPH.config(w.run)) else sys.exit(otherwise)


def training_set(config, w=None):
    """The name of the set that is trained on."""
    return f"{config['dataset']}_train"


def questions_of(config, w):
    """The questions of a set; of the training set, those that the filter kept."""
    kept = w["set"] == training_set(config)
    return [("kept_questions", {})] if kept else [("questions", {"set": w["set"]})]


def used_sets(kind):
    """The files of a kind of the training set and of every benchmark."""
    return lambda config, w: [(kind, {"set": name}) for name in (training_set(config), *config["benchmarks"])]


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


def data_card(w):
    """The data card, where anything is downloaded."""
    downloaded = any(set_ in SETS for set_ in (training_set(config), *config["benchmarks"]))
    return ["<results>/data_card.json"] if downloaded else []


def summaries(w):
    """eval.json of every cycle of the main run."""
    return expand("<results>/cycle{c}/eval.json", c=range(last_cycle() + 1))


def model(role, name=None):
    """A params function: folder or hub id[@revision] of a role's model, from the input of its name, else as configured."""

    def where(w, input):
        made = [file for file in input.get(name or role) if os.path.basename(file) == WEIGHTS]
        return folder(made) or pinned(GRAPH.config(w.run)[role])

    return where


def features(w, input):
    """A params function: the folder that keeps vision features of a set, beside the folder of its frames."""
    frames, name = os.path.split(folder(input.frames))
    return os.path.join(os.path.dirname(frames), "features", name)


def own(key):
    """A function of a job's wildcards: a path of the section `local`; ends the plan where it is not given."""
    return lambda w: config["local"][key] or sys.exit(f"config: local.{key} = None: {w.set} needs it; give the path")


def own_questions(w):
    """No file, but ends the plan where the user's own questions cannot be used, before any job."""
    questions, folder = own("questions")(w), own("folder")(w)
    try:
        read_once(Path(folder), Path(questions), w.set != "local")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    return []


read_once = cache(read_questions)
own_hashes = workflow.pathvars.apply("<data>/own_hashes.json")


def own_state(w):
    """What changes with the user's own questions and videos; these are no inputs, of which Snakemake sees newer ones only."""
    questions, folder = Path(own("questions")(w)), Path(own("folder")(w))
    return sources_state(questions, read_once(folder, questions, w.set != "local")[1])


def own_model(run, role):
    """The folder of a role's model that is the user's own."""
    return own_folder(GRAPH.config(run)[role])


def compared_cycle(run):
    """The last cycle in which a run is compared: with `cycles: auto` that of the seed that goes on longest."""
    seeds = [other for other in compared_runs(config) if split_run(other)[0] == split_run(run)[0]]
    return max(map(last_cycle, seeds))


def compared_rows(w):
    """The tables of all compared runs: of each run, of each benchmark, those of its cycles."""
    for run in compared_runs(config):
        for name in config["benchmarks"]:
            if GRAPH.identity(run, "questions", {"set": name}) != GRAPH.identity("", "questions", {"set": name}):
                sys.exit(
                    f"config: compare.ablations: {split_run(run)[0]!r} has other questions of {name!r} than the main run, "
                    "and only runs on the same ones can be compared; take it out"
                )
    return [
        GRAPH.path(run, "rows", {"c": str(c), "set": name})
        for run in compared_runs(config)
        for name in config["benchmarks"]
        for c in range(compared_cycle(run) + 1)
    ]


def compared_summaries(w):
    """eval.json of the last cycle of all compared runs."""
    return [f"<results>/{run}cycle{compared_cycle(run)}/eval.json" for run in compared_runs(config)]


def compared(config, w):
    """What the comparison is told of each run."""
    runs = []
    for run in compared_runs(config):
        ablation, _ = split_run(run)
        hypothesis = config["ablations"][ablation]["hypothesis"] if ablation else ""
        known = {"seed": GRAPH.config(run)["seed"], "cycle": compared_cycle(run)}
        runs.append(known | {"ablation": ablation, "hypothesis": hypothesis})
    return {"runs": runs}


def planned(w):
    """What the plan is told: the configuration, where the models lie, and the sizes of data sets or where they lie."""
    placed = workflow.pathvars.apply
    models, sets = {}, {}
    for role in ("selector", "answerer"):
        made = maker(config, "base_model", {"role": role})
        models[role] = placed(f"<data>/stand_ins/{role}") if made else pinned(config[role])
    given = ["local"] if config["local"]["folder"] and config["local"]["questions"] else []
    for name in [training_set(config), *config["benchmarks"], *given]:
        videos = config["needle"]["videos"].get(SPLITS.get(name))
        sets[name] = (
            [videos, videos * config["needle"]["questions_per_video"]] if videos else placed(f"<data>/sets/{name}")
        )
    known = without(config, ["ablations", "compare", "pathvars", "tracking"])
    told = {"configuration": known, "models": models, "sets": sets, "training_set": training_set(config)}
    return json.dumps(told | {"profile": os.path.join(workflow.basedir, "slurm", "config.yaml")})
