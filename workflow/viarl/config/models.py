"""The configuration's part about models: what `model`, `revision`, `dtype` and `attention` must fulfil together."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from viarl.faults import nearest, shown
from viarl.models.files import HUB_ID, REVISION, TEMPLATE, has_template, missing_shards
from viarl.models.settings import flash_obstacle

STAND_IN = "stand-in"


def model_problems(role: str, section: Mapping[str, Any], device: str) -> Iterator[str]:
    """Yield what is wrong with a role's model, a line each."""
    model, revision = section["model"], section["revision"]
    on_the_hub = False
    if model == STAND_IN:
        if section["prompt"] != "short":
            what = "the stand-in knows the prompt 'short' alone"
            yield f"{role}.prompt = {section['prompt']!r}: {what}; set it, or another {role}.model"
    elif model.startswith("-"):
        yield f"{role}.model = {shown(model)}: begins with -, as an option does; write ./{model}"
    elif model.startswith("~"):
        yield f"{role}.model = {shown(model)}: ~ is not expanded; write the folder in full"
    elif model.startswith(("/", ".")) or os.path.exists(model):
        yield from _folder_problems(f"{role}.model = {shown(model)}", Path(model))
    elif "@" in model:
        yield f"{role}.model = {shown(model)}: the revision stands in {role}.revision; move what is behind @ there"
    elif not HUB_ID.fullmatch(model):
        what = "no such folder, and no hub id, which looks like Qwen/Qwen2.5-VL-3B-Instruct"
        yield f"{role}.model = {shown(model)}: {what}; {nearest(model, [STAND_IN])}"
    else:
        on_the_hub = True
    if revision is not None:
        where = f"{role}.revision = {shown(revision)}"
        if not on_the_hub:
            yield f"{where}: only a hub id has revisions, and {role}.model is {shown(model)}; set it to null"
        elif not REVISION.fullmatch(revision):
            yield f"{where}: no branch, tag or commit; give one, as the hub shows it"
    yield from _attention_problems(role, section, device)


def _folder_problems(where: str, folder: Path) -> Iterator[str]:
    if not (folder / "config.json").is_file():
        remedy = f"name the folder that does, a hub id such as Qwen/Qwen2.5-VL-3B-Instruct, or {STAND_IN!r}"
        yield f"{where}: the folder holds no checkpoint (config.json is missing); {remedy}"
    elif not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        reason = f"its weights are pickled ({', '.join(pickled)}), which" if pickled else "no *.safetensors, and others"
        remedy = "load the model with transformers where you trust it, and save it with save_pretrained, which writes"
        yield f"{where}: {reason} are never loaded; {remedy} safetensors"
    elif not has_template(folder):
        what = f"the folder holds no chat template ({TEMPLATE}, or in tokenizer_config.json)"
        yield f"{where}: {what}; copy {TEMPLATE} of the model that it was made from into it"
    elif missing := missing_shards(folder):
        yield f"{where}: {len(missing)} shards of its weights are missing ({', '.join(missing[:3])}); fetch them again"


def _attention_problems(role: str, section: Mapping[str, Any], device: str) -> Iterator[str]:
    """Yield why flash-attention 2 cannot be had where it is demanded."""
    if section["attention"] != "flash_attention_2":
        return
    # on "auto" the stages learn which device it is, and ask again
    obstacle = flash_obstacle(section["dtype"], device) if device != "auto" else ""
    if section["dtype"] == "bfloat16" and not section["lora"]["enabled"]:
        obstacle = obstacle or f"without {role}.lora all weights are trained, in float32, which it does not take"
    if obstacle:
        yield f"{role}.attention = 'flash_attention_2': {obstacle}; set it to auto (flash where it can be) or sdpa"
