"""One PostgreSQL for all tests of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from advhash.stores.postgres import OwnServer, own_server, stop_own_server


@pytest.fixture(scope="session", autouse=True)
def _server_ends() -> Iterator[None]:
    yield
    stop_own_server()


@pytest.fixture
def server() -> OwnServer:
    """That of this process, started by the first test that needs one."""
    return own_server()
