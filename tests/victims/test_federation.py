"""HashVFL: the wire, its refusals, both ways of running it, class codes, the victim's contract."""

from __future__ import annotations

import math
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_digits import few_digits
from torch import Tensor

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.data.parties import joined, party_names, party_view, whole_shape
from advhash.errors import ConfigError, DataError, MessageError
from advhash.victims.federated import processes
from advhash.victims.federated.class_codes import class_codes, least_distance
from advhash.victims.federated.ends import Party, Server, consistency, laplace
from advhash.victims.federated.hashvfl import HashVFL, straight_through
from advhash.victims.federated.processes import (
    LENGTH,
    Line,
    collect,
    fit_in_processes,
    serve,
    tell,
)
from advhash.victims.federated.wire import (
    HEADER,
    LARGEST,
    Kind,
    Message,
    Transcript,
    check_message,
    pack,
    unpack,
)
from advhash.victims.training.state import TrainingState


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return few_digits(400, 300)


def small(data: Dataset, **settings: Any) -> HashVFL:
    given = {"bits": 16, "epochs": 3, "batch_size": 50, "width": 16, **settings}
    return HashVFL(**{**HashVFL.data_arguments(data), **given})  # type: ignore[arg-type]


def accuracy(victim: HashVFL, data: Dataset) -> float:
    view = party_view(data, victim.parties)
    right = victim.predict_split(view.query) == view.query.labels.argmax(dim=1)
    return right.float().mean().item()


class TestParties:
    @pytest.mark.parametrize("parties", [1, 2, 3, 8])
    def test_strips_make_the_image_again(self, digits: Dataset, parties: int) -> None:
        view = party_view(digits, parties)
        assert view.modalities == party_names(parties)
        for name in ("database", "validation", "query"):
            cut, whole = view.split(name), digits.split(name)  # type: ignore[arg-type]
            assert torch.equal(joined(cut.inputs), whole.inputs["image"])
            assert torch.equal(cut.labels, whole.labels)
        batch = view.query.rows(torch.tensor([3]))
        assert torch.equal(
            joined(batch.inputs), digits.query.rows(torch.tensor([3])).inputs["image"]
        )
        assert whole_shape(view) == whole_shape(digits) == (3, 16, 16)

    def test_a_table_is_cut_by_features(self) -> None:
        data = load_dataset("breast_cancer")
        view = party_view(data, 4)
        widths = [view.query.inputs[name].shape[1] for name in party_names(4)]
        assert widths == [8, 8, 7, 7]
        assert torch.equal(joined(view.query.inputs), data.query.inputs["table"])

    def test_a_view_is_its_own_view(self, digits: Dataset) -> None:
        view = party_view(digits, 2)
        assert party_view(view, 2) is view
        with pytest.raises(ConfigError, match="view of 3 parties, got 2"):
            party_view(view, 3)

    @pytest.mark.parametrize("parties", [0, 17])
    def test_more_parties_than_columns_are_refused(self, digits: Dataset, parties: int) -> None:
        with pytest.raises(ConfigError, match="expected 1 to 16"):
            party_view(digits, parties)

    def test_nothing_to_cut(self, digits: Dataset) -> None:
        split = digits.query.take(torch.arange(2))
        odd = type(split)({"sound": torch.zeros(2, 3)}, split.labels)
        data = Dataset("odd", {}, odd, torch.arange(1), odd, odd, digits.classes)
        with pytest.raises(DataError, match="expected images or a table"):
            party_view(data, 2)


