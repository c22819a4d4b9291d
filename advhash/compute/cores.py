"""How many cores to use."""

from __future__ import annotations

import os

from advhash.errors import UsageError


def usable_cores() -> int:
    """Cores this process may use; fewer where NUMBA_NUM_THREADS says so.

    Raises UsageError where that is no number above 0.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    wanted = os.environ.get("NUMBA_NUM_THREADS", str(allowed))
    if not wanted.isdecimal() or int(wanted) == 0:
        raise UsageError(f"expected a number above 0 in NUMBA_NUM_THREADS, got {wanted!r}")
    return min(allowed, int(wanted))
