"""MIRFlickr-25K and NUS-WIDE as MATLAB files, the form of DCMH (Jiang and Li, CVPR 2017).

Variables, in one file or several, in ROOT or one folder below (the names of the files are free):

    IAll or images   pictures, uint8, 224 × 224, or
    FAll             names of image files, one an item
    YAll or tags     tags, counts of V words
    LAll or labels   labels, a column of 0 and 1 for each class, or class numbers

Both layouts are read: MATLAB 5 through SciPy, MATLAB 7.3 (HDF5) through h5py, an extra.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from advhash.codes.labels import Form, LabelForm
from advhash.data import splits
from advhash.data.dataset import Dataset
from advhash.data.images import picture_sets
from advhash.data.images.decode import Fit, decode, printable
from advhash.data.images.picture_sets import Items, card_of_rows, picture_splits
from advhash.data.images.rows import Pixels
from advhash.data.readers import mat_files, shared
from advhash.data.readers.mat_files import Variable, variables
from advhash.data.readers.shared import Layout, cached_reading, check_size
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS

__all__: list[str] = []

VARIABLES = {
    "pictures": ("IAll", "images"),
    "files": ("FAll",),
    "tags": ("YAll", "tags"),
    "labels": ("LAll", "labels"),
}
CONTENTS = (
    ".mat files with the variables LAll (labels), YAll (tags) and either IAll (pictures) or FAll "
    "(names of image files)"
)


@dataclass(frozen=True)
class Choices:
    """The settings that both readers share.

    images: the folder that the names in FAll start from; None: ROOT
    """

    root: str | None
    images: str | None
    size: int
    fit: Fit
    queries: int
    trained: int
    validation: int
    seed: int
    label_form: LabelForm


@DATASETS.register("mirflickr_mat", source="Huiskes and Lew, MIR 2008; as of DCMH, CVPR 2017")
def read_mirflickr_mat(
    *,
    root: str | None = None,
    images: str | None = None,
    size: int = 224,
    fit: Fit = "stretch",
    queries: int = 2000,
    trained: int = 10_000,
    validation: int = 500,
    seed: int = 0,
    label_form: LabelForm = "auto",
) -> Dataset:
    """MIRFlickr-25K from DCMH's .mat files: images and tags, 24 labels, 20,015 items."""
    return _read(
        "mirflickr_mat",
        ("mirflickr_mat", "FLICKR-25K", "mirflickr25k", "mirflickr"),
        Choices(root, images, size, fit, queries, trained, validation, seed, label_form),
        held_back=2,  # as DLCMH does
        source="https://github.com/jiangqy/DCMH-CVPR2017",
        licence="photos: Creative Commons licences of their owners; research use",
    )


@DATASETS.register("nuswide_mat", source="Chua et al., CIVR 2009; as of DCMH, CVPR 2017")
def read_nuswide_mat(
    *,
    root: str | None = None,
    images: str | None = None,
    size: int = 224,
    fit: Fit = "stretch",
    queries: int = 2100,
    trained: int = 10_500,
    validation: int = 500,
    seed: int = 0,
    label_form: LabelForm = "auto",
) -> Dataset:
    """NUS-WIDE from DCMH's .mat files: images and tags, 21 or 10 labels, 195,834 items."""
    return _read(
        "nuswide_mat",
        ("nuswide_mat", "NUS-WIDE-TC21", "nus-wide-tc21", "NUS-WIDE-TC10"),
        Choices(root, images, size, fit, queries, trained, validation, seed, label_form),
        held_back=0,
        source="https://github.com/jiangqy/DCMH-CVPR2017",
        licence="photos belong to their Flickr owners; research use",
    )


def _read(
    name: str, folders: tuple[str, ...], choices: Choices, *, held_back: int, **card: str
) -> Dataset:
    check_size(choices.size)
    if min(choices.queries, choices.trained, choices.validation) < 1:
        raise ConfigError("expected at least 1 query, trained and validation row each")
    layout = Layout(folders, CONTENTS)
    folder = layout.find(choices.root)
    files = sorted(
        path.relative_to(folder).as_posix()
        for pattern in ("*.mat", "*/*.mat")
        for path in folder.glob(pattern)
        if path.is_file()
    )
    if not files:
        raise layout.missing(folder, "got no .mat file")
    photos = folder if choices.images is None else Path(choices.images).expanduser()
    classes = folder / "classes.txt"
    return cached_reading(
        name,
        functools.partial(_build, name, layout, folder, files, photos, choices, held_back, card),
        asdict(choices),
        ("pillow", "scipy"),
        (__file__, mat_files, picture_sets),
        [
            os.path.realpath(photos),
            shared.stamps(folder, files, "the list of .mat files"),
            *(shared.content(classes) if classes.is_file() else []),
        ],
    )


