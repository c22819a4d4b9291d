"""`advhash eval --store`: the first results as they are served, against slow loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import command

from advhash.codes.hamming import distances, nearest
from advhash.codes.packed import HashCodes


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    topics = generator.normal(size=(15, 48))
    documents = (topics[np.arange(600) % 15] + generator.normal(size=(600, 48))).astype(np.float32)
    queries = (topics[np.arange(30) % 15] + generator.normal(size=(30, 48))).astype(np.float32)
    monkeypatch.chdir(tmp_path)
    for name, rows in (("documents", documents), ("queries", queries)):
        np.save(f"{name}.npy", rows)
        np.save(f"{name}-labels.npy", np.arange(len(rows)) % 15)
    return {"documents": documents, "queries": queries}


EVAL = [
    *("eval", "--codes", "queries.npy", "--database", "documents.npy", "--quantise", "mean"),
    *("--json", "-q"),
]
LABELS = ["--labels", "queries-labels.npy", "--database-labels", "documents-labels.npy"]


def document(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    code, out, err = command(capsys, *EVAL, *more)
    assert code == 0, err
    body: dict[str, Any] = json.loads(out)
    return body


def codes(files: dict[str, np.ndarray]) -> tuple[HashCodes, HashCodes]:
    mean = files["documents"].mean(axis=0)
    return HashCodes.pack(files["queries"] > mean), HashCodes.pack(files["documents"] > mean)


@pytest.mark.parametrize("store", ["exact", "faiss-flat", "sqlite-vec"])
def test_an_exact_store_serves_what_a_loop_finds(
    store: str, files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    body = document(capsys, *LABELS, "--store", store)
    rows = nearest(*codes(files), 10)
    hits = (rows % 15 == (np.arange(30) % 15)[:, None]).sum(axis=1)
    assert np.isclose(body["served_precision_at_10"], (hits / 10).mean())
    assert np.isclose(body["served_recall_at_10"], (hits / 40).mean())
    assert body["store_recall_at_10"] == 1
    plain = document(capsys, *LABELS)
    assert plain["served"] is None
    assert plain["map"] == body["map"]
    assert body["served"]["store"]["name"] == store


def test_float_rescoring_finds_the_float_neighbours_again(
    files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    cosines = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in files.values()]
    wanted = np.argsort(-(cosines[1] @ cosines[0].T), axis=1)[:, :10]
    found = {}
    for multiplier in (1, 5, 60):
        body = document(capsys, "--rescore", f"float,multiplier={multiplier}")
        found[multiplier] = body["served_recall_at_10"]
        assert body["map"] is None
    rows = nearest(*codes(files), 10)
    by_hand = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]
    )
    assert np.isclose(found[1], by_hand)
    assert found[1] < found[5] < found[60]
    assert np.isclose(found[60], 1)


def test_an_approximate_store_says_what_it_misses(
    files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    body = document(capsys, *LABELS, "--store", "faiss-ivf,lists=15,probes=1")
    query, known = codes(files)
    tenth = np.sort(distances(query, known), axis=1)[:, 9]
    assert (tenth > 0).all()
    assert 0.1 < body["store_recall_at_10"] < 1
    assert body["served"]["store"]["settings"] == {"lists": 15, "probes": 1}
    assert document(capsys, *LABELS, "--store", "faiss-ivf,lists=15,probes=15")[
        "store_recall_at_10"
    ] == 1  # fmt: skip


def test_judgements_of_some_queries_are_served_too(
    files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [(4, 7, 2), (4, 19, 1), (20, 5, 1), (20, 6, 0)]
    Path("pairs.tsv").write_text("".join(f"{q}\t{d}\t{g}\n" for q, d, g in judged))
    body = document(capsys, "--relevance", "pairs.tsv", "--store", "faiss-flat")
    rows = nearest(*codes(files), 10)
    shares = [len(set(rows[4]) & {7, 19}) / 2, len(set(rows[20]) & {5})]
    assert np.isclose(body["served_recall_at_10"], np.mean(shares))


@pytest.mark.parametrize(
    ("more", "number", "message"),
    [
        (["--store", "faiss-ivv"], 2, "did you mean 'faiss-ivf'"),
        (["--store", "faiss-ivf,probe=2"], 2, "did you mean 'probes'"),
        (["--store", "faiss-ivf,probes=two"], 2, "expected a whole number, got 'two'"),
        (["--store", "faiss-ivf,"], 2, "expected name,key=value,…"),
        (["--store", "float", "--rescore", "float"], 2, "holds floats: expected no rescoring"),
        (["--rescore", "float,multiplier=0"], 2, "expected a multiplier above 0"),
        (["--rescore", "int8,multiplier=2", "--rescore", "float"], 2, "multipliers fall"),
        (["--allow-superuser"], 2, "--allow-superuser goes with --store"),
        (["--store", "exact", "--allow-superuser"], 2, "no setting 'allow_superuser'"),
        (["--store", "pgvector,dsn=postgresql://me:word@h/x"], 2, "expected no password"),
        (["--store", "faiss-multihash,tables=9"], 3, "at most the 48 bits of a code, got 144"),
        (["--store", "pgvector,dsn=postgresql://me@127.0.0.1:9/x"], 3, "expected a connection"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    more: list[str],
    number: int,
    message: str,
    files: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = command(capsys, *EVAL, *more)
    assert (code, out) == (number, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_codes_without_floats_and_too_few_rows_are_refused(
    files: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in files.items():
        np.save(f"{name}-bits.npy", rows > 0)
    bits = ["eval", "--codes", "queries-bits.npy", "--database", "documents-bits.npy", *LABELS]
    for more in (["--rescore", "float"], ["--store", "faiss-float-flat"]):
        code, _, err = command(capsys, *bits, *more, "-q")
        assert (code, "expected floats" in err) == (2, True)
    np.save("few.npy", files["documents"][:9])
    few = ["eval", "--codes", "queries.npy", "--database", "few.npy", "--quantise", "mean", "-q"]
    code, _, err = command(capsys, *few, "--store", "exact")
    assert (code, "at least 10 rows in the database" in err) == (3, True)
