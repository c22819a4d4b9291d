"""Pages over any mix of kinds of runs, and their tables and figures as files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from PIL import Image
from report_scene import (
    HOSTILE,
    NAMES,
    SHARE,
    Tags,
    edit,
    every_kind,
    make_detect,
    make_inversion,
    make_lifelong,
    make_phase,
    make_poison,
    make_run,
    make_search,
)
from source_tree import ROOT
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.cli.commands.lifelong import print_lifelong
from advhash.cli.commands.poison import print_poison
from advhash.cli.commands.scan import print_scan
from advhash.errors import RunError, StorageError, UsageError
from advhash.measures.intervals import Difference, Metric
from advhash.measures.paired_runs import Pair, standings
from advhash.reports.attack.queries import rival
from advhash.reports.attack.tables import rank
from advhash.reports.benchmark import BenchmarkRecord, verdicts as benchmark_verdicts
from advhash.reports.detection import DetectionRecord, verdicts as detection_verdicts
from advhash.reports.elements.chapters import TOPICS
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import legend_below
from advhash.reports.elements.tables import Column, Table, TableCell
from advhash.reports.inversion.chapter import verdicts as inversion_verdicts
from advhash.reports.inversion.record import InversionRecord
from advhash.reports.lifelong.record import LifelongRecord
from advhash.reports.page.exports import (
    expect_figures,
    to_csv,
    to_latex,
    write_figures,
    write_tables,
)
from advhash.reports.page.kinds import KINDS
from advhash.reports.page.render import Page, draw, page, render
from advhash.reports.poison import HONEST, PoisonRecord
from advhash.reports.record import Record, schema_of
from advhash.reports.scan import ScanRecord, curves, histogram, verdicts
from advhash.storage.files import sha256

SAYS = {  # the topics of its own that a kind has on a page
    "benchmark": ["beside", "results"],
    "attack": ["results", "examples", "words", "training"],
    "detect": ["detection"],
    "certify": ["certificates"],
    "least-change": ["certificates"],
    "transfer": ["samples", "transfer"],
    "defend": ["samples", "transfer", "defences"],
    "lifelong": ["lifelong"],
    "inversion": ["samples", "detection", "federation"],
    "encode": ["detection", "encoding"],
    "phase": ["phase"],
    "search": ["search"],
    "scan": ["samples", "protocol", "scan"],
    "poison": ["samples", "results"],
    "judge": ["results", "examples", "words"],
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return every_kind(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def drawn(kinds: dict[str, Path]) -> Page:
    """All kinds on one page, given in another order than that of the page."""
    return draw(list(kinds.values())[::-1])


@pytest.fixture(scope="module")
def mixed(drawn: Page) -> str:
    return drawn.html


# --- pages --------------------------------------------------------------------------------------


def test_every_kind_is_tested_here(kinds: dict[str, Path]) -> None:
    assert {schema_of(path) for path in kinds.values()} == set(KINDS)


@pytest.mark.parametrize("name", [*NAMES, "mixed"])
def test_a_page_of_any_kind_is_safe_and_accessible(
    kinds: dict[str, Path], mixed: str, name: str
) -> None:
    html = mixed if name == "mixed" else page([kinds[name]])
    found = Tags(html)
    names = [tag for tag, _ in found.tags]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(names)
    for tag, given in found.tags:
        assert not any(attribute.startswith("on") for attribute in given), (tag, given)
        for attribute in ("src", "href", "srcset", "action"):
            value = given.get(attribute)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)
    assert HOSTILE in found.text
    assert "undefined" not in found.text.lower()
    assert all(found.every("img", "alt"))
    assert names.count("table") == names.count("caption")
    assert all(scope in ("row", "col") for scope in found.every("th", "scope"))
    ids = [given["id"] for _, given in found.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert {str(target) for target in found.every("a", "href")} <= {f"#{one}" for one in ids}


@pytest.mark.parametrize("name", SAYS)
def test_sections_appear_where_there_are_records(kinds: dict[str, Path], name: str) -> None:
    heads = Tags(page([kinds[name]])).every("section", "aria-labelledby")
    extra = [] if name in ("search", "scan") else ["threat"]
    order = list(TOPICS)
    assert heads == sorted([*extra, *SAYS[name], "flags", "provenance"], key=order.index)


def test_a_mixed_page_has_all_of_them_in_order(kinds: dict[str, Path], mixed: str) -> None:
    found = Tags(mixed)
    heads = found.every("section", "aria-labelledby")
    wanted = {"threat", "flags", "provenance", *(one for said in SAYS.values() for one in said)}
    topics = [topic for topic in TOPICS if topic in wanted | {"pairs"}]
    assert heads == [*topics[:2], "all", *topics[2:]]
    assert topics[:2] == ["examples", "samples"]
    links = re.findall(r'<li><a href="#(\w+)">', mixed.partition("</nav>")[0])
    assert links == heads
    assert "What 16 runs found on toy" in found.text
    assert "All 16 runs" in found.text
    verdicts = mixed.partition('<h2 id="all">')[2].partition("</section>")[0]
    for path in kinds.values():
        assert path.stem in verdicts or "prosgan" in verdicts
    assert verdicts.count("<li><strong>") == 16
    assert verdicts.count('class="bar"') == verdicts.count('<th scope="row">') == 3


def test_a_page_of_a_scan_speaks_of_no_attack(kinds: dict[str, Path]) -> None:
    html = page([kinds["scan"]])
    assert "Threat model" not in html
    assert "Evasion and collision" not in html


def test_a_page_of_a_scan_shows_its_pairs_first_with_their_distances(
    kinds: dict[str, Path],
) -> None:
    html = page([kinds["scan"]])
    head, _, shown = html.partition('id="samples"')
    assert "<table" not in head
    shown = shown.partition("</section>")[0]
    assert shown.count('<img class="pic') == 5
    text = Tags(shown).text
    assert f"{HOSTILE}: 2 of 64 bits, taken for one (threshold 8)" in text
    assert "dhash: 9 of 64 bits, no threshold" in text
    assert f"{HOSTILE}: 9 of 64 bits, told apart (threshold 8)" in text
    assert "L∞ 3/255, L2 0.2 grey levels rms" in text


PICTURED = {  # runs of the scene that have pictures
    *("attack", "untargeted", "transfer", "defend", "inversion", "scan", "poison", "judge"),
    "mixed",
}


@pytest.mark.parametrize("name", [*NAMES, "mixed"])
def test_a_page_that_is_passed_on_can_leave_pictures_out(
    kinds: dict[str, Path], drawn: Page, name: str
) -> None:
    """The same words and figures, and no picture of the data."""
    given = list(kinds.values())[::-1] if name == "mixed" else [kinds[name]]
    private = draw(given, pictures=False)
    assert "background-image" not in private.html
    assert "(the picture file is missing" not in private.html
    assert ("background-image" in draw(given).html) == (name in PICTURED)
    if name == "mixed":
        assert [table for _, table in private.tables] == [table for _, table in drawn.tables]


@pytest.mark.parametrize(("levels", "said"), [(1.0, "1 grey level"), (3.0, "3 grey levels")])
def test_grey_levels_are_counted_in_english(
    kinds: dict[str, Path], levels: float, said: str
) -> None:
    record = ScanRecord.read(kinds["scan"])
    first = record.hashes[0]
    assert first.evasion_at is not None
    evasion = first.evasion_at.model_copy(update={"median_linf": levels})
    hashing = first.model_copy(update={"evasion_at": evasion})
    (line,) = verdicts(record.model_copy(update={"hashes": [hashing]}))[1:]
    assert f"At a change of at most {said} in any colour value" in line


def test_what_a_poisoner_knows_is_a_sentence(kinds: dict[str, Path]) -> None:
    text = Tags(page([kinds["poison"]])).text
    assert "The attacker knows known queries. 40 queries are those" in text


def test_the_chart_of_a_scan_names_what_has_no_line_and_shows_the_rate_asked_for(
    kinds: dict[str, Path],
) -> None:
    record = ScanRecord.read(kinds["scan"])
    first, second = record.hashes
    flat = [at.model_copy(update={"value": 0.0}) for at in second.curve]
    second = second.model_copy(update={"label": "flat", "curve": flat})
    drawing = curves(record.model_copy(update={"hashes": [first, second], "false_positives": 1e-8}))
    assert drawing is not None
    assert "flat has no line: no unmarked pair lies within 19 bits." in drawing.caption
    assert b">1e-07<" in drawing.svg  # an axis from the rates alone begins at 1e-05


def test_a_threshold_beyond_the_counted_rates_is_drawn_and_marked_where_it_is_not_certain(
    kinds: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    record = ScanRecord.read(kinds["scan"])
    first, second = record.hashes
    flat = [at.model_copy(update={"value": 0.0}) for at in second.curve]
    pairs = [first.nearest[0].model_copy(update={"distance": 26, "marked": False})]
    more = {"label": "flat", "curve": flat, "nearest": pairs, "threshold": 25}
    second = second.model_copy(update={**more, "chosen": "estimate"})
    record = record.model_copy(update={"hashes": [first, second]})
    drawing = curves(record)
    assert drawing is not None
    assert "flat has no line: its closest unmarked pair is 26 bits apart" in drawing.caption
    assert b">flat, threshold alone<" in drawing.svg
    assert b">40<" in drawing.svg  # 25 of 64 bits
    assert "flat at 25 of 64 bits (not certain):" in verdicts(record)[2]
    print_scan(record, every=False)
    assert "25 (not certain)" in capsys.readouterr().out


def test_a_histogram_of_one_value_is_no_wide_bar(kinds: dict[str, Path]) -> None:
    drawing = histogram(ScanRecord.read(kinds["scan"]))  # 3 grey levels alone
    assert drawing is not None
    assert b">16<" in drawing.svg


def test_drawings_hold_no_mathtext(kinds: dict[str, Path]) -> None:
    for path in kinds.values():
        for _, drawing in draw([path]).drawings:
            assert b"mathdefault" not in drawing.svg, (path, drawing.alt)


def test_parts_of_a_topic_are_named_where_there_are_several(mixed: str) -> None:
    part = mixed.partition('<h2 id="detection">')[2].partition("</section>")[0]
    assert part.count('<h3 class="of">') == 3  # detect, inversion, encode
    assert '<h3 class="of">' not in mixed.partition('<h2 id="phase">')[2].partition("</section>")[0]


def test_flags_and_deviations_of_all_runs_stand_together(mixed: str) -> None:
    text = Tags(mixed.partition('<h2 id="flags">')[2].partition("</section>")[0]).text
    named = (f"{kind} run {kind}" for kind in ("defend", "transfer", "poison", "encode", "scan"))
    assert f"({'; '.join(named)})" in text
    for deviation in ("smaller backbone", "dlcmh: smaller", f"dph: of {HOSTILE}"):
        assert deviation in text


def test_provenance_tells_the_hash_of_each_record(kinds: dict[str, Path], mixed: str) -> None:
    text = Tags(mixed.partition('<h2 id="provenance">')[2]).text
    for path in kinds.values():
        assert sha256(path if path.is_file() else path / "metrics.json") in text
    assert "Python 3.11, torch 2.9, timm 1.0, numpy 2.0" in text


@pytest.mark.parametrize("content", ["[]", "{", '{"packages": [1]}', '{"python": 3}', None])
def test_a_strange_environment_is_left_out(tmp_path: Path, content: str | None) -> None:
    run = make_run(tmp_path / "run")
    if content is None:
        (run / "env.json").mkdir()
    else:
        (run / "env.json").write_text(content)
    assert "<dt>Versions</dt>" not in page([run])


def test_what_no_page_can_show_is_refused(tmp_path: Path) -> None:
    run = edit(make_run(tmp_path / "run"), lambda body: body.update(schema="advhash/other/1"))
    with pytest.raises(RunError, match=r"can show, got .* of schema 'advhash/other/1'"):
        page([run])
    file = make_detect(tmp_path / "detect.json")
    body = json.loads(file.read_text())
    body["detectors"] = {}
    file.write_text(json.dumps(body))
    with pytest.raises(RunError, match="got a damaged one: expected a thresh") as caught:
        page([file])
    assert "\n" not in str(caught.value)
    body["dataset"].pop("settings")
    file.write_text(json.dumps(body))
    with pytest.raises(
        RunError, match=r"got a damaged one: dataset\.settings is missing: expected a table"
    ):
        page([file])
    (tmp_path / "text.json").write_text("no record")
    with pytest.raises(RunError):
        page([tmp_path / "text.json"])


@pytest.mark.parametrize(
    ("make", "table", "key"),
    [
        (make_search, "settings", "search"),
        (make_inversion, "metrics", "accuracy"),
        (make_phase, "axes", "width"),
    ],
)
def test_a_record_that_was_cut_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], table: str, key: str
) -> None:
    run = edit(make(tmp_path / "run"), lambda body: body[table].pop(key))
    with pytest.raises(RunError, match=r"expected (a )?whole record") as caught:
        page([run])
    assert "\n" not in str(caught.value)


# --- ranks --------------------------------------------------------------------------------------


def ranks(folder: Path, pairs: list[tuple[int, int, float, float]], metric: str) -> list:
    goal = "targeted" if metric == "tmap" else "untargeted"
    record = Record.read(make_run(folder, goal=goal))
    values = {0: 0.5, 1: 0.7, 2: 0.6}
    records = [
        record.model_copy(
            update={
                "metrics": {
                    **record.metrics,
                    metric: replace(record.metrics[metric], value=value),  # type: ignore[type-var]
                }
            }
        )
        for value in values.values()
    ]
    found = [Pair(a, b, metric, Difference(d, None, None, 9, p), p) for a, b, d, p in pairs]
    rivals = [rival(record, None) for record in records]
    return [(one.run, rank(one)) for one in standings(rivals, found)]


def test_ranks_are_ranges_where_the_order_is_open(tmp_path: Path) -> None:
    open_ = [(0, 1, -0.2, 0.01), (0, 2, -0.1, 0.01), (1, 2, 0.1, 0.06)]
    assert ranks(tmp_path / "a", open_, "tmap") == [(1, "1–2"), (2, "1–2"), (0, "3")]
    settled = [(0, 1, -0.2, 0.01), (0, 2, -0.1, 0.2), (1, 2, 0.1, 0.04)]
    assert ranks(tmp_path / "b", settled, "tmap") == [(1, "1"), (2, "2–3"), (0, "2–3")]


def test_a_low_map_is_a_strong_attack(tmp_path: Path) -> None:
    pairs = [(0, 1, -0.2, 0.01), (0, 2, -0.1, 0.01), (1, 2, 0.1, 0.01)]
    assert ranks(tmp_path / "a", pairs, "map_adversarial") == [(0, "1"), (2, "2"), (1, "3")]


def test_only_paired_runs_are_ranked(tmp_path: Path) -> None:
    assert ranks(tmp_path / "a", [], "tmap") == []
    assert ranks(tmp_path / "b", [(1, 2, 0.1, 0.01)], "tmap") == [(1, "1"), (2, "2")]


# --- files --------------------------------------------------------------------------------------


def table(*rows: list[TableCell], head: tuple[str, ...] = ("Run", "t-MAP", "p")) -> Table:
    return Table("All", "What & why", [Column(name) for name in head], list(rows))


class Grids(HTMLParser):
    """What a reader sees: the texts of all tables, row by row, and where each stands."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[tuple[str, str, list[list[str]]]] = []  # topic, label, rows
        self._topic = self._label = ""
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._topic = str(given["id"]) if tag == "h2" else self._topic
        self._label = str(given.get("aria-label")) if tag == "div" else self._label
        if tag == "table":
            self.tables.append((self._topic, self._label, []))
        elif tag == "tr":
            self.tables[-1][2].append([])
        elif tag in ("td", "th"):
            self.tables[-1][2][-1].append("")
            self._inside = True
        elif tag in ("small", "details"):
            self._inside = False  # small print and what is unfolded

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][2][-1][-1] += data


