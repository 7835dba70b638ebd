"""No first-party code loads a pickle or runs code that comes with a model or a file."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
SOURCES = sorted(
    path
    for folder in ("workflow", "tests")
    for suffix in ("*.py", "*.smk")
    for path in (REPOSITORY / folder).rglob(suffix)
    if path.name != Path(__file__).name
)


def name_of(node: ast.expr) -> str:
    """The dotted name that is called, "" where it is no name."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(tree: ast.AST) -> Iterator[str]:
    """Yield line and reason of everything that loads pickles, builds objects from YAML, or trusts foreign code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if bad := {module.split(".")[0] for module in modules} & MODULES:
                yield f"{node.lineno}: imports {', '.join(bad)}"
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        on = {key for key, value in given.items() if not (isinstance(value, ast.Constant) and value.value is False)}
        if unsafe := on & {"allow_pickle", "trust_remote_code"}:
            yield f"{node.lineno}: {name} with {', '.join(unsafe)}"
        safe = isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True
        if isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is False:
            yield f"{node.lineno}: {name} with weights_only=False"
        if name in ("torch.load", "torch.package.PackageImporter", "torch.hub.load") and not safe:
            yield f"{node.lineno}: {name} without weights_only=True"
        if name in ("torch.jit.load", "pandas.read_pickle", "pd.read_pickle", "eval", "exec"):
            yield f"{node.lineno}: {name}"
        loaders = [value for value in (*node.args[1:], given.get("Loader")) if value is not None]
        if name in ("yaml.load", "yaml.load_all") and not any("Safe" in name_of(one) for one in loaders):
            yield f"{node.lineno}: {name} without a safe loader"
        if name in ("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"):
            yield f"{node.lineno}: {name}"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "Model.from_pretrained(name, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "Model.from_pretrained(name, trust_remote_code=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(findings(ast.parse(code)))


def test_the_search_lets_safe_calls_pass() -> None:
    code = "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nyaml.load(t, Loader=yaml.SafeLoader)"
    assert not list(findings(ast.parse(code)))


def test_no_source_loads_a_pickle() -> None:
    """Python sources by their syntax tree; rules, which Python cannot parse, by the lines that it can."""
    assert len(SOURCES) > 100
    found = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        pieces = [(text, 0)] if path.suffix == ".py" else [(line.strip(), n) for n, line in enumerate(text.split("\n"))]
        for piece, above in pieces:
            try:
                tree = ast.parse(piece)
            except SyntaxError:
                assert path.suffix == ".smk", path
                continue
            for finding in findings(tree):
                line, _, reason = finding.partition(":")
                found.append(f"{path.relative_to(REPOSITORY)}:{int(line) + above}:{reason}")
    assert not found, "\n".join(found)


def test_the_trainers_checkpoints_are_loaded_as_weights_only() -> None:
    """Every torch.load of the installed transformers' Trainer and modeling code, which our checkpoints go through."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    for file in ("trainer.py", "modeling_utils.py"):
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "torch.load"]
        values = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "weights_only"]
        assert calls and len(values) == len(calls), file
        for value in values:
            if isinstance(value, ast.Name):  # handed on by load_state_dict(…, weights_only: bool = True)
                function = next(node for node in ast.walk(tree) if getattr(node, "name", "") == "load_state_dict")
                names = [one.arg for one in function.args.args]
                last = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
                assert ast.unparse(last[value.id]) == "True", file
            else:
                assert ast.unparse(value) == "True", file
