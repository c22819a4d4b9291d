"""Flickr8k: 8,091 photographs with the official split, and labels derived from the captions."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

import numpy as np

from advhash.data.dataset import Dataset, TextKind
from advhash.data.images import picture_sets
from advhash.data.images.decode import decode
from advhash.data.images.rows import Pixels
from advhash.data.readers import captioned, shared
from advhash.data.readers.captioned import MAX_CAPTION, Captioned, assemble, check_settings
from advhash.data.readers.shared import Layout, cached_reading
from advhash.data.splits import seeded_order
from advhash.data.text.kinds import check_text, with_text
from advhash.errors import DataError
from advhash.registry import DATASETS
from advhash.storage.documents import BROKEN_ARRAYS, read_json, reason

__all__: list[str] = []

FLICKR8K = Layout(
    ("flickr8k_128", "flickr8k"),
    "images.zip, captions.json (file, split, captions), labels.npy and concepts.json",
)
OFFICIAL = {"train": "train", "none": "held_out", "dev": "validation", "test": "query"}
HELD_OUT = 1 / 12  # of the official training part: searched, not trained on
MAX_IMAGE_BYTES = 64 * 2**20


@DATASETS.register("flickr8k", source="Hodosh, Young and Hockenmaier, JAIR 2013")
def read_flickr8k(
    *,
    root: str | None = None,
    size: int = 64,
    vocabulary: int = 2000,
    seed: int = 0,
    text: TextKind = "words",
    text_length: int = 32,
) -> Dataset:
    """8,091 photos with a caption each: images and text, 24 labels derived from the captions."""
    check_settings(size, vocabulary)
    check_text(text, text_length)
    folder = FLICKR8K.find(root)
    files = [folder / name for name in ("captions.json", "labels.npy", "concepts.json")]
    absent = [file.name for file in (*files, folder / "images.zip") if not file.is_file()]
    if absent:
        raise FLICKR8K.missing(folder, f"got no {', '.join(absent)}")
    data = cached_reading(
        "flickr8k",
        functools.partial(_flickr8k, folder, size, vocabulary, seed),
        {"root": root, "size": size, "vocabulary": vocabulary, "seed": seed},
        ("pillow", "scikit-learn"),
        (__file__, captioned, picture_sets),
        [*shared.content(*files), shared.stamps(folder, ["images.zip"], "Flickr8k")],
    )
    return with_text(data, text, text_length, vocabulary)


def _flickr8k(folder: Path, size: int, vocabulary: int, seed: int, target: Path) -> Dataset:
    try:
        entries = read_json(folder / "captions.json")
        names = [str(entry["file"]) for entry in entries]
        parts = [OFFICIAL[entry["split"]] for entry in entries]
        captions = [str(entry["captions"][0])[:MAX_CAPTION] for entry in entries]
        concepts = read_json(folder / "concepts.json")
        classes = [str(name) for name in concepts["concepts"]]
        raw = np.load(folder / "labels.npy", allow_pickle=False)
    except (OSError, LookupError, *BROKEN_ARRAYS) as error:
        raise DataError(
            f"expected {FLICKR8K.contents} in {folder}, got one of another form: "
            f"{type(error).__name__} {reason(error)}"
        ) from None
    labels, _ = shared.check_labels(raw, str(folder / "labels.npy"))
    if labels.shape != (len(names), len(classes)):
        raise DataError(
            f"expected {len(names)} rows of {len(classes)} labels, as captions.json and "
            f"concepts.json have them, in {folder / 'labels.npy'}, got {labels.shape}"
        )
    train = [row for row in seeded_order(names, seed) if parts[row] == "train"]
    for row in train[: round(len(train) * HELD_OUT)]:
        parts[row] = "held_out"
    try:
        archive = zipfile.ZipFile(folder / "images.zip")
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"expected a zip file {folder / 'images.zip'}, got: {error}") from None
    with archive:

        def load(row: int) -> Pixels:
            if archive.getinfo(names[row]).file_size > MAX_IMAGE_BYTES:
                raise ValueError(f"over {MAX_IMAGE_BYTES >> 20} MiB")
            return decode(archive.read(names[row]), size)

        return assemble(
            target,
            "flickr8k",
            Captioned(names, captions, labels, classes, load, parts),
            size,
            vocabulary,
            str(folder / "images.zip"),
            increments=(("snow", "ski_snowboard"), ("bicycle", "motor_vehicle")),
            source="https://github.com/RlNZLER/Image-Text-Matching",
            licence="photos belong to their Flickr owners; non-commercial research and education",
            warnings=[
                "A twelfth of the official training part (and the 91 photos in no part) is in the "
                "database untrained: it shows how a victim ranks what it never saw.",
                "Labels are derived, not annotated: one where 2 of 5 captions match a pattern. The "
                "text is the first caption, so it partly gives the labels away.",
                "Photos were squashed to squares and compressed anew: figures do not compare with "
                "published ones.",
            ],
        )
