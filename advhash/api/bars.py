"""Progress of calls from Python: bars where a person watches, in a notebook or on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from advhash.compute.progress import OVERALL, Progress


@contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """The progress that was given; None: a bar for each stage, gone when the call ends.

    Nothing is shown where stderr is neither a terminal nor that of a notebook.
    """
    if progress is not None:
        yield progress
        return
    from tqdm.auto import tqdm  # widgets in a notebook

    disable = False if "ipykernel" in sys.modules else None  # None: where stderr is no terminal
    bars: dict[str, Any] = {}

    def show(stage: str, done: int, total: int, **figures: float) -> None:
        if stage == OVERALL:
            return
        bar = bars.get(stage)
        if bar is None or bar.total != total or done < bar.n:
            if bar is not None:
                bar.close()
            bar = bars[stage] = tqdm(total=total, desc=stage, leave=False, disable=disable)
        bar.set_postfix(figures, refresh=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()
