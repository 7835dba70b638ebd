"""Functions for the rules: settings of a job, models, sets of files. No rule stands here.

Identity of a job. Its stage is handed `params.settings` (JSON: exactly the configuration that changes its result)
and carries `params.code` (a fingerprint of the modules it imports). What cannot change a result (device, batch sizes of
inference, time between checkpoints, where MLflow listens) goes round Snakemake's bookkeeping: it is exported here, once,
in the environment variable VIARL_RUNTIME as JSON, and the stages look up there what they miss in --settings.
Snakemake itself sets OMP_NUM_THREADS and its kin from the threads of each rule.
"""

import hashlib
import json

from viarl.fingerprint import fingerprint


def only(mapping, names):
    """A mapping's entries of these names."""
    return {name: value for name, value in mapping.items() if name in names}


def without(mapping, names):
    """A mapping's entries but those of these names."""
    return {name: value for name, value in mapping.items() if name not in names}


def pick(section, *names):
    """The named keys of a section of the configuration."""
    return {name: config[section][name] for name in names}


# Keys that bound memory and time, and change no result.
NO_RESULT = ["save_every", "groups_per_microbatch", "groups_per_rollout", "micro_batch_size", "gradient_checkpointing"]
RUNTIME = {
    "device": config["device"],
    "tracking": config["tracking"]
    | {
        "root": workflow.pathvars.apply("<results>"),
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
        "defer_below_s": 30.0,  # short jobs leave their push to the end of the workflow
    },
    "clip": pick("clip", "batch_size"),
    "selector": pick("selector", "batch_size"),
    "training": only(config["selector"]["training"], NO_RESULT),
    "answerer": pick("answerer", "batch_size") | {"tuning": only(config["answerer"]["tuning"], NO_RESULT)},
    "evaluation": pick("evaluation", "batch_size"),
}
os.environ.update(
    VIARL_RUNTIME=json.dumps(RUNTIME),
    PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.environ.get("PYTHONPATH")])),
    OMP_WAIT_POLICY="passive",  # busy-waiting threads of two jobs on two cores slow each other down tens of times
    TOKENIZERS_PARALLELISM="false",
)

TRAINING_SET = f"{config['dataset']}_train"
SPLITS = {"needle_train": "train", "needle_validation": "validation", "needle": "test", "needle_shifted": "shifted"}

# Settings that several rules, or long ones, are made of. How a model is asked says nothing of how it is trained.
ASK = ("prompt", "max_new_tokens", "dtype", "attention")
SEED = {"seed": config["seed"]}
FRAMES = pick("frames", "selected", "number_pixels")
SELECTOR = {"selector": pick("selector", *ASK)}
ANSWERER = {"answerer": pick("answerer", *ASK)}
TRAINING = {
    "selector": pick("selector", *ASK, "length_range", "lora"),
    "training": without(config["selector"]["training"], NO_RESULT),
    "reward": config["reward"],
}
TUNING = {
    "answerer": pick("answerer", *ASK, "lora") | {"tuning": without(config["answerer"]["tuning"], NO_RESULT)},
}
STAND_INS = {
    "stand_ins": config["stand_ins"],
    "frames": without(config["frames"], ["reader", "timeout_s", "max_bad_share", "shards"]),
    "selector": pick("selector", "prompt"),
    "answerer": pick("answerer", "prompt"),
}
EVALUATION = {"evaluation": pick("evaluation", "selectors", "random_seeds")}
BENCHMARKS = {"benchmarks": config["benchmarks"]}


def cycle(w):
    """The cycle of a job, as a setting."""
    return {"cycle": int(w.c)}


def needle_set(w):
    """The settings of one set of needle videos."""
    split = SPLITS[w.set]
    return {"set": w.set, "split": split, "count": config["needle"]["videos"][split]}


def settings(stage, *parts, module="viarl.stages.{stage}"):
    """A params function: the JSON text of a job's settings, keys sorted so that equal settings are equal text.

    `parts` are mappings, or functions of the wildcards that return one. The job's name for the tracking is added, and
    the fingerprint of `module`, whose name may hold wildcards.
    """

    def text(w):
        code = fingerprint(module.format(stage=stage, **w))
        values = {"tracking": {"stage": stage, "wildcards": dict(w.items()), "code": code}}
        if "c" in w.keys():
            values["tracking"] |= cycle(w)
        for part in parts:
            values |= part(w) if callable(part) else part
        return json.dumps(values, sort_keys=True)

    return text


def model_file(role):
    """An input function: the weights of a role's model after cycle w.c, [] where they come from a hub or a folder."""
    return lambda w: weights(role, int(w.c))


def previous_model_file(role):
    """An input function: the weights that cycle w.c starts from."""
    return lambda w: weights(role, int(w.c) - 1)


def weights(role, cycle):
    """The weights of a role's model after a cycle (0: untouched)."""
    if cycle > 0:
        return f"<results>/cycle{cycle}/{role}/model.safetensors"
    return f"<data>/stand_ins/{role}/model.safetensors" if config[role]["model"] == "stand-in" else []


def model(role, key=None):
    """A params function: folder or hub id of a model, from the job's input of that name, else from the configuration."""
    return lambda w, input: os.path.dirname(input.get(key or role) or "") or config[role]["model"]


def every_shard(pattern, set_name=None):
    """An input function: the files of all shards of a set, by default of the job's own wildcard."""
    count = config["frames"]["shards"]
    return lambda w: expand(pattern, set=set_name or w.set, shard=range(count))


def items_of(set_name):
    """The questions of a set; of the training set, those that the filter kept."""
    return "<results>/filter/train_items.jsonl" if set_name == TRAINING_SET else f"<data>/sets/{set_name}/items.jsonl"