class TestClassCodes:
    @pytest.mark.parametrize(
        ("classes", "bits"), [(2, 4), (7, 16), (10, 4), (10, 16), (10, 32), (10, 64)]
    )
    @pytest.mark.parametrize("seed", [0, 1])
    def test_rows_are_apart_and_columns_balanced(self, classes: int, bits: int, seed: int) -> None:
        least = max(1, bits // 4)
        codes = class_codes(
            classes, bits, min_distance=least, generator=torch.Generator().manual_seed(seed)
        )
        assert set(codes.unique().tolist()) == {-1.0, 1.0}
        assert bool((codes.sum(dim=0).abs() <= 1).all())
        far = [int((codes[i] != codes[j]).sum()) for i in range(classes) for j in range(i)]
        assert min(far) >= least
        assert least_distance(codes) == min(far)

    def test_the_seed_decides(self) -> None:
        drawn = [
            class_codes(10, 16, min_distance=4, generator=torch.Generator().manual_seed(seed))
            for seed in (0, 0, 1)
        ]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    @pytest.mark.parametrize(
        ("classes", "bits", "least"), [(5, 2, 1), (4, 8, 9), (4, 8, 0), (10, 4, 3)]
    )
    def test_what_cannot_be_is_refused(self, classes: int, bits: int, least: int) -> None:
        with pytest.raises(ValueError, match="min_distance"):
            class_codes(classes, bits, min_distance=least, generator=torch.Generator())


class TestMessages:
    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize("shape", [(1, 1), (3, 16), (5, 7)])
    def test_a_message_comes_back(self, kind: Kind, shape: tuple[int, int]) -> None:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        if kind is Kind.CODES:
            values = torch.where(values > 0, 1.0, -1.0)
        message = unpack(pack(Message(kind, 2, 7, values)))
        assert (message.kind, message.party, message.round) == (kind, 2, 7)
        assert torch.equal(message.values, values)

    def test_a_bit_costs_a_bit(self) -> None:
        assert len(pack(Message(Kind.CODES, 0, 0, torch.ones(64, 16)))) == HEADER.size + 128

    @pytest.mark.parametrize("payload", [b"", b"AVFL", b"x" * 64])
    def test_what_is_no_message_is_refused(self, payload: bytes) -> None:
        with pytest.raises(MessageError, match="expected"):
            unpack(payload)

    def test_damaged_messages_are_refused(self) -> None:
        payload = pack(Message(Kind.CODES, 0, 0, torch.ones(3, 3)))
        with pytest.raises(MessageError, match="expected 2 bytes"):
            unpack(payload + b"\0")
        with pytest.raises(MessageError, match="zeros after the last bit"):
            unpack(payload[:-1] + b"\xff")
        huge = HEADER.pack(b"AVFL", Kind.REALS, 0, 0, 2**31, 2**31)
        with pytest.raises(MessageError, match="damaged"):
            unpack(huge)

    def test_gradients_are_not_codes(self) -> None:
        message = Message(Kind.GRADIENTS, 0, 0, torch.ones(2, 3))
        with pytest.raises(MessageError, match="expected codes, got gradients"):
            check_message(message, party=0, round_=0, shape=(2, 3), kind=Kind.CODES)


def ends(data: Dataset, victim: HashVFL, seed: int = 0) -> tuple[list[Party], Server]:
    view = party_view(data, victim.parties)
    victim.begin(seed)
    rounds = victim.rounds(view, seed)
    return victim.party_ends(view, rounds, seed), victim.server_end(view, rounds)


def lines() -> tuple[Line, Line]:
    one, other = socket.socketpair()
    return Line(one), Line(other)


def faults(server: Server, good: bytes) -> dict[str, bytes]:
    """Messages of party 0 that must be refused, by what is wrong."""
    values = unpack(good).values
    odd = values.clone()
    odd[0, 0] = math.nan
    half = values.clone()
    half[1, 2] = 0.5
    huge = values.clone()
    huge[0, 3] = 3e38
    round_ = server.round
    return {
        "shape": pack(Message(Kind.CODES, 0, round_, values[:, :-1])),
        "shape (rows)": pack(Message(Kind.CODES, 0, round_, values[:-1])),
        "NaN": pack(Message(Kind.REALS, 0, round_, odd)),
        "magnitude": pack(Message(Kind.REALS, 0, round_, huge)),
        "a code": pack(Message(Kind.REALS, 0, round_, half)),
        "an old one": pack(Message(Kind.CODES, 0, round_ - 1, values)),
        "one to come": pack(Message(Kind.CODES, 0, round_ + 1, values)),
        "got party 1": pack(Message(Kind.CODES, 1, round_, values)),
        "header": b"hello",
    }


class TestRefusals:
    def test_training_goes_on_after_every_refusal(self, digits: Dataset) -> None:
        """The disturbed training ends with the same weights as one that nobody disturbed."""
        victim, calm = small(digits, epochs=1), small(digits, epochs=1).fit(digits, seed=0)
        parties, server = ends(digits, victim)
        for round_ in range(len(server.rounds)):
            for party in parties:
                good = party.send(round_)
                if party.number == 0 and round_ > 0:
                    for what, bad in faults(server, good).items():
                        with pytest.raises(MessageError, match=what.partition(" (")[0]):
                            server.receive(0, bad)
                        assert 0 in server.missing
                        with pytest.raises(MessageError, match=r"expected codes of parties \[0"):
                            server.answer()
                server.receive(party.number, good)
            answers, _ = server.answer()
            for party, payload in zip(parties, answers, strict=True):
                with pytest.raises(MessageError, match=r"an old one|one to come"):
                    party.receive(round_ + 1, payload)
                party.receive(round_, payload)
        for name, values in victim.state_dict().items():
            assert torch.equal(values, calm.state_dict()[name]), name

    def test_one_message_a_round_and_none_after_the_last(self, digits: Dataset) -> None:
        parties, server = ends(digits, small(digits, epochs=1))
        for round_ in range(len(server.rounds)):
            for party in parties:
                payload = party.send(round_)
                server.receive(party.number, payload)
                flipped = pack(Message(Kind.CODES, party.number, round_, -unpack(payload).values))
                with pytest.raises(MessageError, match="got a second"):
                    server.receive(party.number, flipped)
                assert torch.equal(server._codes[party.number], unpack(payload).values)
            answers, _ = server.answer()
            for party, payload in zip(parties, answers, strict=True):
                party.receive(round_, payload)
        late = pack(Message(Kind.CODES, 0, len(server.rounds), torch.ones(50, 16)))
        with pytest.raises(MessageError, match="after the last of 6 rounds"):
            server.receive(0, late)

    def test_a_party_that_sends_rubbish_and_hangs_up(self, digits: Dataset) -> None:
        _, server = ends(digits, small(digits))
        ours, theirs = lines()
        theirs.send(b"nonsense", 1)
        theirs.close()
        with pytest.raises(MessageError, match="party 0: expected it to listen, but it hung up"):
            collect(server, 0, ours)
        ours.close()

    def test_gradients_are_checked_too(self, digits: Dataset) -> None:
        (party, _), _ = ends(digits, small(digits))
        zeros = torch.zeros(50, 16)
        with pytest.raises(MessageError, match="sent codes first"):
            party.receive(0, pack(Message(Kind.GRADIENTS, 0, 0, zeros)))
        party.send(0)
        before = [values.clone() for values in party.bottom.parameters()]
        for bad in (zeros[:-1], zeros + math.inf, zeros + 2 * LARGEST):
            with pytest.raises(MessageError, match="expected"):
                party.receive(0, pack(Message(Kind.GRADIENTS, 0, 0, bad)))
        assert all(
            torch.equal(a, b) for a, b in zip(before, party.bottom.parameters(), strict=True)
        )

    def test_over_a_pipe_what_is_refused_may_be_sent_again(self, digits: Dataset) -> None:
        (party, _), server = ends(digits, small(digits))
        ours, theirs = lines()
        good = party.send(0)
        replies = []

        def hostile() -> None:
            for payload in (b"nonsense", good):
                theirs.send(payload, 1)
                replies.append(theirs.receive(1, 10))

        sender = threading.Thread(target=hostile)
        sender.start()
        assert collect(server, 0, ours) == good
        sender.join()
        assert replies == [b"-", b"+"]
        for _ in range(3):
            theirs.send(good, 1)
        server.round = 1
        with pytest.raises(MessageError, match="an old one"):
            collect(server, 0, ours)
        with pytest.raises(MessageError, match=r"within 0\.01 s, got none"):
            collect(server, 1, ours, wait_seconds=0.01)
        theirs.close()
        with pytest.raises(MessageError, match="hung up"):
            collect(server, 0, ours)
        ours.close()

    def test_half_a_message_stops_nobody(self, digits: Dataset) -> None:
        """It is told in time; once the rest comes the training ends as an undisturbed one."""
        victim, calm = small(digits, epochs=1), small(digits, epochs=1).fit(digits, seed=0)
        parties, server = ends(digits, victim)
        pairs = [socket.socketpair() for _ in parties]
        ours, theirs = [Line(one) for one, _ in pairs], [Line(other) for _, other in pairs]
        first = parties[0].send(0)
        frame = LENGTH.pack(len(first)) + first
        pairs[0][1].sendall(frame[:30])
        with pytest.raises(
            MessageError, match=r"party 0, round 0: .* within 0\.05 s, got 30 bytes"
        ):
            serve(server, ours, lambda payload: None, wait_seconds=0.05)
        assert server.missing == [0, 1]
        pairs[0][1].sendall(frame[30:])

        def play(party: Party, line: Line) -> None:
            for round_ in range(len(server.rounds)):
                if (party.number, round_) != (0, 0):
                    line.send(party.send(round_), 10)
                assert line.receive(1, 10) == b"+"
                party.receive(round_, line.receive(10_000, 10))

        players = [
            threading.Thread(target=play, args=both) for both in zip(parties, theirs, strict=True)
        ]
        for player in players:
            player.start()
        serve(server, ours, lambda payload: None, wait_seconds=10)
        for player in players:
            player.join()
        for name, values in victim.state_dict().items():
            assert torch.equal(values, calm.state_dict()[name]), name
        for line in (*ours, *theirs):
            line.close()

    def test_who_trickles_bytes_is_given_up_in_time(self, digits: Dataset) -> None:
        """Each byte comes soon after the one before: the time is that of the whole message."""
        (party, _), server = ends(digits, small(digits))
        one, other = socket.socketpair()
        frame = LENGTH.pack(10_000) + party.send(0)
        stop = threading.Event()

        def trickle() -> None:
            for octet in frame:
                if stop.wait(0.005):
                    return
                other.sendall(bytes([octet]))

        sender = threading.Thread(target=trickle)
        server.recipe = replace(server.recipe, bits=10_000)  # whose round may be so long
        sender.start()
        began = time.monotonic()
        with pytest.raises(MessageError, match=r"within 0\.2 s, got \d+ bytes of one"):
            collect(server, 0, Line(one), wait_seconds=0.2)
        assert time.monotonic() - began < 0.4
        stop.set()
        sender.join()
        one.close()
        other.close()

    def test_a_message_is_at_most_as_long_as_its_round(self, digits: Dataset) -> None:
        _, server = ends(digits, small(digits))
        rows, bits = len(server.rounds[0]), server.recipe.bits
        longest = len(pack(Message(Kind.REALS, 0, 0, torch.zeros(rows, bits))))
        one, other = socket.socketpair()
        other.sendall(LENGTH.pack(longest + 1))
        with pytest.raises(MessageError, match=f"{longest} bytes at most, got {longest + 1} bytes"):
            collect(server, 0, Line(one), wait_seconds=0.2)
        one.close()
        other.close()

    def test_who_announces_too_much_or_does_not_listen_is_named(self, digits: Dataset) -> None:
        _, server = ends(digits, small(digits))
        one, other = socket.socketpair()
        other.sendall(LENGTH.pack(2**60))
        with pytest.raises(MessageError, match="bytes at most, got 1152921504606846976"):
            collect(server, 0, Line(one))
        with pytest.raises(MessageError, match=r"party 0: expected it to take an answer"):
            tell(Line(one), 0, bytes(2**24), 0.05)
        one.close()
        other.close()

    def test_noise_that_the_wire_would_refuse_is_refused_at_once(self, digits: Dataset) -> None:
        with pytest.raises(ValueError, match=r"expected epsilon >= 0\.0001 a bit"):
            small(digits, protection="laplace", epsilon=5e-5)
        noise = laplace((200_000,), 2 / 1e-4, torch.Generator().manual_seed(0))
        assert noise.abs().max() < 2 / 1e-4 * -math.log(1e-7) + 1 < LARGEST  # at its largest


class TestBothWays:
    def test_separate_processes_give_the_same_weights_and_transcript(self, digits: Dataset) -> None:
        settings: dict[str, Any] = {"protection": "laplace", "epsilon": 4.0}  # noise must agree too
        one, many = Transcript(), Transcript()
        here = small(digits, epochs=1, **settings).fit(digits, seed=3, transcript=one)
        apart = fit_in_processes(
            small(digits, epochs=1, **settings), digits, seed=3, transcript=many
        )
        for name, values in here.state_dict().items():
            assert torch.equal(values, apart.state_dict()[name]), name
        assert list(one.payloads()) == list(many.payloads())

    def test_a_party_that_stores_no_model_is_named(
        self, digits: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "serve", lambda *_, **__: None)
        with pytest.raises(MessageError, match=r"party 0: expected it to store its model"):
            fit_in_processes(small(digits), digits, seed=0, wait_seconds=0.5)

    def test_the_transcript_holds_codes_and_gradients_only(
        self, digits: Dataset, tmp_path: Path
    ) -> None:
        transcript = Transcript(in_memory=1000)  # spills into a file
        victim = small(digits, epochs=2).fit(digits, seed=0, transcript=transcript)
        kinds = [message.kind for message in transcript]
        rounds = 2 * 6
        assert kinds == [Kind.CODES, Kind.CODES, Kind.GRADIENTS, Kind.GRADIENTS] * rounds
        bits, rows = victim.bits, 300 * 2
        assert transcript.size == sum(
            HEADER.size * 4 * rounds + 2 * rows * bits // 8 + 2 * rows * bits * 4 for _ in [0]
        )
        transcript.save(tmp_path / "t")
        again = Transcript.load(tmp_path / "t")
        assert list(again.payloads()) == list(transcript.payloads())
        assert (again.count, again.size) == (transcript.count, transcript.size)
        (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-3])
        with pytest.raises(MessageError, match="expected"):
            Transcript.load(tmp_path / "t")
        with pytest.raises(MessageError, match="no such file"):
            Transcript.load(tmp_path / "none")
        transcript.close()
        again.close()

    def test_same_seed_same_weights(self, digits: Dataset) -> None:
        one, two, other = (small(digits, epochs=1).fit(digits, seed=s) for s in (0, 0, 1))
        assert torch.equal(one.top[0].weight, two.top[0].weight)
        assert not torch.equal(one.top[0].weight, other.top[0].weight)
        assert not torch.equal(one.class_codes, other.class_codes)


