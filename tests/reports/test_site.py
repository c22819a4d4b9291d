"""`advhash benchmark --site`: a leaderboard of pages that lead to each other and load nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_scene import HOSTILE, Tags, edit, make_benchmark, make_detect, make_run
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.errors import RunError, UsageError
from advhash.reports.site import run_folders, write_site


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attacks on two victims with a hostile name among them, and a benchmark."""
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "weak")
    make_run(root / "untargeted", goal="untargeted")
    strong = make_run(root / "strong")
    edit(strong, lambda body: body["metrics"]["tmap"].update(value=0.88, low=0.8, high=0.9))
    edit(strong, lambda body: body["attack"].update(name="stronger"))
    other = make_run(root / "other")
    edit(other, lambda body: body["victim"].update(name=HOSTILE, fingerprint="cd"))
    edit(other, lambda body: body["metrics"]["tmap"].update(value=0.1, low=0.05, high=0.2))
    make_benchmark(root / "suite")
    return root


@pytest.fixture(scope="module")
def pages(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_site([runs], tmp_path_factory.mktemp("site") / "site")


def test_each_page_is_safe_and_leads_to_pages_that_are_there(pages: list[Path]) -> None:
    assert len(pages) == 4  # dlcmh by attacks, dpsh by the benchmark, the hostile one by both
    for page in pages:
        found = Tags(page.read_text("utf-8"))
        assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in found.tags}
        for link in found.every("a", "href"):
            assert link is not None
            assert link.startswith("#") or (page.parent / link).resolve() in pages
        sources = found.every("img", "src")
        assert all(source is not None and source.startswith("data:image/") for source in sources)
        assert "default-src 'none'" in page.read_text("utf-8")


def test_the_index_ranks_victims_by_their_strongest_attack(pages: list[Path]) -> None:
    html = pages[0].read_text("utf-8")
    table = html.partition('aria-label="toy, L∞ 8/255: t-MAP"')[2].partition("</table>")[0]
    found = Tags(table)
    assert "stronger" in found.text
    assert "88.0" in found.text
    links = [link for link in found.every("a", "href") if link]
    assert len(links) == len(set(links)) == 3
    shown = Tags((pages[0].parent / links[0]).read_text("utf-8"))
    assert HOSTILE in shown.text  # the victim that holds best, with t-MAP .1
    assert html.count("<figure>") >= 1
    text = Tags(html).text
    assert "5 runs" in text
    assert f"mind {HOSTILE}" in text  # a flag of a run, and a deviation
    assert "dlcmh: smaller backbone" in text
    assert "Pictures by nobody" in text


def test_a_victim_has_its_card_its_runs_and_pictures(pages: list[Path]) -> None:
    page = next(page for page in pages if page.name.startswith("dlcmh"))
    html = page.read_text("utf-8")
    assert "<h1>dlcmh on toy</h1>" in html
    assert '<h2 id="card">' in html
    assert "SHA-256 <code>ab</code>" in html
    assert html.count('class="example"') == 9
    assert "smaller backbone" in html


def test_a_page_of_a_benchmark_holds_one_victim_alone(pages: list[Path]) -> None:
    page = next(page for page in pages if page.name.startswith("dpsh"))
    text = Tags(page.read_text("utf-8")).text
    assert HOSTILE not in text.partition("Sanity flags")[0]


def test_equal_names_with_other_weights_stand_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    edit(make_run(tmp_path / "runs" / "b"), lambda body: body["victim"].update(fingerprint="99"))
    pages = write_site([tmp_path / "runs"], tmp_path / "site")
    titles = [page.read_text("utf-8").partition("<h1>")[2].partition("</h1>")[0] for page in pages]
    assert titles == ["Leaderboard", "dlcmh (99) on toy", "dlcmh (ab) on toy"]


def test_what_no_leaderboard_can_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected finished runs of attack or benchmark, got none"):
        run_folders([tmp_path])
    folder = tmp_path / "detect"
    folder.mkdir()
    make_detect(folder / "metrics.json")
    with pytest.raises(RunError, match="of schema 'advhash/detect/1': `advhash report`"):
        run_folders([folder])
    broken = edit(make_run(tmp_path / "broken"), lambda body: body.pop("metrics"))
    with pytest.raises(RunError, match="damaged"):
        write_site([broken], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_command_writes_a_site_and_runs_nothing(runs: Path, tmp_path: Path) -> None:
    command = ["benchmark", "--site", str(tmp_path / "site"), str(runs)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "index.html, with 3 victims" in result.output.replace("\n", "")
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, UsageError)
    assert "expected a new folder for --site" in str(again.exception)
    for wrong in (["--suite", "smoke", *command[1:]], [str(runs)]):
        refused = CliRunner().invoke(app, ["benchmark", *wrong])
        assert isinstance(refused.exception, UsageError), refused.output
