"""A fingerprint of what a stage's code means, so that Snakemake reruns a job when it changes, and only then.

Snakemake does not see the modules that a stage imports. `fingerprint("viarl.stages.x")` hashes the stage's first-party
import closure: the module, the modules of this package that it imports (anywhere, also inside functions), the packages
that hold them, and so on. Of each it hashes the syntax tree without docstrings (attributes' too) and without what
describes a setting; comments and formatting are no part of the tree. Modules that a stage imports by a computed name
are not seen: its rule names them (`settings` in rules/settings.smk). Modules that only watch (`WATCHERS`: progress
lines, tracking) change no result and are left out, so that better logging never retrains a model.
"""

import ast
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from viarl.files import sha256_file, sha256_json

PACKAGE = "viarl"
SETTING = ("Field", "key")  # how a class's annotated field is given: pydantic's, or a helper that describes it first
DESCRIPTIONS = ("description", "title", "doc", "unit", "source", "examples")  # arguments of these
WATCHERS = ("viarl.progress", "viarl.tracking")  # with the modules of a package
ROOT = Path(__file__).resolve().parent.parent


def fingerprint(*modules: str, root: Path = ROOT) -> str:
    """Return 16 hexadecimal digits that change with the meaning of modules or of any first-party module they import.

    `root` is the folder that holds the package. Raises FileNotFoundError where a module does not exist, and ValueError
    naming the file where one does not parse.
    """
    for module in modules:
        if source_file(module, root) is None:
            raise FileNotFoundError(f"module {module} has no file under {root}; the rule that names it needs one")
    digest = hashlib.sha256()
    for name in sorted(set().union(*(closure(module, root) for module in modules))):
        digest.update(f"{name} {_module(name, root)[0]}\n".encode())
    return digest.hexdigest()[:16]


def closure(module: str, root: Path = ROOT) -> set[str]:
    """Return the dotted names of `module` and of all first-party modules that it imports at any depth, but watchers."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or watches(name) or source_file(name, root) is None:
            continue
        found.add(name)
        waiting.extend(_module(name, root)[1])
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return found


def watches(module: str) -> bool:
    """Tell whether a module only watches: it changes no result."""
    return any(f"{module}.".startswith(f"{watcher}.") for watcher in WATCHERS)


def source_file(module: str, root: Path = ROOT) -> Path | None:
    """Return the file of a first-party module or package, None where there is none."""
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _module(name: str, root: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of one module's meaning and the first-party modules it imports."""
    path = source_file(name, root)
    assert path is not None, name
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; correct it, then run again") from error
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    nodes = list(ast.walk(tree))
    imports = tuple(name for name in sorted(set(_imports(nodes, package))) if source_file(name, root))
    for node in nodes:
        _strip_prose(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _imports(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Yield the dotted first-party names that a module imports; `from a import b` may mean a module a.b, so both."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def _strip_prose(node: ast.AST) -> None:
    """Remove the texts that stand as statements, and a class's descriptions of settings; an empty body is `pass`."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    kept = [line for line in node.body if not (isinstance(line, ast.Expr) and _is_text(line.value))]
    node.body = kept or [ast.Pass()]
    for field in node.body if isinstance(node, ast.ClassDef) else ():
        for call in ast.walk(field) if isinstance(field, ast.AnnAssign) else ():
            name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
            if isinstance(call, ast.Call) and name in SETTING:
                call.keywords = [given for given in call.keywords if given.arg not in DESCRIPTIONS]
                if name == "key" and call.args and _is_text(call.args[0]):
                    del call.args[0]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def flatten(value: Any, prefix: str = "", leave_out: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return nested mappings and dataclasses as {"a.b": leaf}; entries of the types `leave_out` are left out.

    Leaves are text, numbers, booleans, None, or lists of text; anything else is turned into text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        leaf = value if isinstance(value, str | int | float | bool | None) else str(value)
        return {prefix: list(map(str, value)) if isinstance(value, list | tuple) else leaf}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if not isinstance(entry, leave_out):
            flat |= flatten(entry, f"{prefix}.{key}" if prefix else str(key), leave_out)
    return flat


def identity(
    settings: Mapping[str, Any], files: Mapping[str, Path | Sequence[Path]], **hashes: Sequence[str]
) -> dict[str, str]:
    """Return what a training's result depends on: its settings (may be nested) and the content of its input files.

    `hashes` are those of files that are too large to be read for this: weights (viarl.models.files.weight_hashes).
    """
    known = {key: str(value) for key, value in flatten(settings).items()}
    contents: dict[str, Sequence[str]] = {name.replace("_", " "): content for name, content in hashes.items()}
    for name, paths in files.items():
        contents[name] = [sha256_file(path) for path in ([paths] if isinstance(paths, Path) else paths)]
    for name, content in contents.items():
        known[f"content of {name}"] = content[0] if len(content) == 1 else sha256_json(content)
    return known
