"""Codes in every stored form are the same codes; what is none of them is one line."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advhash.codes import HashCodes
from advhash.codes.code_files import StoredCodes, read_stored
from advhash.codes.forms import Reading, StoredRows, floats_of, recognised
from advhash.errors import DataError, UsageError
from advhash.storage import documents

Bits = npt.NDArray[np.bool_]
ROWS, WIDTH = 40, 72  # nine bytes: neither whole words nor a multiple of six base64 bits


def some_bits(seed: int = 0) -> Bits:
    return np.random.default_rng(seed).random((ROWS, WIDTH)) < 0.5


def packed(bits: Bits) -> npt.NDArray[np.uint8]:
    return np.packbits(bits, axis=1)


def signed(bits: Bits) -> npt.NDArray[np.int8]:
    return (packed(bits).astype(np.int16) - 128).astype(np.int8)


def hexes(bits: Bits) -> list[str]:
    return [row.tobytes().hex() for row in packed(bits)]


def base64s(bits: Bits) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in packed(bits)]


def floats(bits: Bits) -> npt.NDArray[np.float32]:
    size = np.random.default_rng(1).random(bits.shape) + 0.1
    return np.where(bits, size, -size).astype(np.float32)


def numbers(bits: Bits, dtype: npt.DTypeLike, *, signs: bool = False) -> npt.NDArray[Any]:
    return np.where(bits, 1, -1 if signs else 0).astype(dtype)


def table(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fixed(rows: npt.NDArray[Any]) -> pa.Array:
    kind = pa.from_numpy_dtype(rows.dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), kind), rows.shape[1])


def fixed_bytes(bits: Bits) -> pa.Array:
    return pa.array([row.tobytes() for row in packed(bits)], pa.binary(WIDTH // 8))


def plain_bytes(bits: Bits) -> pa.Array:
    return pa.array([row.tobytes() for row in packed(bits)], pa.binary())


def void(bits: Bits) -> npt.NDArray[np.void]:
    return packed(bits).view(f"V{WIDTH // 8}")[:, 0]


def comma_separated(path: Path, header: str, rows: Sequence[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


STORED: dict[str, tuple[str, Callable[[Path, Bits], Any]]] = {
    # what is read, and how it is written
    "a.npy": ("bits", lambda file, bits: np.save(file, bits)),
    "int64.npy": ("bits", lambda file, bits: np.save(file, numbers(bits, np.int64))),
    "uint8.npy": ("bits", lambda file, bits: np.save(file, numbers(bits, np.uint8))),
    "float.npy": ("bits", lambda file, bits: np.save(file, numbers(bits, np.float16))),
    "sign.npy": ("signs", lambda file, bits: np.save(file, numbers(bits, np.int8, signs=True))),
    "ubinary.npy": ("ubinary", lambda file, bits: np.save(file, packed(bits))),
    "binary.npy": ("binary", lambda file, bits: np.save(file, signed(bits))),
    "void.npy": ("ubinary", lambda file, bits: np.save(file, void(bits))),
    "hex.npy": ("hex", lambda file, bits: np.save(file, np.array(hexes(bits)))),
    "a.npz": ("ubinary", lambda file, bits: np.savez(file, codes=packed(bits))),
    "embeddings.npz": ("binary", lambda file, bits: np.savez(file, embeddings=signed(bits))),
    "hex.npz": ("hex", lambda file, bits: np.savez(file, codes=np.array(hexes(bits), "S"))),
    "a.txt": ("bits", lambda file, bits: np.savetxt(file, bits, fmt="%d")),
    "hex.txt": ("hex", lambda file, bits: file.write_text("\n".join(hexes(bits)))),
    "upper.txt": ("hex", lambda file, bits: file.write_text("\n".join(hexes(bits)).upper())),
    "named.csv": ("hex", lambda file, bits: comma_separated(file, "hash", hexes(bits))),
    "ids.csv": (
        "hex",
        lambda file, bits: comma_separated(
            file, "id,hash", [f"im{row}.jpg,{word}" for row, word in enumerate(hexes(bits))]
        ),
    ),
    "files.csv": (
        "hex",
        lambda file, bits: comma_separated(
            file, '"file";"hash"', [f'"a b.jpg";"{word}"' for word in hexes(bits)]
        ),
    ),
    "base64.txt": ("base64", lambda file, bits: file.write_text("\n".join(base64s(bits)))),
    "a.jsonl": ("bits", lambda file, bits: lines(file, bits.astype(int).tolist())),
    "hex.jsonl": ("hex", lambda file, bits: lines(file, hexes(bits))),
    "named.jsonl": (
        "base64",
        lambda file, bits: lines(file, [{"_id": "x", "code": word} for word in base64s(bits)]),
    ),
    "a.parquet": ("ubinary", lambda file, bits: table(file, codes=fixed(packed(bits)))),
    "list.parquet": (
        "binary",
        lambda file, bits: table(file, embedding=pa.array(list(signed(bits)))),
    ),
    "bytes.parquet": ("ubinary", lambda file, bits: table(file, codes=fixed_bytes(bits))),
    "blob.parquet": ("ubinary", lambda file, bits: table(file, anything=plain_bytes(bits))),
    "hex.parquet": ("hex", lambda file, bits: table(file, hash=pa.array(hexes(bits)))),
    "wide.parquet": (
        "bits",
        lambda file, bits: table(
            file, id=np.arange(ROWS), **{f"b{k}": bits[:, k].astype(int) for k in range(WIDTH)}
        ),
    ),
    "quantised.npy": ("floats", lambda file, bits: np.save(file, floats(bits))),
    "quantised.txt": ("floats", lambda file, bits: np.savetxt(file, floats(bits))),
    "quantised.jsonl": ("floats", lambda file, bits: lines(file, floats(bits).tolist())),
    "quantised.parquet": ("floats", lambda file, bits: table(file, vector=fixed(floats(bits)))),
}


def equal(left: HashCodes, right: HashCodes) -> bool:
    return left.bits == right.bits and np.array_equal(left.words, right.words)


@pytest.mark.parametrize("name", STORED)
def test_every_form_gives_the_same_codes(tmp_path: Path, name: str) -> None:
    form, write = STORED[name]
    bits = some_bits()
    write(tmp_path / name, bits)
    how = Reading(quantise="sign") if form == "floats" else Reading()
    stored = read_stored(tmp_path / name, how)
    assert equal(stored.codes, HashCodes.pack(bits))
    assert stored.form == form
    assert f"{form}, {WIDTH} bits" in stored.described()
    asked = read_stored(tmp_path / name, Reading(form=form, quantise=how.quantise))
    assert equal(asked.codes, stored.codes)
    cut = read_stored(tmp_path / name, Reading(quantise=how.quantise, bits=19))
    assert equal(cut.codes, HashCodes.pack(bits[:, :19]))


def test_ids_come_with_the_rows(tmp_path: Path) -> None:
    STORED["ids.csv"][1](tmp_path / "ids.csv", some_bits())
    assert (read_stored(tmp_path / "ids.csv").ids or ())[:2] == ("im0.jpg", "im1.jpg")
    STORED["wide.parquet"][1](tmp_path / "wide.parquet", some_bits())
    assert (read_stored(tmp_path / "wide.parquet").ids or ())[:2] == ("0", "1")
    np.savez(tmp_path / "a.npz", codes=packed(some_bits()), ids=[f"d{row}" for row in range(ROWS)])
    assert (read_stored(tmp_path / "a.npz").ids or ())[-1] == f"d{ROWS - 1}"
    np.savez(tmp_path / "b.npz", codes=packed(some_bits()), ids=["d"])
    with pytest.raises(DataError, match="expected as many ids as rows, got 1 and 40"):
        read_stored(tmp_path / "b.npz")


@pytest.mark.parametrize("name", ["a.csv", "b.csv", "a.parquet", "a.jsonl", "a.npz"])
def test_a_column_of_any_name_is_asked_for(tmp_path: Path, name: str) -> None:
    words = hexes(some_bits())
    write: dict[str, Callable[[Path], Any]] = {
        "a.csv": lambda file: comma_separated(file, "Finger", words),
        "b.csv": lambda file: comma_separated(file, "x,Finger", [f"7,{word}" for word in words]),
        "a.parquet": lambda file: table(file, codes=words, Finger=words),
        "a.jsonl": lambda file: lines(file, [{"x": 7, "Finger": word} for word in words]),
        "a.npz": lambda file: np.savez(file, codes=np.eye(3), Finger=words),
    }
    write[name](tmp_path / name)
    stored = read_stored(tmp_path / name, Reading(column="Finger"))
    assert equal(stored.codes, HashCodes.pack(some_bits()))
    with pytest.raises(DataError, match="'Thumb', got"):
        read_stored(tmp_path / name, Reading(column="Thumb"))


def test_bits_of_perceptual_hashes_are_in_row_order(tmp_path: Path) -> None:
    """What imagehash prints is what its array holds, packed."""
    imagehash = pytest.importorskip("imagehash")
    bits = some_bits()[:, :64]
    words = [str(imagehash.ImageHash(row.reshape(8, 8))) for row in bits]
    (tmp_path / "a.txt").write_text("\n".join(words))
    assert equal(read_stored(tmp_path / "a.txt").codes, HashCodes.pack(bits))


def test_sentence_transformers_writes_what_is_read(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers.util.quantization")
    rows = floats(some_bits())
    for precision in ("ubinary", "binary"):
        file = tmp_path / f"{precision}.npy"
        np.save(file, library.quantize_embeddings(rows, precision=precision))
        stored = read_stored(file)
        assert stored.form == precision
        assert equal(stored.codes, HashCodes.pack(rows > 0))


class TestIndices:
    def written(self, path: Path, kind: str, bits: Bits) -> StoredCodes:
        faiss = pytest.importorskip("faiss")
        octets, width = packed(bits), bits.shape[1]
        index = {
            "flat": lambda: faiss.IndexBinaryFlat(width),
            "ivf": lambda: faiss.index_binary_factory(width, "BIVF2"),
            "hnsw": lambda: faiss.IndexBinaryHNSW(width, 8),
            "ids": lambda: faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(width)),
            "ivf with ids": lambda: faiss.index_binary_factory(width, "BIVF2"),
        }[kind]()
        if "ivf" in kind:
            index.cp.min_points_per_centroid = 1
            index.train(octets)
        if "ids" in kind:
            index.add_with_ids(octets, np.arange(len(bits))[::-1] * 3)
        else:
            index.add(octets)
        faiss.write_index_binary(index, str(path))
        return read_stored(path)

    @pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
    def test_an_index_gives_its_codes_in_the_order_they_were_added(
        self, tmp_path: Path, kind: str
    ) -> None:
        bits = some_bits()
        stored = self.written(tmp_path / "a.faiss", kind, bits)
        assert equal(stored.codes, HashCodes.pack(bits))
        assert stored.form == "ubinary"
        assert "faiss IndexBinary" in stored.described()
        assert stored.ids is None

    @pytest.mark.parametrize("kind", ["ids", "ivf with ids"])
    def test_rows_with_ids_are_in_the_order_of_these(self, tmp_path: Path, kind: str) -> None:
        bits = some_bits()
        stored = self.written(tmp_path / "a.index", kind, bits)
        assert equal(stored.codes, HashCodes.pack(bits[::-1]))
        assert (stored.ids or ())[:3] == ("0", "3", "6")

    def test_an_index_of_floats_is_quantised(self, tmp_path: Path) -> None:
        faiss = pytest.importorskip("faiss")
        rows = floats(some_bits())
        for name in ("Flat", "IVF2,Flat"):
            index = faiss.index_factory(WIDTH, name)
            if name != "Flat":
                index.cp.min_points_per_centroid = 1
            index.train(rows)
            index.add(rows)
            faiss.write_index(index, str(tmp_path / "a.faiss"))
            with pytest.raises(DataError, match="by --quantise"):
                read_stored(tmp_path / "a.faiss")
            stored = read_stored(tmp_path / "a.faiss", Reading(quantise="sign"))
            assert equal(stored.codes, HashCodes.pack(rows > 0))

    def test_damage_is_one_line(self, tmp_path: Path) -> None:
        """Half of a file, one that claims more rows than it has bytes, and one that is none."""
        self.written(tmp_path / "a.faiss", "flat", some_bits())
        content = (tmp_path / "a.faiss").read_bytes()
        claims = content[:12] + (2**40).to_bytes(8, "little") + content[20:]
        sizes = content[:25] + (2**39).to_bytes(8, "little") + content[33:]
        for damaged in (content[:200], claims, sizes, b"IBxF", b"IxFI", b"", b"no index at all"):
            (tmp_path / "b.faiss").write_bytes(damaged)
            with pytest.raises(DataError) as caught:
                read_stored(tmp_path / "b.faiss")
            assert "\n" not in str(caught.value)

    def test_without_faiss_the_line_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.faiss").write_bytes(b"IBxF")
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(DataError, match=r"pip install 'advhash-toolkit\[faiss\]'"):
            read_stored(tmp_path / "a.faiss")


REFUSED: dict[str, tuple[Callable[[Path], Any], str, Reading, str]] = {
    "hex of 0 and 1": (
        lambda file: np.save(file, np.array(["0101", "1100"])),
        ".npy",
        Reading(),
        "may be hex or bits: say --form hex",
    ),
    "hex of digits": (
        lambda file: file.write_text('"1234"\n"5678"\n'),
        ".jsonl",
        Reading(),
        "may be hex or numbers: say --form hex",
    ),
    "words of mixed lengths": (
        lambda file: file.write_text("ab12\nab1\n"),
        ".txt",
        Reading(),
        "line 2: expected 4 hex digits as before, got 3",
    ),
    "lists of mixed lengths": (
        lambda file: file.write_text("[0,1]\n[0,1,1]\n"),
        ".jsonl",
        Reading(),
        "row 1: expected 2 values as before, got 3",
    ),
    "Parquet lists of mixed lengths": (
        lambda file: table(file, codes=pa.array([[0, 1], [1]])),
        ".parquet",
        Reading(),
        "row 1 of 'codes': expected 2 values as before, got 1",
    ),
    "Parquet bytes of mixed lengths": (
        lambda file: table(file, codes=pa.array([b"ab", b"c"])),
        ".parquet",
        Reading(),
        "row 1 of 'codes': expected 2 bytes as before, got 1",
    ),
    "a gap": (
        lambda file: table(file, codes=pa.array(["ab", None])),
        ".parquet",
        Reading(),
        "expected a value in each row of 'codes'",
    ),
    "columns of other names": (
        lambda file: table(file, title=pa.array(["a"]), body=pa.array(["b"])),
        ".parquet",
        Reading(),
        "expected a column 'codes' or 'code' or 'hash', got title, body; name it by --column",
    ),
    "a column that is not there": (
        lambda file: table(file, codes=pa.array(["ab"])),
        ".parquet",
        Reading(column="bits"),
        "expected a column 'bits', got codes",
    ),
    "no Parquet": (lambda file: file.write_text("x"), ".parquet", Reading(), "expected a Parquet"),
    "no JSON": (
        lambda file: file.write_text("[1\n"),
        ".jsonl",
        Reading(),
        "line 1: expected a JSON",
    ),
    "other fields": (
        lambda file: file.write_text('{"code":"ab"}\n{"x":1}\n'),
        ".jsonl",
        Reading(),
        "line 2: expected a field 'code' as before",
    ),
    "hex of digits in text": (
        lambda file: file.write_text("12345678\n87654321\n"),
        ".txt",
        Reading(),
        "line 1: expected 0, 1 or -1, got '1.23457e\\+07' .words in hex are --form hex",
    ),
    "floats": (
        lambda file: np.save(file, [[0.3, -1.2]]),
        ".npy",
        Reading(),
        "got 0.3 in row 0, column 0 .*by --quantise sign, mean or median",
    ),
    "whole numbers of text": (
        lambda file: file.write_text("200 13\n7 255\n"),
        ".txt",
        Reading(),
        "line 1: expected 0, 1 or -1, got '200' .*--form ubinary or binary",
    ),
    "floats with NaN": (
        lambda file: np.save(file, [[0.3, 1], [0.1, np.nan]]),
        ".npy",
        Reading(quantise="mean"),
        "row 1: expected finite embeddings, got nan in column 1",
    ),
    "rows of zeros": (
        lambda file: np.save(file, [[0.3, 1.0], [0.0, 0.0], [0.0, 0.0]]),
        ".npy",
        Reading(quantise="mean"),
        r"row 1: expected an embedding, got zeros alone \(rows like it: 2\)",
    ),
    "bits to quantise": (
        lambda file: np.save(file, np.eye(2, dtype=int)),
        ".npy",
        Reading(quantise="mean"),
        "expected floats for --quantise, got bits, which are bits already",
    ),
    "bytes to quantise": (
        lambda file: np.save(file, np.array([[3, 200]], np.uint8)),
        ".npy",
        Reading(quantise="mean"),
        "uint8 may be packed bits or embeddings in whole numbers",
    ),
    "floats as bytes": (
        lambda file: np.save(file, [[0.3, 1]]),
        ".npy",
        Reading(form="ubinary"),
        "expected codes of bytes, 0 to 255, got 0.3 in row 0",
    ),
    "bytes as signed bytes": (
        lambda file: np.save(file, np.array([[3, 200]], np.uint8)),
        ".npy",
        Reading(form="binary"),
        "expected codes of signed bytes, -128 to 127, got 200 in row 0, column 1",
    ),
    "signs as bits": (
        lambda file: np.save(file, [[1, -1]]),
        ".npy",
        Reading(form="bits"),
        "expected codes of 0 or 1, got -1 in row 0, column 1",
    ),
    "bits as signs": (
        lambda file: np.save(file, [[1, 0]]),
        ".npy",
        Reading(form="signs"),
        "expected codes of -1 or 1, got 0 in row 0, column 1",
    ),
    "numbers as hex": (
        lambda file: np.save(file, [[1, 0]]),
        ".npy",
        Reading(form="hex"),
        "expected words for --form hex, got numbers",
    ),
    "words as bytes": (
        lambda file: np.save(file, np.array(["ab", "cd"])),
        ".npy",
        Reading(form="ubinary"),
        "expected --form hex or base64 for words, got ubinary",
    ),
    "hex that is none": (
        lambda file: file.write_text("ab12\nxy12\n"),
        ".txt",
        Reading(form="hex"),
        "line 2: expected hex, got 'xy12'",
    ),
    "more bits than there are": (
        lambda file: np.save(file, np.array([[3, 200]], np.uint8)),
        ".npy",
        Reading(bits=17),
        "expected at least the 17 bits of --bits, got 16",
    ),
    "too many bits": (
        lambda file: np.save(file, np.full((1, 2049), 7, np.uint8)),
        ".npy",
        Reading(),
        "expected at most 16384 bits, got 16392",
    ),
    "a pickle": (
        lambda file: file.write_bytes(b"x"),
        ".pt",
        Reading(),
        r"got a pickle, .*np\.save\('codes.npy', codes.numpy\(\)\) .*`advhash import`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_code_or_could_be_two_is_one_line(tmp_path: Path, name: str) -> None:
    write, suffix, how, message = REFUSED[name]
    file = tmp_path / f"a{suffix}"
    write(file)
    with pytest.raises(DataError, match=message) as caught:
        read_stored(file, how)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_what_is_ambiguous_is_read_when_it_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(["0101", "1100"]))
    found = read_stored(tmp_path / "a.npy", Reading(form="hex")).codes.unpack()
    assert found[0].astype(int).tolist() == [0, 0, 0, 0, 0, 0, 0, 1] * 2
    (tmp_path / "a.txt").write_text("0101\n1100\n")  # text of digits was always one a bit
    assert read_stored(tmp_path / "a.txt").codes.bits == 4
    assert equal(
        read_stored(tmp_path / "a.txt", Reading(form="hex")).codes,
        read_stored(tmp_path / "a.npy", Reading(form="hex")).codes,
    )
    (tmp_path / "b.txt").write_text("200 13\n7 255\n")
    octets = np.array([[200, 13], [7, 255]], np.uint8)
    wanted = HashCodes.pack(np.unpackbits(octets, axis=1))
    assert equal(read_stored(tmp_path / "b.txt", Reading(form="ubinary")).codes, wanted)
    np.save(tmp_path / "c.npy", octets)
    whole = read_stored(tmp_path / "c.npy", Reading(form="floats", quantise="mean"))
    assert whole.codes.unpack().astype(int).tolist() == [[1, 0], [0, 1]]


class TestQuantised:
    def test_queries_take_the_thresholds_of_the_database(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).random((50, 9))  # no signs
        np.save(tmp_path / "database.npy", rows)
        np.save(tmp_path / "queries.npy", 10 + rows)
        how = Reading(quantise="mean")
        database = read_stored(tmp_path / "database.npy", how)
        query = read_stored(tmp_path / "queries.npy", how, database=database)
        assert equal(database.codes, HashCodes.pack(rows > rows.mean(axis=0)))
        assert query.codes.unpack().all()

    def test_both_sides_are_floats_of_as_many_dimensions(self, tmp_path: Path) -> None:
        np.save(tmp_path / "floats.npy", np.full((2, 9), 0.5))
        np.save(tmp_path / "short.npy", np.full((2, 8), 0.5))
        np.save(tmp_path / "bits.npy", np.eye(9, dtype=int))
        how = Reading(quantise="sign")
        database = read_stored(tmp_path / "floats.npy", how)
        with pytest.raises(DataError, match="embeddings of 9 dimensions as in the database, got 8"):
            read_stored(tmp_path / "short.npy", how, database=database)
        packed_side = read_stored(tmp_path / "bits.npy")
        with pytest.raises(DataError, match="expected bits as in the database, got floats"):
            read_stored(tmp_path / "floats.npy", how, database=packed_side)
        with pytest.raises(DataError, match="add --quantise"):
            read_stored(tmp_path / "floats.npy", Reading(form="floats"))

    def test_a_file_of_ours_is_not_read_otherwise(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="says itself what it holds"):
            read_stored(tmp_path / "a.codes", Reading(quantise="mean"))


def test_a_table_that_unpacks_to_more_than_it_should_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path / "a.parquet", codes=fixed(packed(some_bits())))
    monkeypatch.setattr(documents, "MOST_UNPACKED", 100)
    with pytest.raises(DataError, match="bytes unpacked, over 100"):
        read_stored(tmp_path / "a.parquet")


@pytest.mark.parametrize("shape", [(), (7,), (5, 4, 3), (5, 0)], ids=str)
def test_rows_without_columns_are_refused_by_their_shape(shape: tuple[int, ...]) -> None:
    rows = StoredRows(np.zeros(shape, np.float32))
    for read in (lambda: floats_of(rows, None, "x"), lambda: recognised(rows, Reading(), "x")):
        with pytest.raises(DataError, match=r"x: expected \(N, columns\), .*got shape"):
            read()
