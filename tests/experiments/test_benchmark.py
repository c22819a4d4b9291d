"""`advhash benchmark`: suites, cells that fail or are interrupted, and the leaderboards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import command
from PIL import Image

from advhash.cli import app
from advhash.compute.executor import _Remote, run_tasks
from advhash.errors import RefusedError, RunError, UsageError
from advhash.experiments import experiment
from advhash.experiments.attack.run import AttackCell, AttackExperiment
from advhash.experiments.benchmark.config import SuiteConfig
from advhash.experiments.benchmark.leaderboard import Axes, Sample, ranks, stacked, summary
from advhash.experiments.benchmark.record import seed_flags
from advhash.experiments.benchmark.run import Benchmark
from advhash.experiments.benchmark.shipped import load_suite, shipped_suites
from advhash.experiments.benchmark.suite import SuiteCell, _above, plan_suite
from advhash.experiments.costs import KEPT, Costs, Work, note_cost
from advhash.experiments.experiment import Place, resume, run
from advhash.experiments.prepare import planned as planned_victims
from advhash.measures.intervals import Metric
from advhash.measures.paired_runs import Queries
from advhash.registry import ATTACKS, DATASETS, DEFENSES, VICTIMS
from advhash.reports.benchmark import (
    BENCHMARK,
    BenchmarkRecord,
    CellInfo,
    Row,
    protocols,
    verdicts,
)
from advhash.reports.page.render import render
from advhash.reports.record import Record, RunInfo
from advhash.storage.cells import Result
from advhash.storage.run_folder import RunFolder

SUITE = """
name = "tiny"
victim_seeds = 2
attack_seeds = 2

[[grids]]
datasets = [{name = "digits", size = 16}]
victims = ["dpsh+epochs=1", "csq+epochs=1+bits=16"]
attacks = ["dhta+steps=3", "blend"]
budgets = ["8/255", "16/255"]
[grids.protocol]
queries = 16

