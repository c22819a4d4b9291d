"""What happens to pictures before they are hashed, and attacks that are made to survive it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Scene
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from untrained import Untrained

from advhash.attacks.ensemble import AutoHash
from advhash.attacks.gradient.channels import (
    Channelled,
    _cosines,
    _Rounded,
    channel,
    channels,
    jpeg_model,
)
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.hiding import Mainstay
from advhash.attacks.gradient.targeted import DHTA
from advhash.attacks.prosgan.prosgan import ProSGAN
from advhash.budget import Budget
from advhash.codes.metrics import retrieval_average_precision
from advhash.errors import UnknownName, UsageError
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig
from advhash.registry import ATTACKS

NAMES = ("jpeg75", "jpeg60-444", "webp75", "resize50", "blur0.8")
EPS = Budget("linf", 16 / 255)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Four smooth pictures of 40 × 24 pixels on the 8-bit grid: no whole number of blocks."""
    coarse = torch.rand(4, 3, 5, 3, generator=torch.Generator().manual_seed(1))
    return (interpolate(coarse, size=(40, 24), mode="bicubic").clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("jpeg75", {"format": "JPEG", "quality": 75}),
        ("jpeg60-444", {"format": "JPEG", "quality": 60, "subsampling": "4:4:4"}),
        ("webp75", {"format": "WEBP", "quality": 75}),
    ],
)
def test_a_file_is_pillow_s(name: str, settings: dict[str, Any], images: Tensor) -> None:
    for given in (images, images.clone().requires_grad_()):  # the gradient changes no value
        back = channel(name)(given).detach()
        for row in range(len(images)):
            pixels = (images[row] * 255).round().byte().permute(1, 2, 0).numpy()
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, **settings)
            expected = np.asarray(Image.open(buffer).convert("RGB"))
            found = (back[row] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_comes_back_by_itself_with_a_gradient(name: str, images: Tensor) -> None:
    given = images.clone().requires_grad_()
    back = channel(name)(given)
    assert torch.equal(back, channel(name)(images))
    assert torch.equal(channel(name)(images)[2:3], channel(name)(images[2:3]))
    assert not torch.equal(back.detach(), images)
    (gradient,) = torch.autograd.grad((back * images).sum(), given)
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(("quality", "full"), [(30, False), (75, False), (75, True), (95, False)])
def test_the_model_of_jpeg_is_near_pillow_s(quality: int, full: bool, images: Tensor) -> None:
    name = f"jpeg{quality}{'-444' if full else ''}"
    error = (jpeg_model(images, quality=quality, full_colour=full) - channel(name)(images)).abs()
    assert float(error.mean()) * 255 < (1.0 if full else 1.5)
    assert float((channel(name)(images) - images).abs().mean()) * 255 > 0.3


def test_the_cosine_transform_is_orthonormal() -> None:
    assert torch.allclose(_cosines() @ _cosines().T, torch.eye(8), atol=1e-6)


def test_roundings_pass_one_gradient_on_average_and_most_between_levels() -> None:
    values = torch.linspace(-1.5, 1.5, 30_001).requires_grad_()
    (gradient,) = torch.autograd.grad(_Rounded.apply(values).sum(), values)
    assert float(gradient.mean()) == pytest.approx(1, abs=1e-3)
    near_level, between = gradient[15_000], gradient[20_000]
    assert float(near_level) == pytest.approx(0.2, abs=1e-3)
    assert float(between) == pytest.approx(2.6, abs=1e-2)


@pytest.mark.parametrize(
    "name", ["jpg75", "jpeg0", "jpeg96", "jpeg", "webp101", "webp75-444", "resize100", "resize0",
             "blur0", "blur11", "jpeg75 ", "JPEG75", "jpeg1000"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    for settings in ({"survive": name}, {"survive": ["jpeg75", name]}):
        with pytest.raises(UnknownName, match=r"unknown channel .*jpeg75"):
            ATTACKS.create("dhta", settings)


@pytest.mark.parametrize("build", [DHTA, AutoHash, ProSGAN])
@pytest.mark.parametrize("given", ["jpeg75", ["jpeg75", "resize50"], (), ""])
def test_one_name_or_several_are_a_setting(build: type, given: Any) -> None:
    made = ATTACKS.create(build.__name__.lower(), {"survive": given})
    assert len(channels(made.survive)) == (0 if not given else 1 if given == "jpeg75" else 2)


def test_texts_have_no_channel(scene: Scene) -> None:
    words = Untrained(nn.Linear(5, 8), 8, "text")
    with pytest.raises(UsageError, match=r"survive: expected a victim of images, got one of text"):
        Channelled.behind("jpeg75", words)
    assert Channelled.behind((), scene.victim) is scene.victim


def precision(scene: Scene, moved: Tensor, name: str) -> float:
    codes = scene.victim.encode(channel(name)(moved), "image")
    served = scene.data
    found = retrieval_average_precision(
        codes, served.codes, scene.targets.numpy(), served.labels.numpy()
    )
    return float(found.mean())


@pytest.mark.parametrize("name", ["jpeg30", "resize50"])
@pytest.mark.parametrize("build", [Mainstay, AutoHash])
def test_what_comes_back_is_nearer_the_target(name: str, build: Any, scene: Scene) -> None:
    found = []
    for survive in ((), name):
        made = build(survive=survive) if build is AutoHash else build(survive=survive, steps=60)
        made.fit(scene.victim, scene.data, EPS)
        moved = made.perturb(scene.victim, scene.queries, scene.targets, EPS)
        assert (
            float((moved.batch.inputs["image"] - scene.queries.inputs["image"]).abs().max())
            <= 16 / 255 + 1e-6
        )
        found.append(precision(scene, moved.batch.inputs["image"], name))
    assert found[1] > found[0]


def test_the_best_iterate_is_the_one_that_arrives(scene: Scene) -> None:
    """Judged are the codes of real files: no iterate ends behind the clean picture."""
    made: GradientAttack = Mainstay(survive="jpeg30", steps=3).fit(scene.victim, scene.data, EPS)
    moved = made.perturb(scene.victim, scene.queries, scene.targets, EPS).batch.inputs["image"]
    way = channel("jpeg30")
    with made.drawing(scene.queries):
        anchors = made.anchors(scene.targets).numpy()
    wrong = [
        (scene.victim.encode(way(images), "image").signs() != anchors).sum(axis=1)
        for images in (scene.queries.inputs["image"], moved)
    ]
    assert bool((wrong[1] <= wrong[0]).all())
    assert wrong[1].sum() < wrong[0].sum()


def test_a_run_states_what_arrives(tmp_path: Path) -> None:
    config = AttackConfig.build(
        {
            "victim": {"name": "dpsh", "epochs": 2},
            "dataset": {"name": "digits", "size": 16},
            "attack": {"name": "dhta", "steps": 5, "survive": "jpeg75"},
            "budget": {"eps": "16/255"},
            "protocol": {"queries": 12},
        }
    )
    metrics = attack(config, tmp_path / "run").metrics
    assert metrics["tmap_survived"] == metrics["tmap_jpeg75"]
    span = metrics["tmap_ceiling"].value - metrics["tmap_clean"].value
    expected = (metrics["tmap_jpeg75"].value - metrics["tmap_clean"].value) / span
    assert metrics["tmap_normalised_jpeg75"].value == pytest.approx(expected)
