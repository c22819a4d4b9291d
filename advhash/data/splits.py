"""How rows are split, and the figures that a data set's card states about the splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from advhash.codes.metrics import chance_average_precision
from advhash.data.dataset import Dataset, Modality, Split, Stored
from advhash.errors import DataError
from advhash.shared_labels import NO_GROUP, GroupIndex, Labels, are_groups, label_counts

GIVEAWAY_PRECISION = 0.9
GIVEAWAY_RECALL = 0.2
ALL_RELEVANT = (
    "Every item is relevant to every query: retrieval cannot fail, and no target differs from a "
    "query. Give labels that tell items apart."
)
QUERY_BLOCK = 256  # queries compared with the whole database at once

Rows = npt.NDArray[np.int64]


def seeded_order(keys: Sequence[str], seed: int) -> list[int]:
    """Rows in the order of a hash of the seed and their keys.

    It depends on no random generator, and a row that is added moves no other.
    """
    return sorted(
        range(len(keys)), key=lambda row: hashlib.sha256(f"{seed}:{keys[row]}".encode()).digest()
    )


def split_rows(
    groups: Sequence[int], sizes: Mapping[str, int], *, keep_in_database: Collection[int] = ()
) -> dict[str, Rows]:
    """Sorted rows for each name in `sizes`, at most that many, and all others as "train".

    Groups, each with its rows together, go to the first split with room for them, in the order of
    their first rows. Those with a row of `keep_in_database` go to "held_out" or "train" only.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    kept = {groups[row] for row in keep_in_database}
    split: dict[str, list[int]] = {name: [] for name in (*sizes, "train")}
    for group, rows in members.items():
        allowed = sizes.keys() & {"held_out"} if group in kept else sizes
        room = (name for name in allowed if len(split[name]) + len(rows) <= sizes[name])
        split[next(room, "train")] += rows
    return {name: np.array(sorted(rows), np.int64) for name, rows in split.items()}


def rows_by_count(
    groups: Sequence[int],
    query: int,
    validation: int,
    train: int,
    *,
    keep_in_database: Collection[int] = (),
) -> dict[str, Rows]:
    """Rows "query", "validation", "train" as many as asked, as papers state them; "held_out": rest.

    Rows of `keep_in_database` are held out: searched in, but neither asked for nor trained on.
    """
    sizes = {"query": query, "validation": validation, "trained": train}
    rows = split_rows(groups, sizes, keep_in_database=keep_in_database)
    return {
        "query": rows["query"],
        "validation": rows["validation"],
        "train": rows["trained"],
        "held_out": rows["train"],
    }


def per_class(
    targets: npt.NDArray[np.int64], groups: Sequence[int], query: int, validation: int, train: int
) -> dict[str, Rows]:
    """As `rows_by_count`, with the same counts of each class in `targets` (N,).

    A group counts with the class of its first row.
    """
    of_group = targets[np.asarray(groups)]
    parts: dict[str, list[Rows]] = {}
    for target in np.unique(of_group):
        members = np.flatnonzero(of_group == target)
        rows = rows_by_count([groups[row] for row in members.tolist()], query, validation, train)
        for name, places in rows.items():
            parts.setdefault(name, []).append(members[places])
    return {name: np.sort(np.concatenate(places)) for name, places in parts.items()}


