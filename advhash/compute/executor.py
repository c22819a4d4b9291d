"""Where tasks run: `inline`, `local` processes, or a Dask cluster at `dask:tcp://HOST:PORT`.

A task is a function of one argument that can be pickled; it may run twice, as one whose worker
dies is given to another worker. Running what is left one by one finds the task whose workers die
again and again.

Tasks draw from the random numbers of their process, so a Dask worker with several threads still
runs one of them at a time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar
from urllib.parse import urlsplit

from advhash.compute.cores import usable_cores
from advhash.compute.progress import Progress, silent
from advhash.errors import RefusedError, Terminated, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")

_TOGETHER, _ALONE = 2, 2  # attempts at a task whose worker dies
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 60  # until the first worker is there
_ONE_AT_A_TIME = threading.Lock()


def check_executor(executor: str) -> None:
    """Raise UsageError where `executor` names no place for tasks to run.

    Dask's scheduler runs whatever it is sent: other addresses than this machine's need TLS.
    """
    if executor in ("inline", "local"):
        return
    kind, _, address = executor.partition(":")
    try:
        parts = urlsplit(address)
        known = kind == "dask" and parts.scheme in ("tcp", "tls") and parts.port
    except ValueError:
        known = None
    if not known or not parts.hostname:
        raise UsageError(
            f"expected --executor inline, local or dask:tcp://HOST:PORT, got {executor!r}"
        )
    if parts.scheme == "tcp" and not _is_loopback(parts.hostname):
        raise UsageError(
            f"expected dask:tls://{parts.netloc} for another machine, got tcp: "
            "a Dask scheduler runs what anyone sends it (certificates: Dask's own configuration)"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run_tasks(
    executor: str,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    stage: str = "tasks",
    progress: Progress = silent,
    lost: Callable[[Task], Result] | None = None,
    same: Callable[[], Mapping[str, str]] = dict,
) -> list[Result]:
    """The results of all tasks, in their order.

    lost: the result of a task whose worker dies again and again; without it, an error
    same: what must be the same on a worker of a cluster as here, by name

    Raises UsageError for an unknown executor or a cluster that does not answer, RefusedError for a
    lost task, for a cluster that is gone and for one whose workers are not the same. What a task
    raises is raised here.
    """

    def report(done: int) -> None:
        progress(stage, done, len(tasks))

    check_executor(executor)
    report(0)
    if executor == "inline":
        results = []
        for task in tasks:
            results.append(function(task))
            report(len(results))
        return results
    if executor == "local":
        return _run_local(function, tasks, report, lost or _refuse)
    address = executor.removeprefix("dask:")
    remote = _Remote(function, same, same())
    return _run_dask(address, remote, tasks, report, lost or _refuse)


def _refuse(task: object) -> NoReturn:
    raise RefusedError(
        "a task lost its worker again and again: look for a lack of memory, or use --executor "
        f"inline ({str(task)[:200]})"
    )


def _begin_worker() -> None:
    """Processes share the cores, so each counts with one thread; the parent tells of Ctrl-C."""
    os.environ["NUMBA_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _interruptible(function: Callable[[Task], Result], task: Task) -> Result:
    """Call a function that SIGTERM interrupts, so that it leaves nothing half written behind.

    The process ends then: the pool would take what is raised for the result of the task, and wait
    for ever for a worker that it has told to end.
    """
    numbers: list[int] = []

    def raised(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        numbers.append(number)
        raise Terminated(number)

    try:
        signal.signal(signal.SIGTERM, raised)
        return function(task)
    finally:
        if numbers:
            os._exit(128 + numbers[0])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_local(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    report: Callable[[int], None],
    lost: Callable[[Task], Result],
) -> list[Result]:
    done: dict[int, Result] = {}

    def attempt(places: Sequence[int]) -> None:
        """Run these tasks side by side; where a worker dies, some are left."""
        context = multiprocessing.get_context("spawn")
        workers = min(usable_cores(), len(places))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
            waiting = {
                pool.submit(_interruptible, function, tasks[place]): place for place in places
            }
            try:
                while waiting:
                    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        done[waiting.pop(future)] = future.result()
                        report(len(done))
            except BrokenProcessPool:
                return
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):  # they clean up and end as well
                    for process in multiprocessing.active_children():
                        process.terminate()
                pool.shutdown(cancel_futures=True)  # waits for the tasks that run now
                raise

    def left() -> list[int]:
        return [place for place in range(len(tasks)) if place not in done]

    for _ in range(_TOGETHER):
        if left():
            attempt(left())
    for place in left():
        for _ in range(_ALONE):
            if place not in done:
                attempt([place])
        if place not in done:
            done[place] = lost(tasks[place])
            report(len(done))
    return [done[place] for place in range(len(tasks))]


@dataclass(frozen=True)
class _Remote(Generic[Task, Result]):
    """A function as the worker of a cluster calls it."""

    function: Callable[[Task], Result]
    same: Callable[[], Mapping[str, str]]
    here: Mapping[str, str]

    def __call__(self, task: Task) -> Result:
        there = self.same()
        other = [name for name, value in self.here.items() if there.get(name) != value]
        if other:
            raise RefusedError(
                f"expected Dask workers with the same {' and '.join(other)} as here, got another "
                f"on {platform.node()}: restart the workers with this version of advhash, and with "
                "ADVHASH_CACHE on a disk that all of them share"
            )
        with _ONE_AT_A_TIME:
            return self.function(task)


def _run_dask(
    address: str,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    report: Callable[[int], None],
    lost: Callable[[Task], Result],
) -> list[Result]:
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError:
        raise UsageError("--executor dask: expected Dask: pip install dask distributed") from None
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError):
        raise UsageError(
            f"expected a Dask scheduler at {address}, got no answer in {_CONNECT_SECONDS} s: start "
            "one (`dask scheduler`), or take --executor local"
        ) from None
    if tasks:
        try:
            client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError:
            client.close()
            raise UsageError(
                f"the Dask scheduler at {address} has no worker: start some with `dask worker "
                f"{address}`"
            ) from None
    done: dict[int, Result] = {}
    with client:
        futures = client.map(function, list(tasks), pure=False)
        places = {future.key: place for place, future in enumerate(futures)}
        for future in as_completed(futures, loop=client.loop):
            place = places[future.key]
            try:
                done[place] = future.result()
            except KilledWorker:
                done[place] = lost(tasks[place])
            except (CancelledError, asyncio.CancelledError):
                raise RefusedError(
                    f"the Dask scheduler at {address} is gone, {len(done)} of {len(tasks)} tasks "
                    "were done: start it again and give the same command"
                ) from None
            except ModuleNotFoundError as error:
                raise RefusedError(
                    f"expected Dask workers with the same packages as here, got one with {error}: "
                    "install advhash where the workers are"
                ) from None
            report(len(done))
    return [done[place] for place in range(len(tasks))]
