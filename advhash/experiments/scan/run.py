"""`advhash scan`: which hash and which threshold for the pictures of a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advhash.codes.close_pairs import close_pairs
from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes
from advhash.data.images.decode import printable
from advhash.data.images.edits import EDITS
from advhash.errors import DataError, UsageError, counted
from advhash.experiments.attack.record import run_info
from advhash.experiments.experiment import Experiment, Part, Place, Plan
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.scan.bank import bank_digest, banks_by_label
from advhash.experiments.scan.blocks import LOOKS, OCTETS, BlockCell
from advhash.experiments.scan.collected import Collected, reasons
from advhash.experiments.scan.config import ScanConfig
from advhash.experiments.scan.duplicates import read_duplicates
from advhash.experiments.scan.evasion import EvasionCell, evasion_figures, saved_png
from advhash.experiments.scan.figures import LEAST_PICTURES, hash_figures, recommended
from advhash.experiments.scan.hashes import NamedHash, named_hashes
from advhash.experiments.scan.listing import Listing, list_pictures
from advhash.experiments.scan.samples import MOST, Samples
from advhash.experiments.scan.thresholds import (
    PART,
    ThresholdsCell,
    distinct_edges,
    marked_rows,
)
from advhash.measures.sanity import Flag
from advhash.registry import EXPERIMENTS
from advhash.reports.scan import SCAN, EvasionFigures, HashFigures, ScanRecord, Sides
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.files import write_bytes, write_text
from advhash.storage.places import user_path
from advhash.storage.tables import write_table

CODE = ("experiments.attack", "experiments.scan")
MEGAPIXELS, LEAST_EDITED, MOST_EDITED = 300, 100, 2000
OCTETS_A_PIXEL = 0.25  # of a typical JPEG: how many pixels a file holds is not read before
ATTACKED = 10  # pictures of a cell
ScanCell = BlockCell | ThresholdsCell | EvasionCell


@dataclass(frozen=True, kw_only=True)
class ScanPlan(Plan[ScanConfig, ScanCell]):
    """Blocks of pictures, then all pairs of them, then pictures that are moved."""

    listing: Listing
    hashes: Sequence[NamedHash]


@EXPERIMENTS.register("scan", source="advhash")
class Scan(Experiment[ScanConfig, ScanCell, ScanPlan, ScanRecord]):
    """False positives, edits and close pairs of a folder of pictures under hashes as they run."""

    name, config, record, code = "scan", ScanConfig, ScanRecord, CODE
    stage = "blocks"

    def plan(self, config: ScanConfig) -> ScanPlan:
        return _plan(config)

    def compute(self, cell: ScanCell, place: Place) -> Result:
        return cell.compute(place)

    def judge(self, plan: ScanPlan, results: Sequence[Result], place: Place) -> ScanRecord:
        return _record(plan, results, place)


def _plan(config: ScanConfig) -> ScanPlan:
    """Refuse what can be seen before a picture is read. Raises AdvhashError."""
    hashes = named_hashes(config.hashes, trust_code=config.trust_code)
    bits = {named.label: named.build().bits for named in hashes}
    given = _given_thresholds(config.thresholds, bits)
    banks_by_label(config.bank, bits)
    listing = list_pictures(user_path(config.folder))
    marked: list[tuple[int, int]] = []
    if config.duplicates is not None:
        rows = {listing.shown(row): row for row in range(len(listing.names))}
        marked = read_duplicates(user_path(config.duplicates), rows)
    resolved = config.model_copy(
        update={
            "folder": str(listing.root.absolute()),
            "bank": bank_digest(config.bank),
            "edited": _edited_count(config.edited, listing),
            "duplicates": config.duplicates and str(user_path(config.duplicates).absolute()),
        }
    )
    code = code_version(*CODE)
    blocks = _blocks(resolved, listing, hashes, code)
    thresholds = ThresholdsCell(
        blocks=tuple(blocks),
        given=tuple(given.items()),
        marked=tuple(marked),
        rate=config.false_positives,
        seed=config.seed,
        key=content_key(
            {
                "blocks": [block.key for block in blocks],
                "given": given,
                "marked": marked,
                "rate": config.false_positives,
                "seed": config.seed,
                "code": code,
            }
        ),
    )
    parts: dict[str, Part] = {block.part_name: block for block in blocks}
    parts[PART] = thresholds
    return ScanPlan(
        config=resolved,
        cells=[*blocks, thresholds, *_evasions(resolved, listing, hashes, thresholds, code)],
        parts=parts,
        stages=[[block.part_name for block in blocks], [PART]],
        label="scan",
        listing=listing,
        hashes=hashes,
        shown={
            "folder": resolved.folder,
            "files": len(listing.names),
            "left_out": dict(listing.left_out),
            "hashes": {named.label: bits[named.label] for named in hashes},
            "thresholds": given,
            "edited": resolved.edited,
        },
    )


def _given_thresholds(given: Mapping[str, int], bits: Mapping[str, int]) -> dict[str, int]:
    """Thresholds by label.

    Raises UsageError: an unknown hash, one above the bits, one number for several lengths.
    """
    unknown = next((label for label in given if label and label not in bits), None)
    if unknown is not None:
        raise UsageError(f"--threshold {unknown}=…: expected one of {', '.join(bits)}")
    unnamed = {label: width for label, width in bits.items() if label not in given}
    if "" in given and len(set(unnamed.values())) > 1:
        widest = max(unnamed.values())
        alike = (
            f"{label}={given.get(label, given[''] * width // widest)}"
            for label, width in bits.items()
        )
        lengths = ", ".join(f"{label} {width}" for label, width in unnamed.items())
        raise UsageError(
            f"--threshold {given['']}: expected hashes of one length, got bits {lengths}: give "
            f"each its own; equal shares of the bits are --threshold {','.join(alike)}"
        )
    thresholds = {label: given[""] for label in unnamed if "" in given} | {
        label: threshold for label, threshold in given.items() if label
    }
    for label, threshold in thresholds.items():
        if not 0 <= threshold <= bits[label]:
            raise UsageError(
                f"--threshold {threshold}: expected 0 to {bits[label]}, the bits of {label}; "
                f"thresholds of several hashes are --threshold {label}=…,…"
            )
    return thresholds


def _edited_count(given: int | None, listing: Listing) -> int:
    """How many pictures are edited, as their files' sizes foretell their pixels."""
    most = len(listing.names) if given is None else min(given, len(listing.names))
    if given is not None:
        return most
    pixels = sum(size for size, _ in listing.stamps) / OCTETS_A_PIXEL / len(listing.names)
    fitting = int(MEGAPIXELS * 1e6 / max(pixels, 1))
    return min(most, max(LEAST_EDITED, min(fitting, MOST_EDITED)))


