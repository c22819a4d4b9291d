"""Frozen backbones: features once, gradients through them all the same, nothing of them trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim
from advhash.victims.networks import backbones
from advhash.victims.networks.backbones import Backbone, build_backbone, frozen_features

FROZEN = {"freeze_backbone": True, "augmentation": False, "epochs": 2}


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    data = load_dataset("openmoji", {})
    return dataclasses.replace(
        data,
        database=data.database.take(torch.arange(0, 1478, 6)),
        train_rows=torch.arange(200),
        increments=(("Food & Drink", "fruit", "drink"),),
    )


def build(name: str, data: Dataset, **settings: object) -> HashVictim:
    arguments = VICTIMS[name].build.data_arguments(data)  # type: ignore[attr-defined]
    return VICTIMS.create(name, {**arguments, **FROZEN, **settings})  # type: ignore[no-any-return]


def the_backbone(victim: HashVictim) -> Backbone:
    (found,) = [module for module in victim.modules() if isinstance(module, Backbone)]
    return found


@pytest.mark.parametrize("name", ["dpsh", "csq", "dlcmh"])
def test_training_leaves_the_backbone_as_it_was(
    name: str, emoji: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch statistics included, and whatever the seed draws."""
    pictures: list[int] = []
    built: list[Backbone] = []
    first: list[Tensor] = []

    def building(*given: object, **settings: object) -> Backbone:
        built.append(backbones.build_backbone(*given, **settings))  # type: ignore[arg-type]
        first.append(
            torch.cat([part.double().flatten() for part in built[-1].state_dict().values()])
        )
        forward = built[-1].network.forward
        built[-1].network.forward = lambda images: (pictures.append(len(images)), forward(images))[
            1
        ]
        return built[-1]

    module = "cross_modal.base" if name == "dlcmh" else "image.pairwise"
    monkeypatch.setattr(f"advhash.victims.{module}.build_backbone", building)
    settings = {"increment_epochs": 2, "samples": 64} if name == "dlcmh" else {}
    victim = build(name, emoji, **settings).fit(emoji, seed=0)
    assert not the_backbone(victim).training
    last = torch.cat([part.double().flatten() for part in built[-1].state_dict().values()])
    assert torch.equal(first[-1], last)
    assert not torch.equal(first[0], first[-1])  # other draws, so the comparison says something
    # once an item, not once an epoch: the sampled old ones again in the increment
    rows = len(emoji.database) + 64 if name == "dlcmh" else len(emoji.train_rows)
    assert sum(pictures) <= rows


def test_features_pass_and_pictures_become_features(emoji: Dataset) -> None:
    backbone = build_backbone("test_resnet", image_size=32, frozen=True)
    split = frozen_features(backbone, emoji.validation, torch.device("cpu"))
    pictures = emoji.validation.rows(torch.arange(5)).inputs["image"]
    features = split.rows(torch.arange(5)).inputs["image"]
    assert features.shape == (5, backbone.features)
    torch.testing.assert_close(backbone(pictures), features, rtol=1e-4, atol=1e-5)
    assert torch.equal(backbone(features), features)
    assert split.inputs["text"] is emoji.validation.inputs["text"]
    assert frozen_features(build_backbone("test_resnet", image_size=32), emoji.query, "cpu") is (  # type: ignore[arg-type]
        emoji.query
    )


def test_an_attack_still_has_the_gradient_of_the_pixels(emoji: Dataset) -> None:
    victim = build("dlcmh", emoji).eval()
    pictures = emoji.query.rows(torch.arange(3)).inputs["image"].requires_grad_()
    (gradient,) = torch.autograd.grad(victim.relax(pictures, "image").square().sum(), pictures)
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("name", ["dpsh", "dph", "hashnet", "csq", "dlcmh"])
def test_augmentation_and_frozen_features_exclude_each_other(name: str, emoji: Dataset) -> None:
    with pytest.raises(ConfigError, match="expected augmentation=false with freeze_backbone=true"):
        build(name, emoji, augmentation=True)


@pytest.mark.parametrize("name", ["dpsh", "dph", "hashnet", "csq", "dlcmh"])
def test_every_trained_victim_has_the_preset(name: str) -> None:
    assert VICTIMS[name].presets["pretrained"]["freeze_backbone"] is True
