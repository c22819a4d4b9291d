"""What a query retrieves before and after the attack: from codes to a record's examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from advhash.codes.hamming import distances, nearest
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Dataset, Split
from advhash.data.images.decode import printable
from advhash.data.images.mixed import MixedPictures, one_picture, to_unit
from advhash.data.text.edits import spelled
from advhash.reports.record import GAIN, Example, Retrieved
from advhash.shared_labels import Labels, label_numbers, shares
from advhash.storage.files import storage_errors

MIN_SIDE = 96  # pixels: smaller pictures are enlarged, by whole factors, without smoothing
THUMBNAIL_SIDE = 128  # pixels: larger database pictures are reduced
SAMPLES = "samples"
LONGEST_TEXT = 300  # characters of a retrieved text that are shown

Rows = npt.NDArray[np.int64]


def choose_examples(score: npt.ArrayLike, count: int = 6) -> Rows:
    """Positions at equal steps through the queries sorted by score, best first.

    score: (N,) per query, higher where the attack works better (t-AP where targeted); NaN: left out

    >>> choose_examples([0.1, 0.9, 0.5, 0.7, 0.3], count=3).tolist()
    [1, 2, 0]
    """
    values = np.asarray(score, dtype=np.float64)
    order = np.argsort(-values, kind="stable")  # NaN sorts last
    order = order[: int((~np.isnan(values)).sum())]
    steps = np.linspace(0, len(order) - 1, min(count, len(order)))
    return order[np.floor(steps + 0.5).astype(np.int64)].astype(np.int64)


def retrieved(
    query: HashCodes,
    database: HashCodes,
    query_labels: Labels,
    database_labels: Labels,
    *,
    target_labels: Labels | None = None,
    names: Sequence[str] = (),
    pictures: bool = False,
    text: Callable[[int], str] | None = None,
    count: int = 10,
) -> list[Retrieved]:
    """The `count` database rows nearest to a query, ties by row.

    query:  one code
    labels: (C,) of the query and of the target, (M,C) of the database
    names:  one a database row, or none
    text:   what a database row says, where rows are texts
    """
    rows = nearest(query, database, count)[0]
    far = distances(query, database[rows])[0]
    near_labels = database_labels[rows]
    own = shares(query_labels[None], near_labels)[0]
    target = None if target_labels is None else shares(target_labels[None], near_labels)[0]
    return [
        Retrieved(
            row=int(row),
            distance=int(far[place]),
            relevant=bool(own[place]),
            target_relevant=None if target is None else bool(target[place]),
            name=names[row] if names else f"row {row}",
            picture=f"{SAMPLES}/database-{row:06d}.png" if pictures else None,
            text=None if text is None else text(int(row)),
        )
        for place, row in enumerate(rows)
    ]


def picture(image: Tensor, *, longest: int | None = None) -> Image.Image:
    """A (3,H,W) image in [0,1] as an 8-bit picture.

    A small one is enlarged by a whole factor, each pixel a square, until its shorter side has
    MIN_SIDE pixels; where `longest` is given, a larger one is reduced to it.
    """
    octets = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    shown = Image.fromarray(np.ascontiguousarray(octets.permute(1, 2, 0).numpy()))
    factor = -(-MIN_SIDE // min(shown.size))
    if factor > 1:
        size = (shown.width * factor, shown.height * factor)
        return shown.resize(size, Image.Resampling.NEAREST)
    if longest is not None and max(shown.size) > longest:
        shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return shown


def write_samples(
    folder: Path,
    *,
    queries: Split,
    rows: Rows,
    adversarial: Tensor | MixedPictures | None,
    database: Split,
    database_rows: Sequence[int],
) -> None:
    """Write the pictures of some queries and database rows to `folder/samples`.

    rows:        (N,) rows of `queries`; adversarial: (N,3,H,W) in [0,1], None: no query pictures
    A database row that several queries retrieve is written once.

    Without any picture there is no such folder. Raises StorageError.
    """
    if adversarial is None and "image" not in database.inputs:
        return
    samples = folder / SAMPLES
    with storage_errors(samples):
        samples.mkdir(parents=True, exist_ok=True)
        if adversarial is not None:
            clean = queries.inputs["image"][torch.as_tensor(rows)]
            for before, after, row in zip(clean, adversarial, rows, strict=True):
                shown, moved = to_unit(before), to_unit(after.detach().cpu())
                change = 0.5 + GAIN * (moved - shown)
                kinds = {"query": shown, "adversarial": moved, "perturbation": change}
                for kind, image in kinds.items():
                    picture(image).save(samples / f"{kind}-{row:06d}.png", optimize=True)
        if "image" in database.inputs:
            for row in sorted(set(database_rows)):
                image = to_unit(one_picture(database.inputs["image"], row))
                small = picture(image, longest=THUMBNAIL_SIDE)
                small.save(samples / f"database-{row:06d}.png", optimize=True)


def build_examples(
    folder: Path,
    *,
    dataset: Dataset,
    modality: str,
    rows: npt.NDArray[np.int64],
    adversarial: Tensor | MixedPictures | None,
    clean_codes: HashCodes,
    adversarial_codes: HashCodes,
    database_codes: HashCodes,
    targets: Tensor | None,
    score: npt.NDArray[np.float64],
    linf: npt.NDArray[np.floating],
    texts: tuple[Tensor, Tensor] | None = None,
    count: int = 6,
) -> list[Example]:
    """The examples of a run, their pictures written to `folder/samples`.

    They are chosen by `choose_examples`, as EXAMPLE_RULE tells readers.

    modality:    of the queries; other than "image", they have no pictures
    rows:        (N,) rows of the query split; all arguments below follow their order
    adversarial: (N,3,H,W) in [0,1], or None
    codes:       (N,) before and after, (M,) of the database
    targets:     (N,C), None when untargeted
    score:       (N,) higher where the attack works better: t-AP where targeted
    texts:       (N,…) texts before and after, whose words are shown; embeddings have none

    Raises StorageError.
    """
    chosen = choose_examples(score, count)
    moved = adversarial if modality == "image" else None
    labels = dataset.query.labels.cpu().numpy()
    database_labels = dataset.database.labels.cpu().numpy()
    wanted = None if targets is None else targets.cpu().numpy()
    has_pictures = "image" in dataset.database.inputs
    text = None if has_pictures else _reader(dataset)
    examples = []
    for place in chosen.tolist():
        row = int(rows[place])
        before, after = (
            retrieved(
                codes[place : place + 1],
                database_codes,
                labels[row],
                database_labels,
                target_labels=None if wanted is None else wanted[place],
                names=dataset.database.names,
                pictures=has_pictures,
                text=text,
            )
            for codes in (clean_codes, adversarial_codes)
        )
        spelling = None
        if texts is not None and dataset.text_kind != "sentence":
            spelling = [spelled(text[place], dataset.vocabulary) for text in texts]
        clean_file, moved_file, change_file = (
            None if moved is None else f"{SAMPLES}/{kind}-{row:06d}.png"
            for kind in ("query", "adversarial", "perturbation")
        )
        examples.append(
            Example(
                query=row,
                name=dataset.query.names[row] if dataset.query.names else f"query {row}",
                labels=_class_names(dataset.classes, labels[row]),
                target=None if wanted is None else _class_names(dataset.classes, wanted[place]),
                clean_picture=clean_file,
                adversarial_picture=moved_file,
                perturbation_picture=change_file,
                linf=None if np.isnan(linf[place]) else float(linf[place]),
                words_before=None if spelling is None else spelling[0],
                words_after=None if spelling is None else spelling[1],
                before=before,
                after=after,
            )
        )
    write_samples(
        folder,
        queries=dataset.query,
        rows=np.asarray(rows, dtype=np.int64)[chosen],
        adversarial=None if moved is None else moved[torch.as_tensor(chosen)],
        database=dataset.database,
        database_rows=[
            item.row for example in examples for item in (*example.before, *example.after)
        ],
    )
    return examples


def _reader(dataset: Dataset) -> Callable[[int], str] | None:
    """What a database row says; None where no text is known, as of embeddings alone."""
    rows = dataset.database
    if "text" not in rows.inputs or (dataset.text_kind == "sentence" and not rows.texts):
        return None

    def said(row: int) -> str:
        if rows.texts:
            whole = " ".join(rows.texts[row].split())
        else:
            whole = " ".join(spelled(rows.tensor("text")[row], dataset.vocabulary))
        cut = whole if len(whole) <= LONGEST_TEXT else f"{whole[: LONGEST_TEXT - 1]}…"
        return printable(cut)

    return said


def _class_names(classes: Sequence[str], labels: Labels) -> list[str]:
    numbers = label_numbers(labels)
    return [classes[number] if number < len(classes) else f"group {number}" for number in numbers]