def _blocks(
    config: ScanConfig, listing: Listing, hashes: Sequence[NamedHash], code: str
) -> list[BlockCell]:
    """Neighbours by name, few where files are large or edited: what is finished is soon kept."""
    assert config.edited is not None
    drawn = np.random.default_rng(derive_seed(config.seed, "edited pictures"))
    edited = set(drawn.permutation(len(listing.names))[: config.edited].tolist())
    blocks, start = [], 0
    while start < len(listing.names):
        stop, octets, looks = start, 0, 0
        while stop < len(listing.names) and looks < LOOKS and octets < OCTETS:
            octets += listing.stamps[stop][0]
            looks += 1 + len(EDITS) * (stop in edited)
            stop += 1
        rows = range(start, stop)
        inside = frozenset(row - start for row in rows if row in edited)
        key = content_key(
            {
                "root": str(listing.root.absolute()),
                "names": [
                    listing.names[row].encode("utf-8", "surrogateescape").hex() for row in rows
                ],
                "stamps": [listing.stamps[row] for row in rows],
                "edited": sorted(inside),
                "edits": list(EDITS),
                "hashes": [(named.label, named.given, named.identity) for named in hashes],
                "upright": config.upright,
                "seed": config.seed,
                "code": code,
            }
        )
        blocks.append(
            BlockCell(
                root=listing.root.absolute(),
                names=listing.names[start:stop],
                edited=inside,
                hashes=tuple(hashes),
                upright=config.upright,
                seed=config.seed,
                key=key,
            )
        )
        start = stop
    return blocks


