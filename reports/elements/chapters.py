"""What a page is made of: its topics in their order, and what a run has to say on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advhash.errors import counted
from advhash.measures.sanity import Flag, picture_text
from advhash.reports.record import (
    AttackInfo,
    DatasetInfo,
    MethodInfo,
    NamedData,
    RunInfo,
    VictimInfo,
    record_file,
)
from advhash.storage.documents import read_json
from advhash.storage.files import sha256
from advhash.storage.model_card import Origin

TOPICS = {  # in the order of the page: what a template's macro is called → its heading
    "leaders": "Victims under their strongest attack",
    "card": "The victim",
    "examples": "What queries retrieve, before and after",
    "samples": "What it looks like",
    "threat": "Threat model and protocol",
    "protocol": "Protocol",
    "beside": "The runs beside each other",
    "results": "Results",
    "pairs": "Compared pairwise",
    "transfer": "Transfer",
    "thresholds": "Evasion and collision at a threshold",
    "scan": "Hashes and thresholds",
    "federation": "What the codes of a federation give away",
    "defences": "What defences are worth",
    "certificates": "What is certified",
    "lifelong": "Lifelong learning",
    "encoding": "What codes encode",
    "detection": "Detection of abnormal inputs",
    "phase": "When networks encode",
    "search": "Search",
    "words": "What the numbers mean",
    "flags": "Sanity flags and deviations",
    "training": "Training",
    "provenance": "Provenance",
}
ORIGINS: Mapping[Origin, str] = {
    "trained": "Trained in this run.",
    "cache": "From the cache.",
    "checkpoint": "From a checkpoint that the user named.",
    "brought": "Brought by the user, not trained by advhash.",
    "computed": "Computed: there is nothing to learn.",
}
KNOWLEDGE = {  # what an attacker can have → the same in plain words
    "weights": "has the victim’s weights",
    "gradients": "has gradients through the victim",
    "query codes": "sees the code of any input sent",
    "query labels": "knows the labels of the query",
    "database codes": "sees the codes in the database",
    "labels": "has labels of the data",
    "auxiliary data": "has further data of the same kind",
}
SHOWN = ("torch", "timm", "numpy")  # whose versions are told
MAX_FILE = 1_000_000  # bytes of an env.json: none of ours comes near it


@dataclass(frozen=True)
class Statement:
    """The verdict on a run in plain words.

    label: what the page calls the run
    lead:  what matters most, in a sentence
    more:  sentences that follow
    word:  how strong the attack is, where there is such a word
    share: behind the word, for a bar from 0 to 1
    place: which of how many runs it is, where it leads the page; empty: the first of all
    """

    label: str
    lead: str
    more: Sequence[str] = ()
    word: str = ""
    place: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Source:
    """Where figures of a page come from.

    facts:    (victim, attack, data set or the like, what is to be known of it)
    digest:   SHA-256 of the record
    versions: of the packages that determine figures, as its env.json states them
    """

    label: str
    info: RunInfo
    facts: Sequence[tuple[str, str]]
    settings: Mapping[str, Any]
    digest: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Chapter:
    """What one run says, or what attack runs say together.

    name:       what heads its part of a topic on which other chapters speak as well
    title:      of the page, if there is no other chapter
    heading:    the same as a sentence
    template:   the file with its macros, one for each of TOPICS that it speaks on: the name of one
                of ours, or the path of another package's
    values:     what the macros see
    statements: a verdict a run
    flags:      (label of the run, flag)
    deviations: (what deviates from its paper, how)
    """

    name: str
    title: str
    heading: str
    template: str
    values: Mapping[str, Any]
    statements: Sequence[Statement]
    sources: Sequence[Source]
    datasets: Sequence[str]
    flags: Sequence[tuple[str, Flag]] = ()
    deviations: Sequence[tuple[str, str]] = ()
    attributions: Sequence[str] = field(default_factory=tuple)


def source_of(
    path: Path,
    label: str,
    info: RunInfo,
    facts: Sequence[tuple[str, str]],
    settings: Mapping[str, Any],
) -> Source:
    """Where a run's figures come from; `path` is its folder, or its record where that is a file."""
    digest = sha256(record_file(path))
    versions = {} if path.is_file() else _versions(path / "env.json")
    return Source(label, info, facts, settings, digest, versions)


def victim_fact(label: str, info: VictimInfo) -> str:
    """A victim in a line, with where it comes from."""
    return _fact(label, info, _origin(info))


def attack_fact(info: AttackInfo) -> str:
    """A fitted attack in a line."""
    made = "From the cache." if info.cached else "Fitted in this run."
    return _fact(info.name, info, made if info.fingerprint else "")


def _origin(info: VictimInfo) -> str:
    if info.origin is not None:
        return ORIGINS[info.origin]
    return ORIGINS["cache"] if info.cached else "Not from the cache."  # of version 0.1


def _fact(label: str, info: MethodInfo, made: str) -> str:
    parts = [f"{label} – {info.summary}" if info.summary else label]
    if info.source:
        parts.append(f"Source: {info.source}.")
    if made:
        parts.append(made)
    if info.fingerprint:
        parts.append(f"SHA-256 {info.fingerprint}")
    return " ".join(parts)


def named_data_fact(info: NamedData) -> str:
    """A data set that a file names, in a line."""
    return f"{_read_as(info)}{_pictures(info.pictures)}"


def _read_as(info: DatasetInfo | NamedData) -> str:
    """What a data set is called, and what read it, where the name does not say so."""
    return info.label if info.label == info.name else f"{info.label}, read as {info.name}"


def _pictures(pictures: Mapping[str, Any] | None) -> str:
    return f". Pictures {picture_text(pictures)}." if pictures else ""


def data_fact(info: DatasetInfo) -> str:
    """A data set in a line."""
    return (
        f"{_read_as(info)}: {info.database} database items, {info.train} of them for training, "
        f"{counted(info.queries, 'held-out query')}, "
        f"{counted(len(info.classes), 'class')}"
        f"{_pictures(info.pictures) or '.'} SHA-256 {info.fingerprint}"
    )


def _versions(file: Path) -> dict[str, str]:
    try:
        body = read_json(file, MAX_FILE)
    except (OSError, ValueError):
        return {}
    packages = body.get("packages") if isinstance(body, dict) else None
    if not isinstance(packages, dict):
        return {}
    versions = {"Python": body.get("python"), **{name: packages.get(name) for name in SHOWN}}
    return {name: version for name, version in versions.items() if isinstance(version, str)}


def known(knowledge: Sequence[str]) -> list[str]:
    """What an attacker has, in plain words.

    >>> known(["labels", "something else"])
    ['has labels of the data']
    """
    return [KNOWLEDGE[name] for name in knowledge if name in KNOWLEDGE]


def covered(names: Sequence[str], plural: str) -> str:
    """Up to three names of what a page covers, or how many there are.

    >>> covered(["a", "b", "a"], "things"), covered("abcd", "things")
    ('a and b', '4 things')
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) > 3:
        return f"{len(distinct)} {plural}"
    return " and ".join(part for part in (", ".join(distinct[:-1]), *distinct[-1:]) if part)