def by_identity(
    identities: npt.NDArray[np.int64], groups: Sequence[int], query: float, validation: float
) -> dict[str, Rows]:
    """Rows of each split where (N,) identities say which rows belong together.

    query, validation: shares of the identities, in the order of their first rows, one of whose rows
        goes there; the others stay in the database and are not trained on ("held_out"), so that no
        identity that is asked for was learnt. All other identities are "train"
    groups: rows of one group are equal: they go together, and a query leaves another group behind

    Raises DataError: no identity has two different rows.

    >>> rows = by_identity(np.array([4, 4, 7, 9, 9, 9]), range(6), 0.4, 0.3)
    >>> {name: part.tolist() for name, part in rows.items()}
    {'query': [0], 'validation': [3], 'held_out': [1, 4, 5], 'train': [2]}
    """
    members: dict[int, dict[int, list[int]]] = {}
    owners: dict[int, set[int]] = {}
    for row, (identity, group) in enumerate(zip(identities.tolist(), groups, strict=True)):
        members.setdefault(identity, {}).setdefault(group, []).append(row)
        owners.setdefault(group, set()).add(identity)
    asked = [
        identity
        for identity, parts in members.items()
        if len(parts) > 1 and all(len(owners[group]) == 1 for group in parts)
    ]
    if not asked:
        raise DataError(
            f"expected identities with two different rows or more, got {len(members)} of one: a "
            "query would find nothing; add rows that belong together"
        )
    counts = [max(round(len(members) * share), 1) for share in (query, validation)]
    places = {
        identity: "query" if place < counts[0] else "validation"
        for place, identity in enumerate(asked[: sum(counts)])
    }
    split: dict[str, list[int]] = {
        name: [] for name in ("query", "validation", "held_out", "train")
    }
    for identity, parts in members.items():
        first, *others = parts.values()
        place = places.get(identity, "train")
        split[place] += first
        rest = "train" if place == "train" else "held_out"
        split[rest] += [row for part in others for row in part]
    return {name: np.array(sorted(rows), np.int64) for name, rows in split.items()}


def refuse_empty(sizes: Mapping[str, int], where: str, advice: str = "add items") -> None:
    """Raise DataError where a split has no rows: no figure can be taken on it."""
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        raise DataError(
            f"expected rows in every split of {where}, got none in {', '.join(empty)}: {advice}"
        )


def refuse_empty_splits(data: Dataset) -> None:
    """The same of a whole data set, whoever made it."""
    searched = {"query": data.query, "validation": data.validation, "database": data.database}
    trained = {"train": len(data.train_labels)}
    refuse_empty({name: len(split) for name, split in searched.items()} | trained, repr(data.name))


def assemble(
    name: str,
    rows: Mapping[str, Rows],
    inputs: Mapping[Modality, Stored],
    labels: Labels,
    names: Sequence[str],
    classes: Sequence[str],
    *,
    texts: Sequence[str] = (),
    increments: tuple[tuple[str, ...], ...] = (),
    attribution: str = "",
    vocabulary: tuple[str, ...] = (),
    parties: tuple[int, ...] = (),
    **card: object,
) -> Dataset:
    """A data set, still without settings, from rows "query", "validation", "held_out", "train".

    inputs, labels, names, texts: all N rows; the database is "train" and "held_out" in their order
    vocabulary: what the columns of "text" count
    parties: how many columns of "table" each party holds
    card: what the card says besides the counts
    """
    everything = Split(inputs, torch.from_numpy(labels), tuple(names), tuple(texts))
    database = np.union1d(rows["train"], rows["held_out"])
    parts = {
        "database": everything.take(database),
        "validation": everything.take(rows["validation"]),
        "query": everything.take(rows["query"]),
    }
    return finish(
        name,
        parts,
        np.searchsorted(database, rows["train"]),
        classes,
        increments=increments,
        attribution=attribution,
        vocabulary=vocabulary,
        parties=parties,
        card=card,
    )


def finish(
    name: str,
    parts: Mapping[str, Split],
    train_rows: Rows,
    classes: Sequence[str],
    *,
    increments: tuple[tuple[str, ...], ...] = (),
    attribution: str = "",
    vocabulary: tuple[str, ...] = (),
    parties: tuple[int, ...] = (),
    card: Mapping[str, object],
) -> Dataset:
    """A data set, still without settings, of "database", "validation", "query", maybe "training".

    card: what the card says besides the counts

    Raises DataError: a split without rows.
    """
    data = Dataset(
        name=name,
        settings={},
        database=parts["database"],
        train_rows=torch.from_numpy(train_rows),
        validation=parts["validation"],
        query=parts["query"],
        training=parts.get("training"),
        classes=tuple(classes),
        increments=increments,
        attribution=attribution,
        vocabulary=vocabulary,
        parties=parties,
    )
    refuse_empty_splits(data)
    counts = describe(data)
    if counts["relevant_fraction"] == 1:
        card = {**card, "warnings": [*_warnings(card), ALL_RELEVANT]}
    return replace(data, card={**counts, **card, "attribution": attribution})


