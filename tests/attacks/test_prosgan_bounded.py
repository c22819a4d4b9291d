"""ProS-GAN under a hard budget, for label sets it never saw, and reused for other runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from measuring_scripts import load_script
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.gradient.precision import computes_bf16
from advhash.attacks.prosgan.networks import Generator, within
from advhash.attacks.prosgan.prosgan import ProSGAN, Refinement
from advhash.attacks.prosgan.validation import split_sets
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch
from advhash.errors import ConfigError, UsageError
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.trained import Trained
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

BUDGETS = [Budget("linf", 16 / 255), Budget("l2", 2.0)]
UNBOUNDED = Budget("none", math.inf)
SMALL: dict[str, Any] = {"width": 8, "blocks": 1, "prototype_steps": 100, "hidden": 64}
QUICK: dict[str, Any] = {**SMALL, "epochs": 6, "batch_size": 24}
TINY: dict[str, Any] = {**SMALL, "epochs": 1, "batch_size": 100, "prototype_steps": 5}


def tmap(codes: HashCodes, targets: Tensor, served: AttackData) -> float:
    scores = retrieval_average_precision(
        codes, served.codes, targets.numpy(), served.labels.numpy()
    )
    return float(scores.mean())


# The output


def test_within_linf_by_hand() -> None:
    clean = torch.tensor([0.5, 0.5, 0.5, 0.99, 0.01]).view(1, 1, 1, 5)
    change = torch.tensor([0.5, 3.0, -3.0, 0.8, -0.8]).view(1, 1, 1, 5)
    moved = within(clean, clean + change, "linf", 0.1)
    assert moved.flatten().tolist() == pytest.approx([0.55, 0.6, 0.4, 1.0, 0.0], abs=1e-6)


def test_within_l2_by_hand() -> None:
    clean = torch.full((1, 1, 1, 2), 0.5)
    moved = within(clean, clean + torch.tensor([3.0, -4.0]), "l2", 0.3)
    factor = 0.3 / 6  # the length of the change is 5
    assert moved.flatten().tolist() == pytest.approx([0.5 + 3 * factor, 0.5 - 4 * factor])


def test_a_clipped_pixel_can_only_come_back() -> None:
    """Four pixels beyond the upper bound or the white of the image, or on the inside."""
    clean = torch.tensor([0.5, 0.5, 1.0, 0.5]).view(1, 1, 1, 4)
    raw = (clean + torch.tensor([2.0, 2.0, 0.5, 0.5])).requires_grad_()
    moved = within(clean, raw, "linf", 0.1)
    slope = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 1, 4)
    (gradient,) = torch.autograd.grad(moved, raw, slope)  # descent raises where the slope is −1
    assert gradient.flatten().tolist() == pytest.approx([0.1, 0.0, 0.1, -0.1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_untrained_generator_has_gradients_and_does_nothing(norm: Any) -> None:
    torch.manual_seed(0)
    size = 16
    generator = Generator(
        7,
        size,
        width=4,
        downs=1,
        blocks=1,
        lifts=2,
        shrink=2,
        residual=True,
        modulated=True,
        offset=True,
    )
    images = torch.rand(2, 3, size, size)
    moved = within(images, generator(images, torch.randn(2, 7)), norm, 0.1)
    assert torch.allclose(moved, images, atol=1e-6)
    moved.square().sum().backward()
    assert generator.offset is not None
    assert generator.offset.weight.grad is not None
    assert float(generator.offset.weight.grad.abs().max()) > 0
    assert bool(generator.offset.weight.grad.isfinite().all())


# Training under the budget


@pytest.fixture(scope="module")
def unbounded(victim: HashVictim, served: AttackData) -> ProSGAN:
    visible: dict[str, Any] = {"rec_weight": 15.0, "ssim_weight": 0.0, "modulated": False}
    return ProSGAN(discriminator=False, **visible, **QUICK).fit(victim, served, UNBOUNDED, seed=0)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_beats_the_projected_generator_and_noise(
    budget: Budget, unbounded: ProSGAN, victim: HashVictim, served: AttackData, queries: Batch,
    targets: Tensor,
) -> None:  # fmt: skip
    """At the same budget; and it never leaves it, so that the projection changes nothing."""
    attack = ProSGAN(bounded=True, learning_rate=3e-3, **QUICK).fit(victim, served, budget, seed=0)
    result = attack.perturb(victim, queries, targets, budget)
    assert float(result.overrun.max()) == 0
    assert bool((result.distance <= budget.eps + 1e-5).all())
    projected = unbounded.perturb(victim, queries, targets, budget)
    assert float(projected.overrun.mean()) > 0
    noise = Noise().perturb(victim, queries, None, budget).codes
    reached = tmap(result.codes, targets, served)
    assert reached > tmap(projected.codes, targets, served) + 0.05
    assert reached > tmap(noise, targets, served) + 0.1


def test_bounded_state_round_trip_and_batch_of_one(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    attack = ProSGAN(bounded=True, **TINY).fit(victim, served, BUDGETS[0])
    again = ProSGAN(bounded=True, **TINY).restore(victim, served, attack.state())
    whole = attack.perturb(victim, queries, targets, BUDGETS[0]).batch.inputs["image"]
    assert torch.equal(
        whole, again.perturb(victim, queries, targets, BUDGETS[0]).batch.inputs["image"]
    )
    one = Batch({"image": queries.inputs["image"][:1]}, queries.labels[:1], queries.index[:1])
    alone = again.perturb(victim, one, targets[:1], BUDGETS[0]).batch.inputs["image"]
    assert float((alone - whole[:1]).abs().max()) <= 1.01 / 255  # float error, then rounding


def test_steps_from_the_generator_lead_nearer_its_code(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """And further than as many steps from the query, within the same budget."""
    budget = BUDGETS[0]
    fitted = ProSGAN(bounded=True, learning_rate=3e-3, **QUICK).fit(victim, served, budget, seed=0)
    goal = fitted.supervise(targets)[1].numpy()

    def wrong(attack: Attack) -> npt.NDArray[np.int64]:
        moved = attack.perturb(victim, queries, targets, budget)
        assert bool((moved.distance <= budget.eps + 1e-5).all())
        return np.asarray((moved.codes.signs() != goal).sum(axis=1))

    def refined(steps: int) -> ProSGAN:
        attack = ProSGAN(bounded=True, learning_rate=3e-3, refine=steps, **QUICK)
        return attack.restore(victim, served, fitted.state())

    plain, few, more = wrong(fitted), wrong(refined(2)), wrong(refined(10))
    assert bool((few <= plain).all())
    assert more.sum() < few.sum() < plain.sum()
    alone = Refinement.of(2, (), torch.from_numpy(goal).float())
    alone.fit(victim, served, budget)
    assert few.sum() < wrong(alone).sum()


def test_fewer_than_no_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="refine >= 0, got -1"):
        ATTACKS.create("prosgan", {"refine": -1})


def test_one_generator_serves_all_radii_that_it_was_trained_for(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """Better than noise at each, better at the larger one, and never beyond the budget."""
    settings: dict[str, Any] = {"radii": ("4/255", "24/255"), "learning_rate": 3e-3}
    attack = ProSGAN(bounded=True, **settings, **QUICK)
    attack.fit(victim, served, Budget("linf", 8 / 255), seed=0)
    reached = []
    for eps in (4 / 255, 24 / 255):
        budget = Budget("linf", eps)
        result = attack.perturb(victim, queries, targets, budget)
        assert float(result.overrun.max()) <= 1e-6
        assert float(result.distance.max()) == pytest.approx(eps, abs=1e-6)
        noise = Noise().perturb(victim, queries, None, budget, seed=0)
        reached.append(tmap(result.codes, targets, served))
        assert reached[-1] > tmap(noise.codes, targets, served)
    assert reached[1] > reached[0]
    with pytest.raises(UsageError, match="an eps from 4/255 to 24/255, for which it is trained"):
        attack.perturb(victim, queries, targets, Budget("linf", 32 / 255))


def test_the_generator_is_told_the_radius() -> None:
    attack = ProSGAN(bounded=True, radii=("2/255", "8/255"))
    extended = attack._with_radius(torch.zeros(3, 5), torch.tensor([[2.0], [4.0], [8.0]]) / 255)
    assert extended[:, -1].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"radii": ("2/255", "8/255")},
        {"radii": ("8/255", "2/255"), "bounded": True},
        {"radii": ("8/255",), "bounded": True},
    ],
)
def test_radii_that_no_generator_is_trained_for_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="two eps in ascending order"):
        ATTACKS.create("prosgan", settings)


def test_the_effort_of_training_grows_with_networks_and_epochs(served: AttackData) -> None:
    """At the published sizes a picture costs several times what one costs by default."""
    efforts = {
        name: ATTACKS.create("prosgan", settings).effort(served.dataset)
        for name, settings in {
            "default": {}, "twice": {"epochs": 60}, "published": {"preset": "paper"},
            "bounded": {"bounded": True},
            "of radii": {"bounded": True, "radii": "2/255,16/255"},
        }.items()
    }  # fmt: skip
    assert efforts["of radii"] == pytest.approx(efforts["bounded"], rel=0.1)
    assert efforts["twice"] == pytest.approx(2 * efforts["default"], rel=0.1)
    assert efforts["published"] > 20 * efforts["default"]


def test_bounded_needs_a_bound(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    for budget in (UNBOUNDED, Budget("l0", 3)):
        with pytest.raises(UsageError, match="expected a budget in l2, linf"):
            ProSGAN(bounded=True, **TINY).fit(victim, served, budget)
    attack = ProSGAN(bounded=True, **TINY).fit(victim, served, BUDGETS[0])
    with pytest.raises(UsageError, match="add --eps"):
        attack.perturb(victim, queries, targets, UNBOUNDED)


def test_settings_of_bounded_training_are_checked() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        ATTACKS.create("prosgan", {"held_out": 1.0})
    paper = ATTACKS.create("prosgan", {"preset": "paper", "bounded": True})
    assert (paper.epochs, paper.width, paper.modulated) == (100, 64, False)


# Label sets unseen in training


def test_held_out_sets_are_drawn_by_the_seed() -> None:
    sets = torch.eye(10)
    seen, unseen = split_sets(sets, 0.3, seed=1)
    assert (len(seen), len(unseen)) == (7, 3)
    assert torch.equal(torch.cat([seen, unseen]).sum(dim=0), torch.ones(10))
    assert torch.equal(split_sets(sets, 0.3, seed=1)[1], unseen)
    assert not torch.equal(split_sets(sets, 0.3, seed=2)[1], unseen)
    everything, none = split_sets(sets, 0.0, seed=1)
    assert torch.equal(everything, sets)
    assert len(none) == 0
    for share in (0.01, 0.99):
        with pytest.raises(UsageError, match="held_out"):
            split_sets(sets, share, seed=0)


def test_held_out_sets_are_never_trained_on(
    victim: HashVictim, served: AttackData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the generator nor PrototypeNet sees one; both are scored on them at the end."""
    attack = ProSGAN(held_out=0.3, **TINY)
    asked: list[Tensor] = []
    supervise = attack.supervise

    def watched(sets: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(sets)
        return supervise(sets)

    monkeypatch.setattr(attack, "supervise", watched)
    attack.fit(victim, served, UNBOUNDED, seed=4)
    assert len(asked[0]) == 7  # the first question is that of training
    row = attack.history[-1]
    assert row["phase"] == "held out"
    assert row["unseen_sets"] == 3
    for name in ("seen", "unseen"):
        assert 0 < float(row[f"{name}_tmap"]) <= 1
        assert 0 < float(row[f"{name}_tmap_clean"]) < 0.6
    assert row["seen_tmap"] != row["unseen_tmap"]
    whole = ProSGAN(**TINY).fit(victim, served, UNBOUNDED, seed=4)
    assert {step["phase"] for step in whole.history} == {"prototype", "generator"}


# Reuse


def test_a_fitted_generator_serves_other_queries_budgets_and_target_rules(
    victim: HashVictim, served: AttackData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a bound one fit serves all; with `bounded` every budget needs its own."""
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    trained = Trained(
        victim, served.dataset, "dpsh", {}, {}, folder=None, fingerprint="of this test",
        origin="trained", seconds=0.0,
    )  # fmt: skip

    def fitted(budget: dict[str, Any], protocol: dict[str, Any], **more: Any) -> FittedAttack:
        config = AttackConfig.build(
            {
                "victim": {"name": "dpsh"},
                "attack": {"name": "prosgan", **TINY, **more},
                "budget": budget,
                "protocol": protocol,
            }
        )
        return fit_attack(config, trained, served)

    eight, sixteen = ({"norm": "linf", "eps": f"{eps}/255"} for eps in (8, 16))
    first = fitted({}, {})
    assert not first.cached
    for budget, protocol in (
        (eight, {}),
        ({"norm": "l2", "eps": 2}, {"queries": 5}),
        ({}, {"targets": "uniform"}),
    ):
        again = fitted(budget, protocol)
        assert again.cached
        assert again.fingerprint == first.fingerprint
    hard = fitted(eight, {}, bounded=True)
    assert not hard.cached
    assert fitted(eight, {"targets": "weighted", "queries": 3}, bounded=True).cached
    assert fitted(eight, {}, bounded=True, refine=3).fingerprint == hard.fingerprint
    other = fitted(sixteen, {}, bounded=True)
    assert not other.cached
    assert len({first.fingerprint, hard.fingerprint, other.fingerprint}) == 3


# What was demanded


def test_the_demand_on_bounded_prosgan_is_met() -> None:
    """Above the unattacked queries everywhere, at 16/255 at least half of 100 steps of DHTA."""
    commands = load_script("commands.py")
    documents = commands["known"]()
    asked = ("attacks/prosgan.md", "bounded")
    (table,) = (table for table in commands["TABLES"] if (table.page, table.mark) == asked)
    found = {row.first: documents[row.command]["metrics"] for row in table.rows}
    assert len(found) == 10
    for (*cell, attack), metrics in found.items():
        reached = metrics["tmap_normalised"]
        assert reached["low"] > 0, (cell, attack)
        if attack == "prosgan":
            assert metrics["seconds_fit"]["value"] < 15 * 60, cell
            if "L∞ 16/255" in cell:
                beside = found[(*cell, "dhta")]["tmap_normalised"]
                assert reached["value"] >= beside["value"] / 2, cell
    (table,) = (table for table in commands["TABLES"] if table.page == "attacks/universal.md")
    assert all(
        documents[row.command]["metrics"]["tmap_normalised"]["low"] > 0 for row in table.rows
    )


def test_another_descent_needs_no_other_prototype_network(
    victim: HashVictim, served: AttackData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    trained = Trained(
        victim, served.dataset, "dpsh", {}, {}, folder=None, fingerprint="of this test",
        origin="trained", seconds=0.0,
    )  # fmt: skip

    def fitted(**settings: Any) -> FittedAttack:
        attack = {"name": "tha", "hidden": 16, "feature": 8, "prototype_steps": 3, **settings}
        config = AttackConfig.build({"victim": {"name": "dpsh"}, "attack": attack})
        return fit_attack(config, trained, served)

    assert not fitted().cached
    again = fitted(steps=3, survive="jpeg75")
    assert again.cached
    assert (again.attack.steps, again.attack.survive) == (3, "jpeg75")  # type: ignore[attr-defined]
    assert not fitted(hidden=17).cached


# Training in bfloat16


def test_trains_in_bf16_where_the_processor_computes_in_it(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """Weights stay in float32, and what is reached is about the same; elsewhere it is refused."""
    reduced = ProSGAN(precision="bf16", **QUICK)
    if not computes_bf16(torch.device("cpu")):
        with pytest.raises(UsageError, match="expected a processor that computes in it"):
            reduced.fit(victim, served, UNBOUNDED)
        return
    reduced.fit(victim, served, UNBOUNDED, seed=0)
    assert all(values.dtype == torch.float32 for values in reduced.state().values())
    whole = ProSGAN(**QUICK).fit(victim, served, UNBOUNDED, seed=0)
    reached = [
        tmap(attack.perturb(victim, queries, targets, UNBOUNDED).codes, targets, served)
        for attack in (reduced, whole)
    ]
    assert reached[0] == pytest.approx(reached[1], abs=0.1)
    assert not torch.equal(
        reduced.state()["generator.out.weight"], whole.state()["generator.out.weight"]
    )
