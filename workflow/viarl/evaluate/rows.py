"""The table of an evaluation: one row for each item and selector (and draw, where a selector is random)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from viarl.files import atomic_path

AGAIN = "delete it so that evaluate makes it again"
SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("cycle", pa.int64()),
        ("item", pa.string()),
        ("video", pa.string()),
        ("task", pa.string()),
        ("groups", pa.list_(pa.string())),  # "kind=value", what else the benchmark reports by
        ("question", pa.string()),
        ("selector", pa.string()),
        ("draw", pa.int64()),  # number of the draw of a random selector, else 0
        ("indices", pa.list_(pa.int64())),  # candidate frames shown to the answerer
        ("valid", pa.bool_()),  # whether the selector's own output was used
        ("reason", pa.string()),  # why not; details of a failure; how an oracle without evidence was made
        ("text", pa.string()),  # the learned selector's output
        ("reply", pa.string()),  # the answerer's text
        ("letter", pa.string()),  # the option read from it
        ("answer", pa.string()),  # the truth, "" unknown
        ("correct", pa.bool_()),
        ("evidence_recall", pa.float64()),  # NaN unknown
        ("protocol", pa.string()),  # how it was asked and read (viarl.evaluate.protocols)
        ("failed", pa.string()),  # why the item could not be answered, "" where it was
    ]
)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with exactly the columns of SCHEMA, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)


def read_rows(paths: Iterable[Path]) -> pd.DataFrame:
    """Read and join the tables of several evaluations; ValueError names a file that is none."""
    tables = []
    for path in paths:
        try:
            table = pq.ParquetFile(path).read()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no parquet file ({error}); {AGAIN}") from error
        if table.schema.names != SCHEMA.names:
            raise ValueError(f"{path} has the columns {table.schema.names} in place of {SCHEMA.names}; {AGAIN}")
        tables.append(table)
    return pa.concat_tables(tables).to_pandas() if tables else SCHEMA.empty_table().to_pandas()
