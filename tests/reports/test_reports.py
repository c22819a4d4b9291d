"""The report page, from small run folders made through the record model."""

from __future__ import annotations

import base64
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_scene import (
    HISTORY,
    HOSTILE,
    Tags,
    edit,
    make_inversion,
    make_judge,
    make_run,
)

from advhash.attacks.base import Knowledge
from advhash.errors import RunError, StorageError
from advhash.measures.intervals import Metric, holm, paired_difference
from advhash.measures.paired_runs import compare
from advhash.reports.attack.queries import load_queries, rival
from advhash.reports.attack.several_runs import findings
from advhash.reports.elements.chapters import KNOWLEDGE
from advhash.reports.elements.plots import curves, history_figures, interval_figure
from advhash.reports.elements.verdict import percent, run_labels, verdict
from advhash.reports.page.render import draw, page, render
from advhash.reports.record import SIBLINGS, Record


def record_of(folder: Path) -> Record:
    return Record.loads((folder / "metrics.json").read_text("utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def runs(tmp_path: Path, run: Path) -> list[Path]:
    """Targeted with a bound, targeted without one, untargeted."""

    def free(body: dict) -> None:
        body["budget"] = {"norm": "none", "eps": None, "text": "unbounded", "eight_bit": True}
        body["metrics"]["tmap"] = {"value": 0.88, "low": 0.86, "high": 0.9, "n": 9}

    return [
        run,
        edit(make_run(tmp_path / "free"), free),
        make_run(tmp_path / "untargeted", goal="untargeted"),
    ]


# --- the page -----------------------------------------------------------------------------------


def test_page_is_self_contained(runs: list[Path]) -> None:
    html = page(runs)
    parsed = Tags(html)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)
    assert set(re.findall(r"url\((.{12})", html)) <= {'"data:image/'}
    assert "@import" not in html
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_hostile_names_are_escaped(runs: list[Path]) -> None:
    html = page(runs)
    assert "<script" not in html.lower()
    assert html.count("&lt;script&gt;") > 10
    assert HOSTILE in Tags(html).text


def test_pictures_have_alt_texts_and_tables_have_captions(runs: list[Path]) -> None:
    tags = Tags(page(runs)).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) > 3 * 3 * 23
    assert all(attributes.get("alt") for attributes in pictures)
    assert [t for t, _ in tags].count("table") == [t for t, _ in tags].count("caption") == 4
    assert all(a.get("scope") in ("row", "col") for tag, a in tags if tag == "th")


def test_marks_do_not_depend_on_colour(run: Path) -> None:
    text = Tags(page([run])).text
    examples = record_of(run).examples
    shown = [item for one in examples for item in (*one.before, *one.after)]
    assert sum(item.relevant for item in examples[0].before) == 4  # its own class comes first
    assert sum(bool(item.target_relevant) for item in examples[0].after) == 4
    assert "Before: 4 of 10 relevant to the query" in text
    assert text.count("✓ query") == sum(item.relevant for item in shown) + 1  # and the legend
    assert text.count("◎ target") == sum(bool(item.target_relevant) for item in shown) + 1
    assert text.count("– neither") == 1 + sum(
        not item.relevant and not item.target_relevant for item in shown
    )


def test_verdict_numbers_are_those_of_the_record(run: Path) -> None:
    text = Tags(page([run])).text.replace("\xa0", " ")
    assert (
        "Between what clean queries get (t-MAP 23.4 %) and the best that any "
        "anchor code gets (90.1 %), the attack covers 79.6 % (95 % interval 70.1 to 85.2 %) of "
        "the way."
    ) in text
    assert "Strong attack" in text
    assert "with t-MAP 76.5 % (95 % interval 71.0 to 82.0 %)" in text


def test_untargeted_verdict_is_the_drop_of_map(runs: list[Path]) -> None:
    text = Tags(page(runs[2:])).text.replace("\xa0", " ")
    assert "MAP falls from 80.0 % (95 % interval 75.0 to 85.0 %) to 40.0 %" in text
    assert "That is 80.0 % of what the victim had above chance." in text
    assert "t-MAP" not in text


