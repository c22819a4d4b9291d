"""`load_dataset`, which finds a data set by its name or its path.

Each is read or drawn once and stored in the cache, under a key made of its settings, the versions
of the packages that it comes from and the source of its reader, a module of `readers`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advhash.data.dataset import Dataset
from advhash.data.images.mixed import MixedPictures
from advhash.data.paths import Reads, reader_of
from advhash.data.splits import refuse_empty_splits
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS
from advhash.storage.files import write_bytes
from advhash.storage.places import user_path

logger = logging.getLogger(__name__)
TILE = 64  # least pixels of an image in a grid


def load_dataset(
    name: str | Path,
    settings: Mapping[str, object] | None = None,
    *,
    reads: Reads | None = None,
) -> Dataset:
    """A registered data set, or, where `name` is a path, what lies there.

    reads: what the victim reads, which decides where several readers take the path

    Which reader takes a path stands on the card and is logged. Raises UnknownName, ConfigError,
    DataError, StorageError.
    """
    name, settings = str(name), dict(settings or {})
    if not is_path(name):
        data: Dataset = DATASETS.create(name, settings)
        refuse_empty_splits(data)  # of packages' readers too
        return data
    place = user_path(name).resolve()
    if "root" in settings:
        raise ConfigError(f"expected one place, got {name!r} and the setting 'root'")
    reader = reader_of(place, reads)
    logger.info("%s: %s, read by %r", place, reader.what, reader.reader)
    data = load_dataset(reader.reader, {**reader.settings, **settings})
    return replace(data, card={"reader": f"{reader.reader} ({reader.what})", **data.card})


def is_path(name: str) -> bool:
    """Whether a name stands for a folder or a file rather than for a registered data set."""
    return DATASETS.is_place(name)


def image_grid(data: Dataset, rows: int = 8, columns: int = 12, seed: int = 0) -> Image.Image:
    """A picture of up to rows × columns query images, drawn by `seed`, enlarged without blur.

    Images of several sizes are made to fit tiles of one.

    Raises DataError: the data set has no images.
    """
    if "image" not in data.query.inputs:
        raise DataError(
            f"expected a data set with images, got {data.name!r} with {', '.join(data.modalities)}"
        )
    images = data.query.inputs["image"]
    drawn = np.random.default_rng(seed).permutation(len(images))[: rows * columns]
    if isinstance(images, MixedPictures):
        shown = [_tile(images.picture(row)) for row in drawn.tolist()]
        height, width = TILE, TILE
    else:
        shown = list(images[torch.from_numpy(drawn)].numpy())
        height, width = images.shape[2:]
    scale = -(-TILE // min(height, width))
    step_y, step_x = height * scale + 2, width * scale + 2
    grid = np.full((rows * step_y + 2, columns * step_x + 2, 3), 255, np.uint8)
    for place, image in enumerate(shown):
        top, left = (place // columns) * step_y + 2, (place % columns) * step_x + 2
        tile = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        grid[top : top + height * scale, left : left + width * scale] = tile
    return Image.fromarray(grid)


def _tile(image: Tensor) -> npt.NDArray[np.uint8]:
    """(3,TILE,TILE): the whole of a (3,H,W) picture on white."""
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    square = ImageOps.pad(picture, (TILE, TILE), color="white")
    return np.asarray(square).transpose(2, 0, 1)


def save_image_grid(data: Dataset, file: Path) -> None:
    """Write samples of a data set as a PNG. Raises DataError, StorageError."""
    buffer = io.BytesIO()
    image_grid(data).save(buffer, format="PNG")
    write_bytes(file, buffer.getvalue())