def _warnings(card: Mapping[str, object]) -> Sequence[object]:
    given = card.get("warnings", ())
    return given if isinstance(given, Sequence) else ()


def describe(data: Dataset) -> dict[str, object]:
    """Counts of items and labels, and what a random order would score; JSON-able."""
    of_split = {
        "query": data.query.labels,
        "validation": data.validation.labels,
        "database": data.database.labels,
        "train": data.train_labels,
    }
    labels = _together([split.labels for split in data.stored.values()])
    labelled = label_counts(labels) > 0
    _, set_sizes = torch.unique(labels[labelled], dim=0, return_counts=True)
    relevant = relevant_counts(data.query.labels, data.database.labels)
    chance = chance_average_precision(relevant, len(data.database))
    return {
        "items": {name: len(part) for name, part in of_split.items()},
        **({"groups": _groups(data)} if data.grouped else {"labels": _columns(data, of_split)}),
        "items_without_label": int((~labelled).sum()),
        "labels_per_item": round(float(label_counts(labels).double().mean()), 4),
        "label_sets": len(set_sizes),
        "label_sets_with_one_item": int((set_sizes == 1).sum()),
        "relevant_fraction": round(float(relevant.mean() / len(data.database)), 6),
        "queries_without_relevant": int((relevant == 0).sum()),
        "chance_map": round(float(chance.mean()), 6),
    }


def _together(parts: Sequence[Tensor]) -> Tensor:
    """Labels of several splits; groups may have other widths."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, width - part.shape[1]), value=NO_GROUP) for part in parts])


def _columns(data: Dataset, of_split: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """How many rows of each split carry each class."""
    counts = {name: part.sum(0, dtype=torch.int64).tolist() for name, part in of_split.items()}
    return {
        label: {name: count[column] for name, count in counts.items()}
        for column, label in enumerate(data.classes)
    }


def _groups(data: Dataset) -> dict[str, object]:
    """How many groups the database has, and how many of its rows they hold."""
    labels = data.database.labels
    rows = torch.unique(labels[labels >= 0], return_counts=True)[1].sort().values
    middle = int(rows[len(rows) // 2]) if len(rows) else 0
    ends = (int(rows[0]), int(rows[-1])) if len(rows) else (0, 0)
    return {
        "count": len(rows),
        "rows": {"smallest": ends[0], "median": middle, "largest": ends[1]},
        "of_one_row": int((rows == 1).sum()),
    }


def relevant_counts(query: Tensor, database: Tensor) -> npt.NDArray[np.int64]:
    """(Q,) how many database items share a label with each query; labels (Q,C) and (N,C)."""
    if are_groups(query):
        return GroupIndex(database.numpy()).counts(query.numpy())
    columns = database.float().T
    counts = [(part.float() @ columns > 0).sum(1) for part in query.split(QUERY_BLOCK)]
    return torch.cat(counts).numpy()


def giveaway_words(
    texts: Sequence[Sequence[str]], labels: npt.NDArray[np.uint8], classes: Sequence[str]
) -> dict[str, list[dict[str, object]]]:
    """For each label, up to five words of (N,) texts that almost decide it, best F1 first.

    Precision: the share of the items with the word that carry the label. Recall: the share of the
    items with the label that have the word.
    """
    items = Counter(word for text in texts for word in set(text))
    groups: dict[str, list[dict[str, object]]] = {}
    for column, label in enumerate(classes):
        carried = np.flatnonzero(labels[:, column]).tolist()
        carriers = [set(texts[row]) for row in carried]
        words = []
        for word, both in Counter(word for text in carriers for word in text).items():
            precision, recall = both / items[word], both / len(carriers)
            if precision >= GIVEAWAY_PRECISION and recall >= GIVEAWAY_RECALL:
                words.append((-2 * both / (items[word] + len(carriers)), word, precision, recall))
        if words:
            groups[label] = [
                {"word": word, "precision": round(precision, 3), "recall": round(recall, 3)}
                for _, word, precision, recall in sorted(words)[:5]
            ]
    return groups