def test_null_metrics_render_as_a_dash(runs: list[Path]) -> None:
    def clear(body: dict) -> None:
        body["metrics"] = dict.fromkeys(body["metrics"])

    html = page([edit(runs[0], clear)])
    assert "No verdict" in html
    assert html.count('<td class="num">–</td>') > 8
    assert "None" not in Tags(html).text


@pytest.mark.parametrize(
    ("share", "word"),
    [
        (Metric(0.95, 0.9, 1.0, 9), "Nearly complete"),
        (Metric(0.3, 0.2, 0.4, 9), "Partial"),
        (Metric(0.1, 0.05, 0.2, 9), "Weak"),
        (Metric(0.1, -0.05, 0.2, 9), "No effect shown"),
        (Metric(-0.1, -0.2, -0.05, 9), "No effect shown"),
        (Metric(n=9), "No verdict"),
    ],
)
def test_words_follow_the_interval(run: Path, share: Metric, word: str) -> None:
    record = record_of(run)
    record.metrics["tmap_normalised"] = share
    judged = verdict(record)
    assert judged.word == word
    weak = word in ("Weak", "No effect shown")
    assert ("no proof of robustness" in judged.details[0]) is weak
    assert ("--method autohash." in judged.details[0]) is weak
    ensemble = record.attack.model_copy(update={"name": "autohash"})
    strongest = verdict(record.model_copy(update={"attack": ensemble}))
    assert ("no proof of robustness." in strongest.details[0]) is weak


def test_untargeted_effect_needs_intervals_apart(runs: list[Path]) -> None:
    record = record_of(runs[2])
    record.metrics["map_adversarial"] = Metric(0.78, 0.73, 0.83, 9)
    assert verdict(record).word == "No clear effect"
    record.metrics["map_adversarial"] = Metric(0.81, 0.8, 0.83, 9)
    assert verdict(record).word == "No effect shown"


def test_a_run_that_changed_nothing_says_so_first_and_shows_no_pairs(run: Path) -> None:
    def still(body: dict) -> None:
        body["metrics"]["linf"] = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 9}

    folder = edit(run, still)
    record = record_of(folder)
    judged = verdict(record)
    assert judged.word == "No picture changed"
    assert judged.lead.startswith(f"The attack changed 0 of {record.protocol.queries} pictures")
    text = Tags(page([folder])).text
    assert "the best for the attacker:" not in text
    assert "there is no pair to show" in text


def test_page_is_deterministic(runs: list[Path]) -> None:
    assert page(runs) == page(runs)


def test_each_picture_is_embedded_once(runs: list[Path]) -> None:
    rules = re.findall(r"background-image:url\(\"([^\"]+)", page(runs))
    assert len(rules) == len(set(rules)) > 20


def test_projection_loss_is_computed(runs: list[Path]) -> None:
    records = [record_of(folder) for folder in runs]
    found = " ".join(findings(records, run_labels(records))).replace("\xa0", " ")
    lost = percent((0.88 - 0.7654) / (0.88 - 0.2345)).replace("\xa0", " ")
    assert f"it loses {lost} of its effect over clean queries (88.0 % → 76.5 %" in found
    assert "the same generator reaches" in found
    assert "left the budget by 30.6/255 on average" in found
    assert "The two intervals lie apart." in found


def test_projection_of_another_generator_is_named_so(runs: list[Path]) -> None:
    records = [record_of(folder) for folder in runs]
    records[1].attack.fingerprint = "other"
    found = " ".join(findings(records, run_labels(records)))
    assert "A generator fitted for the run" in found
    assert "same generator" not in found


def test_blend_is_compared_at_the_same_l2_only(runs: list[Path]) -> None:
    records = [record_of(runs[0]), record_of(runs[1])]
    records[1].attack.name = "blend"
    records[1].metrics["tmap"] = Metric(0.5, 0.4, 0.72, 9)
    found = " ".join(findings(records, run_labels(records)))
    assert "At the same L2 (1.50 and 1.50)" in found
    assert "26.5 points more. The two intervals overlap" in found
    records[1].metrics["l2"] = Metric(3.0, 2.9, 3.1, 9)
    assert "no like-for-like rival" in " ".join(findings(records, run_labels(records)))