def test_tables_are_those_of_the_page(kinds: dict[str, Path], drawn: Page) -> None:
    seen = [one for one in Grids(drawn.html).tables if one[1] != "Reconstructions"]
    made = [
        (
            topic,
            one.label,
            [[column.label for column in one.columns]]
            + [[cell.text for cell in row] for row in one.rows],
        )
        for topic, one in drawn.tables
    ]
    assert seen == made
    assert drawn.html.count("<table") == len(seen) + drawn.html.count('<table class="grid">')
    assert all(
        one.caption and one.rows and topic in {*TOPICS, "all"} for topic, one in drawn.tables
    )
    results = next(one for _, one in drawn.tables if one.label == "Results")
    place = [column.label for column in results.columns].index("t-MAP")
    cell = results.rows[1][place]  # after the untargeted run
    assert (cell.text, cell.bounds) == ("76.5", ("71.0", "82.0"))


def test_no_table_is_written_as_html_by_hand() -> None:
    """What a template writes itself, no export sees; a grid of pictures is no table of figures."""
    templates = [file for file in (ROOT / "reports").rglob("*.html") if file.name != "parts.html"]
    assert len(templates) > 9
    for file in templates:
        found = re.findall(r"<table[^>]*>|<figure><img", file.read_text("utf-8"))
        assert found in ([], ['<table class="grid">']), file


