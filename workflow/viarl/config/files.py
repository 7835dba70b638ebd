"""The configuration's files, and its values from the command line, before they are checked.

`python -m viarl.config.files FILE…` says in which line a file is no YAML, or a key stands twice. Snakemake reads the
files of --configfile before anything of ours, and does not say so much of those that it cannot read.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from viarl.faults import listed


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
            remedy = "correct the name or the permissions, or run this in the folder that holds it"
            problems.append(f"{path}: cannot be read ({error.strerror}); {remedy}")
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
        inner = [] if isinstance(node, yaml.MappingNode) else [(prefix, entry) for entry in node.value]
        if isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                name, line = f"{prefix}{key.value}", key.start_mark.line + 1
                identity = (key.tag, str(key.value))
                if identity in lines:
                    yield f"line {line}: {name} stands in line {lines[identity]} already; remove one of them"
                lines.setdefault(identity, line)
                inner.append((f"{name}.", value))
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
    with suppress(yaml.YAMLError):
        return yaml.safe_load(text)
    return text  # the schema says what should stand there


if __name__ == "__main__":
    try:
        check_files(map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
