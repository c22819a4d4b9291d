"""Whatever is wrong in a call of the Python API is one line that names the right spelling."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advhash as ah

WRONG = [
    None,
    True,
    3,
    0.5,
    "x:y",
    b"x",
    [],
    {},
    (1, 2),
    np.zeros(3),
    torch.zeros(2),
    object(),
    int,
]
FUNCTIONS = [
    name
    for name in ah.__all__
    if callable(getattr(ah, name)) and not isinstance(getattr(ah, name), type)
]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: type(value).__name__)
def test_wrong_types_end_in_one_line(name: str, wrong: Any) -> None:
    """Each parameter in turn, the others as far as they are needed."""
    function = getattr(ah, name)
    needed = {"victim": object(), "data": object(), "method": "dhta", "checkpoint": 3, "name": 3}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        required = [
            one.name
            for one in inspect.signature(function).parameters.values()
            if one.default is one.empty and one.kind is not one.VAR_KEYWORD
        ]
        if name == "train":  # which needs nothing, and would train
            required.append("victim")
            needed["victim"] = 3
        given = {one: needed.get(one, 3) for one in required} | {parameter.name: wrong}
        with pytest.raises(ah.AdvhashError) as got:
            function(**given)
        assert "\n" not in str(got.value)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: ah.load_dataset("digits", size=64), r"load_dataset\(name, \{'size': 64\}\)"),
        (lambda: ah.load_dataset("digits", 64), "then a table of settings .*, got str and int"),
        (lambda: ah.load_dataset("digits", {3: 1}), "then a table of settings by their names"),
        (lambda: ah.load_dataset(), "missing a required .*'name'"),
        (lambda: ah.load_dataset(Path("absent") / "here"), "absent/here"),
        (lambda: ah.load_dataset("digits", {}, 3), "too many positional arguments"),
        (lambda: ah.report("run", out=None), "expected out= to be a path"),
        (
            lambda: ah.Batch(
                {"image": torch.zeros(2, 3, 2, 2)}, torch.zeros(1, 2), torch.arange(2)
            ),
            "expected as many labels as rows",
        ),
        (
            lambda: ah.Batch({"image": torch.zeros(1, 3, 2, 2)}, torch.zeros(1, 2), torch.zeros(1)),
            "expected whole numbers as index",
        ),
        (lambda: ah.attack(int, method="dhta", queries=5), r"protocol=\{'queries': 5\}"),
        (lambda: ah.attack(int, method="dhta", epsilon=0.1), "did you mean 'eps'"),
        (lambda: ah.attack(int, method="dhta", eps=True), r"eps= to be a number .* got bool"),
        (lambda: ah.attack(int, method="dhta", stepz=3), "did you mean 'step'"),
        (lambda: ah.attack(int), "missing a required .*'method'"),
        (lambda: ah.train("dpsh", "digits", "cpu"), "too many positional arguments"),
        (lambda: ah.evaluate(int, dat=1), "did you mean 'data'"),
        (lambda: ah.compare("a"), "missing a required .*'second'"),
        (
            lambda: ah.Batch({"image": torch.zeros(1, 3, 2, 2)}, torch.zeros(1, 2), np.arange(1)),
            "expected index to be a tensor of torch, got ndarray",
        ),
        (lambda: ah.Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1)), "got Tensor"),
    ],
)
def test_the_right_spelling_is_named(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(ah.AdvhashError, match=told):
        call()