def test_csv_has_intervals_in_columns() -> None:
    text = to_csv(
        table(
            [TableCell("a, b"), TableCell("1.5", ("−1.0", "2.0")), TableCell("0.1")],
            [TableCell("c", note="itself"), TableCell("–"), TableCell("0.2")],
            [TableCell("all", span=2), TableCell("0.3")],
        )
    )
    assert list(csv.reader(io.StringIO(text))) == [
        ["Run", "t-MAP", "t-MAP low", "t-MAP high", "p"],
        ["a, b", "1.5", "-1.0", "2.0", "0.1"],
        ["c itself", "–", "", "", "0.2"],
        ["all", "", "", "", "0.3"],
    ]


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+a", "-a", "-1.5", "–"])
def test_csv_starts_no_formula(text: str) -> None:
    (row,) = list(csv.reader(io.StringIO(to_csv(table([TableCell(text)], head=("Run",))))))[1:]
    assert row[0] == (text if text in ("-1.5", "–") else f"'{text}")


def test_latex_runs_no_command_of_a_name() -> None:
    text = to_latex(
        table(
            [
                TableCell(r"\input{/etc/passwd} $x_1$ 5%"),
                TableCell("1.5", ("−1.0", "2.0")),
                TableCell("0.1"),
            ]
        )
    )
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\_1\$ 5\%" in text
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")
    assert r"1.5 {\scriptsize [$-$1.0, 2.0]}" in text
    assert r"\caption{What \& why}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_a_row_of_latex_has_as_many_cells_as_its_head(drawn: Page) -> None:
    for _, one in drawn.tables:
        for row in one.rows:
            assert sum(cell.span for cell in row) == len(one.columns), one.label


