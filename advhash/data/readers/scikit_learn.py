"""`digits` and `breast_cancer`, which scikit-learn ships."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from advhash.data import splits
from advhash.data.dataset import Dataset
from advhash.data.readers.shared import cached_reading, check_size, same
from advhash.registry import DATASETS


@DATASETS.register("digits", source="Alpaydin and Kaynak, UCI 1998, as in scikit-learn")
def read_digits(*, size: int = 32, seed: int = 0) -> Dataset:
    """1,797 handwritten digits, enlarged from 8×8: images, one of 10 labels each."""
    check_size(size)
    return cached_reading(
        "digits",
        lambda _: _digits(size, seed),
        {"size": size, "seed": seed},
        ("scikit-learn", "pillow"),
        (__file__,),
    )


def _digits(size: int, seed: int) -> Dataset:
    from sklearn.datasets import load_digits  # takes a second, which the cache saves

    bunch = load_digits()
    order = splits.seeded_order([str(row) for row in range(len(bunch.target))], seed)
    small = (bunch.images[order] * (255 / 16)).round().astype(np.uint8)
    large = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
            for image in small
        ]
    )
    groups = same(small)
    return splits.assemble(
        "digits",
        splits.split_rows(groups, {"query": 300, "validation": 150, "held_out": 150}),
        {"image": torch.from_numpy(np.repeat(large[:, None], 3, 1))},
        np.eye(10, dtype=np.uint8)[bunch.target[order]],
        [f"{bunch.target[row]} (no. {row})" for row in order],
        [str(digit) for digit in range(10)],
        increments=(("8", "9"),),
        attribution="Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, "
        "UCI Machine Learning Repository. License: CC BY 4.0",
        source="https://doi.org/10.24432/C50P49",
        licence="CC BY 4.0",
        repeated_pictures=len(small) - len(set(groups)),
        warnings=[
            "The writers are not known, so one writer's digits are on both sides of a split.",
            "Easy: ten well separated classes; what holds here may not hold on photographs.",
        ],
    )


@DATASETS.register("breast_cancer", source="Wolberg et al., UCI 1995, as in scikit-learn")
def read_breast_cancer(*, seed: int = 0) -> Dataset:
    """569 tumours as 30 measurements each: a table, one of 2 labels each."""
    return cached_reading(
        "breast_cancer",
        lambda _: _breast_cancer(seed),
        {"seed": seed},
        ("scikit-learn",),
        (__file__,),
    )


def _breast_cancer(seed: int) -> Dataset:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    order = splits.seeded_order([str(row) for row in range(len(bunch.target))], seed)
    raw, targets = bunch.data[order], bunch.target[order]
    rows = splits.split_rows(same(raw), {"query": 100, "validation": 60, "held_out": 50})
    train = raw[rows["train"]]
    table = ((raw - train.mean(0)) / train.std(0)).astype(np.float32)
    classes = [str(name) for name in bunch.target_names]
    return splits.assemble(
        "breast_cancer",
        rows,
        {"table": torch.from_numpy(table)},
        np.eye(2, dtype=np.uint8)[targets],
        [f"{classes[target]} (no. {row})" for row, target in zip(order, targets, strict=True)],
        classes,
        attribution="Breast Cancer Wisconsin (Diagnostic) by W. Wolberg, O. Mangasarian, "
        "N. Street and W. Street, UCI Machine Learning Repository. License: CC BY 4.0",
        source="https://doi.org/10.24432/C5DW2B",
        licence="CC BY 4.0",
        columns=[str(column) for column in bunch.feature_names],
        warnings=["Standardised with the mean and deviation of the training rows."],
    )