def test_runs_that_cannot_be_compared_are_named(runs: list[Path]) -> None:
    records = [record_of(folder) for folder in runs]
    assert not [text for text in findings(records, run_labels(records)) if "differ in" in text]
    records[1].victim.fingerprint = "other"
    (text,) = [text for text in findings(records, run_labels(records)) if "differ in" in text]
    assert "the victim" in text


def test_labels_tell_runs_apart(run: Path) -> None:
    one, other = record_of(run), record_of(run)
    assert run_labels([one]) == ["prosgan, L∞ 8/255"]
    other.run.id = "second"
    assert len(set(run_labels([one, other]))) == 2


def test_text_queries_render_without_pictures(tmp_path: Path) -> None:
    html = page([make_run(tmp_path / "text", pictures=False)])
    assert "The text of this query changes by 0.0314 at most in each value." in html
    assert "Clean query" not in html


def test_a_missing_or_damaged_picture_is_a_placeholder(run: Path) -> None:
    record = record_of(run)
    (run / str(record.examples[0].clean_picture)).unlink()
    (run / str(record.examples[1].clean_picture)).write_bytes(b"<svg onload=alert(1)>")
    html = page([run])
    assert html.count("picture missing") == 2
    assert "onload" not in html


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "samples/../../secret.png", "link"]
)
def test_a_picture_outside_the_run_folder_is_refused(run: Path, name: str) -> None:
    Image.new("RGB", (4, 4)).save(run.parent / "secret.png")
    (run / "link").symlink_to(run.parent / "secret.png")

    def change(body: dict) -> None:
        body["examples"][0]["clean_picture"] = name

    with pytest.raises(RunError, match="leaves it"):
        page([edit(run, change)])


