"""Rows of codes or embeddings, and what they are called, from the files in which people keep them.

NumPy arrays and archives, text, JSON lines, Parquet, and faiss indices, which faiss itself reads.
Nothing is ever unpickled, so files of torch are refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.codes.forms import Reading, StoredRows
from advhash.codes.text_rows import number, numbered_words, read_table
from advhash.errors import DataError, UsageError
from advhash.storage.documents import (
    BROKEN_ARRAYS,
    Unreadable,
    check_archive,
    check_unpacked,
    expect_file,
    parse_json,
    reason,
)

TEXT = (".txt", ".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
FAISS = (".faiss", ".index")
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODES = ("codes", "code", "hash", "embeddings", "embedding", "vectors", "vector", "emb")
IDS = ("ids", "id", "_id")
LABELS = ("labels", "label")
FORMATS = (
    ".codes, .npz (arrays `codes` and `labels`), .npy, text (.txt, .csv, .tsv), .jsonl, .parquet, "
    "or a faiss index (.faiss, .index)"
)
_LONGEST_LINE = 1 << 24  # characters: a row of 16,384 numbers has some 400,000
_PEEKED = 100  # lines of text that decide whether it holds words


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can be wrong with a file as such into one DataError line."""
    try:
        expect_file(path)
        yield
    except FileNotFoundError:
        raise DataError(f"expected a file, got {path}: not there; check the path") from None
    except IsADirectoryError:
        raise DataError(f"expected a file, got the folder {path}") from None
    except PermissionError:
        raise DataError(f"cannot read {path}: no permission") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit in memory; use a .codes file") from None


def expect_columns(column: str | None, *paths: Path) -> None:
    """Raise UsageError where a column is named of files that have none."""
    if column is not None and all(path.suffix.lower() in (".npy", *FAISS) for path in paths):
        raise UsageError(
            f"--column {column}: expected a file with columns or arrays (.npz, .parquet, .jsonl, "
            f".csv), got {', '.join(map(str, paths))}, which hold one array each: leave it out"
        )


def read_rows(path: Path, how: Reading) -> StoredRows:
    """The rows of a file, whatever they mean. Raises DataError."""
    suffix = path.suffix.lower()
    with reading(path):
        if suffix == ".npy":
            return _of_array(path, loaded(path, "r"))
        if suffix == ".npz":
            return _archive(path, how)
        if suffix in TEXT:
            return _text(path, how)
        if suffix in LINES:
            return _json_lines(path, how)
        if suffix == ".parquet":
            return _parquet(path, how)
        if suffix in FAISS:
            return _index(path)
    if suffix in PICKLES:
        raise DataError(
            f"{path}: expected {FORMATS}, got a pickle, which can run code and is not read: "
            "np.save('codes.npy', codes.numpy()) writes codes, `advhash import` reads models"
        )
    if suffix == ".codes":
        raise DataError(f"{path}: expected embeddings, got a .codes file, which holds bits alone")
    raise DataError(f"{path}: expected {FORMATS}, got a name that ends in {suffix or 'none'}")


def holds_labels(path: Path) -> bool:
    """Whether a file of codes has labels of its own. Raises DataError."""
    suffix = path.suffix.lower()
    with reading(path):
        if suffix == ".npz":
            return "labels" in _members(path)
        if suffix in LINES:
            _, first = next(json_lines(path), (0, None))
            return isinstance(first, dict) and any(name in first for name in LABELS)
        if suffix == ".parquet":
            return any(name in _schema(path).names for name in LABELS)
    return False


def column_of(path: Path, names: Sequence[str]) -> npt.NDArray[Any]:
    """An array of labels or ids of an archive, of JSON lines or of Parquet. Raises DataError."""
    suffix = path.suffix.lower()
    with reading(path):
        if suffix == ".npz":
            return member(path, names[0])
        if suffix in LINES:
            table = _fields(path)
            name = _chosen(path, list(table), None, names)
            rows = _of_values(path, table[name])
        elif suffix == ".parquet":
            name = _chosen(path, _schema(path).names, None, names)
            rows = _of_arrow(path, name, _arrow_column(path, name))
        else:
            raise DataError(f"{path}: expected {FORMATS}")
    return rows.numbers if rows.numbers is not None else np.asarray(rows.words)


