"""Lists of images with their labels, as HashNet and ProS-GAN ship them.

    ROOT/database_img.txt    one path below ROOT a line
    ROOT/database_label.txt  the labels of that line: 0 and 1, a column a class, or a class number
    ROOT/train_img.txt, train_label.txt, test_img.txt, test_label.txt

HashNet's own form is read as well: ROOT/database.txt, train.txt and test.txt, each line a path and
its labels. ROOT/classes.txt, one name a line, names the labels; without it they are numbered.

Training images are in the database too (HashNet, ProS-GAN), or none of them is (some lists of
DeepHash-pytorch). Which it is stands on the card; a mixture is refused.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from advhash.codes.labels import Form, LabelForm, digits_of, text_labels, widened
from advhash.codes.text_rows import read_table
from advhash.data.dataset import Dataset
from advhash.data.images import picture_sets
from advhash.data.images.decode import Fit, decode, printable
from advhash.data.images.picture_sets import Items, card_of_rows, picture_splits
from advhash.data.images.rows import Pixels
from advhash.data.readers import shared
from advhash.data.readers.shared import Layout, cached_reading, check_size
from advhash.data.splits import Rows, finish, seeded_order
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS

Overlap = Literal["refuse", "drop"]
PARTS = ("database", "train", "test")
PICTURE = re.compile(r"(.*\.(?:png|jpe?g|jfif|webp|bmp|gif|tiff?))[\"']?(?:[\s,;]+(.*))?", re.I)


@dataclass(frozen=True)
class Listed:
    """One list: paths below the folder of the images, labels (N,C) uint8, how they were written."""

    names: tuple[str, ...]
    labels: npt.NDArray[np.uint8]
    files: tuple[Path, ...]
    form: Form


@dataclass(frozen=True)
class Choices:
    """The settings that all readers of lists share.

    images: the folder that the paths start from; None: where the lists lie
    overlap: what becomes of queries that are listed for the database or for training too
    label_form: whether one column of labels is class numbers or one class
    """

    root: str | None
    images: str | None
    size: int
    fit: Fit
    validation: int
    overlap: Overlap
    seed: int
    label_form: LabelForm


def _register(
    name: str, *folders: str, cited: str, summary: str, source: str, licence: str
) -> None:
    """Register a data set whose lists were published.

    folders: where it is looked for; cited: whose data set and whose lists it is
    """

    def read(
        *,
        root: str | None = None,
        images: str | None = None,
        size: int = 224,
        fit: Fit = "centre",
        validation: int = 500,
        overlap: Overlap = "refuse",
        seed: int = 0,
        label_form: LabelForm = "auto",
    ) -> Dataset:
        choices = Choices(root, images, size, fit, validation, overlap, seed, label_form)
        return _read(name, folders, choices, source=source, licence=licence)

    read.__doc__ = summary
    DATASETS.register(name, source=cited)(read)


_register(
    "flickr25k",
    *("flickr25k", "FLICKR-25K"),
    cited="Huiskes and Lew, MIR 2008; lists as of ProS-GAN, CVPR 2021",
    summary="MIRFlickr-25K from list files: images, 38 labels; published split 1,700 to 23,300.",
    source="https://press.liacs.nl/mirflickr/",
    licence="photos: Creative Commons licences of their owners; see the source",
)
_register(
    "nuswide",
    *("nuswide", "NUS-WIDE", "nuswide_81"),
    cited="Chua et al., CIVR 2009; lists as of HashNet, ICCV 2017",
    summary="NUS-WIDE from list files: images, 21 labels (or 81, as the lists have them).",
    source="https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
    licence="photos belong to their Flickr owners; for research",
)
_register(
    "coco",
    *("coco", "MS-COCO"),
    cited="Lin et al., ECCV 2014; lists as of HashNet, ICCV 2017",
    summary="MS-COCO from list files: images, 80 labels; published split 5,000 to about 117,000.",
    source="https://cocodataset.org",
    licence="annotations: CC BY 4.0; photos: Flickr terms of use",
)


@DATASETS.register("image_lists", source="your own lists, in the form of HashNet and ProS-GAN")
def read_image_lists(
    *,
    root: str,
    images: str | None = None,
    size: int = 224,
    fit: Fit = "centre",
    validation: int = 500,
    overlap: Overlap = "refuse",
    seed: int = 0,
    label_form: LabelForm = "auto",
) -> Dataset:
    """Your own images from list files with multi-hot labels or class numbers."""
    return _read(
        "image_lists",
        ("image_lists",),
        Choices(root, images, size, fit, validation, overlap, seed, label_form),
        source="images given by the user",
        licence="unknown",
    )


def _read(name: str, folders: tuple[str, ...], choices: Choices, **card: str) -> Dataset:
    check_size(choices.size)
    if choices.validation < 1:
        raise ConfigError(f"expected at least 1 validation row, got {choices.validation}")
    layout = Layout(
        folders,
        "database_img.txt, database_label.txt, the same for train and test, and the images that "
        "they name",
    )
    folder = layout.find(choices.root)
    photos = folder if choices.images is None else Path(choices.images).expanduser()
    lists = {part: read_list(folder, part, layout, photos, choices.label_form) for part in PARTS}
    lists = _aligned(lists, folder)
    files = [file for part in PARTS for file in lists[part].files]
    files += [folder / "classes.txt"] * (folder / "classes.txt").is_file()
    named = dict.fromkeys(path for part in PARTS for path in lists[part].names)
    return cached_reading(
        name,
        functools.partial(_build, name, folder, photos, lists, choices, card),
        asdict(choices),
        ("pillow",),
        (__file__, picture_sets),
        [
            os.path.realpath(photos),
            *shared.content(*files),
            shared.stamps(photos, named, f"the lists in {folder}"),
        ],
    )


def read_list(
    folder: Path, part: str, layout: Layout, photos: Path, asked: LabelForm = "auto"
) -> Listed:
    """`part`_img.txt and `part`_label.txt, or `part`.txt. Raises DataError, naming the line."""
    pair, single = [folder / f"{part}_{kind}.txt" for kind in ("img", "label")], f"{part}.txt"
    if all(file.is_file() for file in pair):
        image_file, label_file, files = pair[0], pair[1], tuple(pair)
        names, labels = shared.read_lines(image_file), shared.read_lines(label_file)
        if len(names) != len(labels):
            raise DataError(
                f"expected as many lines in {pair[0]} as in {pair[1].name}, got {len(names)} and "
                f"{len(labels)}: line N of one belongs to line N of the other"
            )
    elif (folder / single).is_file():
        image_file = label_file = folder / single
        files = (image_file,)
        both = [_name_and_labels(line) for line in shared.read_lines(image_file)]
        names, labels = [name for name, _ in both], [text for _, text in both]
    else:
        absent = ", ".join(file.name for file in pair if not file.is_file())
        raise layout.missing(folder, f"got no {absent} (and no {single})")
    names = [
        shared.below(photos, path, f"{image_file}, line {number}")
        for number, path in enumerate(names, 1)
    ]
    blank = next((number for number, text in enumerate(labels, 1) if not text), None)
    if blank is not None or not labels:
        at = f", line {blank}" if labels else ""
        raise DataError(f"{label_file}{at}: expected labels, got none: add them, or take it out")
    table = read_table(labels, label_file, digits=digits_of(asked), expected="labels as numbers")
    labelled = text_labels(table, asked, label_file)
    if len(labelled) != len(names):
        raise DataError(
            f"expected labels in each of the {len(names)} lines of {label_file}, got "
            f"{len(labelled)}: leave out headers and remarks"
        )
    return Listed(tuple(names), labelled.hot.unpack().astype(np.uint8), files, labelled.form)


def _name_and_labels(line: str) -> tuple[str, str]:
    """A line of a path, which may have blanks where its suffix is one of pictures, and labels.

    >>> _name_and_labels("my photos/im 1.jpg 0 1")
    ('my photos/im 1.jpg', '0 1')
    """
    picture = PICTURE.fullmatch(line)
    if picture is not None:
        return picture[1].lstrip("\"'"), picture[2] or ""
    name, *rest = re.split(r"[\s,;]+", line, maxsplit=1)
    return name, rest[0] if rest else ""


def _aligned(lists: Mapping[str, Listed], folder: Path) -> dict[str, Listed]:
    """The lists with as many classes each. Raises DataError: labels of several forms or widths."""
    forms = {part: each.form for part, each in lists.items()}
    if len(set(forms.values())) > 1:
        raise DataError(
            f"expected labels of one form in all lists of {folder}, got "
            f"{', '.join(f'{form} in {part}' for part, form in forms.items())}"
        )
    widths = [each.labels.shape[1] for each in lists.values()]
    if len(set(widths)) > 1 and "multi-hot" in forms.values():
        raise DataError(f"expected as many labels in all lists of {folder}, got {widths}")
    classes = max(widths)
    if "class numbers" in forms.values() and (folder / "classes.txt").is_file():
        classes = max(classes, len(shared.read_lines(folder / "classes.txt")))
    return {
        part: replace(each, labels=widened(each.labels, classes)) for part, each in lists.items()
    }


def _build(
    name: str,
    folder: Path,
    photos: Path,
    lists: Mapping[str, Listed],
    choices: Choices,
    card: Mapping[str, str],
    target: Path,
) -> Dataset:
    apart = _is_apart(lists, folder)
    rows, counts = _rows(lists, folder, choices, apart)
    named = [lists[part] for part in (("database", "test", "train") if apart else PARTS[::2])]
    names = [path for each in named for path in each.names]
    labels = np.concatenate([each.labels for each in named])
    paths = shared.inside(photos, names, f"the lists in {folder}")

    def load(row: int) -> Pixels:
        return decode(paths[row], choices.size, choices.fit)

    items = Items([printable(path) for path in names], labels, load)
    parts, repeated = picture_splits(target, items, rows, choices.size, str(photos))
    entries, warnings = card_of_rows(counts.pop("dropped"), repeated)
    warnings += [
        f"{len(rows['validation'])} rows of the published database are held for validation and "
        "are not searched.",
        "Squares: the middle of the picture (fit=centre) or all of it stretched (fit=stretch).",
    ]
    if not (folder / "classes.txt").is_file():
        warnings.append("Labels are numbered: put their names into classes.txt.")
    return finish(
        name,
        parts,
        np.searchsorted(rows["database"], rows["train"]),
        shared.class_names(folder, labels.shape[1]),
        card={
            **card,
            "label_form": lists["database"].form,
            "training": "apart" if apart else "in the database",
            **counts,
            **entries,
            "warnings": warnings,
        },
    )


def _is_apart(lists: Mapping[str, Listed], folder: Path) -> bool:
    """Whether the database holds none of the training images. Raises DataError: it holds some."""
    known = set(lists["database"].names)
    absent = [path for path in lists["train"].names if path not in known]
    if not absent or len(absent) == len(lists["train"].names):
        return bool(absent)
    raise DataError(
        f"expected all training images of {folder} in the database list, or none of them, got "
        f"{len(absent)} of {len(lists['train'].names)} that are not ({printable(absent[0])}, …): "
        "add them to it with their labels, or take the others out"
    )


def _rows(
    lists: Mapping[str, Listed], folder: Path, choices: Choices, apart: bool
) -> tuple[dict[str, Rows], dict[str, int]]:
    """Rows in database + test (+ train) for each split, and what is odd.

    "train" are among "database"; where training images are apart, they are "training".
    """
    database, train, test = (lists[part] for part in PARTS)
    first: dict[str, int] = {}
    for row, path in enumerate(database.names):
        first.setdefault(path, row)
    asked, trained = set(test.names), set(train.names)
    if not apart:
        _check_labels(database, train, first, folder)
    shared: npt.NDArray[np.bool_] = np.array([path in asked for path in database.names])
    leaked: npt.NDArray[np.bool_] = np.array([apart and path in asked for path in train.names])
    if choices.overlap == "refuse" and (shared.any() or leaked.any()):
        where, why = ("database", "find itself") if shared.any() else ("training", "be known")
        both = asked & (first.keys() if shared.any() else trained)
        raise DataError(
            f"expected queries that are not in the {where} list, got {len(both)} of {len(asked)} "
            f"in both lists of {folder} (a query would {why}): set dataset.overlap=drop to take "
            "them out of it"
        )
    labelled = database.labels.sum(1) > 0
    usable = [path for row, path in enumerate(database.names) if labelled[row] and not shared[row]]
    usable = [usable[row] for row in seeded_order(usable, choices.seed)]
    spare = [path for path in usable if path not in trained] or usable
    held = set(list(dict.fromkeys(spare))[: choices.validation])
    kept = np.array([path not in held for path in database.names]) & ~shared
    train_rows = np.sort(np.array([first[path] for path in trained & set(usable) - held], np.int64))
    rows = {
        "database": np.flatnonzero(kept),
        "train": train_rows,
        "validation": np.sort(np.array([first[path] for path in held], np.int64)),
        "query": len(database.names) + np.flatnonzero(test.labels.any(1)),
    }
    if apart:
        once = sorted({path: row for row, path in reversed([*enumerate(train.names)])}.values())
        taken = np.array(once, np.int64)
        taken = taken[train.labels[taken].any(1) & ~leaked[taken]]
        rows["training"] = len(database.names) + len(test.names) + taken
    learnt = len(rows["training" if apart else "train"])
    if len(held) < choices.validation or not learnt or not len(rows["query"]):
        raise DataError(
            f"expected queries, training rows and {choices.validation} further database rows with "
            f"labels in the lists of {folder}, got {len(rows['query'])}, {learnt} and "
            f"{len(held)}: set dataset.validation lower, or complete the lists"
        )
    return rows, {
        "dropped": len(test.names) - len(rows["query"]),
        "database_rows_dropped_as_queries": int(shared.sum()),
        "training_rows_dropped_as_queries": int(leaked.sum()),
        "database_paths_repeated": len(database.names) - len(first),
        "training_paths_repeated": len(train.names) - len(trained),
        "database_without_label": int((~labelled).sum()),
    }


def _check_labels(database: Listed, train: Listed, first: Mapping[str, int], folder: Path) -> None:
    """Raise DataError where training images have other labels in the database list."""
    in_database = database.labels[[first[path] for path in train.names]]
    differ = np.flatnonzero((in_database != train.labels).any(1))
    if len(differ):
        raise DataError(
            f"expected one set of labels an image in {folder}, got {len(differ)} training images "
            f"with others in the database list (first: {printable(train.names[differ[0]])})"
        )
