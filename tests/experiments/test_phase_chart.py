"""The phase chart: regimes, effect sizes, one training, the run folder, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import exit_code

from advhash.budget import Budget
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, UsageError
from advhash.experiments.experiment import describe, resume, run as run_experiment
from advhash.experiments.phase import run
from advhash.experiments.phase.cell import OUTCOMES, Attacker, train_and_measure
from advhash.experiments.phase.config import PhaseConfig
from advhash.experiments.phase.run import PhaseChart
from advhash.measures.encoding import redundancy_ratio
from advhash.measures.regimes import eta_squared, flip_labels, regimes, unexplained
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.phase import FACTORS, PhaseRecord
from advhash.victims.neural.neural_code import NeuralCode

SMALL: dict[str, Any] = {
    "attack": {"name": "dhta", "steps": 3},
    "budget": {"norm": "linf", "eps": "32/255"},
    "phase": {
        "widths": [3, 24],
        "epochs": [0, 4],
        "samples": [60, 300],
        "weight_decays": [1e-6],
        "noises": [0.0, 0.4],
        "repeats": 1,
        "queries": 20,
    },
}


class TestRegimes:
    def test_each_rule(self) -> None:
        given = {"under": 0.05, "sufficient": 0.01, "saturation": 0.01}
        assert regimes([0.051], [0.9], **given) == ["under"]
        assert regimes([0.05, 0.0], [0.9, 0.9], **given) == ["critical", "sufficient"]
        assert regimes([0.01, 0.0], [0.9, 0.92], **given) == ["critical", "critical"]
        assert regimes([0.0], [0.9], **given) == ["critical"]  # nothing says it is saturated
        with pytest.raises(ValueError, match="sufficient <= under"):
            regimes([0.0], [0.9], under=0.0, sufficient=0.1, saturation=0.01)
        with pytest.raises(ValueError, match="equal length"):
            regimes([0.0], [0.9, 0.8], **given)

    def test_effects_of_a_full_grid_add_up(self) -> None:
        generator = np.random.default_rng(0)
        grid = [(a, b) for a in range(3) for b in range(4) for _ in range(5)]
        values = np.array([2.0 * a + b**2 for a, b in grid]) + generator.normal(0, 0.5, 60)
        first, second = (eta_squared(values, [one[axis] for one in grid]) for axis in (0, 1))
        rest = unexplained(values, grid)
        means = np.array([values[[one == cell for one in grid]].mean() for cell in grid])
        rows = np.array([values[[one[0] == cell[0] for one in grid]].mean() for cell in grid])
        columns = np.array([values[[one[1] == cell[1] for one in grid]].mean() for cell in grid])
        total = ((values - values.mean()) ** 2).sum()
        assert first == pytest.approx(((rows - values.mean()) ** 2).sum() / total)
        interaction = ((means - rows - columns + values.mean()) ** 2).sum() / total
        assert first + second + interaction + rest == pytest.approx(1)  # type: ignore[operator]

    def test_no_effect_without_levels_or_variance(self) -> None:
        assert eta_squared([1.0, 2.0], ["a", "a"]) is None
        assert eta_squared([1.0, 1.0], ["a", "b"]) is None
        assert unexplained([1.0, 1.0], ["a", "b"]) is None
        with pytest.raises(ValueError, match="expected 2 levels"):
            eta_squared([1.0, 2.0], ["a"])

    def test_wrong_labels(self) -> None:
        classes = np.arange(200) % 7
        few, many = (flip_labels(classes, 7, share, seed=1) for share in (0.2, 0.6))
        assert (few != classes).sum() == 40
        assert (many != classes).sum() == 120
        assert np.array_equal(many[few != classes], few[few != classes])
        assert set(many.tolist()) == set(range(7))
        assert np.array_equal(flip_labels(classes, 7, 0.0, seed=1), classes)
        with pytest.raises(ValueError, match="2 classes"):
            flip_labels(classes, 1, 0.1, seed=0)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load_dataset("digits", {"size": 16})
    return replace(whole, train_rows=whole.train_rows[:400])


def trained(data: Dataset, width: int, **more: Any) -> dict[int, dict[str, float]]:
    base = {**NeuralCode.data_arguments(data), "width": width, "epochs": 6}
    given: dict[str, Any] = {"times": (0, 6), "sample": 400, "noise": 0.0, "seed": 1, **more}
    settings = ATTACKS.settings("dhta", {"steps": 5})
    return train_and_measure(
        data,
        VICTIMS.settings("neural-code", base),
        Attacker("dhta", settings, Budget("linf", 32 / 255), 20),
        device=torch.device("cpu"),
        **given,
    )


class TestTraining:
    def test_figures_are_those_of_a_victim_trained_so(self, digits: Dataset) -> None:
        found = trained(digits, 24)
        order = np.random.default_rng(1).permutation(digits.train_rows.numpy())
        data = replace(digits, train_rows=torch.from_numpy(order))
        arguments = NeuralCode.data_arguments(digits)
        victim = NeuralCode(**arguments, width=24, epochs=6).fit(data, seed=1)  # type: ignore[arg-type]
        codes = victim.encode_split(digits.train, "image")
        assert found[6]["redundancy_train"] == redundancy_ratio(codes)
        assert found[6]["bits"] == victim.bits
        assert set(found) == {0, 6}
        assert set(OUTCOMES) <= set(found[6])

    def test_size_time_and_sample_do_what_the_paper_says(self, digits: Dataset) -> None:
        narrow, wide = trained(digits, 4), trained(digits, 40)
        assert narrow[6]["redundancy_train"] > 0.5 > 0.1 > wide[6]["redundancy_train"]
        assert wide[6]["knn_accuracy"] > narrow[6]["knn_accuracy"] + 0.2
        assert wide[6]["accuracy"] > wide[0]["accuracy"] + 0.5
        few = trained(digits, 40, sample=30)
        assert wide[6]["knn_accuracy"] > few[6]["knn_accuracy"]
        assert wide[6]["tmap"] > wide[6]["tmap_clean"]

    def test_wrong_labels_are_learnt_and_not_judged_by(self, digits: Dataset) -> None:
        clean, wrong = trained(digits, 40), trained(digits, 40, noise=0.5)
        assert wrong[6]["accuracy"] < clean[6]["accuracy"] - 0.05
        assert wrong[0] == clean[0]  # before training labels determine nothing
        assert wrong[6]["knn_accuracy"] > wrong[6]["accuracy"] - 0.2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phase") / "run"
    run_experiment(PhaseChart(), PhaseConfig.build(SMALL), folder)
    return folder


def test_every_cell_is_there_and_the_headline_follows(finished: Path) -> None:
    record = PhaseRecord.read(finished)
    assert len(record.cells) == 2 * 2 * 2 * 2
    assert len(record.regimes) == 16
    shares = [record.metrics[f"share_{name}"] for name in ("under", "critical", "sufficient")]
    assert sum(one.value or 0 for one in shares if one) == pytest.approx(1)
    under = [point for point, regime in record.regimes if regime == "under"]
    assert all(point in under for point, _ in record.regimes if point.width == 3)
    values = [cell.figures["tmap"] for cell in record.cells if cell.point in under]
    metric = record.metrics["tmap_under"]
    assert metric is not None
    assert metric.value == pytest.approx(np.mean(values))
    effect = record.effects[0]
    assert effect.outcome == "redundancy_train"
    assert set(effect.eta_squared) == set(FACTORS)
    assert effect.eta_squared["weight_decay"] is None  # one level
    assert (effect.eta_squared["width"] or 0) > 0.5
    assert {flag.name for flag in record.flags} == {"single_level", "no_repeats"}


def test_page_and_replay_from_the_cache(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    page = tmp_path / "page.html"
    assert exit_code("report", str(finished), "--out", str(page)) == 0
    assert page.read_bytes() == (finished / "report.html").read_bytes()
    assert page.read_text().count("<figure>") == 5

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "train_and_measure", fail)
    config = str(finished / "config.toml")
    assert exit_code("phase-chart", "--config", config, "--dry-run", "--json") == 0
    capsys.readouterr()
    out = str(tmp_path / "again")
    assert exit_code("phase-chart", "--config", config, "-q", "--json", "--out", out) == 0
    text = [line for line in capsys.readouterr().out.splitlines() if line]
    again = json.loads("\n".join(text))
    assert again["cells"] == json.loads((finished / "metrics.json").read_text())["cells"]


def test_an_interrupted_chart_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PhaseConfig.build({**SMALL, "seed": 5})
    real, calls = run.train_and_measure, 0

    def stops(*arguments: Any, **keywords: Any) -> dict[int, dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(run, "train_and_measure", stops)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(PhaseChart(), config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
    assert describe(PhaseChart(), config)["cells_done"] == 2
    resume(tmp_path / "run")
    assert calls == 3 + len(PhaseChart().plan(config).cells) - 2


@pytest.mark.slow
def test_in_other_processes_the_figures_are_the_same(finished: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
        record = run_experiment(
            PhaseChart(), PhaseConfig.build(SMALL), tmp_path / "run", executor="local"
        )
    assert record.cells == PhaseRecord.read(finished).cells


@pytest.mark.parametrize(
    ("values", "error", "word"),
    [
        ({"victim": {"name": "dph"}}, UsageError, "victim neural-code"),
        ({"victim": {"name": "neural-code", "width": 3}}, UsageError, "victim.width is an axis"),
        ({"phase": {"samples": [2000]}}, UsageError, "from 2 to 1197"),
        ({"phase": {"widths": [5, 3]}}, ConfigError, "ascending"),
        ({"phase": {"widths": []}}, ConfigError, "ascending"),
        ({"phase": {"noises": [1.5]}}, ConfigError, "a number from 0 to 1"),
        ({"phase": {"under": 0.001}}, UsageError, "phase.sufficient <= phase.under"),
        ({"attack": {"name": "hag"}}, UsageError, "targeted attack"),
        ({"budget": {"norm": "l0", "eps": 3}}, UsageError, "expected a budget"),
        ({"victim": {"name": "neural-code", "layers": "x"}}, UsageError, "no layer"),
        ({"dataset": {"name": "breast_cancer"}}, Exception, "with images"),
    ],
)
def test_refused_before_any_training(
    values: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        PhaseChart().plan(PhaseConfig.build(values))


def test_bad_numbers_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("phase-chart", "--widths", "3;6") == 2
    assert "expected numbers with commas" in capsys.readouterr().err
