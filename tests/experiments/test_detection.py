"""Detectors: figures against scikit-learn, distances against loops, adaptive and moved slices."""

from __future__ import annotations

import json
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_digits import few_digits
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.targeted import DHTA, P2P
from advhash.attacks.prosgan.prosgan import ProSGAN
from advhash.budget import Budget
from advhash.cli.app import app
from advhash.data import Batch, Dataset
from advhash.data.load import load_dataset
from advhash.data.parties import party_view
from advhash.defenses.detectors.adaptive_federated import AdaptiveSlice
from advhash.defenses.detectors.federated import (
    CodeBetween,
    CodeDistance,
    CodeMax,
    CodeSum,
    any_code_accepted,
    enumerated,
    replay_scores,
)
from advhash.errors import UsageError
from advhash.experiments.attack.run import AttackExperiment, resolve
from advhash.experiments.config import AttackConfig
from advhash.experiments.detect.federation import LEVELS, judged
from advhash.experiments.detect.inputs import KINDS, abnormal_batch
from advhash.experiments.experiment import describe
from advhash.experiments.prepare.victim import train
from advhash.experiments.prepare.worth import joint_metrics
from advhash.measures.intervals import Metric
from advhash.measures.roc import (
    DeployedRule,
    area_under_roc,
    average_precision,
    operating_metrics,
    randomised_detection,
    roc_curve,
    threshold_at,
)
from advhash.registry import ATTACKS, DETECTORS
from advhash.reports.detection import DetectionRecord, detection_chapter, verdicts
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.verdict import percent
from advhash.targets import choose_targets
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.federated.slices import OneSlice, padded
from advhash.victims.training.descent import seeded

