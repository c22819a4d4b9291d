"""Each flag goes up exactly when it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.measures.intervals import Metric
from advhash.measures.sanity import (
    Flag,
    check_attack,
    check_codes,
    check_count,
    check_gradient,
    check_indicators,
    check_repeats,
    check_targets,
    check_victim,
)

BALL, FREE = Budget("linf", 8 / 255), Budget("none", float("inf"))
GOOD = np.random.default_rng(0).random((40, 16)) < 0.5


def names(flags: list[Flag]) -> dict[str, str]:
    return {flag.name: flag.level for flag in flags}


def codes(bits: np.ndarray) -> HashCodes:
    return HashCodes.pack(bits)


class TestCodes:
    def test_healthy_codes_raise_nothing(self) -> None:
        assert check_codes(codes(GOOD), codes(GOOD), 10) == []

    def test_codes_that_change_between_encodings_are_random(self) -> None:
        again = GOOD.copy()
        again[[3, 7, 7], [0, 1, 2]] ^= True
        (flag,) = check_codes(codes(GOOD), codes(again), 10)
        assert (flag.name, flag.level) == ("random_codes", "error")
        assert "2 of 40 codes" in flag.message

    @pytest.mark.parametrize(
        ("distinct", "label_sets", "collapsed"),
        [(5, 10, False), (4, 10, True), (20, 1000, False), (19, 1000, True), (1, 2, False)],
    )
    def test_collapse_is_fewer_codes_than_half_the_label_sets_or_rows(
        self, distinct: int, label_sets: int, collapsed: bool
    ) -> None:
        bits = GOOD[:distinct][np.arange(40) % distinct]
        flags = names(check_codes(codes(bits), codes(bits), label_sets))
        assert ("collapsed_codes" in flags) is collapsed

    def test_codes_of_ones_alone_are_told_what_to_do(self) -> None:
        ones = codes(np.ones((40, 16), dtype=bool))
        (flag, *_) = check_codes(ones, ones, 1)
        assert (flag.name, flag.level) == ("collapsed_codes", "error")
        assert "sigmoid" in flag.message

    @pytest.mark.parametrize(
        ("constant", "level"), [(0, None), (1, "info"), (4, "info"), (5, "warning")]
    )
    @pytest.mark.parametrize("value", [0, 1])
    def test_constant_bits_are_counted(self, constant: int, level: str | None, value: int) -> None:
        bits = GOOD.copy()
        bits[:, :constant] = value
        flags = check_codes(codes(bits), codes(bits), 10)
        assert names(flags).get("constant_bits") == level
        if level:
            assert f"{constant} of 16 bits" in flags[-1].message


class TestGradient:
    relaxed = torch.linspace(-1, 1, 12).view(3, 4)

    def test_a_healthy_gradient_raises_nothing(self) -> None:
        assert check_gradient(self.relaxed, torch.full((3, 3, 2, 2), 1e-6)) == []

    def test_a_gradient_that_vanishes_on_one_image_is_flagged(self) -> None:
        gradient = torch.zeros(3, 3, 2, 2)
        gradient[0, 0, 0, 0] = gradient[2, 1, 1, 1] = -1e-3
        (flag,) = check_gradient(self.relaxed, gradient)
        assert (flag.name, flag.level) == ("vanishing_gradient", "warning")
        assert "1 of 3 queries" in flag.message

    @pytest.mark.parametrize(("saturated", "flagged"), [(6, False), (7, True)])
    def test_saturation_of_more_than_half_the_codes_is_flagged(
        self, saturated: int, flagged: bool
    ) -> None:
        relaxed = self.relaxed.flatten().clone()
        relaxed[:saturated] = torch.tensor([9.0, -9.0]).repeat(6)[:saturated]
        flags = check_gradient(relaxed.view(3, 4), torch.ones(3, 3, 2, 2))
        assert names(flags) == ({"saturated_codes": "info"} if flagged else {})


class TestVictim:
    @pytest.mark.parametrize(
        ("reached", "chance", "weak"),
        [
            (0.9, 0.1, False),
            (0.16, 0.1, False),
            (0.14, 0.1, True),
            (0.05, 0.1, True),
            (None, 0.1, False),
            (0.1, None, False),
        ],
    )
    def test_a_victim_near_chance_is_weak(
        self, reached: float | None, chance: float | None, weak: bool
    ) -> None:
        flags = check_victim(Metric(reached), Metric(chance), 0, 10)
        assert names(flags) == ({"weak_victim": "warning"} if weak else {})

    def test_empty_queries_are_counted(self) -> None:
        (flag,) = check_victim(Metric(0.9), Metric(0.1), 3, 10)
        assert (flag.name, flag.level) == ("empty_queries", "info")
        assert "3 of 10" in flag.message


class TestRepeats:
    def test_copies_of_one_picture_are_counted(self) -> None:
        (flag,) = check_repeats(np.array([[0], [0], [1], [2]], np.int32))
        assert (flag.name, flag.level) == ("repeated_queries", "warning")
        assert "4 queries show 3 different things" in flag.message

    def test_different_groups_and_shared_classes_raise_nothing(self) -> None:
        assert check_repeats(np.array([[2], [0], [1]], np.int32)) == []
        assert check_repeats(np.array([[1, 0], [1, 0]], np.uint8)) == []


class TestCount:
    def test_fewer_pictures_than_were_asked_for_are_flagged(self) -> None:
        (flag,) = check_count(100, 30, things="pictures")
        assert (flag.name, flag.level) == ("fewer_queries", "info")
        assert flag.message.startswith("100 pictures were asked for, and the figures are of 30:")
        assert check_count(None, 30) == check_count(30, 30) == []


class TestTargets:
    query = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], np.uint8)

    def test_disjoint_targets_raise_nothing(self) -> None:
        assert check_targets(self.query, 1 - self.query) == []

    def test_shared_and_equal_targets_are_counted(self) -> None:
        targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], np.uint8)
        (flag,) = check_targets(self.query, targets)
        assert (flag.name, flag.level) == ("targets_share_labels", "warning")
        assert "2 of 3 targets" in flag.message
        assert "1 equal" in flag.message


def attacked(unbounded: bool = False, noise: float | None = 0.1, **values: float) -> dict[str, str]:
    """Flags of a targeted attack."""
    metrics = {name: Metric(value) for name, value in values.items()}
    return names(check_attack(metrics, noise, FREE if unbounded else BALL, targeted=True))


def dodged(noise: float | None = 0.8, **values: float) -> dict[str, str]:
    """Flags of an untargeted attack."""
    metrics = {name: Metric(value) for name, value in values.items()}
    return names(check_attack(metrics, noise, BALL, targeted=False))


class TestAttack:
    def test_an_attack_that_works_raises_nothing(self) -> None:
        assert attacked(tmap=0.8, tmap_clean=0.1, tmap_normalised=0.9, overrun=0.0) == {}
        assert dodged(map_adversarial=0.2, map=0.9) == {}

    @pytest.mark.parametrize(
        ("reached", "flagged"), [(0.104, True), (0.106, False), (0.1, True), (0.05, True)]
    )
    def test_a_targeted_attack_without_effect(self, reached: float, flagged: bool) -> None:
        flags = attacked(tmap=reached, tmap_clean=0.1, noise=None)
        assert flags == ({"no_effect": "warning"} if flagged else {})

    @pytest.mark.parametrize(
        ("reached", "flagged"), [(0.896, True), (0.894, False), (0.9, True), (0.95, True)]
    )
    def test_an_untargeted_attack_without_effect(self, reached: float, flagged: bool) -> None:
        flags = dodged(map_adversarial=reached, map=0.9, noise=None)
        assert flags == ({"no_effect": "warning"} if flagged else {})

    @pytest.mark.parametrize(("noise", "flagged"), [(0.4, False), (0.5, True), (0.6, True)])
    def test_a_targeted_attack_no_better_than_noise(self, noise: float, flagged: bool) -> None:
        flags = attacked(tmap=0.5, tmap_clean=0.1, noise=noise)
        assert flags == ({"weaker_than_noise": "warning"} if flagged else {})

    @pytest.mark.parametrize(("noise", "flagged"), [(0.6, False), (0.5, True), (0.4, True)])
    def test_an_untargeted_attack_no_better_than_noise(self, noise: float, flagged: bool) -> None:
        flags = dodged(map_adversarial=0.5, map=0.9, noise=noise)
        assert flags == ({"weaker_than_noise": "warning"} if flagged else {})

    @pytest.mark.parametrize(
        ("unbounded", "covered", "flagged"),
        [(True, 0.49, True), (True, 0.5, False), (False, 0.1, False)],
    )
    def test_an_unbounded_attack_far_from_the_ceiling(
        self, unbounded: bool, covered: float, flagged: bool
    ) -> None:
        flags = attacked(unbounded, tmap=0.5, tmap_clean=0.1, tmap_normalised=covered)
        assert flags == ({"unbounded_misses_ceiling": "warning"} if flagged else {})

    @pytest.mark.parametrize(
        ("budget", "distance"), [(BALL, "linf"), (Budget("l0", 2), "words_changed")]
    )
    def test_queries_that_nothing_changed_are_all_that_is_said(
        self, budget: Budget, distance: str
    ) -> None:
        metrics = {"tmap": Metric(0.1), "tmap_clean": Metric(0.1), distance: Metric(0.0)}
        (flag,) = check_attack(metrics, 0.1, budget, targeted=True)
        assert flag.name == "nothing_changed"

    def test_an_attack_on_words_without_gradients_is_held_against_random_words(self) -> None:
        metrics = {"tmap": Metric(0.5), "tmap_clean": Metric(0.1), "words_changed": Metric(1.0)}
        (flag,) = check_attack(metrics, 0.6, Budget("l0", 2), targeted=True, gradients=False)
        assert flag.message.startswith("Random words")
        assert "gradient" not in flag.message

    @pytest.mark.parametrize(("overrun", "flagged"), [(0.0, False), (0.01, True)])
    def test_trap_2_a_method_that_had_to_be_projected(self, overrun: float, flagged: bool) -> None:
        """Methods published without a bound are compared with 8/255 all over the field."""
        flags = attacked(tmap=0.8, tmap_clean=0.1, overrun=overrun)
        assert flags == ({"projected": "warning"} if flagged else {})

    @pytest.mark.parametrize(("low", "flagged"), [(-0.001, True), (0.0, True), (0.001, False)])
    @pytest.mark.parametrize("targeted", [True, False])
    def test_a_change_whose_interval_holds_nothing(
        self, low: float, flagged: bool, targeted: bool
    ) -> None:
        metrics = {"tmap": Metric(0.17), "tmap_clean": Metric(0.12),
                   "map": Metric(0.6), "map_adversarial": Metric(0.55)}  # fmt: skip
        gain = Metric(0.05, low, 0.11, 30)
        flags = check_attack(metrics, None, BALL, targeted, gain)
        assert [flag.name for flag in flags] == (["no_effect"] if flagged else [])
        for flag in flags:
            assert "holds 0" in flag.message
            assert ("-11.0 to" in flag.message) is not targeted  # MAP falls where the attack gains

    def test_a_run_at_a_threshold_is_judged_by_its_rate(self) -> None:
        metrics = {"map": Metric(1.0), "map_adversarial": Metric(0.99),
                   "evasion_rate": Metric(1.0), "evasion_rate_clean": Metric(0.0)}  # fmt: skip
        gain = Metric(1.0, 0.7, 1.0, 9)
        assert check_attack(metrics, 1.0, BALL, False, gain, rate="evasion_rate") == []
        metrics |= {"evasion_rate": Metric(0.1)}
        flags = check_attack(
            metrics, 0.2, BALL, False, Metric(0.1, -0.1, 0.3, 9), rate="evasion_rate"
        )
        assert [flag.name for flag in flags] == ["no_effect", "weaker_than_noise"]
        assert "the evasion rate from 0.0 % to 10.0 %" in flags[0].message

    def test_the_overrun_is_told_in_the_units_of_the_budget(self) -> None:
        (flag,) = check_attack({"overrun": Metric(30 / 255)}, None, BALL, targeted=True)
        assert "L∞ 8/255 by 30.0/255" in flag.message

    @pytest.mark.parametrize("targeted", [True, False])
    def test_figures_that_do_not_exist_raise_nothing(self, targeted: bool) -> None:
        names = ("tmap", "map_adversarial", "tmap_normalised", "overrun")
        assert check_attack(dict.fromkeys(names), 0.1, FREE, targeted) == []
        assert check_attack(dict.fromkeys(names, Metric()), 0.1, FREE, targeted) == []
        assert check_attack({}, None, FREE, targeted) == []


class TestIndicators:
    @pytest.mark.parametrize(
        ("name", "healthy", "failed"),
        [
            ("zero_gradient", 0.0, 0.01),
            ("saturated", 0.5, 0.51),
            ("stalled", 0.1, 0.11),
            ("black_box_lead", -0.2, 0.01),
            ("query_lead", 0.0, 0.01),
        ],
    )
    def test_each_sign_of_failure_has_its_limit(
        self, name: str, healthy: float, failed: float
    ) -> None:
        assert check_indicators({name: healthy}) == []
        assert names(check_indicators({name: failed})) == {name: "warning"}

    def test_the_share_is_told_and_other_notes_raise_nothing(self) -> None:
        (flag,) = check_indicators({"stalled": 0.25, "kept_sdha": 0.9, "queries": 1e4})
        assert "On 25 % of the queries" in flag.message
        assert check_indicators({}) == []
