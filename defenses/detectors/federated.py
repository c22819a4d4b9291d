"""Detectors of abnormal inputs in a federation, by distances between codes and class codes.

Whatever party p sends, an honest code lies near the code o_ŷ of the class ŷ that the server
predicts from all codes: D_p = Ham(h_p, o_ŷ). HashVFL (Qiu et al., 2024) says that abnormal inputs
can be detected so; its code has neither a detector nor a threshold.
"""

from __future__ import annotations

from itertools import combinations
from typing import Self

import torch
from torch import Tensor

from advhash.data.dataset import Batch, Modality, Split
from advhash.defenses.base import Detector
from advhash.errors import UsageError
from advhash.registry import DETECTORS
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL

PROBE_BITS = 16  # 2^16 codes are tried


class CodeDistance(Detector):
    """A distance of all parties' codes from the predicted class code; nothing is learnt.

    Any modality scores alike: the codes of all parties are looked at.
    """

    def fit(self, victim: HashVictim, clean: Split, modality: Modality) -> Self:
        """Check that codes are sent. Raises UsageError: no federation, or it does not hash."""
        self.of(victim)
        return self

    @staticmethod
    def of(victim: HashVictim) -> HashVFL:
        """The victim. Raises UsageError: no federation, or one that does not hash."""
        if not isinstance(victim, HashVFL) or not victim.binary:
            raise UsageError(
                "code distances need parties that send codes: expected --victim hashvfl with "
                "victim.protection hash or laplace"
            )
        return victim

    def highest(self, victim: HashVictim) -> float | None:
        """All bits of a code; None where codes get noise."""
        own = self.of(victim)
        return float(own.bits) if own.protection == "hash" else None

    def score(self, victim: HashVictim, batch: Batch, modality: Modality) -> Tensor:
        """(B,) float32 on the CPU: bits, or a sum of them."""
        with torch.no_grad():
            return self.inspect(victim, self.of(victim).sent(batch.inputs))[0].cpu()

    def inspect(self, victim: HashVictim, sent: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) scores and (B,) predicted classes of (B,P,K), one and the same message."""
        own = self.of(victim)
        predicted = own.decide(sent).argmax(dim=1)
        return self.judge(sent, own.class_codes[predicted]), predicted

    def judge(self, sent: Tensor, aims: Tensor) -> Tensor:
        """(B,) of (B,P,K) what was sent against (B,K) class codes; differentiable in `sent`."""
        raise NotImplementedError


def distances(sent: Tensor, aims: Tensor) -> Tensor:
    """(B,P) D_p: Hamming distance of each party's code to the class code, (K − ⟨h_p, o⟩)/2."""
    return (sent.shape[2] - (sent * aims[:, None]).sum(dim=2)) / 2


@DETECTORS.register("code-max", source="after Qiu et al., IEEE TIFS 2024")
class CodeMax(CodeDistance):
    """max_p Ham(h_p, o_ŷ): the party farthest from the code of the predicted class."""

    def __init__(self) -> None:
        pass

    def judge(self, sent: Tensor, aims: Tensor) -> Tensor:
        return distances(sent, aims).amax(dim=1)


@DETECTORS.register("code-sum", source="after Qiu et al., IEEE TIFS 2024")
class CodeSum(CodeDistance):
    """Σ_p Ham(h_p, o_ŷ): all parties together."""

    def __init__(self) -> None:
        pass

    def highest(self, victim: HashVictim) -> float | None:
        """All bits of all codes; None where codes get noise."""
        bits = super().highest(victim)
        return None if bits is None else self.of(victim).parties * bits

    def judge(self, sent: Tensor, aims: Tensor) -> Tensor:
        return distances(sent, aims).sum(dim=1)


@DETECTORS.register("code-between", source="after Qiu et al., IEEE TIFS 2024")
class CodeBetween(CodeDistance):
    """max_{p<q} Ham(h_p, h_q): the two parties farthest apart, whatever is predicted."""

    def __init__(self) -> None:
        pass

    @staticmethod
    def of(victim: HashVictim) -> HashVFL:
        """The victim. Raises UsageError: as for all, or a single party."""
        own = CodeDistance.of(victim)
        if own.parties < 2:
            raise UsageError("code-between compares parties: expected at least 2, got 1")
        return own

    def judge(self, sent: Tensor, aims: Tensor) -> Tensor:
        parties, bits = sent.shape[1:]
        pairs = [
            (bits - (sent[:, p] * sent[:, q]).sum(dim=1)) / 2
            for p, q in combinations(range(parties), 2)
        ]
        return torch.stack(pairs, dim=1).amax(dim=1)


