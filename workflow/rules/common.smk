"""Functions for the rules: settings of a job, models, sets of files. No rule stands here.

Identity of a job. Its stage is handed `params.settings` (JSON: exactly the configuration that changes its result)
and carries `params.code` (a fingerprint of the modules it imports). What cannot change a result (device, batch sizes of
inference, time between checkpoints, where MLflow listens) goes round Snakemake's bookkeeping: it is exported here, once,
in the environment variable VIARL_RUNTIME as JSON, and the stages look up there what they miss in --settings.
Snakemake itself sets OMP_NUM_THREADS and its kin from the threads of each rule.
"""

import hashlib
import json

from viarl import fingerprint as _fingerprint


def fingerprint(module):
    """Until every stage stands: a missing one has no fingerprint."""
    return _fingerprint.fingerprint(module) if _fingerprint.source_file(module) else "missing"


def pick(section, *names):
    """The named keys of a section of the configuration ("selector.training" goes into depth)."""
    part = config
    for name in section.split("."):
        part = part[name]
    return {name: part[name] for name in names}


# Keys of selector.training that bound memory and time and change no result.
NO_RESULT = ("save_every", "groups_per_microbatch", "groups_per_rollout", "gradient_checkpointing")
RUNTIME = {
    "device": config["device"],
    "tracking": config["tracking"]
    | {
        "root": workflow.pathvars.apply("<results>"),
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
        "defer_below_s": 30.0,  # short jobs leave their push to the end of the workflow
    },
    "clip": pick("clip", "batch_size"),
    "answerer": pick("answerer", "batch_size"),
    "evaluation": pick("evaluation", "batch_size"),
    "selector": pick("selector", "batch_size"),
    "training": pick("selector.training", *NO_RESULT),
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


def without(mapping, *names):
    """A copy of a mapping without some keys: those that do not change a result."""
    return {key: value for key, value in mapping.items() if key not in names}


def settings(stage, wildcards, **values):
    """The JSON text of a job's settings, keys sorted so that equal settings are equal text.

    It includes the job's name for the tracking; the record itself lies in <results>/tracking/.
    """
    cycle = {"cycle": int(wildcards.c)} if "c" in wildcards.keys() else {}
    code = fingerprint(f"viarl.stages.{stage}")
    tracking = {"stage": stage, "wildcards": dict(wildcards.items()), "code": code} | cycle
    return json.dumps(values | {"tracking": tracking}, sort_keys=True)


def frame_settings():
    """What a prompt needs to know of the frames."""
    return pick("frames", "candidates", "selected", "number_pixels")


def answerer_settings():
    """How the answerer is asked; its tuning is not part of it."""
    return pick("answerer", "prompt", "max_new_tokens", "dtype", "attention")


def selector_settings():
    """How the selector is asked; its training is not part of it."""
    return pick("selector", "prompt", "max_new_tokens", "dtype", "attention")


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
