"""What is written about the configuration, from its description.

`python -m viarl.config.document` writes the schema for editors, docs/configuration.md, and the comments of config.yaml;
with --check it writes nothing, and says what is not as it would be written.
"""

import functools
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from viarl.config.sections import Configuration
from viarl.sections import OneOf, about, keys_of, plain, schema

CHECKOUT = Path(__file__).resolve().parents[3]
HEAD = """# Configuration

Every key of `config.yaml`, in its order, as `python -m viarl.config.document` writes it. An overlay (`--configfile`,
`--config`, an ablation) changes single keys. *Counts* says whether a change makes jobs stale: what does not count
bounds memory or time, or says where something is. Sources: *paper* is arXiv 2505.15447, *scripts* are its authors'
training scripts, *ours* was chosen here; behind the colon stands their value.

| key | default | meaning | unit | source | counts |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """A key or a section: its dotted name and what its description says."""

    name: str
    meaning: str
    unit: str = ""
    source: str = ""
    counts: bool = True
    section: bool = False

    @property
    def comment(self) -> str:
        """What config.yaml says behind it."""
        unit, source = f", {self.unit}" if self.unit else "", f" [{self.source}]" if self.source else ""
        return f"{self.meaning}{unit}{source}{'' if self.counts or self.section else '; does not count'}"


def entries(kind: Any = Configuration, prefix: str = "", counts: bool = True) -> Iterator[Entry]:
    """Yield every section and key, in order."""
    for name, field in keys_of(kind).items():
        where, own = f"{prefix}{name}", counts and about(field, "counts")
        if keys_of(field.annotation):
            yield Entry(where, _first_line(plain(field.annotation)), counts=own, section=True)
            yield from entries(field.annotation, f"{where}.", own)
        else:
            meaning = ": ".join(filter(None, [" | ".join(_words(field.annotation)), field.description]))
            inner = plain(field.annotation)
            registry = _registry(typing.get_args(inner)[0]) if typing.get_origin(inner) is dict else None
            known = registry.words() if registry else ()
            yield Entry(where, meaning, about(field, "unit"), about(field, "source"), own, bool(known))
            for word in known:
                meaning = _first_line(known[word]) if isinstance(known, Mapping) else ""
                yield Entry(f"{where}.{word}", meaning, counts=own)


def _first_line(kind: Any) -> str:
    return ((kind.__doc__ or "").strip().splitlines() or [""])[0].removesuffix(".")


def _registry(annotation: Any) -> OneOf | None:
    return next((one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, OneOf)), None)


def _words(annotation: Any) -> list[str]:
    """Return the words that a text, or an entry of a list, may be; none where it may be any."""
    if registry := _registry(annotation):
        return list(registry.words())
    inner = plain(annotation)
    if typing.get_origin(inner) is typing.Literal:
        return list(typing.get_args(inner))
    return _words(typing.get_args(inner)[0]) if typing.get_origin(inner) is tuple else []


def commented(text: str) -> str:
    """Return config.yaml with the description behind every key whose value ends on its line."""
    comments = {entry.name: entry.comment for entry in entries()}
    lines, path = [], [("", -1)]
    for line in text.splitlines():
        if found := re.match(r"( *)([\w./-]+):(?= |$)", line):
            path = [*[one for one in path if one[1] < len(found[1])], (found[2], len(found[1]))]
            said = comments.get(".".join(name for name, _ in path[1:]))
            bare = re.sub(r"\s+#.*", "", line)
            if said and bare.count("[") == bare.count("]") and bare.count("{") == bare.count("}"):
                line = f"{bare} # {said}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def page(config: Mapping[str, Any]) -> str:
    """Return docs/configuration.md."""
    text = HEAD
    for entry in entries():
        value = functools.reduce(lambda part, name: part.get(name, {}), entry.name.split("."), config)
        shown = "" if isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"
        meaning, counts = entry.meaning.replace("|", "\\|"), "" if entry.section else "yes" if entry.counts else "no"
        text += f"| `{entry.name}` | {shown} | {meaning} | {entry.unit} | {entry.source} | {counts} |\n"
    return text


def _partial(part: Any) -> Any:
    """Return a schema without required keys, so that it fits overlays too; the check asks for every key."""
    if not isinstance(part, dict):
        return [_partial(entry) for entry in part] if isinstance(part, list) else part
    return {name: _partial(entry) for name, entry in part.items() if name != "required"}


def documents(checkout: Path = CHECKOUT) -> dict[Path, str]:
    """Return what each file must hold."""
    configuration = (checkout / "config.yaml").read_text(encoding="utf-8")
    described = json.dumps(_partial(schema(Configuration)), indent=1)
    return {
        checkout / "config.yaml": commented(configuration),
        checkout / "docs" / "configuration.md": page(yaml.safe_load(configuration)),
        checkout / "workflow" / "schemas" / "config.schema.json": f"{described}\n",
    }


def main() -> None:
    """Write the files, or check them."""
    texts = documents()
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(map(str, stale))}: not as described; run python -m viarl.config.document")
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(texts[path], encoding="utf-8")


if __name__ == "__main__":
    main()