[[grids]]
datasets = ["digits+size=16"]
victims = ["phash"]
attacks = ["noise"]
budgets = [{norm = "l2", eps = 0.5}]
[grids.protocol]
queries = 16
"""
ONE: dict[str, Any] = {
    "name": "one",
    "victim_seeds": 1,
    "attack_seeds": 2,
    "grids": [
        {
            "datasets": ["digits+size=16"],
            "victims": ["dpsh+epochs=1"],
            "attacks": ["noise", "blend"],
            "budgets": ["8/255"],
            "protocol": {"queries": 12},
        }
    ],
}


def benchmark(config: SuiteConfig, out: Path, **how: Any) -> BenchmarkRecord:
    return run(Benchmark(), config, out, **how)


def never(*_: object, **__: object) -> None:
    raise AssertionError("computed again")


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("suite") / "tiny.toml"
    file.write_text(SUITE)
    return file


@pytest.fixture(scope="module")
def finished(suite_file: Path) -> Path:
    folder = suite_file.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            ["advhash", "benchmark", "--suite", str(suite_file), "--executor", "inline", "-q",
             "--out", str(folder)],
        )  # fmt: skip
        app.main()  # ends with SystemExit where it fails
    return folder


def test_every_cell_is_there_with_all_its_seeds(finished: Path) -> None:
    record = BenchmarkRecord.read(finished)
    # 2 victims × 2 attacks × 2 budgets × 2 × 2 seeds; a hash without weights has one victim seed
    assert len(record.cells) == 32 + 2
    assert not record.failed
    assert not record.left
    assert len({cell.key for cell in record.cells}) == 34
    assert {cell.victim_seed for cell in record.cells if cell.victim == "phash"} == {None}
    assert len(record.rows) == 8 + 1
    assert {row.cells for row in record.rows if row.victim != "phash"} == {4}


def test_a_row_is_the_mean_of_its_cells_and_moves_with_the_seeds(finished: Path) -> None:
    record = BenchmarkRecord.read(finished)
    for row in record.rows:
        mine = [
            cell.figures
            for cell in record.cells
            if (cell.victim, cell.method, cell.budget) == (row.victim, row.method, row.budget)
        ]
        for name in ("map", "tmap") if row.goal == "targeted" else ("map",):
            values = [float(one[name] or 0) for one in mine]
            metric = row.metrics[name]
            assert metric.value == pytest.approx(np.mean(values))
            assert metric.low is not None
            assert metric.high is not None
            assert metric.low <= float(metric.value or 0) <= metric.high
    trained = [c for c in record.cells if c.method == "blend" and c.victim.startswith("dpsh")]
    maps = {
        (cell.victim_seed, cell.attack_seed): cell.figures["map"]
        for cell in trained
        if cell.budget.endswith("8/255")
    }
    assert maps[0, 0] != maps[1, 0]  # another training
    assert maps[0, 0] != maps[0, 1]  # other queries


def test_the_standing_of_a_victim_is_its_worst_row(finished: Path) -> None:
    record = BenchmarkRecord.read(finished)
    for one in record.victims:
        rows = [
            float(row.metrics["tmap" if one.goal == "targeted" else "map_adversarial"].value or 0)
            for row in record.rows
            if (row.dataset, row.victim, row.budget, row.goal)
            == (one.dataset, one.victim, one.budget, one.goal)
        ]
        main = one.metrics["tmap" if one.goal == "targeted" else "map_adversarial"].value
        assert main == (max(rows) if one.goal == "targeted" else min(rows))
    assert len(record.methods) == 4  # two attacks under two budgets
    assert {tuple(one.victims) for one in record.methods} == {
        ("dpsh+epochs=1", "csq+epochs=1+bits=16")
    }


def test_the_page_begins_with_victims_under_their_strongest_attack(finished: Path) -> None:
    record = BenchmarkRecord.read(finished)
    assert len(record.shown_changes) == 4
    places = [(at.dataset, at.budget, at.goal, at.victim, at.method) for at in record.victims]
    for change in record.shown_changes:
        where = (change.dataset, change.budget, change.goal, change.victim, change.method)
        assert where in places
        assert 0 < change.linf <= (16 if change.budget.endswith("16/255") else 8)
        assert change.after > change.before  # targeted: nearer to the target
        assert all((finished / file).is_file() for file in change.files)
    page = (finished / "report.html").read_text("utf-8")
    assert page.index("average precision for the target") < page.index("<table")


def test_the_page_and_the_json_say_so(
    finished: Path, suite_file: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    page = (finished / "report.html").read_text()
    assert "Benchmark tiny: 34 attack runs" in page
    assert "<script" not in page
    assert "t-MAP (%) against ε" in page
    assert "16 image queries an attack seed against" in page
    assert "has gradients through the victim" in page
    assert page.count("digits+size=16. SHA-256 ") == 1
    again = suite_file.parent / "again"
    monkeypatch.setattr(AttackExperiment, "compute", never)
    monkeypatch.setattr(planned_victims, "prepare", never)
    config = str(finished / "config.toml")
    code, out, _ = command(
        capsys, "benchmark", "--config", config, "--executor", "inline", "--json", "-q",
        "--out", str(again),
    )  # fmt: skip
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == BENCHMARK
    assert document["failed"] == []
    assert document["report"] == str(again / "report.html")
    assert Path(document["report"]).is_file()
    first = json.loads((finished / "metrics.json").read_text())
    for name in ("cells", "rows", "methods", "victims"):
        assert document[name] == first[name]


def test_other_processes_give_the_same_figures(
    finished: Path, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    config = SuiteConfig.build(load_suite(str(suite_file)))
    config = config.model_copy(update={"grids": [config.grids[0]], "victim_seeds": 1})
    found = benchmark(config, tmp_path / "local", executor="local")
    before = {cell.key: cell.figures for cell in BenchmarkRecord.read(finished).cells}
    timed = {"seconds_fit", "seconds_per_image"}
    assert [(cell.message, cell.trace) for cell in found.cells if cell.status != "done"] == []
    for cell in found.cells:
        for name, value in cell.figures.items():
            if name not in timed:
                assert value == before[cell.key][name], name


def test_an_interrupted_suite_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    real, made = AttackExperiment.compute, []

    def once(self: AttackExperiment, cell: AttackCell, place: Place) -> Result:
        made.append(cell.config.attack.name)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(self, cell, place)

    monkeypatch.setattr(AttackExperiment, "compute", once)
    config = SuiteConfig.build(ONE)
    with pytest.raises(KeyboardInterrupt):
        benchmark(config, tmp_path / "run")
    assert [path.name for path in tmp_path.glob("run*")] == ["run.partial"]
    record = resume(tmp_path / "run")
    assert isinstance(record, BenchmarkRecord)
    assert len(made) == 3 + 2  # of four, two were finished
    assert [cell.status for cell in record.cells] == ["done"] * 4


def test_a_cell_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    real = AttackExperiment.compute

    def broken(self: AttackExperiment, cell: AttackCell, place: Place) -> Result:
        if cell.config.attack.name == "noise":
            raise RuntimeError("a bug")
        if cell.config.seed == 1:
            raise RefusedError("expected that, got this")
        return real(self, cell, place)

    monkeypatch.setattr(AttackExperiment, "compute", broken)
    file = tmp_path / "one.toml"
    SuiteConfig.build(ONE)
    file.write_text(SuiteConfig.build(ONE).to_toml())
    arguments = ("--suite", str(file), "--executor", "inline", "-q", "--json", "--out")
    code, out, err = command(capsys, "benchmark", *arguments, str(tmp_path / "run"))
    document = json.loads(out)
    assert code == 5
    assert "3 of 4 cells failed" in err
    assert "a bug" in err
    assert len(document["failed"]) == 3
    assert len(document["rows"]) == 1
    bad = {cell["method"]: cell for cell in document["cells"] if cell["status"] == "failed"}
    assert "Traceback" in bad["noise"]["trace"]
    assert bad["blend"]["trace"] == ""
    assert "Cells that failed" in (tmp_path / "run/report.html").read_text()
    monkeypatch.setattr(AttackExperiment, "compute", real)
    code, out, _ = command(capsys, "benchmark", *arguments, str(tmp_path / "mended"))
    assert code == 0
    assert json.loads(out)["failed"] == []


@pytest.mark.parametrize("name", ["result.json", "result.safetensors"])
def test_a_damaged_cell_is_computed_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    first = benchmark(SuiteConfig.build(ONE), tmp_path / "run")
    (tmp_path / "cache/benchmark" / first.cells[0].key / name).write_text("")
    again = benchmark(SuiteConfig.build(ONE), tmp_path / "again")
    assert [cell.status for cell in again.cells] == ["done"] * 4
    for cell, other in zip(first.cells, again.cells, strict=True):
        assert cell.figures["map"] == other.figures["map"]
        assert cell.figures["l2"] == other.figures["l2"]


def test_a_cell_that_kills_its_worker_costs_no_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))

    def run_tasks_with_a_killer(
        executor: str, function: Any, tasks: Any, *, lost: Any, **_: Any
    ) -> list[Any]:
        """As after many deaths: whatever holds the first radius is lost, and nothing of it done."""
        return [
            lost(one) if one.cell is not None and "4/255" in one.cell.budget else function(one)
            for one in tasks
        ]

    monkeypatch.setattr("advhash.experiments.experiment.run_tasks", run_tasks_with_a_killer)
    grid = {**ONE["grids"][0], "attacks": ["noise"], "budgets": ["4/255", "8/255"]}
    config = SuiteConfig.build({**ONE, "grids": [grid]})
    record = benchmark(config, tmp_path / "run", executor="local")
    ended = {(cell.budget, cell.status) for cell in record.cells}
    assert ended == {("L∞ 4/255", "failed"), ("L∞ 8/255", "done")}
    assert "died again and again" in record.cells[0].message


def test_workers_with_another_cache_or_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "one"))
    surroundings = partial(experiment._surroundings, "benchmark")
    here = surroundings()
    assert here == surroundings()
    assert set(here) == {"code", "precision", "cache"}
    remote = _Remote(int, surroundings, here)
    assert remote("3") == 3
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "other"))
    with pytest.raises(RefusedError, match="Dask workers with the same cache as here"):
        remote("3")
    with pytest.raises(RefusedError, match="with the same code and precision and cache as here"):
        _Remote(int, dict, here)("3")


@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_with_threads_gives_the_same_figures_and_another_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    config = SuiteConfig.build(ONE | {"victim_seeds": 2})
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "inline"))
    inline = benchmark(config, tmp_path / "run")
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "shared"))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=4, processes=True, host="127.0.0.1",
        dashboard_address=None, silence_logs=50,
    ) as cluster:  # fmt: skip
        executor = f"dask:{cluster.scheduler_address}"
        found = benchmark(config, tmp_path / "threads", executor=executor)
        assert not found.failed
        for cell, other in zip(inline.cells, found.cells, strict=True):
            for name in ("map", "map_adversarial", "tmap", "l2"):
                assert cell.figures.get(name) == other.figures.get(name), name
        monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "elsewhere"))
        with pytest.raises(RefusedError, match="Dask workers with the same cache as here"):
            benchmark(config, tmp_path / "refused", executor=executor)
    assert not list(tmp_path.glob("refused*"))


def test_threads_of_a_worker_take_turns() -> None:
    """They share the random numbers of their process."""
    at_once, most = 0, 0

    def count(_: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_Remote(count, dict, {}), range(8)))
    assert most == 1


def test_a_killed_command_goes_on_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "abandon", lambda self, **_: self._unlock())  # as a kill does
        patch.setattr("advhash.reports.page.render.render", never)
        with pytest.raises(AssertionError):
            benchmark(SuiteConfig.build(ONE), tmp_path / "run")
    assert (tmp_path / "run.partial").is_dir()
    written = RunFolder.start_or_continue(tmp_path / "run")  # by a command that is still at work
    with pytest.raises(RunError, match="nobody writes"):
        benchmark(SuiteConfig.build(ONE), tmp_path / "run")
    written._unlock()
    with pytest.raises(RunError, match="with other settings"):
        benchmark(SuiteConfig.build({**ONE, "name": "other"}), tmp_path / "run")
    assert len(benchmark(SuiteConfig.build(ONE), tmp_path / "run").rows) == 2
    assert not (tmp_path / "run.partial").exists()


def test_how_long_a_suite_may_take_is_no_setting_of_it(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run is continued as it was, in whatever time and place."""
    told = command(
        capsys, "benchmark", "--resume", str(finished), "--max-time", "1", "--executor", "inline"
    )[2]
    assert "which is finished" in told
    told = command(capsys, "benchmark", "--resume", str(finished), "--queries", "5")[2]
    assert "expected no other settings" in told


