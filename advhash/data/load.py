"""`load_dataset`, which finds a data set by its name or its path.

Each is read or drawn once and stored in the cache, under a key made of its settings, the versions
of the packages that it comes from and the source of its reader, a module of `readers`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from advhash.data.dataset import Dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import DATASETS
from advhash.storage.files import write_bytes

TILE = 64  # least pixels of an image in a grid


def load_dataset(
    name: str | Path, settings: Mapping[str, object] | None = None, **misplaced: object
) -> Dataset:
    """A registered data set, or, where `name` is a path, the images in that folder.

    misplaced: none; they are told where settings stand

    Raises UnknownName, ConfigError, DataError, StorageError, UsageError.
    """
    if misplaced or not isinstance(settings, Mapping | None) or not isinstance(name, str | Path):
        table = misplaced or {"size": 64}
        got = ", ".join(f"{key}={value!r}" for key, value in table.items() if misplaced)
        raise UsageError(
            f"expected load_dataset(name, {table!r}): a name or path, then a table of settings, "
            f"got {got or f'{type(name).__name__} and {type(settings).__name__}'}"
        )
    name, settings = str(name), dict(settings or {})
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


def save_image_grid(data: Dataset, file: Path) -> None:
    """Write samples of a data set as a PNG. Raises DataError, StorageError."""
    buffer = io.BytesIO()
    image_grid(data).save(buffer, format="PNG")
    write_bytes(file, buffer.getvalue())
