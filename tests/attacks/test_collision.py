"""Collision and evasion of perceptual hashes, and the threshold at which they are judged."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.collision import Collision, Evasion
from advhash.budget import Budget, round_toward
from advhash.codes import HashCodes
from advhash.codes.hamming import distances, histograms
from advhash.data import Batch, Dataset
from advhash.data.codec import through_codec
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.experiments.attack.operating import (
    check_threshold,
    false_positives,
    names_pictures,
    operating_columns,
    operating_metrics,
    operating_threshold,
    originals,
    started,
)
from advhash.experiments.attack.run import attack
from advhash.experiments.compare import compare_runs
from advhash.experiments.config import AttackConfig, AttackProtocol
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.attack.queries import load_queries
from advhash.reports.elements.verdict import verdict
from advhash.reports.page.render import page
from advhash.reports.record import Record, load_record
from advhash.reports.vocabulary import label_of
from advhash.shared_labels import as_groups, without_labels
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim

HASHES = ("phash", "dhash", "pdq")
EIGHT = Budget("linf", 8 / 255)
SIXTEEN = Budget("linf", 16 / 255)
SETTINGS = {"pictures": 40, "size": 48}
QUICK = {"steps": 15}


def rated(rate: float) -> AttackProtocol:
    return AttackProtocol(false_positive_rate=rate)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("near_duplicates", SETTINGS)


@pytest.fixture(params=HASHES)
def victim(request: pytest.FixtureRequest) -> HashVictim:
    return VICTIMS.create(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def served(victim: HashVictim, data: Dataset) -> AttackData:
    return AttackData(data, victim.database_codes(data, "image"), "image", "image")


@pytest.fixture
def queries(data: Dataset) -> Batch:
    return data.query.rows(torch.arange(0, len(data.query), 3))


@pytest.fixture
def targets(queries: Batch, served: AttackData) -> Tensor:
    chosen = choose_targets("disjoint", queries.labels.numpy(), served.labels.numpy(), seed=0)
    return torch.from_numpy(chosen)


def codes_of(
    name: str, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor,
    budget: Budget = SIXTEEN, **settings: object,
) -> tuple[Tensor, HashCodes]:  # fmt: skip
    method: Attack = ATTACKS.create(name, {**QUICK, **settings}).fit(victim, served, budget)
    aims = targets if method.goal == "targeted" else None
    result = method.perturb(victim, queries, aims, budget)
    assert float(result.distance.max()) <= budget.eps + 1e-5
    return result.batch.inputs["image"], result.codes


def far(codes: HashCodes, served: AttackData, labels: Tensor) -> np.ndarray[Any, Any]:
    """(B,) bits to the database picture that the labels name."""
    rows = labels[:, 0].numpy()
    return np.diagonal(distances(codes, served.codes[rows])).astype(int)


# The attacks


@pytest.mark.parametrize("budget", [SIXTEEN, Budget("l2", 3.0)], ids=str)
def test_collision_comes_nearer_than_noise(
    budget: Budget, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    noise = ATTACKS.create("noise").perturb(victim, queries, None, budget).codes
    reached = codes_of("collision", victim, served, queries, targets, budget)[1]
    gained = far(noise, served, targets) - far(reached, served, targets)
    assert gained.mean() > victim.bits / 16, gained


@pytest.mark.parametrize("budget", [SIXTEEN, Budget("l2", 3.0)], ids=str)
def test_evasion_goes_farther_than_noise(
    budget: Budget, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    clean = victim.encode(queries.inputs["image"], "image")
    noise = ATTACKS.create("noise").perturb(victim, queries, None, budget).codes
    away = codes_of("evasion", victim, served, queries, targets, budget)[1]
    gained = [np.diagonal(distances(codes, clean)).astype(int) for codes in (away, noise)]
    assert (gained[0] - gained[1]).mean() > victim.bits / 16


def test_a_wide_budget_comes_near_and_survives_a_file(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    wide = Budget("linf", 64 / 255)
    moved, codes = codes_of("collision", victim, served, queries, targets, wide, steps=40)
    assert (far(codes, served, targets) <= victim.bits / 8).mean() > 0.7
    file = victim.encode(through_codec(moved, 75), "image")
    assert (far(file, served, targets) <= victim.bits / 6).mean() > 0.7


def test_steps_after_the_last_bit_widen_the_margin(data: Dataset) -> None:
    """A picture that has the hash already: nothing to flip, bits move away from the threshold."""
    victim: HashVictim = VICTIMS.create("dhash")
    served = AttackData(data, victim.database_codes(data, "image"), "image", "image")
    rows = data.database.rows(torch.arange(6))
    moved, codes = codes_of("collision", victim, served, rows, rows.labels, EIGHT)
    assert far(codes, served, rows.labels).tolist() == [0] * 6
    clean, after = (
        victim.relax(images, "image").abs().mean(dim=1) for images in (rows.inputs["image"], moved)
    )
    assert bool((after >= clean).all())
    assert int((after > 1.1 * clean).sum()) >= 4


def test_one_step_of_each_loss_against_the_formula(data: Dataset) -> None:
    victim: HashVictim = VICTIMS.create("dhash")
    queries = data.query.rows(torch.arange(2))
    clean = queries.inputs["image"]
    start = victim.relax(clean, "image")
    scale = start.abs().mean(dim=1, keepdim=True)
    for loss in ("tanh", "hinge"):
        image = clean.clone().requires_grad_()
        code = victim.relax(image, "image") / scale
        away = torch.where(start > 0, -1.0, 1.0)
        if loss == "tanh":
            value = -(torch.tanh(0.5 * code) * away).mean(dim=1)
        else:
            value = torch.maximum(torch.zeros(()), -code * away).mean(dim=1)
        (gradient,) = torch.autograd.grad(value.sum(), image)
        stepped = (clean - 4 / 255 * gradient.sign()).clamp(0, 1)
        attack_once = Evasion(loss=loss, steps=1, step=0.5)  # type: ignore[arg-type]
        found = attack_once.perturb(victim, queries, None, EIGHT).batch.inputs["image"]
        flipped = (
            victim.encode(round_toward(clean, stepped), "image").signs() != start.sign().numpy()
        )
        expected = torch.where(
            torch.from_numpy(flipped.any(axis=1)).view(-1, 1, 1, 1),
            round_toward(clean, stepped),
            found,
        )
        assert torch.equal(found, expected)
        assert flipped.any()


def test_pictures_of_any_size_and_a_batch_of_one(victim: HashVictim) -> None:
    picture = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    picture = (picture * 255).round() / 255
    batch = Batch({"image": picture}, torch.ones(1, 1, dtype=torch.uint8), torch.arange(1))
    moved = Evasion(steps=3).perturb(victim, batch, None, EIGHT).batch.inputs["image"]
    assert moved.shape == picture.shape
    assert not torch.equal(moved, picture)


# What is refused


def test_a_query_that_is_its_own_target_stays_one(
    victim: HashVictim, served: AttackData, data: Dataset
) -> None:
    rows = data.database.rows(torch.arange(3))
    codes = codes_of("collision", victim, served, rows, rows.labels)[1]
    assert far(codes, served, rows.labels).tolist() == [0, 0, 0]


def test_a_target_that_no_picture_has(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    with pytest.raises(DataError, match="shares a label with some database row"):
        codes_of("collision", victim, served, queries, without_labels(targets))


@pytest.mark.parametrize("name", ["collision", "evasion"])
def test_what_is_refused(
    name: str, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    with pytest.raises(UsageError, match="got l0"):
        codes_of(name, victim, served, queries, targets, Budget("l0", 5))
    with pytest.raises(ConfigError, match="steps >= 1"):
        ATTACKS.create(name, {"steps": 0})
    with pytest.raises(ConfigError, match="loss"):
        ATTACKS.create(name, {"loss": "square"})
    with pytest.raises(UsageError, match="fit"):
        Collision().perturb(victim, queries, targets, EIGHT)
    victim.differentiable = False
    with pytest.raises(UsageError, match="needs gradients"):
        codes_of(name, victim, served, queries, targets)


# Real files


def test_png_keeps_what_is_on_the_grid() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 11), generator=torch.Generator().manual_seed(0)) / 255
    assert torch.equal(through_codec(images, None), images)
    between = images.clamp(0, 0.99) + 0.3 / 255
    assert torch.equal(through_codec(between, None), (between * 255).round() / 255)


def test_jpeg_is_what_pillow_writes() -> None:
    images = torch.randint(0, 256, (2, 3, 16, 24), generator=torch.Generator().manual_seed(0))
    found = through_codec(images / 255, 75)
    for image, read in zip(images, found, strict=True):
        buffer = io.BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8))
        picture.save(buffer, "JPEG", quality=75)
        pixels = np.asarray(Image.open(buffer), np.uint8)
        assert np.array_equal((read * 255).round().byte().permute(1, 2, 0).numpy(), pixels)
    rougher = through_codec(images / 255, 20)
    assert (rougher - images / 255).abs().mean() > (found - images / 255).abs().mean()


# The threshold


def test_threshold_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    codes, database = (HashCodes.pack(generator.random((n, 12)) > 0.5) for n in (7, 30))
    groups = [as_groups(generator.integers(0, 4, rows)) for rows in (7, 30)]
    unrelated = groups[0] != groups[1].T
    counts = histograms(codes, database, *groups)
    pairs = [
        int(far) for row, far in zip(unrelated, distances(codes, database), strict=True)
        for far in far[row]
    ]  # fmt: skip
    for rate in (0.01, 0.1, 0.3):
        threshold = operating_threshold(counts, rate)
        share = false_positives(counts, threshold)
        shares = [sum(pair <= bits for pair in pairs) / len(pairs) for bits in range(13)]
        allowed = [bits for bits, found in enumerate(shares) if found <= rate]
        assert threshold == (allowed[-1] if allowed else None)
        if threshold is not None:
            weights = unrelated.sum(axis=1)
            assert (share * weights).sum() / weights.sum() == pytest.approx(shares[threshold])


def test_no_threshold_where_different_pictures_have_one_code() -> None:
    same = HashCodes.pack(np.zeros((4, 8)))
    counts = histograms(same, same, *[as_groups(range(4))] * 2)
    assert operating_threshold(counts, 0.01) is None
    assert np.isnan(false_positives(counts, None)).all()


def test_only_sets_whose_labels_name_pictures_have_a_threshold() -> None:
    assert names_pictures(torch.eye(3))
    assert not names_pictures(torch.tensor([[1, 0], [1, 0]]))
    assert names_pictures(torch.from_numpy(as_groups([4, 0, 2])))
    assert not names_pictures(torch.from_numpy(as_groups([4, 0, 4])))


def test_rates_against_a_loop(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    moved, codes = codes_of("evasion", victim, served, queries, targets)
    clean = victim.encode(queries.inputs["image"], "image")
    own = queries.labels
    columns = operating_columns(victim, moved, clean, codes, served, own.numpy(), None)
    metrics, hits = operating_metrics(columns, served, victim, rated(0.01), targeted=False, seed=0)
    threshold = metrics["threshold_bits"]
    assert threshold is not None
    assert threshold.value is not None
    assert columns["bits_adversarial"].tolist() == far(codes, served, own).tolist()
    assert columns["bits_png"].tolist() == columns["bits_adversarial"].tolist()
    rate = metrics["evasion_rate"]
    assert rate is not None
    evading = far(codes, served, own) > threshold.value
    assert rate.value == pytest.approx(evading.mean())
    assert hits["evasion_rate"].tolist() == evading.tolist()
    practice = metrics["evasion_rate_pdq"]
    assert practice is not None
    assert practice.value == pytest.approx(
        (far(codes, served, own) > 31 * victim.bits // 256).mean()
    )
    aimed, _ = operating_metrics(columns, served, victim, rated(0.01), targeted=True, seed=0)
    collided = aimed["collision_rate"]
    assert collided is not None
    assert collided.value == pytest.approx(1 - rate.value)


# The whole way


@pytest.mark.parametrize("name", ["collision", "evasion"])
def test_a_run_on_a_perceptual_hash(name: str, tmp_path: Path) -> None:
    config = AttackConfig.build(
        {
            "victim": {"name": "dhash"},
            "attack": {"name": name, **QUICK},
            "dataset": {"name": "near_duplicates", **SETTINGS},
            "budget": {"eps": "16/255"},
            "protocol": {"queries": 12, "false_positive_rate": 0.01},
        }
    )
    attack(config, tmp_path / "run")
    record = load_record(tmp_path / "run")
    rate = f"{name}_rate"
    names = [f"{rate}{part}" for part in ("_clean", "", "_png", "_jpeg90", "_jpeg75", "_pdq")]
    found = {key: record.metrics[key] for key in names}
    assert all(metric is not None and metric.value is not None for metric in found.values())
    assert found[rate] == found[f"{rate}_png"]
    assert found[rate].value >= found[f"{rate}_clean"].value  # type: ignore[union-attr, operator]
    share = record.metrics["false_positives_held_out"]
    assert share is not None
    assert 0 <= (share.value or 0) <= 0.01
    assert "Evasion and collision at a threshold" in page([tmp_path / "run"])


def judged(tmp_path: Path, name: str = "evasion", **protocol: Any) -> Record:
    config = AttackConfig.build(
        {
            "victim": {"name": "dhash"},
            "attack": {"name": name, **QUICK},
            "dataset": {"name": "near_duplicates", **SETTINGS},
            "protocol": {"queries": 6, **protocol},
        }
    )
    return attack(config, tmp_path / "run")


def test_the_pictures_themselves_are_attacked_unless_copies_are_asked_for(
    tmp_path: Path, data: Dataset
) -> None:
    record = judged(tmp_path)
    assert record.protocol.start == "originals"
    assert record.value("bits_clean") == record.value("evasion_rate_clean") == 0
    copies = judged(tmp_path / "copies", start="copies")
    assert (copies.value("bits_clean") or 0) > 0
    rows = originals(data)
    assert rows is not None
    labels = data.database.labels
    own = dict.fromkeys(label for (label,) in data.query.labels.tolist())
    assert labels[rows, 0].tolist() == list(own)
    everything = judged(tmp_path / "all", queries=1000)
    assert "fewer_queries" in {flag.name for flag in everything.flags}
    assert "fewer_queries" not in {flag.name for flag in record.flags}
    assert everything.protocol.queries == everything.dataset.queries == len(rows) < len(data.query)


def test_queries_that_are_no_copies_are_attacked_as_they_are(data: Dataset) -> None:
    """Such as a second photograph of a thing: the one in the database is another picture."""
    seen = replace(data, card={})
    victim = VICTIMS.create("dhash")
    assert check_threshold(AttackProtocol(), victim, data) == {"start": "originals"}
    assert check_threshold(AttackProtocol(threshold=9), victim, seen) == {}
    assert started(AttackProtocol(threshold=9), seen) is seen
    with pytest.raises(UsageError, match="altered copies of pictures"):
        check_threshold(AttackProtocol(start="copies"), victim, seen)


@pytest.mark.parametrize(
    ("name", "rate", "other"),
    [("evasion", "evasion_rate", "map_adversarial"), ("collision", "collision_rate", "tmap")],
)
def test_the_threshold_in_use_leads(name: str, rate: str, other: str, tmp_path: Path) -> None:
    record = judged(tmp_path, name, threshold=9)
    assert record.value("threshold_bits") == record.protocol.threshold == 9
    assert record.headline().main == rate
    queries = load_queries(tmp_path / "run", record)
    far = queries.columns["bits_adversarial"]
    assert queries.columns[rate].tolist() == ((far > 9) == (name == "evasion")).tolist()
    reached = [far[queries.rows.tolist().index(example.query)] for example in record.examples]
    assert reached == sorted(reached, reverse=name == "evasion")
    lead = verdict(record).lead.replace("\N{NO-BREAK SPACE}", " ")
    assert lead.startswith(f"At a threshold of 9 bits, {100 * (record.value(rate) or 0):.1f} %")
    details = " ".join(verdict(record).details).replace("\N{NO-BREAK SPACE}", " ")
    still = "do not match their own" if name == "evasion" else "pass for that picture"
    assert re.search(rf"saved as JPEG 75, .* of the attacked pictures still {still}\.", details)
    assert "% of these pictures" in details
    html = page([tmp_path / "run"])
    assert re.search(r"match(es)? at 9 bits, the picture itself", html)
    assert label_of(rate) in html
    assert label_of(other) not in html.partition('<h2 id="words">')[0]


def test_runs_at_a_threshold_are_compared_query_by_query(tmp_path: Path) -> None:
    weak, strong = (
        attack(
            AttackConfig.build(
                {
                    "victim": {"name": "dhash"},
                    "attack": {"name": "evasion", "steps": steps},
                    "dataset": {"name": "near_duplicates", **SETTINGS},
                    "protocol": {"queries": 6, "threshold": 9},
                }
            ),
            tmp_path / str(steps),
        )
        for steps in (1, 15)
    )
    difference = compare_runs(tmp_path / "1", tmp_path / "15").differences["evasion_rate"]
    gained = (strong.value("evasion_rate") or 0) - (weak.value("evasion_rate") or 0)
    assert difference.value == pytest.approx(gained)
    assert "Leaderboard" in page([tmp_path / "1", tmp_path / "15"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": {"threshold": 65}}, "at most 64 bits"),
        ({"protocol": {"threshold": 3}, "dataset": {"name": "digits"}}, "name one picture each"),
        ({"protocol": {"start": "copies"}, "dataset": {"name": "digits"}}, "name one picture"),
    ],
)
def test_a_threshold_needs_pictures_with_names(given: dict[str, Any], message: str) -> None:
    like = {"victim": {"name": "dhash"}, "attack": {"name": "evasion"}, "dataset": {
        "name": "near_duplicates", **SETTINGS}}  # fmt: skip
    with pytest.raises(UsageError, match=message):
        attack(AttackConfig.build({**like, **given}))


def test_false_positives_are_of_clean_queries_not_of_those_that_set_the_threshold(
    victim: HashVictim, served: AttackData
) -> None:
    """Counted one pair at a time, over the whole query split."""
    columns = {
        f"bits_{name}": np.zeros(10) for name in ("clean", "adversarial", "png", "jpeg90", "jpeg75")
    }
    found, _ = operating_metrics(columns, served, victim, rated(0.3), targeted=False, seed=0)
    bits, share = found["threshold_bits"], found["false_positives"]
    assert bits is not None
    assert bits.value is not None
    assert share is not None
    query = served.dataset.query
    far = distances(victim.encode_split(query, "image"), served.codes)
    near = [
        [far[q][row] <= bits.value for row in range(len(far[q]))
         if not bool((query.labels[q] == served.labels[row]).any())]
        for q in range(len(query))
    ]  # fmt: skip
    assert share.value == pytest.approx(np.mean([np.mean(one) for one in near]))
    assert share.n == len(query)
    assert share != found["false_positives_held_out"]


@pytest.mark.parametrize("far", [0.0, 99.0])
def test_a_rate_of_none_or_all_has_an_interval_with_a_width(
    far: float, victim: HashVictim, served: AttackData
) -> None:
    """The bootstrap of equal outcomes said 1.00 [1.00, 1.00] of ten queries."""
    names = ("clean", "adversarial", "png", "jpeg90", "jpeg75")
    columns = {f"bits_{name}": np.full(10, far) for name in names}
    found, _ = operating_metrics(columns, served, victim, rated(0.01), targeted=False, seed=0)
    rate = found["evasion_rate"]
    assert rate is not None
    assert rate.value == (far > 0)
    assert rate.low is not None
    assert rate.high is not None
    assert rate.high - rate.low == pytest.approx(1 - 0.025**0.1)  # the exact one of ten equal ones
