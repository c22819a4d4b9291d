"""Which page belongs to which kind of run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advhash.errors import UsageError
from advhash.reports.encoding import ENCODING, render_encoding
from advhash.reports.html import render
from advhash.reports.inversion import SCHEMA as INVERSION
from advhash.reports.phase import PHASE, render_phase
from advhash.reports.record import schema_of
from advhash.reports.search import SEARCH, render_search
from advhash.reports.transfer import TRANSFER, render_transfer
from advhash.reports.vfl import render_inversion
from advhash.runs import refuse_partial

__all__ = ["draw"]

ALONE = {  # the kinds whose page shows one run only
    INVERSION: render_inversion,
    TRANSFER: render_transfer,
    ENCODING: render_encoding,
    PHASE: render_phase,
    SEARCH: render_search,
}


def draw(runs: Sequence[Path], out: Path) -> None:
    """One page over finished runs, drawn from their records, without a model.

    Raises RunError: a run that is not finished or damaged; UsageError: kinds that share no page.
    """
    for run in runs:
        refuse_partial(run)
    kind = next((kind for kind in map(schema_of, runs) if kind in ALONE), None)
    if kind is None:
        render(runs, out)
    elif len(runs) > 1:
        raise UsageError(f"a run of {kind} has a page of its own: expected this run alone")
    else:
        ALONE[kind](runs[0], out)