def test_figures_are_written_as_svg_and_png(kinds: dict[str, Path], tmp_path: Path) -> None:
    drawn = draw([kinds["transfer"]])
    files = write_figures(drawn, tmp_path / "figures")
    assert [file.name for file in files] == [
        "01-transfer.svg", "01-transfer.png", "02-transfer.svg", "02-transfer.png",
    ]  # fmt: skip
    assert files[0].read_bytes() == drawn.drawings[0][1].svg
    with Image.open(files[1]) as picture:
        assert min(picture.size) > 400
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
        assert colours is not None
        assert len(colours) > 50  # text and a colour bar, not an empty sheet


def test_latex_has_a_label_and_spans_one_column_or_two(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    drawn = draw([kinds["attack"]])
    for width, environment, room in (("one", "table", "column"), ("two", "table*", "text")):
        write_tables(drawn, tmp_path / width, width=width)
        texts = [file.read_text("utf-8") for file in sorted((tmp_path / width).glob("*.tex"))]
        labels = [line for text in texts for line in text.splitlines() if r"\label{tab:" in line]
        assert len(set(labels)) == len(texts)
        assert all(rf"\begin{{{environment}}}" in text for text in texts)
        assert all(rf"\begin{{adjustbox}}{{max width=\{room}width}}" in text for text in texts)


def test_labels_differ_where_chapters_have_equal_tables_and_beyond_99(tmp_path: Path) -> None:
    table = Table("results", "Results.", [Column("Run")], [[TableCell("a")]])
    write_tables(Page("", [("results", table)] * 101, []), tmp_path / "tables")
    texts = [file.read_text("utf-8") for file in (tmp_path / "tables").glob("*.tex")]
    labels = {line for text in texts for line in text.splitlines() if r"\label" in line}
    assert len(labels) == 101
    assert {r"\label{tab:results-results}", r"\label{tab:101-results-results}"} <= labels


def test_an_adversarial_set_stands_among_the_measured_attacks(kinds: dict[str, Path]) -> None:
    html = page([kinds["attack"], kinds["judge"]])
    table = html.partition('aria-label="How far each attack got"')[2].partition("</table>")[0]
    assert table.count("<tr>") == 3
    assert "– strong attack." in Tags(html).text  # below the table alone
    assert Tags(html).text.count("– strong attack.") == 2


@pytest.mark.parametrize(
    "defences",
    [
        {"collapse": {"within": 2, "keep": "last"}},
        {"collapse": None, "cap": {"share": 0.01, "reached": 0.02, "adaptive": False}},
    ],
)
def test_what_defences_of_a_store_keep_out_is_theirs_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], defences: dict
) -> None:
    def defended(body: dict) -> None:
        body.update(turned_away=50, **defences)
        honest = dict.fromkeys(HONEST, vars(SHARE))
        body["metrics"] |= honest
        for at in body["shares"]:
            at["natural_refused"] = 3
            at["metrics"] |= honest

    run = edit(make_poison(tmp_path / "run"), defended)
    print_poison(PoisonRecord.read(run), every=False)
    words = " ".join(capsys.readouterr().out.split())
    assert "the defences keep out 3 natural hubs and 50 of 9,000 clean documents" in words
    assert "hides 50" not in page([run])


