"""The list of foreign models: each enters by its door and gives the codes that it gives at home."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from entered_models import LIST, entered

PAGE = Path(__file__).resolve().parents[2] / "docs/victims/foreign_models.md"


def compare(name: str, folder: Path, count: int) -> None:
    """Codes are equal wherever a value is above 1e-5 of the largest; or all values, to the bit."""
    here = entered(name, folder)
    inputs = here.inputs(count)
    with torch.no_grad():
        theirs = torch.cat([here.theirs(part) for part in inputs.split(20)])
        ours = torch.cat([here.victim.relax(part, here.modality) for part in inputs.split(20)])
    assert ours.shape == theirs.shape == (count, here.victim.bits)
    if LIST[name].exact:
        assert torch.equal(ours, theirs) or torch.equal(ours.tanh(), theirs)
        assert ours.std(dim=0).min() > 0  # the input decides
        return
    size = theirs.abs().max()
    assert float((ours - theirs).abs().max()) < 1e-4 * size
    if here.centre is not None:  # as the default quantiser cuts
        ours, theirs = ours - here.centre(theirs), theirs - here.centre(theirs)
    moves = theirs.std(dim=0) > 1e-5 * size  # a ReLU may hold others at 0
    clear = (theirs.abs() > 1e-5 * size) & moves
    assert torch.equal((ours > 0)[clear], (theirs > 0)[clear])
    assert clear[:, moves].float().mean() > 0.99
    assert moves.float().mean() > 0.5


@pytest.mark.parametrize("name", [name for name, row in LIST.items() if row.quick])
def test_a_foreign_model_gives_its_codes(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, LIST[name].quick)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in LIST.items() if row.quick < 100])
def test_a_foreign_model_gives_its_codes_on_100_inputs(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 100)


def test_the_page_shows_the_list() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text("utf-8"), re.M)
    checked = {True: "values to the last bit", False: "codes"}
    assert rows[1:] == [
        (name, row.door, row.arrives, checked[row.exact]) for name, row in LIST.items()
    ]
