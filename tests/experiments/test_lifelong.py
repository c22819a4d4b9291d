"""The lifelong protocol: its cells, its run folder, its page, its command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Dataset, silent
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError, RunError, UsageError
from advhash.experiments import experiment
from advhash.experiments.lifelong import run as lifelong_run
from advhash.experiments.lifelong.attack import attack_stages
from advhash.experiments.lifelong.cell import DIRECTIONS, METHODS, Lifetime, Stage, run_cell, subset
from advhash.experiments.lifelong.config import LifelongConfig
from advhash.experiments.lifelong.orders import Order, arrived_rows
from advhash.experiments.lifelong.run import Lifelong
from advhash.experiments.prepare import data_cell
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.lifelong.record import LifelongRecord
from advhash.reports.page.render import page
from advhash.victims.cross_modal.dcmh import DCMH
from advhash.victims.cross_modal.dlcmh import DLCMH

TINY = {"epochs": 4, "increment_epochs": 3, "samples": 64, "width": 64, "batch_size": 32}
ORDER: Order = (("Food & Drink", "fruit", "drink"), ("Flags",))


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return load_dataset("openmoji", {})


@pytest.fixture(scope="module")
def emoji(whole: Dataset) -> Dataset:
    """A sixth of the emoji, with their queries."""
    rows = torch.arange(0, len(whole.database), 6)
    return dataclasses.replace(
        whole,
        database=whole.database.take(rows),
        train_rows=torch.arange(0, len(rows), 2),
        query=whole.query.take(torch.arange(0, 300, 4)),
    )


def run(data: Dataset, seed: int = 0, **more: Any) -> Lifetime:
    settings = VICTIMS.settings("dlcmh", {**DLCMH.data_arguments(data), **TINY, **more})
    shared = {name: more[name] for name in ("freeze_backbone", "augmentation") if name in more}
    rival = VICTIMS.settings(
        "dcmh", {**DCMH.data_arguments(data), "epochs": 2, "width": 64, **shared}
    )
    return run_cell(
        data,
        ORDER,
        seed,
        settings=settings,
        rival=rival,
        device=torch.device("cpu"),
        progress=silent,
    )


@pytest.fixture(scope="module")
def cell(emoji: Dataset) -> Lifetime:
    return run(emoji)


def at(cell: Lifetime, method: str, stage: int) -> Stage:
    (found,) = (one for one in cell.stages if (one.method, one.stage) == (method, stage))
    return found


class TestCell:
    def test_every_method_has_every_stage(self, cell: Lifetime) -> None:
        trained = {(stage.method, stage.stage) for stage in cell.stages}
        late = {"retrain", "retrain_same_time", "dcmh"}
        assert trained == {
            (name, stage) for name in METHODS for stage in range(3) if stage or name not in late
        }

    def test_only_known_queries_are_scored(self, cell: Lifetime) -> None:
        for stage in cell.stages:
            for way in DIRECTIONS:
                for view, last in (
                    *(("", stage.stage), ("untrained_", stage.stage), ("hashed_", stage.stage)),
                    *(("first_", 0), ("before_", max(stage.stage - 1, 0))),
                ):
                    known = ~np.isnan(stage.columns[view + way])
                    assert known.tolist() == (cell.query_stage <= last).tolist()
        assert 0 < (cell.query_stage == 1).sum() < (cell.query_stage == 0).sum()

    def test_figures_are_those_of_codes_and_labels(self, cell: Lifetime, emoji: Dataset) -> None:
        for stage in range(3):
            rows = arrived_rows(emoji, ORDER, stage)
            labels = emoji.database.labels[rows].numpy()
            query = cell.victims[stage].encode_split(emoji.query, "image")
            expected = retrieval_average_precision(
                query, cell.tables[stage]["text"], emoji.query.labels.numpy(), labels
            )
            known = cell.query_stage <= stage
            found = at(cell, "dlcmh", stage).columns["image_text"]
            assert found[known] == pytest.approx(expected[known])

    def test_old_codes_stay_and_fine_tuning_changes_them(
        self, cell: Lifetime, emoji: Dataset
    ) -> None:
        for before, after in ((0, 1), (1, 2), (0, 2)):
            old = torch.searchsorted(
                arrived_rows(emoji, ORDER, after), arrived_rows(emoji, ORDER, before)
            ).numpy()
            for way in ("image", "text", "fused"):
                first, later = cell.tables[before][way], cell.tables[after][way][old]
                assert np.array_equal(first.words, later.words)
        assert [at(cell, "dlcmh", stage).changed for stage in (1, 2)] == [0.0, 0.0]
        assert at(cell, "finetune", 1).changed > 0.5

    def test_frozen_networks_are_those_of_phase_one(self, cell: Lifetime) -> None:
        known = cell.query_stage == 0
        for way in DIRECTIONS:
            first = at(cell, "frozen", 0).columns[way][known]
            for stage in (1, 2):
                later = at(cell, "frozen", stage).columns[f"first_{way}"][known]
                assert later == pytest.approx(first)
        assert at(cell, "frozen", 1).seconds is None
        moved = at(cell, "dlcmh", 2).columns["first_image_text"][known]
        assert moved != pytest.approx(at(cell, "frozen", 0).columns["image_text"][known])

    def test_the_fair_rival_has_the_epochs_that_fit_into_the_increment(
        self, cell: Lifetime
    ) -> None:
        for stage in (1, 2):
            full, short = at(cell, "retrain", stage), at(cell, "retrain_same_time", stage)
            spent = at(cell, "dlcmh", stage).seconds
            assert full.seconds
            assert spent
            assert full.epochs == TINY["epochs"]
            assert short.epochs == max(1, int(TINY["epochs"] * spent / full.seconds))
            assert [seconds for seconds, _ in full.trace] == sorted(s for s, _ in full.trace)
            assert len(full.trace) == TINY["epochs"]
            assert short.trace == []

    def test_a_retraining_sees_nothing_that_is_still_to_come(self, emoji: Dataset) -> None:
        rows = arrived_rows(emoji, ORDER, 1)
        here = subset(emoji, rows)
        flags = emoji.classes.index("Flags")
        assert not here.database.labels[:, flags].any()
        assert here.increments == ()
        kept = set(rows[here.train_rows].tolist())
        assert kept == set(rows.tolist()) & set(emoji.train_rows.tolist())

    def test_views_differ_where_codes_are_learnt_and_only_there(self, cell: Lifetime) -> None:
        """Trained rows of DLCMH have learnt codes; networks alone make the others."""
        for stage in (1, 2):
            known = cell.query_stage <= stage
            for name, same in (("dlcmh", False), ("retrain", False), ("dcmh", True)):
                columns = at(cell, name, stage).columns
                served, hashed = (columns[view + "text_image"][known] for view in ("", "hashed_"))
                assert np.allclose(served, hashed) == same
        columns = at(cell, "finetune", 0).columns
        assert np.array_equal(columns["image_text"], columns["hashed_image_text"], equal_nan=True)

    def test_codes_alone_leave_the_networks_of_phase_one(self, cell: Lifetime) -> None:
        for stage in (1, 2):
            alone, frozen = at(cell, "codes_only", stage), at(cell, "frozen", stage)
            known = cell.query_stage <= stage
            for view, same in (("hashed_", True), ("untrained_", True), ("", False)):
                first, second = (one.columns[view + "image_text"][known] for one in (alone, frozen))
                assert np.allclose(first, second) == same
            assert alone.changed == 0

    def test_binary_similarity_is_another_method(self, cell: Lifetime) -> None:
        cosine = at(cell, "dlcmh", 0).columns["image_text"]
        binary = at(cell, "dlcmh_binary", 0).columns["image_text"]
        known = cell.query_stage == 0
        assert not np.allclose(cosine[known], binary[known])

    def test_the_seed_decides(self, cell: Lifetime, emoji: Dataset) -> None:
        again = run(emoji)
        for first, second in zip(cell.stages, again.stages, strict=True):
            if first.method != "retrain_same_time":  # its epochs follow the clock
                for way in DIRECTIONS:
                    assert np.array_equal(first.columns[way], second.columns[way], equal_nan=True)

    def test_a_frozen_backbone_runs_before_anything_is_timed(self, emoji: Dataset) -> None:
        cell = run(emoji, freeze_backbone=True, augmentation=False)
        assert at(cell, "dlcmh", 2).changed == 0
        pictures = emoji.query.rows(torch.arange(2)).inputs["image"]
        assert cell.victims[2].encode(pictures, "image").bits == 32

    def test_an_attack_fitted_in_phase_one_keeps_its_pictures(
        self, cell: Lifetime, emoji: Dataset
    ) -> None:
        settings = {"epochs": 1, "prototype_steps": 5, "batch_size": 16}
        found = attack_stages(
            emoji,
            cell,
            ORDER,
            0,
            settings=ATTACKS.settings("prosgan", settings),
            queries=6,
            progress=silent,
        )
        table = {(one.attack, one.stage): one.values for one in found}
        assert set(table) == {(name, stage) for name in ("stale", "fresh") for stage in range(3)}
        chosen = ~np.isnan(table["stale", 0]["tmap"])
        assert chosen.sum() == 6
        assert (cell.query_stage[chosen] == 0).all()
        kept = {key: {n: v[chosen].tolist() for n, v in row.items()} for key, row in table.items()}
        assert kept["stale", 0] == kept["fresh", 0]
        for stage in (1, 2):
            assert kept["stale", stage]["l2"] == kept["stale", 0]["l2"]
            assert kept["fresh", stage]["l2"] != kept["stale", 0]["l2"]
        assert all(0 <= value <= 1 for row in kept.values() for value in row["tmap"])


@pytest.fixture
def fake(
    cell: Lifetime, whole: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[int]:
    """Cells that cost nothing; returns the seeds of those that were run."""
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lifelong_run, "load_data", lambda *_: whole)
    monkeypatch.setattr(data_cell, "load_dataset", lambda *_: whole)
    seeds: list[int] = []

    def quick(data: Dataset, order: Order, seed: int, **_: object) -> Lifetime:
        seeds.append(seed)
        count = len(data.query)
        stages = [
            dataclasses.replace(
                stage,
                columns={
                    way: np.resize(values, count) + 0.001 * (seed % 7)
                    for way, values in stage.columns.items()
                },
            )
            for stage in cell.stages
        ]
        return dataclasses.replace(
            cell,
            stages=stages,
            query_stage=np.resize(cell.query_stage, count),
            chance=np.resize(cell.chance, (3, count)),
        )

    monkeypatch.setattr(lifelong_run, "run_cell", quick)
    return seeds


def config(**lifelong_settings: object) -> LifelongConfig:
    return LifelongConfig.build(
        {
            "victim": {"name": "dlcmh"},
            "lifelong": {"attacked_seeds": 0, "orders": 2, "seeds": 2, **lifelong_settings},
        }
    )


class TestRun:
    def test_the_run_folder_holds_everything(self, fake: list[int], tmp_path: Path) -> None:
        record = experiment.run(Lifelong(), config(), tmp_path / "run")
        assert len(fake) == 4
        assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
            *("config.toml", "env.json", "metrics.json", "queries.parquet", "report.html"),
        ]
        read = LifelongRecord.read(tmp_path / "run")
        assert read.document() == record.document()
        assert read.document()["schema"] == "advhash/lifelong/1"
        for name in (
            *("increment_seconds_ratio", "map_new_gain", "map_all_gap"),
            *("forgetting_old", "old_codes_changed"),
        ):
            assert read.metrics[name] is not None

    def test_means_follow_from_the_values_of_every_query(
        self, fake: list[int], tmp_path: Path
    ) -> None:
        record = experiment.run(Lifelong(), config(), tmp_path / "run")
        rows = pq.read_table(tmp_path / "run/queries.parquet").to_pylist()
        for method in ("dlcmh", "frozen"):
            cells: dict[tuple[int, int], list[float]] = {}
            for row in rows:
                if row["method"] == method and row["query_stage"] == row["stage"] == 1:
                    value = (row["image_text"] + row["text_image"]) / 2
                    cells.setdefault((row["order"], row["seed"]), []).append(value)
            found = record.at(method, 1, "new")
            assert found is not None
            assert len(cells) == 4
            assert found.value == pytest.approx(np.mean([np.mean(c) for c in cells.values()]))

    def test_finished_cells_are_kept(self, fake: list[int], tmp_path: Path) -> None:
        experiment.run(Lifelong(), config(seeds=1), tmp_path / "one")
        assert len(fake) == 2
        experiment.run(Lifelong(), config(), tmp_path / "two")
        assert len(fake) == 4  # two of the four were there

    def test_an_interrupt_keeps_the_folder_and_says_how_to_go_on(
        self, fake: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick = lifelong_run.run_cell

        def interrupted(*given: Any, **more: Any) -> Lifetime:
            if len(fake) == 3:
                raise KeyboardInterrupt
            return quick(*given, **more)

        monkeypatch.setattr(lifelong_run, "run_cell", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            experiment.run(Lifelong(), config(), tmp_path / "run")
        assert f"`advhash lifelong --resume {tmp_path / 'run'}`" in caught.value.__notes__[0]
        assert (tmp_path / "run.partial").is_dir()
        monkeypatch.setattr(lifelong_run, "run_cell", quick)
        experiment.resume(tmp_path / "run")
        assert len(fake) == 4

    def test_the_config_of_a_run_gives_the_same_cells(
        self, fake: list[int], tmp_path: Path
    ) -> None:
        import tomllib

        first = experiment.run(Lifelong(), config(), tmp_path / "one")
        again = tomllib.loads((tmp_path / "one/config.toml").read_text())
        second = experiment.run(Lifelong(), LifelongConfig.build(again), tmp_path / "two")
        assert len(fake) == 4
        assert second.metrics == first.metrics
        assert second.protocol == first.protocol

    def test_the_page_has_the_section(self, fake: list[int], tmp_path: Path) -> None:
        experiment.run(Lifelong(), config(), tmp_path / "run")
        text = (tmp_path / "run/report.html").read_text()
        assert "Lifelong learning: dlcmh on openmoji" in text
        assert text.count("data:image/svg+xml") == 6  # four groups, untrained, costs; no attack
        assert "<script" not in text
        both = page([tmp_path / "run", tmp_path / "run"])
        assert both.count('<h3 class="of">Lifelong learning: dlcmh') == 4  # threat model, section

    def test_few_queries_are_flagged(self, fake: list[int], tmp_path: Path) -> None:
        order = [[["music"], ["Flags"]]]
        record = experiment.run(Lifelong(), config(categories=order, seeds=1), tmp_path / "run")
        assert [flag.name for flag in record.flags] == ["few_queries", "few_cells"]

    def test_an_edited_record_is_one_line(self, fake: list[int], tmp_path: Path) -> None:
        experiment.run(Lifelong(), config(seeds=1), tmp_path / "run")
        file = tmp_path / "run/metrics.json"
        whole = file.read_text()
        for table in ("protocol.rows", "metrics", "times"):
            body = json.loads(whole)
            if table == "protocol.rows":
                body["protocol"]["rows"] = []
            elif table == "metrics":
                body["metrics"] = {}
            else:
                body["times"][0]["method"] = "magic"
            file.write_text(json.dumps(body))
            with pytest.raises(RunError, match="got a damaged one"):
                page([tmp_path / "run"])

    def test_a_damaged_record_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.json").write_text(json.dumps({"schema": "advhash/lifelong/1"}))
        with pytest.raises(RunError, match="expected a run record"):
            page([tmp_path])

    @pytest.mark.slow
    def test_local_processes_give_the_same(self, tmp_path: Path) -> None:
        """Real cells, as small as they come."""
        settings = {
            "victim": {"name": "dlcmh", **TINY, "epochs": 1, "increment_epochs": 1, "bits": 8},
            "rival": {"name": "dcmh", "epochs": 1, "width": 16},
            "lifelong": {"attacked_seeds": 0, "orders": 1, "seeds": 2, "increments": 1},
        }
        record = experiment.run(
            Lifelong(), LifelongConfig.build(settings), tmp_path / "run", executor="local"
        )
        assert record.metrics["old_codes_changed"].value == 0  # type: ignore[union-attr]
        assert record.protocol.seeds == [0, 1]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"victim": {"name": "dpsh"}}, UsageError, "takes victim dlcmh, got 'dpsh'"),
            ({"rival": {"name": "dlcmh"}}, UsageError, "takes rival dcmh, got 'dlcmh'"),
            ({"attack": {"name": "dhta"}}, UsageError, "takes attack prosgan, got 'dhta'"),
            ({"lifelong": {"orders": 0}}, ConfigError, "lifelong.orders"),
            ({"lifelong": {"categories": []}}, UsageError, "orders of as many increments"),
            ({"lifelong": {"categories": [[["x"]]]}}, UsageError, "categories of 'openmoji'"),
            (
                {"lifelong": {"categories": [[["Flags"], ["Flags"]]]}},
                UsageError,
                "each once",
            ),
            (
                {"victim": {"name": "dlcmh", "increments": [["Flags"]]}},
                UsageError,
                "set by lifelong.categories",
            ),
            ({"victim": {"name": "dlcmh", "bits": 0}}, ConfigError, "expected bits above 0"),
            ({"victim": {"name": "dlcmh", "bits": 2000}}, ConfigError, "at most 1024 bits"),
            ({"victim": {"name": "dlcmh", "samples": 0}}, ConfigError, "samples above 0"),
            ({"victim": {"name": "dlcmh", "new_share": 3.0}}, ConfigError, "new_share between"),
            ({"victim": {"name": "dlcmh", "increment_epochs": 0}}, ConfigError, "above 0"),
            ({"victim": {"name": "dlcmh", "classes": 3}}, UsageError, "follows from the data"),
            ({"rival": {"name": "dcmh", "text_size": 3}}, UsageError, "set dataset.text"),
            ({"rival": {"name": "dcmh", "bits": 8}}, UsageError, "set victim.bits"),
            ({"attack": {"name": "prosgan", "epochs": 0}}, ConfigError, "of at least"),
            ({"lifelong": {"orders": True}}, ConfigError, "lifelong.orders"),
            ({"lifelong": {"attacked_seeds": 9}}, UsageError, "attacked_seeds of at most 3"),
            (
                {"lifelong": {"categories": [[["Flags"]], [["Flags"]]]}},
                UsageError,
                "orders that differ",
            ),
        ],
    )
    def test_before_any_training(
        self, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            Lifelong().plan(LifelongConfig.build({"victim": {"name": "dlcmh"}, **change}))

    def test_the_command_needs_a_victim(self) -> None:
        result = CliRunner().invoke(app, ["lifelong"])
        assert isinstance(result.exception, UsageError)

    def test_a_dry_run_prints_the_plan(self) -> None:
        result = CliRunner().invoke(app, ["lifelong", "--victim", "dlcmh", "--dry-run", "--json"])
        plan = json.loads(result.stdout)
        assert plan["cells"] == 9
        assert len(plan["orders"]) == 3


def test_other_data_are_other_cells(
    whole: Dataset, emoji: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a data set may change under the same name and settings."""
    keys = []
    for data in (whole, emoji, whole):
        monkeypatch.setattr(lifelong_run, "load_data", lambda *_, data=data: data)
        keys.append([task.key for task in Lifelong().plan(config()).cells])
    assert keys[0] == keys[2]
    assert not set(keys[0]) & set(keys[1])
    assert len(set(keys[0])) == 4
    monkeypatch.setattr(lifelong_run, "load_data", lambda *_: whole)
    task = Lifelong().plan(config()).cells[0]
    monkeypatch.setattr(data_cell, "load_dataset", lambda *_: emoji)
    with pytest.raises(DataError, match="expected the data of 'openmoji' that the run began with"):
        task.data()
