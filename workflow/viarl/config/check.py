"""Validation of the configuration, before any job.

First the schema (keys, types, ranges), then what several keys must fulfil together. Every message names the key, its
value and the remedy; all that is wrong is reported at once.

`python -m viarl.config.check FILE…` says in which line a file is no YAML, or a key stands twice. Snakemake reads the
files of --configfile before anything of ours, and does not say so much of those that it cannot read.
"""

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from viarl.config.data import data_problems, hub_problems, path_problems
from viarl.config.launcher import launcher_problems
from viarl.config.models import STAND_IN, model_problems
from viarl.datasets.hub.sets import SETS
from viarl.faults import listed, nearest, shown
from viarl.training.rl.reward import unknown_parts

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.yaml"
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
    "minItems": "of a length of at least",
    "minProperties": "of a length of at least",
    "maxItems": "of a length of at most",
}


def _whole(_: Any, value: Any) -> bool:
    return type(value) is int  # not 2.0, which JSON Schema lets through, and of which nothing can be counted


def _number(_: Any, value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _whole, "number": _number}),
)


@functools.cache
def _validator() -> Any:
    """Return the schema's validator, read once: every ablation is checked, and every job of a cluster checks anew."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["benchmarks"]["items"]["enum"] += [name for name, made in SETS.items() if made.part != "train"]
    return _Validator(schema)


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError, one line for each thing that is wrong with the configuration; return nothing if all is well."""
    errors = sorted(_validator().iter_errors(config), key=lambda error: [str(part) for part in error.absolute_path])
    problems = [line for error in errors for line in _explain(error)]
    # what belongs together is looked at wherever the schema found nothing
    unsound = {str(error.absolute_path[0]) for error in errors if error.absolute_path}
    sound = config.keys() - unsound if isinstance(config, Mapping) else set()
    for look, sections in _COMBINATIONS.items():
        if sound.issuperset(sections):
            problems.extend(look(*(config[section] for section in sections)))
    if problems:
        raise ValueError(listed([f"config: {line}" for line in problems]))


