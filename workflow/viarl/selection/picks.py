"""The table of a selector's picks: one row an item and way of decoding, as parquet."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow
from pyarrow import parquet

from viarl.files import atomic_path

GREEDY, SAMPLED = "greedy", "sampled"


@dataclass(frozen=True)
class Pick:
    """What a selector picked for an item."""

    item: str
    video: str
    decode: str
    text: str
    valid: bool
    reason: str  # why the text held no valid list, "" if it did
    indices: tuple[int, ...]  # sorted frames, usable as they are: without a valid list the uniform fallback
    tokens: int  # of the completion, its end included
    failed: str = ""  # why nothing could be picked; then `indices` is empty


_TYPES = {"valid": pyarrow.bool_(), "tokens": pyarrow.int32(), "indices": pyarrow.list_(pyarrow.int32())}
SCHEMA = pyarrow.schema([(field.name, _TYPES.get(field.name, pyarrow.string())) for field in fields(Pick)])


def write_picks(path: Path, picks: Iterable[Pick]) -> None:
    """Write picks, atomically, in the given order."""
    table = pyarrow.Table.from_pylist([asdict(pick) for pick in picks], SCHEMA)
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def read_picks(path: Path, decode: str = GREEDY) -> dict[str, Pick]:
    """Return {item id: pick} of one way of decoding; ValueError names a file that is no such table."""
    try:
        rows = parquet.read_table(path, schema=SCHEMA).to_pylist()
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(
            f"{path} is no table of picks ({error}); delete it so that select_frames runs again"
        ) from error
    picks = (Pick(**{**row, "indices": tuple(row["indices"])}) for row in rows if row["decode"] == decode)
    return {pick.item: pick for pick in picks}
