"""`advhash eval` and `advhash codes`, as a user calls them, and the evaluation behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from command_line import command
from sklearn.metrics import average_precision_score
from transcripts import transcript

from advhash.codes import HashCodes, relevance
from advhash.codes.code_files import LabelledCodes, write_codes
from advhash.codes.hamming import histograms
from advhash.codes.metrics import chance_average_precision
from advhash.errors import DataError
from advhash.experiments.evaluate import evaluate
from advhash.measures.intervals import mean_metric
from advhash.targets import label_sets

SPLITS = (
    Path(__file__).resolve().parents[3] / "shared/data/hash_label_splits/prosgan_label_splits.npz"
)


def sample(rows: int, seed: int, bits: int = 24, classes: int = 6) -> LabelledCodes:
    generator = np.random.default_rng(seed)
    return LabelledCodes(
        HashCodes.pack(generator.random((rows, bits)) < 0.5),
        HashCodes.pack(generator.random((rows, classes)) < 0.25),
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_codes(tmp_path / "query.npz", sample(40, 1))
    write_codes(tmp_path / "database.npz", sample(900, 2))
    np.save(tmp_path / "targets.npy", sample(40, 3).labels.unpack().astype(np.uint8))
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = command(capsys, *words, "--json", "--quiet")
    assert code == 0, err
    parsed: dict[str, Any] = json.loads(out)
    return parsed


def test_eval_prints_what_it_promises(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz",
        "--targets", files / "targets.npy",
    )  # fmt: skip
    assert found["schema"] == "advhash/eval/1"
    for name in ("map", "tmap"):
        assert found[f"{name}_pessimistic"] <= found[name] <= found[f"{name}_optimistic"]
        assert found[f"{name}_chance"] == pytest.approx(found[name], abs=0.05)  # random codes
    assert found["seconds"] > 0
    assert found["pairs_per_second"] == pytest.approx(2 * 40 * 900 / found["seconds"])
    assert (found["queries"], found["database"], found["bits"], found["classes"]) == (
        40,
        900,
        24,
        6,
    )
    metric = found["metrics"]["map"]
    assert metric["low"] < found["map"] == metric["value"] < metric["high"]
    assert metric["n"] == 40
    assert found["precision_recall"]["recall"][-1] == pytest.approx(1 - found["empty_queries"] / 40)


@pytest.mark.parametrize("classes", [2, 7])
def test_class_numbers_give_the_figures_of_their_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int
) -> None:
    """One column of 0 and 1 was read as one class that half of the rows have."""
    generator = np.random.default_rng(0)
    numbers = {"query": 30, "database": 300}
    for name, rows in numbers.items():
        labels = generator.integers(0, classes, rows)
        codes = generator.random((rows, 16)) < 0.3 + 0.4 * (labels[:, None] % 2)
        hot = np.eye(classes, dtype=np.uint8)[labels]
        np.savez(tmp_path / f"{name}.npz", codes=codes, labels=hot)
        np.save(tmp_path / f"{name}.npy", labels)
        np.savetxt(tmp_path / f"{name}.txt", labels)
        np.savez(tmp_path / f"{name}-flat.npz", codes=codes, labels=labels)
        words = ("codes", "import", tmp_path / f"{name}-flat.npz", tmp_path / f"{name}.codes")
        code, out, err = command(capsys, *words)
        assert code == 0, err
        assert out.endswith(f"{classes} classes (labels: class numbers)\n")
    expected = document(
        capsys, "eval", "--codes", tmp_path / "query.npz", "--database", tmp_path / "database.npz"
    )
    assert expected["label_form"] == {"queries": "multi-hot", "database": "multi-hot"}
    for query, database, more in (
        ("query-flat.npz", "database-flat.npz", ()),
        ("query.codes", "database.codes", ()),
        ("query.npz", "database.codes", ()),
        *(
            ("query.npz", "database.npz", ("--labels", f"query{suffix}", "--database-labels",
            f"database{suffix}"))
            for suffix in (".npy", ".txt")
        ),
    ):  # fmt: skip
        paths = [word if word[0] == "-" else tmp_path / word for word in more]
        found = document(
            capsys, "eval", "--codes", tmp_path / query, "--database", tmp_path / database, *paths
        )
        assert found["map"] == expected["map"]
        assert found["classes"] == classes
        assert found["label_form"]["database"] == "class numbers"
    words = ("eval", "--codes", tmp_path / "query-flat.npz", "--database")
    _, shown, _ = command(capsys, *words, tmp_path / "database-flat.npz", "--quiet")
    assert f"{classes} classes (labels: class numbers)" in shown
    _, shown, _ = command(capsys, *words, tmp_path / "database.npz", "--quiet")
    assert "(labels: queries class numbers, database multi-hot)" in shown
    if classes == 2:
        one = document(
            capsys, *words, tmp_path / "database-flat.npz", "--label-form", "multi-hot"
        )  # fmt: skip
        assert one["classes"] == 1
        assert one["map"] != expected["map"]


class TestJudgedByFiles:
    """Embeddings of two modalities of BEIR's sort: 12 queries, 60 documents, 5 of each relevant."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        generator = np.random.default_rng(0)
        topics = generator.normal(size=(12, 32))
        documents = topics[np.arange(60) % 12] + generator.normal(size=(60, 32))
        queries = topics + 0.5 * generator.normal(size=(12, 32))
        for name, rows in (("queries", queries), ("documents", documents)):
            np.save(f"{name}.npy", rows.astype(np.float32))
            np.save(f"{name}-ubinary.npy", np.packbits(rows > 0, axis=1))
        (tmp_path / "beir/qrels").mkdir(parents=True)
        for name, count, sign in (("corpus", 60, "d"), ("queries", 12, "q")):
            lines = (json.dumps({"_id": f"{sign}{row}"}) + "\n" for row in range(count))
            (tmp_path / f"beir/{name}.jsonl").write_text("".join(lines))
        pairs = [(row % 12, row, 1 + row // 12) for row in range(60) if row % 12 < 10]
        (tmp_path / "beir/qrels/test.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(f"q{q}\td{d}\t{g}\n" for q, d, g in pairs)
        )
        (tmp_path / "numbers.txt").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in pairs))
        hot = np.zeros((60, 12), int)
        for query, row, _ in pairs:
            hot[row, query] = 1
        np.save("hot.npy", hot)
        np.save("query-hot.npy", np.eye(12, dtype=int))
        return tmp_path

    UBINARY = ("eval", "--codes", "queries-ubinary.npy", "--database", "documents-ubinary.npy")
    FLOATS = ("eval", "--codes", "queries.npy", "--database", "documents.npy", "--quantise", "sign")

    def test_one_contract_gives_the_figures_of_labels(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two queries have no judgement: they are left out, and skipped as labels have it."""
        labels = ("--labels", "query-hot.npy", "--database-labels", "hot.npy", "--empty", "skip")
        expected = document(capsys, *self.UBINARY, *labels)
        judged = [
            document(capsys, *words)
            for words in (
                (*self.UBINARY, "--relevance", "beir"),
                (*self.FLOATS, "--relevance", "beir"),
                (*self.UBINARY, "--relevance", "numbers.txt"),
                (*self.UBINARY, "--relevance", "beir", "--executor", "local", "--shards", "3"),
            )
        ]
        for found in judged:
            for name in ("map", "map_chance", "recall_at_10", "precision_within_2"):
                assert found[name] == pytest.approx(expected[name], abs=1e-12)
            assert found["metrics"]["map"]["n"] == 10
            assert found["relevance"]["queries_judged"] == 10
            assert 0 < found["ndcg_at_10"] < 1
            assert found["ndcg_at_10"] == judged[0]["ndcg_at_10"]
            assert found["ndcg_at_10"] != expected["ndcg_at_10"]  # graded, where labels are not
        assert judged[0]["forms"] == {"queries": "ubinary", "database": "ubinary"}
        assert judged[1]["forms"] == {"queries": "floats", "database": "floats"}
        assert judged[0]["relevance"]["rows_called_by"] == "ids"
        assert judged[2]["relevance"]["rows_called_by"] == "row numbers"
        assert judged[0]["label_form"] is None

    def test_floats_alone_are_judged_by_their_neighbours(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = document(capsys, *self.FLOATS, "--top-k", 3, "--out", "figures.parquet")
        rows = [np.load(f"{name}.npy") for name in ("queries", "documents")]
        near = rows[0] @ (rows[1] / np.linalg.norm(rows[1], axis=1, keepdims=True)).T
        far = ((rows[0] > 0)[:, None] != (rows[1] > 0)[None]).sum(axis=2)
        for name, cut in (("recall_at_10", 10), ("recall_at_k", 3)):
            shares = []
            for similar, distance in zip(near, far, strict=True):
                wanted = np.argsort(-similar)[:cut]
                edge = np.sort(distance)[cut - 1]
                inside = distance < edge
                chance = (cut - inside.sum()) / (distance == edge).sum()
                weight = inside + chance * (distance == edge)
                shares.append(weight[wanted].sum() / cut)
            assert found[name] == pytest.approx(np.mean(shares), abs=1e-12)
        assert found["map"] is None
        assert found["metrics"]["ndcg_at_10"] == {"value": None, "low": None, "high": None, "n": 0}
        assert found["precision_recall"] is None
        assert found["relevance"] == {"by": "neighbours", "similarity": "cosine"}
        dot = document(capsys, *self.FLOATS, "--similarity", "dot")
        assert dot["recall_at_10"] != found["recall_at_10"]

    @pytest.mark.parametrize(
        ("option", "value", "judged", "message"),
        [
            ("--empty", "error", False, "--empty goes with labels or judgements, and here neigh"),
            ("--label-form", "classes", False, "--label-form goes with labels"),
            ("--label-form", "classes", True, "and here judgements say what is relevant"),
            ("--similarity", "dot", True, "--similarity goes with neighbours"),
        ],
    )
    def test_options_that_decide_nothing_are_refused(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        option: str,
        value: str,
        judged: bool,
        message: str,
    ) -> None:
        relevance = ("--relevance", "beir") if judged else ()
        code, _, error = command(capsys, *self.FLOATS, *relevance, option, value)
        assert code == 2
        assert message in error

    def test_a_database_of_fewer_rows_has_no_recall_at_10(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.save("documents.npy", np.load("documents.npy")[:9])
        assert document(capsys, *self.FLOATS)["recall_at_10"] is None

    def test_people_are_told_what_was_read(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, shown, _ = command(capsys, *self.UBINARY, "--relevance", "beir", "--quiet")
        assert shown.startswith(
            "read as ubinary, 32 bits\n12 queries of queries-ubinary.npy against 60 codes of 32 "
            "bits of documents-ubinary.npy, "
        )
        assert "50 judgements in beir/qrels/test.tsv, rows by ids" in shown
        assert "2 queries without a judgement left out; 0 queries without a relevant row" in shown
        _, shown, _ = command(capsys, *self.FLOATS, "--quiet")
        assert shown.startswith("read as floats, 32 bits (sign)\n")
        assert "relevant: the nearest floats (cosine)" in shown
        assert "MAP" not in shown  # nothing is relevant by labels

    def test_codes_are_converted_with_the_thresholds_of_the_database(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without labels too, as judgements stand elsewhere."""
        for name in ("queries", "documents"):
            words = ("codes", "import", f"{name}.npy", f"{name}.codes", "--quantise", "mean")
            code, shown, err = command(capsys, *words, "--fit", "documents.npy")
            assert code == 0, err
            assert shown.startswith("read as floats, 32 bits (mean)\n")
            assert shown.endswith(" of 32 bits, no labels\n")
        mapped = document(
            capsys, "eval", "--codes", "queries.codes", "--database", "documents.codes",
            "--relevance", "beir", "--shards", 2,
        )  # fmt: skip
        whole = document(capsys, *self.FLOATS[:-1], "mean", "--relevance", "beir")
        for name in ("map", "ndcg_at_10", "recall_at_10"):
            assert mapped[name] == whole[name]
        assert command(capsys, "codes", "export", "queries.codes", "back.npz")[0] == 0
        assert np.load("back.npz").files == ["codes"]

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (
                UBINARY,
                3,
                "has codes alone, which do not say what is relevant",
            ),
            (FLOATS[:-2], 3, "embeddings become bits by --quantise sign, mean or median"),
            ((*FLOATS[:-2], "--form", "floats"), 2, "--form floats has no bits: add --quantise"),
            ((*UBINARY, "--relevance", "beir", "--labels", "hot.npy"), 2, "got both"),
            ((*UBINARY, "--split", "test"), 2, "--split goes with --relevance"),
            ((*UBINARY, "--ignore-unknown"), 2, "--ignore-unknown goes with --relevance"),
            ((*UBINARY, "--relevance", "nothing"), 3, "expected a file, got nothing: not there"),
            ((*UBINARY, "--relevance", "beir/qrels/test.tsv"), 3, "names 10 queries that are not"),
            ((*UBINARY, "--relevance", "beir", "--bits", "33"), 3, "the 33 bits of --bits, got 32"),
            ((*UBINARY, "--relevance", "beir", "--bits", "0"), 2, "expected --bits above 0, got 0"),
            (
                (*UBINARY, "--relevance", "beir", "--form", "hex"),
                3,
                "expected words for --form hex",
            ),
            (
                (*UBINARY, "--relevance", "beir", "--convention", "prosgan"),
                2,
                "--convention prosgan takes labels: leave out --relevance",
            ),
            ((*FLOATS, "--convention", "prosgan"), 2, "--convention takes labels"),
            (
                (*UBINARY[:-1], "documents.npy", "--quantise", "mean", "--relevance", "beir"),
                3,
                "uint8 may be packed bits or embeddings",
            ),
            (
                ("codes", "import", "queries.npy", "a.codes", "--quantise", "mean"),
                2,
                "--fit FILE goes with --quantise mean or median",
            ),
        ],
    )
    def test_bad_input_is_one_line(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        words: tuple[str, ...],
        code: int,
        message: str,
    ) -> None:
        quiet = () if words[0] == "codes" else ("--quiet",)
        found, out, err = command(capsys, *words, *quiet)
        assert found == code, err
        assert message in err
        assert err.count("\n") == 1
        assert out == ""
        assert not list(folder.glob("a.codes"))


