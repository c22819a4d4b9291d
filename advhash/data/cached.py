"""Data sets in the cache: tensors in one file, images in mapped ones."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from advhash.data.dataset import Dataset, Split, Stored
from advhash.data.images.mixed import MixedPictures
from advhash.data.images.rows import image_file, map_images
from advhash.storage.cache import cached, content_key
from advhash.storage.documents import read_json


def cached_dataset(content: object, build: Callable[[Path], Dataset]) -> Dataset:
    """The data set that `content` (JSON-able) names, built and stored where it is not yet.

    `build(folder)` may write images into `image_file(folder, split)`: they stay there and are
    mapped, not read. A damaged copy in the cache is built again (see `cached`). What comes back was
    always read from the cache, so that a first and a second call agree.
    """
    return cached("data", content_key(content), lambda folder: _write(folder, build(folder)), _read)


FIELDS = (
    "name",
    "settings",
    "classes",
    "increments",
    "card",
    "attribution",
    "vocabulary",
    "parties",
)


def _write(folder: Path, data: Dataset) -> None:
    tensors = {"train_rows": data.train_rows.contiguous()}
    description: dict[str, object] = {field: getattr(data, field) for field in FIELDS}
    splits = data.stored
    for name, split in splits.items():
        tensors[f"{name}/labels"] = split.labels.contiguous()
        for modality, values in split.inputs.items():
            if isinstance(values, MixedPictures):
                values.write(image_file(folder, name))
            elif modality not in split.digests:
                tensors[f"{name}/input/{modality}"] = values.contiguous()
    for field in ("names", "texts"):
        description[field] = {name: getattr(split, field) for name, split in splits.items()}
    description["mapped"] = {
        name: _mapped(split) for name, split in splits.items() if split.digests or split.mixed
    }
    description["fingerprint"] = data.fingerprint()
    (folder / "dataset.json").write_text(json.dumps(description, allow_nan=False))
    try:
        save_file(tensors, folder / "tensors.safetensors")
    except SafetensorError as error:  # it hides the errno in its text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def _mapped(split: Split) -> dict[str, object]:
    """What is to be known of the images in a file."""
    images = split.inputs["image"]
    if isinstance(images, MixedPictures):
        return {"sizes": images.sizes.tolist(), "sha256": images.sha256()}
    return {"shape": tuple(images.shape), "sha256": split.digests["image"]}


def _read(folder: Path) -> Dataset:
    """Raises ValueError, or an error of the reader, where what is stored is not what was."""
    tensors = load_file(folder / "tensors.safetensors")
    stored = read_json(folder / "dataset.json", 2**33)
    splits = {}
    for name in stored["names"]:
        prefix = f"{name}/input/"
        inputs: dict[str, Stored] = {
            full.removeprefix(prefix): values
            for full, values in sorted(tensors.items())
            if full.startswith(prefix)
        }
        digests = {}
        if name in stored["mapped"]:
            image = stored["mapped"][name]
            file = image_file(folder, name)
            inputs["image"] = (
                MixedPictures.mapped(file, image["sizes"])
                if "sizes" in image
                else map_images(file, image["shape"])
            )
            digests["image"] = image["sha256"]
        splits[name] = Split(
            dict(sorted(inputs.items())),
            tensors[f"{name}/labels"],
            tuple(stored["names"][name]),
            tuple(stored["texts"][name]),
            digests,
        )
    data = Dataset(
        name=stored["name"],
        settings=stored["settings"],
        train_rows=tensors["train_rows"],
        classes=tuple(stored["classes"]),
        increments=tuple(tuple(increment) for increment in stored["increments"]),
        card=stored["card"],
        attribution=stored["attribution"],
        vocabulary=tuple(stored["vocabulary"]),
        parties=tuple(stored["parties"]),
        database=splits["database"],
        validation=splits["validation"],
        query=splits["query"],
        training=splits.get("training"),
    )
    if data.fingerprint() != stored["fingerprint"]:
        raise ValueError("the stored values are not those that were written")
    return data
