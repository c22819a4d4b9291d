"""The hard bound on a perturbation: projection, distance, the 8-bit grid."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from advhash.budget import Budget, Norm, parse_eps, round_toward
from advhash.errors import ConfigError

EIGHT = 8 / 255
BOUNDS = (0.0, 1.0)
RADII = [1 / 255, 0.00392, 4 / 255, 0.0313, 0.03137, EIGHT, 0.032, 16 / 255, 0.5, 1.0]


def images(count: int, seed: int) -> Tensor:
    """On the 8-bit grid, as stored images are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator).float() / 255


def noise(like: Tensor, scale: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(like.shape, generator=generator)


def levels(image: Tensor) -> Tensor:
    return (image.double() * 255).round()


class TestParseEps:
    @pytest.mark.parametrize(
        ("text", "eps"),
        [
            ("8/255", EIGHT),
            (" 8 / 255 ", EIGHT),
            ("0.03", 0.03),
            ("3e-2", 0.03),
            (0.5, 0.5),
            (3, 3.0),
            ("none", math.inf),
            (" None ", math.inf),
            (math.inf, math.inf),
        ],
    )
    def test_it_reads(self, text: str | float, eps: float) -> None:
        assert parse_eps(text) == eps

    def test_a_fraction_is_exact_to_the_last_bit(self) -> None:
        for numerator in range(1, 256):
            assert parse_eps(f"{numerator}/255") == float(Fraction(numerator, 255))

    @pytest.mark.parametrize("text", ["", "eight", "8/0", "8/", "1e400", "8/255/2", "0x8"])
    def test_it_says_what_it_expected(self, text: str) -> None:
        with pytest.raises(ConfigError, match="expected a number, a fraction such as 8/255") as got:
            parse_eps(text)
        assert repr(text) in str(got.value)

    @pytest.mark.parametrize("text", [0, -1, "0", "-8/255", "0/255", math.nan, "1e-400", -math.inf])
    def test_a_radius_is_positive(self, text: str | float) -> None:
        with pytest.raises(ConfigError, match="expected a positive number"):
            parse_eps(text)


class TestBudget:
    @pytest.mark.parametrize(("eps", "shown"), [(8, "8/255"), (1.5, "1.5/255")])
    def test_eps_in_pixel_units_is_told_apart(self, eps: float, shown: str) -> None:
        with pytest.raises(ConfigError, match=f"write {shown} for pixel units") as got:
            Budget("linf", eps)
        assert "[0,1]" in str(got.value)

    @pytest.mark.parametrize("norm", ["l2", "l0"])
    def test_other_norms_may_exceed_one(self, norm: Norm) -> None:
        assert Budget(norm, 8).eps == 8

    @pytest.mark.parametrize("eps", [0.0, -1.0, math.nan])
    @pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
    def test_a_radius_is_positive(self, norm: Norm, eps: float) -> None:
        with pytest.raises(ConfigError, match="expected a positive number"):
            Budget(norm, eps)

    @pytest.mark.parametrize(
        ("norm", "eps"), [("none", 0.5), ("linf", math.inf), ("l2", math.inf), ("l0", math.inf)]
    )
    def test_no_bound_and_an_infinite_radius_go_together(self, norm: Norm, eps: float) -> None:
        with pytest.raises(ConfigError, match="expected eps=none with norm=none"):
            Budget(norm, eps)

    @pytest.mark.parametrize(
        ("budget", "text"),
        [
            (Budget("linf", EIGHT), "L∞ 8/255"),
            (Budget("linf", 1.0), "L∞ 255/255"),
            (Budget("linf", 0.0313), "L∞ 0.0313"),
            (Budget("l2", 2.5), "L2 2.5"),
            (Budget("l0", 3), "3 words"),
            (Budget("l0", 1), "1 word"),
            (Budget("none", math.inf), "unbounded"),
        ],
    )
    def test_it_is_shown_in_the_units_of_papers(self, budget: Budget, text: str) -> None:
        assert str(budget) == text


class TestDistance:
    clean = torch.zeros(2, 1, 2, 2)
    moved = torch.tensor([[[[0.3, -0.4], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])

    @pytest.mark.parametrize(
        ("norm", "expected"), [("linf", 0.4), ("l2", 0.5), ("l0", 2.0), ("none", 0.4)]
    )
    def test_of_each_image_by_itself(self, norm: Norm, expected: float) -> None:
        budget = Budget(norm, math.inf if norm == "none" else 1.0)
        assert budget.distance(self.clean, self.moved).tolist() == pytest.approx([expected, 0.0])

    def test_trap_10_linf_is_no_matrix_norm(self) -> None:
        """A maximal row sum reports 7.03 for noise of ±8/255 on 224 pixels."""
        generator = torch.Generator().manual_seed(0)
        change = EIGHT * torch.randn((1, 3, 224, 224), generator=generator).sign()
        far = Budget("linf", 1.0).distance(torch.zeros_like(change), change)
        assert far.tolist() == pytest.approx([EIGHT])


class TestProject:
    @pytest.mark.parametrize("eps", RADII)
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0])
    def test_the_result_lies_in_the_ball_and_the_bounds(
        self, norm: Norm, eps: float, scale: float
    ) -> None:
        budget = Budget(norm, eps)
        clean = images(50, 1)
        moved = budget.project(clean, clean + noise(clean, scale, 2), BOUNDS)
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert budget.distance(clean, moved).max() <= eps * (1 + 1e-5) + 1e-7

    @pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
    def test_what_lies_inside_stays(self, norm: Norm) -> None:
        clean = images(4, 1) * 0.5 + 0.25
        moved = clean + noise(clean, 1e-4, 2)
        budget = Budget(norm, {"linf": 0.1, "l2": 0.1, "l0": 192, "none": math.inf}[norm])
        assert torch.allclose(budget.project(clean, moved, BOUNDS), moved, atol=1e-7)

    def test_linf_moves_each_entry_as_little_as_possible(self) -> None:
        clean = torch.full((1, 4), 0.5)
        moved = torch.tensor([[0.9, 0.55, 0.1, 0.45]])
        got = Budget("linf", 0.1).project(clean, moved, BOUNDS)
        assert got.tolist()[0] == pytest.approx([0.6, 0.55, 0.4, 0.45])

    def test_l2_shrinks_along_the_straight_line(self) -> None:
        clean = torch.full((2, 1, 1, 2), 0.5)
        moved = clean + torch.tensor([[[[0.3, 0.4]]], [[[0.03, 0.04]]]])
        got = Budget("l2", 0.1).project(clean, moved, BOUNDS) - clean
        assert got.flatten(1).tolist()[0] == pytest.approx([0.06, 0.08])
        assert got.flatten(1).tolist()[1] == pytest.approx([0.03, 0.04])

    @pytest.mark.parametrize(("eps", "kept"), [(2, [0.9, 0.0, -0.8, 0.0]), (2.9, None), (0.5, [])])
    def test_l0_keeps_the_largest_changes(self, eps: float, kept: list[float] | None) -> None:
        clean = torch.zeros(1, 4)
        moved = torch.tensor([[0.9, 0.1, -0.8, 0.2]])
        got = Budget("l0", eps).project(clean, moved, (-1.0, 1.0))
        expected = [0.9, 0.0, -0.8, 0.0] if kept is None else kept or [0.0] * 4
        assert got.tolist()[0] == pytest.approx(expected)
        assert Budget("l0", eps).distance(clean, got).item() <= eps

    def test_no_bound_still_has_the_range_of_the_values(self) -> None:
        """Trap 17: a published attack never clips, and its uint8 wraps."""
        moved = torch.tensor([[-3.0, 0.5, 7.0]])
        got = Budget("none", math.inf).project(torch.zeros(1, 3), moved, BOUNDS)
        assert got.tolist() == [[0.0, 0.5, 1.0]]

    @pytest.mark.parametrize("norm", ["linf", "l2", "l0"])
    def test_no_change_gives_no_nan(self, norm: Norm) -> None:
        clean = images(2, 0)
        assert torch.equal(Budget(norm, 1.0).project(clean, clean, BOUNDS), clean)

    @pytest.mark.parametrize("norm", ["linf", "l2", "l0", "none"])
    def test_neither_argument_is_changed(self, norm: Norm) -> None:
        clean = images(2, 0)
        moved = clean + noise(clean, 1.0, 1)
        before = clean.clone(), moved.clone()
        Budget(norm, math.inf if norm == "none" else 0.1).project(clean, moved, BOUNDS)
        assert torch.equal(clean, before[0])
        assert torch.equal(moved, before[1])


class TestRoundToward:
    @pytest.mark.parametrize("eps", RADII)
    def test_it_never_leaves_the_linf_ball(self, eps: float) -> None:
        """Even where the radius lies a hair below a whole step, as 0.03137 below 8/255."""
        budget = Budget("linf", eps)
        for seed in range(10):
            clean = images(50, seed)
            for scale in (0.01, 0.1, 3.0):
                moved = budget.project(clean, clean + noise(clean, scale, seed), BOUNDS)
                steps = (levels(round_toward(clean, moved)) - levels(clean)).abs()
                assert steps.max() <= eps * 255 + 1e-4

    @pytest.mark.parametrize("eps", [0.05, 0.3, 1.0, 3.0])
    def test_it_never_leaves_the_l2_ball(self, eps: float) -> None:
        budget = Budget("l2", eps)
        for seed in range(10):
            clean = images(50, seed)
            moved = budget.project(clean, clean + noise(clean, 1.0, seed), BOUNDS)
            rounded = round_toward(clean, moved)
            assert budget.distance(clean.double(), rounded.double()).max() <= eps + 1e-6

    def test_each_pixel_moves_toward_the_clean_one_and_by_less_than_a_step(self) -> None:
        clean = images(200, 3)
        moved = (clean + noise(clean, 0.1, 4)).clamp(*BOUNDS)
        change = (moved.double() - clean.double()) * 255
        kept = levels(round_toward(clean, moved)) - levels(clean)
        assert (kept.abs() <= change.abs() + 1e-4).all()
        assert (kept.abs() > change.abs() - 1).all()
        assert (kept * change >= 0).all()

    def test_the_result_is_on_the_grid_to_the_last_bit(self) -> None:
        clean = images(200, 5)
        rounded = round_toward(clean, (clean + noise(clean, 0.1, 6)).clamp(*BOUNDS))
        stored = (rounded * 255).round().to(torch.uint8)
        assert torch.equal(stored.float() / 255, rounded)

    def test_a_whole_step_is_kept_from_every_pixel_value(self) -> None:
        """8.0000001 and 7.9999999 steps are both 8, for all 256 values and 255 radii."""
        clean = (torch.arange(256).float() / 255).repeat(255, 1)
        for sign in (1, -1):
            for radius in (
                torch.arange(1, 256).float() / 255,
                torch.tensor([float(Fraction(step, 255)) for step in range(1, 256)]),
            ):
                moved = (clean + sign * radius[:, None]).clamp(*BOUNDS)
                wanted = (levels(clean) + sign * torch.arange(1, 256)[:, None]).clamp(0, 255)
                assert torch.equal(levels(round_toward(clean, moved)), wanted)

    def test_rounding_twice_changes_nothing(self) -> None:
        clean = images(50, 7)
        once = round_toward(clean, (clean + noise(clean, 0.1, 8)).clamp(*BOUNDS))
        assert torch.equal(round_toward(clean, once), once)

    def test_an_unchanged_image_stays_equal_to_the_last_bit(self) -> None:
        clean = torch.arange(256).float()[None] / 255
        assert torch.equal(round_toward(clean, clean), clean)

    def test_a_change_below_one_step_vanishes(self) -> None:
        clean = torch.full((1, 2), 100 / 255)
        moved = clean + torch.tensor([[0.99, -0.99]]) / 255
        assert torch.equal(round_toward(clean, moved), clean)
