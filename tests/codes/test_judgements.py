"""Relevance in files: BEIR folders, TREC qrels and pairs give the same graded pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advhash.codes.judgements import Judgements, Side, read_ids, read_judgements
from advhash.errors import DataError

QUERIES, DOCUMENTS = ("q7", "q2", "q9"), ("d1", "d0", "d5", "d3")
GRADED = {("q9", "d0"): 2, ("q7", "d5"): 1, ("q9", "d3"): 1, ("q7", "d1"): 0}
CSR = ([0, 2], [0, 2, 4], [[0, 2], [1, 3]], [[0.0, 1.0], [2.0, 1.0]])


def sides() -> tuple[Side, Side]:
    return Side("queries", 3, QUERIES), Side("database", 4, DOCUMENTS)


def beir(folder: Path, *splits: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, ids in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        lines = (json.dumps({"_id": own, "text": "é"}) + "\n" for own in ids)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    for split in splits:
        rows = "".join(f"{query}\t{row}\t{grade}\n" for (query, row), grade in GRADED.items())
        (folder / f"qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def parts(judgements: Judgements) -> tuple[list[Any], ...]:
    """Queries, starts, and rows and grades of each query in the order of the rows."""
    pairs = judgements.pairs
    rows, grades = [], []
    for first, last in zip(pairs.starts[:-1], pairs.starts[1:], strict=True):
        order = first + np.argsort(pairs.rows[first:last])
        rows.append(pairs.rows[order].tolist())
        grades.append(pairs.grades[order].tolist())
    return judgements.queries.tolist(), pairs.starts.tolist(), rows, grades


def test_a_beir_folder_names_the_rows_by_its_lines(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir", "test", "dev")
    found = read_judgements(folder, Side("queries", 3), Side("database", 4))
    assert parts(found) == CSR
    assert found.source.endswith("qrels/test.tsv")
    assert found.rows == "ids"
    other = read_judgements(folder, Side("queries", 3), Side("database", 4), split="dev")
    assert other.source.endswith("qrels/dev.tsv")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trec.txt", "{query} 0 {row} {grade}\n"),
        ("trec.qrels", "{query}\t0\t{row}\t{grade}\n"),
        ("three.tsv", "{query}\t{row}\t{grade}\n"),
        ("three.csv", "{query},{row},{grade}.0\r\n"),
        ("quoted.csv", '"{query}","{row}",{grade}\n'),
    ],
)
def test_every_file_of_judgements_gives_the_same_pairs(
    tmp_path: Path, name: str, text: str
) -> None:
    judged = ((*pair, grade) for pair, grade in GRADED.items())
    lines = [text.format(query=query, row=row, grade=grade) for query, row, grade in judged]
    (tmp_path / name).write_text("\n".join(lines))
    assert parts(read_judgements(tmp_path / name, *sides())) == CSR


@pytest.mark.parametrize("header", ["", "query_id,doc_id\n", "query-id,corpus-id\n"])
def test_pairs_have_grade_1(tmp_path: Path, header: str) -> None:
    (tmp_path / "pairs.csv").write_text(header + "q9,d0\nq9,d3\n")
    found = read_judgements(tmp_path / "pairs.csv", *sides())
    assert parts(found) == ([2], [0, 2], [[1, 3]], [[1.0, 1.0]])


def test_rows_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("2 1\n0 3\n2 1\n")
    found = read_judgements(tmp_path / "pairs.txt", Side("queries", 3), Side("database", 4))
    assert parts(found) == ([0, 2], [0, 1, 2], [[3], [1]], [[1.0], [1.0]])
    assert found.rows == "row numbers"


def test_ids_come_from_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("d 1\nd0\n\n5\n")
    (tmp_path / "a.jsonl").write_text('{"id": "d 1"}\n{"_id": "d0", "id": 3}\n"5"\n')
    np.save(tmp_path / "a.npy", np.array(["d 1", "d0", "5"]))
    np.savez(tmp_path / "a.npz", ids=np.array(["d 1", "d0", "5"]))
    pq.write_table(pa.table({"_id": ["d 1", "d0", "5"]}), tmp_path / "a.parquet")
    for suffix in ("txt", "jsonl", "npy", "npz", "parquet"):
        assert read_ids(tmp_path / f"a.{suffix}") == ("d 1", "d0", "5")
    np.save(tmp_path / "b.npy", np.arange(3))
    assert read_ids(tmp_path / "b.npy") == ("0", "1", "2")


def test_a_file_of_ids_comes_before_all_others(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir", "test")
    (tmp_path / "ids.txt").write_text("q9\nq7\n")
    asked = Side("queries", 2, ("x", "y"), tmp_path / "ids.txt")
    assert read_judgements(folder, asked, Side("database", 4)).queries.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q9 d0\nq9 d8\nq1 d3\nq1 d7\n", "names 1 queries that are not there, the first 'q1' and 2 "
         "documents that are not there, the first 'd8': give the ids .*or .* --ignore-unknown"),
        ("q9 0 d0 high\n" * 2, "line 2: expected a grade, got 'high'"),
        ("q9 0 d0 1\nq9 0 d3 nan\n", "line 2: expected a grade, got 'nan'"),
        ("q9 0 d0 1\nq9 d3\n", "line 2: expected 4 columns as before, got 2"),
        ("q9\n", r"line 1: expected 2 columns \(query, document\), 3 .*, got 1"),
        ("q9 d0 1\nq9 d0 2\n", "line 2: expected one grade for 'q9' and 'd0', got 1 and 2"),
        ("", "expected judgements of these queries and documents, got none"),
    ],
)  # fmt: skip
def test_judgements_that_cannot_be_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_judgements(tmp_path / "a.txt", *sides())
    assert "\n" not in str(caught.value)


def test_unknown_rows_are_left_out_where_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("q9 d0\nq9 d8\nq1 d3\n")
    found = read_judgements(tmp_path / "a.txt", *sides(), ignore=True)
    assert parts(found) == ([2], [0, 1], [[1]], [[1.0]])
    assert found.ignored == 2
    (tmp_path / "b.txt").write_text("0 1\nx 1\n")
    with pytest.raises(DataError, match="rows are called by their numbers, as no file names them"):
        read_judgements(tmp_path / "b.txt", Side("queries", 1), Side("database", 2))


def test_folders_and_ids_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    asked, known = Side("queries", 3), Side("database", 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected a BEIR folder .*, got no corpus.jsonl"):
        read_judgements(tmp_path / "empty", asked, known)
    with pytest.raises(DataError, match=r"got no qrels/\*.tsv"):
        read_judgements(beir(tmp_path / "none"), asked, known)
    folder = beir(tmp_path / "two", "train", "dev")
    with pytest.raises(DataError, match="expected --split to be one of dev, train, got none"):
        read_judgements(folder, asked, known)
    with pytest.raises(DataError, match="one of dev, train, got test"):
        read_judgements(folder, asked, known, split="test")
    with pytest.raises(DataError, match="expected a BEIR folder for --split dev, got no folder"):
        read_judgements(tmp_path / "x.tsv", asked, known, split="dev")
    with pytest.raises(DataError, match=r"expected 2 ids, one a row of the queries, got 3: give .*"
                       "--query-ids FILE"):  # fmt: skip
        read_judgements(folder, Side("queries", 2), known, split="dev")
    twice = Side("database", 4, ("d1", "d0", "d1", "d3"))
    with pytest.raises(DataError, match="different ids of the database, got 'd1' in rows 0 and 2"):
        read_judgements(folder, asked, twice, split="dev")
    (tmp_path / "ids.jsonl").write_text('{"_id": "a"}\n{"name": "b"}\n')
    with pytest.raises(DataError, match="line 2: expected a field '_id' or 'id'"):
        read_ids(tmp_path / "ids.jsonl")
