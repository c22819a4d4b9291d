"""`advhash poison`: figures against slow loops, and what a run refuses and survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text_models as tiny
from command_line import command
from PIL import Image
from transcripts import transcript

from advhash.codes.packed import HashCodes
from advhash.codes.relevance import GradedPairs
from advhash.errors import DataError, StoreError
from advhash.experiments.poison import material
from advhash.experiments.poison.config import PoisonConfig
from advhash.experiments.poison.judge import judge, natural_hubs, own_recall
from advhash.experiments.poison.material import drawn
from advhash.experiments.poison.run import poison_flags
from advhash.measures.intervals import Metric
from advhash.reports.poison import AtShare
from advhash.stores.admission import collapsed
from advhash.stores.pgvector_store import Pgvector
from advhash.stores.postgres import stop_own_server
from advhash.victims.image.pairwise import DPSH

TOPICS = np.random.default_rng(3).standard_normal((12, 48))


def rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = TOPICS[rng.integers(0, 12, count)] + 0.9 * rng.standard_normal((count, 48))
    return values.astype(np.float32)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("documents.npy", rows(800, 0))
    np.save("queries.npy", rows(600, 1))
    np.save("known.npy", rows(50, 2))


FILES = ["poison", "--database", "documents.npy", "--codes", "queries.npy", "-q", "--json"]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = command(capsys, *FILES, *arguments)
    assert code == 0, err
    body: dict[str, Any] = json.loads(out)
    return body


def value(body: dict[str, Any], name: str) -> float:
    return float(body["metrics"][name]["value"])


def test_a_judgement_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(30)[:10] for _ in range(40)])
    ids[3, 6:] = -1
    pairs = [(q, d) for q in range(40) for d in rng.permutation(25)[: rng.integers(0, 14)]]
    own = GradedPairs.of(40, *zip(*pairs, strict=True), np.ones(len(pairs)))  # type: ignore[call-arg]
    judged = judge(ids, np.arange(25, 30), own)
    for query, row in enumerate(ids.tolist()):
        places = [place for place, i in enumerate(row) if i >= 25]
        for cut in (1, 5, 10):
            assert judged.top[cut][query] == any(place < cut for place in places)
        assert judged.reciprocal[query] == (1 / (1 + places[0]) if places else 0)
        answers = {int(d) for q, d in pairs if q == query}
        if answers:
            share = len(answers & set(row)) / min(10, len(answers))
            assert np.isclose(judged.own[query], share)
        else:
            assert np.isnan(judged.own[query])
    often = np.bincount(ids[ids >= 0])
    assert often[natural_hubs(ids, 5)].min() == np.sort(often)[-5]


def test_neighbours_count_by_their_chance() -> None:
    own = GradedPairs.of(1, [0] * 3, [0, 1, 2], [1.0, 0.5, 0.5])
    assert own_recall(np.array([[1, 7]]), own).tolist() == [0.25]


def test_equal_directions_are_asked_once_and_stand_on_one_side() -> None:
    """Held out or from a file, and whatever their lengths."""
    config = PoisonConfig.build({"attack": {"name": "hubs"}, "rows": {"database": "unread"}})
    twice = np.concatenate([rows(300, 0), rows(300, 0)])
    longer = twice * np.repeat([1, 4], 300)[:, None].astype(np.float32)
    for documents, queries in ((twice, None), (rows(50, 5), longer)):
        split = drawn(config, documents, queries, None)
        asked = twice[np.concatenate([split.known, split.unseen])]
        assert len(np.unique(asked, axis=0)) == len(asked)
        assert split.repeated == (600 // 10 if queries is None else 600) - len(asked) > 0
    with pytest.raises(DataError, match="got row 7 of them as row 0 of the known ones"):
        drawn(config, twice, rows(20, 3), 2 * rows(20, 3)[7:9])


def test_items_arrive_one_after_the_other() -> None:
    """The second is the first again; the third lies one bit from a document."""
    documents = HashCodes.pack(np.eye(4, 32) > 0)
    items = HashCodes.pack(np.array([[1] * 32, [1] * 32, [1, 1, *[0] * 30], [1, 0] * 16]) > 0)
    kept = {keep: collapsed(documents, items, 1, keep) for keep in ("first", "last")}  # type: ignore[arg-type]
    assert [each.tolist() for each in kept["first"]] == [[], [False, True, True, False]]
    assert [each.tolist() for each in kept["last"]] == [[0, 1], [True, False, False, False]]


def test_hubs_are_found_above_their_controls_and_more_of_them_more_often(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    body = document(
        capsys, "--method", "hubs", "--share", "0.015,0.005", "--restarts", "2", "--out", "run"
    )
    few, many = body["shares"]
    assert (few["items"], many["items"]) == (4, 12)
    assert body["metrics"] == many["metrics"]
    assert many["metrics"]["planted_top10"]["value"] > few["metrics"]["planted_top10"]["value"]
    assert body["metrics"]["planted_top10_over_natural"]["low"] > 0
    assert value(body, "planted_top10_over_random") > 0.2
    assert value(body, "own_recall10_after") < value(body, "own_recall10_before")
    lost = value(body, "own_recall10_before") - value(body, "own_recall10_after")
    assert np.isclose(value(body, "own_recall10_lost"), lost)
    assert body["metrics"]["planted_top10"]["n"] == 2 * body["unseen"] == 600
    assert value(body, "store_recall_at_10") == 1
    page = Path("run/report.html").read_text("utf-8")
    assert "Found by unseen queries" in page
    chosen = [*few["surfaces"], *many["surfaces"]]
    assert len(chosen) == 4
    assert set(chosen) <= {"codes", "floats"}
    assert "clustered by " + ("codes" if set(chosen) == {"codes"} else "") in page
    assert "natural hubs" in page
    code, again, _ = command(
        capsys, "poison", "--config", "run/config.toml", "-q", "--json", "--out", "again"
    )
    assert code == 0
    assert json.loads(again)["metrics"] == body["metrics"]


def test_rescoring_by_floats_gives_back_what_bits_took(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attacker knows what ranks, and clusters what reaches more by it."""
    found = {}
    for name, more in (
        ("bits", []), ("rescored", ["--rescore", "float,multiplier=20"]),
        ("floats", ["--store", "float"]),
    ):  # fmt: skip
        body = document(capsys, "--method", "hubs", "--items", "12", *more, "--out", name)
        found[name] = value(body, "own_recall10_before")
        assert value(body, "planted_top10_over_random") > 0.1
    assert found["bits"] < found["rescored"] <= found["floats"] == 1


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({}, ("codes", None)),
        ({"store": {"name": "float"}}, ("floats", None)),
        ({"rescore": [{"name": "asymmetric"}]}, ("codes", None)),
        ({"rescore": [{"name": "float"}]}, ("floats", 100)),
        ({"rescore": [{"name": "asymmetric", "multiplier": 9}, {"name": "int8", "multiplier": 4}]},
         ("floats", 40)),
    ],
)  # fmt: skip
def test_the_attacker_knows_what_ranks_and_how_many_candidates(
    search: dict[str, Any], expected: tuple[str, int | None]
) -> None:
    assert material.surface(PoisonConfig.build({"attack": {"name": "hubs"}, **search})) == expected


