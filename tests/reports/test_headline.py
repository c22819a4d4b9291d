"""What attack runs lead with: one table for terminal, page, notebook and `compare`."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_scene import make_run

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