def _leaking(body: dict) -> None:
    """A table whose training transcript gives samples away, and whose codes were not shown to."""
    (attacker,) = body["worlds"][0]["attackers"]
    attacker.update(dict.fromkeys(("ssim", "psnr", "gain")))
    whole = {**body["worlds"][0], "name": "transcript: codes and gradients"}
    whole["attackers"] = [{**attacker, "name": "neighbours"}]
    body["worlds"].append(whole)
    body["metrics"] |= {
        "reidentification_transcript": {"value": 54 / 70, "low": 0.656, "high": 0.863, "n": 70},
        "mse_transcript": {"value": 0.167, "low": 0.1, "high": 0.2, "n": 70},
        "mse_transcript_class_mean": {"value": 0.883, "low": 0.8, "high": 0.9, "n": 70},
    }
    body["metrics"].pop("ssim_codes")
    none = {"value": 0.01, "low": -0.02, "high": 0.04, "n": 9, "p": 0.6}
    body["differences"] |= {
        "reidentification_over_chance": none,
        "reidentification_transcript_over_chance": {
            **none,
            "value": 54 / 70 - 0.05,
            "low": 0.6,
            "high": 0.8,
        },
        "gain_codes": none,
        "gain_transcript": {**none, "value": -0.716, "low": -0.8, "high": -0.6},
    }
    body["protocol"] |= {"candidates": 20, "transcript_samples": 70}


