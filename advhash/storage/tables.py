"""Tables of a run folder: one row a query, enough to compute every figure again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from advhash.storage.files import write_bytes


def write_table(file: Path, *parts: Mapping[str, Any]) -> None:
    """Parquet of columns by name, one part below the other. Raises StorageError."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([pa.table(dict(part)) for part in parts]), buffer)
    write_bytes(file, buffer.getvalue().to_pybytes())