def test_a_large_picture_is_reduced_for_the_page(run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    file = run / str(record_of(run).examples[0].clean_picture)
    Image.fromarray(noise).save(file)
    assert "data:image/jpeg" in page([run])
    assert len(page([run])) < file.stat().st_size


def test_damaged_records_are_refused(run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").write_text('{"schema": "advhash/attack/1"}')
    with pytest.raises(RunError, match="damaged"):
        page([run])
    with pytest.raises(RunError, match="no such folder"):
        page([tmp_path / "absent"])
    with pytest.raises(RunError, match="at least one"):
        page([])


# --- runs compared query by query ---------------------------------------------------------------


HARD = np.array([0.1, 0.3, 0.5, 0.6, 0.8, 0.9])  # six queries, from hard to easy


def with_queries(
    folder: Path, gain: npt.ArrayLike = 0.0, *, change: Callable[[dict], None] = lambda _: None
) -> Path:
    """Write `queries.parquet` to a run, and its means into the record.

    gain: of the headline figure over that of the hard and easy queries above
    """
    goal = record_of(folder).attack.goal
    main = "tmap" if goal == "targeted" else "map_adversarial"
    table: dict = {"query": [4, 0, 2, 1, 3, 5], "map:fused": np.full(6, 0.8)}
    if goal == "targeted":
        table["target"] = [[row % 3] for row in table["query"]]
    table[f"{main}:fused"] = (HARD + gain)[table["query"]]
    change(table)
    pq.write_table(pa.table(table), folder / "queries.parquet")

    def mean(body: dict) -> None:
        for name in (main, "map") if goal == "untargeted" else (main,):
            column = np.asarray(table[f"{name}:fused"], dtype=np.float64)
            body["metrics"][name] = {**body["metrics"][name], "value": float(np.nanmean(column))}

    return edit(folder, mean)


@pytest.fixture
def rivals(tmp_path: Path) -> list[Path]:
    """Three runs on the same queries; the second is a little better on each, the third the same."""
    better = np.array([0.05, 0.06, 0.04, 0.05, 0.07, 0.03])
    runs = [with_queries(make_run(tmp_path / "one"))]
    runs.append(with_queries(make_run(tmp_path / "two"), better))
    runs.append(with_queries(make_run(tmp_path / "three")))
    return runs


def compared(folders: list[Path]) -> list:
    records = [record_of(folder) for folder in folders]
    pairs = zip(folders, records, strict=True)
    return compare([rival(record, load_queries(folder, record)) for folder, record in pairs])


def section(html: str) -> str:
    """The text of “Compared pairwise”."""
    return Tags(html.partition('aria-labelledby="pairs"')[2].partition("</section>")[0]).text


def test_pairs_are_computed_from_the_queries(rivals: list[Path]) -> None:
    columns = []
    for folder in rivals:
        table = pq.read_table(folder / "queries.parquet").sort_by("query")
        columns.append(table["tmap:fused"].to_numpy())
    pairs = compared(rivals)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        assert pair.difference == paired_difference(columns[pair.first], columns[pair.second], 0)
    assert pairs[0].difference.value == pytest.approx(-0.05)
    assert pairs[0].difference.p == 2 / 2**6  # better on all six queries
    assert [pair.adjusted for pair in pairs] == holm([pair.difference.p for pair in pairs])


def test_the_page_shows_them(rivals: list[Path]) -> None:
    html = page(rivals)
    text = section(html)
    assert "allows for the 3 rows of this table" in text
    assert "−5.0" in text
    assert "0.0312" in text  # p
    assert "0.0938" in text  # adjusted for three
    assert "above 0 means that the first is the stronger attack" in text
    assert "In MAP" not in text
    assert "Left out" not in text
    assert "<script" not in html
    tags = [tag for tag, _ in Tags(html).tags]
    assert tags.count("table") == tags.count("caption") == 6  # with all runs and the leaderboard


def test_one_run_has_no_pairs_and_looks_as_before(rivals: list[Path]) -> None:
    html = page(rivals[:1])
    assert "Compared pairwise" not in html
    assert "<title>prosgan against dlcmh on toy – advhash report</title>" in html
    assert "How well dlcmh withstands prosgan (L∞ 8/255) on toy" in html


def test_a_page_over_several_runs_says_so(rivals: list[Path]) -> None:
    def other(body: dict) -> None:
        body["victim"]["name"] = HOSTILE

    html = page(rivals)
    assert "<title>3 runs against dlcmh on toy – advhash report</title>" in html
    assert "How well dlcmh withstands 3 attack runs on toy" in html
    assert "the strongest bounded attack of 3 runs" in html
    text = Tags(page([rivals[0], edit(rivals[1], other)])).text
    assert f"How well dlcmh and {HOSTILE} withstand 2 attack runs on toy" in text


def test_a_page_leads_with_the_strongest_run_that_has_a_bound(runs: list[Path]) -> None:
    def weaker(body: dict) -> None:
        body["metrics"]["tmap"] |= {"value": 0.3, "low": 0.28, "high": 0.32}
        body["budget"] |= {"eps": 2 / 255, "text": "L∞ 2/255"}

    free, bounded = runs[1], runs[0]
    weak = edit(make_run(free.parent / "weak"), weaker)
    for given in ([free, weak, bounded], [weak, bounded, free]):
        text = Tags(page(given)).text
        assert "This is prosgan, L∞ 8/255, the strongest bounded attack of 3 runs." in text
        assert text.index("prosgan, L∞ 8/255: 3 examples") < text.index("prosgan, L∞ 2/255: 3")
    assert (
        "the first of 2 runs" in Tags(page([free, edit(make_run(free.parent / "2"), _free)])).text
    )
    judged = Tags(page([weak, bounded, make_judge(free.parent / "judged")])).text
    assert "the strongest bounded attack of 2 runs. All runs" in judged  # of those compared


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("victim", {"fingerprint": "99"}),
        ("dataset", {"fingerprint": "99"}),
        ("attack", {"goal": "untargeted"}),
        ("protocol", {"top_k": 5}),
    ],
)
def test_runs_of_several_tasks_have_no_strongest_one(run: Path, part: str, change: dict) -> None:
    def other(body: dict) -> None:
        body["attack"]["name"] = "rival"
        body[part] |= change

    rival = edit(make_run(run.parent / "rival"), other)
    for given, name in (([run, rival], "prosgan"), ([rival, run], "rival")):
        text = Tags(page(given)).text
        assert "strongest" not in text.partition("All runs")[0]
        assert re.search(rf"This is {name}.*, the first of 2 runs\.", text)


def _free(body: dict) -> None:
    body["budget"] = {"norm": "none", "eps": None, "text": "unbounded", "eight_bit": True}