def test_a_reconstruction_leads_with_what_leaks_most(tmp_path: Path) -> None:
    run = edit(make_inversion(tmp_path / "run"), _leaking)
    first, cost, codes, transcript, single = inversion_verdicts(InversionRecord.read(run))
    assert first == (
        "From all codes and gradients of the training, the attacker “neighbours” picks the true "
        "input among 20 of its class for 77.1 % (95 % interval 65.6 to 86.3 %) of 70 samples "
        "of the training rows, by chance 5.0 %: codes single out samples. Its reconstructions "
        "have MSE 0.167, the class mean 0.883."
    ).replace(" %", "\N{NO-BREAK SPACE}%")
    assert "points higher: embeddings less codes" in cost
    assert "the interval holds 0, so no leak beyond the class is shown" in codes
    assert "gains, in MSE below that of the class mean, 0.716" in transcript
    assert "0.600 to 0.800): above 0, so more than the class is given away" in transcript
    assert "were not shown to single out samples" in single
    html = page([run])
    assert "what is said below of convolutions, pictures and SSIM did not apply" in html
    assert "code-max: max_p Ham(h_p, o_ŷ): the party farthest from" in html
    assert "noise: party 0 sends noise." in html
    assert "neighbours: the mean of the attacker" in html


def test_a_detector_that_can_flag_nothing_is_said_to_be_off(tmp_path: Path) -> None:
    def off(body: dict) -> None:
        body["detectors"]["nearest"] |= {"threshold": 16.0, "highest": 16.0}

    edit(make_detect(tmp_path / "metrics.json").parent, off)
    record = DetectionRecord.read(tmp_path / "metrics.json")
    (line,) = (line for line in detection_verdicts(record) if "detector nearest" in line)
    assert "it is off, as it flags scores above 16 and no code scores above 16" in line
    assert sum("is off" in line for line in detection_verdicts(record)) == 1