def slow_consistency(codes: list[Tensor], own: Tensor) -> float:
    """mean over parties and rows of 1 − cos, pair by pair."""
    total = 0.0
    for code in codes:
        for one, other in zip(code, own, strict=True):
            total += 1 - float(one @ other / (one.norm() * other.norm()))
    return total / (len(codes) * len(own))


class TestFormulas:
    def test_consistency_is_one_minus_the_mean_cosine(self) -> None:
        signs = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)).sign()
        codes, own = list(signs[:2]), signs[2]
        assert consistency(codes, own).item() == pytest.approx(
            slow_consistency(codes, own), abs=1e-6
        )

    def test_the_estimator_is_the_sign_forward_and_the_identity_backward(self) -> None:
        real = torch.tensor([[-3.0, 0.0, 0.2]], requires_grad=True)
        code = straight_through(real)
        assert code.tolist() == [[-1.0, -1.0, 1.0]]  # a bit is 1 iff its value is > 0
        (code * torch.tensor([[2.0, 5.0, 7.0]])).sum().backward()
        assert real.grad is not None
        assert real.grad.tolist() == [[2.0, 5.0, 7.0]]

    def test_codes_are_exact(self) -> None:
        real = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)) * 3
        assert set(straight_through(real).unique().tolist()) == {-1.0, 1.0}

    def test_the_wire_trains_as_one_network_would(self, digits: Dataset) -> None:
        """The first round against the same loss without a wire: equal gradients of every weight."""
        victim = small(digits)
        view = party_view(digits, 2)
        parties, server = ends(digits, victim)
        rows = server.rounds[0]
        batch = view.train.rows(rows)
        victim.train()
        codes = [straight_through(victim.relax(batch.inputs[n], n)) for n in party_names(2)]
        labels = batch.labels.argmax(dim=1)
        loss = F.cross_entropy(victim.top(torch.cat(codes, dim=1)), labels)
        loss = loss + consistency(codes, victim.class_codes[labels])
        weights = [*victim.top.parameters(), *victim.bottoms.parameters()]
        expected = torch.autograd.grad(loss, weights)
        victim.begin(0)  # running statistics as they were
        parties, server = ends(digits, victim)
        for party in parties:
            server.receive(party.number, party.send(0))
        answers, value = server.answer()
        for party, payload in zip(parties, answers, strict=True):
            party.receive(0, payload)
        assert value == pytest.approx(loss.item(), abs=1e-6)
        for parameter, gradient in zip(
            [*victim.top.parameters(), *victim.bottoms.parameters()], expected, strict=True
        ):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)

    def test_laplace_noise_has_its_scale(self) -> None:
        noise = laplace((200_000,), 2 / 0.5, torch.Generator().manual_seed(0))
        assert bool(noise.isfinite().all())
        assert noise.mean().item() == pytest.approx(0, abs=0.05)
        assert noise.abs().mean().item() == pytest.approx(4, rel=0.02)  # E|x| is the scale
        assert noise.square().mean().item() == pytest.approx(2 * 16, rel=0.05)

    def test_the_budget_composes_over_bits_and_messages(self, digits: Dataset) -> None:
        noisy = small(digits, protection="laplace", epsilon=0.5)
        assert noisy.privacy() == {"epsilon_message": 8, "epsilon_training": 8 * noisy.epochs}
        assert small(digits).privacy() == {}


