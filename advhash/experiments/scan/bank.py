"""A bank of hashes of the user: its entries are told by row or id, never by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.codes.close_pairs import close_rows
from advhash.codes.code_files import read_stored
from advhash.codes.forms import Reading
from advhash.codes.packed import HashCodes
from advhash.errors import DataError, UsageError
from advhash.reports.scan import BankFigures, Crowded, Match
from advhash.storage.places import user_path

WORDS = (".txt", ".csv", ".tsv", ".hex", "")  # files of hex words, as imagehash and PDQ write them
MOST_MATCHES = 1000  # that a record lists
CROWDED_SHARE, CROWDED_LEAST = 0.005, 5  # of the pictures, for an entry to match too much


@dataclass(frozen=True)
class Bank:
    """Codes and what their entries are called."""

    codes: HashCodes
    ids: tuple[str, ...]


def read_bank(text: str) -> Bank:
    """Hex words, one a line, a column of CSV or whatever `advhash codes` reads.

    Raises DataError: no such file, words of mixed lengths or of other forms.
    """
    file = user_path(text)
    if not file.is_file():
        got = "a folder; name a file in it" if file.is_dir() else "no such file"
        raise DataError(
            f"expected for --bank a file of hex hashes (one a line), or of codes (.npz, .csv), got "
            f"{text}: {got}"
        )
    how = Reading(form="hex") if file.suffix.lower() in WORDS else Reading()
    stored = read_stored(file, how)
    ids = stored.ids or tuple(f"row {row}" for row in range(len(stored.codes)))
    if not len(stored.codes):
        raise DataError(f"expected hashes in the bank {text}, got none")
    return Bank(stored.codes, ids)


def banks_by_label(given: Mapping[str, str], bits: Mapping[str, int]) -> dict[str, Bank]:
    """The bank of each hash that has one.

    given: files by label of the hash; "": of the one hash that has as many bits
    Raises UsageError: an unknown label, no hash of as many bits, or several.
    """
    banks: dict[str, Bank] = {}
    for label, text in given.items():
        bank = read_bank(text)
        width = bank.codes.bits
        fitting = [name for name in bits if bits[name] == width]
        if label:
            if label not in bits:
                raise UsageError(f"--bank {label}=…: expected one of {', '.join(bits)}")
            if bits[label] != width:
                raise DataError(
                    f"expected hashes of {bits[label]} bits for {label} in {text}, got {width}"
                )
            banks[label] = bank
        elif len(fitting) == 1:
            banks[fitting[0]] = bank
        elif fitting:
            raise UsageError(
                f"--bank {text}: {' and '.join(fitting)} have {width} bits: say whose hashes they "
                f"are, --bank {fitting[0]}={text}"
            )
        else:
            raise UsageError(
                f"--bank {text} holds hashes of {width} bits: expected a hash of as many, got "
                + ", ".join(f"{name} of {count}" for name, count in bits.items())
            )
    return banks


def crowded_rows(
    counts: npt.NDArray[np.integer[Any]], names: list[str], compared: int
) -> list[Crowded]:
    """The rows that are close to more than 0.5 % of `compared` pictures, at least 5, most first."""
    least = max(CROWDED_LEAST, CROWDED_SHARE * compared)
    rows = [int(row) for row in np.argsort(-counts, kind="stable") if counts[row] >= least]
    return [
        Crowded(name=names[row], matches=int(counts[row]), share=float(counts[row]) / compared)
        for row in rows[:MOST_MATCHES]
    ]


def bank_figures(codes: HashCodes, names: list[str], bank: Bank, threshold: int) -> BankFigures:
    """What a bank finds among pictures."""
    close = close_rows(codes, bank.codes, threshold)
    of_entry = np.bincount(close.second, minlength=len(bank.codes))
    return BankFigures(
        entries=len(bank.codes),
        matched=int((close.counts[:, 0] > 0).sum()),
        matches=[
            Match(picture=names[one], entry=bank.ids[other], distance=int(far))
            for one, other, far in zip(
                close.first[:MOST_MATCHES], close.second, close.far, strict=False
            )
        ],
        crowded=crowded_rows(of_entry, list(bank.ids), len(codes)),
    )


def bank_digest(given: Mapping[str, str]) -> dict[str, str]:
    """Files of banks, written out in full, so that a run that goes on finds them again."""
    return {label: str(Path(user_path(text)).absolute()) for label, text in given.items()}
