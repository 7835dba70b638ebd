"""A fingerprint changes with the meaning of what a stage imports, and with nothing else."""

from pathlib import Path

import pytest

from viarl import identity as subject

FILES = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/train.py": "from viarl.rl import reward\n\ndef main():\n    from viarl import late\n    return late.f()\n",
    "rl/__init__.py": "",
    "rl/reward.py": '"""R."""\n\nfrom . import parts\n\n\ndef total(a):\n    """Sum."""\n    return parts.one(a)\n',
    "rl/parts.py": "def one(a):\n    return a + 1\n",
    "late.py": "def f():\n    return 1\n",
    "unrelated.py": "x = 1\n",
}
STAGE = "viarl.stages.train"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small first-party package."""
    for name, text in FILES.items():
        path = tmp_path / "viarl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def fresh(root: Path) -> str:
    """The fingerprint as a new process would compute it."""
    subject._module.cache_clear()
    return subject.fingerprint(STAGE, root=root)


def edited(root: Path, name: str, text: str) -> bool:
    """Write a module's text; return whether the fingerprint changed."""
    before = fresh(root)
    (root / "viarl" / name).write_text(text)
    return fresh(root) != before


def test_closure(library: Path) -> None:
    """Absolute, relative and late imports, and the packages that hold the modules."""
    expected = {"viarl", "viarl.stages", STAGE, "viarl.rl", "viarl.rl.reward", "viarl.rl.parts", "viarl.late"}
    assert subject.closure(STAGE, library) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("late.py", "def f():\n    # a remark\n    return 1\n"),
        ("late.py", "def f():\n\n\n    return (1)\n"),
        ("late.py", '"""New docstring."""\n\n\ndef f():\n    """What it does."""\n    return 1\n'),
        ("rl/reward.py", "from . import parts\n\n\ndef total(a):\n    return parts.one(\n        a\n    )\n"),
        ("unrelated.py", "x = 2\n"),
    ],
)
def test_unchanged(library: Path, name: str, text: str) -> None:
    assert not edited(library, name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("late.py", "def f():\n    return 2\n"),
        ("rl/parts.py", "def one(a):\n    return a + 1.0\n"),
        ("rl/__init__.py", "from viarl import unrelated\n"),
        ("stages/train.py", FILES["stages/train.py"].replace("late.f()", "late.f() + 1")),
    ],
)
def test_changed(library: Path, name: str, text: str) -> None:
    assert edited(library, name, text)


def test_docstring_as_value_counts(library: Path) -> None:
    assert edited(library, "late.py", "def f():\n    return 1\n\n\nTEXT = 'a'\n")


SETTINGS = """
class Settings(BaseModel):
    beta: float = key("weight of the KL", 0.1, ge=0, unit="nats", source="the paper")
    rate: Annotated[float, Field(gt=0, description="of AdamW")] = 1e-3
    '''The learning rate.'''
    kind: str = choice("plain", title="a title")
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("weight of the KL", "how much the KL to the start counts", False),
        ('unit="nats", source="the paper"', 'unit="nats a token"', False),
        ('description="of AdamW"', 'title="rate", description="AdamW\'s", examples=[1e-4]', False),
        ("    '''The learning rate.'''\n", "", False),
        (", 0.1,", ", 0.2,", True),
        ("ge=0", "gt=0", True),
        ("gt=0, ", "gt=0, lt=1, ", True),
        ("1e-3", "1e-4", True),
        ('choice("plain"', 'choice("group"', True),
        ("a title", "another", True),  # of a call that describes no setting
    ],
)
def test_a_better_description_retrains_nothing(library: Path, old: str, new: str, counts: bool) -> None:
    """Defaults and bounds count, what is said about them does not."""
    assert SETTINGS.count(old) == 1
    edited(library, "late.py", SETTINGS)
    assert edited(library, "late.py", SETTINGS.replace(old, new)) == counts


def test_missing_and_broken(library: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"viarl\.stages\.other"):
        subject.fingerprint("viarl.stages.other", root=library)
    (library / "viarl" / "late.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"late\.py, line 1"):
        fresh(library)


def test_every_stage_has_one() -> None:
    stages = Path(subject.__file__).parent / "stages"
    found = {path.stem: subject.fingerprint(f"viarl.stages.{path.stem}") for path in stages.glob("[a-z]*.py")}
    assert found and all(len(value) == 16 for value in found.values())


def test_a_module_that_only_watches_is_no_part_of_it(library: Path) -> None:
    assert edited(library, "stages/train.py", FILES["stages/train.py"] + "import viarl.tracking.record\n")
    assert not edited(library, "tracking.py", "def start():\n    return 1\n")
    assert not edited(library, "tracking.py", "def start():\n    return 2\n")
