"""Abnormal inputs, one for each clean query: mixed, noisy, out of distribution.

Of a federation party 0 sends them, of a hash of images they are the query.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.data.dataset import Batch, Dataset, Modality
from advhash.data.load import is_path, load_dataset
from advhash.data.parties import party_names, party_view
from advhash.data.paths import Reads
from advhash.errors import UsageError
from advhash.registry import DATASETS
from advhash.victims.federated.hashvfl import HashVFL

KINDS = ("mixed", "noise", "ood")
PAIRED = ("mixed", "noise")  # made from the clean row of the same place
MOVED = "party0"  # whose part is replaced
TABLES = "--other: expected images; tables of other columns fit no bottom model"


def abnormal_batch(
    kind: str, victim: HashVFL, data: Dataset, batch: Batch, seed: int, *, other: str | None = None
) -> Batch:
    """As many abnormal items as the clean `batch` of the query split has; labels stay as they are.

    mixed: party 0 sends its part of a query of another class
    noise: party 0 sends uniform noise within its bounds, for tables standard normal noise
    ood:   all parties see items of another data set (`other`); for tables without one, every
           feature is shuffled by itself, which keeps its distribution and breaks all dependence
    """
    generator = np.random.default_rng(seed)
    if kind == "mixed":
        return _with(batch, data.query.rows(_other_class(data, batch, generator)).inputs[MOVED])
    if kind == "noise":
        torch_generator = torch.Generator().manual_seed(seed)
        part = batch.inputs[MOVED]
        draw = torch.rand if victim.is_image(MOVED) else torch.randn
        return _with(batch, draw(part.shape, generator=torch_generator))
    if victim.is_image(MOVED):
        strange = party_view(other_data(data, victim.shape, other), victim.parties).query
        rows = generator.permutation(len(strange))[np.arange(len(batch)) % len(strange)]
        return Batch(strange.rows(rows).inputs, batch.labels, batch.index)
    if other is not None:
        raise UsageError(TABLES)
    return Batch(_shuffled(batch.inputs, generator), batch.labels, batch.index)


def abnormal_images(
    kind: str, data: Dataset, batch: Batch, seed: int, *, other: str | None = None
) -> Batch:
    """As many abnormal pictures as the clean `batch` of queries has; labels stay as they are.

    mixed: the mean of the query and another one of another class
    noise: uniform noise
    ood:   pictures of another data set (`other`; by default emoji, or digits for them)

    Raises UsageError: `mixed` where all queries are of one class.
    """
    images = batch.inputs["image"]
    if kind == "mixed":
        made = mixed_images(images, batch.labels.argmax(dim=1).numpy(), seed)
    elif kind == "noise":
        drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
        made = (drawn * 255).round() / 255
    else:
        strange = other_data(data, tuple(images.shape[1:]), other).query
        order = np.random.default_rng(seed).permutation(len(strange))
        made = strange.rows(order[np.arange(len(batch)) % len(strange)]).inputs["image"]
    return Batch({**batch.inputs, "image": made}, batch.labels, batch.index)


def mixed_images(images: Tensor, classes: npt.NDArray[np.int64], seed: int) -> Tensor:
    """Each picture averaged with one of another class, on the 8-bit grid.

    Raises UsageError where all are of one class.
    """
    generator = np.random.default_rng(seed)
    if len(np.unique(classes)) < 2:
        raise UsageError("mixed inputs: expected test pictures of two classes, got one")
    other = [int(generator.choice(np.flatnonzero(classes != own))) for own in classes]
    return ((images + images[torch.tensor(other)]) / 2 * 255).round() / 255


def check_inputs(kind: str, victim: HashVFL, data: Dataset, other: str | None) -> None:
    """Refuse before a training what `abnormal_batch` would after it. Raises UsageError."""
    if kind == "ood" and victim.is_image(MOVED):
        other_data(data, victim.shape, other)
    elif other is not None:
        raise UsageError(TABLES)


def other_data(data: Dataset, shape: tuple[int, ...], name: str | None) -> Dataset:
    """The data set `name` as pictures of a shape (3,H,W); by default emoji, or digits for them.

    Raises UsageError: it has no images, or it is the victim's own.
    """
    name = name or ("digits" if data.name == "openmoji" else "openmoji")
    if name == data.name:
        raise UsageError(f"--other: expected another data set than the victim's, got {name!r}")
    if not is_path(name) and "size" not in DATASETS[name].model.model_fields:
        raise UsageError(f"--other: expected a data set with images, got {name!r}")
    other = load_dataset(name, {"size": shape[1]}, reads=Reads(classes=False))
    if "image" not in other.modalities:
        raise UsageError(f"--other: expected a data set with images, got {name!r}")
    images = other.query.inputs["image"]
    if tuple(images.shape[1:]) != shape:
        resized = F.interpolate(images.float(), shape[1:], mode="bilinear", antialias=True)
        inputs: dict[Modality, Tensor] = {"image": resized.round().to(torch.uint8)}
        query = type(other.query)(inputs, other.query.labels)
        return Dataset(other.name, {}, query, torch.arange(0), query, query, other.classes)
    return other


def _with(batch: Batch, part: Tensor) -> Batch:
    return Batch({**batch.inputs, MOVED: part}, batch.labels, batch.index)


def _other_class(
    data: Dataset, batch: Batch, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """(B,) a random row of the query split of another class for each row."""
    labels = data.query.labels.argmax(dim=1).numpy()
    own = batch.labels.argmax(dim=1).numpy()
    return np.array([generator.choice(np.flatnonzero(labels != label)) for label in own])


def _shuffled(
    inputs: Mapping[Modality, Tensor], generator: np.random.Generator
) -> dict[Modality, Tensor]:
    shuffled = {}
    for name in party_names(len(inputs)):
        columns = inputs[name].numpy().copy()
        shuffled[name] = torch.from_numpy(generator.permuted(columns, axis=0))
    return shuffled
