"""Validation of the configuration, before any job.

First each key by itself (viarl.config.sections), then what several keys must fulfil together. Every message names the
key, its value and the remedy; all that is wrong is reported at once.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from viarl.config.data import data_problems, hub_problems, path_problems
from viarl.config.launcher import launcher_problems
from viarl.config.models import STAND_IN, model_problems
from viarl.config.sections import Configuration
from viarl.faults import listed, shown
from viarl.models.clip_weights import clip_problem
from viarl.sections import faults


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError, one line for each thing that is wrong with the configuration; return nothing if all is well."""
    found = faults(Configuration, config)
    problems = [line for _, line in found]
    # what belongs together is looked at wherever no key by itself is wrong
    sound = set(config) - {section for section, _ in found} if isinstance(config, Mapping) else set()
    for look, sections in _COMBINATIONS.items():
        if sound.issuperset(sections):
            problems.extend(look(*(config[section] for section in sections)))
    if problems:
        raise ValueError(listed([f"config: {line}" for line in problems]))


def _frames(frames: Mapping[str, Any]) -> Iterator[str]:
    for small, large, remedy in (
        ("selected", "candidates", "the answerer's frames are chosen among the candidates"),
        ("selector_pixels", "answerer_pixels", "the selector's frames are made from the answerer's"),
        ("number_pixels", "selector_pixels", "the number must fit into the frame that it is drawn on"),
    ):
        if frames[small] > frames[large]:
            what = f"more than frames.{large} = {frames[large]}, but {remedy}"
            yield f"frames.{small} = {frames[small]}: {what}; lower frames.{small} or raise frames.{large}"


def _selector(selector: Mapping[str, Any], device: str) -> Iterator[str]:
    training, (low, high) = selector["training"], selector["length_range"]
    steps, updates, size = (training[name] for name in ("steps", "updates_per_rollout", "group_size"))
    where = "selector.training"
    if size < 2:
        what = "a group compares the completions of one question"
        yield f"{where}.group_size = {size}: {what}; set it to 2 or more (paper: 8)"
    yield from _warmup(where, training)
    yield from _warmup("selector.start", selector["start"])
    if steps % updates:
        what = f"{where}.steps = {steps} is no multiple of it"
        yield f"{where}.updates_per_rollout = {updates}: {what}; change one of them"
    if low > high:
        yield f"selector.length_range = [{low}, {high}]: empty; give the shorter length first"
    elif low > selector["max_new_tokens"]:
        what = f"no completion is that long, for selector.max_new_tokens = {selector['max_new_tokens']}"
        yield f"selector.length_range = [{low}, {high}]: {what}; lower the range or raise max_new_tokens"
    yield from model_problems("selector", selector, device)


def _reward(reward: Mapping[str, float]) -> Iterator[str]:
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
    if answerer["frames_as"] == "video":
        what = "servers take no list of frames as a video, and answerer.backend is 'endpoint'"
        yield f"answerer.frames_as = {answerer['frames_as']!r}: {what}; set frames_as to images or timed_images"
    if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", url):
        remedy = "correct it (a key belongs into the environment variable OPENAI_API_KEY)"
        yield f"{where}.url = {shown(url)}: not of the form http://host:port/v1; {remedy}"
    if unknown := set(re.findall(r"{(.*?)}", model)) - {"model", "weights"}:
        yield f"{where}.model = {shown(model)}: {{{min(unknown)}}} is not known; use {{model}} and {{weights}}"
    if "{model}" not in model and cycles != 0 and answerer["tuning"]["steps"]:
        yield (
            f"{where}.model = {shown(model)}: names the same model in every cycle, but answerer.tuning.steps = "
            f"{answerer['tuning']['steps']} and cycles = {cycles} tune the answerer; use {{model}} with a server that "
            "loads models by name, or set answerer.tuning.steps to 0 to leave the answerer as it is"
        )


def _warmup(section: str, training: Mapping[str, Any]) -> Iterator[str]:
    warmup, steps = training["warmup_steps"], training["steps"]
    if warmup > steps:
        yield f"{section}.warmup_steps = {warmup}: more than {section}.steps = {steps}; lower it"


def _clip(clip: Mapping[str, Any]) -> Iterator[str]:
    if clip["model"] == STAND_IN and clip["pretrained"] is not None:
        yield f"clip.pretrained = {shown(clip['pretrained'])}: the stand-in has no such weights; set it to null"
    if clip["model"] != STAND_IN and (problem := clip_problem(clip["model"], clip["pretrained"])):
        yield problem


def _evaluation(evaluation: Mapping[str, Any]) -> Iterator[str]:
    selectors = evaluation["selectors"]
    for name in ("uniform", "learned"):
        if name not in selectors:
            yield f"evaluation.selectors = {selectors!r}: {name!r} is missing, with which others are compared; add it"


def _tracking(tracking: Mapping[str, Any]) -> Iterator[str]:
    if (uri := tracking["uri"]) is not None and not re.match(r"[a-z][\w+.-]*://", uri):
        remedy = "write http://host:port of a server, or null for SQLite below the results root"
        yield f"tracking.uri = {shown(uri)}: names no kind of store; {remedy}"


def _stand_in(frames: Mapping[str, Any], selector: Mapping[str, Any]) -> Iterator[str]:
    """The stand-in's tokenizer writes a thought of 13 tokens, three tokens a number, and the end."""
    needed = 14 + 3 * frames["selected"]
    named = frames["selected"] <= frames["candidates"]  # else that is what is wrong
    if named and selector["model"] == STAND_IN and needed > selector["max_new_tokens"]:
        what = f"too few for the stand-in to name frames.selected = {frames['selected']} frames"
        remedy = f"raise it to {needed} or more, and with it the end of selector.length_range"
        yield f"selector.max_new_tokens = {selector['max_new_tokens']}: {what}; {remedy}"


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
