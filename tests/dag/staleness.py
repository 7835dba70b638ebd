"""The table of what a change makes stale (staleness.yaml), and its form in the README.

`python -m tests.dag.staleness` prints the rows that stand in the README between the two marks.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from viarl.config.document import entries
from viarl.config.runs import overlaid

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = yaml.safe_load(Path(__file__).with_name("staleness.yaml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
MARKS = ("<!-- staleness: begin -->", "<!-- staleness: end -->")


@dataclass(frozen=True)
class Row:
    """A changed key: the overlay that changes it, and the jobs that run again, by rule."""

    key: str
    overlay: dict[str, Any]
    again: str

    @property
    def jobs(self) -> dict[str, int]:
        """Number of jobs of each rule."""
        return dict(TABLE["groups"][self.again]["jobs"])


def keys() -> dict[str, bool]:
    """Return the dotted name of every key of the configuration, and whether it counts."""
    return {entry.name: entry.counts for entry in entries() if not entry.section}


def again(key: str) -> str:
    """Return the group of a row; only a key that does not count names none, for then nothing runs again."""
    return str(TABLE["keys"][key].get("again", "nothing"))


def rows() -> Iterator[Row]:
    """Yield the rows of the configuration's keys; `section.*` stands for every key that config.yaml has there."""
    for key, row in TABLE["keys"].items():
        *sections, last = key.split(".")
        known: Any = CONFIG
        for section in sections:
            known = known[section]
        for name in known if last == "*" else [last]:
            overlay = {name: row["to"]}
            for section in reversed(sections):
                overlay = {section: overlay}
            yield Row(".".join([*sections, name]), overlaid(row.get("with", {}), overlay), again(key))


def readme_table() -> str:
    """Return the table in Markdown: keys with the same consequence share a row."""
    by_group: dict[str, list[str]] = defaultdict(list)
    for key in TABLE["keys"]:
        by_group[again(key)].append(key)
    lines = ["| you change | what runs again |", "|---|---|"]
    lines += [f"| {_short(keys)} | {TABLE['groups'][group]['text']} |" for group, keys in _ordered(by_group)]
    lines += [f"| {row['text']} | {TABLE['groups'][row['again']]['text']} |" for row in TABLE["others"].values()]
    return "\n".join(lines)


def _ordered(by_group: dict[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    for group in TABLE["groups"]:
        if group in by_group:
            yield group, by_group[group]


def _short(keys: list[str]) -> str:
    """Return keys as code, those of one section together: `selector.training`: `steps`, `beta`."""
    sections: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        section, _, name = key.rpartition(".")
        sections[section].append(name)
    texts = []
    for section, names in sections.items():
        if section:
            texts.append(f"`{section}.`{{{', '.join(names)}}}" if len(names) > 1 else f"`{section}.{names[0]}`")
        else:
            texts += [f"`{name}`" for name in names]
    return ", ".join(texts)


if __name__ == "__main__":
    print("\n".join([MARKS[0], readme_table(), MARKS[1]]))