def test_pictures_come_before_tables(run: Path) -> None:
    html = page([run])
    assert html.index('class="triple"') < html.index("<table")
    assert html.index('id="examples"') < html.index('id="threat"')


@pytest.mark.parametrize(
    ("psnr", "words"), [(41.0, "hard to see"), (33.0, "visible on a close look"), (22.0, "plainly")]
)
def test_the_verdict_says_what_is_seen_and_what_a_file_leaves(
    run: Path, psnr: float, words: str
) -> None:
    def saved(body: dict) -> None:
        body["metrics"]["psnr"]["value"] = psnr
        after = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 6}
        body["metrics"] |= {"tmap_jpeg75": after, "tmap_normalised_jpeg75": after}

    text = " ".join(verdict(record_of(edit(run, saved))).details).replace("\N{NO-BREAK SPACE}", " ")
    assert f"8.0/255 on average, PSNR {psnr:.1f} dB: {words}" in text
    assert "JPEG 75, the attack covers 25.0 % (95 % interval 20.0 to 30.0 %) of the way." in text


def test_a_curve_over_the_budget_starts_unattacked_and_shows_the_ceiling(run: Path) -> None:
    def more(body: dict) -> None:
        body["budget"] |= {"eps": 16 / 255, "text": "L∞ 16/255"}

    other = edit(make_run(run.parent / "more"), more)
    [drawing] = [one for _, one in draw([run, other]).drawings if "against ε" in one.alt]
    assert b"ceiling" in drawing.svg
    marks = re.findall(r"<use [^>]*", drawing.svg.decode())
    assert len({mark for mark in marks if "#0072b2" in mark}) >= 3  # 0, 8 and 16


def test_figures_follow_a_dark_page(run: Path) -> None:
    drawing = draw([run]).drawings[0][1]
    shown = base64.b64decode(drawing.uri.partition(",")[2]).decode()
    dark = re.search(r"@media \(prefers-color-scheme:dark\)\{(.*?)</style>", shown)
    assert dark is not None
    for colour in set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawing.svg.decode())):
        assert colour in dark[1], colour
    assert b"prefers-color-scheme" not in drawing.svg  # a file is for paper


def test_only_runs_of_the_same_task_are_paired(rivals: list[Path]) -> None:
    def victim(body: dict) -> None:
        body["victim"]["fingerprint"] = "other"

    def targets(table: dict) -> None:
        table["target"] = [[2]] * 6

    def queries(table: dict) -> None:
        table["query"] = [4, 0, 2, 1, 3, 5][::-1]
        table["target"] = [[row % 3] for row in table["query"]]

    assert len(compared(rivals)) == 3
    with_queries(rivals[2], change=queries)  # the same queries in another order
    assert len(compared(rivals)) == 3
    with_queries(rivals[2], change=targets)
    assert [(pair.first, pair.second) for pair in compared(rivals)] == [(0, 1)]
    edit(rivals[1], victim)
    assert compared(rivals) == []
    assert "No paired comparison is possible" in section(page(rivals))


def test_other_queries_are_not_paired(rivals: list[Path]) -> None:
    def others(table: dict) -> None:
        table["query"] = [9, 0, 2, 1, 3, 5]
        table["tmap:fused"] = HARD

    with_queries(rivals[1], change=others)
    assert [(pair.first, pair.second) for pair in compared(rivals)] == [(0, 2)]


def test_a_query_without_a_figure_is_left_out_of_its_pairs(rivals: list[Path]) -> None:
    def hole(table: dict) -> None:
        table["tmap:fused"] = [None, *table["tmap:fused"][1:]]

    with_queries(rivals[0], change=hole)
    assert [pair.difference.n for pair in compared(rivals)] == [5, 5, 6]


def missing(file: Path) -> None:
    file.unlink()


def broken(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def short(file: Path) -> None:
    pq.write_table(pq.read_table(file).slice(1), file)


def without_column(file: Path) -> None:
    pq.write_table(pq.read_table(file).drop_columns(["tmap:fused"]), file)


def twice(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "query", pa.array([0, 0, 2, 1, 3, 5])), file)


