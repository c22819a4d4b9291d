"""Modules of version 0.1 keep importing for one version, from where they are now."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest

import advhash

MOVED = sorted(advhash._MOVED)  # type: ignore[attr-defined]


def forgotten(name: str) -> None:
    for known in [one for one in sys.modules if one == name]:
        del sys.modules[known]


@pytest.mark.parametrize("name", MOVED)
def test_an_old_name_warns_and_has_its_names(name: str) -> None:
    full = f"advhash.{name}"
    places = advhash._MOVED[name].split()  # type: ignore[attr-defined]
    forgotten(full)
    with pytest.warns(DeprecationWarning, match=re.escape(f"{full} is now advhash.{places[0]}")):
        found = importlib.import_module(full)
    for place in places:
        for public in vars(importlib.import_module(f"advhash.{place}")):
            if not public.startswith("_"):
                assert hasattr(found, public), public
    forgotten(full)


def test_classes_are_the_same() -> None:
    program = (
        "import advhash.metrics as old, advhash.codes.metrics as new; assert old is new\n"
        "from advhash.config import AttackConfig, TransferConfig, method_label\n"
        "from advhash.experiments.config import AttackConfig as same\n"
        "assert AttackConfig is same\n"
        "from advhash.attacks.gradient import DHTA\n"
        "from advhash.victims.perceptual import PHash\n"
        "from advhash.data import Batch, Dataset\n"
        "from advhash.codes import HashCodes\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_nothing_else_of_old_is_there() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("advhash.never_was")