# ---- NumPy


def loaded(path: Path, mode: Any) -> npt.NDArray[Any]:
    """The array in an .npy file. Raises DataError."""
    try:
        expect_magic(path)
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except BROKEN_ARRAYS as error:
        raise DataError(f"{path}: expected an array of NumPy, got {_unread(error)}") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array, got an archive; name it .npz")
    return array


def expect_magic(path: Path) -> None:
    """Raise Unreadable where a file is neither an array nor an archive of NumPy."""
    with path.open("rb") as stream:
        begin = stream.read(6)
    if begin and not begin.startswith((b"\x93NUMPY", b"PK", b"\x80")):  # pickles: see `_unread`
        raise Unreadable(f"a file that begins with {begin!r}: make it by np.save")


def _unread(error: BaseException) -> str:
    """Why NumPy refused; arrays of Python objects by what they are and what to do."""
    if "object" in str(error).lower():
        return "Python objects, which can run code: save numbers, as np.stack makes them"
    return reason(error)


def _members(path: Path) -> list[str]:
    try:
        return [name.removesuffix(".npy") for name in check_archive(path)]
    except Unreadable as error:
        raise DataError(f"{path}: expected an archive of NumPy, got {reason(error)}") from None


def member(path: Path, name: str) -> npt.NDArray[Any]:
    """An array of an archive. Raises DataError."""
    try:
        check_archive(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if name not in archive:
                held = ", ".join(archive.files) or "none"
                raise DataError(f"{path}: expected an array named {name!r}, got {held}")
            array: npt.NDArray[Any] = archive[name]
            return array
    except BROKEN_ARRAYS as error:
        raise DataError(f"{path}: expected an archive of NumPy, got {_unread(error)}") from None


def _archive(path: Path, how: Reading) -> StoredRows:
    names = _members(path)
    name = how.column or next((name for name in CODES if name in names), CODES[0])
    rows = _of_array(path, member(path, name))
    called = next((name for name in IDS if name in names), None)
    if called is None:
        return rows
    ids = as_ids(member(path, called), path)
    return StoredRows(rows.numbers, rows.words, rows.packed, ids=_as_many(path, ids, rows))


def _as_many(path: Path, ids: tuple[str, ...], rows: StoredRows) -> tuple[str, ...]:
    if len(ids) != len(rows):
        raise DataError(f"{path}: expected as many ids as rows, got {len(ids)} and {len(rows)}")
    return ids


def _of_array(path: Path, array: npt.NDArray[Any]) -> StoredRows:
    """Numbers as they are, texts as words, and rows of bytes (void) as packed bits."""
    if array.dtype.kind in "US":
        flat = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
        if flat.ndim != 1:
            raise DataError(f"{path}: expected numbers as codes, got {array.dtype} {array.shape}")
        texts = np.char.decode(flat, "latin-1") if array.dtype.kind == "S" else flat
        return StoredRows(words=texts.tolist())
    if array.dtype.kind == "V" and array.dtype.names is None and array.ndim == 1:
        octets = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        return StoredRows(octets.reshape(len(array), array.dtype.itemsize), packed=True)
    if array.size == 0 and (array.ndim < 2 or not len(array)):
        array = array.reshape(0, 1)  # an empty file: refused where rows are needed
    return StoredRows(array)


def as_ids(values: npt.NDArray[Any], where: object) -> tuple[str, ...]:
    """What rows are called, as texts. Raises DataError: neither texts nor whole numbers (N,)."""
    flat = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1 or flat.dtype.kind not in "USiu":
        raise DataError(
            f"{where}: expected ids (N,), texts or whole numbers, got {values.dtype} {values.shape}"
        )
    return tuple(flat.astype(str).tolist())


# ---- text


def _text(path: Path, how: Reading) -> StoredRows:
    """Rows of numbers, words with nothing between, or one column of words under a header."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        peeked = list(itertools.islice(numbered_words(stream), _PEEKED))
    as_words = how.form in ("hex", "base64")
    column, called, header = None, None, False
    wanted = CODES if how.column is None else (how.column.lower(),)
    if len(peeked) > 1 and len(peeked[0][1]) > 1:
        names = [name.strip("\"'").lower() for name in peeked[0][1]]
        column = next((names.index(name) for name in wanted if name in names), None)
        called = next((names.index(name) for name in IDS if name in names), None)
        header = column is not None and column < len(peeked[1][1])
    alone = all(len(words) == 1 for _, words in peeked)
    if not header and alone:
        header = len(peeked) > 1 and peeked[0][1][0].strip("\"'").lower() in wanted
        rest = [words[0] for _, words in peeked[header:]]
        as_words = as_words or any(number(word) is None for word in rest)
        column = 0
    if how.column is not None and not header:
        raise DataError(f"{path}: expected a column {how.column!r}, got no header with it")
    if column is None or not (as_words or (header and not alone)):
        return _numbers(path, how)
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return _word_column(path, stream, column, called, header)


def _numbers(path: Path, how: Reading) -> StoredRows:
    real = how.quantise is not None or how.form in ("floats", "ubinary", "binary")
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        table = read_table(stream, path, expected="numbers" if real else "0, 1 or -1")
    values = table.values
    if values.size == 0:
        return StoredRows(np.zeros((0, 1), np.int8))
    small = bool(np.isin(values, (-1, 0, 1)).all())
    return StoredRows(values.astype(np.int8) if small else values, lines=table.lines)


def _word_column(
    path: Path, stream: Iterable[str], column: int, called: int | None, header: bool
) -> StoredRows:
    words: list[str] = []
    ids: list[str] = []
    lines: list[int] = []
    for place, parts in itertools.islice(numbered_words(stream), int(header), None):
        if column >= len(parts) or (called is not None and called >= len(parts)):
            got = f"got {len(parts)}"
            raise DataError(f"{path}, line {place}: expected the columns of the header, {got}")
        words.append(parts[column].strip("\"'"))
        lines.append(place)
        if called is not None:
            ids.append(parts[called].strip("\"'"))
    return StoredRows(
        words=words,
        lines=np.array(lines, np.int64),
        ids=tuple(ids) if called is not None else None,
    )


# ---- JSON lines


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines with the numbers of their lines. Raises DataError, OSError."""
    with path.open("rb") as stream:
        place = 0
        while line := stream.readline(_LONGEST_LINE + 1):
            place += 1
            if len(line) > _LONGEST_LINE:
                raise DataError(f"{path}, line {place}: longer than {_LONGEST_LINE:,} bytes")
            if line.strip():
                try:
                    yield place, parse_json(line)
                except Unreadable as error:
                    raise DataError(
                        f"{path}, line {place}: expected a JSON value ({reason(error)})"
                    ) from None


def _fields(path: Path) -> dict[str, list[Any]]:
    """The fields of all lines, by name, those of the first line."""
    table: dict[str, list[Any]] = {}
    for place, document in json_lines(path):
        if not isinstance(document, dict):
            raise DataError(f"{path}, line {place}: expected an object as before, got a value")
        table = table or {name: [] for name in document}
        for name, values in table.items():
            if name not in document:
                raise DataError(
                    f"{path}, line {place}: expected a field {name!r} as before, got none"
                )
            values.append(document[name])
    return table


def _json_lines(path: Path, how: Reading) -> StoredRows:
    _, first = next(json_lines(path), (0, None))
    if not isinstance(first, dict):
        return _of_values(path, [value for _, value in json_lines(path)])
    table = _fields(path)
    rows = _of_values(path, table[_chosen(path, list(table), how.column, CODES)])
    called = next((name for name in IDS if name in table), None)
    if called is None:
        return rows
    ids = tuple(str(value) for value in table[called])
    return StoredRows(rows.numbers, rows.words, rows.packed, ids=ids)


def _of_values(path: Path, values: list[Any]) -> StoredRows:
    """Lists of numbers of one length, or texts."""
    if all(isinstance(value, str) for value in values):
        return StoredRows(words=values) if values else StoredRows(np.zeros((0, 1)))
    if all(isinstance(value, bool | int | float) for value in values):
        return StoredRows(np.asarray(values)[:, None])
    for row, value in enumerate(values):
        plain = isinstance(value, list) and all(isinstance(part, int | float) for part in value)
        if not plain:
            raise DataError(
                f"{path}, row {row}: expected a list of numbers, or a word, in each row"
            )
        if len(value) != len(values[0]):
            raise DataError(
                f"{path}, row {row}: expected {len(values[0])} values as before, got {len(value)}"
            )
    return StoredRows(np.asarray(values))


def _chosen(path: Path, held: Sequence[str], asked: str | None, names: Sequence[str]) -> str:
    """The column that is asked for, or the one that is called so."""
    wanted = [asked] if asked is not None else names
    name = next((name for name in wanted if name in held), None)
    if name is None:
        shown = ", ".join(held[:20]) or "none"
        hint = "" if asked is not None or names != CODES else "; name it by --column"
        raise DataError(
            f"{path}: expected a column {' or '.join(map(repr, wanted[:3]))}, got {shown}{hint}"
        )
    return name


# ---- Parquet


def _schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected a Parquet file {path}, got: {reason(error)}") from None


def _parquet(path: Path, how: Reading) -> StoredRows:
    names = _schema(path).names
    called = next((name for name in IDS if name in names), None)
    ids = None
    if called is not None:
        ids = as_ids(column_of(path, (called,)), path)
    rest = [name for name in names if name not in (*IDS, *LABELS)]
    if how.column is None and len(rest) > 1 and not set(rest) & set(CODES):
        columns = [_of_arrow(path, name, _arrow_column(path, name)) for name in rest]
        if all(rows.numbers is not None and rows.numbers.shape[1] == 1 for rows in columns):
            numbers = [rows.numbers for rows in columns if rows.numbers is not None]
            return StoredRows(np.concatenate(numbers, axis=1), ids=ids)
    name = _chosen(path, names, how.column or (rest[0] if len(rest) == 1 else None), CODES)
    rows = _of_arrow(path, name, _arrow_column(path, name))
    return StoredRows(rows.numbers, rows.words, rows.packed, ids=ids)


def _arrow_column(path: Path, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(at) for at in range(file.num_row_groups)]
            sizes = (
                group.column(at).total_uncompressed_size
                for group in groups
                for at in range(group.num_columns)
                if group.column(at).path_in_schema.partition(".")[0] == name.partition(".")[0]
            )
            # rows that repeat take no bytes in the file, and their place in memory all the same
            check_unpacked(max(sum(sizes), file.metadata.num_rows))
            column = file.read(columns=[name]).column(0)
            column.validate(full=True)  # offsets, and whether texts are UTF-8
    except (pa.ArrowException, OSError, Unreadable) as error:
        raise DataError(f"expected a Parquet file {path}, got: {reason(error)}") from None
    if column.null_count:
        raise DataError(f"{path}: expected a value in each row of {name!r}, got none in some")
    return column.combine_chunks()


def _of_arrow(path: Path, name: str, column: Any) -> StoredRows:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if isinstance(column, pa.ChunkedArray):  # one without rows
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return StoredRows(words=column.to_pylist())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        column, kind = _one_length(path, name, column)
    if pa.types.is_fixed_size_binary(kind):
        octets = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
        return StoredRows(octets.reshape(len(column), kind.byte_width), packed=True)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) and (lengths != lengths[0]).any():
            row = int(np.flatnonzero(lengths != lengths[0])[0])
            raise DataError(
                f"{path}, row {row} of {name!r}: expected {lengths[0]} values as before, got "
                f"{lengths[row]}"
            )
        flat = column.flatten()
        width = int(lengths[0]) if len(lengths) else 1
        return StoredRows(_plain(path, name, flat).reshape(len(column), width))
    return StoredRows(_plain(path, name, column)[:, None])


