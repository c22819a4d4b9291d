"""`advhash transfer`: the source × target matrix, from the command to the page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import command
from killed import killed_when
from PIL import Image

from advhash.attacks.gradient.targeted import DHTA
from advhash.cli import app
from advhash.codes.packed import HashCodes
from advhash.data.load import load_dataset
from advhash.errors import UsageError
from advhash.experiments.attack.record import Outcome
from advhash.experiments.transfer.config import TransferConfig
from advhash.experiments.transfer.run import Transfer
from advhash.victims.image.csq import CSQ

VICTIMS = "dpsh+epochs=2,dpsh+epochs=2+bits=16,dpsh+epochs=2+seed=5"
VICTIMS_LABELLED = ["dpsh+epochs=2", "dpsh+epochs=2+bits=16", "dpsh+seed=5+epochs=2"]
FAST = ["--dataset", "digits", "--set", "dataset.size=16", "--queries", "24", "-q"]
EPS = ["--eps", "16/255"]
PLANNED = ("--dry-run", "--json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("transfer") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            ["advhash", "transfer", "--victims", VICTIMS, "--methods", "dhta+steps=6,noise",
             *FAST, *EPS, "--out", str(folder)],
        )  # fmt: skip
        app.main()  # ends with SystemExit where it fails
    return folder, json.loads((folder / "metrics.json").read_text())


def cells(document: dict[str, Any], method: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(c["source"], c["target"]): c for c in document["cells"] if c["method"] == method}


def test_every_method_is_judged_from_every_source_on_every_target(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    labels = [victim["label"] for victim in finished[1]["victims"]]
    assert len(labels) == 3
    for method in ("dhta+steps=6", "noise"):
        assert set(cells(finished[1], method)) == {(a, b) for a in labels for b in labels}


def test_the_diagonal_is_what_attack_measures(
    finished: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    code, out, _ = command(
        capsys, "attack", "--victim", "dpsh", "--set", "victim.epochs=2", "--method",
        "dhta", "--set", "attack.steps=6", *FAST, *EPS, "--json", "--out", str(tmp_path / "a"),
    )  # fmt: skip
    assert code == 0
    alone = json.loads(out)
    label = finished[1]["victims"][0]["label"]
    cell = cells(finished[1], "dhta+steps=6")[label, label]
    for name in ("tmap", "tmap_clean", "tmap_normalised", "map_adversarial"):
        assert cell["metrics"][name] == alone["metrics"][name]


def test_the_page_begins_with_moved_queries_and_what_comes_of_them_elsewhere(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = finished
    labels = [victim["label"] for victim in document["victims"]]
    queries = pq.read_table(folder / "queries.parquet").to_pylist()
    assert [change["rank"] for change in document["shown_changes"]] == [
        "its best query", "its middle query",
    ]  # fmt: skip
    for change in document["shown_changes"]:
        assert (change["method"], change["source"]) == ("dhta+steps=6", labels[0])
        assert 0 < change["linf"] <= 16
        assert [at["target"] for at in change["precision"]] == labels
        clean, _, changed = (_pixels(folder / file) for file in change["files"])
        assert np.abs(changed - clean).max() == change["linf"]
    best = document["shown_changes"][0]["precision"][0]
    own = [
        row for row in queries
        if (row["method"], row["source"], row["target"]) == ("dhta+steps=6", labels[0], labels[0])
    ]  # fmt: skip
    gained = [row["tmap"] - row["tmap_clean"] for row in own]
    assert best["after"] - best["before"] == pytest.approx(max(gained))
    page = (folder / "report.html").read_text("utf-8")
    assert page.index("average precision for the target") < page.index("<table")


def _pixels(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


ALL = ("transfer", "--victims", VICTIMS, "--methods", "dhta+steps=6,noise", *FAST, *EPS)


def test_an_interrupted_run_goes_on_with_the_same_command(
    finished: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    out = tmp_path / "again"
    arguments = (*ALL, "--out", str(out))
    with monkeypatch.context() as patch:
        patch.setattr("advhash.reports.page.render.render", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError) as stopped:
            command(capsys, *arguments)
    assert f"`advhash transfer --resume {out}`" in stopped.value.__notes__[0]
    assert out.with_name("again.partial").is_dir()
    other = ["dhta+steps=5,noise" if one == "dhta+steps=6,noise" else one for one in arguments]
    code, _, told = command(capsys, *other)
    assert code != 0
    assert "the same command with other settings" in told
    monkeypatch.setattr(DHTA, "run", lambda *_: 1 / 0)  # all batches are there
    assert command(capsys, *arguments)[0] == 0
    cells_again = json.loads((out / "metrics.json").read_text())["cells"]
    assert cells_again == finished[1]["cells"]


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_killed_run_is_resumed(
    executor: str,
    finished: tuple[Path, dict[str, Any]],
    session_cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """SIGKILL once some batches are done, then the very command that an interrupt advises."""
    out, small = tmp_path / "run", ("--set", "protocol.batch_size=4")
    begun = session_cache / "unfinished" / "transfer"

    def results() -> list[Path]:
        found = (session_cache / "transfer").glob("*/result.json")
        return [file for file in found if not file.parent.name.startswith(".")]

    killed_when(
        [sys.executable, "-m", "advhash", *ALL, *small, "--out", str(out)],
        lambda: any(begun.rglob("*.safetensors")),
        os.environ,
    )
    assert not out.exists()
    kept = 6 * len(results()) + len(list(begun.rglob("*.safetensors")))
    assert kept
    made, real = [], DHTA.run
    with monkeypatch.context() as patch:
        patch.setattr(DHTA, "run", lambda *given: [made.append(given), real(*given)][1])
        code, _, told = command(capsys, "transfer", "--resume", out, "--executor", executor, "-q")
    assert code == 0, told
    assert len(made) == (3 * 6 - kept if executor == "inline" else 0)  # no batch is made twice
    assert not any(begun.rglob("*.safetensors"))
    assert not results()  # the finished run has taken them over
    calm = tmp_path / "calm"
    assert command(capsys, *ALL, *small, "--out", str(calm))[0] == 0
    found, wanted = (json.loads((one / "metrics.json").read_text()) for one in (out, calm))
    for name in ("cells", "metrics", "flags", "victims", "methods", "protocol"):
        assert found[name] == wanted[name], name
    for name in ("queries.parquet", "config.toml"):
        assert (out / name).read_bytes() == (calm / name).read_bytes()


def test_a_dry_run_tells_every_cell_and_trains_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", lambda *_: 1 / 0)
    out = tmp_path / "run"
    code, text, told = command(capsys, *ALL, "--out", str(out), "--dry-run", "--json")
    assert code == 0, told
    plan = json.loads(text)
    assert plan["cells"] == 6
    assert plan["methods"]["dhta+steps=6"]["budget"] == "L∞ 16/255"
    assert list(plan["victims"]) == VICTIMS_LABELLED
    assert not any(tmp_path.iterdir())


def test_a_defence_is_written_behind_its_victim(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, told = command(capsys, *ALL, "--defense", "saat")
    assert code == 2
    assert "takes no --defense: write it behind its victim" in told
    assert len(told.strip().splitlines()) == 1


def test_trap_12_a_target_answers_with_its_own_codes(finished: tuple[Path, dict[str, Any]]) -> None:
    """Scoring against the source's database would give every column of a row the same figure."""
    document = finished[1]
    one, other, _ = (victim["label"] for victim in document["victims"])
    found = cells(document, "dhta+steps=6")
    assert found[one, one]["metrics"]["map"] == found[other, one]["metrics"]["map"]
    assert found[one, one]["metrics"]["map"] != found[one, other]["metrics"]["map"]
    assert found[one, one]["metrics"]["tmap"] != found[one, other]["metrics"]["tmap"]


