"""`advhash benchmark --site`: a leaderboard of pages that lead to each other and load nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_scene import (
    HOSTILE,
    SHARE,
    Tags,
    edit,
    make_benchmark,
    make_detect,
    make_inversion,
    make_run,
    make_scan,
)
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.errors import RunError, UsageError
from advhash.reports.benchmark import SEARCHED
from advhash.reports.site import boards, entrants, left_out, run_folders, write_site


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
    title = "toy, L∞ 8/255, 6 queries image→fused: t-MAP"
    table = html.partition(f'aria-label="{title}"')[2].partition("</table>")[0]
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


def test_no_page_names_two_places_alike(pages: list[Path]) -> None:
    for page in pages:
        tags = Tags(page.read_text("utf-8")).tags
        names = [attributes["id"] for _, attributes in tags if "id" in attributes]
        assert len(names) == len(set(names)), page


def test_a_page_of_a_benchmark_holds_one_victim_alone(pages: list[Path]) -> None:
    page = next(page for page in pages if page.name.startswith("dpsh"))
    text = Tags(page.read_text("utf-8")).text
    assert HOSTILE not in text.partition("Sanity flags")[0]


def test_noise_alone_ranks_nobody_first(tmp_path: Path) -> None:
    for weights in ("ab", "cd"):

        def control(body: dict, weights: str = weights) -> None:
            body["victim"].update(fingerprint=weights)
            body["attack"].update(name="noise")

        edit(make_run(tmp_path / "runs" / weights), control)
    index, *_ = write_site([tmp_path / "runs"], tmp_path / "site")
    lead = index.read_text("utf-8").partition('<div class="lede">')[2].partition("</div>")[0]
    assert "In 1 of 1 tables nothing but noise was tried" in lead
    assert "holds best" not in lead


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
    others = ["--seed", "5"], ["--out", "nowhere"], ["--dry-run"], ["--set", "a.b=1"], ["--all"]
    for more in others:
        site = ["benchmark", "--site", str(tmp_path / "other"), str(runs), *more]
        refused = CliRunner().invoke(app, site)
        assert f"expected no {more[0]}" in str(refused.exception)
        assert not (tmp_path / "other").exists()
    site = ["benchmark", "--site", str(tmp_path / "other"), str(runs), "--json"]
    document = json.loads(CliRunner().invoke(app, site).stdout)
    assert Path(document["site"]).name == "index.html"
    assert len(document["pages"]) == 4
    for wrong in (["--suite", "smoke", *command[1:]], [str(runs)]):
        refused = CliRunner().invoke(app, ["benchmark", *wrong])
        assert isinstance(refused.exception, UsageError), refused.output


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("protocol", {"queries": 8}),
        ("protocol", {"query_modality": "text"}),
        ("protocol", {"database": "image"}),
        ("protocol", {"top_k": 5}),
        ("protocol", {"threshold": 31}),
        ("protocol", {"start": "copies"}),
        ("protocol", {"store": {"name": "faiss-ivf"}}),
        ("budget", {"eight_bit": False}),
        ("dataset", {"fingerprint": "12"}),
    ],
)
def test_figures_of_different_tasks_stand_on_different_boards(
    tmp_path: Path, part: str, change: dict
) -> None:
    make_run(tmp_path / "a")
    edit(make_run(tmp_path / "b"), lambda body: body[part].update(change))
    titles = [board.title for board in boards(entrants(run_folders([tmp_path])))]
    assert len(titles) == len(set(titles)) == 2


def test_boards_are_sorted_by_the_size_of_their_budget(tmp_path: Path) -> None:
    for eps in (16, 2, 4):
        budget = {"eps": eps / 255, "text": f"L∞ {eps}/255"}
        edit(
            make_run(tmp_path / str(eps)), lambda body, budget=budget: body["budget"].update(budget)
        )
    titles = [board.title for board in boards(entrants(run_folders([tmp_path])))]
    assert [title.split()[2].strip(",") for title in titles] == ["2/255", "4/255", "16/255"]


def test_a_victim_at_chance_is_marked_and_comes_last(tmp_path: Path) -> None:
    make_run(tmp_path / "fair")
    weak = edit(make_run(tmp_path / "weak"), lambda body: body["victim"].update(name="blind"))
    edit(weak, lambda body: body["metrics"]["tmap"].update(value=0.01, low=0.0, high=0.02))
    edit(weak, lambda body: body["flags"][0].update(name="weak_victim"))
    index = write_site([tmp_path], tmp_path / "site")[0].read_text("utf-8")
    table = index.partition("<tbody>")[2].partition("</tbody>")[0]
    assert table.index("dlcmh") < table.index("blind") < table.index("at chance without an attack")
    assert "80.0" in table  # MAP without an attack
    assert "holds best" not in Tags(index).text.partition("Victims under")[0]


def test_one_victim_is_counted_as_one_and_what_learns_nothing_was_not_trained(
    tmp_path: Path,
) -> None:
    run = edit(make_run(tmp_path / "a"), lambda body: body["victim"].update(origin="computed"))
    index, page = write_site([run], tmp_path / "site")
    assert "1 victim, 1 attack on it." in Tags(index.read_text("utf-8")).text
    text = page.read_text("utf-8")
    assert "Trained on" not in text
    assert "Measured on" in text


def test_runs_that_no_board_shows_are_counted_on_page_and_terminal(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    make_run(root / "a")
    make_scan(root / "b")
    make_inversion(root / "c")
    make_scan(root / "d")
    edit(make_benchmark(root / "e"), lambda body: body.update(rows=[], victims=[]))
    words = "Runs left out: 1 of benchmark without attacks, 1 of inversion, 2 of scan."
    assert left_out([root]).startswith(words)
    assert left_out([root / "a"]) == ""
    result = CliRunner().invoke(app, ["benchmark", "--site", str(tmp_path / "site"), str(root)])
    assert words in " ".join(result.output.split())
    assert words in Tags((tmp_path / "site" / "index.html").read_text("utf-8")).text


def test_a_suite_of_searches_alone_is_refused(tmp_path: Path) -> None:
    suite = edit(make_benchmark(tmp_path / "suite"), lambda body: body.update(rows=[], victims=[]))
    with pytest.raises(RunError, match="expected attacks on victims for a leaderboard, got none"):
        write_site([suite], tmp_path / "site")


def test_a_page_of_a_victim_shows_neither_stores_nor_flags_of_others(tmp_path: Path) -> None:
    store = {
        "dataset": "toy", "quantiser": "sign", "method": "hubs", "store": "faiss-ivf", "items": 9,
        "documents": 90, "runs": 1, "metrics": dict.fromkeys(SEARCHED, vars(SHARE)),
    }  # fmt: skip
    flags = [
        {"name": name, "level": "warning", "message": f"mind {name}"}
        for name in ("no_effect", "own_flag", "one_training")
    ]

    def several(body: dict) -> None:
        body.update(searches=[store], flags=flags)
        for entry in body["rows"]:
            entry["flags"] = {"own_flag" if entry["victim"] == "dpsh" else "no_effect": 1}

    edit(make_benchmark(tmp_path / "suite"), several)
    pages = write_site([tmp_path / "suite"], tmp_path / "site")
    text = next(page for page in pages if page.name.startswith("dpsh")).read_text("utf-8")
    assert "faiss-ivf" not in text.partition('id="provenance"')[0]
    assert "mind own_flag" in text
    assert "mind one_training" in text
    assert "mind no_effect" not in text
