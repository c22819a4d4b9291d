"""What a store holds and what it is asked: embeddings from files, of a data set, or of a victim."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import frozen
from advhash.attacks.poisoning.base import Floats, Inputs, Seen, Surface
from advhash.budget import Budget
from advhash.codes.code_files import SUFFIX, read_class_numbers, read_stored
from advhash.codes.forms import AS_RECOGNISED, Reading, floats_of
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST, GradedPairs, float_neighbours
from advhash.codes.stored_rows import read_rows
from advhash.codes.vectors import Vectors, unit_rows
from advhash.data.dataset import Dataset
from advhash.data.images.mixed import as_tensor, in_order
from advhash.errors import ConfigError, DataError, UsageError
from advhash.experiments.attack.served import STEP
from advhash.experiments.experiment import Place
from advhash.experiments.poison.config import PoisonConfig, RowsConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.registry import QUANTISERS
from advhash.shared_labels import GroupIndex
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.files import sha256
from advhash.stores.figures import expect_rows
from advhash.victims.base import HashVictim
from advhash.victims.encoders.encoded import DOCUMENT, Encoded
from advhash.victims.encoders.quantisers import Cut, Quantiser

MOST_HELD_OUT = 2000  # documents that become queries where there are none
LEAST = 2  # queries on each side
_FILE = "embeddings.safetensors"
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """Which rows are documents, which queries are known and which judge.

    documents: of the rows of the database
    known, unseen, probes: of the queries, or of those rows that are held out
    held_out: whether queries are rows of the database
    repeated: queries that were left out, whose direction is that of another one
    """

    documents: Places
    known: Places
    unseen: Places
    probes: Places
    held_out: bool
    repeated: int


@dataclass(frozen=True)
class Material:
    """Everything of a run but what is planted.

    documents, known, unseen, probes: as encoder and quantiser make them; probes are of a gate
    own:    documents that answer each unseen query
    cut:    the quantiser
    length: of the embeddings
    split:  which rows these are
    rotation: (K,K) of the real values, which only the store knows; None: there is none
    victim: and its data, where inputs are embedded
    """

    documents: Vectors
    known: Vectors
    unseen: Vectors
    probes: Vectors
    own: GradedPairs
    cut: Cut
    length: float
    split: Drawn
    rotation: Tensor | None
    victim: Trained | None = None

    def stored(self, rows: Vectors) -> Vectors:
        """What the store makes of vectors that a known quantiser has cut."""
        if self.rotation is None:
            return rows
        real = torch.from_numpy(rows.real) @ self.rotation
        return Vectors(HashCodes.from_relaxed(real), rows.floats, real.numpy())

    def seen(self, config: PoisonConfig, budget: Budget | None) -> Seen:
        """What the attacker knows. budget: of an input; None: vectors are planted."""
        inputs = None
        if budget is not None:
            assert self.victim is not None
            data = self.victim.data
            victim = self.victim.victim
            inputs = Inputs(
                victim.reading_documents() if isinstance(victim, Encoded) else victim,
                data.query.take(self.split.known),
                data.database,
                data.validation,
                budget,
            )
        ranks, candidates = surface(config)
        return Seen(self.known, self.documents, self.cut, self.length, ranks, inputs, candidates)


def drawn(
    config: PoisonConfig, documents: Floats, queries: Floats | None, known: Floats | None
) -> Drawn:
    """Split the queries by the seed; of equal directions one is asked.

    documents: (M,D); queries: (N,D), or None: some of the documents are held out; known: those of a
        file of their own

    Raises UsageError: fewer queries than asked for; DataError: a query on both sides, or fewer
    documents than results are looked at.
    """
    rows = np.arange(len(documents))
    if queries is None:
        generator = np.random.default_rng(derive_seed(config.seed, "held out"))
        held_out = min(MOST_HELD_OUT, len(rows) // 10)
        asked = np.sort(generator.permutation(rows)[:held_out])
        rows, directions = np.setdiff1d(rows, asked), _directions(documents[asked])
    else:
        asked, directions = np.arange(len(queries)), _directions(queries)
    pool = asked[np.sort(np.unique(directions, return_index=True)[1])]
    if known is not None:
        _, mine, theirs = np.intersect1d(_directions(known), directions, return_indices=True)
        if len(mine):
            raise DataError(
                f"expected queries that judge to be unknown to the attacker, got row {theirs[0]} "
                f"of them as row {mine[0]} of the known ones: leave it out of one side"
            )
    split = sides(config, len(rows), pool, None if known is None else len(known))
    return Drawn(rows, *split, queries is None, len(asked) - len(pool))


def sides(
    config: PoisonConfig, documents: int, pool: Places, known: int | None
) -> tuple[Places, Places, Places]:
    """Which queries are known, which judge, which are probes: rows of a pool, all different.

    known: how many the attacker has in a file of their own, whose rows the first ones are then

    Raises UsageError, DataError, see `drawn`.
    """
    generator = np.random.default_rng(derive_seed(config.seed, "known queries"))
    probes = pool[:0]
    if config.guard is not None:
        chosen = np.random.default_rng(derive_seed(config.seed, "probes")).permutation(pool)
        probes, pool = np.sort(chosen[: len(pool) // 3]), np.sort(chosen[len(pool) // 3 :])
    if known is None:
        order = generator.permutation(pool)
        first = len(order) // 2 if config.known is None else config.known
        mine, others = np.sort(order[:first]), np.sort(order[first:])
    else:
        mine, others = np.arange(known)[: config.known], pool
    if config.unseen is not None and len(others) >= config.unseen:
        others = np.sort(generator.permutation(others)[: config.unseen])
    for name, count, wanted in (
        ("known", len(mine), config.known),
        ("unseen", len(others), config.unseen),
        *([] if config.guard is None else [("probe", len(probes), None)]),
    ):
        if count < max(wanted or LEAST, LEAST):
            raise UsageError(
                f"expected at least {max(wanted or LEAST, LEAST)} {name} queries, got {count} "
                f"of {len(pool)} different ones"
            )
    expect_rows(documents, FIRST if config.guard is None else FIRST + 1)
    return mine, others, probes


def _directions(rows: Floats) -> npt.NDArray[np.bytes_]:
    """(N,) what is equal for equal rows (N,D), and, but for rare roundings, for longer ones."""
    units = np.round(unit_rows(rows), 4) + np.float32(0)  # 0 and −0 are one
    return np.array([hashlib.sha256(row.tobytes()).digest() for row in units])


def surface(config: PoisonConfig) -> tuple[Surface, int | None]:
    """What the first results are ranked by in the end, and of how many candidates, see `Seen`."""
    from advhash.registry import RESCORERS, STORES

    if STORES.describe(config.store.name).fact("holds") == "floats":
        return "floats", None
    if not config.rescore or config.rescore[-1].name not in ("float", "int8"):
        return "codes", None
    last = config.rescore[-1]
    return "floats", FIRST * RESCORERS.create(last.name, last.settings).multiplier


# ---- embeddings in files, or of a data set


@dataclass(frozen=True)
class Embedded:
    """Embeddings that are there already, and their quantiser; a part of the run.

    config: with every default written out
    """

    config: PoisonConfig
    parts: tuple[str, ...] = ()

    def build(self, place: Place) -> Material:
        stored = read(self.config)
        split = stored.drawn(self.config)
        documents = unit_rows(stored.documents[split.documents])
        pool = stored.documents if stored.queries is None else stored.queries
        known = unit_rows((pool if stored.known is None else stored.known)[split.known])
        unseen = unit_rows(pool[split.unseen])
        cut = fitted(self.config, documents)
        own = stored.own(split, unseen, documents)
        kept, known_ones, asked, probes = (
            quantised(rows, cut)
            for rows in (documents, known, unseen, unit_rows(pool[split.probes]))
        )
        rotation = secret_rotation(self.config, kept.codes.bits)
        return Material(kept, known_ones, asked, probes, own, cut, 1.0, split, rotation)


@dataclass(frozen=True)
class StoredFloats:
    """Rows (N,D) of each side, and the numbers by which documents answer queries.

    queries: None: documents are held out; known: None: a part of the queries
    """

    documents: Floats
    queries: Floats | None
    known: Floats | None
    document_numbers: Places | None = None
    query_numbers: Places | None = None

    def drawn(self, config: PoisonConfig) -> Drawn:
        return drawn(config, self.documents, self.queries, self.known)

    def own(self, split: Drawn, unseen: Floats, documents: Floats) -> GradedPairs:
        """The documents that answer unseen queries: of their numbers, or the 10 nearest."""
        if self.document_numbers is None:
            return float_neighbours(unseen, documents, FIRST)
        asked = self.document_numbers if split.held_out else self.query_numbers
        assert asked is not None
        return GradedPairs.of_identities(
            asked[split.unseen], self.document_numbers[split.documents]
        )


def read(config: PoisonConfig) -> StoredFloats:
    """The embeddings that a config names. Raises DataError, ConfigError, UsageError."""
    if config.rows is None:
        return _of_data(config)
    table = config.rows
    floats = {
        name: _floats(Path(path), table)
        for name, path in (
            ("database", table.database), ("codes", table.codes), ("known", table.known)
        )
        if path is not None
    }  # fmt: skip
    width = floats["database"].shape[1]
    for name, rows in floats.items():
        if rows.shape[1] != width:
            raise DataError(
                f"--{name}: expected embeddings of {width} dimensions as in the database, got "
                f"{rows.shape[1]}"
            )
    if table.known is not None and table.codes is None:
        raise UsageError("--known holds queries that do not judge: expected others by --codes")
    numbers = {
        name: _numbers(Path(path))
        for name, path in (("codes", table.labels), ("database", table.database_labels))
        if path is not None
    }
    for name, values in numbers.items():
        if name not in floats or len(values) != len(floats[name]):
            raise DataError(
                f"expected a number for each row of --{name}, got {len(values)} for "
                f"{len(floats.get(name, ()))}"
            )
    if ("database" not in numbers and numbers) or (
        "database" in numbers and "codes" in floats and "codes" not in numbers
    ):
        raise UsageError("expected --labels of the queries with --database-labels, or neither")
    return StoredFloats(
        floats["database"],
        floats.get("codes"),
        floats.get("known"),
        numbers.get("database"),
        numbers.get("codes"),
    )


def _floats(path: Path, table: RowsConfig) -> Floats:
    """(N,D) embeddings; of codes, their bits as 1 and -1, which the quantiser `sign` cuts again."""
    if table.form is not None or path.suffix == SUFFIX:
        how = AS_RECOGNISED if table.form is None else Reading(table.form, column=table.column)
        return np.where(read_stored(path, how).codes.unpack(), np.float32(1), np.float32(-1))
    rows = read_rows(path, Reading("floats", "sign", column=table.column))
    if rows.numbers is None or rows.numbers.dtype.kind != "f":
        got = "words" if rows.numbers is None else str(rows.numbers.dtype)
        raise DataError(
            f"{path}: expected embeddings, floats that the quantiser of the store cuts, got {got}: "
            "say in which form these are codes by --form (packed bytes of uint8 are --form "
            "ubinary), or write embeddings as float32"
        )
    return np.asarray(floats_of(rows, None, path), np.float32)


def _numbers(path: Path) -> Places:
    numbers = read_class_numbers(path, "classes")
    if numbers is None:
        raise DataError(f"{path}: expected one number a row, by which documents answer queries")
    return numbers


def _of_data(config: PoisonConfig) -> StoredFloats:
    from advhash.data.load import load_dataset

    data: Dataset = load_dataset(str(config.dataset.name), config.dataset.settings)
    modality = config.modality or "text"
    if modality != "text" or data.text_kind != "sentence" or "text" not in data.modalities:
        raise ConfigError(
            f"expected --victim, or a data set with embeddings of its texts (--set "
            f"dataset.text=sentence), got {data.name} with {', '.join(data.modalities)}"
        )
    sides = [as_tensor(split.inputs["text"]).numpy() for split in (data.database, data.query)]
    return StoredFloats(sides[0], sides[1], None)


def quantiser_of(config: PoisonConfig, dimensions: int) -> tuple[Quantiser, int]:
    """The quantiser and its K bits. Raises ConfigError: K that it cannot make of D dimensions."""
    table = config.quantise
    assert table is not None
    quantiser: Quantiser = QUANTISERS.create(table.name, table.settings)
    bits = dimensions if config.bits is None else config.bits
    quantiser.check(table.name, dimensions, bits)
    return quantiser, bits


def fitted(config: PoisonConfig, documents: Floats) -> Cut:
    """The quantiser of the documents, see `quantiser_of`."""
    quantiser, bits = quantiser_of(config, documents.shape[1])
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "quantiser") % 2**63)
    return quantiser.fit(torch.from_numpy(documents), bits, generator)


def secret_rotation(config: PoisonConfig, bits: int) -> Tensor | None:
    """(K,K) of a seed that the attacker has not; None where the store rotates nothing."""
    if not config.rotate:
        return None
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "rotation") % 2**63)
    rotation: Tensor = torch.linalg.qr(torch.randn(bits, bits, generator=generator))[0]
    return rotation


def quantised(floats: Floats, cut: Cut) -> Vectors:
    """Embeddings (N,D) with their codes."""
    real = cut(torch.from_numpy(np.ascontiguousarray(floats)))
    return Vectors(HashCodes.from_relaxed(real), floats, real.numpy())


def identity(config: PoisonConfig) -> dict[str, Any]:
    """Names all that determines embeddings that are there already."""
    if config.rows is None:
        return {"dataset": config.dataset.model_dump()}
    files = config.rows.model_dump(exclude={"column", "form"})
    digests = {name: path and sha256(Path(path)) for name, path in files.items()}
    return {**digests, "column": config.rows.column, "form": config.rows.form}


# ---- inputs that a victim embeds


@dataclass(frozen=True)
class OfVictim:
    """What a trained victim makes of a data set; a part of the run."""

    config: PoisonConfig
    parts: tuple[str, ...] = ("victim",)

    def build(self, place: Place) -> Material:
        trained: Trained = place.part("victim")
        victim, modality = trained.victim, str(self.config.modality)
        searched = DOCUMENT if modality == "text" and DOCUMENT in victim.bounds else modality
        floats = embeddings(trained, "database", searched)
        cut = cut_of(victim, searched, floats.shape[1])
        documents = quantised(floats, cut)
        asked = quantised(
            embeddings(trained, "query", modality), cut_of(victim, modality, floats.shape[1])
        )
        split = drawn(self.config, documents.floats, asked.floats, None)
        unseen = asked[split.unseen]
        own = _own_of(trained.data, split.unseen, unseen, documents)
        length = float(np.median(np.linalg.norm(documents.floats, axis=1)))
        rotation = secret_rotation(self.config, victim.bits)
        known, probes = asked[split.known], asked[split.probes]
        return Material(
            documents, known, unseen, probes, own, cut, length, split, rotation, trained
        )


def embeddings(trained: Trained, side: Literal["database", "query"], modality: str) -> Floats:
    """(N,D) of a split, embedded once and then kept with what is cached. Raises StorageError."""
    victim, split = trained.victim, getattr(trained.data, side)

    def build(folder: Path) -> None:
        rows, parts = [], []
        with frozen(victim), torch.no_grad():
            for batch in split.batches(STEP):
                given = batch.inputs[modality].to(victim.device)
                rows.append(batch.index)
                parts.append(victim.embedded(given, modality).float().cpu())
        write_tensors(folder / _FILE, {"floats": torch.cat(parts)[in_order(rows)].contiguous()})

    def read(folder: Path) -> Floats:
        floats: Floats = read_tensors(folder / _FILE)["floats"].numpy()
        if len(floats) != len(split):
            raise ValueError("expected an embedding of each row of the split")
        return floats

    key = content_key({**cache_identity(trained), "embedded": side, "modality": modality})
    return cached("embeddings", key, build, read)


def _own_of(data: Dataset, rows: Places, unseen: Vectors, documents: Vectors) -> GradedPairs:
    """Documents of the same group, where a data set has groups; else the 10 nearest."""
    if not data.grouped:
        return float_neighbours(unseen.floats, documents.floats, FIRST)
    index = GroupIndex(data.database.labels.numpy())
    places, answers = index.pairs(data.query.labels.numpy()[rows])
    return GradedPairs.of(len(rows), places, answers, np.ones(len(answers)))


def cut_of(victim: HashVictim, modality: str, dimensions: int) -> Cut:
    """From a victim's embeddings to its real codes: an encoder's cut, else nothing at all."""
    if not isinstance(victim, Encoded):
        return Cut(torch.zeros(dimensions))
    cut = victim.cut_of(modality)
    axes = None if cut.projection is None else cut.projection.detach().cpu()
    return Cut(cut.centre.detach().cpu(), axes)
