"""Validation of the configuration, before any job.

First the schema (keys, types, ranges), then what several keys must fulfil together. Every message names the key, its
value and the remedy; all that is wrong is reported at once.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "config.schema.yaml"
STAND_IN = "stand-in"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TYPES = {
    "object": "a mapping of keys",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "of a length of at least",
}


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError, one line for each thing that is wrong with the configuration; return nothing if all is well."""
    validator = Draft202012Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    errors = sorted(validator.iter_errors(config), key=lambda error: [str(part) for part in error.absolute_path])
    problems = [line for error in errors for line in _explain(error)] or list(_combinations(config))
    if problems:
        raise ValueError("\n".join(f"config: {line}" for line in problems))


def typed(config: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Give the values inside mappings from the command line their types, in place.

    Snakemake reads `--config "reward={answer: 4}"` with every inner value as text; `given` is that part, of which the
    texts are read as YAML.
    """
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            typed(config[key], value)
        elif isinstance(value, str | list):
            config[key] = yaml.safe_load(value) if isinstance(value, str) else [yaml.safe_load(str(v)) for v in value]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" with the nearest of the known words, or the list of them where none is near."""
    known = sorted(str(entry) for entry in known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _explain(error: ValidationError) -> Iterator[str]:
    """Turn one finding of the schema into lines for people."""
    where = ".".join(str(part) for part in error.absolute_path)
    value, rule = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in sorted(set(value) - set(known), key=str):
            name = f"{where}.{key}" if where else str(key)
            yield f"{name} = {value[key]!r}: unknown key; {nearest(key, known)}"
    elif error.validator == "required":
        for key in sorted(set(rule) - set(value)):
            name = f"{where}.{key}" if where else key
            yield f"{name} is missing: give it a value, as config.yaml does"
    elif error.validator == "type":
        kinds = [rule] if isinstance(rule, str) else rule
        remedy = f"write {' or '.join(_TYPES[kind] for kind in kinds)}"
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
            remedy += f" ({float(value)!r}: YAML reads a power of ten as text unless it has a point, as in 4.0e-7)"
        yield f"{where} = {value!r}: wrong type; {remedy}"
    elif error.validator == "enum":
        yield f"{where} = {value!r}: unknown value; {nearest(value, rule)}"
    elif error.validator in _BOUNDS:
        yield f"{where} = {value!r}: out of range; it must be {_BOUNDS[str(error.validator)]} {rule}"
    elif error.validator == "uniqueItems":
        yield f"{where} = {value!r}: an entry stands twice; remove one"
    else:
        yield f"{where} = {value!r}: {error.message}"


def _combinations(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what contradicts itself in a configuration that fulfils the schema."""
    yield from _frames(config["frames"])
    yield from _selector(config["selector"], config["reward"])
    yield from _answerer(config["answerer"])
    yield from _models(config)
    yield from _data(config)
    selectors = config["evaluation"]["selectors"]
    for name in ("uniform", "learned"):
        if name not in selectors:
            yield f"evaluation.selectors = {selectors!r}: {name!r} is missing, with which others are compared; add it"
    for name, path in config["pathvars"].items():
        if path.startswith("~"):
            yield f"pathvars.{name} = {path!r}: ~ is not expanded; write the folder in full"


def _frames(frames: Mapping[str, Any]) -> Iterator[str]:
    for small, large, remedy in (
        ("selected", "candidates", "the answerer's frames are chosen among the candidates"),
        ("selector_pixels", "answerer_pixels", "the selector's frames are made from the answerer's"),
        ("number_pixels", "selector_pixels", "the number must fit into the frame that it is drawn on"),
    ):
        if frames[small] > frames[large]:
            yield (
                f"frames.{small} = {frames[small]}: more than frames.{large} = {frames[large]}, but {remedy}; "
                f"lower frames.{small} or raise frames.{large}"
            )


def _selector(selector: Mapping[str, Any], reward: Mapping[str, float]) -> Iterator[str]:
    training, (low, high) = selector["training"], selector["length_range"]
    if training["group_size"] < 2:
        yield (
            f"selector.training.group_size = {training['group_size']}: a group compares the completions of one "
            "question; set it to 2 or more (paper: 8)"
        )
    yield from _warmup("selector.training", training)
    if training["steps"] % training["updates_per_rollout"]:
        yield (
            f"selector.training.updates_per_rollout = {training['updates_per_rollout']}: selector.training.steps = "
            f"{training['steps']} is no multiple of it; change one of them"
        )
    if low > high:
        yield f"selector.length_range = [{low}, {high}]: empty; give the shorter length first"
    elif low > selector["max_new_tokens"]:
        yield (
            f"selector.length_range = [{low}, {high}]: no completion is that long, for selector.max_new_tokens = "
            f"{selector['max_new_tokens']}; lower the range or raise max_new_tokens"
        )
    if not any(reward.values()):
        yield f"reward = {dict(reward)}: all weights are 0, so nothing can be learned; raise one"


def _answerer(answerer: Mapping[str, Any]) -> Iterator[str]:
    yield from _warmup("answerer.tuning", answerer["tuning"])


def _warmup(section: str, training: Mapping[str, Any]) -> Iterator[str]:
    if training["warmup_steps"] > training["steps"]:
        yield (
            f"{section}.warmup_steps = {training['warmup_steps']}: more than {section}.steps = {training['steps']}; "
            "lower it"
        )


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    for role in ("selector", "answerer"):
        section, model = config[role], config[role]["model"]
        folder = Path(model)
        if model == STAND_IN:
            if section["prompt"] != "short":
                yield (
                    f"{role}.prompt = {section['prompt']!r}: the stand-in knows the prompt 'short' alone; set it, or "
                    f"another {role}.model"
                )
        elif model.startswith(("/", ".", "~")) or folder.exists():
            if not (folder / "config.json").is_file():
                yield (
                    f"{role}.model = {model!r}: the folder holds no checkpoint (config.json is missing); name the "
                    f"folder that does, a hub id such as Qwen/Qwen2.5-VL-3B-Instruct, or {STAND_IN!r}"
                )
        elif not _HUB_ID.fullmatch(model):
            yield (
                f"{role}.model = {model!r}: no such folder, and no hub id, which looks like "
                f"Qwen/Qwen2.5-VL-3B-Instruct; {nearest(model, [STAND_IN])}"
            )
    clip = config["clip"]
    if clip["model"] == STAND_IN and clip["pretrained"] is not None:
        yield f"clip.pretrained = {clip['pretrained']!r}: the stand-in has no such weights; set it to null"
    if clip["model"] != STAND_IN and clip["pretrained"] is None:
        yield (
            f"clip.pretrained = None: clip.model = {clip['model']!r} would have random weights; name the weights, "
            "for example openai"
        )


def _data(config: Mapping[str, Any]) -> Iterator[str]:
    sets = [config["dataset"], *config["benchmarks"]]
    local = config["local"]
    if not any(name.startswith("local") for name in sets):
        return
    user = "dataset" if config["dataset"] == "local" else "benchmarks"
    for key, what, exists in (
        ("folder", "folder of your videos", Path.is_dir),
        ("questions", "file of your questions", Path.is_file),
    ):
        path = local[key]
        if path is None:
            yield f"local.{key} = None: {user} names 'local'; give the {what}"
        elif not exists(Path(path)):
            yield f"local.{key} = {path!r}: not found; give the {what}, a path that counts from {Path.cwd()}"
    if config["dataset"] == "local" and local["validation_share"] == 0 and "local_validation" in sets:
        yield "local.validation_share = 0: benchmarks names 'local_validation', which would be empty; raise it"