def test_after_max_time_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    record = benchmark(SuiteConfig.build(ONE), tmp_path / "run", max_minutes=0)
    assert len(record.left) == 4
    assert not record.rows
    assert "4 were not begun" in verdicts(record)[-1]


def test_dry_run_learns_what_cells_cost(
    finished: Path, suite_file: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    code, out, _ = command(capsys, "benchmark", "--suite", str(suite_file), "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["cells_done"] == plan["cells"] == 34
    assert plan["seconds"] == 0
    more = (*("--suite", str(suite_file), "--queries", "32"), "--dry-run", "--json")
    plan = json.loads(command(capsys, "benchmark", *more)[1])
    assert plan["cells_done"] == 0
    assert plan["seconds"] > 0
    assert plan["trainings"] == 0  # the victims are there
    assert plan["unknown_costs"] == plan["uncertain_costs"] == 0
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    plan = json.loads(command(capsys, "benchmark", *more)[1])
    assert plan["seconds"] > 0
    assert plan["unknown_costs"] == 0
    assert 34 + 5 < plan["by_reference"] <= 2 * 34 + 5  # cells, trainings, and fits that are shared


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"attacks": ["hotflip"]}, ["dpsh", "hotflip", "digits", "grids of their own"]),
        ({"attacks": ["dtha"]}, ["did you mean 'tha'?"]),
        ({"attacks": ["code-inversion"]}, ["no attack but one of the inversions", "runs alone"]),
        ({"victims": ["phash"], "defenses": ["saat"]}, ["phash + saat: ", "grids of their own"]),
        ({"budgets": ["300/255"]}, ["eps"]),
        ({"attacks": []}, ["attacks"]),
        ({"victim": ["dpsh"]}, ["did you mean 'victims'?"]),
        ({"attacks": ["dhta+steps=x"]}, ["steps"]),
        ({"defense_budget": {"norm": "linf", "eps": 0.1}}, ["name one in defenses"]),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(
    grid: dict[str, Any], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(planned_victims, "prepare", None)
    base: dict[str, Any] = {"datasets": ["digits"], "victims": ["dpsh"], "attacks": ["noise"]}
    file = tmp_path / "bad.json"
    file.write_text("grids = [" + _inline({**base, **grid}) + "]\n")
    code, out, err = command(
        capsys, "benchmark", "--suite", str(file), "--executor", "inline", "-q"
    )
    assert code == 2
    assert not out
    assert err.startswith("advhash: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grids = ['digits']", ["grids.0"]),
        ("grids = 'digits'", ["grids"]),
        ("name = '../up'\ngrids = [{}]", ["name", "../up"]),
        ("command = 'attack'\ngrids = [{}]", ["command", "benchmark"]),
    ],
)
def test_a_file_of_another_form_is_one_line(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    for more in ([], ["--queries", "5"]):
        code, _, err = command(capsys, "benchmark", "--suite", str(file), "--dry-run", *more)
        assert code == 2
        assert err.count("\n") == 1
        for word in words:
            assert word in err


def _inline(table: dict[str, Any]) -> str:
    parts = (
        f"{key} = {_inline(value) if isinstance(value, dict) else json.dumps(value)}"
        for key, value in table.items()
    )
    return "{" + ", ".join(parts) + "}"


def test_an_unknown_suite_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, "benchmark", "--suite", "smoek")
    assert code == 2
    assert "did you mean 'smoke'?" in err
    assert command(capsys, "benchmark")[0] == 2


