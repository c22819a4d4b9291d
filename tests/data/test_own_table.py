"""A table of one's own: split first, learnt from training rows, shared out by columns."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.data.parties import party_view
from advhash.errors import AdvhashError, ConfigError, DataError
from advhash.victims.federated.hashvfl import HashVFL

Rows = dict[str, list[Any]]


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def made(count: int = 120) -> Rows:
    """Three classes that age, work and pay tell of; some cells are missing."""
    generator = np.random.default_rng(0)
    targets = np.arange(count) % 3
    return {
        "age": [
            None if row % 10 == 0 else round(float(30 + 10 * target + generator.normal()), 3)
            for row, target in enumerate(targets)
        ],
        "work": [
            None if row % 15 == 1 else ["state", "own", "private"][target]
            for row, target in enumerate(targets)
        ],
        "zip": [int(code) for code in generator.integers(0, 4, count)],
        "pay": [float(100 * target + row) for row, target in enumerate(targets)],
        "hours": [float(value) for value in generator.normal(40, 5, count)],
        "target": ["abc"[target] for target in targets],
    }


def write(file: Path, rows: Rows, delimiter: str = ",", missing: str = "?") -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.table(rows), file)
        return file
    opened: Any = gzip.open if file.suffix == ".gz" else open
    with opened(file, "wt", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(rows)
        for row in zip(*rows.values(), strict=True):
            cells = [missing if cell is None else str(cell) for cell in row]
            decimal = delimiter == ";"
            writer.writerow(
                [cell.replace(".", ",") if decimal and "." in cell else cell for cell in cells]
            )
    return file


def read(file: Path, **settings: Any) -> Dataset:
    return load_dataset("table", {"root": str(file), **settings})


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "b.csv", "a.parquet"])
def test_every_form_of_a_table_gives_the_same_data(tmp_path: Path, name: str) -> None:
    expected = read(write(tmp_path / "x.csv", made()))
    delimiter = {"a.tsv": "\t", "b.csv": ";"}.get(name, ",")
    found = read(write(tmp_path / name, made(), delimiter))
    assert found.fingerprint() == expected.fingerprint()
    assert found.card["label_column"] == "target"
    assert found.classes == ("a", "b", "c")


def test_columns_are_learnt_from_training_rows_alone(tmp_path: Path) -> None:
    data = read(write(tmp_path / "a.csv", made()))
    assert data.card["numeric"] == ["age", "zip", "pay", "hours"]
    assert data.card["categorical"] == ["work"]
    assert data.card["missing_cells"] == {"age": 12, "work": 8}
    assert data.card["columns"] == [
        "age", "work=(missing)", "work=own", "work=private", "work=state", "zip", "pay", "hours",
    ]  # fmt: skip
    train = data.train.inputs["table"].double().numpy()
    numbers = [0, 5, 6, 7]
    assert np.abs(train[:, numbers].mean(0)).max() < 1e-6
    assert train[:, numbers].std(0) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(train[:, 1:5].sum(1), np.ones(len(train)))
    by_hand = {f"{name} (no. {row})": row for row, name in enumerate(made()["target"])}
    rows = [by_hand[name] for name in data.train.names]
    pay = np.array(made()["pay"])
    expected = (pay[rows] - pay[rows].mean()) / pay[rows].std()
    assert train[:, 6] == pytest.approx(expected, abs=1e-6)
    ages = [made()["age"][row] for row in rows]
    median = np.median([age for age in ages if age is not None])
    filled = np.array([median if age is None else age for age in ages])
    assert train[:, 0] == pytest.approx((filled - filled.mean()) / filled.std(), abs=1e-5)


def test_numbers_can_be_words_and_columns_can_be_left_out(tmp_path: Path) -> None:
    data = read(write(tmp_path / "a.csv", made()), categorical=["zip"], drop=["hours", "work"])
    assert data.card["columns"] == ["age", "zip=0", "zip=1", "zip=2", "zip=3", "pay"]


@pytest.mark.parametrize(
    ("parties", "widths", "held"),
    [
        (1, (), [["age", "work", "zip", "pay", "hours"]]),
        (2, (6, 2), [["age", "work", "zip"], ["pay", "hours"]]),
        (3, (5, 2, 1), [["age", "work"], ["zip", "pay"], ["hours"]]),
        (
            {"bank": ["pay", "hours"], "town": ["work", "age", "zip"]},
            (2, 6),
            [["pay", "hours"], ["work", "age", "zip"]],
        ),
    ],
)
def test_columns_stay_with_their_party(
    tmp_path: Path, parties: Any, widths: tuple[int, ...], held: list[list[str]]
) -> None:
    """Five columns for two parties, one of them four features wide."""
    data = read(write(tmp_path / "a.csv", made()), parties=parties)
    assert data.parties == widths
    found: dict[str, list[str]] = data.card["parties_of_columns"]  # type: ignore[assignment]
    assert [*found.values()] == held
    if widths:
        view = party_view(data, len(widths))
        assert [part.shape[1] for part in view.query.inputs.values()] == list(widths)
        whole = torch.cat(list(view.query.inputs.values()), dim=1)
        assert torch.equal(whole, data.query.inputs["table"])
        with pytest.raises(ConfigError, match=rf"expected {len(widths)}, as 'table' shares"):
            party_view(data, 5)


def test_a_federation_is_trained_on_it(tmp_path: Path) -> None:
    data = read(write(tmp_path / "a.csv", made()), parties={"b": ["pay"], "t": ["work", "age", "zip", "hours"]})  # fmt: skip  # noqa: E501
    settings: dict[str, Any] = dict(HashVFL.data_arguments(data))
    assert settings == {"shape": (8,), "classes": 3, "parties": 2, "widths": (1, 7)}
    victim = HashVFL(bits=8, epochs=30, **settings).fit(data, seed=0)
    view = party_view(data, 2)
    guessed = victim.predict_split(view.query)
    assert (guessed == view.query.labels.argmax(1)).float().mean() > 0.8
    with pytest.raises(ValueError, match=r"widths of 2 parties that add up to 8 .*got \(1, 6\)"):
        HashVFL(bits=8, **{**settings, "widths": (1, 6)})


def test_the_command_line_trains_on_the_path_of_a_table(
    tmp_path: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    """It was an unknown data set."""
    file = write(tmp_path / "mine.csv", made())
    words = ("train", "--victim", "hashvfl", "--dataset", str(file), "--set", "victim.epochs=8")
    code, out, err = advhash(*words, "--bits", "8", "--out", str(tmp_path / "checkpoint"))
    assert code == 0, err
    assert f"{file}: the table mine.csv, read by 'table'" in err
    assert "map" in out
    codes = ("codes", "export", str(tmp_path / "checkpoint"), str(tmp_path / "a.npz"))
    code, _, err = advhash(*codes, "--quiet")
    assert code == 0, err
    code, _, err = advhash(*words, "--set", "victim.parties=3")
    assert (code, err.strip().splitlines()[-1]) == (
        2,
        "advhash: error: victim.parties follows from the data 'table': expected 2, got 3; set "
        "dataset.parties",
    )
    code, _, err = advhash(*words, "--bits", "8", "--set", "dataset.parties=3")
    assert code == 0, err


def change(**columns: Any) -> Rows:
    return {**made(), **columns}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ({k: v for k, v in made().items() if k != "target"}, {}, "dataset.label, .* one of age, w"),
        (change(y=made()["target"]), {}, "expected dataset.label, the column"),
        (made(), {"label": "klass"}, "dataset.label: expected columns of .*got 'klass'; it has"),
        (made(), {"drop": ["nothing"]}, "dataset.drop: expected columns of"),
        (made(), {"drop": ["target"]}, "'target' is named by dataset.label already"),
        (made(), {"numeric": ["work"]}, "numbers in the column 'work' .*got 'state'"),
        (made(), {"label": "hours"}, "classes in the column 'hours' .*got 120 different values"),
        (change(target=["a"] * 120), {}, "got 1 different values in 120 rows"),
        (change(target=[None] * 120), {}, "classes in the column 'target' of .*, got none"),
        (
            made(400) | {"work": [f"w{row}" for row in range(400)]},
            {},
            "at most 93 different words in the column 'work' .* got 280 in 280 .*dataset.drop",
        ),
        (made(), {"parties": 6}, "dataset.parties: expected 1 to 5, the columns"),
        (made(), {"parties": {"a": ["pay"]}}, "got none for age, work, zip, hours"),
        (made(), {"parties": {"a": ["pay", "nix"]}}, "columns that are there, got nix"),
        (made(), {"parties": {"a": ["pay"], "b": ["pay"]}}, "each column once, got pay"),
        (
            made(4) | {"target": [*"abaa"]},
            {},
            "every split of .*a.csv, got none in query, validation",
        ),
    ],
)
def test_tables_that_cannot_be_used_are_told_in_one_line(
    tmp_path: Path, rows: Rows, settings: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "a.csv", rows)
    with pytest.raises(AdvhashError, match=message) as refused:
        read(file, **settings)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, ConfigError | DataError)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"age,target\n1,a\n2\n",
            "expected 2 cells in every row .*got 1 in line 3: mend",
        ),
        ("a.csv", b"age,age\n1,a\n", "a different name for each column .*'age' twice"),
        ("a.csv", b"target\na\n", "got 1 rows of columns target: add what is missing"),
        ("a.csv", b"age,target\n", "got 0 rows of columns age, target"),
        ("a.csv", b"\xff\xfe\x00", "a CSV file with a header .*no UTF-8 text .*: save it as UTF-8"),
        ("a.csv", b"", "expected a CSV file with a header .*, got no line of text"),
        ("a.csv.gz", b"no gzip", "expected a CSV file with a header"),
        ("a.parquet", b"PAR1 nothing", "expected a Parquet file"),
        ("a.xlsx", b"PK", r"expected a table \(.csv, .*got .*a.xlsx"),
    ],
)
def test_damaged_files_are_told_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_rows_without_a_class_are_left_out_and_number_classes_are_sorted(tmp_path: Path) -> None:
    rows = change(target=[None if row < 5 else float(row % 11) for row in range(120)])
    data = read(write(tmp_path / "a.csv", rows))
    assert data.classes == tuple(str(number) for number in range(11))
    assert data.card["rows_without_class_left_out"] == 5
    assert len(data.query) + len(data.validation) + len(data.database) == 115


def test_a_small_parquet_file_of_endless_rows_is_refused(tmp_path: Path) -> None:
    """A word that repeats takes a few bytes in the file."""
    file = tmp_path / "a.parquet"
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2**20, np.int32)), pa.array(["a"]))
    with pq.ParquetWriter(file, pa.schema([("a", words.type), ("b", words.type)])) as writer:
        for _ in range(130):
            writer.write_table(pa.table({"a": words, "b": words}))
    assert file.stat().st_size < 2**20
    with pytest.raises(DataError, match="expected at most 268,435,456 bytes"):
        read(file)


def test_nested_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", change(words=[["a"]] * 120))
    with pytest.raises(DataError, match="got lists or tables in 'words': leave"):
        read(file)
