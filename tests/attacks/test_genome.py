"""Attacks as genomes: programs that are data, hashes of what they do, and the attack they run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from attack_scene import Scene
from torch import Tensor

from advhash.attacks.evolved.genome import (
    Canary,
    Evolved,
    Genome,
    mutated_genome,
    random_genome,
    read_genome,
)
from advhash.attacks.evolved.programs import (
    LIMIT,
    OPERATIONS,
    PUBLISHED,
    mutated_program,
    parse_program,
    run_program,
    written_program,
)
from advhash.attacks.gradient.objectives import hash_term_tmm, similarity
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.errors import ConfigError, DataError
from advhash.registry import ATTACKS

BUDGET = Budget("linf", 16 / 255)
PLAIN = Genome(
    anchor="centre", program=("multiply h b", "negative r0"), rule="sign", step=0.1,
    alphas=(1.0,), momentum=0.0, diversity=0.0, random_start=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def codes() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    h, o = (torch.randn(5, 16, generator=generator).tanh() for _ in range(2))
    return h, torch.where(torch.randn(5, 16, generator=generator) > 0, 1.0, -1.0), o


def canary(scene: Scene, **changes: Any) -> Canary:
    return Canary(
        scene.victim, scene.data, scene.queries, scene.targets, BUDGET, {"victim": "scene"},
        **changes,
    )  # fmt: skip


# Programs


def test_published_programs_are_the_published_objectives(codes: tuple[Tensor, ...]) -> None:
    h, b, o = codes
    loss = run_program(parse_program(PUBLISHED["similarity"]), h, b, o)
    assert torch.allclose(loss, similarity(h, b))
    loss = run_program(parse_program(PUBLISHED["hash_term_tmm"]), h, b, o)
    assert torch.allclose(loss.mean(), hash_term_tmm(h, b))
    hinge = run_program(parse_program(PUBLISHED["hinge"]), h, b, o)
    assert torch.allclose(hinge, (0.5 - h * b).clamp_min(0).mean(dim=1))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_computes_what_it_says(operation: str, codes: tuple[Tensor, ...]) -> None:
    h, b, o = codes
    expected: dict[str, Tensor] = {
        "absolute": (h * h).sqrt(), "mean": h.mean(1, keepdim=True), "negative": -1 * h,
        "positive": h * (h > 0), "square": h * h,
        "tanh": (h.exp() - (-h).exp()) / (h.exp() + (-h).exp()),
        "add": h + o, "maximum": torch.where(h > o, h, o), "minimum": torch.where(h > o, o, h),
        "multiply": h * o, "subtract": h - o,
    }  # fmt: skip
    operands = "h o" if operation in ("add", "maximum", "minimum", "multiply", "subtract") else "h"
    found = run_program(parse_program([f"{operation} {operands}"]), h, b, o)
    assert torch.allclose(found, expected[operation].mean(dim=1), atol=1e-6)


def test_a_program_that_would_overflow_has_a_finite_loss_and_gradient(
    codes: tuple[Tensor, ...],
) -> None:
    h, b, o = codes
    lines = ["add h two", *(f"square r{line}" for line in range(LIMIT - 1))]
    seen = h.clone().requires_grad_()
    loss = run_program(parse_program(lines), seen, b, o)
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    assert seen.grad is not None
    assert bool(seen.grad.isfinite().all())


def test_a_program_without_the_code_has_a_gradient_of_zero(codes: tuple[Tensor, ...]) -> None:
    seen = codes[0].clone().requires_grad_()
    run_program(parse_program(["square o"]), seen, *codes[1:]).sum().backward()
    assert seen.grad is not None
    assert not bool(seen.grad.any())


def test_mutations_give_programs_that_differ_and_can_be_read() -> None:
    chance = Random(0)
    program = parse_program(PUBLISHED["similarity"])
    lengths: Counter[int] = Counter()
    changed = 0
    for _ in range(2000):
        mutated = mutated_program(program, chance)
        assert parse_program(written_program(mutated)) == mutated
        changed += mutated != program
        lengths[len(mutated)] += 1
        program = mutated
    assert changed > 1600
    assert min(lengths) == 1
    assert max(lengths) == LIMIT


def test_an_inserted_line_changes_nothing_but_the_numbers(codes: tuple[Tensor, ...]) -> None:
    program = parse_program(["multiply h b", "square r0", "add r1 r0"])
    before = run_program(program, *codes)
    chance, inserted = Random(1), 0
    for _ in range(300):
        mutated = mutated_program(program, chance)
        if len(mutated) == 4 and mutated[:3] != program:
            inserted += 1
            assert torch.equal(run_program(mutated, *codes), before)
    assert inserted > 20


# Files of strangers


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("__import__('os').system('touch pwned')", "expected an operation"),
        ("eval h", "expected an operation"),
        ("multiply h", "its operands, got 'multiply h'"),
        ("square h b", "its operands"),
        ("", "expected an operation"),
        ("multiply h __class__", "expected operands in h, b, o"),
        ("square r0", "expected operands in"),
        ("square r-1", "expected operands in"),
        ("square r99999999999999999999", "expected operands in"),
        ("multiply h b\nsquare h", "expected an operation"),
        ("x" * 100_000, "got 'x{80}'$"),
    ],
)
def test_hostile_lines_are_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_program([line])
    with pytest.raises(ConfigError, match=message):
        read_genome({**PLAIN.settings(), "program": [line]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": []}, "1 to 16 lines, got 0"),
        ({"program": ["square h"] * 17}, "1 to 16 lines, got 17"),
        ({"program": [{"__reduce__": "os.system"}]}, "setting 'attack.program.0'"),
        ({"program": {"first": "square h"}}, "setting 'attack.program'"),
        ({"anchor": "advhash.cli.app:main"}, "setting 'attack.anchor'"),
        ({"rule": "exec"}, "setting 'attack.rule'"),
        ({"step": float("nan")}, "setting 'attack.step'"),
        ({"step": -1.0}, "step > 0"),
        ({"step": float("inf")}, "setting 'attack.step'"),
        ({"momentum": float("inf")}, "setting 'attack.momentum'"),
        ({"alphas": [float("inf")]}, "setting 'attack.alphas"),
        ({"alphas": []}, "alphas > 0"),
        ({"steps": 10**9}, "expected a genome with exactly"),
        ({"__class__": "os"}, "expected a genome with exactly"),
    ],
)
def test_hostile_genomes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_genome({**PLAIN.settings(), **change})


@pytest.mark.parametrize("document", [None, [], "os.system", {"anchor": "dhta"}])
def test_what_is_no_genome_is_refused(document: Any) -> None:
    with pytest.raises(ConfigError, match="expected a genome"):
        read_genome(document)


# Genomes


def test_genomes_survive_json_and_mutations_differ() -> None:
    chance = Random(3)
    for _ in range(200):
        genome = random_genome(chance)
        assert read_genome(json.loads(json.dumps(genome.settings()))) == genome
        child = mutated_genome(genome, chance)
        differing = [
            name for name in genome.settings() if getattr(child, name) != getattr(genome, name)
        ]
        assert len(differing) <= 1
        read_genome(child.settings())


@pytest.mark.parametrize(
    "same",
    [
        replace(PLAIN, program=("multiply b h", "negative r0")),
        replace(PLAIN, program=("square o", "multiply h b", "negative r1")),
        replace(PLAIN, program=("multiply h b", "negative r0", "multiply r1 two")),
        replace(PLAIN, program=("negative h", "multiply r0 b")),
        replace(PLAIN, rule="auto"),
    ],
    ids=["exchanged", "dead line", "factor", "another order", "auto"],
)
def test_equal_genomes_have_one_key(same: Genome, scene: Scene) -> None:
    assert canary(scene).key(same) == canary(scene).key(PLAIN)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, program=("multiply h b",)),
        replace(PLAIN, program=PUBLISHED["hash_term_tmm"]),
        replace(PLAIN, program=("multiply h o", "negative r0")),
        replace(PLAIN, rule="l2"),
        replace(PLAIN, step=0.2),
        replace(PLAIN, anchor="p2p"),
        replace(PLAIN, momentum=0.9),
        replace(PLAIN, diversity=0.7),
        replace(PLAIN, random_start=True),
        replace(PLAIN, rule="l2", program=("multiply h b", "negative r0"), alphas=(2.0,)),
    ],
    ids=lambda genome: " ".join(genome.program) + genome.rule + genome.anchor,
)
def test_other_genomes_have_other_keys(other: Genome, scene: Scene) -> None:
    assert canary(scene).key(other) != canary(scene).key(PLAIN)


def test_a_slow_attack_is_not_one_that_does_nothing(scene: Scene) -> None:
    """Its first steps are too short to move any 8-bit image, and so any code."""
    slow, blind = replace(PLAIN, step=0.02), replace(PLAIN, step=0.02, program=("square o",))
    probe = canary(scene)
    heard = probe._behaviour(slow)
    assert torch.equal(heard[-1], scene.queries.inputs["image"])
    assert probe.key(slow) != probe.key(blind)
    assert probe.key(blind) == probe.key(replace(blind, program=("multiply b two",)))


def test_a_key_names_what_it_was_made_with(scene: Scene) -> None:
    key = canary(scene).key(PLAIN)
    assert key == canary(scene).key(PLAIN)
    assert key != canary(scene, steps=2).key(PLAIN)
    assert key != replace(canary(scene), identity={"victim": "another"}).key(PLAIN)
    assert key != replace(canary(scene), budget=Budget("linf", 8 / 255)).key(PLAIN)


def test_equivalents_occur_often(scene: Scene) -> None:
    chance, probe = Random(0), canary(scene, steps=3)
    parent = PLAIN
    keys = Counter(probe.key(mutated_genome(parent, chance)) for _ in range(120))
    assert len(keys) < 80
    assert keys[probe.key(parent)] >= 12


def test_diversity_is_paid_for_in_steps(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of the victim for equal budgets, counted: a step without diversity is two."""
    plain, diverse = PLAIN, replace(PLAIN, diversity=0.3)
    assert [plain.steps(budget) for budget in (1, 2, 20)] == [1, 2, 20]
    assert [diverse.steps(budget) for budget in (1, 2, 3, 20)] == [1, 1, 2, 13]

    def passes(genome: Genome) -> int:
        calls = 0
        real = scene.victim.relax

        def counted(inputs: Tensor, modality: Any) -> Tensor:
            nonlocal calls
            calls += 1
            return real(inputs, modality)

        steps = genome.steps(12)
        attack = Evolved(steps=steps, **vars(genome)).fit(scene.victim, scene.data, BUDGET)
        with monkeypatch.context() as patch:
            patch.setattr(scene.victim, "relax", counted)
            attack.run(scene.victim, scene.queries, scene.targets, BUDGET)
        return calls - 2 + steps  # less clean and returned codes; each step has a backward pass

    assert passes(plain) == passes(diverse) == 24


