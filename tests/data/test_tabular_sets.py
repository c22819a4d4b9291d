"""Tables on disk: split first, learnt from training rows only, refused where damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from source_tree import SHARED

from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError

TABLES = SHARED / "tabular_vfl"
shared = pytest.mark.skipif(not TABLES.is_dir(), reason=f"needs {TABLES}")


def write(folder: Path, text: str) -> None:
    (folder / "adult_train.csv.gz").write_bytes(gzip.compress(text.encode()))


def made(rows: int = 200) -> str:
    generator = np.random.default_rng(0)
    lines = ["age,work,Salary"]
    for row in range(rows):
        age = "?" if row % 10 == 0 else str(generator.integers(20, 70))
        lines.append(f"{age},{['Private', 'State', '?'][row % 3]},{'>50K' if row % 4 else '<=50K'}")
    return "\n".join(lines)


def test_columns_are_learnt_from_training_rows(tmp_path: Path) -> None:
    write(tmp_path, made())
    data = load_dataset("adult", {"root": str(tmp_path)})
    assert data.card["columns"] == ["age", "work=?", "work=Private", "work=State"]
    train = data.train.inputs["table"].double().numpy()
    assert abs(train[:, 0].mean()) < 1e-6
    assert train[:, 0].std() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(train[:, 1:].sum(1), np.ones(len(train)))
    everything = sum(len(data.split(name)) for name in ("database", "validation", "query"))  # type: ignore[arg-type]
    assert everything == 200
    assert len(data.train_rows) == len(data.database)


def test_equal_rows_stay_on_one_side(tmp_path: Path) -> None:
    write(tmp_path, made(300))
    data = load_dataset("adult", {"root": str(tmp_path)})
    sides = [{row.tobytes() for row in data.split(name).inputs["table"].numpy()}
             for name in ("database", "validation", "query")]  # type: ignore[arg-type]  # fmt: skip
    assert not sides[0] & sides[2]
    assert not sides[0] & sides[1]
    assert data.card["repeated_rows"] > 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,Salary\n1,2,>50K\n1,2\n", "expected 3 cells in every row"),
        ("a,b,Salary\n", "got no rows"),
        ("", "expected a gzipped CSV"),
        ("a,b,Salary\n1,2,>50K\n2,1,<=50K\n3,1,<=50K", "every split .*got none in query, valid"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(DataError, match=message):
        load_dataset("adult", {"root": str(tmp_path)})


def test_what_is_no_archive_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got no adult_train\.csv\.gz"):
        load_dataset("adult", {"root": str(tmp_path)})
    (tmp_path / "adult_train.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="expected a gzipped CSV"):
        load_dataset("adult", {"root": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"dataset\.year 1 or 5"):
        load_dataset("polish_bankruptcy", {"year": 2, "root": str(tmp_path)})


@shared
@pytest.mark.parametrize(
    ("name", "settings", "rows", "positive"),
    [
        ("credit_default", {}, 30000, 0.2212),
        ("adult", {}, 32561, 7841 / 32561),
        ("polish_bankruptcy", {"year": 1}, 7027, 271 / 7027),
        ("polish_bankruptcy", {"year": 5}, 5910, 410 / 5910),
    ],
)
def test_the_shared_tables(
    name: str, settings: dict[str, object], rows: int, positive: float
) -> None:
    data = load_dataset(name, {**settings, "root": str(TABLES)})
    parts = [data.database, data.validation, data.query]
    assert sum(len(part) for part in parts) == rows
    assert data.card["positive_share"] == pytest.approx(positive, abs=1e-4)
    for part in parts:
        values = part.inputs["table"]
        assert bool(values.isfinite().all())
        assert values.abs().max() <= 6
        assert part.labels[:, 1].float().mean().item() == pytest.approx(positive, abs=0.02)