def enumerated(victim: HashVFL) -> list[dict[str, float | None]]:
    """The probe of HashVFL's code: of each class i, A sends o_i, and B every one of 2^K codes.

    One row a class: `share`, of B's codes that leave the prediction at i, and the mean
    Ham(B's code, o_i) where it stays (`kept`) and where it does not (`lost`); None where neither
    happens. Raises UsageError: not two parties, more than 16 bits, no codes.
    """
    own = CodeDistance.of(victim)
    if own.parties != 2 or own.bits > PROBE_BITS:
        raise UsageError(
            f"the probe tries all codes of the second of two parties: expected parties=2 and "
            f"bits <= {PROBE_BITS}, got {own.parties} and {own.bits}"
        )
    every = all_codes(own.bits)
    rows: list[dict[str, float | None]] = []
    for number, code in enumerate(own.class_codes.cpu()):
        kept = predictions(own, code, every) == number
        far = (own.bits - every @ code) / 2
        rows.append(
            {
                "share": kept.float().mean().item(),
                "kept": far[kept].mean().item() if bool(kept.any()) else None,
                "lost": far[~kept].mean().item() if bool((~kept).any()) else None,
            }
        )
    return rows


def all_codes(bits: int) -> Tensor:
    """(2^K,K) of ±1.

    >>> all_codes(2).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    numbers = torch.arange(2**bits)
    return ((numbers[:, None] >> torch.arange(bits)) & 1).float() * 2 - 1


def predictions(victim: HashVFL, fixed: Tensor, every: Tensor, *, moving: int = 1) -> Tensor:
    """(M,) classes when one of two parties sends (K,) `fixed` and party `moving` each of (M,K)."""
    both = [fixed.expand_as(every), every]
    sent = torch.stack(both if moving == 1 else both[::-1], dim=1)
    with torch.no_grad():
        parts = [victim.decide(part.to(victim.device)).argmax(dim=1) for part in sent.split(2**15)]
    return torch.cat(parts).cpu()


def any_code_accepted(
    victim: HashVFL, sent: Tensor, labels: Tensor, detector: CodeDistance, threshold: float
) -> Tensor:
    """(N,) whether party 0 could send some code at all that makes the prediction wrong, accepted.

    All 2^K codes are tried for each row of (N,2,K) honest codes: no input need exist that gives
    them, so this bounds every attack on one slice. Raises UsageError as `enumerated` does, and
    where noise is added to codes, which bounds nothing.
    """
    own = CodeDistance.of(victim)
    if own.parties != 2 or own.bits > PROBE_BITS or own.protection != "hash":
        raise UsageError("expected 2 parties, at most 16 bits and no noise")
    every, table = all_codes(own.bits), own.class_codes.cpu()
    known: dict[tuple[float, ...], set[int]] = {}
    result = []
    for codes, label in zip(sent, labels.tolist(), strict=True):
        key = tuple(codes[1].tolist())
        if key not in known:
            predicted = predictions(own, codes[1], every, moving=0)
            pair = torch.stack([every, codes[1].expand_as(every)], dim=1)
            passed = detector.judge(pair, table[predicted]) <= threshold
            known[key] = set(predicted[passed].tolist())
        result.append(bool(known[key] - {label}))
    return torch.tensor(result)


def replay_scores(
    victim: HashVFL, sent: Tensor, labels: Tensor, detector: CodeDistance, pool: Tensor
) -> Tensor:
    """(N,) lowest score at which party 0 makes the prediction wrong by another row's code.

    sent (N,P,K) honest codes, labels (N,), pool (M,K) codes of rows that party 0 holds; its code of
    the row itself is tried too, so that a prediction that is wrong already counts. ∞ where no code
    makes it wrong. Nothing is optimised: a party that only swaps its rows can do this.
    """
    own, known = detector.of(victim), pool.unique(dim=0)
    result = []
    with torch.no_grad():
        for codes, label in zip(sent, labels.tolist(), strict=True):
            tried = torch.cat([known.to(codes), codes[:1]])
            others = codes[1:].expand(len(tried), -1, -1)
            score, predicted = detector.inspect(own, torch.cat([tried[:, None], others], dim=1))
            result.append(score.masked_fill(predicted == label, torch.inf).min())
    return torch.stack(result).cpu()