def words(file: Path) -> None:
    table = pq.read_table(file)
    column = pa.array([HOSTILE] * 6)
    place = table.schema.names.index("tmap:fused")
    pq.write_table(table.set_column(place, "tmap:fused", column), file)


def no_target(file: Path) -> None:
    table = pq.read_table(file)
    column = pa.array([None] * 6, pa.list_(pa.int64()))
    pq.write_table(table.set_column(table.schema.names.index("target"), "target", column), file)


def of_another_run(file: Path) -> None:
    table = pq.read_table(file)
    place = table.schema.names.index("tmap:fused")
    pq.write_table(table.set_column(place, "tmap:fused", pa.array(HARD / 2)), file)


def outside(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent.parent / "one" / "queries.parquet")


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing, "a run folder without it"),
        (outside, "a run folder without it"),
        (folder, "a run folder without it"),
        (broken, "got a damaged one"),
        (short, "5 queries, 6 in the record"),
        (without_column, "no column 'tmap:fused'"),
        (twice, "a query stands in it twice"),
        (words, "got a damaged one"),
        (no_target, "got a damaged one"),
        (of_another_run, "not that of the record"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damaged_queries_leave_a_page_without_that_run_in_pairs(
    rivals: list[Path], damage: Callable[[Path], None], said: str
) -> None:
    damage(rivals[2] / "queries.parquet")
    with pytest.raises(RunError, match=r"queries\.parquet") as caught:
        load_queries(rivals[2], record_of(rivals[2]))
    assert "\n" not in str(caught.value)
    html = page(rivals)
    text = section(html)
    assert said in text
    assert "allows for the 1 row of this table" in text
    assert "<script" not in html


def test_sentences_give_the_paired_difference(rivals: list[Path]) -> None:
    def free(body: dict) -> None:
        body["budget"] = {"norm": "none", "eps": None, "text": "unbounded", "eight_bit": True}

    def blend(body: dict) -> None:
        body["attack"]["name"] = "blend"

    edit(rivals[1], free)
    edit(rivals[2], blend)
    records = [record_of(run) for run in rivals]
    pairs = compared(rivals)
    found = findings(records, run_labels(records), pairs)
    (lost,) = [text.replace("\xa0", " ") for text in found if "Trained without" in text]
    interval = f"{-100 * pairs[0].difference.high:.1f} to {-100 * pairs[0].difference.low:.1f}"
    assert lost.endswith(
        f"On the same 6 queries the difference is 5.0 points (95 % interval {interval})."
    )
    (same,) = [text for text in found if "At the same L2" in text and "L∞ 8/255” reaches" in text]
    assert "the interval does not lie above zero, so their order is not settled" in same
    assert "intervals" not in " ".join(found)


def test_an_untargeted_effect_is_judged_query_by_query(tmp_path: Path) -> None:
    """The two intervals overlap, and yet every query loses a little."""

    def overlapping(body: dict) -> None:
        body["metrics"]["map"] = {"value": 0.8, "low": 0.5, "high": 0.9, "n": 6}
        body["metrics"]["map_adversarial"] |= {"low": 0.4, "high": 0.85}

    def little(table: dict) -> None:
        table["map:fused"] = table["map_adversarial:fused"] + np.linspace(0.05, 0.1, 6)

    run = edit(make_run(tmp_path / "run", goal="untargeted"), overlapping)
    with_queries(run, change=little)
    text = Tags(page([run])).text.replace("\xa0", " ")
    assert "Query by query, that is 7.5 points (95 % interval 6." in text
    assert "Partial attack" in text
    (run / "queries.parquet").unlink()
    assert "The two intervals overlap, so no clear effect is shown." in page([run])

    def mixed(table: dict) -> None:
        table["map:fused"] = table["map_adversarial:fused"] + [0.3, -0.2, 0.2, -0.2, 0.1, 0.0]

    with_queries(run, change=mixed)
    assert "The interval does not lie above zero, so no clear effect is shown." in page([run])


# --- writing ------------------------------------------------------------------------------------


def test_render_writes_the_page(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    render(runs, out)
    assert out.read_text("utf-8") == page(runs)
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_leaves_no_half_page(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    out = tmp_path / "report.html"

    def fail(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(number, "refused")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StorageError, match="cannot write") as caught:
        render([run], out)
    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run"]


def test_a_folder_as_output_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        render([run], tmp_path)


# --- figures ------------------------------------------------------------------------------------


def test_curves_are_the_numbers_of_the_history() -> None:
    (curve,) = curves(HISTORY)
    assert (curve.column, curve.counter) == ("loss", "epoch")
    assert curve.y == tuple(2.0**-epoch for epoch in range(9))


def test_figures_take_hostile_and_odd_text() -> None:
    assert len(history_figures(HISTORY)) == 1
    assert history_figures([]) == []
    assert history_figures([{"phase": "a", "epoch": 1.0}]) == []
    odd: list[dict[str, float | str]] = [{"phase": "日本 $x", "_hidden": 1.0, "$": -1.0}]
    assert len(history_figures(odd)) == 1


def test_no_figure_without_a_value() -> None:
    assert interval_figure([], "t-MAP") is None


def test_whatever_an_attacker_can_have_is_told_in_plain_words() -> None:
    (known,) = get_args(Knowledge)
    assert set(KNOWLEDGE) == set(get_args(known))


@pytest.mark.parametrize(
    "run", [{}, {"run": None}, *({"run": {"folder": folder}} for folder in (3, "", ".."))]
)
def test_runs_of_several_radii_lie_below_their_folder(tmp_path: Path, run: dict) -> None:
    body = {"schema": SIBLINGS, "command": "attack", "report": "report.html", "runs": [run]}
    (tmp_path / "metrics.json").write_text(json.dumps(body))
    with pytest.raises(RunError, match="the folder of each run"):
        page([tmp_path])


def test_parts_of_a_record_that_do_not_fit_together_are_one_line(tmp_path: Path) -> None:
    folder = edit(make_inversion(tmp_path / "run"), lambda body: body["bits"][0]["means"].pop())
    with pytest.raises(RunError, match="whose parts do not fit together") as got:
        page([folder])
    assert "\n" not in str(got.value)


def test_figures_after_a_file_stand_beside_those_without(tmp_path: Path) -> None:
    plain, filed = make_run(tmp_path / "plain"), make_run(tmp_path / "filed")
    assert "After a file" not in page([plain])
    document = json.loads((filed / "metrics.json").read_text())
    document["metrics"]["tmap_jpeg75"] = vars(Metric(0.3217, 0.3, 0.34, 9))
    (filed / "metrics.json").write_text(json.dumps(document))
    text = page([plain, filed])
    table = text[text.index("as they come back from a file") :].split("</table>")[0]
    assert "t-MAP after JPEG 75" in table
    assert "32.2" in table
    assert table.count("76.5") == 2  # of both runs as they are


def test_words_in_backticks_are_code_and_settings_stay_whole(run: Path) -> None:
    def change(body: dict) -> None:
        flag = {"name": "odd", "level": "info", "message": "add `--top-k 5` where 1 < 2"}
        body["flags"] = [flag]
        body["attack"]["deviations"] = ["`steps` <b>are</b> fewer"]
        body["attack"]["name"] = "p2p+steps=2+learning_rate=0.1"

    html = page([edit(run, change)])
    assert "add <code>--top-k 5</code> where 1 &lt; 2" in html
    assert "<code>steps</code> &lt;b&gt;are&lt;/b&gt; fewer" in html
    assert "`" not in Tags(html).text
    assert "p2p+<wbr>steps=2+<wbr>learning_rate=0.1" in html


def test_runs_on_own_folders_are_told_apart_by_their_names(runs: list[Path]) -> None:
    for run, place in zip(runs[:2], ("holidays", "garden"), strict=True):

        def change(body: dict, place: str = place) -> None:
            body["dataset"] |= {"name": "folder", "settings": {"root": f"/home/kim/{place}"}}
            body["attack"]["name"], body["budget"]["text"] = "dhta", "L∞ 8/255"

        edit(run, change)
    records = [record_of(run) for run in runs[:2]]
    assert run_labels(records) == ["dhta, L∞ 8/255, holidays", "dhta, L∞ 8/255, garden"]
    html = page(runs[:2])
    title = html[html.index("<title>") : html.index("</title>")]
    assert "on holidays and garden" in title
    assert "on folder" not in html
