"""Which weights open_clip has for which model, by its own tables, without its import, which takes seconds."""

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from viarl.faults import nearest, shown

QUICK = "-quickgelu"  # ends the name of a model's variant with OpenAI's first activation
_HEAVY = {"huggingface_hub": None, "safetensors.torch": None}  # for downloads alone, and no module to its own code then


def clip_problem(model: str, pretrained: str | None) -> str:
    """Return what is wrong with an open_clip model (clip.model) and its weights, with the remedy; "" if nothing is.

    open_clip computes with an activation that the weights were not trained with after a mere warning.
    """
    if ":" in model:  # hf-hub:owner/name brings its own weights and configuration
        own = f"the weights are those of {model}; set it to null"
        return f"clip.pretrained = {shown(pretrained)}: {own}" if pretrained is not None else ""
    package = find_spec("open_clip")
    places = list(package.submodule_search_locations or ()) if package else []
    known = {path.stem: path for place in places for path in Path(place).glob("model_configs/*.json")}
    if not known:
        return ""
    if model not in known:
        return f"clip.model = {shown(model)}: unknown to open_clip; {nearest(model, known)}"
    if pretrained is None:
        what = f"clip.model = {shown(model)} would have random weights"
        return f"clip.pretrained = None: {what}; name the weights, for example openai"
    tables = sys.modules.get("open_clip.pretrained") or _tables(places)
    tags, plain = tables.list_pretrained_tags_by_model(model), model.removesuffix(QUICK)
    if not tables.is_pretrained_cfg(model, pretrained):
        what = f"open_clip has no weights of that name for clip.model = {shown(model)}"
        remedy = nearest(pretrained, tags) if tags else "and none of another; name another model"
        if tables.is_pretrained_cfg(plain, pretrained):
            remedy = f"set clip.model to {plain}"
        return f"clip.pretrained = {shown(pretrained)}: {what}; {remedy}"

    def quick(name: str, tag: str) -> tuple[bool, bool]:
        config = json.loads(known[name].read_text(encoding="utf-8"))
        return bool(config.get("quick_gelu")), bool(tables.get_pretrained_cfg(name, tag).get("quick_gelu"))

    of_model, of_weights = quick(model, pretrained)
    if of_model == of_weights:
        return ""
    names = {True: "QuickGELU", False: "GELU"}
    what = f"it computes with {names[of_model]}, and open_clip lists {shown(pretrained)} with {names[of_weights]}"
    other = plain + QUICK * of_weights
    remedy = f"set it to {other}"
    if other not in known or len(set(quick(other, pretrained))) > 1:
        fitting = [tag for tag in tags if len(set(quick(model, tag))) == 1]
        remedy = f"set clip.pretrained to one of {fitting}" if fitting else "name another model"
    return f"clip.model = {shown(model)}: {what}; {remedy}"


def _tables(places: list[str]) -> Any:
    """Return open_clip's module of weights, loaded by itself."""
    from unittest.mock import patch  # here, as most runs have the stand-in

    shell = ModuleType("open_clip")
    shell.__path__ = places
    with patch.dict(sys.modules, {"open_clip": shell, **_HEAVY}):
        return importlib.import_module("open_clip.pretrained")