@pytest.mark.parametrize("name", ["smoke", "small"])
def test_shipped_suites_can_be(name: str) -> None:
    assert name in shipped_suites()
    suite = plan_suite(SuiteConfig.build(load_suite(name)))
    assert len(suite.cells) == len({cell.key for cell in suite.cells}) > 5


@pytest.mark.parametrize("name", ["full", "paper-prosgan"])
def test_shipped_suites_name_what_there_is(name: str) -> None:  # their data are not embedded
    for grid in SuiteConfig.build(load_suite(name)).grids:
        for data in grid.datasets:
            assert DATASETS[data.name]
        for victim in grid.victims:
            entry, given = VICTIMS[victim.name], dict(victim.settings)  # some need the data's
            assert given.pop("preset", None) in (None, *entry.presets)
            entry.check_names("victim", given)
        for defense in grid.defenses:
            assert defense.name == "none" or DEFENSES.settings(defense.name, defense.settings)
        for attack in grid.attacks:
            method = ATTACKS.create(attack.name, attack.settings)
            for budget in grid.budgets:
                method.check_budget(budget.resolve(method.default_budget))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_change_nothing(
    finished: Path, suite_file: Path, tmp_path: Path
) -> None:
    """SIGKILL of the client or of a worker, ten times; then the command is left alone."""
    environment = {**os.environ, "ADVHASH_CACHE": str(tmp_path / "cache")}
    generator = np.random.default_rng(0)
    command = [
        *(sys.executable, "-m", "advhash", "benchmark", "--suite", str(suite_file)),
        *("--executor", "local", "-q", "--out", str(tmp_path / "run")),
    ]
    kills = 0
    for attempt in range(30):
        if (tmp_path / "run").is_dir():  # finished before its kill: again, from nothing
            shutil.rmtree(tmp_path / "run")
            shutil.rmtree(tmp_path / "cache")
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        if kills < 10:
            time.sleep(generator.uniform(4, 20))
            workers = children(process.pid)
            victim = int(generator.choice(workers)) if workers and attempt % 2 else process.pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                kills += 1
        code = process.wait(timeout=600)
        if kills == 10 and code == 0:
            break
    assert kills == 10
    assert code == 0
    assert_same_figures(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_of_a_dask_cluster_change_nothing(
    finished: Path, suite_file: Path, tmp_path: Path
) -> None:
    """SIGKILL of the scheduler, of a worker or of the client, ten times, then none."""
    pytest.importorskip("distributed")
    environment = {**os.environ, "ADVHASH_CACHE": str(tmp_path / "cache")}
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{place.getsockname()[1]}"
    parts = {
        "scheduler": ["--host", address, "--no-dashboard"],
        "worker": [
            *(address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"),
            *("--local-directory", str(tmp_path / "dask")),
        ],
    }
    client = [
        *(sys.executable, "-m", "advhash", "benchmark", "--suite", str(suite_file)),
        *("--executor", f"dask:{address}", "-q", "--out", str(tmp_path / "run")),
    ]

    def started(part: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{part}", *parts[part]]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    generator = np.random.default_rng(0)
    running: dict[str, subprocess.Popen[bytes]] = {}
    kills: Counter[str] = Counter()
    try:
        for attempt in range(30):
            for part in parts:  # nannies end where their scheduler did
                if part not in running or running[part].poll() is not None:
                    running[part] = started(part)
            if (tmp_path / "run").is_dir():  # finished before its kill: again, from nothing
                shutil.rmtree(tmp_path / "run")
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            process = subprocess.Popen(client, env=environment, stderr=subprocess.DEVNULL)
            last = kills.total() == 10
            if not last:
                time.sleep(generator.uniform(6, 20))
                who = ("scheduler", "worker", "client")[attempt % 3]
                workers = children(running["worker"].pid)
                doomed = {"scheduler": running["scheduler"].pid, "client": process.pid}
                if who != "worker" or workers:
                    os.kill(doomed.get(who) or int(generator.choice(workers)), signal.SIGKILL)
                    kills[who] += 1
                if who == "scheduler":  # its workers would try to come back for a while
                    running["worker"].terminate()
                    running["worker"].wait(timeout=60)
                    running["scheduler"].wait(timeout=60)
            code = process.wait(timeout=600)
            if last and code == 0:
                break
    finally:
        for part in running.values():
            part.terminate()
            part.wait(timeout=60)
    assert kills.total() == 10
    assert set(kills) == {"scheduler", "worker", "client"}
    assert code == 0
    assert_same_figures(tmp_path / "run", finished)


def assert_same_figures(run: Path, other: Path) -> None:
    found = {cell.key: cell.figures for cell in BenchmarkRecord.read(run).cells}
    for cell in BenchmarkRecord.read(other).cells:
        for name in ("map", "map_adversarial", "tmap", "l2"):
            assert found[cell.key].get(name) == cell.figures.get(name), name


def children(parent: int) -> list[int]:
    """The workers of a process, whichever of its threads began them; its tracker is none."""
    found = [
        int(one)
        for tasks in Path(f"/proc/{parent}/task").glob("*/children")
        for one in tasks.read_text().split()
    ]
    return [one for one in found if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]


# leaderboards


def sample(values: list[float], victim: int | None = 0, attack: int = 0, first: int = 0) -> Sample:
    column = np.asarray(values)
    rows = np.arange(first, first + len(values))
    names = ("map", "map_chance", "map_adversarial", "tmap", "tmap_chance", "tmap_clean")
    columns = {**dict.fromkeys(names, column), "tmap_ceiling": np.ones(len(values))}
    return Sample(victim, attack, Queries(rows, None, columns))


def test_values_stand_by_seed_and_query() -> None:
    values = stacked([sample([0.1, 0.2], 3, 0), sample([0.3], 5, 1, first=1)], "tmap")
    assert values.shape == (2, 2, 1, 2)
    assert values[0, 0, 0].tolist() == [0.1, 0.2]
    assert values[1, 1, 0, 1] == 0.3
    assert np.isnan(values[1, 1, 0, 0])
    assert np.isnan(values[0, 1]).all()


def test_who_cannot_be_told_apart_shares_a_rank() -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(0.3, 0.5, 60)
    wobble = generator.normal(0, 0.05, 60)
    wobble -= wobble.mean()

    def seeds(values: Any) -> list[list[Sample]]:
        return [[sample((values + 0.001 * seed).tolist(), seed) for seed in range(3)]]

    entries = {"weak": seeds(base), "level": seeds(base + wobble), "strong": seeds(base + 0.2)}
    assert ranks(entries, "targeted", strongest=True) == {"weak": 2, "level": 2, "strong": 1}
    assert ranks(entries, "targeted", strongest=False) == {"weak": 1, "level": 1, "strong": 3}
    assert ranks(entries, "untargeted", strongest=True) == {"weak": 1, "level": 1, "strong": 3}


def test_a_seed_that_failed_is_not_stood_for_by_another() -> None:
    low, high = np.full(30, 0.2), np.full(30, 0.6)
    whole = [[sample((low + 0.001 * seed).tolist(), seed) for seed in range(3)]]
    failed = [[sample(high.tolist(), 0)]]  # of three
    fixed = [[sample(high.tolist(), None)]]  # no seed determines this one
    assert stacked(failed[0], "tmap", Axes.of([*whole[0], *failed[0]])).shape == (3, 1, 1, 30)
    found = stacked(failed[0], "tmap", Axes.of([*whole[0], *failed[0]]))
    assert np.isnan(found[1:]).all()
    assert not np.isnan(stacked(fixed[0], "tmap", Axes.of([*whole[0], *fixed[0]]))).any()
    assert ranks({"a": whole, "b": fixed}, "targeted", strongest=True) == {"a": 2, "b": 1}


def planned(*grids: dict[str, Any]) -> list[SuiteCell]:
    """Cells of grids like that of ONE but for what they say."""
    like = {**ONE["grids"][0], "attacks": ["noise"]}
    return plan_suite(
        SuiteConfig.build({**ONE, "attack_seeds": 1, "grids": [{**like, **one} for one in grids]})
    ).cells


def test_figures_of_other_protocols_are_not_compared() -> None:
    tasks = [{"queries": 12}, {"queries": 12, "top_k": 5}, {"queries": 12, "targets": "uniform"}]
    cells = planned(*({"protocol": one} for one in tasks))
    assert [cell.dataset for cell in cells] == [
        "digits+size=16, targets=disjoint",
        "digits+size=16, targets=disjoint, top_k=5",
        "digits+size=16, targets=uniform",
    ]
    assert {cell.names for cell in cells} == {("noise", "noise", "digits+size=16", "dpsh+epochs=1")}
    assert {cell.dataset for cell in planned({}, {"victims": ["phash"]})} == {"digits+size=16"}


def test_own_folders_are_called_by_their_names(tmp_path: Path) -> None:
    names = ("holidays", "garden", "a/photos", "b/photos", "digits")
    for place, name in enumerate(names):
        for number in range(20):
            colour = (12 * number, 40, place)
            file = tmp_path / name / f"{number}.png"
            file.parent.mkdir(exist_ok=True, parents=True)
            Image.new("RGB", (16, 16), colour).save(file)
    reader = {"name": "near_duplicates", "size": 16}
    named = [{**reader, "root": str(tmp_path / name)} for name in names]
    cells = planned({"victims": ["dhash"], "datasets": named})
    assert [cell.dataset for cell in cells] == [f"{name}+size=16" for name in names]


def test_folders_of_one_name_are_told_apart_by_those_above() -> None:
    places = {Path("/x/2023/photos"), Path("/x/2024/photos"), Path("/y/2024/photos"), Path("")}
    found = {place: _above(place, places) for place in places}
    assert found[Path("/x/2023/photos")] == "2023/"
    assert found[Path("/x/2024/photos")] == "x/2024/"
    assert found[Path("")] == ""
    assert _above(Path("/x/photos"), {Path("/x/photos")}) == ""


def test_cells_that_differ_are_called_differently(tmp_path: Path) -> None:
    radii = [{"eps": "8/255"}, {"eps": "8/255", "eight_bit": False}]
    assert [cell.budget for cell in planned({"budgets": radii})] == [
        "L∞ 8/255",
        "L∞ 8/255 unrounded",
    ]
    hardened = [
        cell.victim
        for eps in ("4/255", "8/255")
        for cell in planned({"defenses": ["saat"], "defense_budget": {"eps": eps}})
    ]
    assert hardened == [f"dpsh+epochs=1 + saat at L∞ {eps}/255" for eps in (4, 8)]
    with pytest.raises(UsageError, match=r"both called noise, L2 0\.5, on .*suites of their own"):
        planned({"budgets": [{"norm": "l2", "eps": eps} for eps in (0.50001, 0.50002)]})


@pytest.mark.parametrize(
    ("rounded", "words"),
    [
        ([], "pixels rounded to 8 bits"),
        ([True], "pixels rounded to 8 bits"),
        ([False], "pixels not rounded"),
        ([True, False], "pixels rounded to 8 bits, but where a budget is unrounded"),
    ],
)
def test_a_page_says_which_pixels_were_rounded(rounded: list[bool], words: str) -> None:
    budgets = [{"eps": "8/255", "eight_bit": one} for one in rounded]
    suite = SuiteConfig.build({**ONE, "grids": [{**ONE["grids"][0], "budgets": budgets}]})
    (told,) = protocols(BenchmarkRecord.model_construct(suite=suite.model_dump(mode="json")))
    assert told.endswith(f"ties: expected; {words}")


def test_a_victim_that_faced_fewer_attacks_is_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    first = {**ONE["grids"][0], "attacks": ["noise", "hag+steps=1"]}
    second = {**first, "victims": ["phash"], "attacks": ["noise"]}
    record = benchmark(
        SuiteConfig.build({**ONE, "attack_seeds": 1, "grids": [first, second]}), tmp_path / "run"
    )
    told = [flag.message for flag in record.flags if flag.name == "fewer_attacks"]
    assert len(told) == 1
    assert told[0].startswith("phash faced 1 of 2 attacks (digits+size=16, untargeted, L∞ 8/255)")
    assert [one.rank for one in record.victims] == sorted(one.rank for one in record.victims)


def test_what_no_interval_covers_is_flagged(finished: Path) -> None:
    def flags(**changes: Any) -> dict[str, str]:
        suite = plan_suite(SuiteConfig.build({**ONE, **changes}))
        return {flag.name: flag.message for flag in seed_flags(suite)}

    assert not {"one_training", "one_attack_seed"} & {
        flag.name for flag in BenchmarkRecord.read(finished).flags
    }
    assert set(flags()) == {"one_training"}  # ONE: one victim seed, two attack seeds
    assert set(flags(victim_seeds=2, attack_seeds=1)) == {"one_attack_seed"}
    own = {**ONE["grids"][0], "victims": ["dpsh+epochs=1", "phash", "dpsh+epochs=1+seed=5"]}
    told = flags(victim_seeds=2, grids=[own])["one_training"]
    assert told.startswith("dpsh+seed=5+epochs=1: one training each")


def test_a_defence_that_only_wraps_draws_no_victim_seeds() -> None:
    suite = {**ONE, "victim_seeds": 3, "attack_seeds": 1}
    grid = {**ONE["grids"][0], "attacks": ["noise"], "defenses": ["jpeg"]}
    for victim, seeds in (("phash", [None]), ("dpsh+epochs=1", [0, 1, 2])):
        cells = plan_suite(SuiteConfig.build({**suite, "grids": [{**grid, "victims": [victim]}]}))
        assert [cell.victim_seed for cell in cells.cells] == seeds
        budgeted = {**grid, "victims": [victim], "defense_budget": {"eps": "4/255"}}
        same = plan_suite(SuiteConfig.build({**suite, "grids": [budgeted]}))
        assert same.cells[0].victim == cells.cells[0].victim  # it trains against no budget
        assert same.cells[0].attack.victim == cells.cells[0].attack.victim


def test_flags_and_deviations_of_cells_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    defended = {**ONE["grids"][0], "attacks": ["noise"], "defenses": ["none", "jpeg"]}
    plain = {**defended, "defenses": ["none"], "budgets": ["4/255"]}
    suite = {**ONE, "attack_seeds": 1, "grids": [defended, plain]}
    record = benchmark(SuiteConfig.build(suite), tmp_path / "run")
    assert {"dpsh", "dpsh + jpeg"} <= set(record.deviations)
    levels: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for cell in record.cells:
        file = tmp_path / "cache/benchmark" / cell.key / "result.json"
        made = Record.from_document(json.loads(file.read_text())["document"])
        levels |= {flag.name: flag.level for flag in made.flags}
        counts.update({flag.name for flag in made.flags})
    told = {flag.name: flag for flag in record.flags if flag.name in levels}
    page = (tmp_path / "run/report.html").read_text()
    assert levels
    for name, level in levels.items():
        assert told[name].level == level
        assert told[name].message.startswith(
            f"{counts[name]} of 3 runs (see the tables), the first"
        )
        assert f"{counts[name]} of 3 runs (see the tables), the first" in page


@pytest.mark.parametrize("eps", [["0.03141", "0.03143"], ["8/255", "0.031370"]])
def test_radii_that_look_alike_are_cells_of_their_own(eps: list[str]) -> None:
    grid = {**ONE["grids"][0], "budgets": eps, "attacks": ["noise"], "defenses": ["none", "saat"]}
    suite = plan_suite(SuiteConfig.build({**ONE, "grids": [grid]}))
    assert len({cell.key for cell in suite.cells}) == 2 * 2 * 2  # radii, attack seeds, defences
    hardened = [
        plan_suite(
            SuiteConfig.build({**ONE, "grids": [{**grid, "defense_budget": {"eps": one}}]})
        ).cells[-1].attack.victim
        for one in eps
    ]  # fmt: skip
    assert hardened[0] != hardened[1]


def test_one_run_keeps_its_own_interval_and_seeds_widen_it() -> None:
    generator = np.random.default_rng(1)
    values = generator.uniform(0.4, 0.6, 50)
    alone = summary([sample(values.tolist())], "targeted")["tmap"]
    apart = [sample((values + shift).tolist(), seed) for seed, shift in enumerate((-0.2, 0, 0.2))]
    several = summary(apart, "targeted")["tmap"]
    assert several.value == pytest.approx(alone.value)
    assert (several.high or 0) - (several.low or 0) > 2 * ((alone.high or 0) - (alone.low or 0))


# cost, lost workers, size


def test_costs_are_guessed_by_the_nearest_kin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    assert Costs.read().estimate(Work("cell", ("dhta",), 10)) is None
    note_cost(Work("cell", ("dhta", "digits", "dpsh"), 100), 50)
    note_cost(Work("cell", ("dhta", "openmoji", "dpsh"), 100), 150)
    with (tmp_path / KEPT).open("a") as file:
        file.write("torn off\n")
    costs = Costs.read()
    assert costs.estimate(Work("cell", ("dhta", "digits", "csq"), 10)) == 5
    assert costs.estimate(Work("cell", ("noise", "digits", "csq"), 10)) == 10  # all there is
    assert costs.shared(Work("cell", ("dhta", "digits", "csq"), 1)) == 2
    assert costs.shared(Work("cell", ("noise", "digits", "csq"), 1)) == 0
    assert costs.estimate(Work("training", ("dpsh",), 1)) is None


def test_a_task_that_kills_its_worker_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    # spawned workers import what they run: functions of the standard library alone
    tasks = ["0", "10", "__import__('os').kill(__import__('os').getpid(), 9)", "40"]
    assert run_tasks("local", eval, tasks, lost=lambda _: -3) == [0, 10, -3, 40]
    with pytest.raises(RefusedError, match="lost its worker again and again"):
        run_tasks("local", eval, tasks[2:3])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "from advhash.compute.executor import run_tasks\n"
        "run_tasks('local', eval, ['__import__(\"time\").sleep(300)'] * 2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        workers = wait_for(lambda: children(parent.pid))
        time.sleep(3)  # they are at work
    finally:
        parent.kill()
        parent.wait()
    assert workers
    assert wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in workers))


def wait_for(found: Callable[[], Any]) -> Any:
    """What it returns as soon as that is true, or after half a minute."""
    until = time.monotonic() + 30
    while not (value := found()) and time.monotonic() < until:
        time.sleep(0.2)
    return value


def test_ten_thousand_cells_make_a_page_that_opens(tmp_path: Path) -> None:
    figures = dict.fromkeys(("tmap", "tmap_clean", "map", "map_adversarial"), 0.123456789)
    metric = Metric(0.5, 0.4, 0.6, 900)
    names = ("map", "map_chance", "map_adversarial", "tmap", "tmap_chance", "tmap_clean",
             "tmap_ceiling", "tmap_normalised")  # fmt: skip
    rows, cells = [], []
    for number in range(1112):
        place: dict[str, Any] = {
            "dataset": f"data {number % 4}", "victim": f"victim {number % 20}",
            "method": f"method {number // 80}", "budget": f"L∞ {number % 3}/255",
        }  # fmt: skip
        rows.append(
            Row(**place, norm="linf", eps=(number % 3 + 1) / 255, goal="targeted", cells=9,
                rank=1, metrics=dict.fromkeys(names, metric), flags={"constant_bits": 3})
        )  # fmt: skip
        cells += [
            CellInfo(**place, key=f"{number}-{seed}", victim_seed=seed % 3, attack_seed=seed // 3,
                     status="done", seconds=1.5, figures=figures)
            for seed in range(9)
        ]  # fmt: skip
    record = BenchmarkRecord(
        schema_=BENCHMARK, command="benchmark",
        run=RunInfo(id="big", folder=str(tmp_path), created="", seed=0, device="cpu", version="",
                    seconds={}),
        name="big", suite={"victim_seeds": 3, "attack_seeds": 3}, executor="inline",
        report="", failed=[], left=[], flags=[], rows=rows, methods=[], victims=[], deviations={},
        attributions=[], cells=cells,
    )  # fmt: skip
    (tmp_path / "metrics.json").write_text(record.dumps())
    render([tmp_path], tmp_path / "report.html")
    assert len(record.cells) > 10_000
    assert (tmp_path / "report.html").stat().st_size < 20e6
    flagged = (tmp_path / "report.html").read_text().count("<code>constant_bits ×3</code>")
    assert flagged == len(rows)