def _plain(path: Path, name: str, flat: Any) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    if flat.null_count or values.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected numbers in {name!r}, got {flat.type}, or gaps in it")
    return values


def _one_length(path: Path, name: str, column: Any) -> tuple[Any, Any]:
    import pyarrow as pa

    values = column.to_pylist()
    for row, value in enumerate(values):
        if len(value) != len(values[0]):
            raise DataError(
                f"{path}, row {row} of {name!r}: expected {len(values[0])} bytes as before, got "
                f"{len(value)}"
            )
    kind = pa.binary(len(values[0]) if values else 1)
    return pa.array(values, kind), kind


# ---- faiss


def _index(path: Path) -> StoredRows:
    """The rows of a binary index (flat, IVF, HNSW, with ids of its own), or of a float one."""
    try:
        import faiss
    except ImportError:
        raise DataError(
            f"expected faiss to read {path}: pip install 'advhash-toolkit[faiss]'"
        ) from None
    with path.open("rb") as stream:
        binary = stream.read(2) == b"IB"
    bound, size = faiss.get_deserialization_vector_byte_limit(), path.stat().st_size
    try:
        # what a file states of its sizes is bounded by its own size before it takes memory
        faiss.set_deserialization_vector_byte_limit(max(size, 1))
        index = faiss.read_index_binary(str(path)) if binary else faiss.read_index(str(path))
        if not 0 <= index.ntotal <= size:  # a row takes a byte at least
            raise Unreadable(f"{index.ntotal} rows in {size} bytes")
        check_unpacked(index.ntotal * index.d * (1 if binary else 4))
        name = type(index).__name__
        values, ids = _reconstructed(faiss, index, binary)
        if not len(values) == len(ids) == index.ntotal:
            raise Unreadable(f"{len(values)} rows where it states {index.ntotal}")
    except (RuntimeError, AssertionError, MemoryError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not an index whose rows faiss gives back ({_short(error)})"
        ) from None
    finally:
        faiss.set_deserialization_vector_byte_limit(bound)
    called = None if np.array_equal(ids, np.arange(len(ids))) else tuple(map(str, ids.tolist()))
    return StoredRows(values, packed=binary, ids=called, source=f"faiss {name}")