# The attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_default_is_dhta(norm: Any, scene: Scene) -> None:
    budget = Budget(norm, 16 / 255 if norm == "linf" else 1.0)
    found = [
        attack.fit(scene.victim, scene.data, budget).perturb(
            scene.victim, scene.queries, scene.targets, budget, seed=4
        )
        for attack in (Evolved(steps=15), DHTA(steps=15))
    ]
    assert torch.equal(found[0].batch.inputs["image"], found[1].batch.inputs["image"])
    assert float(found[0].distance.min()) > 0


def test_the_program_decides_over_the_attack(scene: Scene) -> None:
    def bits(program: tuple[str, ...]) -> float:
        attack = Evolved(steps=20, anchor="majority", program=program)
        attack.fit(scene.victim, scene.data, BUDGET)
        moved = attack.perturb(scene.victim, scene.queries, scene.targets, BUDGET)
        signs = torch.from_numpy(moved.codes.signs())
        return float((signs * attack.anchors(scene.targets)).mean())

    toward, blind = bits(PUBLISHED["similarity"]), bits(("square o",))
    assert toward > blind + 0.3


@pytest.mark.parametrize("anchor", ["centre", "dhta", "majority", "p2p"])
def test_a_target_that_no_row_has_is_refused(anchor: Any, scene: Scene) -> None:
    attack = Evolved(steps=2, anchor=anchor).fit(scene.victim, scene.data, BUDGET)
    with pytest.raises(DataError, match="shares a label"):
        attack.perturb(scene.victim, scene.queries, torch.zeros_like(scene.targets), BUDGET)


def test_settings_are_those_of_the_registry() -> None:
    attack = ATTACKS.create("evolved", {**PLAIN.settings(), "steps": 7})
    assert attack.program == PLAIN.program
    with pytest.raises(ConfigError, match="expected an operation"):
        ATTACKS.create("evolved", {"program": ["import os"]})
