"""Checks that flag figures not to be believed. A gradient that vanishes is not robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.measures.intervals import Metric
from advhash.measures.roc import is_off
from advhash.shared_labels import Labels, are_groups, label_numbers, shares


@dataclass(frozen=True)
class Flag:
    """One observation that a reader must know before believing a figure."""

    name: str
    level: Literal["info", "warning", "error"]
    message: str


def gravest_first(flags: Sequence[Flag]) -> list[Flag]:
    """Errors, then warnings, then remarks; flags of one level stay in their order.

    >>> [flag.name for flag in gravest_first([Flag("a", "info", ""), Flag("b", "error", "")])]
    ['b', 'a']
    """
    return sorted(flags, key=lambda flag: ("error", "warning", "info").index(flag.level))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def check_codes(codes: HashCodes, again: HashCodes, label_sets: int) -> list[Flag]:
    """Flags of database codes: random (first rows encoded `again`), collapsed, constant bits."""
    flags = []
    first = codes.words[: len(again)]
    if not np.array_equal(first, again.words):
        changed = int((first != again.words).any(axis=1).sum())
        flags.append(
            Flag(
                "random_codes",
                "error",
                f"{changed} of {len(again)} codes differ between two encodings of the same input: "
                "the victim is random, and attacks need averaging over its randomness; or a code "
                "depends on the rest of the batch, as that of a network in training mode does.",
            )
        )
    distinct = len(np.unique(codes.words, axis=0))
    mean = codes.unpack().mean(axis=0)
    if (mean == 1).all():
        flags.append(
            Flag(
                "collapsed_codes",
                "error",
                "Every bit of every code is 1, as no value is 0 or below: a bit is 1 where its "
                "value is above 0, so of a network that ends in a sigmoid or in a ReLU, use what "
                "comes before it, or subtract 0.5 from a sigmoid.",
            )
        )
    elif distinct < min(label_sets, len(codes)) / 2:
        flags.append(
            Flag(
                "collapsed_codes",
                "warning",
                f"Only {distinct} distinct codes for {label_sets} label sets: the victim has "
                "collapsed, so low attack figures do not mean robustness.",
            )
        )
    constant = int(((mean == 0) | (mean == 1)).sum())
    if constant:
        flags.append(
            Flag(
                "constant_bits",
                "warning" if constant > codes.bits / 4 else "info",
                f"All codes of the database have the same value in {constant} of {codes.bits} "
                "bits.",
            )
        )
    return flags


def check_apart(query: HashCodes, database: HashCodes) -> list[Flag]:
    """Whether the queries are the rows of the database itself, in their order.

    >>> codes = HashCodes.pack(np.eye(3, dtype=np.int64))
    >>> [flag.name for flag in check_apart(codes, codes)], check_apart(codes[:2], codes)
    (['queries_in_database'], [])
    """
    if query.bits != database.bits or not np.array_equal(query.words, database.words):
        return []
    return [
        Flag(
            "queries_in_database",
            "warning",
            "The queries are the rows of the database: every query finds itself, so that the "
            "figures are too high; give queries that the database does not hold.",
        )
    ]


def picture_text(pictures: Mapping[str, Any]) -> str:
    """What size of pictures a model was fed; pictures: as of `Dataset.pictures`.

    >>> stored = {"count": 9, "larger": 9, "smallest": [60, 60], "median": [64, 64]}
    >>> picture_text({"fed": [32, 32], "stored": {**stored, "largest": [90, 64]}})
    'fed at 32×32 pixels, stored at 60×60 to 90×64 (median 64×64), 9 of 9 larger than fed'
    """
    fed, stored = pictures["fed"], pictures["stored"]
    text = "fed each at its own size" if fed is None else f"fed at {_by(fed)} pixels"
    if not stored:
        return text
    span = _by(stored["smallest"])
    if stored["smallest"] != stored["largest"]:
        span += f" to {_by(stored['largest'])} (median {_by(stored['median'])})"
    larger = f", {stored['larger']} of {stored['count']} larger than fed"
    return f"{text}, stored at {span}{larger if stored['larger'] else ''}"


def read_size(pictures: Mapping[str, Any] | None) -> str:
    """At what size pictures were read, in words; pictures: as of `Dataset.pictures`.

    >>> stored = {"smallest": [60, 60], "largest": [90, 64]}
    >>> read_size({"fed": [64, 64], "stored": stored}), read_size({"fed": None, "stored": stored})
    ('read at 64×64 pixels, not as stored', 'each read at its own size')
    """
    if pictures is None:
        return ""
    fed, stored = pictures["fed"], pictures["stored"]
    if fed is None:
        return "each read at its own size"
    elsewhere = stored and not stored["smallest"] == stored["largest"] == fed
    return f"read at {_by(fed)} pixels{', not as stored' if elsewhere else ''}"


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def check_pictures(
    pictures: Mapping[str, Any] | None,
    *,
    largest: int,
    stated: int | None = None,
    trained_here: bool = False,
    any_size: bool = False,
) -> list[Flag]:
    """Whether pictures were made smaller than they are, or of another size than the model states.

    largest: the largest side that readers offer; stated: the side that the model says it wants
    trained_here: on these very pictures; any_size: the hash takes pictures as they are stored
    """
    if pictures is None:
        return []
    fed = pictures["fed"]
    if fed is None:
        return []  # nothing was made smaller
    if stated is not None:
        if fed == [stated, stated]:
            return []  # as it wants them
        repair = (
            f"expected dataset.size={stated}"
            if stated <= largest
            else f"dataset.size goes up to {largest}"
        )
        return [
            Flag(
                "stated_size",
                "warning",
                f"The model states pictures of {stated}×{stated} pixels, and they were "
                f"{picture_text(pictures)}: {repair}.",
            )
        ]
    stored = pictures["stored"]
    if not stored or not stored["larger"]:
        return []
    sides = [max(stored[which]) for which in ("median", "largest")]
    side = min(next((each for each in sides if each > max(fed)), sides[1]), largest)
    if any_size:
        repair = "set dataset.size=stored to judge the files as they are"
    elif max(fed) >= largest:
        repair = f"dataset.size goes up to {largest}"
    elif trained_here:
        repair = "a larger dataset.size feeds the model more of each"
    else:
        repair = (
            f"set dataset.size (e.g. {side}) or let the model state its image_size, unless it was "
            "made for this size"
        )
    return [
        Flag(
            "shrunk_pictures",
            "info" if trained_here else "warning",
            f"Pictures were {picture_text(pictures)}: {repair}.",
        )
    ]


def check_threshold(detector: str, threshold: float | None, highest: float | None) -> list[Flag]:
    """Whether a detector can flag anything: an input is flagged above its threshold.

    highest: the score that no code exceeds; None where nothing bounds it

    >>> [flag.name for flag in check_threshold("code-max", 16, 16)], check_threshold("a", 9, 16)
    (['detector_off'], [])
    """
    if not is_off(threshold, highest):
        return []
    return [
        Flag(
            "detector_off",
            "warning",
            f"The detector {detector} flags scores above {threshold:g}, and no code scores above "
            f"{highest:g}: at the false alarms allowed it is off and can flag nothing.",
        )
    ]


def check_gradient(relaxed: Tensor, gradient: Tensor) -> list[Flag]:
    """Flags of a batch: real codes (B,K), and the gradient of their squares in the input (B, …).

    The input of tokens is their one-hot form (B,L,V).
    """
    flags = []
    size = gradient.flatten(1).abs().amax(dim=1)
    dead = int((size < 1e-12).sum())
    if dead:
        flags.append(
            Flag(
                "vanishing_gradient",
                "warning",
                f"The gradient of the code vanishes on {dead} of {len(size)} queries: gradient "
                "attacks fail there for that reason, not because the victim is robust.",
            )
        )
    saturated = float((torch.tanh(relaxed).abs() > 0.999).float().mean())
    if saturated > 0.5:
        flags.append(
            Flag(
                "saturated_codes",
                "info",
                f"{100 * saturated:.0f} % of the real codes saturate tanh: attacks scale them "
                "down (α).",
            )
        )
    return flags


def check_collapse(defended: float, undefended: float) -> list[Flag]:
    """Whether a defence left less than a quarter of the distinct codes of the database.

    >>> [flag.name for flag in check_collapse(19, 200)], check_collapse(60, 200)
    (['collapsed_codes'], [])
    """
    if defended >= undefended / 4:
        return []
    return [
        Flag(
            "collapsed_codes",
            "warning",
            f"The defended database has {defended:g} distinct codes, the undefended one "
            f"{undefended:g}: robustness, or a certificate, may come from codes that tell nothing "
            "apart.",
        )
    ]


def check_victim(clean_map: Metric, chance: Metric, empty: int, queries: int) -> list[Flag]:
    """Whether the victim retrieves at all, and how many queries have nothing to find."""
    flags = []
    reached, floor = clean_map.value, chance.value
    if reached is not None and floor is not None and reached < floor + 0.05:
        flags.append(
            Flag(
                "weak_victim",
                "warning",
                f"MAP {_percent(reached)} is hardly above chance ({_percent(floor)}): there is "
                "nothing to attack; look at how its codes are made, or train it longer.",
            )
        )
    if empty:
        flags.append(
            Flag("empty_queries", "info", f"No row is relevant to {empty} of {queries} queries.")
        )
    return flags


def check_repeats(query: Labels) -> list[Flag]:
    """Queries of one group, such as altered copies of one picture, are no independent ones.

    query: (N,C) labels of the queries; classes, of which many share one, raise nothing
    """
    distinct = len(np.unique(query, axis=0))
    if not are_groups(query) or distinct == len(query):
        return []
    return [
        Flag(
            "repeated_queries",
            "warning",
            f"The {len(query)} queries show {distinct} different things, such as several altered "
            "copies of one picture: intervals count each query on its own, and are narrower than "
            f"{distinct} independent ones would give.",
        )
    ]


def check_count(
    asked: int | None,
    held: int,
    why: str = "the data hold no more",
    *,
    things: str = "queries",
) -> list[Flag]:
    """Whether a run has as many queries as it asked for; asked: None for all there are.

    things: what the figures are taken of, where they are no queries

    >>> check_count(9, 9), [flag.message for flag in check_count(10, 9)]
    ([], ['10 queries were asked for, and the figures are of 9: the data hold no more.'])
    """
    if asked is None or asked <= held:
        return []
    message = f"{asked:,} {things} were asked for, and the figures are of {held:,}: {why}."
    return [Flag("fewer_queries", "info", message)]


def check_targets(query: Labels, targets: Labels) -> list[Flag]:
    """Targets that share labels with their query make t-MAP look high without any attack."""
    shared = equal = 0
    for own, aim in zip(query, targets, strict=True):
        shared += bool(shares(own[None], aim[None])[0, 0])
        equal += label_numbers(own) == label_numbers(aim)
    if not shared:
        return []
    return [
        Flag(
            "targets_share_labels",
            "warning",
            f"{shared} of {len(query)} targets share a label with their query ({equal} equal it): "
            "read t-MAP only against tmap_clean.",
        )
    ]


def check_attack(
    metrics: Mapping[str, Metric | None],
    noise: float | None,
    budget: Budget,
    targeted: bool,
    gain: Metric | None = None,
    *,
    gradients: bool = True,
    rate: str = "",
) -> list[Flag]:
    """Signs that the attack, not the victim, decided the figure.

    That figure is t-MAP (targeted) or MAP (untargeted), or the `rate` at a threshold.

    noise:     the figure of uniform noise, for texts of random words, under the same budget
    gain:      how much the attack raised t-MAP or the rate, or lowered MAP, paired over the queries
    gradients: whether the attack uses those of the victim
    rate:      "evasion_rate" or "collision_rate", where the run is judged at a threshold

    Where no query changed, this is all that is said.
    """
    flags = []

    def value(name: str) -> float | None:
        metric = metrics.get(name)
        return None if metric is None else metric.value

    moved = value("words_changed") if budget.norm == "l0" else value("linf")
    if moved == 0:
        return [
            Flag(
                "nothing_changed",
                "warning",
                "The attack changed no query: its figures are those of the clean queries and say "
                "nothing about the victim.",
            )
        ]
    label, after, before, sign = (
        (f"the {rate.replace('_', ' ')}", rate, f"{rate}_clean", 1)
        if rate
        else ("t-MAP", "tmap", "tmap_clean", 1)
        if targeted
        else ("MAP", "map_adversarial", "map", -1)
    )
    reached, start = value(after), value(before)
    if reached is not None and start is not None:
        bounds: tuple[float, ...] = ()
        if gain is not None and gain.low is not None and gain.high is not None:
            bounds = (gain.low, gain.high)
        unsure = bool(bounds) and bounds[0] <= 0
        if unsure or sign * (reached - start) <= 0.005:
            held = " only"
            if unsure:
                low, high = sorted(100 * sign * end for end in bounds)
                held = f" (the interval of the change, {low:z.1f} to {high:z.1f} points, holds 0)"
            flags.append(
                Flag(
                    "no_effect",
                    "warning",
                    f"The attack changes {label} from {_percent(start)} to "
                    f"{_percent(reached)}{held}: it failed, which says nothing about stronger "
                    "attacks.",
                )
            )
    whole = bool(rate) and reached == 1  # nothing is left to be stronger by
    if reached is not None and noise is not None and sign * (reached - noise) <= 0 and not whole:
        flags.append(
            Flag(
                "weaker_than_noise",
                "warning",
                f"{'Random words' if budget.norm == 'l0' else 'Uniform noise'} under the same "
                f"budget reached {_percent(noise)}, which is as strong: the attack is broken"
                f"{' or the gradient is masked' if gradients else ' or searches too little'}.",
            )
        )
    covered = value("tmap_normalised")
    if budget.norm == "none" and covered is not None and covered < 0.5:
        flags.append(
            Flag(
                "unbounded_misses_ceiling",
                "warning",
                f"Without a bound the attack covers only {100 * covered:.0f} % of the way to the "
                "ceiling: it is trained too "
                f"little{' or its gradient is masked' if gradients else ''}.",
            )
        )
    over = value("overrun")
    if over:
        shown = f"{over * 255:.1f}/255" if budget.norm == "linf" else f"{over:.3g}"
        flags.append(
            Flag(
                "projected",
                "warning",
                f"The method went beyond the budget {budget} by {shown} on average before the "
                "projection: as published it has no bound, so these figures measure the projected "
                "method.",
            )
        )
    return flags


def check_indicators(indicators: Mapping[str, float], queries: int | None = None) -> list[Flag]:
    """What an attack noted of itself (`Attack.indicators`), where it says that the attack failed.

    zero_gradient, saturated, stalled: shares in [0,1] of `GradientAttack`; unmoved: of the attacks
    of torchattacks; without_edits: of those that exchange words, without_free_words: the part of
    it that no word may leave; black_box_lead and query_lead: of autohash. Others are no signs of
    failure.

    queries: how many the shares are of, where that is known
    """
    flags = []

    def above(name: str, limit: float, message: str) -> None:
        value = indicators.get(name, 0.0)
        if value > limit:
            flags.append(Flag(name, "warning", message.format(100 * value)))

    above(
        "zero_gradient",
        0,
        "The first gradient is zero on {:.0f} % of the queries: the descent goes nowhere there, "
        "which says nothing about the victim; attack it without gradients (blend) or from a random "
        "start.",
    )
    above(
        "unmoved",
        0.1,
        "{:.0f} % of the queries came back as they were: the attack met a gradient of zero, or "
        "none of its images was better.",
    )
    above("without_edits", 0.1, _without_edits(indicators, queries))
    above(
        "saturated",
        0.5,
        "{:.0f} % of the bits saturate tanh at the first step and pass no gradient: lower alphas.",
    )
    above(
        "stalled",
        0.1,
        "On {:.0f} % of the queries no step lowered the loss: the gradient is masked or the step "
        "too long.",
    )
    above(
        "black_box_lead",
        0,
        "A member without gradients beats those with them by {:.1f} points of average precision: "
        "the gradient is masked.",
    )
    above(
        "query_lead",
        0,
        "With queries alone nes beats the members with gradients by {:.1f} points of average "
        "precision on the queries that it tried: the gradient is masked.",
    )
    return flags


def _without_edits(indicators: Mapping[str, float], queries: int | None) -> str:
    """How many texts no edit was possible in, and how many of them for which reason."""
    every, fixed = (indicators.get(f"without_{what}", 0.0) for what in ("edits", "free_words"))

    def part(share: float) -> str:
        return f"{100 * share:.0f} %" if queries is None else f"{round(share * queries)}"

    whole = "" if queries is None else f" {queries}"
    return (
        f"{part(every)} of the{whole} queries hold no word that the attack could exchange: in "
        f"{part(fixed)} every word is forbidden, gives a label away (attack.label_words=true lets "
        f"these go) or has no letters; in {part(every - fixed)} no word is known that may stand "
        "for the others (a lower attack.similarity lets synonyms be further away)."
    )
