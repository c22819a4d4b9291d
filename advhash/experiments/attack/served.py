"""What the first results of a store hold, before an attack and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST
from advhash.codes.vectors import Vectors
from advhash.data.dataset import Split
from advhash.data.images.mixed import MixedPictures, image_batches, in_order
from advhash.errors import UsageError
from advhash.experiments.attack.columns import Columns
from advhash.experiments.config import ProtocolConfig
from advhash.experiments.prepare.trained import Trained
from advhash.registry import RESCORERS, STORES
from advhash.shared_labels import are_groups
from advhash.stores.base import NONE, Ids
from advhash.stores.figures import Search, expect_rows
from advhash.stores.served import check_served
from advhash.victims.base import HashVictim

Labels = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
STEP = 256  # inputs at a time


def search_of(protocol: ProtocolConfig) -> Search | None:
    """The search that figures are taken of; None: the exact ranking alone."""
    if protocol.store is None and not protocol.rescore:
        return None
    store = {"name": "exact"} if protocol.store is None else protocol.store.model_dump()
    return Search(store, [stage.model_dump() for stage in protocol.rescore])


def check_search(protocol: ProtocolConfig, victim: HashVictim, database: str, rows: int) -> None:
    """Raise UsageError, DataError for a search that cannot be served of this victim.

    rows: of the database
    """
    search = search_of(protocol)
    if search is None:
        return
    check_served(search.store, search.rescore)
    expect_rows(rows)
    if search.needs_floats and database not in victim.bounds:
        raise UsageError(
            f"{search.label}: expected a database of one modality ({', '.join(victim.bounds)}), "
            f"whose floats are kept, got --database {database}"
        )


def written_search(protocol: ProtocolConfig) -> dict[str, Any]:
    """`store` and `rescore` of a protocol with every setting. Raises UsageError."""
    store = None if protocol.store is None else protocol.store.written(STORES)
    return {
        "store": store,
        "rescore": [stage.written(RESCORERS) for stage in protocol.rescore],
    }


def vectors_of(
    victim: HashVictim,
    inputs: Tensor | MixedPictures,
    modality: str,
    codes: HashCodes,
    *,
    floats: bool,
) -> Vectors:
    """Codes of N inputs with the real values that they are the signs of.

    An encoder's embeddings are its features before the cut; all others have their real codes alone.

    floats: whether these are needed; else they are empty
    """
    if not floats:
        return _codes_alone(codes)
    return _embedded(victim, image_batches(inputs, STEP), modality, codes)


def split_vectors(victim: HashVictim, split: Split, modality: str, codes: HashCodes) -> Vectors:
    """The same of all rows of a split, with floats."""
    batches = ((batch.index, batch.inputs[modality]) for batch in split.batches(STEP))
    return _embedded(victim, batches, modality, codes)


def database_vectors(search: Search, trained: Trained, direction: str, codes: HashCodes) -> Vectors:
    """What a store holds of a database: the codes that the victim serves, and their floats."""
    if not search.needs_floats:
        return _codes_alone(codes)
    return split_vectors(trained.victim, trained.data.database, direction, codes)


def _codes_alone(codes: HashCodes) -> Vectors:
    empty = np.zeros((len(codes), 0), np.float32)
    return Vectors(codes, empty, empty)


def _embedded(
    victim: HashVictim,
    batches: Iterable[tuple[Tensor, Tensor]],
    modality: str,
    codes: HashCodes,
) -> Vectors:
    """batches: rows, in any order, and their inputs"""
    rows, real, embedded = [], [], []
    training = victim.training
    victim.eval()
    with torch.no_grad():
        for places, part in batches:
            given = part.to(victim.device)
            rows.append(places)
            real.append(victim.relax(given, modality).float().cpu().numpy())
            embedded.append(victim.embedded(given, modality).float().cpu().numpy())
    victim.train(training)
    order = in_order(rows)
    return Vectors(codes, np.concatenate(embedded)[order], np.concatenate(real)[order])


def served_columns(
    search: Search,
    victim: HashVictim,
    sides: Mapping[str, tuple[Tensor | MixedPictures, HashCodes]],
    database: Vectors,
    *,
    modality: str,
    labels: Labels,
    targets: Labels | None,
    database_labels: Labels,
) -> tuple[Columns, dict[str, Any]]:
    """Shares (N,) of the first 10 results, and the parameters of the store.

    sides: "" and "_adversarial": the inputs and codes of the queries before and after the attack

    served_precision_at_10: that share a label with the query; served_tprecision_at_10: with its
    target, `_clean` before the attack; store_recall_at_10: as near as an exact search's
    """
    columns, parameters = Columns(), dict[str, Any]()
    for side, (inputs, codes) in sides.items():
        asked = vectors_of(victim, inputs, modality, codes, floats=search.needs_floats)
        ids, share, parameters = search.results(asked, database, FIRST)
        columns[f"store_recall_at_10{side}"] = share
        columns[f"served_precision_at_10{side}"] = precision(ids, labels, database_labels)
        if targets is not None:
            name = "served_tprecision_at_10" + ("" if side else "_clean")
            columns[name] = precision(ids, targets, database_labels)
    return columns, parameters


def precision(ids: Ids, wanted: Labels, owned: Labels) -> npt.NDArray[np.float64]:
    """(N,) share of results (N,k) that share a label with their query; empty places share none.

    >>> precision(np.array([[1, -1]]), np.array([[3]], np.int32), np.array([[3], [3]], np.int32))
    array([0.5])
    """
    rows = owned[np.where(ids == NONE, 0, ids)]
    if are_groups(wanted):
        same = (rows[:, :, None, :] == wanted[:, None, :, None]) & (wanted >= 0)[:, None, :, None]
        hits = same.any(axis=(2, 3))
    else:
        hits = ((rows > 0) & (wanted > 0)[:, None]).any(axis=2)
    return np.asarray((hits & (ids != NONE)).mean(axis=1), np.float64)
