"""`advhash certify --victim pdq`: what the record says of each picture, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.cli.following import is_perceptual
from advhash.errors import AdvhashError
from advhash.experiments.experiment import describe, resume, run
from advhash.experiments.least_change.config import LeastChangeConfig
from advhash.experiments.least_change.run import LeastChanges, judged, least_change_figures
from advhash.registry import VICTIMS
from advhash.reports.elements.pictures import Pictures
from advhash.reports.least_change import LeastChangeRecord, least_change_chapter, verdicts
from advhash.reports.page.render import page
from advhash.victims.perceptual import PDQ, PerceptualHash
from advhash.victims.perceptual.certificates import linear_hash

SIZES = ("bound", "real", "attack", "stored")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures of two sizes, one of them flat."""
    folder = tmp_path_factory.mktemp("photos")
    images = load_sample_images().images
    for place in range(29):
        left, high = 18 * place, 64 if place % 2 else 80
        pixels = images[place % 2][40 : 40 + high, left : left + 64]
        Image.fromarray(pixels).save(folder / f"{place:02}.png")
    Image.new("RGB", (64, 64), (120, 120, 120)).save(folder / "flat.png")
    return folder


def asked(photos: Path, **more: Any) -> LeastChangeConfig:
    data = {"name": "near_duplicates", "root": str(photos), "size": "stored"}
    return LeastChangeConfig.build({"victim": {"name": "pdq"}, "dataset": data, **more})


