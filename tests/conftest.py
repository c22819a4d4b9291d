"""One cache for the whole session, never the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("advhash-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(folder))
        patch.setenv("COLUMNS", "200")
        yield folder


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Small tensors: more threads only wait for each other."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
