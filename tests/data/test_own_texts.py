"""Own texts as a data set: who lies on which side, what is relevant, which reader takes a path."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from advhash.data.dataset import Dataset
from advhash.data.load import load_dataset
from advhash.data.paths import Reads, reader_of
from advhash.data.text.characters import as_strings
from advhash.errors import ConfigError, DataError
from advhash.shared_labels import shares

TEXTS = Reads((frozenset({"image"}), frozenset({"text"})), classes=False)
TABLE = Reads((frozenset({"table"}),))
TOPICS = ("animals", "food", "travel")


def table(file: Path, rows: list[dict[str, str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def lines(file: Path, entries: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n", "utf-8")
    return file


def labelled(count: int = 60) -> list[dict[str, str]]:
    return [{"text": f"about {TOPICS[n % 3]} {n}", "label": TOPICS[n % 3]} for n in range(count)]


def grouped(groups: int = 20) -> list[dict[str, str]]:
    return [{"caption": f"{n} so {part}", "group": f"g{n}"} for n in range(groups) for part in "ab"]


def beir(folder: Path, judged: list[tuple[str, str, int]] | None = None) -> Path:
    corpus = [{"_id": f"d{n}", "title": "T", "text": f"text {n}"} for n in range(30)]
    lines(folder / "corpus.jsonl", corpus)
    lines(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(12)])
    if judged is None:
        judged = [(f"q{n}", f"d{n + step}", step) for n in range(10) for step in (0, 1, 2)]
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{grade}\n" for q, d, grade in judged)
    )
    return folder


def everything(data: Dataset) -> list[str]:
    return [text for part in data.stored.values() for text in part.texts]


def test_labels_are_columns_and_equal_texts_lie_on_one_side(tmp_path: Path) -> None:
    rows = [*labelled(), {"text": "nothing said", "label": ""}, {"text": "  ", "label": "food"}]
    rows += [{"text": "about food 1", "label": "food;travel"}] * 5
    data = load_dataset(table(tmp_path / "reviews.csv", rows), reads=TEXTS)
    assert data.classes == TOPICS
    assert sorted(everything(data)) == sorted(row["text"] for row in rows if row["text"].strip())
    assert sum("about food 1" in part.texts for part in data.stored.values()) == 1
    assert "nothing said" in data.database.texts
    assert data.database.texts.index("nothing said") not in data.train_rows.tolist()
    assert data.card["columns"] == {"texts": "text", "labels": "label"}
    assert data.card["rows_without_text_left_out"] == 1
    assert data.card["giveaway_words"]["food"][0]["word"] == "food"  # type: ignore[index]
    assert as_strings(data.query.inputs["text"]) == list(data.query.texts)
    assert data.text_kind == "characters"
    several = data.database.labels[:, 1:].sum(1) == 2
    assert {data.database.texts[row] for row in several.nonzero()[:, 0]} <= {"about food 1"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_delimiter_parts_the_columns_of_a_table_of_texts(
    delimiter: str, tmp_path: Path
) -> None:
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(labelled())
    assert reader_of(file, None).reader == reader_of(file, TEXTS).reader == "texts"
    assert load_dataset(file, reads=TEXTS).classes == TOPICS


@pytest.mark.parametrize("settings", [{}, {"label": "topic"}, {"label": "topic", "parties": 1}])
def test_texts_that_are_read_as_a_table_are_told_how_to_be_read(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    rows = [{"message": f"{row['text']} 1", "topic": row["label"]} for row in labelled(120)]
    file = table(tmp_path / "wrong.csv", rows)
    with pytest.raises((ConfigError, DataError)) as raised:
        load_dataset(file, settings)
    said = f"say --dataset texts --set dataset.root={file} --set dataset.column=message"
    assert said in str(raised.value)
    advised = {"root": str(file), "column": "message", "label": "topic"}
    assert load_dataset("texts", advised).classes == TOPICS


@pytest.mark.parametrize("column", ["label", "group"])
def test_the_card_counts_texts_without_a_label_and_takes_them_for_no_set(
    column: str, tmp_path: Path
) -> None:
    rows = [{"text": row["text"], column: row["label"]} for row in labelled(90)]
    for row in rows[::5]:
        row[column] = ""
    card = load_dataset(table(tmp_path / "missing.csv", rows), reads=TEXTS).card
    assert card["items_without_label"] == len(rows[::5])
    assert card["label_sets"] == len(TOPICS)


def test_a_group_that_is_asked_for_is_not_trained_on(tmp_path: Path) -> None:
    rows = [*grouped(), *({"caption": f"alone {n}", "group": ""} for n in range(3))]
    data = load_dataset(lines(tmp_path / "pairs.jsonl", rows), reads=TEXTS)
    assert data.grouped
    train = data.train_labels
    for part in (data.query, data.validation):
        assert len(part) > 0
        assert not shares(part.labels.numpy(), train.numpy()).any()
        assert (shares(part.labels.numpy(), data.database.labels.numpy()).sum(1) == 1).all()
    assert sum(text.startswith("alone") for text in data.database.texts) == 3
    assert bool((train >= 0).all())


def test_a_stated_split_is_taken(tmp_path: Path) -> None:
    names = ("test", "dev", "database", "train")
    rows = [{**row, "split": names[at % 4]} for at, row in enumerate(labelled(24))]
    data = load_dataset(table(tmp_path / "reviews.tsv.csv", rows), reads=TEXTS)
    assert {name: len(part) for name, part in data.stored.items()} == {
        "database": 12, "validation": 6, "query": 6,
    }  # fmt: skip
    assert len(data.train_rows) == 6
    rows[3]["split"] = "later"
    with pytest.raises(DataError, match=r"expected a split of .* got 'later'"):
        load_dataset(table(tmp_path / "wrong.csv", rows), reads=TEXTS)


def test_json_lines_may_list_labels_and_leave_fields_out(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [
        {"sentence": row["text"], "labels": [row["label"], "all"]} for row in labelled(30)
    ]
    entries.append({"sentence": "bare"})
    data = load_dataset(lines(tmp_path / "notes.jsonl", entries), reads=TEXTS)
    assert data.classes == ("all", *TOPICS)
    assert bool(data.query.labels[:, 0].all())
    assert "bare" in data.database.texts


def test_class_folders_of_texts(tmp_path: Path) -> None:
    for number, row in enumerate(labelled(30)):
        (tmp_path / row["label"]).mkdir(exist_ok=True)
        (tmp_path / row["label"] / f"{number}.txt").write_text(f"{row['text']}\nsecond line\n")
    (tmp_path / "food" / ".hidden.txt").write_text("no")
    (tmp_path / "food" / "link.txt").symlink_to(tmp_path / "food" / "1.txt")
    data = load_dataset(tmp_path, reads=TEXTS)
    assert data.classes == TOPICS
    assert len(everything(data)) == 30
    assert all(text.endswith("\nsecond line") for text in everything(data))
    (tmp_path / "food" / "x.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"expected UTF-8 text in .*x\.txt"):
        load_dataset(tmp_path, reads=TEXTS)


def test_a_beir_folder_is_relevant_as_it_is_judged(tmp_path: Path) -> None:
    """A grade of 0 is none; queries without a judgement are left out."""
    data = load_dataset(beir(tmp_path / "set"), reads=TEXTS)
    assert (len(data.query), len(data.validation), len(data.database)) == (8, 2, 30)
    assert data.database.texts[4] == "T text 4"
    relevant = shares(data.query.labels.numpy(), data.database.labels.numpy())
    for name, row in zip(data.query.names, relevant, strict=True):
        number = int(name.removeprefix("q"))
        assert row.nonzero()[0].tolist() == [number + 1, number + 2]
    trained = data.database.labels[data.train_rows]
    assert bool((trained < 0).all())
    assert len(trained) == 19


def test_lines_end_where_a_table_ends_them(tmp_path: Path) -> None:
    """Not at the other marks of Unicode, which texts may hold."""
    rows = [{**row, "text": f"{row['text']}\u2028next\x85"} for row in labelled(30)]
    data = load_dataset(table(tmp_path / "reviews.csv", rows), reads=TEXTS)
    assert all("\u2028next" in text for text in everything(data))


@pytest.mark.parametrize(
    ("columns", "reads", "reader"),
    [
        (("Text", "label"), TEXTS, "texts"),
        (("Text", "label"), None, "texts"),
        (("Text", "label"), TABLE, "table"),
        (("age", "label"), None, "table"),
        (("image", "caption", "labels"), None, "captioned"),
    ],
)
def test_which_reader_takes_a_table(
    columns: tuple[str, ...], reads: Reads | None, reader: str, tmp_path: Path
) -> None:
    file = table(tmp_path / "t.csv", [dict.fromkeys(columns, "x")])
    assert reader_of(file, reads).reader == reader


def test_a_table_without_a_known_column_of_texts_says_how_it_is_named(tmp_path: Path) -> None:
    rows = [{"words": row["text"], "label": row["label"]} for row in labelled()]
    file = table(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=r"--set dataset\.column=NAME"):
        load_dataset(file, reads=TEXTS)
    data = load_dataset("texts", {"root": str(file), "column": "words"})
    assert len(everything(data)) == 60


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (labelled(), {"label": "topic"}, "dataset.label: expected a column of .* got 'topic'"),
        (labelled(), {"label": "label", "group": "text"}, "dataset.label or dataset.group"),
        (labelled(), {"label": "text"}, "say --set dataset.group=text"),
        (labelled(), {"text": "words"}, "expected text=characters, tokens or sentence"),
        (labelled(), {"split": "test"}, "names qrels of a BEIR folder"),
        (labelled(10), {}, "expected at least 20 texts"),
        ([{"text": f"{n}", "of": "a"} for n in range(30)], {}, "expected dataset.label or dataset"),
        (
            [{"text": f"{n}", "group": f"{n}"} for n in range(30)],
            {},
            "expected identities with two",
        ),
    ],
)
def test_tables_that_are_refused(
    rows: list[dict[str, str]], settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    file = table(tmp_path / "t.csv", rows)
    with pytest.raises((ConfigError, DataError), match=message) as refused:
        load_dataset("texts", {"root": str(file), **settings})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("judged", "settings", "message"),
    [
        ([("q0", "d0", 1), ("q1", "nobody", 1)], {}, "not there in 1 lines: take these lines out"),
        ([("q0", "d0", 1)], {}, "expected at least 2 queries with a relevant document"),
        ([(f"q{n % 12}", f"d{n}", 1) for n in range(30)], {}, "rows in every split .* train"),
        (None, {"split": "dev"}, "expected dataset.split, .* one of test"),
        (None, {"column": "text"}, "is a BEIR folder: expected dataset.split alone"),
    ],
)
def test_judgements_that_are_refused(
    judged: Any, settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    folder = beir(tmp_path / "set", judged)
    with pytest.raises((ConfigError, DataError), match=message) as refused:
        load_dataset("texts", {"root": str(folder), **settings})
    assert "\n" not in str(refused.value)


def test_the_fingerprint_follows_the_texts(tmp_path: Path) -> None:
    rows = labelled()
    first = load_dataset(table(tmp_path / "t.csv", rows), reads=TEXTS)
    again = load_dataset(table(tmp_path / "t.csv", rows), reads=TEXTS)
    assert first.fingerprint() == again.fingerprint()
    rows[0]["text"] += "!"
    other = load_dataset(table(tmp_path / "t.csv", rows), reads=TEXTS)
    assert other.fingerprint() != first.fingerprint()


def test_an_empty_file_of_lines_is_told_as_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"expected rows in .*empty.jsonl, got none"):
        load_dataset(tmp_path / "empty.jsonl")
