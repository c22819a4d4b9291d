"""`advhash certify`: the document says what the certificate says, and what the hash is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.codes.hamming import distances
from advhash.defenses.wrappers.smoothing import Smoothing, certify
from advhash.errors import AdvhashError
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.certify.config import CertifyConfig
from advhash.experiments.certify.run import BLOCK, Certification
from advhash.experiments.config import TrainConfig
from advhash.experiments.experiment import describe, resume, run
from advhash.experiments.prepare.hardened import prepare
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import export_checkpoint
from advhash.reports.certificates import CertificateRecord, certificate_chapter
from advhash.reports.elements.pictures import Pictures
from advhash.reports.page.render import page

VICTIM = {"name": "dpsh", "bits": 12, "epochs": 2}
DATA = {"name": "digits", "size": 16}
COMMAND = [
    *("certify", "--victim", "dpsh", "--bits", "12", "--set", "victim.epochs=2"),
    *("--set", "dataset.size=16", "--sigma", "0.1", "--samples", "150", "--queries", "8"),
    *("--radii", "0.05,0.15,0.9", "--json", "-q"),
]


def certified(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document of a run."""
    return run(Certification(), CertifyConfig.build(asked), folder / "run").document()


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("certify") / "found.json"
    result = CliRunner().invoke(app, [*COMMAND, "--out", str(out)])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert json.loads(out.read_text("utf-8")) == found
    return found


