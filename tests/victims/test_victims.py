"""Victims: objectives against slow loops, training by seed, frozen codes, state."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from few_digits import direction_ap
from torch import Tensor, nn

from advhash.codes import HashCodes
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim
from advhash.victims.cross_modal.code_table import FrozenCodes, fuse
from advhash.victims.cross_modal.dlcmh import DLCMH
from advhash.victims.cross_modal.phases import draw_sample
from advhash.victims.image.pairwise import DPSH
from advhash.victims.networks.backbones import build_backbone, cnnf
from advhash.victims.objectives import (
    balance,
    cosine_label_similarity,
    discrete_codes,
    inner_product_gap,
    lifelong_hashing,
    pairwise_likelihood,
    quantisation,
    shared_label,
    sign,
    similarity_gap,
)
from advhash.victims.training.descent import Descent, augment, random_batches, seeded

LATE = (("Food & Drink", "fruit", "drink"), ("Flags",))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    """164 real items in the database, 133 of them to train on; two increments."""
    whole = load_dataset("openmoji", {})
    database = whole.database.take(torch.arange(0, len(whole.database), 9))
    train = torch.arange(len(database))[torch.arange(len(database)) % 5 != 4]
    return replace(
        whole,
        name="tiny",
        database=database,
        train_rows=train,
        validation=whole.validation.take(torch.arange(20)),
        query=whole.query.take(torch.arange(30)),
        increments=LATE,
    )


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load_dataset("digits", {})
    return replace(whole, name="few digits", train_rows=whole.train_rows[:200])


def tiny_dlcmh(data: Dataset, **settings: object) -> DLCMH:
    small = {"epochs": 2, "increment_epochs": 2, "width": 32, "bits": 12}
    arguments = {**DLCMH.data_arguments(data), **small, **settings}
    return DLCMH(**arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(emoji: Dataset) -> DLCMH:
    return tiny_dlcmh(emoji).fit(emoji, seed=3)


def test_trap_23_no_query_takes_part_in_training(emoji: Dataset, digits: Dataset) -> None:
    """The best epoch of published code is the one that does best on the test set."""
    for data, make in ((emoji, tiny_dlcmh), (digits, few_epochs)):
        other = replace(data.query, inputs={k: v.flip(0) for k, v in data.query.inputs.items()})
        other = other.take(torch.arange(len(other) // 2))
        first, second = (
            make(one).fit(one, seed=3).state_dict() for one in (data, replace(data, query=other))
        )
        first.pop("stored.fingerprint", None)  # of the data, queries among them
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def few_epochs(data: Dataset) -> DPSH:
    return DPSH(**{**DPSH.data_arguments(data), "epochs": 2})


def signs_like(*shape: int, generator: torch.Generator) -> Tensor:
    return sign(torch.randn(*shape, generator=generator))


def objective(codes: Tensor, outputs: Tensor, similarity: Tensor, pull: Tensor) -> float:
    """‖K·S − Z Bᵀ‖² + ‖P − B‖², by loops."""
    total = float(((pull - codes) ** 2).sum())
    for i in range(len(outputs)):
        for j in range(len(codes)):
            wanted = codes.shape[1] * similarity[i, j]
            total += float(wanted - outputs[i] @ codes[j]) ** 2
    return total


class TestObjectives:
    def test_sign_has_no_zero(self) -> None:
        assert sign(torch.tensor([-1.0, -0.0, 0.0, 1e-30])).tolist() == [-1, -1, -1, 1]

    def test_label_similarity(self) -> None:
        first = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.uint8)
        second = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.uint8)
        expected = [[1 / 2**0.5, 0, 1], [0, 0, 0]]
        torch.testing.assert_close(
            cosine_label_similarity(first, second), torch.tensor(expected), rtol=1e-6, atol=0
        )
        assert shared_label(first, second).tolist() == [[1, 0, 1], [0, 0, 0]]

    def test_pairwise_likelihood(self, generator: torch.Generator) -> None:
        codes, others = torch.randn(3, 5, generator=generator), torch.randn(4, 5)
        similar = torch.tensor([[1.0, 0, 0, 1]] * 3)
        total = 0.0
        for i in range(3):
            for j in range(4):
                theta = float(codes[i] @ others[j]) / 2
                total -= float(similar[i, j]) * theta - np.log1p(np.exp(theta))
        assert float(pairwise_likelihood(codes, others, similar)) == pytest.approx(total / 12)

    def test_similarity_gap_and_quantisation(self, generator: torch.Generator) -> None:
        codes, others = torch.randn(3, 5, generator=generator), torch.randn(4, 5)
        similarity = torch.rand(3, 4, generator=generator)
        total = 0.0
        for i in range(3):
            for j in range(4):
                cosine = float(codes[i] @ others[j] / codes[i].norm() / others[j].norm())
                total += (max(cosine, 0.0) - float(similarity[i, j])) ** 2
        assert float(similarity_gap(codes, others, similarity)) == pytest.approx(total / 12)
        by_hand = sum(
            (float(b) - float(u)) ** 2
            for b, u in zip(sign(codes).flatten(), codes.flatten(), strict=True)
        )
        assert float(quantisation(codes, sign(codes))) == pytest.approx(by_hand / 15)

    def test_lifelong_hashing(self, generator: torch.Generator) -> None:
        codes = torch.randn(3, 5, generator=generator)
        old = signs_like(4, 5, generator=generator)
        new = signs_like(2, 5, generator=generator)
        own = signs_like(3, 5, generator=generator)
        similarity = torch.rand(3, 6, generator=generator)
        total = 0.0
        for i in range(3):
            for j in range(6):
                code = old[j] if j < 4 else new[j - 4]
                total += float(5 * similarity[i, j] - codes[i] @ code) ** 2
            total += 10 * float(((own[i] - codes[i]) ** 2).sum())
        total += 7 * float(sum(codes[:, k].sum() ** 2 for k in range(5)))
        loss = lifelong_hashing(codes, old, new, similarity, own, pull=10, balance_weight=7)
        assert float(loss) == pytest.approx(total / 18, rel=1e-5)

    @pytest.mark.parametrize("changed", ["old", "new"])
    def test_both_pair_terms_are_present(self, changed: str, generator: torch.Generator) -> None:
        """The released code leaves the term of the unseen codes out."""
        codes = torch.randn(3, 5, generator=generator, requires_grad=True)
        parts = {name: signs_like(4, 5, generator=generator) for name in ("old", "new")}
        similarity = torch.rand(3, 8, generator=generator)

        def gradient() -> Tensor:
            loss = lifelong_hashing(
                codes, parts["old"], parts["new"], similarity, sign(codes), pull=1, balance_weight=1
            )
            return torch.autograd.grad(loss, codes)[0]

        before = gradient()
        parts[changed][1] *= -1
        assert not torch.allclose(before, gradient())

    def test_balance_is_bounded_below(self, generator: torch.Generator) -> None:
        """The linear sum of the released code falls without end."""
        codes = torch.randn(6, 4, generator=generator)
        assert float(balance(codes)) > 0
        assert float(balance(codes - 100)) > float(balance(codes))
        assert float(balance(torch.cat([codes, -codes]))) == pytest.approx(0, abs=1e-9)

    def test_discrete_codes_never_climb(self, generator: torch.Generator) -> None:
        for _ in range(20):
            outputs = torch.randn(9, 6, generator=generator).tanh()
            codes = signs_like(5, 6, generator=generator)
            similarity = torch.rand(9, 5, generator=generator)
            pull = torch.randn(5, 6, generator=generator)
            given = (outputs, similarity, pull)

            for _ in range(3):
                better = discrete_codes(codes, outputs, similarity, pull)
                assert set(better.unique().tolist()) <= {-1.0, 1.0}
                assert objective(better, *given) <= objective(codes, *given) + 1e-3
                codes = better

            last = codes.clone()  # the bit updated last is the best one, all others fixed
            last[:, -1] *= -1
            for row in range(5):
                flipped = codes.clone()
                flipped[row] = last[row]
                assert objective(codes, *given) <= objective(flipped, *given) + 1e-3

    def test_discrete_codes_keep_the_old_bit_on_a_tie(self) -> None:
        codes = torch.tensor([[1.0, -1.0]])
        same = discrete_codes(codes, torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(1, 2))
        assert torch.equal(same, codes)

    def test_gradients(self, generator: torch.Generator) -> None:
        codes = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
        others = signs_like(5, 4, generator=generator).double()
        similarity = torch.rand(3, 5, dtype=torch.float64, generator=generator)
        assert torch.autograd.gradcheck(lambda u: inner_product_gap(u, others, similarity), codes)
        assert torch.autograd.gradcheck(lambda u: similarity_gap(u, others, similarity), codes)
        assert torch.autograd.gradcheck(balance, codes)


class TestBackbones:
    def test_unknown(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
            build_backbone("resnt18", image_size=32)

    def test_image_too_small(self) -> None:
        with pytest.raises(ConfigError, match="takes images of 224 px, got 32"):
            build_backbone("cnnf", image_size=32)
        with pytest.raises(ConfigError, match="cannot take images of 30 px"):
            build_backbone("test_vit", image_size=30)

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: object, **__: object) -> nn.Module:
            raise OSError("no connection\nand a long story")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(UsageError, match="pretrained=false") as raised:
            build_backbone("resnet18", image_size=32, pretrained=True)
        assert "\n" not in str(raised.value)
        with pytest.raises(UsageError, match="pretrained=false"):
            build_backbone("cnnf", image_size=224, pretrained=True)

    def test_normalisation_is_inside(self) -> None:
        backbone = build_backbone("test_resnet", image_size=32).eval()
        images = torch.rand(2, 3, 32, 32)
        expected = backbone.network((images - 0.5) / 0.5)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-5)
        assert backbone(images).shape == (2, backbone.features)

    def test_transformer_is_told_the_size(self) -> None:
        assert build_backbone("test_vit", image_size=32).features == 64

    def test_cnnf(self) -> None:
        assert cnnf().eval()(torch.rand(1, 3, 224, 224)).shape == (1, 4096)


class TestFit:
    def test_seeded_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        with seeded(5):
            first = torch.rand(3)
        with seeded(5):
            assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_random_batches(self, generator: torch.Generator) -> None:
        batches = list(random_batches(9, 4, generator))
        assert [len(batch) for batch in batches] == [4, 4]  # a lone ninth row is left out
        assert len(set(torch.cat(batches).tolist())) == 8
        assert sorted(torch.cat(list(random_batches(6, 4, generator))).tolist()) == list(range(6))

    def test_augment(self, generator: torch.Generator) -> None:
        images = torch.rand(4, 3, 16, 16, generator=generator)
        moved = augment(images, generator)
        assert float(moved.min()) >= 0
        assert float(moved.max()) <= 1
        assert not torch.allclose(moved, images)
        still = augment(images, generator, rotation=0, scale=0, shift=0, contrast=0)
        torch.testing.assert_close(still, images, rtol=0, atol=1e-5)
        white = torch.ones(2, 3, 16, 16)
        torch.testing.assert_close(augment(white, generator, rotation=45), white)

    @pytest.mark.parametrize(
        ("decay", "end"), [("cosine", 0), ("linear", 0), ("exponential", 0.95**4)]
    )
    def test_decay(self, decay: str, end: float) -> None:
        weight = nn.Parameter(torch.ones(1))
        descent = Descent([weight], epochs=4, steps=5, learning_rate=1, decay=decay)  # type: ignore[arg-type]
        for _ in range(20):
            descent.step((weight**2).sum())
        assert descent.optimiser.param_groups[0]["lr"] == pytest.approx(end, abs=1e-9)

    def test_sample(self, generator: torch.Generator) -> None:
        assert sorted(draw_sample(5, 3, 99, 0.0, generator).tolist()) == list(range(8))
        drawn = draw_sample(50, 10, 20, 0.5, generator)
        assert len(set(drawn.tolist())) == 20
        assert int((drawn >= 50).sum()) == 10


def build(name: str, emoji: Dataset, digits: Dataset) -> tuple[HashVictim, Dataset]:
    if name == "dlcmh":
        return tiny_dlcmh(emoji), emoji
    if name == "dcmh":
        given = {**VICTIMS[name].build.data_arguments(emoji), "epochs": 2, "bits": 12}
        return VICTIMS.create(name, given), emoji
    given = {**VICTIMS[name].build.data_arguments(digits), "epochs": 2}
    if name != "neural-code":  # whose bits follow from its network
        given["bits"] = 12
    return VICTIMS.create(name, given), digits


@pytest.mark.parametrize("name", ["csq", "dcmh", "dlcmh", "dph", "dpsh", "hashnet", "neural-code"])
class TestEveryVictim:
    def test_same_seed_same_weights(self, name: str, emoji: Dataset, digits: Dataset) -> None:
        torch.manual_seed(11)
        before = torch.get_rng_state()
        states = []
        for seed in (1, 1, 2):
            torch.set_rng_state(before)
            victim, data = build(name, emoji, digits)
            torch.manual_seed(100 + len(states))  # the global generator must not matter …
            outside = torch.get_rng_state()
            states.append(victim.fit(data, seed=seed).state_dict())
            assert torch.equal(torch.get_rng_state(), outside)  # … and is not touched
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])

    def test_state_round_trip(self, name: str, emoji: Dataset, digits: Dataset) -> None:
        victim, data = build(name, emoji, digits)
        victim.fit(data, seed=1)
        other, _ = build(name, emoji, digits)
        state = {key: value.clone().contiguous() for key, value in victim.state_dict().items()}
        other.load_state_dict(state, strict=True)
        for modality in victim.bounds:
            assert same(
                other.encode_split(data.query, modality), victim.encode_split(data.query, modality)
            )
        for database in victim.directions:
            assert same(other.database_codes(data, database), victim.database_codes(data, database))

    @pytest.mark.parametrize("training", [True, False])
    def test_encode_changes_nothing(
        self, name: str, training: bool, emoji: Dataset, digits: Dataset
    ) -> None:
        victim, data = build(name, emoji, digits)
        victim.train(training)
        state = copy.deepcopy(victim.state_dict())
        batch = data.query.rows(torch.arange(4))
        for modality in victim.bounds:
            assert len(victim.encode(batch.inputs[modality], modality)) == 4
        assert all(module.training is training for module in victim.modules())
        assert all(torch.equal(state[key], value) for key, value in victim.state_dict().items())
        assert all(parameter.grad is None for parameter in victim.parameters())

    def test_gradients_reach_the_inputs(self, name: str, emoji: Dataset, digits: Dataset) -> None:
        victim, data = build(name, emoji, digits)
        victim.eval()
        batch = data.query.rows(torch.arange(4))
        for modality in victim.bounds:
            inputs = batch.inputs[modality].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(victim.relax(inputs, modality).sum(), inputs)
            assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all())

    def test_progress_and_history(self, name: str, emoji: Dataset, digits: Dataset) -> None:
        victim, data = build(name, emoji, digits)
        calls: list[tuple[str, int, int]] = []
        victim.fit(
            data,
            seed=1,
            progress=lambda stage, done, total, **_: calls.append((stage, done, total)),
        )
        phases = ["original", "increment 1", "increment 2"] if name == "dlcmh" else ["train"]
        assert calls == [(phase, epoch, 2) for phase in phases for epoch in (1, 2)]
        assert [(row["phase"], row["epoch"]) for row in victim.history] == [
            (phase, epoch) for phase, epoch, _ in calls
        ]
        assert all({"seconds"} < row.keys() for row in victim.history)

    def test_presets(self, name: str, emoji: Dataset, digits: Dataset) -> None:
        victim, data = build(name, emoji, digits)
        given = type(victim).data_arguments(data)
        paper = VICTIMS[name].settings("victim", {"preset": "paper", **given})
        assert paper["backbone"] == {
            "dcmh": "cnnf",
            "dlcmh": "cnnf",
            "dpsh": "cnnf",
            "csq": "resnet50",
            "neural-code": "mlp",
        }.get(name, "vgg11")
        small = VICTIMS[name].settings("victim", given)
        assert small.get("bits", 32) == 32


def same(first: HashCodes, second: HashCodes) -> bool:
    return first.bits == second.bits and np.array_equal(first.words, second.words)


class TestFrozenCodes:
    def test_a_row_is_written_once(self, generator: torch.Generator) -> None:
        table = FrozenCodes(6, 70, ("image", "text"))
        codes = {name: signs_like(2, 70, generator=generator) for name in ("image", "text")}
        rows = torch.tensor([1, 4])
        table.freeze(rows, codes)
        assert torch.equal(table.signs("text", rows), codes["text"])
        assert table.codes("image").words.shape == (6, 2)
        assert table.frozen.tolist() == [False, True, False, False, True, False]
        with pytest.raises(ValueError, match="frozen ones"):
            table.freeze(torch.tensor([4, 5]), codes)

    def test_ties_of_the_fused_code(self) -> None:
        image = torch.tensor([[1.0, -1, 1, 1, -1]])
        text = torch.tensor([[1.0, -1, -1, -1, 1]])
        relaxed = torch.tensor([[-9.0, 9, 0.1, -0.1, 0]])
        assert fuse(image, text, relaxed).tolist() == [[1, -1, 1, -1, -1]]


class TestDLCMH:
    def test_old_codes_stay_through_two_increments(self, emoji: Dataset) -> None:
        victim = tiny_dlcmh(emoji, increments=LATE)
        kept: list[tuple[Tensor, dict[str, HashCodes]]] = []

        def note(stage: str, done: int, total: int, **_: float) -> None:
            if done == 1 and stage != "original":  # what was frozen before this increment
                codes = {name: victim.stored.codes(name) for name in victim.directions}
                kept.append((victim.stored.frozen.clone(), codes))

        victim.fit(emoji, seed=3, progress=note)
        assert len(kept) == 2
        for frozen, codes in kept:
            assert 0 < int(frozen.sum()) < len(emoji.database)
            rows = frozen.numpy()
            for name, before in codes.items():
                assert same(before[rows], victim.database_codes(emoji, name)[rows])
        assert bool(victim.stored.frozen.all())
        assert bool(victim.seen.all())

    def test_increments_bring_their_own_items_only(self, emoji: Dataset) -> None:
        victim = tiny_dlcmh(emoji, increments=LATE, epochs=1, increment_epochs=1)
        brought: list[Tensor] = []
        victim.fit(
            emoji,
            seed=0,
            progress=lambda stage, *_, **__: brought.append(victim.stored.frozen.clone()),
        )
        after = [*brought, victim.stored.frozen]
        labels = emoji.database.labels.bool().numpy()
        first = labels[:, [name in LATE[0] for name in emoji.classes]].any(axis=1)
        second = labels[:, [name in LATE[1] for name in emoji.classes]].any(axis=1)
        assert not after[0].any()
        assert np.array_equal(after[1].numpy(), ~first & ~second)
        assert np.array_equal(after[2].numpy(), ~second)
        assert bool(after[3].all())

    def test_database_is_learnt_codes_or_network_codes(
        self, emoji: Dataset, trained: DLCMH
    ) -> None:
        """Rows of the last increment that were not trained on carry the codes of the networks."""
        column = list(emoji.classes).index(LATE[1][0])
        late = emoji.database.labels[:, column].bool()
        late[emoji.train_rows] = False
        assert bool(late.any())
        for modality in trained.bounds:
            stored = trained.database_codes(emoji, modality)[late.numpy()]
            assert same(
                stored, trained.encode_split(emoji.database.take(late.nonzero()[:, 0]), modality)
            )

    def test_fused_agrees_with_both(self, emoji: Dataset, trained: DLCMH) -> None:
        image, text, fused = (
            trained.database_codes(emoji, name).unpack() for name in ("image", "text", "fused")
        )
        assert np.array_equal(fused[image == text], image[image == text])

    def test_other_data_are_hashed_anew(self, emoji: Dataset, trained: DLCMH) -> None:
        other = replace(emoji, database=emoji.database.take(torch.arange(20)))
        codes = trained.database_codes(other, "image")
        assert same(codes, trained.encode_split(other.database, "image"))
        with pytest.raises(UsageError, match="other data"):
            trained.increment(other, LATE[0])

    def test_rows_not_brought_yet_are_hashed_anew(self, emoji: Dataset) -> None:
        victim = tiny_dlcmh(emoji)
        victim.stored.belong_to(emoji.fingerprint())
        assert same(
            victim.database_codes(emoji, "text"), victim.encode_split(emoji.database, "text")
        )

    def test_refusals(self, emoji: Dataset, digits: Dataset, trained: DLCMH) -> None:
        with pytest.raises(DataError, match="images and text"):
            DLCMH.data_arguments(digits)
        with pytest.raises(UsageError, match="did you mean 'Flags'"):
            trained.increment(emoji, ("Flag",))
        with pytest.raises(UsageError, match="at least 2 training items"):
            trained.increment(emoji, ("Flags",))
        with pytest.raises(UsageError, match="expected a direction"):
            trained.database_codes(emoji, "sound")

    def test_without_increments_all_is_original(self, emoji: Dataset) -> None:
        victim = tiny_dlcmh(emoji, increments=(), epochs=1).fit(emoji, seed=0)
        assert {row["phase"] for row in victim.history} == {"original"}
        assert bool(victim.stored.frozen.all())


class TestRetrieval:
    """Full training on the embedded data, against the figures in docs/victims/."""

    def test_dpsh_on_digits(self) -> None:
        data = load_dataset("digits", {})
        victim = DPSH().fit(data, seed=0)
        assert direction_ap(victim, data, "image", "image") >= 0.95

    @pytest.mark.slow
    def test_dlcmh_on_openmoji(self) -> None:
        data = load_dataset("openmoji", {})
        victim = DLCMH(**DLCMH.data_arguments(data)).fit(data, seed=0)  # type: ignore[arg-type]
        for query, database in (("image", "text"), ("text", "image"), ("image", "image")):
            assert direction_ap(victim, data, query, database) >= 0.60  # chance: see docs
