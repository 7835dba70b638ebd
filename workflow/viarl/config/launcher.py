"""The configuration's part about processes: what `launcher`, `device` and the batches must fulfil together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from viarl.faults import nearest, shown

CHECKOUT = Path(__file__).resolve().parents[3]
KINDS = ("MULTI_GPU", "FSDP", "DEEPSPEED")  # of accelerate's distributed_type; the first runs on CPUs too


def accelerate_file(name: str, checkout: Path) -> Path:
    """Return the file that launcher.config names: one of `checkout`/envs/accelerate by its name, or one by its path."""
    own = checkout / "envs" / "accelerate" / f"{name}.yaml"
    return own if own.is_file() else Path(name)


def accelerate_kind(file: Path) -> str:
    """Return the distributed_type of a configuration of accelerate; ValueError for one that cannot work here."""
    where = f"launcher.config: {file}:"
    try:
        known = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{where} cannot be read ({str(error).splitlines()[0]}); correct it") from error
    kind = known.get("distributed_type") if isinstance(known, dict) else None
    if kind not in KINDS:
        raise ValueError(f"{where} distributed_type is {kind}; this project knows {', '.join(KINDS)}")
    if known.get("num_machines", 1) != 1:
        raise ValueError(f"{where} num_machines is {known['num_machines']}; more machines than one are not supported")
    if kind == "FSDP" and (known.get("fsdp_config") or {}).get("fsdp_version") != 2:
        raise ValueError(f"{where} fsdp_config.fsdp_version must be 2, as in envs/accelerate/fsdp2.yaml")
    return str(kind)


def launcher_problems(
    launcher: Mapping[str, Any], device: str, selector: Mapping[str, Any], answerer: Mapping[str, Any]
) -> Iterator[str]:
    """Yield why the processes cannot be started, or cannot share the batches evenly, a line each."""
    processes, name = launcher["processes"], launcher["config"]
    where = f"launcher.config = {shown(name)}"
    if not (file := accelerate_file(name, CHECKOUT)).is_file():
        known = [path.stem for path in (CHECKOUT / "envs" / "accelerate").glob("*.yaml")]
        yield f"{where}: no such file; {nearest(name, known)}"
    else:
        try:
            if accelerate_kind(file) != KINDS[0] and device == "cpu":
                yield f"{where}: needs GPUs, but device = 'cpu'; set it to 'ddp'"
        except ValueError as error:
            yield str(error)
    for section, batch, part, training in (
        ("selector.training", "prompts_per_step", "groups_per_microbatch", selector["training"]),
        ("selector.start", "batch_size", "micro_batch_size", selector["start"]),
        ("answerer.tuning", "batch_size", "micro_batch_size", answerer["tuning"]),
    ):
        if training.get("labels") == "none":  # there is no such training
            continue
        total, size = training[batch], training[part]
        each = total // processes
        if total % processes:
            yield f"{section}.{batch} = {total}: no multiple of launcher.processes = {processes}; change one of them"
        elif size and each % size:
            what = f"{section}.{batch} = {total}" + (f" over launcher.processes = {processes}" if processes > 1 else "")
            yield f"{section}.{part} = {size}: does not divide {what}; change one of them, or set it to 0"
