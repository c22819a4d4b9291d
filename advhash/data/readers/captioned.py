"""From photographs with captions to a data set.

The text of an item is its first caption, as counts of words; the caption itself is kept in
`Split.texts`. Items without a label are left out; those without a known word are searched only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advhash.data import splits
from advhash.data.dataset import Dataset
from advhash.data.images import picture_sets
from advhash.data.images.picture_sets import Items, card_of_rows, picture_splits
from advhash.data.readers.shared import check_size
from advhash.data.splits import Rows
from advhash.data.text.counts import count_words, frequent_words, words
from advhash.errors import ConfigError, DataError

MAX_CAPTION = 2000  # characters kept of a caption


@dataclass(frozen=True)
class Captioned:
    """N items; parts: "query", "validation", "held_out" or "train" of each."""

    names: list[str]
    captions: list[str]
    labels: npt.NDArray[np.uint8]
    classes: list[str]
    load: picture_sets.Load
    parts: list[str]


def assemble(
    target: Path,
    name: str,
    captioned: Captioned,
    size: int,
    vocabulary: int,
    where: str,
    *,
    increments: tuple[tuple[str, ...], ...],
    warnings: list[str],
    **card: object,
) -> Dataset:
    texts = [words(caption) for caption in captioned.captions]
    parts = np.array(captioned.parts)
    labelled: npt.NDArray[np.bool_] = captioned.labels.sum(1) > 0
    database = np.flatnonzero(((parts == "train") | (parts == "held_out")) & labelled)
    known = frequent_words((texts[row] for row in database.tolist()), vocabulary)
    if not known and len(database):
        raise _no_words([texts[row] for row in database.tolist()], where)
    counts = count_words(texts, known)
    items = Items(captioned.names, captioned.labels, captioned.load, captioned.captions, counts)
    usable = ~items.searched_only
    rows: dict[str, Rows] = {
        "database": database,
        "validation": np.flatnonzero((parts == "validation") & usable),
        "query": np.flatnonzero((parts == "query") & usable),
    }
    train = np.flatnonzero((parts == "train") & usable)
    splits.refuse_empty(
        {**{part: len(taken) for part, taken in rows.items()}, "train": len(train)},
        where,
        f"{int((~labelled).sum())} of {len(parts)} items have no label, and "
        f"{int((counts.sum(1) == 0).sum())} none of the {len(known)} words that two captions of "
        "the database share; add items, or move some between splits",
    )
    stored, repeated = picture_splits(target, items, rows, size, where)
    dropped = int((~usable & (parts == "query")).sum())
    entries, more = card_of_rows(dropped, repeated)
    return splits.finish(
        name,
        stored,
        np.searchsorted(database, train),
        captioned.classes,
        increments=increments,
        vocabulary=known,
        card={
            **card,
            **entries,
            "vocabulary_words": len(known),
            "items_without_label_left_out": int((~labelled).sum()),
            "database_without_known_word": int((~usable)[database].sum()),
            "giveaway_words": splits.giveaway_words(
                [texts[row] for row in database.tolist()],
                captioned.labels[database],
                captioned.classes,
            ),
            "warnings": [*warnings, *more],
        },
    )


def _no_words(texts: Sequence[Sequence[str]], where: str) -> DataError:
    """What to say where the vocabulary is empty."""
    different = len({word for text in texts for word in text})
    return DataError(
        f"expected words that two captions of the database share in {where}, got none: of "
        f"{different} different words in {len(texts)} captions each is in one alone or a stop word "
        "of English"
    )


def check_settings(size: int, vocabulary: int) -> None:
    """Raises ConfigError."""
    check_size(size)
    if vocabulary < 1:
        raise ConfigError(f"expected a vocabulary of at least 1 word, got {vocabulary}")