class TestVictim:
    @pytest.mark.parametrize("settings", [
        {"parties": 2}, {"parties": 3, "bits": 8}, {"protection": "none"},
        {"batch_norm": False, "penalty": 0.1}, {"consistency_weight": 0.0},
        {"balanced_codes": False},
        {"protection": "laplace", "epsilon": 20.0},
    ])  # fmt: skip
    def test_it_learns(self, digits: Dataset, settings: dict[str, Any]) -> None:
        victim = small(digits, epochs=15, **settings).fit(digits, seed=0)
        assert accuracy(victim, digits) > 0.5
        assert [row["epoch"] for row in victim.history] == list(range(1, 16))

    def test_batch_norm_balances_bits_and_its_absence_does_not(self, digits: Dataset) -> None:
        view = party_view(digits, 2)
        worst = {}
        for batch_norm in (True, False):
            victim = small(digits, epochs=15, batch_norm=batch_norm).fit(digits, seed=0)
            labels = view.train.labels.argmax(dim=1)
            wanted = victim.class_codes[labels].mean(dim=0).numpy()
            found = victim.encode_split(view.train, "party0").signs().mean(axis=0)
            worst[batch_norm] = float(np.abs(found - wanted).max())
        assert worst[True] < 0.3
        assert worst[False] > 2 * worst[True]

    def test_codes_lie_near_the_class_codes(self, digits: Dataset) -> None:
        victim = small(digits, epochs=15).fit(digits, seed=0)
        view = party_view(digits, 2)
        codes = torch.from_numpy(victim.encode_split(view.train, "party0").signs())
        nearest = (codes @ victim.class_codes.T).argmax(dim=1)
        assert (nearest == view.train.labels.argmax(dim=1)).float().mean() > 0.6

    def test_the_joint_prediction_needs_every_party(self, digits: Dataset) -> None:
        victim = small(digits, epochs=15).fit(digits, seed=0)
        batch = party_view(digits, 2).query.rows(torch.arange(100))
        sent = victim.sent(batch.inputs)
        assert sent.shape == (100, 2, 16)
        assert torch.equal(victim.decide(sent).argmax(dim=1), victim.predict(batch.inputs))
        swapped = sent.clone()
        swapped[:, 0] = -swapped[:, 0]
        assert not torch.equal(victim.decide(swapped).argmax(dim=1), victim.predict(batch.inputs))

    def test_balanced_loss_finds_the_rare_class(self) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.zeros(600, dtype=torch.int64)
        labels[:30] = 1
        table = torch.randn(600, 4, generator=generator) + labels[:, None] * 1.2
        order = torch.randperm(600, generator=generator)
        data = load_dataset("breast_cancer")
        split = type(data.query)({"table": table[order]}, F.one_hot(labels)[order].to(torch.uint8))
        rare = Dataset("rare", {}, split, torch.arange(600), split, split, ("no", "yes"))
        found = {}
        for balanced in (False, True):
            victim = small(rare, bits=8, epochs=10, balanced_loss=balanced).fit(rare, seed=0)
            predicted = victim.predict_split(party_view(rare, 2).query)
            found[balanced] = (predicted[split.labels[:, 1] == 1] == 1).float().mean().item()
        assert found[True] > found[False]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [({"bits": 3}, "classes"), ({"parties": 17}, "parties <= 16"),
         ({"epsilon": 0.0}, "epsilon"),
         ({"weight_decay": -1.0}, "weight_decay"), ({"penalty": -1.0}, "penalty"),
         ({"consistency_weight": -1.0}, "consistency_weight"),
         ({"batch_size": 1}, "batch_size >= 2"), ({"width": 1}, "width >= 2"),
         ({"min_distance": 16}, "min_distance")],
    )  # fmt: skip
    def test_settings_that_cannot_be_are_refused(
        self, digits: Dataset, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            small(digits, **settings)

    def test_random_class_codes_that_will_not_differ_are_refused(self, digits: Dataset) -> None:
        data = Dataset(
            digits.name, digits.settings, digits.database, digits.train_rows, digits.validation,
            digits.query, tuple(map(str, range(64))),
        )  # fmt: skip
        with pytest.raises(ValueError, match="10000 draws of 64 random codes of 6 bits"):
            small(data, bits=6, balanced_codes=False)


def test_noise_goes_on_where_it_stopped(digits: Dataset) -> None:
    victim = small(digits, protection="laplace")
    (whole, _), server = ends(digits, victim)
    sent = [unpack(whole.send(round_)).values for round_ in range(len(server.rounds))]
    (later, _), _ = ends(digits, victim)  # the same seeds
    later.skip(4)
    for round_, values in list(enumerate(sent))[4:]:
        assert torch.equal(unpack(later.send(round_)).values, values)


def test_a_transcript_is_of_a_whole_training(digits: Dataset, tmp_path: Path) -> None:
    """A state that is there is left alone: the messages before it are lost."""
    victim = small(digits, epochs=2)
    victim.training_state = state = TrainingState(tmp_path / "key")
    state._due = 0.0
    victim.fit(digits, seed=0, transcript=(transcript := Transcript()))
    assert transcript.count == 2 * 6 * 4
    assert not list(tmp_path.iterdir())
    state._due = 0.0
    victim.fit(digits, seed=0)
    assert list(tmp_path.iterdir())  # without a transcript it is kept
    transcript.close()
