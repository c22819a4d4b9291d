"""The settings of `advhash scan`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advhash.experiments.config import Run


class ScanConfig(Run):
    """`advhash scan FOLDER`: hashes and thresholds for the pictures of a folder.

    folder:     of pictures, in folders of any depth
    hashes:     names with settings ("phash+bits=256"), checkpoint folders, module:function; "all"
    thresholds: two pictures are taken for one at this many bits or fewer, by label of the hash;
                "" for all that are not named, which then have one length; none: set by
                `false_positives`
    false_positives: the rate per comparison that a threshold may reach, its interval included
    bank:       files of codes, by label of the hash, "" for all of as many bits
    bank_size:  entries of the bank for which look-ups are judged; None: those of the bank, else the
                other pictures of the folder
    duplicates: a file of pairs of names that show the same picture
    edited:     how many pictures are edited; None: as many as hold 300 megapixels, 100 to 2,000
    attacked:   how many pictures the least change is looked for of; 0: none
    upright:    whether pictures are turned as their camera noted
    quality:    PDQ's quality below which a picture is told apart
    save_images: whether changed pictures are written
    """

    command: Literal["scan"] = "scan"
    folder: str
    hashes: list[str] = Field(default=["pdq", "phash", "dhash"], min_length=1)
    thresholds: dict[str, int] = Field(default_factory=dict)
    false_positives: float = Field(default=1e-4, gt=0, lt=1)
    bank: dict[str, str] = Field(default_factory=dict)
    bank_size: int | None = Field(default=None, ge=1)
    duplicates: str | None = None
    edited: int | None = Field(default=None, ge=0)
    attacked: int = Field(default=0, ge=0)
    upright: bool = False
    quality: int = Field(default=50, ge=0, le=100)
    save_images: bool = False
