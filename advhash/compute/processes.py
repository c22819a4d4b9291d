"""The processes that torchrun started to train one victim together, as its variables tell them."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes train together: 1 unless torchrun started this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main_process() -> bool:
    """Whether this one writes the cache and prints."""
    return process_count() == 1 or os.environ.get("RANK", "0") == "0"


def local_process() -> tuple[int, int]:
    """The number of this process among those of its machine, and how many those are."""
    if process_count() == 1:
        return 0, 1
    count = os.environ.get("LOCAL_WORLD_SIZE", str(process_count()))
    return int(os.environ["LOCAL_RANK"]), int(count)