def _build(
    name: str,
    layout: Layout,
    folder: Path,
    files: Sequence[str],
    photos: Path,
    choices: Choices,
    held_back: int,
    card: dict[str, str],
    target: Path,
) -> Dataset:
    with ExitStack() as stack:
        there: dict[str, Variable] = {}
        for path in shared.inside(folder, files, "the list of .mat files"):
            there = {**stack.enter_context(variables(path)), **there}
        arrays = {
            kind: there[known]
            for kind, names in VARIABLES.items()
            for known in reversed(names)
            if known in there
        }
        if not {"tags", "labels"} <= arrays.keys() or not {"pictures", "files"} & arrays.keys():
            got = ", ".join(printable(known) for known in sorted(there)) or "none"
            raise layout.missing(folder, f"got the variables {got}")
        labels, tags, form = _tables(arrays["labels"], arrays["tags"], choices.label_form)
        if "pictures" in arrays:
            names = [f"item {row}" for row in range(len(labels))]
            load = _picture_loader(arrays["pictures"], len(labels), choices)
        else:
            where = arrays["files"].where
            names = [
                shared.below(photos, name.strip(), where) for name in arrays["files"].strings()
            ]
            load = _file_loader(arrays["files"].where, names, photos, choices)
        if len(names) != len(labels):
            raise DataError(
                f"expected {len(labels)} names, as there are labels, in {arrays['files'].where}, "
                f"got {len(names)}"
            )
        items = Items([printable(known) for known in names], labels, load, (), tags)
        return _assemble(
            name, folder, items, choices, held_back, {**card, "label_form": form}, target
        )


def _assemble(
    name: str,
    folder: Path,
    items: Items,
    choices: Choices,
    held_back: int,
    card: dict[str, str],
    target: Path,
) -> Dataset:
    order = np.array(
        splits.seeded_order([str(row) for row in range(len(items.names))], choices.seed)
    )
    out = items.searched_only
    drawn = splits.rows_by_count(
        list(range(len(order))),
        choices.queries,
        choices.validation,
        choices.trained,
        keep_in_database=np.flatnonzero(out[order]).tolist(),
    )
    if len(drawn["train"]) < choices.trained or not len(drawn["held_out"]):
        raise DataError(
            f"expected more than {choices.queries + choices.validation + choices.trained} items "
            f"with labels and tags in {folder}, got {int((~out).sum())}: set dataset.queries, "
            "dataset.trained or dataset.validation lower"
        )
    rows = {part: np.sort(order[places]) for part, places in drawn.items()}
    rows["database"] = np.union1d(rows["train"], rows["held_out"])
    parts, repeated = picture_splits(target, items, rows, choices.size, str(folder))
    entries, warnings = card_of_rows(0, repeated)
    classes = shared.class_names(folder, items.labels.shape[1])
    if not (folder / "classes.txt").is_file():
        warnings.append("Labels are numbered: put their names into classes.txt.")
    return splits.finish(
        name,
        parts,
        np.searchsorted(rows["database"], rows["train"]),
        classes,
        increments=(classes[-held_back:],) if held_back and len(classes) > held_back else (),
        card={
            **card,
            **entries,
            "database_without_label_or_text": int(out[rows["database"]].sum()),
            "warnings": [
                *warnings,
                "The split is drawn by `seed`: papers draw their own, mostly without stating it.",
                f"{choices.validation} rows that papers search in are held for validation.",
                "The words of the tags are not in the files.",
            ],
        },
    )


def _tables(
    labels: Variable, tags: Variable, asked: LabelForm
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Form]:
    """Labels (N,C) and tags (N,V), whichever way they are stored, and the form of the labels.

    Raises DataError.
    """
    common = set(labels.shape) & set(tags.shape)
    if len(labels.shape) != 2 or len(tags.shape) != 2 or not common:
        raise DataError(
            f"expected labels (items, classes) and tags (items, words) of as many items, got "
            f"{labels.shape} in {labels.where} and {tags.shape} in {tags.where}"
        )
    count = max(common)
    rows_first = [
        table if table.shape[0] == count else table.T for table in (labels.read(), tags.read())
    ]
    counts = rows_first[1]
    with np.errstate(invalid="ignore"):
        whole = np.equal(np.clip(counts, 0, 255).astype(np.uint8), counts)
    if not whole.all():
        raise DataError(f"{tags.where}: expected whole counts from 0 to 255, got other values")
    hot, form = shared.check_labels(rows_first[0], labels.where, asked)
    return hot, counts.astype(np.uint8), form


def _picture_loader(pictures: Variable, count: int, choices: Choices) -> picture_sets.Load:
    """Rows of pictures stored (N,3,H,W), (N,H,W,3) or, as MATLAB counts axes, (H,W,3,N)."""
    shape = pictures.shape
    items = next((axis for axis in (0, -1) if len(shape) == 4 and shape[axis] == count), None)
    rest = [] if items is None else list(shape[1:] if items == 0 else shape[:-1])
    if items is None or 3 not in rest:
        raise DataError(
            f"expected pictures of {count} items in three colours in {pictures.where}, got {shape}"
        )
    colour = 2 if rest[2] == 3 else rest.index(3)
    height, width = (axis for axis in range(3) if axis != colour)
    if pictures.reversed:
        height, width = width, height

    def load(row: int) -> Pixels:
        image = pictures.read(row, items)
        if image.dtype != np.uint8:
            raise ValueError(f"expected uint8 pixels, got {image.dtype}")
        image = image.transpose(height, width, colour)
        square = Image.fromarray(np.ascontiguousarray(image))
        if square.size != (choices.size, choices.size):
            square = square.resize((choices.size, choices.size), Image.Resampling.BICUBIC)
        return np.asarray(square).transpose(2, 0, 1)

    return load


def _file_loader(
    where: str, names: Sequence[str], photos: Path, choices: Choices
) -> picture_sets.Load:
    paths = shared.inside(photos, names, where)
    shared.stamps(photos, names, where)  # which tells all that are missing at once

    def load(row: int) -> Pixels:
        return decode(paths[row], choices.size, choices.fit)

    return load
