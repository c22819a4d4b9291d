"""Your own texts: a table, JSON lines, class folders of .txt files, or a BEIR folder.

    table, JSON lines   a column of texts, and one of labels, or one of groups
    class folders       ROOT/<class>/*.txt, the folder's name is the label
    BEIR                corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv: relevant is what is judged so

Texts that are equal lie on one side of the split. Texts of one group are relevant to each other, as
the captions of one picture are; no group that is asked for is trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advhash.codes.judgements import Side, read_judgements
from advhash.codes.stored_rows import LINES, json_lines, reading
from advhash.data import paths, splits
from advhash.data.dataset import Dataset, TextKind
from advhash.data.images.decode import printable
from advhash.data.readers import shared
from advhash.data.readers.caption_table import MIN_ITEMS, SHARES, SPLIT_NAMES
from advhash.data.readers.captioned import MAX_CAPTION
from advhash.data.readers.own_table import LABELS, Columns, listed_columns, read_columns
from advhash.data.text.counts import words
from advhash.data.text.kinds import check_text, with_text
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS
from advhash.shared_labels import (
    MOST_COLUMNS,
    NO_GROUP,
    Labels,
    are_groups,
    as_groups,
    label_counts,
)
from advhash.storage.documents import Unreadable, read_text, reason
from advhash.storage.places import user_path

__all__: list[str] = []

OF_CLASSES = (*LABELS, "labels")  # columns of labels where none is named
OF_GROUPS = ("group", "groups", "cluster")  # likewise, of groups
VALIDATION_OF_JUDGED = 0.2  # of the queries of a BEIR folder


@dataclass(frozen=True)
class _Texts:
    """N texts.

    labels: multi-hot, or groups; none of a row that is only searched
    parts:  the split of each, as `splits.assemble` calls them
    facts:  for the card
    """

    texts: Sequence[str]
    names: Sequence[str]
    labels: Labels
    classes: Sequence[str]
    parts: npt.NDArray[np.str_]
    facts: dict[str, object] = field(default_factory=dict)


@DATASETS.register("texts", source="your own texts: a table, JSON lines, class folders or BEIR")
def read_texts(
    *,
    root: str,
    column: str = "",
    label: str = "",
    group: str = "",
    split: str = "",
    text: TextKind = "characters",
    text_length: int = 32,
    vocabulary: int = 2000,
    seed: int = 0,
) -> Dataset:
    """Your own texts with labels or groups: a table, JSON lines, class folders, or BEIR."""
    check_text(text, text_length)
    if text == "words":
        raise ConfigError("expected text=characters, tokens or sentence, got words")
    if vocabulary < 1:
        raise ConfigError(f"expected a vocabulary of at least 1 word, got {vocabulary}")
    if label and group:
        raise ConfigError(f"expected dataset.label or dataset.group, got {label!r} and {group!r}")
    place = user_path(root)
    if paths.is_beir(place):
        if column or label or group:
            raise ConfigError(
                f"{place} is a BEIR folder: expected dataset.split alone, got a column"
            )
        rows = _judged(place, split, seed)
    else:
        if split:
            raise ConfigError(
                f"dataset.split={split} names qrels of a BEIR folder: expected one with "
                f"corpus.jsonl and queries.jsonl, got {place}"
            )
        rows = _labelled(place, column, label, group, seed)
    taken = {
        part: np.flatnonzero(rows.parts == part)
        for part in ("query", "validation", "held_out", "train")
    }
    splits.refuse_empty(
        {part: len(taken[part]) for part in ("query", "validation", "train")},
        str(place),
        "add texts, or move some between the splits",
    )
    data = splits.assemble(
        "texts",
        taken,
        {},
        rows.labels,
        rows.names,
        rows.classes,
        texts=[each[:MAX_CAPTION] for each in rows.texts],
        source="texts given by the user",
        licence="unknown",
        texts_cut=sum(len(each) > MAX_CAPTION for each in rows.texts),
    )
    facts = {**_giveaway_words(rows, np.union1d(taken["train"], taken["held_out"])), **rows.facts}
    settings = {
        "root": root, "column": column, "label": label, "group": group, "split": split,
        "vocabulary": vocabulary, "seed": seed,
    }  # fmt: skip
    data = replace(data, settings=settings, card={**data.card, **facts})
    return with_text(data, text, text_length, vocabulary)


def _giveaway_words(rows: _Texts, searched: splits.Rows) -> dict[str, object]:
    """For the card: the words of the database that almost decide a class; groups have none."""
    if not rows.classes:
        return {}
    texts = [words(rows.texts[row]) for row in searched.tolist()]
    labels = rows.labels[searched].astype(np.uint8)
    return {"giveaway_words": splits.giveaway_words(texts, labels, rows.classes)}


# Tables, JSON lines, class folders


def _labelled(place: Path, column: str, label: str, group: str, seed: int) -> _Texts:
    """Texts with a column of labels or of groups. Raises DataError, ConfigError."""
    columns = _columns(place)
    asked = {"column": column, "label": label, "group": group}
    for setting, name in asked.items():
        if name and name not in columns:
            raise ConfigError(
                f"dataset.{setting}: expected a column of {place}, got {name!r}; it has "
                f"{listed_columns(list(columns))}"
            )
    column = column or _only(place, columns, paths.TEXT_COLUMNS, "column", "holds the texts")
    if not label and not group:
        name = _only(
            place,
            [each for each in columns if each != column],
            (*OF_CLASSES, *OF_GROUPS),
            "label or dataset.group",
            "says which texts are relevant to each other",
        )
        label, group = ("", name) if name.lower() in OF_GROUPS else (name, "")
    texts = columns[column]
    kept = [row for row, text in enumerate(texts) if text.strip()]
    order = [kept[row] for row in splits.seeded_order([str(row) for row in kept], seed)]
    given = [columns[label or group][row].strip() for row in order]
    if len(kept) < MIN_ITEMS or not any(given):
        raise DataError(
            f"expected at least {MIN_ITEMS} texts, some with a value in {label or group!r}, in "
            f"{place}, got {len(kept)}: add texts"
        )
    classes: list[str] = []
    labels: Labels
    if label:
        classes, labels = _classes(place, label, given)
    else:
        place_of = {name: at for at, name in enumerate(dict.fromkeys(filter(None, given)))}
        labels = as_groups([place_of.get(name, NO_GROUP) for name in given])
    first: dict[str, int] = {}
    same = [first.setdefault(texts[row].strip(), at) for at, row in enumerate(order)]
    stated = [columns.get("split", [""] * len(texts))[row].strip().lower() for row in order]
    return _Texts(
        [texts[row] for row in order],
        [f"{printable(name)} (no. {row})" for row, name in zip(order, given, strict=True)],
        labels,
        [printable(name) for name in classes],
        _parts(place, stated, labels, same),
        {
            "columns": {"texts": column, **({"labels": label} if label else {"groups": group})},
            "rows_without_text_left_out": len(texts) - len(kept),
            "repeated_texts": len(order) - len(first),
        },
    )


def _columns(place: Path) -> Columns:
    """The cells of each column as text, "" where there is none. Raises DataError."""
    if not place.is_dir():
        if place.suffix.lower() in LINES:
            return _lines(place)
        return read_columns(place)
    files = sorted(
        each for each in place.iterdir() if each.name.lower().endswith((*LINES, *paths.TABLES))
    )
    if len(files) == 1:
        return _columns(files[0])
    return _class_folders(place, len(files))


def _lines(file: Path) -> Columns:
    """The fields of JSON lines; a list stands for several labels. Raises DataError."""
    columns: Columns = {}
    count = 0
    with reading(file):
        for line, document in json_lines(file):
            if not isinstance(document, dict):
                raise DataError(f"{file}, line {line}: expected an object, got a value: write one")
            for name, value in document.items():
                cells = columns.setdefault(name, [])
                cells += [""] * (count - len(cells))
                parts = value if isinstance(value, list) else [value]
                cells.append(";".join("" if part is None else str(part) for part in parts))
            count += 1
    return {name: cells + [""] * (count - len(cells)) for name, cells in columns.items()}


def _class_folders(root: Path, tables: int) -> Columns:
    """The texts below ROOT/<class>/, without hidden files and links. Raises DataError."""
    columns: Columns = {"text": [], "label": []}
    try:
        for folder in shared.visible_entries(root):
            if not folder.is_dir(follow_symlinks=False):
                continue
            for entry in shared.visible_entries(folder):
                if entry.name.lower().endswith(paths.TEXTS) and entry.is_file(
                    follow_symlinks=False
                ):
                    columns["text"].append(read_text(Path(entry.path)).strip())
                    columns["label"].append(folder.name.replace(";", ","))
    except Unreadable as error:
        raise DataError(f"expected UTF-8 text in {entry.path}, got: {error}") from None
    except OSError as error:
        raise DataError(f"expected {root}/<class>/*.txt, got: {reason(error)}") from None
    if not columns["text"]:
        got = f"{tables} tables" if tables else "none of them"
        raise DataError(
            f"expected one table, JSON lines, <class>/*.txt or a BEIR folder in {root}, got {got}: "
            "name the file by dataset.root"
        )
    return columns


def _only(
    place: Path, columns: Columns | list[str], known: Sequence[str], setting: str, what: str
) -> str:
    """The only column of a known name. Raises ConfigError."""
    likely = [name for name in columns if name.lower() in known]
    if not columns:
        raise DataError(f"expected rows in {place}, got none: name a file that has some")
    if len(likely) != 1:
        raise ConfigError(
            f"expected dataset.{setting}, the column of {place} that {what}: one of "
            f"{listed_columns(list(columns))}"
        )
    return likely[0]


def _classes(
    place: Path, label: str, given: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """The names of the classes, and (N,C) which a row has, several separated by semicolons.

    Raises DataError: so many that no two rows share one, or more than there may be columns.
    """
    rows = [{part.strip() for part in cell.split(";")} - {""} for cell in given]
    counts = Counter(name for row in rows for name in row)
    classes = sorted(counts)
    if max(counts.values()) < 2 or len(classes) > MOST_COLUMNS:
        raise DataError(
            f"expected labels that texts share in the column {label!r} of {place}, got "
            f"{len(classes)} different ones in {len(given)} rows; say --set dataset.group={label} "
            "where they are groups, such as the captions of a picture"
        )
    at = {name: column for column, name in enumerate(classes)}
    labels = np.zeros((len(rows), len(classes)), np.uint8)
    for row, names in enumerate(rows):
        labels[row, [at[name] for name in names]] = 1
    return classes, labels


def _parts(
    place: Path, stated: Sequence[str], labels: Labels, same: Sequence[int]
) -> npt.NDArray[np.str_]:
    """The split of each row: as stated, else drawn; rows without a label are only searched."""
    bare = np.flatnonzero(label_counts(labels) == 0)
    parts = np.full(len(labels), "held_out", dtype="<U10")
    if any(stated):
        wrong = next((name for name in stated if name not in SPLIT_NAMES), None)
        if wrong is not None:
            raise DataError(
                f"expected a split of {', '.join(sorted(SPLIT_NAMES))} in every row of {place}, "
                f"got {printable(wrong)!r}"
            )
        parts = np.array([SPLIT_NAMES[name] for name in stated], dtype="<U10")
        parts[bare] = "held_out"
        return parts
    if are_groups(labels):
        rows = np.setdiff1d(np.arange(len(labels)), bare)
        drawn = splits.by_identity(
            labels[rows, 0].astype(np.int64),
            [same[row] for row in rows.tolist()],
            SHARES["query"],
            SHARES["validation"],
        )
        taken = {part: rows[at] for part, at in drawn.items()}
    else:
        sizes = {part: round(share * len(labels)) for part, share in SHARES.items()}
        taken = splits.split_rows(same, sizes, keep_in_database=bare.tolist())
    for part, at in taken.items():
        parts[at] = part
    parts[bare] = "held_out"
    return parts


# BEIR


def _judged(folder: Path, split: str, seed: int) -> _Texts:
    """The queries that are judged, and the whole corpus. Raises DataError, ConfigError."""
    known = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
    chosen = split or ("test" if "test" in known else known[0] if len(known) == 1 else "")
    if chosen not in known:
        raise ConfigError(
            f"expected dataset.split, the qrels of {folder} that say what is relevant: one of "
            f"{', '.join(known) or 'none; put qrels/test.tsv there'}"
        )
    documents, queries = (_entries(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
    judged = read_judgements(
        folder,
        Side("queries", len(queries), list(queries)),
        Side("database", len(documents), list(documents)),
        split=chosen,
        ignore=True,
    )
    if judged.ignored:
        raise DataError(
            f"{judged.source}: names queries or documents that are not there in "
            f"{judged.ignored} lines: take these lines out, or add what they name"
        )
    pairs = judged.pairs
    of_pair = np.repeat(np.arange(len(judged.queries)), np.diff(pairs.starts))
    good = pairs.grades > 0
    asked, answering = of_pair[good], pairs.rows[good]
    answered = np.unique(asked)
    if len(answered) < 2:
        raise DataError(
            f"{judged.source}: expected at least 2 queries with a relevant document, got "
            f"{len(answered)}"
        )
    order = np.argsort(answering, kind="stable")
    counts = np.bincount(answering, minlength=len(documents))
    groups = np.full((len(documents), counts.max()), NO_GROUP, np.int32)
    within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    groups[answering[order], within] = asked[order]
    own = np.full((len(answered), counts.max()), NO_GROUP, np.int32)
    own[:, 0] = answered
    named, texts = list(queries), list(queries.values())
    rows = judged.queries[answered].tolist()
    shuffled = splits.seeded_order([named[row] for row in rows], seed)
    parts = np.full(len(rows), "query", dtype="<U10")
    parts[shuffled[: max(round(len(rows) * VALIDATION_OF_JUDGED), 1)]] = "validation"
    return _Texts(
        [*(texts[row] for row in rows), *documents.values()],
        [*(printable(named[row]) for row in rows), *map(printable, documents)],
        np.concatenate([own, groups]),
        (),
        np.concatenate([parts, np.where(counts > 0, "held_out", "train")]),
        {
            "judgements": judged.source,
            "queries_without_relevant_left_out": len(judged.queries) - len(answered),
            "warnings": ["Trained on are the documents that answer none of these queries."],
        },
    )


def _entries(file: Path) -> dict[str, str]:
    """Title and text of each entry by its id. Raises DataError."""
    entries: dict[str, str] = {}
    with reading(file):
        for line, document in json_lines(file):
            try:
                name, text = str(document["_id"]), str(document["text"])
                title = str(document.get("title") or "")
            except (KeyError, TypeError, AttributeError):
                raise DataError(
                    f"{file}, line {line}: expected an object with _id and text, as BEIR has them"
                ) from None
            if name in entries:
                raise DataError(f"{file}, line {line}: expected different ids, got {name!r} twice")
            entries[name] = f"{title} {text}".strip()
    return entries
