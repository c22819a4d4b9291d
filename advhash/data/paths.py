"""What lies at a path, and which reader takes it: the one that gives what the victim reads."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from advhash.codes.stored_rows import LINES
from advhash.data.dataset import Modality
from advhash.data.images.decode import unread, unread_warning
from advhash.errors import DataError
from advhash.storage.documents import Unreadable, check_archive, open_file, reason

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
TEXTS = (".txt",)  # in class folders
TEXT_COLUMNS = ("text", "texts", "sentence", "caption", "document", "passage", "body")
DELIMITERS = ",;\t|"
CAPTION_COLUMNS = {"image", "caption", "labels"}
LISTS = ("database", "train", "test")
MOST_MEMBERS = 2**40  # bytes: what is in an archive is asked, not how much
ARCHIVES = {  # .npz files of a known form → reader
    "mirflickr25k.npz": ("mirflickr_tags", "text"),
    "nuswide10k.npz": ("nuswide_tags", "text"),
    "mnist_t10k.npz": ("mnist_t10k", "image"),
    "train.npz": ("cifar10", "image"),
}
KNOWN_TABLES: dict[str, dict[str, object]] = {
    "credit_default.csv.gz": {"reader": "credit_default"},
    "adult_train.csv.gz": {"reader": "adult"},
    "polish_bankruptcy_1year.csv.gz": {"reader": "polish_bankruptcy"},
    "polish_bankruptcy_5year.csv.gz": {"reader": "polish_bankruptcy", "year": 5},
}
NUSWIDE = ("nuswide_mat", "nus-wide-tc21", "nus-wide-tc10")  # folders of its .mat files


@dataclass(frozen=True)
class Reads:
    """What a victim reads.

    inputs:  sets of modalities, one of which the data must carry; the first is preferred
    classes: whether it needs labels that several rows share, as to be trained
    advice:  what makes it read something else, for messages
    """

    inputs: tuple[frozenset[Modality], ...] = (frozenset({"image"}),)
    classes: bool = True
    advice: str = ""

    def place(self, entry: Recognised) -> int | None:
        """Which of `inputs` the data carry; None where none, or where classes are missing."""
        if self.classes and not entry.classes:
            return None
        return next((at for at, each in enumerate(self.inputs) if each <= entry.carries), None)

    def __str__(self) -> str:
        inputs = " or ".join(" and ".join(sorted(each)) for each in self.inputs)
        return f"{inputs} with classes" if self.classes else inputs


@dataclass(frozen=True)
class Recognised:
    """A reader that takes what lies at a path.

    settings: where it lies, as the reader names it
    what:     what was recognised, for people
    rank:     lower ones are preferred: a list says more than the folders beside it
    """

    reader: str
    settings: Mapping[str, object]
    what: str
    carries: frozenset[Modality] = frozenset({"image"})
    classes: bool = True
    rank: int = field(default=0)

    @property
    def spelling(self) -> str:
        """How it is named without a path."""
        options = " ".join(f"--set dataset.{key}={value}" for key, value in self.settings.items())
        return f"--dataset {self.reader} {options}"


def reader_of(path: Path, reads: Reads | None) -> Recognised:
    """The reader for what lies at a path. Raises DataError: none, or several that fit as well.

    reads: what the victim reads; None: whatever lies there
    """
    entries = list(_recognised(path))
    if not entries:
        raise _nothing(path)
    wanted = reads or Reads(tuple(dict.fromkeys(each.carries for each in entries)), classes=False)
    places = [(place, each) for each in entries if (place := wanted.place(each)) is not None]
    if not places:
        raise _unsuited(path, wanted, entries)
    best = min((place if reads else 0, each.rank) for place, each in places)
    first, *others = [each for place, each in places if (place if reads else 0, each.rank) == best]
    if others:
        raise DataError(
            f"expected one data set in {path}, got {first.what} and {others[0].what}: say which by "
            f"{first.spelling}, or {others[0].spelling}"
        )
    return first


def _nothing(path: Path) -> DataError:
    if not path.exists():
        return DataError(
            f"expected a folder or a file, got no folder or file {path}: check the path"
        )
    if path.is_file():
        return DataError(
            f"expected a table ({', '.join((*TABLES, *LINES))}), a caption CSV, lists or .mat "
            f"files, got {path}, which no reader takes; a folder of pictures is named by the folder"
        )
    return DataError(
        f"expected {path}/<class>/<image>, lists, captions.csv, .mat files or a table, got 0 "
        f"sub-folders with images or texts in {path} and nothing else that a reader takes: make "
        "one sub-folder a class"
        + "".join(f" ({line})" for line in unread_warning(unread(_names(path))))
    )


def _names(folder: Path) -> list[str]:
    """The names of the files in a folder and one level below."""
    return [
        name
        for pattern in ("*", "*/*")
        for name in (file.name for file in folder.glob(pattern) if file.is_file())
        if not name.startswith(".")
    ]


def _unsuited(path: Path, wanted: Reads, entries: list[Recognised]) -> DataError:
    got = " and ".join(dict.fromkeys(each.what for each in entries))
    if wanted.classes and all(not each.classes for each in entries):
        return DataError(
            f"expected {path}/<class>/<image>, as this victim is trained on classes, got {got}: "
            "make one sub-folder a class, or take a victim that needs none (pdq, phash, dhash)"
        )
    table = next((each for each in entries if each.reader == "table"), None)
    advice = ""
    if table is not None and frozenset({"text"}) in wanted.inputs:
        advice = (
            f": call its column of texts text, or name it by --dataset texts --set dataset.root="
            f"{table.settings['root']} --set dataset.column=NAME"
        )
    if frozenset({"text"}) not in wanted.inputs and any(each.reader == "texts" for each in entries):
        advice = ": texts are read by encoders, --victim st:FOLDER or hf:FOLDER"
    return DataError(
        f"expected what this victim reads ({wanted}) in {path}, got {got}{advice}"
        + (f"; {wanted.advice}" if wanted.advice else "")
    )


def _recognised(path: Path) -> Iterator[Recognised]:
    """Everything that a reader could take."""
    if path.is_dir():
        yield from _in_folder(path)
    elif path.is_file():
        yield from _in_file(path)


def _in_file(file: Path) -> Iterator[Recognised]:
    name, root = file.name, {"root": str(file.parent)}
    suffix = file.suffix.lower()
    if suffix == ".codes" or (suffix == ".npz" and _members(file) >= {"codes.npy"}):
        raise DataError(
            f"expected data that a victim reads, got codes in {file}: `advhash eval --codes "
            "QUERIES --database DATABASE` takes those"
        )
    if name in ARCHIVES:
        reader, modality = ARCHIVES[name]
        yield Recognised(reader, root, f"{name} of {reader}", frozenset({modality}))
    elif name in KNOWN_TABLES:
        yield _known_table(name, root)
    elif name.lower().endswith(TABLES):
        yield from _table(file)
    elif suffix in LINES:
        yield _texts(file, f"texts in {name}")
    elif suffix == ".mat":
        yield from _matlab(file.parent)
    elif suffix == ".txt" and file.stem.removesuffix("_img").removesuffix("_label") in LISTS:
        yield Recognised("image_lists", root, "lists of images")


def _in_folder(folder: Path) -> Iterator[Recognised]:
    root = {"root": str(folder)}
    try:
        entries = sorted(
            (entry for entry in os.scandir(folder) if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )
    except OSError as error:
        raise DataError(f"expected a folder {folder}, got: {reason(error)}") from None
    files = {entry.name for entry in entries if entry.is_file()}
    if sum(f"{part}.txt" in files or f"{part}_img.txt" in files for part in LISTS) > 1:
        yield Recognised("image_lists", root, "lists of images")
    if {"images.zip", "captions.json"} <= files:
        yield Recognised("flickr8k", root, "Flickr8k", frozenset({"image", "text"}))
    if "cifar-10-batches-py" in {folder.name, *(each.name for each in entries)}:
        yield Recognised("cifar10", root, "CIFAR-10 as torchvision has it")
    for name, (reader, modality) in ARCHIVES.items():
        if name in files:
            yield Recognised(reader, root, f"{name} of {reader}", frozenset({modality}))
    yield from _matlab(folder)
    beir = is_beir(folder)
    if beir:
        yield _texts(folder, "a BEIR folder")
    for name in sorted(files):
        if name in KNOWN_TABLES:
            yield _known_table(name, root)
        elif name.lower().endswith(TABLES):
            yield from _table(folder / name)
        elif name.lower().endswith(LINES) and not beir:
            yield _texts(folder / name, f"texts in {name}")
    folders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    classes = sum(_has(PICTURES, Path(entry.path)) for entry in folders)
    written = sum(_has(TEXTS, Path(entry.path)) for entry in folders)
    if written > 1:
        yield _texts(folder, f"{written} class folders of texts", rank=3)
    if classes > 1:
        yield Recognised("folder", root, f"{classes} class folders", rank=1)
    if any(_is_picture(name) for name in files):
        carries: frozenset[Modality] = frozenset({"image"})
        yield Recognised(
            "near_duplicates", root, "pictures without classes", carries, False, rank=2
        )
    elif classes == 1:
        yield Recognised("folder", root, "1 class folder", rank=1)


def _known_table(name: str, root: Mapping[str, object]) -> Recognised:
    settings: dict[str, object] = {**root, **KNOWN_TABLES[name]}
    reader = str(settings.pop("reader"))
    return Recognised(reader, settings, f"the table of {reader}", frozenset({"table"}))


def _table(file: Path) -> Iterator[Recognised]:
    """A table with captions, or with texts, which no party of a federation holds, or of numbers."""
    header = _header(file)
    if set(header) >= CAPTION_COLUMNS:
        settings: dict[str, object] = {"root": str(file.parent), "table": file.name}
        if file.name == "captions.csv":
            del settings["table"]
        yield Recognised(
            "captioned", settings, f"captions in {file.name}", frozenset({"image", "text"})
        )
        return
    texts = any(name.lower() in TEXT_COLUMNS for name in header)
    if texts:
        yield _texts(file, f"texts in {file.name}")
    carries: frozenset[Modality] = frozenset({"table"})
    yield Recognised("table", {"root": str(file)}, f"the table {file.name}", carries, rank=texts)


def _texts(place: Path, what: str, rank: int = 0) -> Recognised:
    return Recognised("texts", {"root": str(place)}, what, frozenset({"text"}), rank=rank)


def is_beir(folder: Path) -> bool:
    """Whether a folder holds a corpus and queries as BEIR has them."""
    return all((folder / name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def _matlab(folder: Path) -> Iterator[Recognised]:
    if not any(True for pattern in ("*.mat", "*/*.mat") for _ in folder.glob(pattern)):
        return
    carries: frozenset[Modality] = frozenset({"image", "text"})
    names = (
        ("nuswide_mat",)
        if folder.name.lower() in NUSWIDE
        else ("mirflickr_mat",)
        if "flickr" in folder.name.lower()
        else ("mirflickr_mat", "nuswide_mat")
    )
    for name in names:
        yield Recognised(name, {"root": str(folder)}, f".mat files as of {name}", carries)


def delimiter_of(head: str) -> str:
    """What parts the cells of a table whose first line this is."""
    return max(DELIMITERS, key=head.count)


def _header(file: Path) -> list[str]:
    """The first line of a table as text, or nothing."""
    if file.suffix.lower() == ".parquet":
        return _parquet_header(file)
    try:
        with open_file(file) as stream:
            if file.suffix.lower() == ".gz":
                with gzip.open(stream) as unpacked:
                    octets = unpacked.readline(1 << 16)
            else:
                octets = stream.readline(1 << 16)
        line = octets.decode("utf-8-sig", "replace")
        names = next(csv.reader([line], delimiter=delimiter_of(line)), [])
        return [name.strip() for name in names]
    except (OSError, EOFError, zlib.error, csv.Error):
        return []


def _parquet_header(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException):
        return []


def _members(file: Path) -> set[str]:
    try:
        return check_archive(file, MOST_MEMBERS)
    except (OSError, Unreadable):
        return set()


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def _has(suffixes: tuple[str, ...], folder: Path) -> bool:
    """Whether a folder has a file, not hidden, that ends in one of these."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return any(name.lower().endswith(suffixes) and not name.startswith(".") for name in names)
