"""Data sets: the contract of a data set, its splits and its batches."""

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Modality, Split, SplitName, TextKind
from advhash.data.images.mixed import to_unit

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