def check_files(paths: Iterable[Path]) -> None:
    """Raise ValueError, a line each, for every key that stands twice in a file, where the second would win silently.

    A file that cannot be read at all is refused too; Snakemake itself does so for those of `--configfile`.
    """
    problems: list[str] = []
    for path in paths:
        try:
            content = path.read_text(encoding="utf-8")
            tree = yaml.compose(content.replace("\t", " ") if _is_json(content) else content, yaml.SafeLoader)
        except OSError as error:
            problems.append(
                f"{path}: cannot be read ({error.strerror}); correct the name or the permissions, or run this in the "
                "folder that holds it"
            )
        except UnicodeDecodeError as error:
            problems.append(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f" line {mark.line + 1}" if mark else ""
            problems.append(f"{path}{line}: not YAML ({error.problem}); correct it, and indent with blanks, not tabs")
        except yaml.YAMLError as error:
            problems.append(f"{path}: not YAML ({str(error).splitlines()[0]}); correct it")
        else:
            if isinstance(tree, yaml.MappingNode) and any(key.value == "schema_version" for key, _ in tree.value):
                problems.append(f"{path}: a result, no configuration; put -- between --configfile … and the targets")
            elif isinstance(tree, yaml.MappingNode):
                problems.extend(f"{path} {line}" for line in _twice(tree))
            else:
                problems.append(f"{path}: holds no keys; write `key: value` lines, as config.yaml does")
    if problems:
        raise ValueError(listed([f"config: {line}" for line in problems]))


def _is_json(content: str) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _twice(root: yaml.Node) -> Iterator[str]:
    """Yield the keys that stand twice in one mapping, in the order of the file; an anchor's content counts once."""
    done: set[int] = set()
    waiting: list[tuple[str, yaml.Node]] = [("", root)]
    while waiting:
        prefix, node = waiting.pop()
        if id(node) in done or isinstance(node, yaml.ScalarNode):
            continue
        done.add(id(node))
        inner = []
        if isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                name, line = f"{prefix}{key.value}", key.start_mark.line + 1
                identity = (key.tag, str(key.value))
                if identity in lines:
                    yield f"line {line}: {name} stands in line {lines[identity]} already; remove one of them"
                lines.setdefault(identity, line)
                inner.append((f"{name}.", value))
        else:
            inner = [(prefix, entry) for entry in node.value]
        waiting.extend(reversed(inner))


def typed(config: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Give the values inside mappings from the command line their types, in place.

    Snakemake reads `--config "reward={answer: 4}"` with every inner value as text; `given` is that part, of which the
    texts are read as YAML.
    """
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            typed(config[key], value)
        elif isinstance(value, str | list):
            config[key] = _read(value) if isinstance(value, str) else [_read(str(entry)) for entry in value]


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # the schema says what should stand there


def _explain(error: ValidationError) -> Iterator[str]:
    """Turn one finding of the schema into lines for people."""
    where = ".".join(str(part) for part in error.absolute_path) or "the configuration"
    value, rule = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in sorted(set(value) - set(known), key=str):
            name = f"{where}.{key}" if error.absolute_path else str(key)
            yield f"{name} = {shown(value[key])}: unknown key; {nearest(key, known)}"
    elif error.validator == "required":
        for key in sorted(set(rule) - set(value)):
            name = f"{where}.{key}" if error.absolute_path else key
            yield f"{name} is missing: give it a value, as config.yaml does"
    elif error.validator == "type":
        kinds = [rule] if isinstance(rule, str) else rule
        word = re.fullmatch(r"\^(\w+)\$", str(error.schema.get("pattern")))  # the one text that is let through
        types = _TYPES | ({"string": word[1]} if word else {})
        remedy = f"write {' or '.join(types[kind] for kind in kinds)}"
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
            remedy += f" ({float(value)!r}: YAML reads a power of ten as text unless it has a point, as in 4.0e-7)"
        elif isinstance(value, float):
            remedy += " without a point" if "integer" in kinds else " that is finite"
        yield f"{where} = {shown(value)}: wrong type; {remedy}"
    elif error.validator == "enum":
        yield f"{where} = {shown(value)}: unknown value; {nearest(value, rule)}"
    elif error.validator in _BOUNDS:
        yield f"{where} = {shown(value)}: out of range; it must be {_BOUNDS[str(error.validator)]} {rule}"
    elif error.validator == "pattern":
        if str(rule).startswith(r"^[^\x00"):
            yield f"{where} = {shown(value)}: holds a line end or another control character; remove it"
        elif re.fullmatch(r"\^\w+\$", str(rule)):  # one word is let through beside another type
            others = " or ".join(_TYPES[kind] for kind in error.schema["type"] if kind != "string")
            yield f"{where} = {shown(value)}: wrong type; write {others} or {rule[1:-1]}"
        else:
            yield f"{where}: {shown(value)} is not of the form {rule}; rename it"
    elif error.validator == "uniqueItems":
        yield f"{where} = {shown(value)}: an entry stands twice; remove one"
    else:
        yield f"{where} = {shown(value)}: {error.message}"


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


def _selector(selector: Mapping[str, Any], device: str) -> Iterator[str]:
    training, (low, high) = selector["training"], selector["length_range"]
    if training["group_size"] < 2:
        yield (
            f"selector.training.group_size = {training['group_size']}: a group compares the completions of one "
            "question; set it to 2 or more (paper: 8)"
        )
    yield from _warmup("selector.training", training)
    yield from _warmup("selector.start", selector["start"])
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
    yield from model_problems("selector", selector, device)


def _reward(reward: Mapping[str, float]) -> Iterator[str]:
    yield from unknown_parts(reward)
    if not any(reward.values()):
        yield f"reward = {dict(reward)}: all weights are 0, so nothing can be learned; raise one"


def _answerer(answerer: Mapping[str, Any], device: str) -> Iterator[str]:
    if answerer["tuning"]["steps"]:
        yield from _warmup("answerer.tuning", answerer["tuning"])
    yield from model_problems("answerer", answerer, device)


def _endpoint(answerer: Mapping[str, Any], cycles: int | str) -> Iterator[str]:
    """The answerer on a server: what it shows, where it is, and that the model asked for is the cycle's own."""
    if answerer["backend"] != "endpoint":
        return
    url, model, where = answerer["endpoint"]["url"], answerer["endpoint"]["model"], "answerer.endpoint"
    if answerer["frames_as"] != "images":
        yield (
            f"answerer.frames_as = {answerer['frames_as']!r}: servers take no list of frames as a video, and "
            "answerer.backend is 'endpoint'; set frames_as to images"
        )
    if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", url):
        yield (
            f"{where}.url = {shown(url)}: not of the form http://host:port/v1; correct it (a key belongs into the "
            "environment variable OPENAI_API_KEY)"
        )
    if unknown := set(re.findall(r"{(.*?)}", model)) - {"model", "weights"}:
        yield f"{where}.model = {shown(model)}: {{{min(unknown)}}} is not known; use {{model}} and {{weights}}"
    if "{model}" not in model and cycles != 0 and answerer["tuning"]["steps"]:
        yield (
            f"{where}.model = {shown(model)}: names the same model in every cycle, but answerer.tuning.steps = "
            f"{answerer['tuning']['steps']} and cycles = {cycles} tune the answerer; use {{model}} with a server that "
            "loads models by name, or set answerer.tuning.steps to 0 to leave the answerer as it is"
        )


def _warmup(section: str, training: Mapping[str, Any]) -> Iterator[str]:
    if training["warmup_steps"] > training["steps"]:
        yield (
            f"{section}.warmup_steps = {training['warmup_steps']}: more than {section}.steps = {training['steps']}; "
            "lower it"
        )


def _clip(clip: Mapping[str, Any]) -> Iterator[str]:
    if clip["model"] != STAND_IN and ":" not in clip["model"]:  # else hf-hub:owner/name
        package = find_spec("open_clip")  # without its import, which takes seconds
        places = package.submodule_search_locations if package else None
        known = [path.stem for place in places or () for path in Path(place).glob("model_configs/*.json")]
        if known and clip["model"] not in known:
            yield f"clip.model = {shown(clip['model'])}: unknown to open_clip; {nearest(clip['model'], known)}"
    if clip["model"] == STAND_IN and clip["pretrained"] is not None:
        yield f"clip.pretrained = {shown(clip['pretrained'])}: the stand-in has no such weights; set it to null"
    if clip["model"] != STAND_IN and clip["pretrained"] is None:
        yield (
            f"clip.pretrained = None: clip.model = {shown(clip['model'])} would have random weights; name the weights, "
            "for example openai"
        )


def _evaluation(evaluation: Mapping[str, Any]) -> Iterator[str]:
    selectors = evaluation["selectors"]
    for name in ("uniform", "learned"):
        if name not in selectors:
            yield f"evaluation.selectors = {selectors!r}: {name!r} is missing, with which others are compared; add it"


def _tracking(tracking: Mapping[str, Any]) -> Iterator[str]:
    if (uri := tracking["uri"]) is not None and not re.match(r"[a-z][\w+.-]*://", uri):
        yield (
            f"tracking.uri = {shown(uri)}: names no kind of store; write http://host:port of a server, or null for "
            "SQLite below the results root"
        )


def _stand_in(frames: Mapping[str, Any], selector: Mapping[str, Any]) -> Iterator[str]:
    """The stand-in's tokenizer writes a thought of 13 tokens, three tokens a number, and the end."""
    needed = 14 + 3 * frames["selected"]
    named = frames["selected"] <= frames["candidates"]  # else that is what is wrong
    if named and selector["model"] == STAND_IN and needed > selector["max_new_tokens"]:
        yield (
            f"selector.max_new_tokens = {selector['max_new_tokens']}: too few for the stand-in to name "
            f"frames.selected = {frames['selected']} frames; raise it to {needed} or more, and with it the end of "
            "selector.length_range"
        )


_COMBINATIONS: dict[Callable[..., Iterator[str]], tuple[str, ...]] = {
    _frames: ("frames",),
    launcher_problems: ("launcher", "device", "selector", "answerer"),
    _selector: ("selector", "device"),
    _reward: ("reward",),
    _answerer: ("answerer", "device"),
    _endpoint: ("answerer", "cycles"),
    _clip: ("clip",),
    _evaluation: ("evaluation",),
    path_problems: ("pathvars",),
    data_problems: ("dataset", "benchmarks", "local"),
    hub_problems: ("benchmarks", "hub"),
    _tracking: ("tracking",),
    _stand_in: ("frames", "selector"),
}


if __name__ == "__main__":
    try:
        check_files(map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