@pytest.mark.parametrize("page", ["own_codes", "search_texts"])
def test_the_page_is_what_happens(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are made, its commands run, and every line that it shows is printed."""
    monkeypatch.chdir(tmp_path)
    lines = 0
    for shown, printed in transcript(f"how_to/{page}.md", tmp_path, capsys, left_out="pairs/s"):
        assert printed == shown
        lines += len(shown)
    assert lines > 30


def test_identities_by_the_ten_thousand_have_the_figures_of_their_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 rows with an identity each were 50 MB of columns; now they are pairs."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    rows = generator.random((20_000, 32)) < 0.5
    np.savez("database.npz", codes=rows, labels=generator.permutation(20_000))
    chosen = generator.integers(0, 20_000, 30)
    moved = rows[chosen] ^ (generator.random((30, 32)) < 0.1)
    np.savez("query.npz", codes=moved, labels=np.load("database.npz")["labels"][chosen])
    words = ("eval", "--codes", "query.npz", "--database", "database.npz")
    pairs = document(capsys, *words)
    monkeypatch.setattr(relevance, "_LEAST_IDENTITIES", 1 << 20)
    columns = document(capsys, *words)
    assert pairs["classes"] == columns["classes"] == 20_000
    assert pairs["label_form"] == columns["label_form"]
    for name in ("map", "map_chance", "ndcg", "ndcg_at_10", "recall_at_10"):
        assert pairs[name] == pytest.approx(columns[name], abs=1e-12)
    monkeypatch.setattr(relevance, "_LEAST_IDENTITIES", 4096)
    monkeypatch.setattr(relevance, "_MOST_PAIRS", 29)
    assert document(capsys, *words)["map"] == columns["map"]
    assert 0.1 < pairs["map"] < 1


def test_eval_without_targets_has_no_tmap(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz"
    )
    assert not [name for name in found if name.startswith("tmap")]


def test_every_format_and_executor_gives_the_same_number(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(
        capsys, "codes", "import", files / "database.npz", files / "gallery.codes"
    )
    assert code == 0, err
    for name in ("gallery.txt", "gallery.npy"):
        assert command(capsys, "codes", "export", files / "gallery.codes", files / name)[0] == 0
    values = [
        document(
            capsys,
            "eval",
            "--codes",
            files / "query.npz",
            "--database",
            files / name,
            "--targets",
            files / "targets.npy",
            *more,
        )
        for name, *more in (
            ("database.npz",),
            ("gallery.codes",),
            ("gallery.codes", "--shards", "7"),
            ("gallery.codes", "--executor", "local"),
            ("gallery.txt", "--database-labels", files / "database.npz"),
            ("gallery.npy", "--database-labels", files / "gallery.codes"),
        )
    ]
    assert len({value["map"] for value in values}) == 1
    assert len({value["tmap"] for value in values}) == 1
    assert values[0]["tmap"] != values[0]["map"]


def test_the_figures_of_every_query_are_kept(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz",
        "--out", files / "new/queries.parquet", "--top-k", 50, "--seed", 3,
    )  # fmt: skip
    table = pq.read_table(files / "new/queries.parquet")
    assert table.num_rows == 40
    for name in ("map", "map_chance", "ndcg", "precision_at_k", "recall_at_k"):
        again = mean_metric(table[name].to_numpy(), seed=3)
        assert vars(again) == found["metrics"][name]


def test_the_table_for_people_has_every_figure(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz",
        "--convention", "prosgan",
    )  # fmt: skip
    assert code == 0, err
    for word in (
        "map_optimistic",
        "map_chance",
        "map_prosgan",
        "ndcg",
        "00 pairs/s",
        "24 bits",
    ):
        assert word in out
    assert "shards: 1/1" in err


def test_queries_that_are_the_database_are_flagged(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "copy.npz").write_bytes((files / "database.npz").read_bytes())
    for queries in ("database.npz", "copy.npz"):
        given = ("eval", "--codes", files / queries, "--database", files / "database.npz")
        (flag,) = document(capsys, *given)["flags"]
        assert flag["name"] == "queries_in_database"
    _, out, err = command(capsys, *given, "--quiet")
    assert "warning: The queries are the rows of the database" in out + err
    other = ("eval", "--codes", files / "query.npz", "--database", files / "database.npz")
    assert document(capsys, *other)["flags"] == []


def test_a_quiet_evaluation_prints_figures_alone(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz", "-q"
    )
    assert code == 0, err
    assert "map_optimistic" in out
    assert "pairs/s" not in out
    assert not err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--codes", "missing.npz"], 3, "not there; check the path"),
        (
            ["--codes", "narrow.npz"],
            3,
            "expected queries of 24 bits as in the database, got 23: enc",
        ),
        (["--codes", "classes.npz"], 3, "expected 6 label columns of the queries"),
        (["--codes", "none.npz"], 3, "expected at least one row in queries, got none"),
        (["--database", "none.npz"], 3, "expected at least one row in the database, got none"),
        (["--targets", "narrow.npz"], 3, "expected 40 rows of targets, one a query, got 5"),
        (["--labels", "narrow.npz"], 3, "expected as many labels as codes, got 5 in"),
        (["--seed", "-1"], 2, "expected --seed 0 or above, got -1"),
        (["--out", "figures.json"], 2, "expected --out to end in .parquet, got 'figures.json'"),
        (["--out", "runs/eval1"], 2, "eval makes no run, and writes the figures of every query"),
        (
            ["--codes", "row.npy", "--database", "row.npy", "--column", "x"],
            2,
            "--column x: expected",
        ),
        (["--out", "folder.parquet"], 3, "a folder of that name is there"),
        (["--out", "query.npz/x.parquet"], 3, "a part of the path is a file"),
        (["--out", 300 * "a" + ".parquet"], 2, "a name that is too long"),
        (["--executor", "dask:tcp://[::1"], 2, "expected --executor inline, local or dask"),
        (["--top-k", "0"], 2, "expected --top-k above 0, got 0"),
        (["--shards", "0"], 2, "expected --shards above 0, got 0"),
        (["--executor", "slurm"], 2, "expected --executor inline, local or dask"),
        (["--convention", "dhta"], 2, "--convention dhta takes a --top-k"),
        (["--convention", "prosgan", "--top-k", "5"], 2, "takes the whole ranking: no --top-k"),
        (["--empty", "error", "--database", "lonely.npz"], 3, "have no relevant database row"),
    ],
)
def test_bad_input_is_one_line(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(files)
    write_codes(files / "narrow.npz", sample(5, 4, bits=23))
    write_codes(files / "classes.npz", sample(5, 4, classes=7))
    write_codes(files / "none.npz", sample(0, 4))
    write_codes(
        files / "lonely.npz",
        LabelledCodes(HashCodes.pack(np.ones((1, 24))), HashCodes.pack(np.zeros((1, 6)))),
    )
    (files / "folder.parquet").mkdir()
    np.save(files / "row.npy", np.ones((1, 24), np.uint8))
    options = {"--codes": "query.npz", "--database": "database.npz"}
    options |= dict(zip(change[::2], change[1::2], strict=True))
    words = [word for pair in options.items() for word in pair]
    found, out, err = command(capsys, "eval", *words, "--quiet")
    assert found == code
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(files.glob("*.partial")) + list(files.glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "query.npz", "query.npy"], "ends in .codes, got 'query.npy'"),
        (["export", "query.npz", "out.txt"], "expected a checkpoint folder, got query.npz"),
        (["export", "dpshh", "out.txt"], "did you mean 'dpsh'?"),
        (["export", "missing.codes", "out.txt"], "not there"),
        (["export", "gallery.codes", "out.txt", "--bits", "8"], "--bits is for a victim"),
        (["export", "gallery.codes", "out.pkl"], "ends in .codes, .npz, .npy, .txt"),
    ],
)
def test_conversions_that_cannot_be_are_one_line(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(files)
    write_codes(files / "gallery.codes", sample(5, 4))
    code, _, err = command(capsys, "codes", *words)
    assert code in (2, 3)
    assert message in err
    assert not list(files.glob("out.*"))


def test_codes_of_a_victim_can_be_taken_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exported codes score what the victim's card says."""
    card = document(
        capsys, "train", "--victim", "dpsh", "--bits", 16, "--set", "victim.epochs=1",
        "--out", tmp_path / "victim",
    )  # fmt: skip
    for part in ("database", "query"):
        code, _, err = command(
            capsys, "codes", "export", tmp_path / "victim", tmp_path / f"{part}.codes",
            "--part", part, "--quiet",
        )  # fmt: skip
        assert code == 0, err
    found = document(
        capsys,
        "eval",
        "--codes",
        tmp_path / "query.codes",
        "--database",
        tmp_path / "database.codes",
    )
    assert found["map"] == card["metrics"]["map_image_image"]["value"]
    assert found["bits"] == 16


@pytest.mark.parametrize("cut", [50, 10**15])
def test_conventions_and_skipped_queries_go_through_the_command(
    files: Path, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    """Against loops: a query without a hit is dropped by dhta, counts 0 for deephash."""
    query, database = sample(40, 1), sample(900, 2)
    bits, owned = database.codes.unpack(), database.labels.unpack()
    values = []
    for code, wanted in zip(query.codes.unpack(), query.labels.unpack(), strict=True):
        order = np.argsort((code != bits).sum(axis=1), kind="stable")[: min(cut, 900)]
        ranks = np.flatnonzero((wanted & owned).any(axis=1)[order]) + 1
        values.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else None)
    hits = [value for value in values if value is not None]
    assert 0 < len(hits) < 40
    common = ("eval", "--codes", files / "query.npz", "--database", files / "database.npz")
    for convention, expected, count in (
        ("dhta", np.mean(hits), len(hits)),
        ("deephash", sum(hits) / 40, 40),
    ):
        found = document(
            capsys, *common, "--convention", convention, "--top-k", cut, "--empty", "skip"
        )
        assert found[f"map_{convention}"] == pytest.approx(expected, abs=1e-12)
        assert found["metrics"][f"map_{convention}"]["n"] == count
        counted = 40 - found["empty_queries"]
        for name in ("map", "ndcg", "precision_within_2", "precision_at_k", "recall_at_k"):
            assert found["metrics"][name]["n"] == counted < 40
        assert found["precision_recall"]["precision"][2] == pytest.approx(
            found["precision_within_2"]
        )


def test_a_convention_of_the_whole_ranking_goes_through_the_command(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz",
        "--convention", "prosgan",
    )  # fmt: skip
    assert found["map_pessimistic"] < found["map_prosgan"] < found["map_optimistic"]


def test_targets_that_nothing_carries_are_counted(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(files / "none.npy", np.zeros((40, 6)))
    found = document(
        capsys, "eval", "--codes", files / "query.npz", "--database", files / "database.npz",
        "--targets", files / "none.npy",
    )  # fmt: skip
    assert (found["empty_targets"], found["tmap"]) == (40, 0.0)


def test_all_equal_codes_score_chance_exactly() -> None:
    labels = sample(300, 1).labels
    one_code = HashCodes.pack(np.ones((300, 16)))
    query = LabelledCodes(one_code[:20], labels[:20])
    columns = evaluate(query, LabelledCodes(one_code, labels)).columns
    assert columns["map"].tolist() == columns["map_chance"].tolist()
    relevant = (query.labels.unpack()[:, None] & labels.unpack()).any(axis=2).sum(axis=1)
    harmonic = sum(1 / rank for rank in range(1, 301))
    formula = (harmonic + (relevant - 1) / 299 * (300 - harmonic)) / 300
    assert columns["map"] == pytest.approx(np.where(relevant == 0, 0, formula), abs=1e-12)
    assert (
        columns["map_pessimistic"].mean() < columns["map"].mean() < columns["map_optimistic"].mean()
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_map_equals_sklearn_where_nothing_ties(shards: int) -> None:
    """Codes of one row each at distances 0 … K."""
    bits, generator = 60, np.random.default_rng(4)
    far = generator.permutation(61)
    database = HashCodes.pack(np.arange(bits) < far[:, None])
    hit = generator.random(61) < 0.4
    labels = np.stack([hit, ~hit], axis=1)
    query = LabelledCodes(HashCodes.pack(np.zeros((1, bits))), HashCodes.pack([[1, 0]]))
    found = evaluate(query, LabelledCodes(database, HashCodes.pack(labels)), shards=shards)
    expected = average_precision_score(hit, -far)
    for name in ("map", "map_optimistic", "map_pessimistic"):
        assert found.columns[name][0] == pytest.approx(expected, abs=1e-12)


def test_targets_must_have_the_classes_of_the_database() -> None:
    with pytest.raises(DataError, match="expected 6 label columns of the targets"):
        evaluate(sample(5, 1), sample(9, 2), targets=HashCodes.pack(np.ones((5, 7))))


@pytest.mark.skipif(not SPLITS.is_file(), reason="../shared/data/hash_label_splits is not here")
def test_prosgan_targets_on_flickr25k_start_from_two_thirds() -> None:
    """field.md §4: 66.7 % of FLICKR-25K is relevant to a uniform target, before any attack."""
    labels: npt.NDArray[np.uint8] = np.load(SPLITS)["flickr25k_database_labels"].astype(np.uint8)
    sets, _ = label_sets(labels)
    nothing = HashCodes.pack(np.zeros((len(labels), 12)))
    counts = histograms(nothing[: len(sets)], nothing, sets, labels)
    fraction = 100 * counts.relevant_rows.mean() / len(labels)
    chance = 100 * chance_average_precision(counts.relevant_rows, len(labels)).mean()
    assert fraction == pytest.approx(66.7, abs=0.3)
    assert chance == pytest.approx(fraction, abs=0.1)


def test_the_benchmark_reached_what_was_asked_and_the_page_shows_it() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/evaluation.md").read_text()
    bench = json.loads((root / "benchmarks/evaluation.json").read_text())
    peers, gallery, words = (
        bench[name] for name in ("peers", "mapped_gallery", "seconds_per_word_relative_to_one")
    )
    for name in ("calc_map", "calc_map_float_labels", "torch", "faiss_top_100", "popcount_only"):
        seconds, times = peers[f"seconds_{name}"], peers[f"times_faster_than_{name}"]
        assert f"| {1000 * seconds:.0f} ms | {times:.1f} times |" in page
    assert f"| {1000 * peers['seconds_advhash']:.0f} ms " in page
    assert f"{peers['pairs_per_second'] / 1e9:.1f} billion pairs/s" in page
    assert f"{gallery['seconds']:.1f} s for 1,000" in page
    assert f"{gallery['peak_memory_gib']:.2f} GiB" in page
    for figure in bench["compilation"].values():
        assert f"{figure:.1f} s" in page
    assert peers["times_faster_than_calc_map"] >= 150
    assert peers["times_faster_than_torch"] >= 40
    assert peers["times_faster_than_faiss_top_100"] >= 2
    assert gallery["peak_memory_gib"] < 1
    assert max(words.values()) < 2
