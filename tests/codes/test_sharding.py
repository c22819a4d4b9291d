"""Shards add up to the last bit, wherever they are counted and whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advhash.codes import HashCodes
from advhash.codes.code_files import LabelledCodes, map_codes, write_codes
from advhash.codes.hamming import histograms
from advhash.codes.metrics import average_precision
from advhash.codes.sharding import cut, sharded_histograms
from advhash.compute.executor import check_executor, run_tasks
from advhash.errors import DataError, RefusedError, UsageError


def labelled(rows: int, seed: int, bits: int = 48) -> LabelledCodes:
    generator = np.random.default_rng(seed)
    return LabelledCodes(
        HashCodes.pack(generator.random((rows, bits)) < 0.5),
        HashCodes.pack(generator.random((rows, 10)) < 0.15),
    )


QUERY, GALLERY = labelled(50, 1), labelled(9_001, 2)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> LabelledCodes:
    file = tmp_path_factory.mktemp("codes") / "gallery.codes"
    write_codes(file, GALLERY)
    return map_codes(file)


def precisions(gallery: LabelledCodes, **options: Any) -> list[float]:
    (counts,) = sharded_histograms(QUERY.codes, (QUERY.labels,), gallery, **options)
    return average_precision(counts).tolist()


WHOLE = average_precision(
    histograms(QUERY.codes, GALLERY.codes, QUERY.labels, GALLERY.labels)
).tolist()


@pytest.mark.parametrize("shards", [1, 2, 7, 100])
def test_any_sharding_gives_the_same_bits(mapped: LabelledCodes, shards: int) -> None:
    for gallery in (GALLERY, mapped):
        assert precisions(gallery, shards=shards) == WHOLE


def test_shards_cover_every_row_once() -> None:
    for shards in (1, 2, 7, 20_000):
        parts = cut(GALLERY, shards)
        assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
        assert (parts[0].start, parts[-1].stop) == (0, 9_001)
        assert len({part.stop - part.start for part in parts}) <= 2
        assert all(len(part.rows()) == part.stop - part.start for part in parts)
    with pytest.raises(ValueError, match="at least 1 shard"):
        cut(GALLERY, 0)


def test_a_mapped_gallery_travels_as_its_path(mapped: LabelledCodes) -> None:
    assert all(isinstance(part.source, Path) for part in cut(mapped, 3))
    assert all(isinstance(part.source, LabelledCodes) for part in cut(GALLERY, 3))


def test_a_worker_that_sees_another_file_is_found_out(tmp_path: Path) -> None:
    file = tmp_path / "a.codes"
    write_codes(file, labelled(20, 3))
    (part,) = cut(map_codes(file), 1)
    write_codes(file, labelled(20, 4))
    with pytest.raises(DataError, match="has changed"):
        part.rows()
    file.unlink()
    with pytest.raises(DataError, match="not there"):
        part.rows()


def test_local_processes_give_the_same_bits(mapped: LabelledCodes) -> None:
    assert precisions(mapped, shards=3, executor="local") == WHOLE


def test_a_killed_process_costs_a_retry_and_not_the_result(mapped: LabelledCodes) -> None:
    killed: list[int] = []

    def kill_one(stage: str, done: int, total: int, **figures: float) -> None:
        if done == 1 and not killed:
            victim = multiprocessing.active_children()[0].pid
            assert victim is not None
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    assert precisions(mapped, shards=40, executor="local", progress=kill_one) == WHOLE
    assert len(killed) == 1


def test_a_task_that_always_kills_its_process_is_given_up() -> None:
    with pytest.raises(RefusedError, match="lost its worker again and again"):
        run_tasks("local", os._exit, [1, 1])


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_what_a_task_raises_is_raised_here(executor: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run_tasks(executor, int, ["1", "x", "3"])


def test_an_interrupt_leaves_no_process_behind_and_no_noise(
    mapped: LabelledCodes, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(stage: str, done: int, total: int, **figures: float) -> None:
        if done == 20:  # both have begun
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGINT)  # a terminal sends it to the whole group
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precisions(mapped, shards=40, executor="local", progress=interrupt)
    assert not multiprocessing.active_children()
    assert "Traceback" not in capfd.readouterr().err


def test_processes_are_as_many_as_the_cores_that_may_be_used(
    mapped: LabelledCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int | None] = set()

    def look(stage: str, done: int, total: int, **figures: float) -> None:
        seen.update(process.pid for process in multiprocessing.active_children())

    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert precisions(mapped, shards=4, executor="local", progress=look) == WHOLE
    assert len(seen) == 1


def test_results_keep_the_order_of_their_tasks() -> None:
    assert run_tasks("inline", int, ["3", "1", "2"]) == [3, 1, 2]
    assert run_tasks("local", int, ["3", "1", "2"]) == [3, 1, 2]
    assert run_tasks("local", int, []) == []


@pytest.mark.parametrize(
    "executor",
    ["", "remote", "dask", "dask:", "dask:tcp://", "dask:tcp://127.0.0.1", "dask:http://a:1",
     "dask:tcp://127.0.0.1:port", "dask:tcp://[::1", "dask:tcp://127.0.0.1:99999"],
)  # fmt: skip
def test_an_unknown_executor_is_a_usage_error(executor: str) -> None:
    with pytest.raises(UsageError, match="expected --executor inline, local or dask:tcp"):
        check_executor(executor)


def test_another_machine_needs_tls() -> None:
    """A Dask scheduler runs whatever it is sent."""
    with pytest.raises(UsageError, match=r"expected dask:tls://10\.0\.0\.7:8786"):
        check_executor("dask:tcp://10.0.0.7:8786")
    for executor in ("dask:tls://10.0.0.7:8786", "dask:tcp://127.0.0.1:8786", "dask:tcp://[::1]:1"):
        check_executor(executor)


@contextmanager
def cluster() -> Iterator[Any]:
    """Two worker processes on loopback, without a nanny that would start a third."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=50,
    ) as started:
        yield started


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_same_bits(mapped: LabelledCodes) -> None:
    with cluster() as started:
        executor = f"dask:{started.scheduler_address}"
        for shards in (1, 2, 7):
            assert precisions(mapped, shards=shards, executor=executor) == WHOLE
        assert precisions(GALLERY, shards=2, executor=executor) == WHOLE
        with pytest.raises(ValueError, match="invalid literal"):
            run_tasks(executor, int, ["1", "x"])


@pytest.mark.filterwarnings("ignore")
def test_a_killed_dask_worker_costs_a_retry_and_not_the_result(mapped: LabelledCodes) -> None:
    with cluster() as started:
        killed: list[int] = []

        def kill_one(stage: str, done: int, total: int, **figures: float) -> None:
            if done == 2 and not killed:
                killed.append(started.workers[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        executor = f"dask:{started.scheduler_address}"
        found = precisions(mapped, shards=60, executor=executor, progress=kill_one)
        assert found == WHOLE
        assert len(killed) == 1


@pytest.mark.filterwarnings("ignore")
def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setattr("advhash.compute.executor._CONNECT_SECONDS", 0.5)
    with pytest.raises(UsageError, match=r"expected a Dask scheduler at tcp://127\.0\.0\.1:1"):
        run_tasks("dask:tcp://127.0.0.1:1", int, ["1"])