runner = CliRunner()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return party_view(few_digits(700, 600, 60), 2)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the run folders of commands without `--out`."""
    monkeypatch.chdir(tmp_path)


def trained(data: Dataset, **settings: Any) -> HashVFL:
    given: dict[str, Any] = {"epochs": 12, "batch_size": 40, "width": 16, "bits": 12, **settings}
    return HashVFL(**{**HashVFL.data_arguments(data), **given}).fit(data, seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def victim(data: Dataset) -> HashVFL:
    return trained(data)


@pytest.fixture(scope="module")
def clean(data: Dataset) -> Batch:
    return data.query.rows(torch.arange(60))


class TestFigures:
    @pytest.mark.parametrize("levels", [3, 8, 10_000])
    def test_against_scikit_learn_with_and_without_ties(self, levels: int) -> None:
        generator = np.random.default_rng(levels)
        clean = generator.integers(0, levels, 120).astype(float)
        abnormal = generator.integers(levels // 4, levels + levels // 4, 80).astype(float)
        labels = np.repeat([1, 0], [80, 120])
        scores = np.concatenate([abnormal, clean])
        area = area_under_roc(abnormal, clean, seed=0)
        assert area.value == pytest.approx(roc_auc_score(labels, scores))
        precision = average_precision(abnormal, clean, seed=0)
        assert precision.value == pytest.approx(average_precision_score(labels, scores))
        for metric in (area, precision):
            assert metric.low is not None
            assert metric.high is not None
            assert metric.value is not None
            assert metric.low < metric.value < metric.high
        fpr, tpr = roc_curve(abnormal, clean)
        assert np.trapezoid(tpr, fpr) == pytest.approx(area.value)

    def test_auroc_against_all_pairs(self) -> None:
        abnormal, clean = [3.0, 1.0, 2.0], [2.0, 0.0]
        pairs = [(a > c) + (a == c) / 2 for a, c in product(abnormal, clean)]
        assert area_under_roc(abnormal, clean, seed=0).value == sum(pairs) / len(pairs)

    def test_intervals_cover_the_truth(self) -> None:
        """95 % intervals of a known AUROC of normal scores, over repetitions."""
        generator = np.random.default_rng(0)
        truth, covered = 0.5 * (1 + math.erf(1 / 2)), 0
        for _ in range(40):
            found = area_under_roc(generator.normal(1, 1, 60), generator.normal(0, 1, 60), seed=1)
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= truth <= found.high
        assert covered >= 34

    def test_pairs_are_drawn_together(self) -> None:
        """Scores that move with their clean row have a narrower interval, and none by itself."""
        generator = np.random.default_rng(0)
        clean = generator.integers(0, 40, 120).astype(float)
        abnormal = clean + generator.integers(0, 3, 120)
        for figure in (area_under_roc, average_precision):
            apart = figure(abnormal, clean, seed=0)
            found = figure(abnormal, clean, seed=0, paired=True)
            assert found.value == apart.value
            assert found.low is not None
            assert found.high is not None
            assert apart.low is not None
            assert apart.high is not None
            assert found.high - found.low < (apart.high - apart.low) / 2
        drawn = [generator.integers(0, 120, 120) for _ in range(400)]
        labels = np.repeat([1, 0], 120)
        areas = [roc_auc_score(labels, np.append(abnormal[d], clean[d])) for d in drawn]
        pair = area_under_roc(abnormal, clean, seed=0, paired=True)
        assert pair.low == pytest.approx(np.quantile(areas, 0.025), abs=0.01)
        assert pair.high == pytest.approx(np.quantile(areas, 0.975), abs=0.01)
        with pytest.raises(ValueError, match="expected pairs of scores"):
            area_under_roc([1.0, 2.0], [1.0], seed=0, paired=True)

    @pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
    def test_the_threshold_keeps_the_rate_and_none_lower_does(self, rate: float) -> None:
        clean = np.random.default_rng(0).integers(0, 9, 150).astype(float)
        threshold = threshold_at(clean, rate)
        assert (clean > threshold).mean() <= rate
        lower = clean[clean < threshold]
        assert not len(lower) or (clean > lower.max()).mean() > rate

    def test_integer_scores_are_not_said_to_reach_what_they_do_not(self) -> None:
        """One clean row in a hundred is flagged: 5 % is printed nowhere, the ROC's 85 % apart."""
        held_out = [0] * 90 + [1] * 9 + [2]
        clean = [0] * 180 + [1] * 18 + [2] * 2
        abnormal = [0] * 5 + [1] * 80 + [2] * 15
        rule, metrics = operating_metrics(held_out, abnormal, clean, seed=0, paired=False)
        assert rule == DeployedRule(threshold=1.0, allowed=0.05, reached=0.01, rows=100)
        assert metrics["false_alarms_held_out"] == Metric(0.01, None, None, 100)
        for name, hits, count in (("false_alarms", 2, 200), ("detected", 15, 100)):
            exact = binomtest(hits, count).proportion_ci(method="exact")
            assert metrics[name] == Metric(hits / count, exact.low, exact.high, count)
        randomised = metrics["detected_randomised"]
        assert randomised is not None
        assert randomised.value == pytest.approx(0.15 + 0.8 * 8 / 18)  # 8 of 18 ties drawn
        assert metrics["strict_detected"] is None  # below 2,000 clean rows
        assert [bool(x) for x in rule.flags([0, 1, 2, math.inf])] == [False, False, True, True]
        assert list(rule.accepts([0, 1, 2, math.inf])) == [True, True, False, False]
        assert not rule.accepts([math.nan])[0]

    @pytest.mark.parametrize("levels", [2, 6, 10_000])
    @pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.37])
    def test_the_randomised_rule_is_the_roc_curve_read_at_the_rate(
        self, levels: int, rate: float
    ) -> None:
        """Against the best of all mixtures of two thresholds with exactly that false-alarm rate."""
        generator = np.random.default_rng(levels)
        clean = generator.integers(0, levels, 90).astype(float)
        abnormal = generator.integers(levels // 3, levels + levels // 3, 70).astype(float)
        found = randomised_detection(abnormal, clean, rate, seed=0)
        steps = [-1.0, *np.unique(np.append(clean, abnormal)), math.inf]
        best = 0.0
        for one, other in pairwise(steps):  # neighbouring thresholds
            low, high = (clean > other).mean(), (clean > one).mean()
            if low <= rate <= high:
                share = 1.0 if high == low else (rate - low) / (high - low)
                hits = (1 - share) * (abnormal > other).mean() + share * (abnormal > one).mean()
                best = max(best, hits)
        assert found.value == pytest.approx(best)
        assert found.n == 70
        assert found.low is not None
        assert found.high is not None
        assert found.low <= best <= found.high

    def test_the_strict_rule_reaches_what_it_says_too(self) -> None:
        generator = np.random.default_rng(0)
        held_out, clean = generator.integers(0, 12, (2, 2000))
        rule, metrics = operating_metrics(held_out, clean + 3, clean, seed=0, paired=True)
        strict = DeployedRule.set_on(held_out, 0.01)
        assert (rule.allowed, strict.reached) == (0.05, 0.0)
        for name, scores in (("false_alarms", clean), ("detected", clean + 3)):
            for prefix, one in (("", rule), ("strict_", strict)):
                metric = metrics[f"{prefix}{name}"]
                assert metric is not None
                assert metric.value == one.flags(scores).mean()

    def test_what_has_no_figure_is_refused(self) -> None:
        for abnormal, normal in (([], [1.0]), ([1.0], []), ([math.nan], [1.0])):
            with pytest.raises(ValueError, match="expected finite scores"):
                area_under_roc(abnormal, normal, seed=0)
        with pytest.raises(ValueError, match="expected clean scores"):
            threshold_at([], 0.05)


def slow_scores(victim: HashVFL, batch: Batch) -> dict[str, list[float]]:
    """The three statistics by counting bits one by one."""
    sent = victim.sent(batch.inputs).detach()
    predicted = victim.decide(sent).argmax(dim=1)
    found: dict[str, list[float]] = {"code-max": [], "code-sum": [], "code-between": []}
    for codes, label in zip(sent, predicted.tolist(), strict=True):
        own = victim.class_codes[label].tolist()
        rows = codes.tolist()
        far = [sum(a != b for a, b in zip(row, own, strict=True)) for row in rows]
        found["code-max"].append(max(far))
        found["code-sum"].append(sum(far))
        found["code-between"].append(
            max(
                sum(a != b for a, b in zip(rows[p], rows[q], strict=True))
                for p in range(len(rows))
                for q in range(p)
            )
        )
    return found


class TestDetectors:
    @pytest.mark.parametrize("parties", [2, 3])
    def test_scores_are_counted_bits(self, data: Dataset, parties: int) -> None:
        whole = load_dataset("digits", {"size": 16})
        victim = trained(whole, parties=parties, epochs=1)
        batch = party_view(whole, parties).query.rows(torch.arange(40))
        for name, expected in slow_scores(victim, batch).items():
            detector = DETECTORS.create(name).fit(victim, data.validation, "party0")
            assert detector.score(victim, batch, "party0").tolist() == expected
            assert detector.highest(victim) == victim.bits * (parties if name == "code-sum" else 1)

    @pytest.mark.parametrize("name", ["code-max", "code-sum", "code-between"])
    def test_mixed_classes_are_told_from_clean_ones(
        self, victim: HashVFL, data: Dataset, clean: Batch, name: str
    ) -> None:
        detector: CodeDistance = DETECTORS.create(name).fit(victim, data.validation, "party0")
        odd = abnormal_batch("mixed", victim, data, clean, seed=0)
        normal, strange = (detector.score(victim, b, "party0").numpy() for b in (clean, odd))
        found = area_under_roc(strange, normal, seed=0)
        assert found.value is not None
        assert found.value > 0.7

    def test_only_federations_that_hash_are_judged(self, data: Dataset) -> None:
        with pytest.raises(UsageError, match="need parties that send codes"):
            CodeMax().fit(trained(data, protection="none", epochs=1), data.validation, "party0")
        alone = HashVFL(shape=(3, 16, 16), classes=10, parties=1)
        with pytest.raises(UsageError, match="at least 2, got 1"):
            CodeBetween().fit(alone, data.validation, "party0")


class TestAbnormal:
    def test_only_party_0_is_replaced_by_mixing_and_noise(
        self, victim: HashVFL, data: Dataset, clean: Batch
    ) -> None:
        for kind in ("mixed", "noise"):
            odd = abnormal_batch(kind, victim, data, clean, seed=0)
            assert torch.equal(odd.inputs["party1"], clean.inputs["party1"])
            moved = (odd.inputs["party0"] != clean.inputs["party0"]).flatten(1).any(dim=1)
            assert bool(moved.all())
            assert 0 <= odd.inputs["party0"].min() <= odd.inputs["party0"].max() <= 1

    def test_mixed_parts_come_from_another_class(
        self, victim: HashVFL, data: Dataset, clean: Batch
    ) -> None:
        odd = abnormal_batch("mixed", victim, data, clean, seed=0)
        for row in range(len(clean)):
            same = (clean.inputs["party0"] == odd.inputs["party0"][row]).flatten(1).all(dim=1)
            assert not torch.equal(data.query.labels[same.nonzero()[0, 0]], clean.labels[row])

    def test_seeds_decide(self, victim: HashVFL, data: Dataset, clean: Batch) -> None:
        for kind in KINDS[:2]:
            one, two, other = (
                abnormal_batch(kind, victim, data, clean, seed=s).inputs["party0"]
                for s in (0, 0, 1)
            )
            assert torch.equal(one, two)
            assert not torch.equal(one, other)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_query_gets_the_same_input_in_any_company(
        self, victim: HashVFL, data: Dataset, clean: Batch, kind: str
    ) -> None:
        rows = torch.tensor([7, 2, 11])
        parts = {name: part[rows] for name, part in clean.inputs.items()}
        few = Batch(parts, clean.labels[rows], clean.index[rows])
        alone = abnormal_batch(kind, victim, data, few, seed=0)
        together = abnormal_batch(kind, victim, data, clean, seed=0)
        for party, part in alone.inputs.items():
            assert torch.equal(part, together.inputs[party][rows])

    def test_shuffled_tables_keep_every_column(self) -> None:
        whole = load_dataset("breast_cancer")
        view = party_view(whole, 2)
        victim = trained(whole, bits=8, epochs=1)
        batch = view.query.rows(torch.arange(100))
        odd = abnormal_batch("ood", victim, view, batch, seed=0)
        for name, values in batch.inputs.items():
            assert torch.equal(values.sort(dim=0).values, odd.inputs[name].sort(dim=0).values)
            assert not torch.equal(values, odd.inputs[name])
        with pytest.raises(UsageError, match="--other"):
            abnormal_batch("ood", victim, view, batch, seed=0, other="digits")


class TestProbe:
    def test_the_probe_against_a_loop(self, data: Dataset) -> None:
        victim = trained(data, bits=5, epochs=1)
        rows = enumerated(victim)
        for number, row in enumerate(rows):
            own = victim.class_codes[number]
            kept, lost = [], []
            for bits in product([-1.0, 1.0], repeat=5):
                code = torch.tensor(bits)
                stays = victim.decide(torch.stack([own, code])[None]).argmax().item() == number
                (kept if stays else lost).append(int((code != own).sum()))
            assert row["share"] == pytest.approx(len(kept) / 32)
            assert row["kept"] == (pytest.approx(np.mean(kept)) if kept else None)
            assert row["lost"] == (pytest.approx(np.mean(lost)) if lost else None)

    def test_larger_or_other_federations_are_refused(self, data: Dataset) -> None:
        with pytest.raises(UsageError, match="bits <= 16, got 2 and 17"):
            enumerated(trained(data, bits=17, epochs=1))


class TestAdaptive:
    def test_it_stays_in_the_contract_and_beats_noise(
        self, victim: HashVFL, data: Dataset, clean: Batch
    ) -> None:
        detector = CodeMax().fit(victim, data.validation, "party0")
        held = data.validation.rows(torch.arange(len(data.validation)))
        threshold = threshold_at(detector.score(victim, held, "party0").numpy(), 0.05)
        labels = clean.labels.argmax(dim=1)

        def won(batch: Batch) -> float:
            wrong = victim.predict(batch.inputs) != labels
            return (wrong & (detector.score(victim, batch, "party0") <= threshold)).float().mean().item()  # fmt: skip  # noqa: E501

        attack = AdaptiveSlice(detector=detector, threshold=threshold, steps=60)
        shares = {}
        for budget in (Budget("linf", 32 / 255), Budget("none", math.inf)):
            moved = attack.perturb(victim, clean, None, budget, "party0", seed=0)
            again = attack.perturb(victim, clean, None, budget, "party0", seed=0)
            assert torch.equal(moved.batch.inputs["party0"], again.batch.inputs["party0"])
            assert torch.equal(moved.batch.inputs["party1"], clean.inputs["party1"])
            assert bool((moved.distance <= budget.eps + 1e-6).all())
            eighths = moved.batch.inputs["party0"] * 255
            assert torch.allclose(eighths, eighths.round(), atol=1e-3)
            shares[str(budget)] = won(moved.batch)
        noise = abnormal_batch("noise", victim, data, clean, seed=0)
        assert shares["unbounded"] > won(noise) + 0.1
        assert shares["unbounded"] >= shares["L∞ 32/255"] >= won(clean)
        bound = any_code_accepted(
            victim, victim.sent(clean.inputs).detach(), labels, detector, threshold
        )
        assert bound.float().mean().item() >= shares["unbounded"]  # every code was tried

    def test_every_wrong_class_is_tried_by_default(
        self, victim: HashVFL, data: Dataset, clean: Batch
    ) -> None:
        """More classes never accept fewer: each is descended to only where those before failed."""
        detector = CodeBetween().fit(victim, data.validation, "party0")
        labels = clean.labels.argmax(dim=1)
        shares = []
        for classes in (1, 9, None):
            attack = AdaptiveSlice(detector=detector, threshold=1.0, classes=classes, steps=40)
            moved = attack.perturb(victim, clean, None, Budget("none", math.inf), "party0", seed=0)
            score, predicted = detector.inspect(victim, victim.sent(moved.batch.inputs))
            shares.append(((predicted != labels) & (score <= 1.0)).float().mean().item())
        assert shares[0] < shares[1] == shares[2]

    def test_with_noise_it_fools_messages_that_it_has_not_seen(
        self, data: Dataset, clean: Batch
    ) -> None:
        noisy = trained(data, protection="laplace", epsilon=4.0, bits=16)
        detector = CodeMax().fit(noisy, data.validation, "party0")
        held, _ = judged(detector, noisy, data.validation, 0)
        attack = AdaptiveSlice(detector=detector, threshold=threshold_at(held, 0.05), steps=40)
        few = clean.to("cpu")
        moved = attack.perturb(noisy, few, None, Budget("none", math.inf), "party0", seed=0)
        labels = few.labels.argmax(dim=1)

        def won(batch: Batch, seed: int) -> float:
            score, predicted = judged(detector, noisy, batch, seed)
            wrong = (predicted != labels).numpy()
            return float((wrong & (score <= attack.threshold)).mean())

        fresh = [won(moved.batch, seed) for seed in range(4)]
        assert len(set(fresh)) > 1  # each message has noise of its own
        assert min(fresh) > max(won(few, seed) for seed in range(4)) + 0.2

    def test_swapped_rows_against_a_loop(self, data: Dataset) -> None:
        victim = trained(data, bits=4, parties=2, epochs=2)
        batch, pool = data.query.rows(torch.arange(10)), data.database.rows(torch.arange(30))
        sent, labels = victim.sent(batch.inputs).detach(), batch.labels.argmax(dim=1)
        known = torch.from_numpy(victim.encode(pool.inputs["party0"], "party0").signs())
        detector = CodeSum()
        found = replay_scores(victim, sent, labels, detector, known)
        for row in range(10):
            best = math.inf
            for code in (*known, sent[row, 0]):
                message = torch.stack([code, sent[row, 1]])[None]
                score, predicted = detector.inspect(victim, message)
                if predicted != labels[row]:
                    best = min(best, score.item())
            assert found[row].item() == best
        for threshold in (0.0, 2.0):
            bound = any_code_accepted(victim, sent, labels, detector, threshold)
            assert bool((bound | (found > threshold)).all())

    def test_the_bound_against_a_loop(self, data: Dataset) -> None:
        victim = trained(data, bits=4, epochs=2)
        batch = data.query.rows(torch.arange(10))
        sent, labels = victim.sent(batch.inputs).detach(), batch.labels.argmax(dim=1)
        for threshold in (0.0, 1.0, 2.0):
            found = any_code_accepted(victim, sent, labels, CodeSum(), threshold)
            for row in range(10):
                passes = False
                for bits in product([-1.0, 1.0], repeat=4):
                    both = torch.stack([torch.tensor(bits), sent[row, 1]])
                    label = int(victim.decide(both[None]).argmax())
                    far = (both != victim.class_codes[label]).sum()
                    passes |= label != labels[row] and bool(far <= threshold)
                assert bool(found[row]) == passes


class TestNoise:
    def test_every_message_has_noise_of_its_own_and_the_seed_decides(
        self, data: Dataset, clean: Batch
    ) -> None:
        noisy = trained(data, protection="laplace", epsilon=2.0, epochs=1)
        one, again = (noisy.sent(clean.inputs) for _ in range(2))
        assert not torch.equal(one, again)
        twice = Batch(
            {name: values[:1].repeat(30, 1, 1, 1) for name, values in clean.inputs.items()},
            clean.labels[:1].repeat(30, 1), clean.index[:1].repeat(30),
        )  # fmt: skip
        scores, predicted = judged(CodeSum(), noisy, twice, seed=0)
        assert len(np.unique(scores)) == 30
        same = judged(CodeSum(), noisy, twice, seed=0)
        assert np.array_equal(scores, same[0])
        assert torch.equal(predicted, same[1])
        assert not np.array_equal(scores, judged(CodeSum(), noisy, twice, seed=1)[0])

    def test_one_message_is_scored_and_decided(self, data: Dataset, clean: Batch) -> None:
        noisy = trained(data, protection="laplace", epsilon=1.0, epochs=1)
        with seeded(5), torch.no_grad():
            sent = noisy.sent(clean.inputs)
        predicted = noisy.decide(sent).argmax(dim=1)
        expected = CodeSum().judge(sent, noisy.class_codes[predicted])
        scores, found = judged(CodeSum(), noisy, clean, seed=5)
        assert torch.equal(found, predicted)
        assert np.array_equal(scores, expected.double().numpy())

    def test_noise_has_no_bound_over_codes(self, data: Dataset, clean: Batch) -> None:
        noisy = trained(data, protection="laplace", epochs=1)
        with pytest.raises(UsageError, match="no noise"):
            any_code_accepted(
                noisy, noisy.sent(clean.inputs), clean.labels.argmax(dim=1), CodeSum(), 9.0
            )


class TestSlices:
    """Attacks on images move one party's strip through the ordinary harness."""

    QUICK: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dhta", {"steps": 30}),
        ("p2p", {"steps": 30}),
        (
            "prosgan",
            {"epochs": 6, "batch_size": 24, "width": 8, "blocks": 2, "prototype_steps": 100},
        ),
    )

    @pytest.mark.parametrize(("name", "settings"), QUICK)
    def test_it_drives_the_code_and_the_joint_prediction(
        self, victim: HashVFL, data: Dataset, clean: Batch, name: str, settings: dict[str, Any]
    ) -> None:
        attack = ATTACKS.create(name, settings)
        assert isinstance(attack, DHTA | P2P | ProSGAN)
        seen = AttackData(data, victim.database_codes(data, "party0"), "party0", "party0")
        budget = Budget("linf", 64 / 255)
        attack.fit(*attack.outlook(victim, seen), budget, seed=0)
        targets = torch.from_numpy(
            choose_targets("disjoint", clean.labels.numpy(), seen.labels.numpy(), seed=0)
        )
        moved = attack.perturb(victim, clean, targets, budget, "party0", seed=0)
        after = moved.batch.inputs["party0"]
        assert after.shape == clean.inputs["party0"].shape
        assert torch.equal(moved.batch.inputs["party1"], clean.inputs["party1"])
        assert bool((moved.distance <= 64 / 255 + 1e-6).all())
        assert np.array_equal(moved.codes.words, victim.encode(after, "party0").words)
        aims = victim.class_codes[targets.long().argmax(dim=1)]

        def near(inputs: torch.Tensor) -> float:
            return (torch.from_numpy(victim.encode(inputs, "party0").signs()) * aims).mean().item()

        assert near(after) > near(clean.inputs["party0"]) + 0.3
        found = joint_metrics(victim, clean, after, "party0", targets.numpy(), seed=0)
        before, then = found["joint_accuracy"].value, found["joint_accuracy_adversarial"].value
        assert before is not None
        assert then is not None
        assert then < before - 0.15
        won = found["joint_success"]
        assert (won.value or 0) > 0.1
        exact = binomtest(round(60 * (won.value or 0)), 60).proportion_ci(method="exact")
        assert (won.low, won.high) == (pytest.approx(exact.low), pytest.approx(exact.high))

    def test_a_strip_is_padded_and_cut_again(self, victim: HashVFL, clean: Batch) -> None:
        strip = clean.inputs["party0"]
        square = padded(strip)
        assert square.shape == (60, 3, 16, 16)
        seen = OneSlice(victim, "party0", (16, 8))
        assert torch.equal(seen.cut(square), strip)
        assert torch.equal(seen.relax(square, "image"), victim.relax(strip, "party0"))
        assert seen.bounds == {"image": (0.0, 1.0)}

    def test_tables_are_no_images(self) -> None:
        whole = load_dataset("breast_cancer")
        victim = trained(whole, bits=8, epochs=1)
        batch = party_view(whole, 2).query.rows(torch.arange(3))
        with pytest.raises(UsageError, match="expected a query modality"):
            DHTA().perturb(victim, batch, batch.labels, Budget("linf", 0.1), "party0")


