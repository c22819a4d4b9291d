"""Several victims as one: its codes are theirs, and every attack moves all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Projection, Scene, make_scene
from torch import Tensor

from advhash.attacks.base import Attack
from advhash.attacks.gradient.anchors import majority
from advhash.budget import Budget
from advhash.codes.hamming import distances
from advhash.codes.packed import HashCodes
from advhash.data import Modality
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.ensemble import Ensemble

BALL = Budget("linf", 16 / 255)
QUICK: dict[str, dict[str, Any]] = {
    "dhta": {"steps": 10},
    "tha": {"steps": 10, "prototype_steps": 100, "hidden": 32, "feature": 16},
    "prosgan": {"bounded": True, "epochs": 40, "prototype_steps": 100, "hidden": 32, "feature": 16,
                "width": 8, "batch_size": 16, "downs": 1, "lifts": 1, "shrink": 1},
    "nes": {"queries": 200},
}  # fmt: skip


class Other(Projection):
    """Fewer bits of other weights, and codes a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.bits = 7
        turned = self.weights.detach().flip(1)[:7]
        self.weights = torch.nn.Parameter(100 * turned)
        self.normalised = torch.nn.Identity()


class Words(Projection):
    """Takes texts alone."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = {"text": (0.0, 1.0)}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


@pytest.fixture(scope="module")
def members(scene: Scene) -> list[Projection]:
    return [Projection().eval(), Other().eval()]


@pytest.fixture(scope="module")
def joint(scene: Scene, members: list[Projection]) -> Scene:
    ensemble = Ensemble.of(members, scene.data.dataset.train, "image").eval()
    return scene.seen_by(ensemble)


def test_its_code_is_that_of_its_members_one_behind_the_other(
    scene: Scene, joint: Scene, members: list[Projection]
) -> None:
    images = scene.queries.inputs["image"]
    bits = [member.encode(images, "image").unpack() for member in members]
    found = joint.victim.encode(images, "image")
    assert found.bits == joint.victim.bits == 23
    assert np.array_equal(found.unpack(), np.concatenate(bits, axis=1))
    relaxed = joint.victim.relax(images, "image")
    assert np.array_equal((relaxed > 0).numpy(), found.unpack())
    served = [member.database_codes(scene.data.dataset, "image").unpack() for member in members]
    assert np.array_equal(joint.data.codes.unpack(), np.concatenate(served, axis=1))


def test_no_member_is_louder_than_the_others(scene: Scene, joint: Scene) -> None:
    train = scene.data.dataset.train
    images = train.rows(torch.arange(len(train))).inputs["image"]
    sizes = joint.victim.relax(images, "image").detach().abs()
    assert float(sizes[:, :16].mean()) == pytest.approx(1, rel=1e-4)
    assert float(sizes[:, 16:].mean()) == pytest.approx(1, rel=1e-4)


def test_its_anchor_holds_an_anchor_of_each_member(
    scene: Scene, joint: Scene, members: list[Projection]
) -> None:
    alone = [
        majority(scene.seen_by(member).data, scene.targets, torch.device("cpu"))
        for member in members
    ]
    found = majority(joint.data, scene.targets, torch.device("cpu"))
    assert torch.equal(found, torch.cat(alone, dim=1))


@pytest.mark.parametrize("name", QUICK)
def test_every_attack_moves_all_members(
    name: str, scene: Scene, joint: Scene, members: list[Projection]
) -> None:
    attack: Attack = ATTACKS.create(name, QUICK[name])
    attack.fit(joint.victim, joint.data, BALL)
    result = attack.perturb(joint.victim, joint.queries, joint.targets, BALL, seed=1)
    assert float(result.distance.max()) <= BALL.eps + 1e-6
    for member in members:
        data = scene.seen_by(member).data
        anchors = HashCodes.from_relaxed(majority(data, scene.targets, torch.device("cpu")))

        def far(images: Tensor, member: Projection = member, to: HashCodes = anchors) -> float:
            return float(distances(member.encode(images, "image"), to).diagonal().mean())

        assert far(result.batch.inputs["image"]) < far(scene.queries.inputs["image"]) - 0.2


def test_members_are_left_as_they_were(joint: Scene, members: list[Projection]) -> None:
    before = [value.clone() for member in members for value in member.state_dict().values()]
    members[0].train()
    attack = ATTACKS.create("dhta", {"steps": 2}).fit(joint.victim, joint.data, BALL)
    attack.perturb(joint.victim, joint.queries, joint.targets, BALL)
    assert members[0].training
    members[0].eval()
    after = [value for member in members for value in member.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


class Masked(Projection):
    """Says that it has no gradient, and why."""

    differentiable, no_gradient = False, "it rounds"


def test_a_member_without_gradient_is_told_of(joint: Scene) -> None:
    ensemble = Ensemble([Projection(), Masked()], [1, 1])
    attack = ATTACKS.create("dhta")
    with pytest.raises(UsageError, match="it rounds"):
        attack.perturb(ensemble, joint.queries, joint.targets, BALL)


@pytest.mark.parametrize("kind", ["alone", "twice", "inputs"])
def test_what_is_no_ensemble_is_refused(kind: str) -> None:
    one = Projection()
    members = {"alone": [one], "twice": [one, Projection(), one], "inputs": [one, Words()]}[kind]
    word = "same inputs, got image and text" if kind == "inputs" else "two different victims"
    with pytest.raises(UsageError, match=word):
        Ensemble(members, [1.0] * len(members))


def test_directions_are_those_that_all_members_have(joint: Scene) -> None:
    class Both(Projection):
        @property
        def directions(self) -> tuple[str, ...]:
            return ("text", "image", "fused")

    assert Ensemble([Both(), Projection()], [1, 1]).directions == ("image",)


def test_a_defence_that_draws_does_not_move_the_usual_sizes(scene: Scene) -> None:
    class Drawing(Projection):
        def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
            return super().relax(inputs, modality) + torch.randn(len(inputs), self.bits)

    sizes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair = [Drawing().eval(), Projection().eval()]
        sizes.append(Ensemble.of(pair, scene.data.dataset.train, "image").sizes)
    assert sizes[0] == sizes[1]