@pytest.fixture(scope="module")
def document(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("least") / "run"
    return run(LeastChanges(), asked(photos, threshold=31), out).document()


def test_each_picture_is_judged_as_it_is_stored(document: dict[str, Any], photos: Path) -> None:
    rows = {row["picture"]: row for row in document["pictures"]}
    assert len(rows) == 30
    for name in ("04.png", "05.png"):
        pixels = np.asarray(Image.open(photos / name))
        linear = linear_hash(PDQ(), *pixels.shape[:2])
        again, _ = judged(PDQ(), linear, pixels, 31)
        assert {key: rows[name][key] for key in again} == again
    assert {(row["height"], row["width"]) for row in rows.values()} == {(64, 64), (80, 64)}
    flat = rows.pop("flat.png")
    assert flat["half"] is False
    assert [flat[size] for size in SIZES] == [None] * 4
    assert document["stated"] == 29
    assert "tied_values" in [flag["name"] for flag in document["flags"]]
    for row in rows.values():
        assert row["real"] < row["bound"] <= row["attack"] <= 1.35 * row["bound"]
        assert row["real"] <= row["stored"] <= 2 * row["bound"] + 0.1  # one level is the least


def test_the_page_begins_with_the_least_and_the_greatest_change(document: dict[str, Any]) -> None:
    stored = {row["picture"]: row["stored"] for row in document["pictures"] if row["half"]}
    first, last = document["shown_changes"]
    for change, size in ((first, min), (last, max)):
        assert change["l2"] == pytest.approx(size(stored.values())) == stored[change["name"]]
        assert change["distance"] > 31
        folder = Path(document["run"]["folder"])
        clean, enlarged, changed = (_pixels(folder / file) for file in change["files"])
        assert np.abs(changed - clean).max() == change["linf"]
        assert np.abs(enlarged - 128).max() == min(10 * change["linf"], 127)
    page = (folder / "report.html").read_text("utf-8")
    assert page.index(f"{first['distance']} of 256 bits from its own hash") < page.index("<table")


def _pixels(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


def test_only_a_number_that_was_given_is_missed(photos: Path, document: dict[str, Any]) -> None:
    assert "fewer_queries" not in [flag["name"] for flag in document["flags"]]
    for more, queries in (({}, 30), ({"queries": 100}, 100), ({"queries": 5}, 5)):
        assert LeastChanges().plan(asked(photos, threshold=31, **more)).config.queries == queries


def test_figures_are_of_the_pictures(document: dict[str, Any]) -> None:
    stated = [row for row in document["pictures"] if row["half"]]
    for size in SIZES:
        median = document["metrics"][f"least_change_{size}"]
        assert median["value"] == pytest.approx(np.median([row[size] for row in stated]))
        assert median["low"] <= median["value"] <= median["high"]
        spread = document["spread"][f"least_change_{size}"]
        assert spread["least"] == min(row[size] for row in stated)
        assert spread["most"] == max(row[size] for row in stated)
        assert spread["least"] <= spread["low"] <= spread["high"] <= spread["most"]
    ratio = np.median([row["stored"] / row["bound"] for row in stated])
    assert document["metrics"]["stored_over_bound"]["value"] == pytest.approx(ratio)
    for at in document["levels"]:
        shares = {name: metric["value"] for name, metric in at["metrics"].items()}
        assert shares["holds_unrounded"] == np.mean([r["bound"] >= at["level"] for r in stated])
        assert shares["holds_as_run"] <= shares["holds_unrounded"]
        assert shares["leaves_stored"] <= 1 - shares["holds_as_run"]


def row_of(**sizes: float | None) -> dict[str, Any]:
    sizes = {"bound": 0.2, "real": 0.1, "attack": 0.2, "stored": 0.3, **sizes}
    return {"half": True, **sizes}


@pytest.mark.parametrize(
    ("sizes", "flag"),
    [
        ({"stored": 0.09}, "bound_broken"),
        ({"attack": 0.19}, "bound_broken"),
        ({"stored": 0.15}, "below_unrounded"),
        ({"real": 0.0}, "vacuous_bound"),
        ({"stored": None}, "not_left"),
        ({"half": False}, "tied_values"),
        ({}, None),
    ],
)
def test_doubts_are_flagged(sizes: dict[str, Any], flag: str | None) -> None:
    figures = least_change_figures([row_of(), row_of(**sizes)], 256, 0)
    assert [each["name"] for each in figures["flags"]] == ([] if flag is None else [flag])


def test_a_bound_of_nothing_has_no_ratio() -> None:
    figures = least_change_figures([row_of(), row_of(bound=0.0, real=0.0, attack=0.01)], 256, 0)
    ratio = figures["metrics"]["stored_over_bound"]
    assert (ratio["n"], ratio["value"]) == (1, pytest.approx(1.5))
    assert figures["metrics"]["least_change_bound"]["n"] == 2


def test_where_nothing_is_stated_the_page_says_so(document: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**row, "half": False, **dict.fromkeys(SIZES)} for row in document["pictures"]]
    told = {**document, "pictures": rows, **least_change_figures(rows, 256, 0)}
    file = tmp_path / "found.json"
    file.write_text(json.dumps(told), "utf-8")
    (statement,) = least_change_chapter(file, Pictures()).statements
    assert statement.lead.startswith("Nothing is stated for any of the pictures")
    assert "Nothing is stated" in page([file])


def test_certify_takes_pictures_in_a_folder_and_replays(photos: Path, tmp_path: Path) -> None:
    common = ["--queries", "4", "--json", "-q"]
    first = ["certify", "--victim", "phash", "--dataset", str(photos), "--threshold", "10"]
    done = CliRunner().invoke(app, [*first, *common, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    record = LeastChangeRecord.read(tmp_path / "run")
    assert record.document() == json.loads(done.stdout)
    assert (record.threshold, record.bits, len(record.pictures)) == (10, 64, 4)
    assert record.metrics["least_change_real"].value == 0
    again = ["certify", "--config", str(tmp_path / "run/config.toml"), "--json", "-q"]
    done = CliRunner().invoke(app, [*again, "--out", str(tmp_path / "again.json")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pictures"] == record.document()["pictures"]


def test_an_interrupted_run_keeps_its_blocks(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, calls = asked(photos, threshold=20, queries=15), 0
    assert describe(LeastChanges(), config)["cells"] == 2

    def stops(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 13:
            raise KeyboardInterrupt
        return judged(*arguments)

    monkeypatch.setattr("advhash.experiments.least_change.run.judged", stops)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(LeastChanges(), config, tmp_path / "run")
    assert f"`advhash least-change --resume {tmp_path}/run`" in stopped.value.__notes__[0]
    record = resume(tmp_path / "run")
    assert calls == 13 + 5  # the first block is kept
    assert len(record.document()["pictures"]) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--victim", "dhash"], "expected pdq or phash, .* got dhash; --sigma 0.25 certifies"),
        (["--victim", "pdq", "--threshold", "256"], "expected at most 255 bits"),
        (["--victim", "phash", "--bits", "49"], "expected an even number of bits"),
        (["--victim", "dpsh", "--threshold", "3"], "expected --victim pdq or phash without"),
        (["--victim", "pdq", "--sigma", "0.1", "--threshold", "3"], "without --sigma"),
        (["--victim", "pdq", "--radii", "0.5"], "no setting 'radii'"),
    ],
)
def test_what_has_no_exact_answer_is_refused_in_a_line(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["certify", *options, "--dry-run"])
    assert isinstance(done.exception, AdvhashError)
    assert (done.exception.exit_code, str(done.exception).count("\n")) == (2, 0)
    with pytest.raises(AdvhashError, match=message):
        raise done.exception


def test_a_perceptual_hash_that_is_to_be_smoothed_is(tmp_path: Path) -> None:
    options = ["--victim", "pdq", "--sigma", "0.1", "--set", "dataset.pictures=40", "--dry-run"]
    done = CliRunner().invoke(app, ["certify", *options, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["command"] == "certify"


def test_all_perceptual_hashes_are_known() -> None:
    kinds = {name: VICTIMS[name].build for name in VICTIMS.names()}
    for name, kind in kinds.items():
        config = {"victim": {"name": name}}
        assert is_perceptual(config) == issubclass(kind, PerceptualHash), name
    assert not is_perceptual({"victim": {"name": "nobody"}})


def test_a_checkpoint_of_a_perceptual_hash_has_the_exact_answer_too(tmp_path: Path) -> None:
    data = ["--dataset", "near_duplicates", "--set", "dataset.pictures=20"]
    asked = ["train", "--victim", "phash", *data, "--out", str(tmp_path / "kept"), "-q"]
    made = CliRunner().invoke(app, asked)
    assert made.exit_code == 0, made.output
    victim = ["--victim", str(tmp_path / "kept")]
    done = CliRunner().invoke(app, ["certify", *victim, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["command"] == "least-change"


def test_pictures_that_are_read_smaller_than_stored_are_named_and_flagged(
    photos: Path, tmp_path: Path, document: dict[str, Any]
) -> None:
    assert "shrunk_pictures" not in [flag["name"] for flag in document["flags"]]
    config = LeastChangeConfig.build(
        {
            "victim": {"name": "pdq"},
            "dataset": {"name": "near_duplicates", "root": str(photos), "size": 48},
            "threshold": 31,
            "queries": 2,
        }
    )
    record = run(LeastChanges(), config, tmp_path / "run")
    (flag,) = [flag for flag in record.flags if flag.name == "shrunk_pictures"]
    assert flag.level == "warning"
    assert "dataset.size=stored" in flag.message
    assert "picture, read at 48×48 pixels, not as stored." in verdicts(record)[0]
    as_stored = LeastChangeRecord.from_document(document)
    assert "29 pictures, each read at its own size." in verdicts(as_stored)[0]