def test_known_queries_of_their_own_file_and_numbers_that_say_what_answers(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("labels.npy", np.arange(600) % 200)
    np.save("database-labels.npy", np.arange(800) % 200)
    body = document(
        capsys, "--method", "centroid", "--known", "known.npy", "--labels", "labels.npy",
        "--database-labels", "database-labels.npy", "--store", "faiss-hnsw", "--out", "run",
    )  # fmt: skip
    assert (body["known"], body["unseen"], body["shares"][0]["items"]) == (50, 600, 1)
    assert body["store"]["settings"]["ef_search"] == 40
    assert 0 <= value(body, "own_recall10_before") < 0.5


def test_copies_take_the_place_of_their_originals_where_the_last_one_is_kept(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = ["--method", "copies", "--items", "40", "--collapse", "3"]
    last = document(capsys, *copies, "--out", "last")
    first = document(capsys, *copies, "--keep", "first", "--out", "first")
    none = document(capsys, *copies[:4], "--out", "none")
    assert last["shares"][0]["dropped"][0] > 20
    assert first["shares"][0]["refused"][0] > 20
    lost = {
        name: value(body, "own_recall10_lost")
        for name, body in (("last", last), ("first", first), ("none", none))
    }
    assert lost["last"] > lost["none"] > lost["first"] >= 0


def test_a_gate_refuses_hubs_and_says_what_it_costs(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = [
        *("--method", "hubs", "--items", "12", "--set", "attack.surface=codes", "--gate", "0.01"),
    ]
    blind = document(capsys, *gate, "--set", "gate.adaptive=false", "--out", "blind")
    knowing = document(capsys, *gate, "--out", "knowing")
    none = document(
        capsys, *gate[:6], "--known-queries", "200", "--unseen-queries", "200", "--out", "none"
    )
    assert (blind["known"], blind["unseen"]) == (200, 200)  # as many probe for the gate
    assert blind["shares"][0]["refused"][0] > 3
    assert 0 < blind["shares"][0]["natural_refused"] <= 12
    assert 0 <= blind["gate"]["reached"] < 0.04
    assert value(blind, "planted_top10") < value(none, "planted_top10")
    assert value(knowing, "planted_top10") >= value(blind, "planted_top10")
    page = Path("knowing/report.html").read_text("utf-8")
    assert "Refused items" in page
    assert "The attacker knows the rule" in page


def test_a_cap_hides_documents_too_and_says_what_that_costs(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cap of all probe queries hides nothing, so that the same queries are known and unseen."""
    hubs = ["--method", "hubs", "--items", "12", "--set", "cap.adaptive=false"]
    none = document(capsys, *hubs, "--cap", "1", "--out", "none")
    cap = document(capsys, *hubs, "--cap", "0.03", "--out", "cap")
    assert (none["turned_away"], none["shares"][0]["refused"]) == (0, [0])
    assert value(none, "own_recall10_cost") == 0
    assert (cap["known"], cap["unseen"]) == (none["known"], none["unseen"]) == (200, 200)
    assert value(cap, "own_recall10_before") == value(none, "own_recall10_before")
    assert cap["turned_away"] > 0 < cap["shares"][0]["refused"][0]
    assert value(cap, "planted_top10") < value(none, "planted_top10")
    cost = value(cap, "own_recall10_before") - value(cap, "own_recall10_defended")
    assert np.isclose(value(cap, "own_recall10_cost"), cost)
    assert cost > 0
    page = Path("cap/report.html").read_text("utf-8")
    assert "A cap hides every item" in page
    assert "What the defences cost" in page


def test_what_a_cap_hides_is_no_loss_by_an_item_and_no_natural_hub(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cap that hides most documents, beside a single item that it hides as well."""
    item = ["--method", "centroid", "--items", "1", "--cap"]
    cap = document(capsys, *item, "0.0001", "--out", "cap")
    assert cap["turned_away"] > 400
    assert cap["shares"][0]["refused"] == [1]
    assert value(cap, "own_recall10_lost") == 0 < value(cap, "own_recall10_cost")
    assert value(cap, "planted_top10_over_natural") == -value(cap, "planted_top10_natural") < 0
    assert value(cap, "planted_top10_random") > 0
    assert [flag["name"] for flag in cap["flags"]][:1] == ["cap_hides_much"]
    page = Path("cap/report.html").read_text("utf-8")
    assert "the items take 0.0 points" in page
    none = document(capsys, *item, "1", "--out", "none")
    lost = value(none, "own_recall10_before") - value(none, "own_recall10_after")
    assert np.isclose(value(none, "own_recall10_lost"), lost)
    assert "cap_hides_much" not in [flag["name"] for flag in none["flags"]]


def test_a_secret_rotation_is_lost_on_those_who_write_vectors_and_stops_those_who_write_codes(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mean of queries is near to them in any rotation; a code is one of the old one."""
    over = {}
    for pairs in ("one", "free"):
        for rotate in ([], ["--rotate"]):
            body = document(
                capsys, "--method", "hubs", "--items", "12", "--set", f"attack.pairs={pairs}",
                *rotate, "--out", f"run-{pairs}-{len(rotate)}",
            )  # fmt: skip
            over[pairs, len(rotate)] = value(body, "planted_top10")
    assert over["one", 1] > 0.8 * over["one", 0]
    assert over["free", 1] < 0.1 * over["free", 0]


def test_codes_are_embeddings_of_their_signs(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    method = ("--method", "hubs", "--items", "2", "--known-queries", "100")
    for name in ("documents", "queries"):
        bits = np.load(f"{name}.npy")[:, :24] > 0
        np.save(f"{name}.npy", np.where(bits, np.float32(1), np.float32(-1)))
        np.save(f"packed-{name}.npy", np.packbits(bits, axis=1))
        assert command(capsys, "codes", "import", f"{name}.npy", f"{name}.codes")[0] == 0
    signs = document(capsys, *method)
    packed = ("--database", "packed-documents.npy", "--codes", "packed-queries.npy")
    stored = ("--database", "documents.codes", "--codes", "queries.codes")
    for other in ((*packed, "--form", "ubinary"), stored):
        assert document(capsys, *method, *other)["metrics"] == signs["metrics"]


@pytest.mark.parametrize(
    ("more", "number", "message"),
    [
        (["--method", "hubs", "--share", "0"], 2, "--share: expected shares above 0"),
        (["--method", "hubs", "--share", "0.1,1.5"], 2, "--share: expected shares above 0"),
        (["--method", "hubs", "--share", "few"], 2, "--share: expected shares above 0"),
        (["--method", "hubs", "--keep", "first"], 2, "expected --collapse BITS as well"),
        (["--method", "hubs", "--share", "0.004,0.0041"], 2, "differ by an item"),
        (["--method", "hubs", "--share", "0.1", "--items", "5"], 2, "got both"),
        (["--method", "hubs", "--items", "301"], 2, "plants at most 300 items"),
        (["--method", "centroid", "--items", "2"], 2, "plants at most 1 item"),
        (["--method", "hubs", "--attack", "dhta"], 2, "--attack goes with --method targeted"),
        (["--method", "hubs", "--modality", "text"], 2, "got both"),
        (["--items", "3"], 2, "expected --method, got none; see `advhash list poisonings`"),
        (["--method", "hubs", "--store", "faiss-hnsw,m=0"], 2, "m: expected at least 2, got 0"),
        (["--method", "hubs", "--store", "pgvector,dsn=me@x"], 2, "expected postgresql://USER"),
        (["--method", "hub-text"], 2, "plants texts: expected --victim"),
        (["--method", "hubs", "--eps", "8/255"], 2, "expected no --eps and no --norm"),
        (["--method", "hubs", "--gate", "1"], 2, "above 0 and below 1"),
        (["--method", "hubs", "--cap", "0"], 2, "--cap: expected a number above 0"),
        (["--method", "hubs", "--cap", "0.1", "--gate", "0.1"], 2, "expected --gate or --cap"),
        (["--method", "hubs", "--items", "0"], 2, "--items: expected a whole number of at least 1"),
        (["--method", "hubs", "--gate", "2"], 2, "--gate: expected a number above 0 and below 1"),
        (["--method", "hubs", "--set", "items=0"], 2, "setting 'items': expected a whole"),
        (["--method", "hubz"], 2, "did you mean 'hubs'"),
        (["--method", "hubs", "--known", "queries.npy"], 3, "unknown to the attacker"),
        (["--method", "hubs", "--known-queries", "600"], 2, "at least 2 unseen queries"),
        (["--method", "hubs", "--unseen-queries", "399"], 2, "at least 399 unseen queries"),
        (["--method", "hubs", "--database", "few.npy"], 3, "at least 10 rows in the database"),
        (["--method", "hubs", "--database", "narrow.npy"], 3, "of 30 dimensions as in the"),
        (["--method", "hubs", "--database", "packed.npy"], 3, "--form ubinary"),
        (["--method", "hubs", "--bits", "20", "--dry-run"], 2, "expected no bits"),
        (["--method", "hubs", "--labels", "few.npy"], 3, "number"),
        (["--method", "targeted"], 2, "expected --victim, --attack NAME and --items N"),
        (["--method", "hubs", "--victim", "phash"], 2, "got both"),
        (["--method", "hubs", "--store", "pgvector,dsn=postgresql://me@127.0.0.1:9/x"], 3,
         "expected a connection"),
    ],
)  # fmt: skip
def test_what_cannot_be_planted_is_refused_in_one_line(
    more: list[str],
    number: int,
    message: str,
    files: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save("few.npy", rows(9, 0))
    np.save("narrow.npy", rows(100, 0)[:, :30])
    np.save("packed.npy", np.packbits(rows(100, 0) > 0, axis=1))
    code, out, err = command(capsys, *FILES, *more, "--out", "run")
    assert (code, out) == (number, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("run").exists()


def test_planted_texts_stand_beside_queries_that_find_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    tiny.bert(tmp_path / "bert")
    rng = np.random.default_rng(0)
    photographs = [
        {
            "file": f"{row}.jpg",
            "split": "test" if row < 60 else "dev" if row < 65 else "train",
            "captions": [" ".join(rng.choice(tiny.WORDS, 4, replace=False)) for _ in range(5)],
        }
        for row in range(80)
    ]
    (tmp_path / "captions.json").write_text(json.dumps(photographs), "utf-8")
    capsys.readouterr()
    code, out, err = command(
        capsys, "poison", "--victim", f"hf:{tmp_path}/bert", "--dataset", "flickr8k_captions",
        "--set", f"dataset.root={tmp_path}", "--set", "dataset.train=10", "--method", "hub-text",
        "--eps", "4", "--items", "2", "--set", "attack.steps=2", "--unseen-queries", "30",
        "-q", "--json", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0, err
    body = json.loads(out)
    assert (body["budget"], body["unseen"]) == ("4 tokens", 30)
    assert len(body["samples"]) == 2
    shown = sum(sample["found_by"] for sample in body["samples"])
    assert shown >= round(30 * value(body, "planted_top10"))
    for sample in body["samples"]:
        assert 1 <= len(sample["text"].split()) <= 4
        assert len(sample["queries"]) == min(sample["found_by"], 4)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Planted texts" in page
    assert body["samples"][0]["text"] in page
    sides: list[tuple[str, str]] = []
    embeddings = material.embeddings

    def noted(trained: Any, side: Any, modality: str) -> Any:
        sides.append((side, modality))
        return embeddings(trained, side, modality)

    monkeypatch.setattr(material, "embeddings", noted)
    code, out, err = command(
        capsys, "poison", "--victim", f"hf:{tmp_path}/bert", "--dataset", "flickr8k_captions",
        "--set", f"dataset.root={tmp_path}", "--set", "dataset.train=10", "--method", "hubs",
        "--items", "2", "--set", "victim.document_prompt=the ", "--unseen-queries", "30", "-q",
        "--json", "--out", str(tmp_path / "other"),
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["documents"] == body["documents"]
    assert sides == [("database", "document"), ("query", "text")]


def picture(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("lows", "message"),
    [
        ((0.1, 0.2), None),
        ((-0.1, 0.2), "Planted items, where there are 3 (0.3 %) of them, are not shown"),
        ((0.1, 0.0), "Planted items, where there are 30 (3 %) of them, are not shown"),
        ((-0.2, 0.0), "Planted items, at each share, are not shown"),
        ((0.0,), "Planted items are not shown"),
    ],
)
def test_every_planted_share_is_held_against_natural_hubs(
    lows: tuple[float, ...], message: str | None
) -> None:
    shares = [
        AtShare(
            items=items, share=items / 1000, refused=[0], dropped=[0],
            metrics={
                "planted_top10_over_natural": Metric(low + 0.1, low, low + 0.2, 50),
                "store_recall_at_10": Metric(0.9, 0.8, 1.0, 50),
            },
        )
        for items, low in zip((3, 30), lows, strict=False)
    ]  # fmt: skip
    flags = poison_flags(0, 0, 1000, shares)
    if message is None:
        assert flags == []
    else:
        (flag,) = flags
        assert flag.name == "no_more_than_natural_hubs"
        assert flag.message.startswith(message)


def test_planted_pictures_are_kept_as_the_store_got_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        *("poison", "--victim", "dpsh", "--set", "victim.epochs=1", "--set", "dataset.size=16"),
        *("--method", "hub-image", "--eps", "64/255", "--items", "3", "--set", "attack.steps=5"),
    ]
    code, out, err = command(
        capsys, *arguments, "-q", "--json", "--out", str(tmp_path / "run")
    )  # fmt: skip
    assert code == 0, err
    body = json.loads(out)
    assert body["samples"][0]["files"][0] == "samples/item-0.png"
    for sample in body["samples"]:
        assert len(sample["files"]) == 1 + min(sample["found_by"], 4)
        assert all((tmp_path / "run" / file).is_file() for file in sample["files"])
        begun, _, planted = (picture(tmp_path / "run" / file) for file in sample["change"]["files"])
        stored = picture(tmp_path / "run" / sample["files"][0])
        assert np.array_equal(planted, stored)
        assert np.abs(planted - begun).max() == sample["change"]["linf"] > 0
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Some of the 3 planted pictures" in page
    assert page.index("Planted pictures") < page.index("Found by unseen queries")
    asked: list[int] = []
    relax = DPSH.relax

    def counted(victim: DPSH, given: Any, side: str) -> Any:
        asked.append(len(given))
        return relax(victim, given, side)

    monkeypatch.setattr(DPSH, "relax", counted)
    code, _, err = command(
        capsys, *arguments[:-8], "--method", "hubs", "--items", "3", "-q", "--json",
        "--out", str(tmp_path / "again"),
    )  # fmt: skip
    assert (code, asked) == (0, []), err  # embedded once, and kept
    code, _, err = command(capsys, *arguments[:-4], "--items", "1000", "-q", "--dry-run")
    assert (code, "plants at most" in err) == (2, True)


def test_a_server_that_dies_is_told_in_one_line_and_the_run_goes_on(
    files: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first search is kept; the second one meets a dead server."""
    arguments = ["--method", "hubs", "--items", "10", "--store", "pgvector"]
    searches = []
    search = Pgvector._search

    def dying(store: Any, queries: Any, count: int) -> Any:
        searches.append(count)
        if len(searches) == 3:  # known and unseen queries were asked
            import os
            import signal
            import time

            from advhash.stores.postgres import own_server

            pid = own_server().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)
        return search(store, queries, count)

    with monkeypatch.context() as patched:
        patched.setattr(Pgvector, "_search", dying)
        code, out, err = command(capsys, *FILES, *arguments, "--out", "run")
    assert (code, out) == (3, "")
    assert "PostgreSQL ended or refused" in err
    assert "advhash poison --resume" in err
    code, out, err = command(capsys, "poison", "--resume", "run", "-q", "--json")
    assert code == 0, err
    resumed = json.loads(out)
    whole = document(capsys, *arguments[:4], "--store", "exact", "--out", "whole")
    assert resumed["metrics"] == whole["metrics"]
    assert StoreError.exit_code == 3
    stop_own_server()


def test_pictures_that_an_attack_moves_are_planted_by_the_alias(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = [
        *("--victim", "dpsh", "--set", "victim.epochs=2", "--set", "dataset.size=16"),
        *("--set", "attack.steps=5", "--set", "protocol.queries=10", "--store", "faiss-flat"),
        *("--set", "budget.eps=32/255", "--set", "budget.norm=linf", "--dry-run", "--json"),
    ]
    plans = []
    for command_line in (
        ["poison", "--method", "targeted", "--attack", "dhta", "--items", "20"],
        ["attack", "--method", "dhta", "--poison", "20"],
    ):
        code, out, err = command(capsys, *command_line, *small)
        assert code == 0, err
        plans.append(json.loads(out))
    assert plans[0] == plans[1]
    assert plans[0]["command"] == "attack"
    assert plans[0]["protocol"]["poison"] == 20
    assert plans[0]["protocol"]["store"]["name"] == "faiss-flat"


def test_the_page_of_stores_is_what_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = 0
    for shown, printed in transcript(
        "how_to/vector_store.md", tmp_path, capsys, left_out="report: "
    ):
        assert printed == shown
        lines += len(shown)
    assert lines > 20