QUICK = ["--set", "dataset.size=16", "--set", "victim.epochs=4", "--set", "victim.width=8", "-q"]


@pytest.mark.usefixtures("elsewhere")
class TestCommand:
    def test_the_document(self, tmp_path: Path) -> None:
        out = tmp_path / "d.json"
        command = ["detect", "--victim", "hashvfl", "--bits", "8", "--queries", "50", "--json"]
        result = runner.invoke(app, [*command, "--out", str(out), *QUICK])
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document == json.loads(out.read_text())
        shown = detection_chapter(out, Pictures()).values["record"]
        assert len(shown.acceptance) == len(document["acceptance"])
        for name in ("auroc", "average_precision", "detected", "accepted_adaptive"):
            assert 0 <= document["metrics"][name]["value"] <= 1
        assert document["metrics"]["strict_detected"] is None  # fewer than 2,000 clean queries
        assert (document["allowed_false_alarms"], document["validation"]) == (0.05, 150)
        assert document["metrics"]["false_alarms_held_out"]["value"] <= 0.05
        assert document["metrics"]["false_alarms"]["n"] == 50
        self.tells_what_was_reached(out, document)
        assert (document["inputs"], document["clean"], document["abnormal"]) == ("mixed", 50, 50)
        assert len(document["probe"]) == 10
        curve, figures = document["acceptance"], document["metrics"]
        levels = [point["threshold"] for point in curve]
        assert levels == sorted({float(int(level)) for level in levels})  # distances of codes
        for name in ("false_alarms", "accepted_adaptive", "accepted_replay"):
            (chosen,) = [p[name] for p in curve if p["threshold"] == document["threshold"]]
            assert chosen == figures[name]
        alarms = [point["false_alarms"]["value"] for point in curve]
        passed = [point["accepted_adaptive"]["value"] for point in curve]
        swapped = [point["accepted_replay"]["value"] for point in curve]
        assert swapped == sorted(swapped)
        bound = figures["accepted_any_code"]["value"]
        assert figures["accepted_clean_errors"]["value"] <= figures["accepted_replay"]["value"]
        assert 0 < figures["accepted_replay"]["value"] <= bound
        assert alarms == sorted(alarms, reverse=True)
        assert passed == sorted(passed)
        assert passed[-1] <= figures["wrong_adaptive"]["value"]

    @staticmethod
    def tells_what_was_reached(file: Path, document: dict[str, Any]) -> None:
        """On the page of the run, and of the same run as version 0.1 wrote it."""
        (sentence,) = verdicts(DetectionRecord.read(file))
        flagged = document["metrics"]["false_alarms"]["value"]
        assert f"and {percent(flagged)} (95" in sentence
        assert f"exactly {percent(0.05)} of them, by a randomised rule" in sentence
        old = dict(document)
        old["false_alarm_rate"] = old.pop("allowed_false_alarms")
        kept = ("auroc", "accepted_adaptive", "false_alarms")
        old["metrics"] = {name: document["metrics"][name] for name in kept}
        old["metrics"]["tpr_at_5fpr"] = document["metrics"]["detected"]
        (before,) = verdicts(DetectionRecord.from_document(old))
        assert before.split(" of clean queries")[0] == sentence.split(" of clean queries")[0]
        assert "randomised" not in before

    def test_the_adaptive_attacker_takes_settings_and_noise_its_budget(self) -> None:
        command = ["detect", "--victim", "hashvfl", "--bits", "8", "--queries", "20", "--json"]
        more = ["--adaptive", "classes=2+steps=3", "--set", "adaptive.weight=1.5"]
        noise = ["--set", "victim.protection=laplace", "--set", "victim.epsilon=4"]
        first, second = (
            runner.invoke(app, [*command, *more, *noise, *QUICK, "--seed", "3"]) for _ in range(2)
        )
        assert first.exit_code == 0, first.stderr
        document, again = json.loads(first.stdout), json.loads(second.stdout)
        assert document["metrics"] == again["metrics"]  # fresh noise, drawn by the run's seed
        given = {"classes": 2, "steps": 3, "learning_rate": 0.03, "weight": 1.5}
        assert document["adaptive"] == given
        assert document["metrics"]["epsilon_message"]["value"] == 4 * 8
        assert document["metrics"]["epsilon_training"]["value"] == 4 * 8 * 4
        assert document["metrics"]["accepted_any_code"] is None
        assert "accepted_replay" not in document["metrics"]  # the noise is not known beforehand
        assert 2 < len(document["acceptance"]) <= LEVELS

    def test_slices_moved_by_an_attack_are_abnormal_inputs(self) -> None:
        command = ["detect", "--victim", "hashvfl", "--method", "dhta", "--eps", "32/255", "--json"]
        more = ["--set", "attack.steps=10", "--queries", "40", "--detector", "code-sum"]
        result = runner.invoke(app, [*command, *more, *QUICK])
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["inputs"] == "dhta"
        assert document["budget"] == "L∞ 32/255"
        assert DetectionRecord.loads(result.stdout).attack is not None  # a page shows it
        settings = json.loads(json.dumps(ATTACKS.settings("dhta", {"steps": 10})))
        assert document["attack"] == {"name": "dhta", "settings": settings}
        found = document["metrics"]
        assert found["success_and_accepted"]["value"] <= found["success"]["value"]

    def test_a_run_replays_with_both_budgets_as_they_were(self) -> None:
        """The attack's own one, and none of the adaptive attacker: neither is the other's."""
        given = ["detect", "--victim", "hashvfl", "--bits", "8", "--queries", "20", "--json", "-q"]
        more = ["--method", "dhta", "--set", "attack.steps=5", "--adaptive", "steps=3"]
        first = runner.invoke(app, [*given, *more, *QUICK, "--out", "first"])
        assert first.exit_code == 0, first.stderr
        again = ["detect", "--config", "first/config.toml", "--json", "-q", "--out", "second"]
        second = runner.invoke(app, again)
        assert second.exit_code == 0, second.stderr
        found, replayed = json.loads(first.stdout), json.loads(second.stdout)
        assert found["budget"] == "L∞ 8/255"
        assert Path("first/report.html").is_file()
        for name in ("metrics", "attack", "adaptive", "acceptance", "roc", "probe", "threshold"):
            assert replayed[name] == found[name]

    def test_an_attack_on_images_moves_party_0_and_says_so(self) -> None:
        """`attack` without --query-modality: what the config of the run, and its record, get."""
        victim = {"name": "hashvfl", "epochs": 1, "width": 8}
        given = {"victim": victim, "attack": {"name": "dhta"}, "dataset": {"size": 16}}
        config = AttackConfig.build(given)
        describe(AttackExperiment(), config)  # nothing is refused before a training
        protocol = resolve(config, train(config)).protocol
        assert (protocol.query_modality, protocol.database) == ("party0", "party0")
        assert 'query_modality = "party0"' in resolve(config, train(config)).to_toml()
        text = {**given, "protocol": {"query_modality": "text"}}
        with pytest.raises(UsageError, match=r"expected a modality .*party0, party1.*'text'"):
            describe(AttackExperiment(), AttackConfig.build(text))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--victim", "dpsh", "--detector", "code-max"], "need parties that send codes"),
            (["--victim", "hashvfl", "--set", "victim.protection=none"], "need parties that send"),
            ([], "expected --victim"),
            (["--victim", "hashvfl", "--detector", "flips"], "or code-max, code-sum"),
            (["--victim", "hashvfl", "--inputs", "odd"], "--inputs: "),
            (["--victim", "hashvfl", "--inputs", "ood", "--method", "p2p"], "expected no --inputs"),
            (["--victim", "hashvfl", "--detector", "code-mx"], "did you mean 'code-max'"),
            (["--victim", "hashvfl", "--other", "digits"], "names the data of --inputs ood"),
            (["--victim", "hashvfl", "--adaptive", "steps=0"], "expected classes, steps >= 1"),
            (["--victim", "hashvfl", "--adaptive", "stepz=3"], "did you mean 'steps'"),
            (["--victim", "hashvfl", "--adaptive", "steps"], "expected"),
            (["--victim", "hashvfl", "--norm", "linf"], "eps"),
            (["--victim", "hashvfl", "--method", "hotflip"], "hotflip attacks text"),
            (["--victim", "hashvfl", "--inputs", "ood", "--other", "adult"], "with images"),
            (["--victim", "hashvfl", "--inputs", "ood", "--other", "digit"], "did you mean"),
            (["--victim", "hashvfl", "--detector", "code-between", "--set", "victim.parties=1"],
             "at least 2, got 1"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused_before_a_training(
        self, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", None)
        quick = ["--set", "dataset.size=16", "--set", "victim.epochs=1", "-q"]
        result = runner.invoke(app, ["detect", *options, *quick])
        assert isinstance(result.exception, UsageError), result.exception
        assert message in str(result.exception)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--method", "dhta"], "a victim of images"),
            (["--inputs", "ood", "--other", "digits"], "fit no bottom model"),
        ],
    )
    def test_tables_are_refused_what_needs_images_before_a_training(
        self, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", None)
        command = ["detect", "--victim", "hashvfl", "--dataset", "breast_cancer", "-q"]
        result = runner.invoke(app, [*command, *options])
        assert isinstance(result.exception, UsageError), result.exception
        assert message in str(result.exception)