def test_the_document_says_what_the_certificate_says(document: dict[str, Any]) -> None:
    trained = prepare(TrainConfig.build({"victim": VICTIM, "dataset": DATA}))
    victim, data = Smoothing(sigma=0.1).wrap(trained.victim), trained.data
    batch = data.query.rows(choose_queries(data.query, 8, derive_seed(0, "queries")))
    found = certify(
        victim,  # type: ignore[arg-type]
        batch.inputs["image"],
        samples=150,
        seed=derive_seed(0, "certificate"),
    )
    far = distances(found.codes, victim.database_codes(data, "image"))
    mine = batch.labels.numpy().astype(int) @ data.database.labels.numpy().T.astype(int) > 0
    for one in document["radii"]:
        held = found.radii > one["radius"]
        values = {name: metric["value"] for name, metric in one["metrics"].items()}
        assert values["bits_certified"] == pytest.approx(held.sum(axis=1).mean())
        assert values["flips_bound"] == pytest.approx(12 - values["bits_certified"])
        assert values["bits_served"] <= values["bits_certified"]
        assert values["recall_served"] <= values["recall_certified"]
        loose = far + (~held).sum(axis=1)[:, None] <= 3  # counts a bit that differs twice
        least = np.mean([(loose & mine)[row].sum() / mine[row].sum() for row in range(8)])
        assert least <= values["recall_certified"] <= document["metrics"]["recall_clean"]["value"]
    shares = [one["metrics"]["bits_certified"]["value"] for one in document["radii"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 == shares[-1] < shares[0]
    clean = (far <= 3) & ~mine
    expected = np.mean([clean[row].sum() / (~mine)[row].sum() for row in range(8)])
    assert document["metrics"]["irrelevant_clean"]["value"] == pytest.approx(expected)


def test_a_page_shows_what_the_command_wrote(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps(document), "utf-8")
    record = CertificateRecord.read(file)
    assert record.document() == document
    chapter = certificate_chapter(file, Pictures())
    assert len(chapter.statements[0].more) == len(document["radii"]) == 3
    assert [flag.name for _, flag in chapter.flags] == [one["name"] for one in document["flags"]]
    assert "L2 0.05" in page([file])


def test_a_folder_holds_the_same_and_replays(document: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*COMMAND[:-2], "-q", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert f"report: {tmp_path}/run/report.html" in result.stdout.splitlines()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.toml", "env.json", "metrics.json", "report.html"}
    assert (tmp_path / "run/report.html").read_text("utf-8") == page([tmp_path / "run"])
    again = ["certify", "--config", str(tmp_path / "run/config.toml"), "--json", "-q"]
    result = CliRunner().invoke(app, [*again, "--out", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    replayed = json.loads(result.stdout)
    assert replayed["run"]["folder"] == str(tmp_path / "again")
    assert document["run"] is None
    for name in ("metrics", "radii", "codes", "smoothing", "within", "database", "flags"):
        assert replayed[name] == document[name]


def test_blocks_of_queries_have_the_certificates_of_all(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "victim": VICTIM, "dataset": DATA, "sigma": 0.1,
        "queries": 2 * BLOCK + 1, "samples": 60, "radii": [0.05],
    }  # fmt: skip
    assert describe(Certification(), CertifyConfig.build(asked))["cells"] == 1 + 3
    found = certified(asked, tmp_path)
    trained = prepare(TrainConfig.build({"victim": VICTIM, "dataset": DATA}))
    victim, data = Smoothing(sigma=0.1).wrap(trained.victim), trained.data
    rows = choose_queries(data.query, 2 * BLOCK + 1, derive_seed(0, "queries"))
    images = data.query.rows(rows).inputs["image"]
    whole = certify(victim, images, samples=60, seed=derive_seed(0, "certificate"))  # type: ignore[arg-type]
    bits = whole.held(0.05).sum(axis=1)
    assert found["radii"][0]["metrics"]["bits_certified"]["value"] == bits.mean()
    more = {**asked, "radii": [0.02, 0.05], "level": 0.1, "within": 4}
    assert describe(Certification(), CertifyConfig.build(more))["cells_done"] == 4  # radii are free


def test_an_interrupted_file_says_the_command_that_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"victim": VICTIM, "dataset": DATA, "sigma": 0.11, "queries": 20, "samples": 20}
    file, calls = tmp_path / "found.json", 0

    def stops(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return certify(*arguments, **keywords)

    monkeypatch.setattr("advhash.experiments.certify.run.certify", stops)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(Certification(), CertifyConfig.build(asked), file)
    assert f"`advhash certify --resume {file}`" in stopped.value.__notes__[0]
    assert [one.name for one in tmp_path.iterdir()] == ["found.json.partial"]
    record = resume(file)
    assert calls == 3
    assert [one.name for one in tmp_path.iterdir()] == ["found.json"]
    assert json.loads(file.read_text("utf-8")) == record.document()


def test_a_hash_that_the_noise_destroys_is_flagged(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "victim": VICTIM, "dataset": DATA, "sigma": 5.0, "votes": 1,
        "queries": 8, "samples": 20, "radii": [0.05],
    }  # fmt: skip
    found = certified(asked, tmp_path)
    assert "weak_victim" in [flag["name"] for flag in found["flags"]]


def test_a_radius_that_nothing_reaches_is_flagged(document: dict[str, Any]) -> None:
    assert "radius_out_of_reach" in [flag["name"] for flag in document["flags"]]
    most = document["largest_radius"]
    assert 0.15 < most < 0.9
    assert document["within"] == 3


def test_codes_that_a_defence_collapsed_are_compared_with_the_undefended_ones(
    tmp_path: Path,
) -> None:
    """Smoothing leaves what noise training had collapsed: compared with that, nothing was lost."""
    defense = {"name": "noise", "epochs": 12, "learning_rate": 0.01, "sigma": 0.1}
    asked: dict[str, Any] = {
        "victim": VICTIM, "dataset": DATA, "defense": defense,
        "sigma": 0.1, "queries": 4, "samples": 60, "radii": [0.05],
    }  # fmt: skip
    found = certified(asked, tmp_path)
    plain = prepare(TrainConfig.build({"victim": VICTIM, "dataset": DATA})).card["codes"]["image"]
    distinct = {name: one["distinct"] for name, one in found["codes"].items()}
    assert distinct["undefended"] == plain["distinct"]
    assert distinct["smoothed"] < distinct["undefended"] / 4
    assert distinct["smoothed"] >= distinct["unsmoothed"] / 4
    assert "collapsed_codes" in [flag["name"] for flag in found["flags"]]


def test_a_smoothed_checkpoint_keeps_its_noise(tmp_path: Path) -> None:
    defense = {"name": "smoothing", "sigma": 0.2, "votes": 3}
    trained = prepare(TrainConfig.build({"victim": VICTIM, "dataset": DATA, "defense": defense}))
    folder = export_checkpoint(trained, tmp_path / "smooth")
    asked: dict[str, Any] = {
        "victim": {"name": str(folder)},
        "queries": 1,
        "samples": 20,
        "radii": [0.1],
    }
    found = certified(asked, tmp_path)
    assert found["smoothing"] == {"sigma": 0.2, "votes": 3, "seed": 0}
    assert found["queries"] == 1  # a batch of one
    with pytest.raises(AdvhashError, match="smoothed already"):
        certified({**asked, "sigma": 0.1}, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected --victim"),
        (["--victim", "hashvfl"], "expected a victim of images"),
        (["--victim", "dpsh", "--defense", "smoothing", "--sigma", "0.2"], "smoothed already"),
        (["--victim", "dpsh", "--radii", "0.5,x"], "--radii: expected a number above 0, got 'x'"),
        (["--victim", "dpsh", "--radii", "0"], "expected a number above 0"),
        (["--victim", "dpsh", "--sigma", "0"], "expected a number above 0"),
        (["--victim", "dpsh", "--alpha", "1"], "above 0 and below 1"),
        (["--victim", "dpsh", "--database", "text"], "--database: expected one of image"),
        (["--victim", "dpsh", "--within", "33"], "at most 32 bits, got 33"),
        (["--victim", "dpsh", "--out", __file__], "expected a new folder for --out"),
        (["--victim", "dpsh", "--out", "there.json"], "expected a new file for --out"),
        (["--victim", "dpsh", "--out", f"{__file__}/a.json"], "can be written for --out"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_training(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", None)
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("{}")
    result = CliRunner().invoke(app, ["certify", *options, "-q"])
    assert isinstance(result.exception, AdvhashError), result.exception
    assert result.exception.exit_code == 2
    assert message in str(result.exception)
