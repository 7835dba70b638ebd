"""How a section of the configuration is described: a class whose keys have a type, bounds, a meaning and a source.

    @section
    class Lora:
        rank: Count = key("rank of the adapters", source="ours")

From these classes come the check of the configuration, the settings of every rule, what a resumed training compares,
the JSON schema for editors and docs/configuration.md. `counts=False` marks what changes no result: it bounds memory or
time, or says where something is. The meaning is no part of a stage's fingerprint.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError, core_schema

from viarl.faults import nearest, shown

T = TypeVar("T")

# Upper bounds catch slips of the keyboard and what overflows later; no sensible value comes near them.
Count = Annotated[int, Field(ge=1, le=10**9)]
Whole = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Share = Annotated[float, Field(ge=0, le=1)]
PartShare = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=10**6)]
Weight = Annotated[float, Field(ge=0, le=10**6)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]


def _distinct(values: Any) -> Any:
    if len({json.dumps(value) for value in values}) < len(values):
        raise PydanticCustomError("twice", "an entry stands twice; remove one")
    return values


Distinct = AfterValidator(_distinct)
Seeds = Annotated[tuple[Whole, ...], Field(min_length=1, json_schema_extra={"uniqueItems": True}), Distinct]


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Annotates a text that is one of the words a registry knows when it is asked: Annotated[str, OneOf(words)]."""

    words: Callable[[], Iterable[str]]

    def _known(self, value: str) -> str:
        if value not in (known := tuple(self.words())):
            raise PydanticCustomError("word", "unknown", {"expected": " or ".join(map(repr, known))})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "enum": sorted(self.words())}


def key(
    meaning: str, *, default: Any = ..., unit: str = "", source: str = "", counts: bool = True, **bounds: Any
) -> Any:
    """Describe a key: what it says, its unit, where its value comes from, and whether it changes a result."""
    about: dict[str, Any] = {"unit": unit, "source": source, "counts": counts}
    return Field(default, description=meaning, json_schema_extra=about, **bounds)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(key,))
def section(kind: type[T]) -> type[T]:
    """Make a class of keys a frozen dataclass that is checked when it is built; unknown keys are refused."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return typing.cast(type[T], dataclass(kind, frozen=True, kw_only=True, config=config))


def keys_of(kind: Any) -> dict[str, Any]:
    """Return the keys of a section with their descriptions; nothing for what is no section."""
    return dict(getattr(plain(kind), "__pydantic_fields__", {}))


def about(described: Any, name: str) -> Any:
    """Return "unit", "source" or "counts" of a described key."""
    return (described.json_schema_extra or {}).get(name, True if name == "counts" else "")


def counted(kind: Any, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what changes a result: of the values of a section, or of an instance of one."""
    if values is None:
        kind, values = type(kind), dataclasses.asdict(kind)
    return {
        name: counted(described.annotation, values[name]) if keys_of(described.annotation) else values[name]
        for name, described in keys_of(kind).items()
        if name in values and about(described, "counts")
    }


