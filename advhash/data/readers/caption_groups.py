"""Captions alone: those of the same photograph are relevant to each other.

All captions of a picture lie on one side: pictures are either trained on, or those of queries and
of what is searched. The first caption of a picture is the query, the others are in the database, so
that nothing that is searched or asked was trained on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from advhash.data import splits
from advhash.data.dataset import Dataset, Split, TextKind
from advhash.data.readers.captioned import MAX_CAPTION
from advhash.data.readers.flickr8k import FLICKR8K
from advhash.data.text.kinds import check_text, with_text
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS
from advhash.shared_labels import as_groups
from advhash.storage.documents import read_json, reason

__all__: list[str] = []

ASKED = {"test": "query", "dev": "validation"}  # official parts of Flickr8k


@DATASETS.register("flickr8k_captions", source="Hodosh, Young and Hockenmaier, JAIR 2013")
def read_flickr8k_captions(
    *,
    root: str | None = None,
    train: int = 2000,
    seed: int = 0,
    text: TextKind = "characters",
    text_length: int = 32,
    vocabulary: int = 2000,
) -> Dataset:
    """The captions of Flickr8k, no pictures: relevant are those of the same photograph."""
    check_text(text, text_length)
    if text == "words":
        raise ConfigError("expected text=characters, tokens or sentence, got words")
    if train < 1 or vocabulary < 1:
        raise ConfigError(
            f"expected at least 1 photograph to train on and 1 word, got {train} and {vocabulary}"
        )
    folder = FLICKR8K.find(root)
    file = folder / "captions.json"
    if not file.is_file():
        raise FLICKR8K.missing(folder, "got no captions.json")
    try:
        photographs = [
            (str(entry["file"]), str(entry["split"]), [str(each) for each in entry["captions"]])
            for entry in read_json(file)
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"expected a list of file, split and captions in {file}, got {reason(error)}"
        ) from None
    lone = [name for name, part, captions in photographs if part in ASKED and len(captions) < 2]
    if lone:
        raise DataError(
            f"expected at least 2 captions of each photograph that is asked for in {file}, got "
            f"fewer of {lone[0]}"
        )
    names = [name for name, _, _ in photographs]
    shuffled = splits.seeded_order(names, seed)
    trained = [row for row in shuffled if photographs[row][1] == "train"][:train]
    rows: dict[str, list[tuple[int, int]]] = {"database": [], "validation": [], "query": []}
    rows["training"] = [
        (row, place) for row in sorted(trained) for place in range(len(photographs[row][2]))
    ]
    for row, (_, part, captions) in enumerate(photographs):
        if part in ASKED:
            rows[ASKED[part]].append((row, 0))
            rows["database"] += [(row, place) for place in range(1, len(captions))]
    splits.refuse_empty({name: len(taken) for name, taken in rows.items()}, str(file))
    parts = {
        name: Split(
            {},
            torch.from_numpy(as_groups([row for row, _ in taken])),
            tuple(f"{names[row]} ({place + 1})" for row, place in taken),
            tuple(photographs[row][2][place][:MAX_CAPTION] for row, place in taken),
        )
        for name, taken in rows.items()
    }
    data = splits.finish(
        "flickr8k_captions",
        parts,
        np.empty(0, np.int64),
        (),
        card={
            "photographs": {"asked_for": len(parts["query"]), "trained_on": len(trained)},
            "source": "https://hockenmaier.cs.illinois.edu/8k-pictures.html",
            "licence": "non-commercial research and education",
            "training": "apart",
            "warnings": [
                "Captions of other photographs that say the same (“a dog runs on the beach”) count "
                "as wrong answers."
            ],
        },
    )
    settings = {"root": root, "train": train, "seed": seed, "vocabulary": vocabulary}
    return with_text(replace(data, settings=settings), text, text_length, vocabulary)
