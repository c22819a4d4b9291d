"""Abnormal inputs, one for each clean query: mixed, noisy, out of distribution.

In a federation party 0 sends them; for a hash of images they are the query. Each is drawn from the
random numbers of its query, but for the shuffled features of tables, which couple all queries.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.chance import Chance
from advhash.data.dataset import Batch, Dataset, Modality, Split
from advhash.data.load import is_path, load_dataset
from advhash.data.parties import party_names, party_view
from advhash.data.paths import Reads
from advhash.errors import UsageError
from advhash.registry import DATASETS
from advhash.shared_labels import first_labels
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
    chance = Chance(seed, batch.index)
    if kind == "mixed":
        labels = data.query.labels.argmax(dim=1).numpy()
        partners = of_other_class(batch.labels.argmax(dim=1).numpy(), labels, chance)
        return _with(batch, data.query.rows(partners).inputs[MOVED])
    if kind == "noise":
        shape = batch.inputs[MOVED].shape[1:]
        draw = chance.uniform if victim.is_image(MOVED) else chance.normal
        return _with(batch, draw(*shape))
    if victim.is_image(MOVED):
        strange = party_view(other_data(data, victim.shape, other), victim.parties).query
        return Batch(
            strange.rows(_shuffled_rows(strange, batch, seed)).inputs, batch.labels, batch.index
        )
    if other is not None:
        raise UsageError(TABLES)
    shuffled = _shuffled_features(batch.inputs, np.random.default_rng(seed))
    return Batch(shuffled, batch.labels, batch.index)


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
        classes = first_labels(batch.labels.numpy())
        made = mixed_images(images, classes, Chance(seed, batch.index))
    elif kind == "noise":
        made = (Chance(seed, batch.index).uniform(*images.shape[1:]) * 255).round() / 255
    else:
        strange = other_data(data, tuple(images.shape[1:]), other).query
        made = strange.rows(_shuffled_rows(strange, batch, seed)).inputs["image"]
    return Batch({**batch.inputs, "image": made}, batch.labels, batch.index)


def mixed_images(images: Tensor, classes: npt.NDArray[np.int64], chance: Chance) -> Tensor:
    """Each of (N,3,H,W) averaged with one of another class, on the 8-bit grid.

    classes: (N,)
    chance:  the random numbers of the N pictures

    Raises UsageError where all are of one class.
    """
    partners = of_other_class(classes, classes, chance)
    return ((images + images[torch.from_numpy(partners)]) / 2 * 255).round() / 255


def of_other_class(
    classes: npt.NDArray[np.int64], known: npt.NDArray[np.int64], chance: Chance
) -> npt.NDArray[np.int64]:
    """(N,) for each of N rows a random one of the M rows of another class.

    classes: (N,) of the rows
    known:   (M,) of those to choose from

    Raises UsageError where no known row is of another class.
    """
    partners = np.empty(len(classes), np.int64)
    shares = chance.shares()
    for label in np.unique(classes):
        rows, others = np.flatnonzero(classes == label), np.flatnonzero(known != label)
        if not len(others):
            raise UsageError("mixed inputs: expected test rows of two classes, got one")
        partners[rows] = others[(shares[rows] * len(others)).astype(np.int64)]
    return partners


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
    images = other.query.tensor("image")
    if tuple(images.shape[1:]) != shape:
        resized = F.interpolate(images.float(), shape[1:], mode="bilinear", antialias=True)
        inputs: dict[Modality, Tensor] = {"image": resized.round().to(torch.uint8)}
        query = type(other.query)(inputs, other.query.labels)
        return Dataset(other.name, {}, query, torch.arange(0), query, query, other.classes)
    return other


def _with(batch: Batch, part: Tensor) -> Batch:
    return Batch({**batch.inputs, MOVED: part}, batch.labels, batch.index)


def _shuffled_rows(strange: Split, batch: Batch, seed: int) -> npt.NDArray[np.int64]:
    """(B,) a row of another data set for each query; each twice only where there are too few."""
    order = np.random.default_rng(seed).permutation(len(strange))
    return np.asarray(order[batch.index.numpy() % len(strange)])


def _shuffled_features(
    inputs: Mapping[Modality, Tensor], generator: np.random.Generator
) -> dict[Modality, Tensor]:
    shuffled = {}
    for name in party_names(len(inputs)):
        columns = inputs[name].numpy().copy()
        shuffled[name] = torch.from_numpy(generator.permuted(columns, axis=0))
    return shuffled
