"""`advhash scan`, from the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_rows
from advhash.cli.execute import experiment
from advhash.cli.following import CERTIFIED
from advhash.cli.terminal import tell
from advhash.errors import ThresholdMissed, UsageError, counted

if TYPE_CHECKING:
    from advhash.reports.scan import EvasionFigures, HashFigures, ScanRecord


SHRINK = 512  # pixels of a side above which pdq shrinks a picture before it hashes it


def print_scan(record: ScanRecord, every: bool) -> None:
    """Each hash at its threshold, the recommendation, and where the page is."""
    from advhash.reports.elements.verdict import percent
    from advhash.reports.scan import rate_text, verdicts, worst_text

    odd = sum(record.skipped.values())
    tell(
        f"{record.pictures:,} of {record.files:,} pictures read"
        + (f", {odd:,} could not be" if odd else "")
        + f"; {record.copies:,} are copies to the pixel, {record.low_quality:,} of low quality"
    )
    for kind, counts in (("not read", record.skipped), ("left out", record.left_out)):
        for why, count in counts.items():
            tell(f"{kind}: {count:,} × {why}")
    print_lead(verdicts(record), every=every)
    rows = []
    for hashing in record.hashes:
        rows.append(
            {
                "hash": hashing.label,
                "bits": hashing.bits,
                "at most bits": _threshold(hashing),
                "false positives": rate_text(hashing.false_positive_rate),
                "false match per look-up": rate_text(hashing.lookup_rate),
                "edited, found": percent(hashing.kept),
                "worst edit": worst_text(record, hashing) if hashing.edits else "–",
                "pairs": hashing.pairs_within,
                "median least L∞": _least(hashing.evasion_at),
            }
        )
    if not any(hashing.evasion_at for hashing in record.hashes):  # none was asked for
        rows = [
            {name: cell for name, cell in row.items() if name != "median least L∞"} for row in rows
        ]
    print_rows(tuple(rows[0]), rows)
    print_end(
        record, f"closest pairs, to be marked: {record.run.folder}/pairs.csv", then=_next(record)
    )


def _next(record: ScanRecord) -> list[tuple[str, str]]:
    """What attacks reach at the recommended threshold, and what they cannot."""
    name, threshold = record.recommendation.hash, record.recommendation.threshold
    if name not in CERTIFIED or threshold is None:
        return []
    to = (
        f"--victim {name} --dataset {shlex.quote(record.folder)}{size_option(record)} "
        f"--threshold {threshold}"
    )
    return [
        (f"attack {to} --method evasion --queries 100", "how often it is evaded at 8/255"),
        (f"certify {to} --queries 100", "what no attack can do"),
    ]


def size_option(record: ScanRecord) -> str:
    """What reads pictures as the hashes did: as stored where they do not shrink them first."""
    if record.sides is None:
        return ""
    fits = record.sides.longest <= SHRINK
    size = "stored" if fits else max(16, min(SHRINK, record.sides.shorter))
    return f" --set dataset.size={size}"


def _threshold(hashing: HashFigures) -> str:
    """In bits, with a mark where no interval of false positives supports it."""
    if hashing.threshold is None:
        return "–"
    return f"{hashing.threshold}" + (" (not certain)" if hashing.chosen == "estimate" else "")


def _least(evasion: EvasionFigures | None) -> str:
    if evasion is None or evasion.median_linf is None:
        return "–"
    return f"{evasion.median_linf:g}/255 ({counted(evasion.pictures, 'picture')})"


def _thresholds(text: str | None) -> dict[str, int]:
    """`31`, or `pdq=31,phash=10`, by label."""
    given: dict[str, int] = {}
    for part in (text or "").split(","):
        label, _, value = part.rpartition("=")
        if not part:
            continue
        if not value.strip().isdecimal():
            raise UsageError(
                f"--threshold {text}: expected a number of bits, or HASH=BITS,… (pdq=31)"
            )
        given[label.strip()] = int(value)
    return given


def _banks(texts: list[str] | None) -> dict[str, str]:
    """`FILE`, or `pdq=FILE`, by label."""
    given: dict[str, str] = {}
    for text in texts or []:
        label, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            label, file = "", text
        given[label] = file
    return given


_LIMIT: list[float] = []  # of the command that runs


def _refuse_over(record: ScanRecord) -> None:
    """Exit 4 unless the rate of each hash lies at or below `--fail-over`, its upper end too."""
    for limit in _LIMIT:
        missed = [text for hashing in record.hashes if (text := _above(hashing, limit)) is not None]
        if missed:
            raise ThresholdMissed(
                f"expected at most {limit:g} false positives per comparison (--fail-over), got "
                + "; ".join(missed)
            )


def _above(hashing: HashFigures, limit: float) -> str | None:
    """What a hash has where its rate is not shown to lie at or below the limit."""
    from advhash.reports.scan import rate_text

    rate = hashing.false_positive_rate
    if rate is None or rate.value is None or rate.high is None:
        return f"{hashing.label} without a threshold; name it (--threshold)"
    if rate.high <= limit:
        return None
    if rate.low is not None and rate.value > limit:
        return f"{hashing.label} {rate_text(rate)}"
    return (
        f"{hashing.label} {rate_text(rate)}, which these pictures cannot show to lie at or below "
        "the limit: scan more pictures, or take a lower threshold"
    )


@experiment("scan", show=print_scan, after=_refuse_over, hint="hashes are scanned as they run")
def scan(
    folder: Annotated[str | None, typer.Argument(help="Pictures, in folders of any depth.")] = None,
    hash_names: Annotated[
        str | None,
        typer.Option(
            "--hash",
            help="e.g. pdq,phash+bits=256, a checkpoint, or all. (default: pdq,phash,dhash)",
        ),
    ] = None,
    threshold: Annotated[
        str | None, typer.Option("--threshold", help="Bits: 31 (one length), or pdq=31,phash=10.")
    ] = None,
    false_positives: Annotated[
        float | None,
        typer.Option(
            "--false-positives", help="Rate per comparison that sets the threshold. (default: 1e-4)"
        ),
    ] = None,
    banks: Annotated[
        list[str] | None,
        typer.Option("--bank", help="A file of hashes to look pictures up in, or HASH=FILE."),
    ] = None,
    bank_size: Annotated[
        int | None, typer.Option("--bank-size", help="Entries of the bank that a look-up meets.")
    ] = None,
    duplicates: Annotated[
        str | None, typer.Option("--duplicates", help="CSV: pairs of names that show the same.")
    ] = None,
    edited: Annotated[
        int | None, typer.Option("--edited", help="Pictures that are edited. (default: 100–2000)")
    ] = None,
    attacked: Annotated[
        int | None,
        typer.Option("--attacked", help="Pictures whose least change is looked for. (default: 0)"),
    ] = None,
    upright: Annotated[
        bool | None, typer.Option("--upright", help="Turn pictures as their cameras noted.")
    ] = None,
    save_images: Annotated[
        bool | None, typer.Option("--save-images", help="Write the changed pictures.")
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            "--fail-over",
            help="Exit 4 unless each rate is shown to be at most this share.",
            min=0,
            max=1,
        ),
    ] = None,
) -> dict[str, Any]:
    """Which hash and which threshold for these pictures? False positives, edits, close pairs.

    An audit of your own pictures under the hashes that you run: each picture is decoded once, and
    what is finished is kept, so that the same command goes on where it was stopped.
    """
    _LIMIT[:] = [] if fail_over is None else [fail_over]
    values: dict[str, Any] = {
        "thresholds": _thresholds(threshold),
        "bank": _banks(banks),
        "hashes": [part for part in (hash_names or "").split(",") if part],
        "upright": upright,
        "save_images": save_images,
    }
    return {name: value for name, value in values.items() if value}
