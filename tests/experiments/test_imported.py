"""Checkpoints of others: thirteen by name with equal codes, what must be said, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_models import MODELS, foreign
from torch import Tensor

from advhash.experiments.prepare.imported import import_checkpoint
from advhash.storage.checkpoint import load_victim


def pictures(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def compare(name: str, folder: Path, count: int) -> None:
    """Import a model and compare its codes with those of the network that it was."""
    theirs = foreign(name, folder)
    out = folder / "imported"
    import_checkpoint(theirs.file, out, image_size=theirs.size, **theirs.given)
    victim, card = load_victim(out)
    images = pictures(count, theirs.size)
    with torch.no_grad():
        expected = torch.cat([theirs.z(part) for part in images.split(10)])
        got = torch.cat([victim.relax(part, "image") for part in images.split(10)])
    clear = expected.abs() > 1e-5 * expected.abs().max()
    assert clear.float().mean() > 0.99
    assert torch.equal((got > 0)[clear], (expected > 0)[clear])
    assert torch.equal(got, expected) or torch.equal(got.tanh(), expected)  # the same modules
    assert got.std(dim=0).min() > 0  # the picture decides
    assert card["imported"]["sha256"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_others_gives_its_codes(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_others_gives_its_codes_on_100_pictures(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 100)