def _short(error: BaseException) -> str:
    """The end of what faiss says, without the name and the place of its function."""
    return reason(error).rpartition(": ")[2][:100]


def _reconstructed(
    faiss: Any, index: Any, binary: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """(N,D) rows in ascending order of their ids, and these (N,)."""
    ids = np.arange(index.ntotal)
    inner = index
    if hasattr(index, "id_map"):
        ids = faiss.vector_to_array(index.id_map)
        inner = index.index
        inner = faiss.downcast_IndexBinary(inner) if binary else faiss.downcast_index(inner)
    if hasattr(inner, "invlists") and binary:
        values, stored = _inverted(faiss, inner)
        ids = stored if inner is index else ids[stored]
    elif binary and hasattr(inner, "xb"):
        values = faiss.vector_to_array(inner.xb).reshape(inner.ntotal, inner.code_size)
    else:
        if hasattr(inner, "make_direct_map"):
            inner.make_direct_map()
        values = inner.reconstruct_n(0, inner.ntotal)
    order = np.argsort(ids, kind="stable")
    return values[order], ids[order]


def _inverted(faiss: Any, index: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The codes in the lists of an IVF index, and the ids that they were added with."""
    values, ids = [np.zeros((0, index.code_size), np.uint8)], [np.zeros(0, np.int64)]
    for place in range(index.nlist):
        size = index.invlists.list_size(place)
        if size:
            octets = faiss.rev_swig_ptr(index.invlists.get_codes(place), size * index.code_size)
            values.append(octets.reshape(size, index.code_size).copy())
            ids.append(faiss.rev_swig_ptr(index.invlists.get_ids(place), size).copy())
    return np.concatenate(values), np.concatenate(ids)