def _compared(body: dict) -> None:
    """Codes that were compared single samples out; the reconstruction did not."""
    body["metrics"] |= {
        "reidentification": {"value": 0.309, "low": 0.255, "high": 0.37, "n": 9},
        "reidentification_by_code": {"value": 0.309, "low": 0.255, "high": 0.37, "n": 9},
        "reidentification_by_picture": {"value": 0.112, "low": 0.08, "high": 0.15, "n": 9},
    }


def test_a_reconstruction_names_the_comparison_of_codes_where_that_picked_the_inputs(
    tmp_path: Path,
) -> None:
    run = edit(make_inversion(tmp_path / "run"), _compared)
    first = inversion_verdicts(InversionRecord.read(run))[0]
    assert "an attacker who compares codes instead of reconstructions picks" in first
    assert "30.9" in first
    assert "query samples" in first
    assert "Its reconstructions" not in first


def test_tables_are_written_with_the_columns_that_are_named(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    drawn = draw([kinds["attack"]])
    write_tables(drawn, tmp_path / "few", columns=["psnr", "tmap"])
    files = sorted((tmp_path / "few").glob("*results*.csv"))
    heads = [file.read_text("utf-8").splitlines()[0] for file in files]
    assert "Run,t-MAP,t-MAP low,t-MAP high,PSNR (dB)" in heads
    assert not list((tmp_path / "few").glob("*threat*"))
    with pytest.raises(UsageError, match="no table of these runs has 'psn': did you mean 'psnr'"):
        write_tables(drawn, tmp_path / "none", columns=["psn"])
    with pytest.raises(UsageError, match="no table of these runs has 'foo'; known: "):
        write_tables(drawn, tmp_path / "none", columns=["foo"])
    with pytest.raises(UsageError, match="have no columns of named figures, got 'foo'; leave"):
        write_tables(draw([kinds["scan"]]), tmp_path / "none", columns=["foo"])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("ranks", "methods", "told"),
    [
        ((1, 1, 2), ("hag", "dhta", "hag"), "a and b hold best: t-MAP of a is 50.0 % (no interval) "
         "under hag. c holds least: t-MAP of c is 70.0 % (no interval) under hag."),
        ((1, 1, 1), ("hag", "noise", "hag"), "no victim can be told to hold better than another"),
        ((1, 2, 3), ("noise", "token-noise", "noise+x=1"), "so no victim is ranked."),
    ],
)  # fmt: skip
def test_a_suite_says_whose_figure_it_gives_and_ranks_nobody_by_noise(
    kinds: dict[str, Path], ranks: Sequence[int], methods: Sequence[str], told: str
) -> None:
    record = BenchmarkRecord.read(kinds["benchmark"])
    standing = [
        record.victims[0].model_copy(
            update={"victim": victim, "rank": rank, "method": method,
                    "metrics": {"tmap": Metric(0.5 + place / 10)}}
        )
        for place, (victim, rank, method) in enumerate(zip("abc", ranks, methods, strict=True))
    ]  # fmt: skip
    line = benchmark_verdicts(record.model_copy(update={"victims": standing}))[0]
    assert told in line.replace("\N{NO-BREAK SPACE}", " ")