def uncounted(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes no result, of the values of a section and of those in it."""
    found: dict[str, Any] = {}
    for name, described in keys_of(kind).items():
        if not about(described, "counts"):
            found[name] = values[name]
        elif keys_of(described.annotation) and (inner := uncounted(described.annotation, values[name])):
            found[name] = inner
    return found


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a section."""
    return _adapter(kind).json_schema()


def build(kind: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Return the section, or any dataclass, that JSON values hold; ValueError as `faults` has it, a line each."""
    given, adapter = _named(values), _adapter(typing.cast(Any, kind))
    try:
        return typing.cast(T, adapter.validate_json(json.dumps(given, default=str), strict=True))
    except ValidationError as error:
        raise ValueError("\n".join(line for _, line in _explained(kind, error, given, prefix))) from None


def faults(kind: Any, values: Any) -> list[tuple[str, str]]:
    """Return what is wrong with the values of a section: (the key of its first floor, the line that names it).

    Every key must be there: defaults of classes are for those who build one by hand. What a section's own validator
    finds, where several keys do not fit together, is left to the caller.
    """
    given = _named(values)
    found = [(name.partition(".")[0], _MISSING.format(name)) for name in _absent(kind, given)]
    try:
        _adapter(kind).validate_json(json.dumps(given, default=str), strict=True)
    except ValidationError as error:
        found += _explained(kind, error, given, "", own=False)
    return found


def _absent(kind: Any, given: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of keys that are not given, in sections that are."""
    for name, described in keys_of(kind).items() if isinstance(given, Mapping) else ():
        if name not in given:
            yield f"{prefix}{name}"
        else:
            yield from _absent(described.annotation, given[name], f"{prefix}{name}.")


def _named(value: Any) -> Any:
    """Return a value whose keys are texts: YAML allows others, JSON does not."""
    if isinstance(value, Mapping):
        return {str(name): _named(entry) for name, entry in value.items()}
    return [_named(entry) for entry in value] if isinstance(value, list | tuple) else value


_TYPES = {
    **{"int_type": "a whole number", "bool_type": "true or false"},
    **dict.fromkeys(("float_type", "finite_number"), "a number"),
    **dict.fromkeys(("string_type", "path_type"), "a text"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "dataclass_type"), "a mapping of keys"),
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
    "less_than": ("lt", "less than"),
    "multiple_of": ("multiple_of", "a multiple of"),
    **dict.fromkeys(("string_too_short", "too_short"), ("min_length", "of a length of at least")),
    "too_long": ("max_length", "of a length of at most"),
}
_MISSING = "{} is missing: give it a value, as config.yaml does"
_UNKNOWN, _ABSENT = "unexpected_keyword_argument", "missing"


def _explained(
    kind: Any, error: ValidationError, given: Any, prefix: str, own: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield findings by their place; without `own`, neither what is missing nor what sections' validators say."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for one in map(dict[str, Any], error.errors(include_url=False)):
        if not own and one["type"] in ("value_error", _ABSENT):
            continue
        path, inside = _place(given, one["loc"])
        if one["type"] == "too_short" and len(inside) >= one["ctx"]["min_length"]:  # its entries are what is wrong
            continue
        if one["type"] in (_UNKNOWN, _ABSENT):  # counts to the section that holds it
            path, one["name"] = list(one["loc"][:-1]), str(one["loc"][-1])
        places.setdefault(tuple(map(str, path)), []).append(one | {"value": inside})
    for place, found in sorted(places.items()):
        where = ".".join([*([prefix] if prefix else []), *place])
        lines = {_line(kind, place, where, one, found) for one in found}
        yield from ((place[0] if place else "", line) for line in sorted(lines))


def _place(given: Any, loc: Iterable[Any]) -> tuple[list[Any], Any]:
    """Follow a place of an error into the values as far as it leads: behind that stand names of alternatives."""
    path = []
    for part in loc:
        entries = given if isinstance(given, dict) else range(len(given)) if isinstance(given, list) else ()
        if part not in entries:
            break
        given = given[part]
        path.append(part)
    return path, given


def _line(kind: Any, place: tuple[str, ...], where: str, one: dict[str, Any], all_here: list[dict[str, Any]]) -> str:
    """Return one finding as a line; alternatives that failed at the same place share it."""
    error, value = one["type"], one["value"]
    inner = ".".join(filter(None, [where, one.get("name")]))
    if error == _UNKNOWN:
        return f"{inner} = {shown(one['input'])}: unknown key; {nearest(one['name'], keys_of(_kind(kind, place)))}"
    if error == _ABSENT:
        return _MISSING.format(inner)
    if "[key]" in one["loc"]:
        name = one["loc"][-2]
        if "expected" in one["ctx"]:
            return f"{where} = {shown(value)}: unknown key; {nearest(str(name), _words(one))}"
        return f"{'.'.join(place[:-1])}: {shown(name)} is not of the form {one['ctx']['pattern']}; rename it"
    here = f"{where or 'the configuration'} = {shown(value)}"
    for other in all_here:
        if other["type"] in _BOUNDS:
            name, words = _BOUNDS[other["type"]]
            return f"{here}: out of range; it must be {words} {other['ctx'][name]}"
    if kinds := dict.fromkeys(_TYPES[other["type"]] for other in all_here if other["type"] in _TYPES):
        choices = [*kinds, *(word for other in all_here if other["type"] == "literal_error" for word in _words(other))]
        choices += ["null"] if type(None) in typing.get_args(_kind(kind, place)) else []
        remedy = f"write {' or '.join(choices)}"
        if isinstance(value, str) and "a number" in kinds and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
            remedy += f" ({float(value)!r}: YAML reads a power of ten as text unless it has a point, as in 4.0e-7)"
        elif isinstance(value, float):
            remedy += " without a point" if "a whole number" in kinds else " that is finite"
        return f"{here}: wrong type; {remedy}"
    if error in ("literal_error", "word"):
        return f"{here}: unknown value; {nearest(value, _words(one))}"
    if error == "string_pattern_mismatch":
        if one["ctx"]["pattern"].startswith(r"^[^\x00"):
            return f"{here}: holds a line end or another control character; remove it"
        return f"{where}: {shown(value)} is not of the form {one['ctx']['pattern']}; rename it"
    return f"{here}: {one['msg'].removeprefix('Value error, ')}"


def _words(one: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", one["ctx"]["expected"])


def plain(kind: Any) -> Any:
    """Return a type without `| None` and without its bounds."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        others = [entry for entry in typing.get_args(kind) if entry is not type(None)]
        return plain(others[0]) if len(others) == 1 else kind
    return kind


def _kind(kind: Any, place: Iterable[str]) -> Any:
    """Return the annotated type of a place in a section."""
    for part in place:
        outer = plain(kind)
        if part in keys_of(outer):
            kind = keys_of(outer)[part].annotation
        elif dataclasses.is_dataclass(outer):
            kind = typing.get_type_hints(outer)[part]
        else:  # the entries of a mapping, or of a list
            kind = typing.get_args(outer)[-1 if typing.get_origin(outer) is dict else 0]
    return kind
