"""Files of codes: our format round trips and refuses damage; others' formats are read strictly."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from advhash.codes import HashCodes
from advhash.codes.code_files import (
    SUFFIX,
    LabelledCodes,
    checksum,
    map_codes,
    read_codes,
    read_labels,
    write_codes,
)
from advhash.codes.labels import LabelForm, read_labels as as_labels
from advhash.errors import DataError, StorageError, UsageError
from advhash.storage import documents


def sample(rows: int = 100, bits: int = 70, classes: int = 5, seed: int = 0) -> LabelledCodes:
    generator = np.random.default_rng(seed)
    return LabelledCodes(
        HashCodes.pack(generator.random((rows, bits)) < 0.5),
        HashCodes.pack(generator.random((rows, classes)) < 0.4),
    )


def same(left: LabelledCodes, right: LabelledCodes) -> bool:
    return (
        left.codes.bits == right.codes.bits
        and left.labels.bits == right.labels.bits
        and np.array_equal(left.codes.words, right.codes.words)
        and np.array_equal(left.labels.words, right.labels.words)
    )


@pytest.mark.parametrize("bits", [1, 64, 65, 1024, 3072])
@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_our_format_round_trips(tmp_path: Path, bits: int, rows: int) -> None:
    data = sample(rows, bits)
    file = tmp_path / f"gallery{SUFFIX}"
    write_codes(file, data)
    read = map_codes(file)
    assert same(read, data)
    assert read.path == file


def test_our_format_is_as_documented(tmp_path: Path) -> None:
    """Read by hand, from nothing but the table in the docstring."""
    data = sample(3, 65, 2)
    file = tmp_path / f"a{SUFFIX}"
    write_codes(file, data)
    content = file.read_bytes()
    magic, version, bits, rows, classes, zero = struct.unpack_from("<8sIIQII", content)
    assert (magic, version, bits, rows, classes, zero) == (b"ADVHCODE", 1, 65, 3, 2, 0)
    words = np.frombuffer(content, "<u8", count=6, offset=64).reshape(3, 2)
    labels = np.frombuffer(content, "<u8", offset=64 + 48).reshape(3, 1)
    assert np.array_equal(words, data.codes.words)
    assert np.array_equal(labels, data.labels.words)
    assert content[32:64].hex() == checksum(file)


def test_rows_are_mapped_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / f"a{SUFFIX}"
    write_codes(file, sample())
    words = map_codes(file, verify=False).codes.words
    base: object = words
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize("position", [64, 700, -1])
def test_a_flipped_bit_is_found(tmp_path: Path, position: int) -> None:
    file = tmp_path / f"a{SUFFIX}"
    write_codes(file, sample(bits=64, classes=64))
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="checksum differs"):
        map_codes(file)
    map_codes(file, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"PK\x03\x04" + content[4:], "expected a .codes file"),
        (lambda content: b"", "expected a .codes file"),
        (lambda content: content[:40], "its header is cut off"),
        (lambda content: content[:-8], "bytes for 100 rows"),
        (lambda content: content + b"x", "bytes for 100 rows"),
        (lambda content: content[:8] + b"\x02" + content[9:], "format version 1, got 2"),
        (lambda content: content[:12] + bytes(4) + content[16:], "states 0 bits"),
        (lambda content: content[:16] + b"\xff" * 8 + content[24:], "bytes for 1844674407"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, change: object, message: str) -> None:
    file = tmp_path / f"a{SUFFIX}"
    write_codes(file, sample())
    file.write_bytes(change(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        map_codes(file)
    assert "\n" not in str(caught.value)


def test_unused_bits_that_are_set_are_damage(tmp_path: Path) -> None:
    """They would add to every distance."""
    data = sample(4, 3)
    words = data.codes.words.copy()
    words[2] |= np.uint64(1) << np.uint64(3)
    file = tmp_path / f"a{SUFFIX}"
    write_codes(file, LabelledCodes(HashCodes(words, 3), data.labels))
    with pytest.raises(DataError, match="unused bits"):
        map_codes(file)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_codes(tmp_path / "file" / f"a{SUFFIX}", sample())
    with pytest.raises(UsageError, match=r"ends in .*, got 'a\.parquet'"):
        write_codes(tmp_path / "a.parquet", sample())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", [f"a{SUFFIX}", "a.npz"])
def test_formats_with_labels_round_trip(tmp_path: Path, name: str) -> None:
    data = sample()
    write_codes(tmp_path / name, data)
    assert same(read_codes(tmp_path / name), data)


@pytest.mark.parametrize("name", ["a.npy", "a.txt"])
def test_formats_without_labels_need_a_second_file(tmp_path: Path, name: str) -> None:
    data = sample()
    write_codes(tmp_path / name, data)
    with pytest.raises(DataError, match="expected a second file with their labels"):
        read_codes(tmp_path / name)
    np.save(tmp_path / "labels.npy", data.labels.unpack())
    assert same(read_codes(tmp_path / name, tmp_path / "labels.npy"), data)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.float32, np.float16])
def test_codes_may_be_0_and_1_of_any_type(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    data = sample()
    file = tmp_path / "a.npz"
    np.savez(file, codes=data.codes.unpack().astype(dtype), labels=data.labels.unpack())
    assert same(read_codes(file), data)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
def test_codes_may_be_plus_and_minus_1(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    data = sample()
    file = tmp_path / "a.npz"
    np.savez(file, codes=data.codes.signs().astype(dtype), labels=data.labels.unpack())
    assert same(read_codes(file), data)


@pytest.mark.parametrize(
    "text",
    [
        "0 1 1\n1 0 0\n",
        "0,1,1\n1,0,0",
        "011\n\n100\n",
        "\ufeff0 1 1\r\n1 0 0\r\n",
        "-1 +1 1\n1 -1 -1",
    ],
)
def test_text_in_every_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "labels.csv").write_text("1 0\n0 1\n")
    data = read_codes(tmp_path / "a.txt", tmp_path / "labels.csv")
    assert data.codes.unpack().astype(int).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert data.labels.unpack().astype(int).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "text",
    [
        "0.0 1.0 1.0\n1 0. 0\n",
        "0.000000000000000000e+00 1.000000000000000000e+00 1e0\n1 0 0\n",  # np.savetxt
        "# made by hand\n0 1 1\n1 0 0\n",  # np.savetxt with a header
        "0,1,2\n0,1,1\n1,0,0\n",  # pandas, index=False
        ",0,1,2\n0,0,1,1\n1,1,0,0\n",  # pandas
        ",b0,b1,b2\nim1.jpg,0,1,1\nim2.jpg,1,0,0\n",  # pandas, an index of its own
        "\t0\t1\t2\n0\t0\t1\t1\n1\t1\t0\t0\n",
        '"V1","V2","V3"\n"1",0,1,1\n"2",1,0,0\n',  # R
        "id;b0;b1;b2\n7;0;1;1\n8;1;0;0\n",
        "-1.0;1.0;+1\n1.0;-1.0;-1.0\n",
    ],
)
def test_numbers_are_read_in_the_form_of_every_program(tmp_path: Path, text: str) -> None:
    """`.npy` takes what these programs hold, so text does."""
    (tmp_path / "a.csv").write_text(text)
    np.save(tmp_path / "labels.npy", np.eye(2))
    data = read_codes(tmp_path / "a.csv", tmp_path / "labels.npy")
    assert data.codes.unpack().astype(int).tolist() == [[0, 1, 1], [1, 0, 0]]


def test_labels_have_headers_and_indices_as_well(tmp_path: Path) -> None:
    for text in ("label\n3\n0\n", ",label\n0,3\n1,0\n", ",0\na.jpg,3.0\nb.jpg,0.0\n"):
        (tmp_path / "a.csv").write_text(text)
        found = read_labels(tmp_path / "a.csv")
        assert found.hot.unpack().astype(int).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 x 1\n1 0 1\n", "line 1: expected 0, 1 or -1, got 'x'"),
        ("b0,b1\nc0,c1\n", "line 1: expected 0, 1 or -1, got 'b0'"),
        ("b0,b1\n0,1\n1,x\n", "line 3: expected 0, 1 or -1, got 'x'"),
        ("b0,b1\n0,1,1,1\n", "line 1: expected 0, 1 or -1, got 'b0'"),
        ("b0,b1\n0,0.5\n", "line 2: expected 0, 1 or -1, got '0.5'"),
        ("011\n01\n", "line 2: expected 3 values as before, got 2"),
    ],
)
def test_a_header_excuses_no_line_of_values(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_codes(tmp_path / "a.csv", tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n0 2\n", "line 2: expected 0, 1 or -1, got '2'"),
        ("0 1\n0 1 1\n", "line 2: expected 2 values as before, got 3"),
        ("0 nan\n", "line 1: expected 0, 1 or -1, got 'nan'"),
        ("0,1\n0,,1\n", "line 2: expected 0, 1 or -1, got ''"),
        ("1 -1\n0 1\n", r"sign\(0\) is no bit"),
        ("\x00\xff", "line 1: expected 0, 1 or -1"),
    ],
)
def test_text_that_is_no_code_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_codes(tmp_path / "a.txt", tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 1], [np.nan, 1]], "got nan in row 1, column 0"),
        ([[0.5, 1], [0, 1]], "got 0.5 in row 0, column 0"),
        ([[0, 1], [-1, 1]], r"got -1, 0 and 1: sign\(0\) is no bit"),
        ([0, 1], r"expected \(N, columns\), a code in each row, got shape \(2,\)"),
        (np.zeros((2, 0)), "got shape"),
        (np.zeros((2, 16385)), "at most 16384 bits, got 16385"),
        (np.array([["0", "1"]]), "expected numbers as codes"),
        (np.array([[0j, 1j]]), "expected numbers as codes"),
    ],
)
def test_what_is_no_code_is_refused(tmp_path: Path, codes: npt.ArrayLike, message: str) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, codes=codes, labels=np.ones((2, 1)))
    with pytest.raises(DataError, match=message):
        read_codes(file)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, -2], r"expected class numbers from 0 to 1048575 .*, got -2 in row 1$"),
        ([[1], [0.5]], r"expected class numbers from 0 to 1048575 .*, got 0.5 in row 1$"),
        ([0, 1 << 20], r"or a column of 0 and 1 for each class\), got 1048576 in row 1$"),
        (
            [[1, 0], [0, -1]],
            "expected labels 0 and 1, one column a class, got -1 in row 1, column 1",
        ),
        ([[1, -1], [1, -1]], "expected labels 0 and 1, one column a class, got -1 in row 0"),
        ([[1, 0], [0, 2]], "expected labels 0 and 1, one column a class, got 2 in row 1"),
        (np.zeros((2, 1, 1)), r"labels \(N,\) of class numbers or \(N,C\), .*got the shape"),
        (np.array(["dog", "cat"]), "expected numbers as labels"),
        ([[1, 0]], r"as many labels as codes, got 1 in .*a.npz and 2 in .*a.npz"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path: Path, labels: npt.ArrayLike, message: str) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, codes=np.ones((2, 3)), labels=labels)
    with pytest.raises(DataError, match=message):
        read_codes(file)


def test_an_archive_that_unpacks_to_more_than_it_should_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, codes=np.zeros((1000, 8), np.int8), labels=np.zeros(1000, np.int8))
    monkeypatch.setattr(documents, "MOST_UNPACKED", 2000)
    with pytest.raises(DataError, match=r"9,\d+ bytes unpacked, over 2,000"):
        read_codes(file)


def test_files_that_are_not_what_they_say_are_one_line(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, codes=np.array([{}, {}], dtype=object))
    np.save(tmp_path / "pickled.npy", np.array([{}, {}], dtype=object))
    (tmp_path / "a.xyz").write_bytes(b"x")
    for name in ("a.npy", "a.npz", f"a{SUFFIX}"):
        (tmp_path / name).write_bytes(b"not what it says")
    np.savez(tmp_path / "other.npz", bits=np.ones((2, 3)))
    np.save(tmp_path / "archive.npy", np.ones((1, 1)))
    (tmp_path / "archive.npy").write_bytes((tmp_path / "other.npz").read_bytes())
    (tmp_path / "a.pkl").write_bytes(b"x")
    (tmp_path / "folder.npy").mkdir()
    for name, message in {
        "pickled.npz": "Python objects, which can run code: save numbers",
        "pickled.npy": "Python objects, which can run code: save numbers",
        "a.xyz": "expected .codes, .npz .*, got a name that ends in .xyz",
        "a.npy": "expected an array of NumPy, got",
        "a.npz": "expected an archive of NumPy, got",
        f"a{SUFFIX}": "expected a .codes file",
        "other.npz": "expected an array named 'codes', got bits",
        "archive.npy": "name it .npz",
        "a.pkl": "expected .codes, .npz",
        "missing.npz": "not there",
        "folder.npy": "got the folder",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            read_codes(tmp_path / name)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_any_damage_is_read_or_refused_and_never_a_traceback(tmp_path: Path, name: str) -> None:
    """NumPy raises a dozen kinds of errors on damaged headers."""
    data = sample(20, 9)
    write_codes(tmp_path / name, data)
    np.save(tmp_path / "labels.npy", data.labels.unpack())
    content = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(0)
    refused: list[str] = []
    for _ in range(400):
        damaged = bytearray(content)
        damaged[generator.integers(min(200, len(content)))] = generator.integers(256)
        end = len(damaged) - int(generator.integers(200)) * int(generator.random() < 0.2)
        (tmp_path / f"x{name}").write_bytes(damaged[:end])
        try:
            read_codes(tmp_path / f"x{name}", tmp_path / "labels.npy")
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not [line for line in refused if "\n" in line]


def test_labels_come_from_every_format(tmp_path: Path) -> None:
    data = sample()
    write_codes(tmp_path / f"a{SUFFIX}", data)
    write_codes(tmp_path / "a.npz", data)
    np.save(tmp_path / "a.npy", data.labels.unpack())
    for name in (f"a{SUFFIX}", "a.npz", "a.npy"):
        assert np.array_equal(read_labels(tmp_path / name).hot.words, data.labels.words)


# ---- labels are class numbers or multi-hot, and never guessed


@pytest.mark.parametrize("numbers", [[0, 1, 1, 0], [3, 0, 2, 3], [0, 700, 3, 4]])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_one_column_of_whole_numbers_is_class_numbers(
    tmp_path: Path, numbers: list[int], dtype: npt.DTypeLike
) -> None:
    """0 and 1 too: as one class of multi-hot labels, all rows of class 0 would have no label."""
    column = np.array(numbers).astype(np.uint16 if max(numbers) > 255 else dtype)
    hot = np.eye(max(numbers) + 1, dtype=bool)[numbers]
    for name, labels in (("flat", column), ("column", column[:, None])):
        np.save(tmp_path / f"{name}.npy", labels)
        np.savetxt(tmp_path / f"{name}.txt", labels)
        np.savetxt(tmp_path / f"{name}.csv", labels, fmt="%d")
        np.savez(tmp_path / f"{name}.npz", codes=np.ones((4, 3)), labels=labels)
        for suffix in ("npy", "txt", "csv", "npz"):
            found = read_labels(tmp_path / f"{name}.{suffix}")
            assert found.form == "class numbers"
            assert np.array_equal(found.hot.unpack(), hot)
        assert read_codes(tmp_path / f"{name}.npz").form == "class numbers"


def test_one_class_as_one_column_is_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", codes=np.ones((3, 2)), labels=[0, 1, 1])
    found = read_codes(tmp_path / "a.npz", label_form="multi-hot")
    assert (found.form, found.labels.unpack().tolist()) == ("multi-hot", [[False], [True], [True]])
    for name in (f"b{SUFFIX}", "b.npz"):  # what we write says so itself
        write_codes(tmp_path / name, found)
        assert same(read_codes(tmp_path / name), found)
        assert read_labels(tmp_path / name).form == "multi-hot"


def test_a_form_that_labels_cannot_have_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.eye(2))
    with pytest.raises(DataError, match="expected class numbers in one column, got 2 columns"):
        read_labels(tmp_path / "two.npy", "classes")
    np.save(tmp_path / "one.npy", [0, 3])
    with pytest.raises(DataError, match=r"expected labels 0 and 1, .*got 3 in row 1"):
        read_labels(tmp_path / "one.npy", "multi-hot")
    write_codes(tmp_path / f"a{SUFFIX}", sample())
    with pytest.raises(DataError, match="its labels were multi-hot, expected classes: import it"):
        read_codes(tmp_path / f"a{SUFFIX}", label_form="classes")


def test_class_numbers_stay_class_numbers_in_our_format(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", codes=np.ones((3, 2)), labels=[0, 4, 1])
    write_codes(tmp_path / f"a{SUFFIX}", read_codes(tmp_path / "a.npz"))
    found = map_codes(tmp_path / f"a{SUFFIX}")
    assert (found.form, found.labels.bits, found[1:].form) == ("class numbers", 5, "class numbers")
    content = bytearray((tmp_path / f"a{SUFFIX}").read_bytes())
    content[28] = 3
    (tmp_path / f"a{SUFFIX}").write_bytes(content)
    with pytest.raises(DataError, match="labels of form 3"):
        map_codes(tmp_path / f"a{SUFFIX}")


@pytest.mark.parametrize(
    ("text", "form", "hot"),
    [
        ("011\n100\n", "auto", [[0, 1, 1], [1, 0, 0]]),
        ("10\n11\n", "multi-hot", [[1, 0], [1, 1]]),
        ("1\n0\n", "auto", [[0, 1], [1, 0]]),
        ("0 1\n1 1\n", "auto", [[0, 1], [1, 1]]),
    ],
)
def test_words_of_digits_as_labels(
    tmp_path: Path, text: str, form: LabelForm, hot: list[list[int]]
) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read_labels(tmp_path / "a.txt", form).hot.unpack().astype(int).tolist() == hot


def test_class_numbers_of_the_digits_0_and_1_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("10\n11\n11\n")
    with pytest.raises(DataError, match="got 10 and the like, which may be either: say so"):
        read_labels(tmp_path / "a.txt")
    assert read_labels(tmp_path / "a.txt", "classes").hot.bits == 12


def test_queries_get_the_classes_of_the_database() -> None:
    """Class numbers reach as far as the largest that a file happens to have."""
    codes = HashCodes.pack(np.ones((2, 3)))

    def rows(numbers: list[int]) -> LabelledCodes:
        labels = as_labels(np.array(numbers), "auto", "memory")
        return LabelledCodes(codes, labels.hot, form=labels.form)

    few, many = rows([0, 1]), rows([4, 1])
    assert few.fitted(many).labels.unpack().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
    ]
    assert many.fitted(few).labels.unpack().astype(int).tolist() == [[0, 0], [0, 1]]
    columns = LabelledCodes(codes, HashCodes.pack(np.ones((2, 3))))
    assert few.fitted(columns).labels.bits == 3
    assert columns.fitted(few).labels.unpack().tolist() == [[True, True]] * 2
    for query, database in ((many, columns), (columns, many)):
        with pytest.raises(DataError, match="label columns of the queries as in the database"):
            query.fitted(database)


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n", "b0 b1\n"])
def test_a_text_without_rows_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "codes.txt").write_text("0 1\n1 0\n")
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(DataError, match="expected"):
        read_codes(tmp_path / "codes.txt", tmp_path / "labels.txt")
    with pytest.raises(DataError, match="expected"):
        read_codes(tmp_path / "labels.txt", tmp_path / "codes.txt")
