"""Settings of the jobs, and what all of them are told. No rule stands here.

Identity of a job. Its stage is handed `params.settings` (JSON: exactly the configuration that changes its result, and a
fingerprint of the modules that it imports). What cannot change a result (device, batch sizes of
inference, time between checkpoints, where MLflow listens) goes round Snakemake's bookkeeping: it is exported here, once,
in the environment variable VIARL_RUNTIME as JSON, and the stages look up there what they miss in --settings.
Snakemake itself sets OMP_NUM_THREADS and its kin from the threads of each rule.
"""

import hashlib
import json

from viarl.answer.settings import AnswererSettings
from viarl.config.launcher import accelerate_file
from viarl.config.models import STAND_IN
from viarl.config.runs import run_name
from viarl.config.sections import Configuration
from viarl.evaluate.settings import EvaluationSettings
from viarl.identity import fingerprint
from viarl.models.settings import ModelSettings
from viarl.sections import counted, uncounted
from viarl.selection.settings import ClipSettings
from viarl.tracking.record import git_tags
from viarl.training.rl.settings import TrainedSelector, Training
from viarl.training.sft.settings import InitialisedSelector, TunedAnswerer
from viarl.video.settings import CacheSettings

# SLURM sends TERM to all of a job at once. The shell and tee outlive it, so that the job lasts until its stage has saved
# its state, and the log holds what it said. A prefix takes the place of Snakemake's own, which its beginning repeats.
shell.prefix("set -euo pipefail; trap : TERM; tee() {{ trap '' TERM INT; command tee \"$@\"; }}; ")


def settings(stage, *parts, named=lambda known: []):
    """A params function: the JSON text of a job's settings, keys sorted so that equal settings are equal text.

    `parts` are functions of a run's configuration and a job's wildcards that return mappings. The job's name for the
    tracking is added, and the fingerprint of the stage and of the modules of viarl that it imports by a computed name:
    `named` lists them, given the settings.
    """

    def known(config, w):
        return {key: value for part in parts for key, value in part(config, w).items()}

    GRAPH.settings[stage] = known

    def text(w):
        own = {name: value for name, value in w.items() if name != "run"}
        run = w.get("run", "")
        mine = known(GRAPH.config(run), own)
        code = fingerprint(*(f"viarl.{module}" for module in (f"stages.{stage}", *named(mine))))
        job = {"stage": stage, "run": run, "wildcards": own, "code": code}
        if "c" in own:
            job["cycle"] = int(w.c)
        return json.dumps(mine | {"tracking": job}, sort_keys=True)

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
    """A part of the settings: whole sections of the configuration, of them what changes a result."""
    return lambda config, w: counted(Configuration, only(config, names))


def cycle(config, w):
    """The cycle of a job."""
    return {"cycle": int(w["c"])}


def needle_set(config, w):
    """One set of needle videos."""
    split = SPLITS[w["set"]]
    return {"set": w["set"], "split": split, "count": config["needle"]["videos"][split]}


def hub_set(config, w):
    """What is taken of a data set on a hub for a set."""
    return {"set": w["set"], "choice": SETS[w["set"]].taken(config["hub"])}


def known_as(names):
    """The modules that word the questions of benchmarks and name their headline figures, where they have one."""
    return {"modules": {name: SETS[name].benchmark for name in names if name in SETS and SETS[name].benchmark}}


def benchmark_modules(known):
    """The same as modules of viarl, of a job's settings."""
    return [f"evaluate.benchmarks.{module}" for module in known["modules"].values()]


def selector(config, w):
    """How the selector is asked."""
    return {"selector": counted(ModelSettings, config["selector"])}


def answerer(config, w):
    """How the answerer is asked; on a server, precision is that one's matter."""
    served = config["answerer"]["backend"] == "endpoint"
    own = counted(AnswererSettings, config["answerer"])
    return {"answerer": without(own, ["dtype", "attention"] if served else ["endpoint"])}


def adapted(kind, section):
    """A trained model's settings; the size of adapters is no part of them where there are none."""
    lora = section["lora"] if section["lora"]["enabled"] else {"enabled": False}
    return counted(kind, section) | {"lora": lora}


def training(config, w):
    """How the selector is trained."""
    trained = {"training": counted(Training, config["selector"]["training"])}
    return {"selector": adapted(TrainedSelector, config["selector"])} | trained


def start(config, w):
    """How the selector is tuned on labels before cycle 1."""
    return {"selector": adapted(InitialisedSelector, config["selector"])}


def tuning(config, w):
    """How the answerer is tuned; where it is asked says nothing of that."""
    return {"answerer": without(adapted(TunedAnswerer, config["answerer"]), ["backend", "endpoint"])}


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


def growing(amount):
    """A resources function: an amount for the first attempt, twice and three times that for the next ones."""
    return lambda w, attempt: amount * attempt


def kept_replies(answerer):
    """The folder that keeps replies; none for a stand-in in the stage's process, which takes no longer than reading them."""
    quick = answerer["model"] == STAND_IN and answerer["backend"] == "transformers"
    return None if quick else workflow.pathvars.apply("<data>/replies")


def launcher(config):
    """How the trainings are started; one process without sharding needs no launcher."""
    processes, name = config["launcher"]["processes"], config["launcher"]["config"]
    if processes == 1 and name == "ddp":
        return {"processes": 1, "config": None}
    return {"processes": processes, "config": str(accelerate_file(name, Path(workflow.basedir)))}


def processes(w):
    """The processes of a training, a core each; the SLURM profile asks for as many GPUs."""
    return GRAPH.config(w.run)["launcher"]["processes"]


def runtime(config):
    """What stages are told round Snakemake's bookkeeping: the keys that change no result, and folders."""
    told = without(uncounted(Configuration, config), ["ablations", "compare", "plan", "tracking"])
    own = {"launcher": launcher(config), "replies": kept_replies(config["answerer"])}
    return told | told["frames"] | {"training": told["selector"]["training"]} | own


RUNTIME = runtime(config)
OWN_RUNTIMES = {name: runtime(GRAPH.config(run_name(name))) for name in config["ablations"]}
TRACKING = config["tracking"] | {
    "root": workflow.pathvars.apply("<results>"),
    "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
    "configuration": config,
    "tags": git_tags(workflow.basedir),
    "defer_below_s": 30.0,  # short jobs leave their push to the end of the workflow
}
os.environ.update(
    VIARL_RUNTIME=json.dumps(
        RUNTIME
        | {
            "tracking": TRACKING,
            "ablations": {name: told for name, told in OWN_RUNTIMES.items() if told != RUNTIME},
        }
    ),
    PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.environ.get("PYTHONPATH")])),
    OMP_WAIT_POLICY="passive",  # busy-waiting threads of two jobs on two cores slow each other down tens of times
    TOKENIZERS_PARALLELISM="false",
)
