"""What the readers share: where a data set lies, which files may be read, and the cache."""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advhash.codes import labels, text_rows
from advhash.codes.labels import Form, LabelForm, read_labels
from advhash.data import splits
from advhash.data.cached import cached_dataset
from advhash.data.dataset import Dataset
from advhash.data.images import decode, mixed, rows
from advhash.data.images.decode import printable
from advhash.data.text import counts
from advhash.errors import ConfigError, DataError
from advhash.storage.documents import BROKEN_ARRAYS, Unreadable, check_archive, read_text, reason
from advhash.storage.files import sha256
from advhash.storage.places import user_path

SIZES = (16, 512)  # pixels
LONGEST = (16, 4096)  # pixels of the longest side of pictures at their own size
Size = int | Literal["stored"]


def check_size(size: Size, longest: int | None = None) -> None:
    """Raises ConfigError: a size of images that no data set offers.

    longest: of pictures that stay as they are stored, where the data set has them
    """
    if size == "stored":
        if longest is None or not LONGEST[0] <= longest <= LONGEST[1]:
            raise ConfigError(
                f"expected dataset.longest from {LONGEST[0]} to {LONGEST[1]} pixels, got {longest}"
            )
        return
    if not SIZES[0] <= size <= SIZES[1]:
        raise ConfigError(f"expected a size from {SIZES[0]} to {SIZES[1]} pixels, got {size}")


@dataclass(frozen=True)
class Layout:
    """Where a data set is looked for.

    folders: its possible names below $ADVHASH_DATA
    contents: what must lie in it, for people
    """

    folders: tuple[str, ...]
    contents: str

    def find(self, root: str | None) -> Path:
        """The folder `root`, or the first of `folders` below $ADVHASH_DATA. Raises DataError."""
        if root is not None:
            folder = user_path(root)
            if not folder.is_dir():
                raise self.missing(folder, f"got no folder {folder}")
            return folder
        base = os.environ.get("ADVHASH_DATA")
        if not base:
            raise DataError(
                f"expected a folder with {self.contents}: name it with --set dataset.root=FOLDER, "
                f"or put it into a folder {self.folders[0]} and set ADVHASH_DATA to the one above"
            )
        for name in self.folders:
            folder = user_path(base) / name
            if folder.is_dir():
                return folder
        first = Path(base) / self.folders[0]
        raise self.missing(first, f"got no folder {' or '.join(self.folders)} in {base}")

    def missing(self, folder: Path, got: str) -> DataError:
        """The error that says what to put where."""
        return DataError(
            f"expected {self.contents} in {folder}, {got}: put them there, or name another folder "
            "with --set dataset.root=FOLDER"
        )


def is_inside(name: str) -> bool:
    """Whether a path, as it is written, stays below the folder that it starts from.

    >>> [is_inside(name) for name in ("a/b.jpg", "../b.jpg", "/etc/passwd", "")]
    [True, False, False, False]
    """
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts)


def below(root: Path, name: str, where: str) -> str:
    """A path that a list names, as it is below `root`: absolute ones there are taken as well.

    Raises DataError: a blank line, or a path that leads out of `root` as it is written.
    """
    if not name:
        raise DataError(f"{where}: expected a path, got a blank line: take it out")
    if os.path.isabs(name):
        for base in (root.absolute(), os.path.realpath(root)):
            if Path(name).is_relative_to(base):
                name = Path(name).relative_to(base).as_posix()
                break
    if ".." in name and "\0" not in name:
        name = posixpath.normpath(name)
    if not is_inside(name):
        raise _leads_out(root, name, where)
    return name


def _leads_out(root: Path, name: str, where: str) -> DataError:
    advice = (
        "write it as it is below that folder, or name the folder that paths start from"
        if os.path.isabs(name)
        else "correct the path, or copy the files instead of linking them"
    )
    return DataError(
        f"{where}: expected a path inside {root}, got {printable(name)!r}, which leads out of it; "
        f"{advice}"
    )


def inside(root: Path, names: Iterable[str], where: str) -> list[Path]:
    """The files `names` below `root`.

    where: what named them, e.g. "train_img.txt, line 3"

    Raises DataError: one that leads out of `root`, by itself or by a link.
    """
    real = os.path.realpath(root)
    folder = functools.cache(os.path.realpath)  # of the few folders that many files share
    files = []
    for name in names:
        file = root / name
        follows = is_inside(name) and os.path.islink(file)
        place = os.path.realpath(file) if follows else folder(file.parent)
        if not is_inside(name) or not Path(place).is_relative_to(real):
            raise _leads_out(root, name, where)
        files.append(file)
    return files


def visible_entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder and is not hidden, by name. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )


def stamps(root: Path, names: Iterable[str], where: str) -> str:
    """A digest of names, sizes and times of change. Raises DataError: files that are missing."""
    digest, missing, count = hashlib.sha256(), [], 0
    for name in names:
        count += 1
        try:
            status = os.stat(os.path.join(root, name))
            if not stat.S_ISREG(status.st_mode):  # a pipe has no end
                raise OSError
        except (OSError, ValueError):
            missing.append(printable(name))
            continue
        digest.update(f"{name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    if missing:
        more = ", …" if len(missing) > 3 else ""
        raise DataError(
            f"expected the {count} files that {where} names in {root}, got {len(missing)} missing: "
            f"{', '.join(missing[:3])}{more}; put them there"
        )
    return digest.hexdigest()


def content(*files: Path) -> list[str]:
    """SHA-256 of small files. Raises DataError: one that cannot be read."""
    try:
        return [sha256(file) for file in files]
    except OSError as error:
        raise DataError(f"expected a file {error.filename}, got: {reason(error)}") from None


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text, without those that are empty at its end. Raises DataError."""
    try:
        lines = read_text(file).split("\n")
    except OSError as error:
        raise DataError(f"expected a file {file}, got: {reason(error)}") from None
    except Unreadable as error:
        raise DataError(f"expected UTF-8 text in {file}, got: {error}") from None
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def class_names(root: Path, count: int) -> tuple[str, ...]:
    """The lines of `root/classes.txt` where it is there, or "label 0", "label 1" …

    Raises DataError: another number of names, or a name that stands twice.
    """
    file = root / "classes.txt"
    if not file.is_file():
        return tuple(f"label {column}" for column in range(count))
    names = tuple(printable(line) for line in read_lines(file))
    if len(names) != count or len(set(names)) != count:
        raise DataError(
            f"expected {count} different names in {file}, one a line, got {len(names)}: "
            "one name a label column, in their order"
        )
    return names


def check_labels(
    labels: npt.NDArray[Any], where: str, asked: LabelForm = "multi-hot"
) -> tuple[npt.NDArray[np.uint8], Form]:
    """Labels (N,C) as uint8, and how they were written. Raises DataError; see `codes.labels`."""
    if not labels.size:
        raise DataError(f"{where}: expected labels (items, classes), got the shape {labels.shape}")
    labelled = read_labels(labels, asked, where)
    return labelled.hot.unpack().astype(np.uint8), labelled.form


def read_npz(file: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Arrays of an .npz file. Raises DataError: missing, damaged, of objects, or over 8 GiB."""
    try:
        check_archive(file)
        with np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except KeyError as error:
        held = f"got none called {error.args[0]!r}"
        raise DataError(f"expected the arrays {', '.join(names)} in {file}, {held}") from None
    except (OSError, *BROKEN_ARRAYS) as error:
        raise DataError(f"expected an npz file {file}, got: {reason(error)}") from None


def same(values: npt.NDArray[np.generic]) -> list[int]:
    """The first row that equals each row."""
    first: dict[bytes, int] = {}
    return [first.setdefault(row.tobytes(), place) for place, row in enumerate(values)]


def stored_pictures(data: Dataset, sizes: Sequence[tuple[int, int]]) -> dict[str, object]:
    """How large the pictures of a data set are where they are stored; sizes: (width, height)."""
    images, larger = data.query.inputs["image"], 0
    if isinstance(images, Tensor):
        height, width = images.shape[-2:]
        larger = sum(size[0] > width or size[1] > height for size in sizes)
    in_order = sorted(sizes, key=lambda size: size[0] * size[1])
    return {
        "count": len(sizes),
        "larger": larger,
        "smallest": list(in_order[0]),
        "median": list(in_order[len(in_order) // 2]),
        "largest": list(in_order[-1]),
    }


def cached_reading(
    name: str,
    build: Callable[[Path], Dataset],
    settings: Mapping[str, object],
    packages: Sequence[str],
    readers: Sequence[ModuleType | str],
    files: object = None,
) -> Dataset:
    """`build(folder)` with its settings, from the cache; keyed by all that the result depends on.

    readers: modules, or their files, whose change must not find the old data; those that all
    readers share are added
    files: JSON-able, what tells a changed file of the user
    """
    versions = {package: version(package) for package in packages}
    digest = hashlib.sha256()
    for module in (*readers, __file__, labels, text_rows, decode, mixed, rows, splits, counts):
        digest.update(Path(str(getattr(module, "__file__", module))).read_bytes())
    key = {
        "name": name,
        "settings": settings,
        "packages": versions,
        "readers": digest.hexdigest(),
        "files": files,
    }

    def complete(folder: Path) -> Dataset:
        with decode.measured() as sizes:
            data = build(folder)
        card = {**data.card, "packages": versions}
        if sizes and "image" in data.modalities:
            card["stored_pictures"] = stored_pictures(data, sizes)
        return replace(data, settings=settings, card=card)

    return cached_dataset(key, complete)
