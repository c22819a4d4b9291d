"""What the comparison of attack runs gets: the queries of each, and what its task is.

`queries.parquet` comes from folders that others may have written: one that is damaged or does not
belong to its record takes its run out of the comparison, not off the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advhash.errors import RunError
from advhash.measures.paired_runs import Queries, Rival, read_queries
from advhash.reports.headline import OF_QUERIES
from advhash.reports.record import Record
from advhash.storage.documents import reason

QUERIES = "queries.parquet"


def load_queries(folder: Path, record: Record, also: Sequence[str] = ()) -> Queries:
    """Read `queries.parquet` of a run. Raises RunError: missing, damaged, not of this record.

    also: further metrics that are means of a column
    """
    file = folder / QUERIES
    inside = file.resolve().is_relative_to(folder.resolve())
    if not inside or not file.is_file():
        raise RunError(f"expected {QUERIES}, got a run folder without it; attack again")
    names = (*record.headline().paired, *also)
    try:
        return read_queries(
            file,
            {
                name: name if name in OF_QUERIES else f"{name}:{record.protocol.database}"
                for name in names
            },
            {name: record.value(name) for name in names},
            count=record.protocol.queries,
            targeted=record.attack.goal == "targeted",
        )
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"expected the {QUERIES} of this run, got a damaged one: {reason(error)}"
        ) from None


def task(record: Record) -> tuple[object, ...]:
    """What a run attacked and by which protocol: runs of equal tasks can be compared."""
    return (
        record.dataset.fingerprint,
        record.victim.fingerprint,
        record.attack.goal,
        record.protocol,
    )


def rival(record: Record, queries: Queries | None) -> Rival:
    """A run as others are compared with it; queries: None where they could not be read."""
    headline = record.headline()
    return Rival(task(record), headline.main, headline.sign, record.value(headline.main), queries)