def test_a_figure_that_no_table_has_is_refused_before_the_page_is_written(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(UsageError, match="did you mean 'psnr'"):
        render([kinds["attack"]], page, check=lambda drawn: expect_figures(drawn, ["psn"]))
    assert not page.exists()


def test_a_leaderboard_has_a_figure(kinds: dict[str, Path]) -> None:
    drawn = draw([kinds["benchmark"]])
    [(topic, drawing), *_] = drawn.drawings
    assert topic == "beside"
    assert "1. dpsh / dhta" in drawing.svg.decode()


@pytest.mark.parametrize("write", [write_tables, write_figures])
def test_files_come_all_or_none(
    kinds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: object,
) -> None:
    drawn = draw([kinds["defend"]])
    assert callable(write)
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="which exists"):
        write(drawn, tmp_path / "there")

    def full(path: Path, content: bytes) -> None:
        if path.name.startswith("02"):
            raise StorageError("cannot write: the disk is full")
        path.write_bytes(content)

    monkeypatch.setattr("advhash.reports.page.exports.write_bytes", full)
    with pytest.raises(StorageError, match="full"):
        write(drawn, tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_the_command_writes_page_tables_and_figures(kinds: dict[str, Path], tmp_path: Path) -> None:
    runs = [str(kinds[name]) for name in ("detect", "attack", "phase")]
    to = ["--tables", str(tmp_path / "t"), "--figures", str(tmp_path / "f")]
    command = ["report", *runs, "--out", str(tmp_path / "page.html"), *to, "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["runs"] == runs
    assert sorted(document["tables"]) == sorted(map(str, (tmp_path / "t").iterdir()))
    assert sorted(document["figures"]) == sorted(map(str, (tmp_path / "f").iterdir()))
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text == page([Path(run) for run in runs])
    again = CliRunner().invoke(app, command)
    assert "expected a new folder for --tables" in str(again.exception)
    same = CliRunner().invoke(app, ["report", runs[0], *to[:2][:1], "x", "--figures", "x"])
    assert "expected different places" in str(same.exception)


@pytest.mark.parametrize("raised", [TypeError("of ours"), KeyError("part"), ValueError("odd")])
def test_a_bug_on_a_run_of_this_process_keeps_its_traceback(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What anyone may have edited is told in one line."""

    def broken(*_: object) -> None:
        raise raised

    folder = make_detect(tmp_path / "detect.json")
    monkeypatch.setitem(KINDS, str(schema_of(folder)), broken)
    with pytest.raises(RunError, match="expected whole records"):
        draw([folder])
    with pytest.raises(type(raised)):
        draw([folder], foreign=False)


def test_a_bug_of_a_template_on_a_run_of_this_process_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_detect(tmp_path / "detect.json")
    (chapter,) = KINDS[str(schema_of(folder))]([folder], Pictures())
    lacking = replace(chapter, values={})
    monkeypatch.setitem(KINDS, str(schema_of(folder)), lambda *_: [lacking])
    with pytest.raises(RunError, match="a page cannot show"):
        draw([folder])
    with pytest.raises(UndefinedError):
        draw([folder], foreign=False)


def test_a_lifelong_run_is_counted_and_told_in_one_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_lifelong(LifelongRecord.read(make_lifelong(tmp_path / "run")), every=True)
    out = capsys.readouterr().out
    assert "dlcmh on toy, 1 order × 1 seed, 1 increment\n" in out
    (gain,) = (line for line in out.splitlines() if line.rstrip().endswith(" map_new_gain"))
    (time,) = (line for line in out.splitlines() if " increment_seconds_ratio" in line)
    assert "50.0 %  [40.0, 60.0]" in gain
    assert "50.0 %  [40.0, 60.0]" in time


@pytest.mark.parametrize(
    ("words", "columns"), [("bound", 4), ("the bound of the hash as it runs", 2)]
)
def test_a_legend_is_no_wider_than_its_figure(words: str, columns: int) -> None:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for number in range(4):
        axes.plot([0, 1], [0, number], label=f"{words} {number}")
    legend_below(figure, 4)
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    assert legend._ncols == columns