def test_the_own_victim_is_hit_hardest_and_the_headline_follows_from_the_queries(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = finished
    rows = pq.read_table(folder / "queries.parquet").to_pylist()
    mine = [row for row in rows if row["method"] == "dhta+steps=6"]
    own = np.mean([row["tmap"] for row in mine if row["source"] == row["target"]])
    moved = np.mean([row["tmap"] for row in mine if row["source"] != row["target"]])
    assert own > moved
    metrics = document["metrics"]
    assert np.isclose(metrics["tmap_own:dhta+steps=6"]["value"], own)
    assert np.isclose(metrics["tmap_transferred:dhta+steps=6"]["value"], moved)
    label = document["victims"][0]["label"]
    cell = cells(document, "dhta+steps=6")[label, label]
    first = [row for row in mine if row["source"] == row["target"] == label]
    for name, base in (("gain", "tmap_clean"), ("over_noise", "noise")):
        wanted = np.mean([row["tmap"] - row[base] for row in first])
        assert np.isclose(cell[name]["value"], wanted)


def test_the_page_is_drawn_again_from_the_record(
    finished: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    page = tmp_path / "page.html"
    code, _, _ = command(capsys, "report", str(finished[0]), "--out", str(page))
    assert code == 0
    assert page.read_bytes() == (finished[0] / "report.html").read_bytes()
    assert "Heat map of dhta+steps=6" in page.read_text()


def test_its_config_replays_it(
    finished: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    code, out, _ = command(
        capsys, "transfer", "--config", str(finished[0] / "config.toml"), "-q",
        "--json", "--out", str(tmp_path / "again"),
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["cells"] == finished[1]["cells"]
    assert [one["label"] for one in json.loads(out)["victims"]] == VICTIMS_LABELLED
    again = (tmp_path / "again/config.toml").read_text()
    assert again == (finished[0] / "config.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--victims", "dpsh", "--methods", "dhta"], "victims"),
        (["--victims", "dpsh,dpsh", "--methods", "dhta"], "twice"),
        (["--victims", "dpsh,csq"], "--methods"),
        (["--methods", "dhta"], "--victims"),
        (["--victims", "dpsh,csq+bits", "--methods", "dhta"], "key=value"),
        (["--victims", "dpsh,hashvfl", "--methods", "dhta"], "hashvfl"),
        (
            ["--victims", "dpsh,csq", "--methods", "dhta", "--norm", "l0", "--eps", "3"],
            "expected a budget",
        ),
        (["--victims", "dpsh,csq", "--methods", "nope"], "nope"),
        (["--victims", "dpsh,nope", "--methods", "dhta"], "nope"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    word: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    out = tmp_path / "run"
    code, _, err = command(capsys, "transfer", *arguments, *FAST, "--out", str(out))
    assert code in (2, 3), err
    assert word in err
    assert len(err.strip().splitlines()) == 1, err
    assert not any(tmp_path.iterdir())


def test_a_federation_is_moved_by_its_first_party(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No party has whole images: what `advhash attack` does for one victim holds for the matrix."""
    out = tmp_path / "run"
    quick = ["--set", "dataset.size=16", "--queries", "12", "-q", "--json", "--norm", "linf"]
    small = "hashvfl+epochs=1+width=4"
    code, text, err = command(
        capsys, "transfer", "--victims", f"{small},{small}+bits=8",
        "--methods", "dhta+steps=3", *quick, "--eps", "16/255", "--out", str(out),
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(text)
    assert document["protocol"]["query_modality"] == "party0"
    assert len(document["cells"]) == 4
    assert 'query_modality = "party0"' in (out / "config.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("--victims hashvfl,hashvfl+parties=4 --methods dhta", "other data"),
        ("--victims dpsh,hashvfl --methods dhta", "other data"),
        (
            "--victims hashvfl,hashvfl+bits=8 --dataset breast_cancer --methods dhta",
            "changes pictures",
        ),
        ("--victims dpsh,csq+seed=2 --methods dhta,hotflip --eps 8/255", "l0 budget of 1 word"),
        ("--victims dpsh,csq+seed=2 --methods dhta --eps 0.1/255", "at least 1/255"),
        ("--victims dpsh,csq+seed=2 --methods dhta+steps=0 --eps 8/255", "steps"),
    ],
)
def test_no_victim_is_trained_for_what_cannot_run(
    given: str,
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", lambda *_: 1 / 0)
    data = [] if "--dataset" in given else ["--dataset", "digits"]
    out = ["-q", "--out", str(tmp_path / "run")]
    code, _, err = command(capsys, "transfer", *given.split(), *data, *out)
    assert code == 2, err
    assert word in err


def test_an_outcome_is_kept_in_tensors_and_comes_back() -> None:
    split = load_dataset("digits", {"size": 16}).query
    rows = torch.tensor([3, 1, 5])
    words = np.array([[1], [2**63 + 5], [7]], dtype=np.uint64)
    outcome = Outcome(
        rows=rows,
        labels=split.labels[rows].numpy(),
        targets=split.labels[rows + 1].numpy(),
        clean=split.rows(rows).inputs["image"],
        moved=split.rows(rows).inputs["image"] / 2,
        clean_codes=HashCodes(words[::-1].copy(), 64),
        codes=HashCodes(words, 64),
        columns={"linf": np.array([0.1, np.nan, 0.3])},
        seconds=0.1,
        notes={"steps taken": torch.arange(3)},
    )
    for one in (outcome, replace(outcome, targets=None)):
        again = Outcome.from_tensors(one.tensors(), split, "image")
        kept, wanted = again.tensors(), one.tensors()
        assert kept.keys() == wanted.keys()
        assert all(kept[name].numpy().tobytes() == wanted[name].numpy().tobytes() for name in kept)
        assert torch.equal(again.clean, one.clean)
        assert np.array_equal(again.labels, one.labels)
        assert (again.seconds, again.codes.bits) == (one.seconds, one.codes.bits)


def test_a_dry_run_counts_the_victims_that_are_not_trained_yet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    victims = "dpsh+epochs=2+bits=16,csq+epochs=2+bits=16"
    code, out, _ = command(
        capsys, "transfer", "--victims", victims, "--methods", "dhta", *FAST, *EPS, *PLANNED
    )
    assert code == 0
    assert json.loads(out)["trainings"] == 2


@pytest.mark.parametrize("victims", ["pdq,dpsh", "dpsh,pdq"])
def test_pictures_without_classes_train_no_victim_in_any_order(
    victims: str, tmp_path: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    for number in range(24):
        color = (10 * number, 90, 240 - 10 * number)
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{number}.png")
    code, _, told = advhash("transfer", "--victims", victims, "--methods", "noise",
                            "--dataset", str(tmp_path), "--eps", "8/255", "--dry-run")  # fmt: skip
    assert code == 3
    assert "is trained on classes" in told


# Ensembles as sources

PAIR = "dpsh+epochs=2,dpsh+bits=16+epochs=2"  # settings in another order than --victims has them
PAIR_LABEL = "dpsh+epochs=2,dpsh+epochs=2+bits=16"
JOINT = (
    "transfer", "--victims", VICTIMS, "--source", PAIR, "--methods",
    "dhta+steps=6,mainstay-untargeted+steps=4", *FAST, *EPS,
)  # fmt: skip


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("joint") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advhash", *JOINT, "--out", str(folder)])
        app.main()
    return folder, json.loads((folder / "metrics.json").read_text())


def test_an_ensemble_is_a_further_row(
    joint: tuple[Path, dict[str, Any]], finished: tuple[Path, dict[str, Any]]
) -> None:
    document = joint[1]
    assert document["ensembles"] == [{"label": PAIR_LABEL, "members": VICTIMS_LABELLED[:2]}]
    found, before = (cells(one, "dhta+steps=6") for one in (document, finished[1]))
    assert set(found) - set(before) == {(PAIR_LABEL, target) for target in VICTIMS_LABELLED}
    assert {place: found[place] for place in before} == before  # the other rows are as they were
    assert (
        document["metrics"]["tmap_transferred:dhta+steps=6"]
        == (finished[1]["metrics"]["tmap_transferred:dhta+steps=6"])
    )
    for target in VICTIMS_LABELLED[:2]:  # both members are hit
        assert found[PAIR_LABEL, target]["gain"]["low"] > 0
    page = (joint[0] / "report.html").read_text("utf-8")
    assert PAIR_LABEL in page
    assert "gain over the best member" in page


def test_it_is_compared_with_its_best_member_on_victims_outside(
    joint: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = joint
    rows = pq.read_table(folder / "queries.parquet").to_pylist()
    outside = VICTIMS_LABELLED[2]
    for method, figure, sign in (
        ("dhta+steps=6", "tmap", 1),
        ("mainstay-untargeted+steps=4", "map_adversarial", -1),
    ):
        found = cells(document, method)
        assert all(
            (cell["over_single"] is not None) == (place == (PAIR_LABEL, outside))
            for place, cell in found.items()
        )

        def column(source: str, method: str = method, figure: str = figure) -> list[float]:
            return [
                row[figure]
                for row in rows
                if (row["method"], row["source"], row["target"]) == (method, source, outside)
            ]

        singles = np.array([column(one) for one in VICTIMS_LABELLED[:2]])
        gains = []
        for query, value in enumerate(column(PAIR_LABEL)):
            elsewhere = singles[:, 1 - query % 2 :: 2].mean(axis=1)
            gains.append(sign * (value - singles[np.argmax(sign * elsewhere), query]))
        assert np.isclose(found[PAIR_LABEL, outside]["over_single"]["value"], np.mean(gains))


def test_an_ensemble_is_moved_elsewhere_and_again_from_its_config(
    joint: tuple[Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    again = ["-q", "--json", "--executor", "local", "--out", str(tmp_path / "again")]
    code, out, told = command(capsys, "transfer", "--config", str(joint[0] / "config.toml"), *again)
    assert code == 0, told
    assert json.loads(out)["cells"] == joint[1]["cells"]
    kept = (tmp_path / "again/config.toml").read_text("utf-8")
    assert kept == (joint[0] / "config.toml").read_text("utf-8")


def planned(*sources: list[str], **settings: Any) -> dict[str, Any]:
    """The cells of ensembles by source, in a plan of three victims."""
    tables = [
        {"name": "dpsh", "epochs": 2, "label": "one", **settings},
        {"name": "csq", "epochs": 2, "label": "two"},
        {"name": "dpsh", "epochs": 2, "seed": 5, "label": "three"},
    ]
    config = TransferConfig.build(
        {
            "victims": tables,
            "attacks": [{"name": "dhta"}],
            "sources": sources,
            "dataset": {"name": "digits", "size": 16},
        }
    )
    return {cell.source: cell for cell in Transfer().plan(config).cells}


def test_the_cell_of_an_ensemble_is_named_by_all_its_members() -> None:
    first = planned(["one", "two"], ["two", "three"])
    other = planned(["one", "two"], ["two", "three"], bits=16)
    assert first["one,two"].key != other["one,two"].key
    assert first["two,three"].key == other["two,three"].key
    assert len({cell.key for cell in first.values()}) == 5
    assert first["one,two"].amount == 2  # of what its cost grows with


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["dpsh,nope"], "got 'nope'"),
        (["dpsh+bits=8,csq"], "got 'dpsh+bits=8'"),
        (["dpsh,"], "got ''"),
        (["dpsh"], "two victims or more"),
        (["dpsh,csq,dpsh"], "got dpsh a second time"),
        (["dpsh,csq,dpsh+seed=0"], "got dpsh+seed=0 a second time"),  # the seed of the run
        (["dpsh,csq", "csq,dpsh"], "got it twice"),
    ],
)
def test_what_is_no_ensemble_is_refused_before_any_training(
    given: list[str],
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", lambda *_: 1 / 0)
    sources = [part for one in given for part in ("--source", one)]
    code, _, told = command(
        capsys, "transfer", "--victims", "dpsh,csq,dpsh+seed=0", *sources, "--methods", "dhta",
        *FAST, *EPS, "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 2, told
    assert word in told
    assert len(told.strip().splitlines()) == 1, told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("victims", "data", "word"),
    [
        ("dpsh,dlcmh", ["--dataset", "openmoji"], "same database, got image and fused"),
        ("dpsh,hashvfl", ["--dataset", "digits"], "other data"),
    ],
)
def test_an_ensemble_of_other_inputs_or_databases_is_refused(
    victims: str,
    data: list[str],
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", lambda *_: 1 / 0)
    code, _, told = command(
        capsys, "transfer", "--victims", victims, "--source", victims, "--methods", "dhta",
        *data, "-q", *EPS,
    )  # fmt: skip
    assert code == 2, told
    assert word in told
    assert len(told.strip().splitlines()) == 1, told


def test_a_dry_run_counts_an_ensemble_s_members_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    code, out, _ = command(capsys, *JOINT, "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert (plan["trainings"], plan["cells"]) == (3, 2 * 4)
    assert plan["sources"] == [VICTIMS_LABELLED[:2]]


def test_victims_of_other_ranges_are_no_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two victims that read the same column of data in different ways."""
    made = CSQ.__post_init__

    def signed(victim: CSQ) -> None:
        made(victim)
        victim.bounds = {"image": (-1.0, 1.0)}

    monkeypatch.setattr(CSQ, "__post_init__", signed)
    with pytest.raises(UsageError, match="expected victims of the same inputs"):
        planned(["one", "two"])
