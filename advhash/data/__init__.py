"""Data sets: the contract of a data set, its splits and its batches."""

from advhash.data.dataset import (
    Batch,
    Dataset,
    Modality,
    Progress,
    Split,
    SplitName,
    TextKind,
    silent,
    to_unit,
)

__all__ = [
    "Batch",
    "Dataset",
    "Modality",
    "Progress",
    "Split",
    "SplitName",
    "TextKind",
    "silent",
    "to_unit",
]