def _evasions(
    config: ScanConfig,
    listing: Listing,
    hashes: Sequence[NamedHash],
    thresholds: ThresholdsCell,
    code: str,
) -> list[EvasionCell]:
    """Pictures that are moved, drawn evenly, a few in a cell."""
    drawn = np.random.default_rng(derive_seed(config.seed, "attacked pictures"))
    rows = np.sort(drawn.permutation(len(listing.names))[: config.attacked]).tolist()
    cells = []
    for named in hashes:
        for start in range(0, len(rows), ATTACKED):
            part = rows[start : start + ATTACKED]
            key = {
                "hash": (named.label, named.given, named.identity),
                "rows": part,
                "thresholds": thresholds.key,
                "keep": config.save_images,
                "seed": config.seed,
                "code": code,
            }
            cells.append(
                EvasionCell(
                    root=listing.root.absolute(),
                    names=tuple(listing.names[row] for row in part),
                    hashing=named,
                    thresholds=thresholds,
                    upright=config.upright,
                    keep=config.save_images,
                    seed=config.seed,
                    key=content_key(key),
                )
            )
    return cells


def _evasion_of(
    label: str, plan: ScanPlan, results: Sequence[Result], folder: Path
) -> EvasionFigures | None:
    """What the cells of a hash found; changed pictures are written where they were kept."""
    rows, names, method = [], [], ""
    for cell, result in zip(plan.cells, results, strict=True):
        if not isinstance(cell, EvasionCell) or cell.hashing.label != label:
            continue
        method = result.document["method"]
        for row in result.document["rows"]:
            rows.append(row)
            names.append(printable(cell.names[row["place"]]))
            changed = result.tensors.get(f"changed {row['place']}")
            if changed is not None:
                file = folder / "changed" / f"{label.replace('/', '_')}-{len(rows):04}.png"
                file.parent.mkdir(exist_ok=True)
                write_bytes(file, saved_png(changed))
    return evasion_figures(rows, names, method, derive_seed(plan.config.seed, "bootstrap"))


