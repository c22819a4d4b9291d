"""PostgreSQL is started, stopped in every ending, and of the user's own only as much is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from advhash.codes.packed import HashCodes
from advhash.errors import StoreError, UsageError
from advhash.registry import STORES
from advhash.storage.files import sweep
from advhash.stores.postgres import USER, OwnServer, checked_address, own_server

CODES = HashCodes.pack(np.random.default_rng(0).random((50, 64)) < 0.5)
RUNNING = """
import signal, sys, time
from advhash.stores.postgres import own_server
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
server = own_server()
print(server.folder, server.pid, flush=True)
"""


def ended(pid: int, folder: Path) -> bool:
    """Whether the server and its folder are gone within some seconds."""
    for _ in range(200):
        if not folder.exists() and not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("then", "number"),
    [
        ("raise RuntimeError('a bug')", None),
        ("time.sleep(60)", signal.SIGKILL),
        ("time.sleep(60)", signal.SIGINT),
    ],
    ids=["failed", "killed", "interrupted"],
)
def test_no_server_is_left_behind_however_a_process_ends(
    then: str, number: signal.Signals | None
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNING + then],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        if number is not None:
            assert Path(folder).is_dir()
            process.send_signal(number)
    assert ended(int(pid), Path(folder))


def test_a_folder_that_is_left_when_all_are_killed_goes_with_the_next_server() -> None:
    """Its lock is held by whatever of it still lives: the shell beside it, and the server."""
    script = RUNNING.replace("print(", "print(server._keeper.pid, ") + "time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        keeper, folder, pid = process.stdout.readline().split()
        sweep([Path(folder)])
        assert Path(folder, "data").is_dir()  # it lives
        for number in (int(keeper), int(pid), process.pid):
            os.kill(number, signal.SIGKILL)
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.05)
    assert Path(folder).is_dir()
    server = OwnServer()
    assert not Path(folder).exists()
    server.stop()


def test_a_server_that_is_killed_is_told_in_one_line_and_the_next_store_has_a_new_one() -> None:
    server = own_server()
    store = STORES.create("pgvector")
    store.add(np.arange(50), CODES)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    time.sleep(0.3)
    with pytest.raises(StoreError, match="PostgreSQL ended or refused") as raised:
        store.search(CODES, 3)
    assert "\n" not in str(raised.value)
    store.close()
    with STORES.create("pgvector") as again:
        again.add(np.arange(50), CODES)
        assert again.search(CODES[:1], 1)[0].tolist() == [[0]]
    assert own_server() is not server
    assert ended(0, server.folder)


@pytest.fixture
def dsn(server: OwnServer) -> Iterator[str]:
    """The address of a user without rights, with a table called as ours is."""
    with server.connect() as admin:
        admin.execute("CREATE ROLE plain LOGIN")
        admin.execute("CREATE TABLE advhash_codes (theirs text)")
        admin.execute("INSERT INTO advhash_codes VALUES ('untouched')")
        admin.execute("GRANT ALL ON advhash_codes TO plain")
    yield f"postgresql://plain@/postgres?host={server.folder}"
    with server.connect() as admin:
        admin.execute("DROP TABLE advhash_codes")
        admin.execute("DROP OWNED BY plain")
        admin.execute("DROP ROLE plain")


@pytest.mark.parametrize("name", ["pgvector", "pgvector-hnsw", "pgvector-ivfflat"])
def test_a_users_own_server_keeps_nothing_of_ours(name: str, dsn: str, server: OwnServer) -> None:
    relations = "SELECT count(*) FROM pg_class"
    with server.connect() as admin:
        before = admin.execute(relations).fetchone()
        with STORES.create(name, {"dsn": dsn}) as store:
            store.add(np.arange(50), CODES)
            assert store.search(CODES[:1], 1)[0].tolist() == [[0]]
            schemas = admin.execute(
                "SELECT DISTINCT nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
                "WHERE relowner = (SELECT oid FROM pg_roles WHERE rolname = 'plain')"
            ).fetchall()
            assert schemas
            assert all(row[0].startswith(("pg_temp", "pg_toast")) for row in schemas)
        for _ in range(100):
            if admin.execute(relations).fetchone() == before:
                break
            time.sleep(0.02)
        assert admin.execute(relations).fetchone() == before
        assert admin.execute("SELECT * FROM advhash_codes").fetchall() == [("untouched",)]


def test_superusers_are_refused_unless_allowed(server: OwnServer) -> None:
    dsn = f"postgresql://advhash@/postgres?host={server.folder}"
    with pytest.raises(UsageError, match="--allow-superuser"):
        STORES.create("pgvector", {"dsn": dsn}).add(np.arange(50), CODES)
    with STORES.create("pgvector", {"dsn": dsn, "allow_superuser": True}) as store:
        store.add(np.arange(50), CODES)
        assert len(store) == 50


def test_a_server_without_pgvector_is_refused_with_the_line_to_type(server: OwnServer) -> None:
    with server.connect() as admin:
        admin.execute("CREATE ROLE other LOGIN")
        admin.execute("CREATE DATABASE bare")
    dsn = f"postgresql://other@/bare?host={server.folder}"
    with pytest.raises(UsageError, match="CREATE EXTENSION vector;"):
        STORES.create("pgvector", {"dsn": dsn}).add(np.arange(50), CODES)
    with server.connect() as admin:
        admin.execute("DROP DATABASE bare")
        admin.execute("DROP ROLE other")


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://me@/x?service=theirs", "expected the host by its name, got a service"),
        ("postgresql://me:secret@[localhost/x", "expected postgresql://USER@HOST/DATABASE"),
        ("mysql://me@localhost/x", "expected postgresql://USER@HOST/DATABASE"),
        ("postgresql://me:secret@localhost/x", "expected no password"),
        ("postgresql://me@db.example.org/x?sslmode=disable", "expected TLS to another machine"),
        ("postgresql://me@10.0.0.1/x?sslmode=prefer", "expected TLS to another machine"),
        ("postgresql://me@localhost,10.0.0.1/x?sslmode=allow", "expected TLS"),
        ("postgresql://me@localhost/x?hostaddr=10.0.0.1&sslmode=allow", "expected TLS"),
        ("postgresql://me@localhost/x?nonsense=1", "expected postgresql://USER@HOST/DATABASE"),
    ],
)
def test_addresses_that_are_not_safe_are_refused(dsn: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        STORES.create("pgvector", {"dsn": dsn})
    assert "secret" not in str(raised.value)


def test_a_server_that_does_not_answer_is_one_line_with_what_to_do() -> None:
    with (
        STORES.create("pgvector", {"dsn": "postgresql://me@127.0.0.1:1/x"}) as store,
        pytest.raises(StoreError, match="start that server, or leave dsn out") as raised,
    ):
        store.add(np.arange(50), CODES)
    assert not set("\n\t") & set(str(raised.value))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_needs_no_tls(host: str) -> None:
    assert "sslmode" not in checked_address(f"postgresql://me@{host}/x")


def test_a_host_of_the_environment_is_another_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.org")
    assert checked_address("postgresql://me@/x")["sslmode"] == "require"
    assert "sslmode" not in checked_address("postgresql://me@localhost/x")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert checked_address("postgresql://me@/x")["sslmode"] == "verify-full"
    monkeypatch.setenv("PGSSLMODE", "prefer")
    with pytest.raises(UsageError, match="expected TLS to another machine"):
        checked_address("postgresql://me@/x")


def test_pgvector_may_lie_in_any_schema(server: OwnServer) -> None:
    with server.connect() as admin:
        admin.execute("CREATE ROLE third LOGIN")
        admin.execute("CREATE DATABASE moved")
    with psycopg.connect(
        host=str(server.folder), user=USER, dbname="moved", autocommit=True
    ) as admin:
        admin.execute('CREATE SCHEMA "Else where"')
        admin.execute('CREATE EXTENSION vector SCHEMA "Else where"')
        admin.execute('GRANT USAGE ON SCHEMA "Else where" TO third')
    dsn = f"postgresql://third@/moved?host={server.folder}"
    with STORES.create("pgvector-hnsw", {"dsn": dsn}) as store:
        store.add(np.arange(50), CODES)
        assert store.search(CODES[:1], 1)[0].tolist() == [[0]]
    with server.connect() as admin:
        admin.execute("DROP DATABASE moved WITH (FORCE)")
        admin.execute("DROP ROLE third")


def test_a_server_that_does_not_answer_is_told_in_one_line() -> None:
    dsn = "postgresql://me@127.0.0.1:9/x"
    with pytest.raises(StoreError, match=r"expected a connection to .* got:") as raised:
        STORES.create("pgvector", {"dsn": dsn}).add(np.arange(50), CODES)
    assert "\n" not in str(raised.value)
