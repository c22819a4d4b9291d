"""What attack runs lead with: one table for terminal, page, notebook and `compare`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from report_scene import make_run

from advhash.api.result import AttackResult
from advhash.codes.packed import HashCodes
from advhash.measures.intervals import Metric
from advhash.reports.headline import HEADLINES, OWN
from advhash.reports.record import Record
from advhash.reports.vocabulary import figure


@pytest.mark.parametrize("goal", HEADLINES)
def test_a_run_leads_with_figures_that_it_has(goal: str, tmp_path: Path) -> None:
    headline = Record.read(make_run(tmp_path / "run", goal=goal)).headline()
    record = Record.read(tmp_path / "run")
    assert headline is HEADLINES[goal]
    assert {*headline.figures, *headline.brief, *headline.paired} <= set(record.metrics)


@pytest.mark.parametrize("goal", HEADLINES)
def test_a_higher_main_figure_serves_whom_the_vocabulary_says(goal: str) -> None:
    headline = HEADLINES[goal]
    assert (figure(headline.main).serves == "attacker") is (headline.sign > 0)
    assert figure(headline.main).serves in ("attacker", "defender")


def test_runs_are_compared_by_a_figure_that_every_query_has() -> None:
    assert all(one.main in one.paired for one in HEADLINES.values())
    assert HEADLINES["untargeted"].main in OWN


@pytest.mark.parametrize("goal", HEADLINES)
def test_a_notebook_shows_what_a_run_leads_with_first(goal: str) -> None:
    headline = HEADLINES[goal]
    images, codes = torch.zeros(2, 3, 4, 4), HashCodes.pack(np.zeros((2, 8), np.uint8))
    names = ("linf", *OWN, "map_chance", *HEADLINES["targeted"].figures)
    result = AttackResult(
        title="toy",
        modality="image",
        index=np.arange(2),
        clean=images,
        adversarial=images,
        clean_codes=codes,
        codes=codes,
        targets=np.ones((2, 1), np.uint8) if goal == "targeted" else None,
        columns={},
        metrics={name: Metric(0.5, 0.4, 0.6, 2) for name in names},
    )
    shown = [label for label, _ in result.figures()]
    leading = [figure(name).heading for name in headline.figures]
    assert shown[: len(leading)] == leading
    assert len(set(shown)) == len(shown)
    assert shown[-1] == figure("linf").heading