def _record(plan: ScanPlan, results: Sequence[Result], place: Place) -> ScanRecord:
    blocks = [cell for cell in plan.cells if isinstance(cell, BlockCell)]
    counter = next(cell for cell in plan.cells if isinstance(cell, ThresholdsCell))
    scanned = Collected.of(results[: len(blocks)])
    if not len(scanned):
        raise _nothing_read(scanned, plan.listing)
    counted = results[len(blocks)]
    config, listing = plan.config, plan.listing
    edges, marked = distinct_edges(scanned), marked_rows(scanned, counter.marked)
    names = [scanned.name(int(row), listing) for row in scanned.distinct]
    good = scanned.quality[scanned.distinct] >= config.quality
    bits = {label: codes.bits for label, codes in scanned.codes.items()}
    banks = banks_by_label(config.bank, bits)
    scanned_hashes: list[HashFigures] = []
    for label in scanned.codes:
        place.progress("figures", len(scanned_hashes), len(scanned.codes))
        rates = counter.rates(counted, label, edges, marked=False)
        threshold = counted.document["thresholds"][label]
        certain = threshold is not None and rates.high[threshold] <= config.false_positives
        given = label in dict(counter.given)
        scanned_hashes.append(
            hash_figures(
                label,
                scanned,
                names,
                edges=edges,
                marked=marked,
                good=good,
                with_marked=counter.rates(counted, label, edges, marked=True),
                rates=rates,
                threshold=threshold,
                chosen="given" if given else "interval" if certain else "estimate",
                bank=banks.get(label),
                bank_size=config.bank_size,
                evasion=_evasion_of(label, plan, results, place.folder),
                seed=derive_seed(config.seed, "bootstrap"),
            )
        )
    place.progress("figures", len(scanned_hashes), len(scanned.codes))
    _write_rows(place.folder, scanned, listing, scanned_hashes)
    _write_pairs(place.folder, scanned_hashes)
    low = int((scanned.quality < config.quality).sum())
    best = recommended(scanned_hashes, config.false_positives, len(scanned.distinct))
    by_worth = sorted(scanned_hashes, key=lambda each: each.label != best.hash)
    samples = Samples(place.folder, scanned, listing)
    moved = [
        (cell, result)
        for cell, result in zip(plan.cells, results, strict=True)
        if isinstance(cell, EvasionCell)
    ]
    changes = samples.changes(by_worth, moved)
    return ScanRecord(
        schema_=SCAN,
        command="scan",
        run=run_info(place.final, config.seed, "cpu", {"all": place.seconds["all"]}),
        folder=config.folder,
        settings=config.model_dump(mode="json", exclude={"command", "folder", "seed", "device"}),
        files=len(listing.names),
        pictures=len(scanned),
        copies=len(scanned) - len(scanned.distinct),
        low_quality=low,
        sides=_sides(scanned),
        quality=config.quality,
        edited=len(scanned.edited),
        marked=len(marked),
        skipped=reasons(scanned.skipped),
        left_out=dict(listing.left_out),
        remarks=reasons(scanned.remarks),
        edit_texts={name: edit.text for name, edit in EDITS.items()},
        edit_kinds={name: edit.kind for name, edit in EDITS.items()},
        groups=len(edges) - 1,
        false_positives=config.false_positives,
        hashes=scanned_hashes,
        recommendation=best,
        shown_pairs=samples.pairs(by_worth, (MOST - 3 * len(changes)) // 2),
        shown_changes=changes,
        flags=_flags(scanned, scanned_hashes, low),
        seconds={"all": round(place.seconds["all"], 3), **scanned.seconds},
    )


def _sides(scanned: Collected) -> Sides:
    longer, shorter = scanned.sizes.max(axis=1), scanned.sizes.min(axis=1)
    return Sides(shorter=int(np.median(shorter)), longest=int(longer.max()))


def _nothing_read(scanned: Collected, listing: Listing) -> DataError:
    why = "; ".join(f"{count} × {reason}" for reason, count in reasons(scanned.skipped).items())
    return DataError(f"expected pictures that can be read in {listing.root}, got none: {why}")


def _flags(scanned: Collected, scanned_hashes: Sequence[HashFigures], low: int) -> list[Flag]:
    flags = []
    count = len(scanned.distinct)
    if count < LEAST_PICTURES:
        flags.append(
            Flag(
                "few_pictures",
                "warning",
                f"{count} different pictures say little about rates of false positives: scan some "
                "thousands of those that the hash will meet.",
            )
        )
    if low:
        flags.append(
            Flag(
                "low_quality",
                "info",
                f"Nearly flat, by PDQ's quality: {counted(low, 'picture')}. Such hashes mean "
                "little, and the rates of the others stand beside those of all.",
            )
        )
    uncertain = [each.label for each in scanned_hashes if each.chosen == "estimate"]
    if uncertain:
        flags.append(
            Flag(
                "uncertain_threshold",
                "warning",
                f"{', '.join(uncertain)}: these pictures are too few to be certain of a threshold "
                "at the rate asked for; the one shown goes by the estimate alone.",
            )
        )
    unresolved = [
        each.label for each in scanned_hashes if each.threshold is not None and not each.resolved
    ]
    if unresolved:
        flags.append(
            Flag(
                "not_resolved",
                "info",
                f"{', '.join(unresolved)}: too few close pairs at the threshold for a rate: a bound"
                " is shown.",
            )
        )
    return flags


def _write_rows(
    folder: Path, scanned: Collected, listing: Listing, scanned_hashes: Sequence[HashFigures]
) -> None:
    """`scan.parquet`: a row a picture and hash; never the hash itself."""
    names = [scanned.name(row, listing) for row in range(len(scanned))]
    place_of = {int(row): place for place, row in enumerate(scanned.distinct)}
    first = {scanned.digests[row].tobytes(): int(row) for row in scanned.distinct}
    same = [first[digest.tobytes()] for digest in scanned.digests]
    edited_at = {int(row): place for place, row in enumerate(scanned.edited)}
    own = [place_of[row] for row in same]
    tables = []
    for figures in scanned_hashes:
        codes = scanned.codes[figures.label][scanned.distinct]
        near, far = _nearest_other(codes)
        matches = _matches(codes, figures.threshold)
        edited = scanned.edit_distances(figures.label)
        evaded = [_evaded(figures).get(name, (None, None)) for name in names]
        table: dict[str, Any] = {
            "picture": names,
            "hash": [figures.label] * len(names),
            "width": scanned.sizes[:, 0],
            "height": scanned.sizes[:, 1],
            "quality": scanned.quality,
            "copy_of": pa.array(
                [names[source] if source != row else None for row, source in enumerate(same)],
                pa.string(),
            ),
            "nearest": pa.array(
                [names[scanned.distinct[near[at]]] if near[at] >= 0 else None for at in own],
                pa.string(),
            ),
            "distance": _whole([far[at] if near[at] >= 0 else None for at in own]),
            "matches": _whole([None if matches is None else matches[at] for at in own]),
            "linf": _whole([linf for linf, _ in evaded]),
            "l2": pa.array([l2 for _, l2 in evaded], pa.float64()),
        }
        for place, edit in enumerate(EDITS):
            table[f"bits_{edit}"] = _whole(
                [
                    edited[edited_at[row], place] if row in edited_at else None
                    for row in range(len(names))
                ]
            )
        tables.append(table)
    write_table(folder / "scan.parquet", *tables)


def _whole(values: Sequence[Any]) -> Any:
    """A column of whole numbers, some of them missing."""
    return pa.array([None if value is None else int(value) for value in values], pa.int64())


def _evaded(figures: HashFigures) -> dict[str, tuple[int | None, float | None]]:
    evasion = figures.evasion_at
    if evasion is None:
        return {}
    return {
        name: (linf, l2)
        for name, linf, l2 in zip(evasion.names, evasion.linf, evasion.l2, strict=True)
    }


def _nearest_other(codes: HashCodes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The nearest other row of each, −1 where there is none, and its distance."""
    rows, far = neighbours(codes, codes, 2)
    if rows.shape[1] < 2:
        return np.full(len(codes), -1), np.zeros(len(codes), np.int64)
    own = rows[:, 0] == np.arange(len(codes))
    return np.where(own, rows[:, 1], rows[:, 0]), np.where(own, far[:, 1], far[:, 0])


def _matches(codes: HashCodes, threshold: int | None) -> np.ndarray[Any, Any] | None:
    if threshold is None:
        return None
    edges = np.array([0, len(codes)], np.int64)
    return np.asarray(close_pairs(codes, edges, threshold).counts[:, 0])


def _write_pairs(folder: Path, scanned_hashes: Sequence[HashFigures]) -> None:
    """`pairs.csv`: the closest pairs of each hash, to be looked at and marked."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("hash", "distance", "first", "second", "marked"))
    for figures in scanned_hashes:
        for pair in figures.nearest:
            marked = "yes" if pair.marked else ""
            writer.writerow((figures.label, pair.distance, pair.first, pair.second, marked))
    write_text(folder / "pairs.csv", text.getvalue())
