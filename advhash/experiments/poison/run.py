"""`advhash poison`: what items that an attacker plants in a store do to queries nobody knew.

The store is built without them, and searched (a cell); then, for each share and each seed of the
method, built again with them and searched again (a cell each). Natural hubs and random documents,
which are there already, are counted in the first search: what they are found by without any attack.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.poisoning.base import Planted, Poisoning
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST, GradedPairs
from advhash.data.dataset import Split
from advhash.data.text.characters import as_strings
from advhash.errors import UsageError, counted
from advhash.experiments.attack.changes import Change, write_change
from advhash.experiments.attack.examples import picture
from advhash.experiments.attack.record import run_info
from advhash.experiments.config import MethodConfig, TrainConfig
from advhash.experiments.experiment import Experiment, Part, Place, Plan
from advhash.experiments.poison.adaptive import evading
from advhash.experiments.poison.config import CapConfig, GateConfig, PoisonConfig
from advhash.experiments.poison.judge import figures, judge, natural_hubs
from advhash.experiments.poison.material import (
    Embedded,
    Material,
    OfVictim,
    identity,
    quantiser_of,
    read,
    sides,
)
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed, resolve_device
from advhash.measures.intervals import mean_metric
from advhash.measures.sanity import Flag
from advhash.registry import EXPERIMENTS, POISONINGS, QUANTISERS, RESCORERS, STORES, data_called
from advhash.reports.poison import POISON, AtShare, PlantedSample, PoisonRecord
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.files import storage_errors
from advhash.stores.admission import Gate, collapsed
from advhash.stores.base import Ids
from advhash.stores.figures import Search, store_recall
from advhash.stores.served import Served, check_served

CODE = ("stores", "experiments.attack", "experiments.poison")
DEFAULT_SHARE = 0.004
ASKED = {  # settings of all cells
    *("modality", "bits", "known", "unseen", "seed", "store", "rescore"),
    *("gate", "cap", "collapse", "rotate"),
}
MUCH_HIDDEN = 0.1  # share of clean documents that a cap hides
MATERIAL = "material"  # what the part of a run is called
SHOWN = 4  # planted inputs, and queries that find each


@dataclass(frozen=True)
class CleanSearch:
    """The store as it was, asked by known and unseen queries.

    config: with every default written out; material: the name of that part
    """

    config: PoisonConfig
    key: str
    names: tuple[str, ...]
    material: str = MATERIAL

    def compute(self, place: Place) -> Result:
        material: Material = place.part(self.material)
        documents, search = material.stored(material.documents), search_of(self.config)
        asked, other = material.stored(material.unseen), material.stored(material.known)
        began = time.perf_counter()
        with Served(search.store, search.rescore) as served:
            served.add(np.arange(len(documents)), documents)
            built = time.perf_counter()
            known, _ = served.search(other, FIRST)
            unseen, _ = served.search(asked, FIRST)
            searched = time.perf_counter()
            share = store_recall(served.store, asked, documents)
            parameters = served.store.parameters()
            gate = stores_guard(self.config, material, documents.codes)
            honest: dict[str, Tensor] = {}
            hidden = hidden_documents(self.config, gate)
            if len(hidden):
                served.remove(hidden)
                honest = {
                    "capped": torch.from_numpy(served.search(asked, FIRST)[0]),
                    "capped known": torch.from_numpy(served.search(other, FIRST)[0]),
                }
            if self.config.defended:
                turned_away = turned_away_documents(self.config, gate, documents.codes)
                served.remove(np.setdiff1d(np.flatnonzero(turned_away), hidden))
                honest |= {
                    "turned away": torch.from_numpy(turned_away),
                    "defended": torch.from_numpy(served.search(asked, FIRST)[0]),
                }
        return Result(
            {
                "guard": gate and {"threshold": gate.threshold, "reached": gate.reached},
                "parameters": parameters,
                "seconds": {"build": built - began, "search": searched - built},
                "bits": documents.codes.bits,
                "known": len(known),
                "repeated": material.split.repeated,
            },
            {
                "known": torch.from_numpy(known),
                "unseen": torch.from_numpy(unseen),
                **honest,
                "hidden": torch.from_numpy(hidden),
                "store_recall": torch.from_numpy(share),
                **_kept(material.own),
            },
        )


@dataclass(frozen=True)
class PlantedSearch:
    """The store with planted items, asked by unseen queries.

    config: with every default written out; items: how many; restart: the seed of the method;
    material: the name of that part
    """

    config: PoisonConfig
    items: int
    restart: int
    key: str
    names: tuple[str, ...]
    material: str = MATERIAL

    def compute(self, place: Place) -> Result:
        material: Material = place.part(self.material)
        method = method_of(self.config)
        search, documents = search_of(self.config), material.stored(material.documents)
        seen = material.seen(self.config, budget_of(self.config, method))
        own = 0 if seen.inputs is None else len(seen.inputs.own)
        most = method.most(len(seen.known), len(documents), own)
        expect_plantable(self.config, method, self.items, most)
        seed = derive_seed(self.config.seed, f"planted {self.restart}")
        began = time.perf_counter()
        guard = self.config.guard
        if guard is not None and guard.adaptive and not method.single:
            fit = partial(gate_of, guard, documents=seen.corpus.codes, seed=seed)
            items = evading(method, seen, self.items, most, fit, seed)
        else:
            items = method.plant(seen, self.items, seed)
        planted = time.perf_counter()
        made = items.vectors if method.free_pairs else material.stored(items.vectors)
        gate = stores_guard(self.config, material, documents.codes)
        dropped, refused = admitted(self.config, gate, documents.codes, made.codes)
        first = len(documents)
        ids = first + np.arange(len(made))
        with Served(search.store, search.rescore) as served:
            served.add(np.arange(first), documents)
            served.remove(np.union1d(hidden_documents(self.config, gate), dropped))
            served.add(ids[~refused], made[np.flatnonzero(~refused)])
            built = time.perf_counter()
            unseen, _ = served.search(material.stored(material.unseen), FIRST)
            searched = time.perf_counter()
        samples, pictures = shown(items, ids, unseen, material)
        return Result(
            {
                "refused": int(refused.sum()),
                "dropped": len(dropped),
                "surface": items.surface,
                "samples": samples,
                "seconds": {
                    "plant": planted - began,
                    "build": built - planted,
                    "search": searched - built,
                },
            },
            {"unseen": torch.from_numpy(unseen), **pictures},
        )


Cells = CleanSearch | PlantedSearch


@dataclass(frozen=True, kw_only=True)
class PoisonPlan(Plan[PoisonConfig, Cells]):
    """counts: planted items of each share, ascending"""

    counts: Sequence[int]
    documents: int
    source: str


@EXPERIMENTS.register("poison", source="the registered poisoning")
class Poison(Experiment[PoisonConfig, Cells, PoisonPlan, PoisonRecord]):
    """Items planted in a vector store, judged by queries that nobody knew."""

    name, config, record, code = "poison", PoisonConfig, PoisonRecord, CODE
    lasts, stage = False, "searches"

    def plan(self, config: PoisonConfig) -> PoisonPlan:
        return planned(config)

    def compute(self, cell: Cells, place: Place) -> Result:
        return cell.compute(place)

    def judge(self, plan: PoisonPlan, results: Sequence[Result], place: Place) -> PoisonRecord:
        return poison_record(plan, results, place)


def budget_of(config: PoisonConfig, method: Poisoning) -> Budget | None:
    """The budget of an input; None: vectors are planted."""
    return None if method.budget is None else config.budget.resolve(method.budget)


def method_of(config: PoisonConfig) -> Poisoning:
    """The method that plants. Raises UsageError: a setting that is none."""
    method: Poisoning = POISONINGS.create(config.attack.name, config.attack.settings)
    return method


def search_of(config: PoisonConfig) -> Search:
    """The search of a run."""
    return Search(config.store.model_dump(), [stage.model_dump() for stage in config.rescore])


def planned(config: PoisonConfig, threads: int | None = None) -> PoisonPlan:
    """Raises AdvhashError for whatever can be seen before any work.

    threads: of the processes that search; None: as many as this one has
    """
    method = method_of(config)
    if config.share is not None and config.items is not None:
        raise UsageError("expected --share or --items, got both: leave one of them out")
    if config.rows is not None and config.victim is not None:
        raise UsageError("expected embeddings in files or --victim, got both")
    if config.victim is not None and (config.quantise or config.bits):
        raise UsageError(
            "the victim has a quantiser of its own: expected no --quantise and no --bits; set "
            "victim.quantise, victim.bits"
        )
    if method.budget is not None and config.victim is None:
        raise UsageError(
            f"{config.attack.name} plants {method.plants}: expected --victim, which embeds them"
        )
    if method.budget is None and (config.budget.norm, config.budget.eps) != (None, None):
        raise UsageError(
            f"{config.attack.name} plants vectors: expected no --eps and no --norm, got a budget"
        )
    if config.gate is not None and config.cap is not None:
        raise UsageError("expected --gate or --cap, which is a gate for documents too, got both")
    if config.rows is not None and config.modality is not None:
        raise UsageError("expected embeddings in files or --modality, got both")
    written = _written(config)
    search = search_of(written)
    check_served(search.store, search.rescore)
    victim: PlannedVictim | None = None
    own = 0
    if written.victim is None:
        stored = read(written)
        quantiser_of(written, stored.documents.shape[1])
        split = stored.drawn(written)
        documents, known, unseen = map(len, (split.documents, split.known, split.unseen))
        material: Part = Embedded(written)
        source, what = _source(written), identity(written)
    else:
        victim = PlannedVictim.of(
            TrainConfig.build(
                written.model_dump(include={"seed", "device", "victim", "dataset"})
            ).trusting(config.trust_code)
        )
        sees = victim.victim.bounds
        modality = written.modality or ("image" if "image" in sees else next(iter(sees)))
        modality = victim.victim.query_modality(modality)
        victim.victim.check_modality(modality)
        written = victim.written(written).model_copy(update={"modality": modality})  # type: ignore[type-var]
        data = victim.data
        if method.budget is not None:
            budget = written.budget.resolve(method.budget)
            method.check_inputs(victim.victim, modality, budget)
            written.budget = written.budget.written(method.budget)
            own = len(data.validation)
        documents = len(data.database)
        known, unseen, _ = map(len, sides(written, documents, np.arange(len(data.query)), None))
        material = OfVictim(written)
        source = f"{modality} codes of {data.called} by {victim.called}"
        what = victim.identity
    counts = planted_counts(written, documents)
    expect_plantable(written, method, counts[-1], method.most(known, documents, own))
    cells = _cells(written, what, counts, source, threads or torch.get_num_threads())
    parts: dict[str, Part] = {} if victim is None else {"victim": victim}
    parts[MATERIAL] = material
    return PoisonPlan(
        config=written,
        cells=cells,
        parts=parts,
        label=f"poison-{config.attack.name}",
        shown={
            "source": source,
            "attack": written.attack.model_dump(),
            "budget": written.budget.model_dump() if method.budget else None,
            "store": written.store.model_dump(),
            "rescore": [stage.model_dump() for stage in written.rescore],
            "documents": documents,
            "known": known,
            "unseen": unseen,
            "planted": list(counts),
            "restarts": written.restarts,
        },
        counts=counts,
        documents=documents,
        source=source,
    )


def _source(config: PoisonConfig) -> str:
    if config.rows is None:
        name = Path(str(config.dataset.name)).name
        return f"embeddings of {data_called(name, config.dataset.settings)}"
    return f"embeddings in {Path(config.rows.database).name}"


def _written(config: PoisonConfig) -> PoisonConfig:
    """The config with every default of its methods."""
    update: dict[str, Any] = {
        "attack": config.attack.written(POISONINGS),
        "store": config.store.written(STORES),
        "rescore": [stage.written(RESCORERS) for stage in config.rescore],
        "device": str(resolve_device(config.device)),
    }
    if config.victim is None:
        if config.rows is None and config.dataset.name is None:
            raise UsageError(
                "expected --database FILE of embeddings, --victim, or --dataset with embeddings"
            )
        table = config.quantise or MethodConfig(name="sign")
        update["quantise"] = table.written(QUANTISERS)
        if config.rows is None:
            update["modality"] = config.modality or "text"
    if config.share is None and config.items is None:
        single = method_of(config).single
        update |= {"items": 1} if single else {"share": [DEFAULT_SHARE]}
    return config.model_copy(update=update)


def expect_plantable(config: PoisonConfig, method: Poisoning, items: int, most: int) -> None:
    """Raise UsageError for more items than the method can plant."""
    most = 1 if method.single else most
    if items > most:
        raise UsageError(
            f"{config.attack.name} plants at most {most} items of what it knows here, got {items}: "
            "set fewer --items or a smaller --share"
        )


def planted_counts(config: PoisonConfig, documents: int) -> list[int]:
    """How many items are planted, ascending. Raises UsageError: two shares that are one item."""
    if config.items is not None:
        return [config.items]
    assert config.share is not None
    counts = sorted(max(1, round(share * documents)) for share in config.share)
    if len(set(counts)) < len(counts):
        raise UsageError(
            f"--share: expected shares of {documents} documents that differ by an item, got "
            f"{', '.join(map(str, counts))} items"
        )
    return counts


def _cells(
    config: PoisonConfig,
    what: Mapping[str, Any],
    counts: Sequence[int],
    source: str,
    threads: int,
) -> list[Cells]:
    asked = {
        "source": what,
        "quantise": config.quantise and config.quantise.model_dump(),
        **config.model_dump(mode="json", include=ASKED),
        "threads": threads,
        "code": code_version(*CODE),
    }
    attack = {
        "attack": config.attack.model_dump(),
        "method": POISONINGS[config.attack.name].digest,
        "budget": config.budget.model_dump(),
    }
    names = (config.store.name, source)
    cells: list[Cells] = [CleanSearch(config, content_key(asked), names)]
    for count in counts:
        for restart in range(config.restarts):
            key = content_key({**asked, **attack, "items": count, "restart": restart})
            cells.append(PlantedSearch(config, count, restart, key, names))
    return cells


def gate_of(
    config: GateConfig | CapConfig, probes: HashCodes, documents: HashCodes, seed: int
) -> Gate:
    """A gate or a cap of the rule of a config."""
    if isinstance(config, CapConfig):
        return Gate.fit(probes, documents, "cap", config.share, seed)
    return Gate.fit(probes, documents, config.rule, config.rate, derive_seed(seed, "gate"))


def stores_guard(config: PoisonConfig, material: Material, documents: HashCodes) -> Gate | None:
    """The gate or the cap of the store; None: there is none."""
    if config.guard is None:
        return None
    probes = material.stored(material.probes).codes
    return gate_of(config.guard, probes, documents, config.seed)


def hidden_documents(config: PoisonConfig, gate: Gate | None) -> Ids:
    """Rows of the documents that a cap does not show."""
    if gate is None or config.cap is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(gate.refuses_held)


def turned_away_documents(
    config: PoisonConfig, gate: Gate | None, documents: HashCodes
) -> npt.NDArray[np.bool_]:
    """(M,) which documents the defences would keep out if these came as new items do."""
    refused = np.zeros(len(documents), bool) if gate is None else gate.refuses_held.copy()
    if config.collapse is not None:
        taken = np.flatnonzero(~refused)
        within, keep = config.collapse.within, config.collapse.keep
        refused[taken[collapsed(documents[:0], documents[taken], within, keep)[1]]] = True
    return refused


def admitted(
    config: PoisonConfig, gate: Gate | None, documents: HashCodes, items: HashCodes
) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Rows of documents that are dropped for items, and (P,) which items are not held."""
    refused = np.zeros(len(items), bool) if gate is None else gate.refuses(items)
    if config.collapse is None:
        return np.zeros(0, np.int64), refused
    taken = np.flatnonzero(~refused)
    dropped, gone = collapsed(documents, items[taken], config.collapse.within, config.collapse.keep)
    refused[taken[gone]] = True
    return dropped, refused


def shown(
    items: Planted, ids: Ids, unseen: Ids, material: Material
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Some planted inputs and queries that find them: texts as they are, pictures as tensors.

    ids: of the items; unseen: (N,10) results
    """
    rows, pictures = list[dict[str, Any]](), dict[str, Tensor]()
    for place, content in enumerate(items.inputs[:SHOWN]):
        assert material.victim is not None
        query = material.victim.data.query
        finders = np.flatnonzero((unseen == ids[place]).any(axis=1))
        asked = material.split.unseen[finders[:SHOWN]].tolist()
        sample: dict[str, Any] = {"found_by": len(finders)}
        if content.dim() == 1:
            texts = query.tensor("text")[asked]
            sample |= {"text": as_strings(content[None])[0], "queries": as_strings(texts)}
        else:
            pictures[f"item {place}"] = content
            if items.begun:
                clean, planted = (
                    each.permute(1, 2, 0).numpy() for each in (items.begun[place], content)
                )
                change = Change.of(clean, planted)
                pictures[f"change {place}"] = change.images
                sample["change"] = {"linf": change.linf, "l2": change.l2}
            for number, row in enumerate(asked):
                pictures[f"item {place} query {number}"] = stored_picture(query, row)
        rows.append(sample)
    return rows, pictures


def stored_picture(split: Split, row: int) -> Tensor:
    """(3,H,W) uint8 of a row."""
    mixed = split.mixed
    return split.tensor("image")[row] if mixed is None else mixed.picture(row)


def _samples(result: Result, place: Place) -> list[PlantedSample]:
    """What `shown` kept, its pictures written into the run folder. Raises StorageError."""
    samples = []
    for number, sample in enumerate(result.document["samples"]):
        tensors = {
            name: result.tensors[name]
            for name in (f"item {number}", *(f"item {number} query {i}" for i in range(SHOWN)))
            if name in result.tensors and not place.alone
        }
        files = [f"samples/{name.replace(' ', '-')}.png" for name in tensors]
        if tensors:
            with storage_errors(place.folder / "samples"):
                (place.folder / "samples").mkdir(exist_ok=True)
                for file, content in zip(files, tensors.values(), strict=True):
                    picture(content.float() / 255).save(place.folder / file, optimize=True)
        change = None
        if "change" in sample and not place.alone:
            change = {
                **sample["change"],
                "name": f"item {number + 1}",
                "files": write_change(
                    place.folder, str(number), result.tensors[f"change {number}"]
                ),
            }
        samples.append(PlantedSample.model_validate({**sample, "files": files, "change": change}))
    return samples


def _kept(own: GradedPairs) -> dict[str, torch.Tensor]:
    names = ("starts", "rows", "grades")
    return {f"own {name}": torch.from_numpy(getattr(own, name)) for name in names}


def figures_of_shares(plan: PoisonPlan, results: Sequence[Result]) -> list[AtShare]:
    """Figures of every share, from the results of the cells."""
    config, clean = plan.config, results[0]
    own = GradedPairs(
        *(clean.tensors[f"own {name}"].numpy() for name in ("starts", "rows", "grades"))
    )
    ids, known = clean.tensors["unseen"].numpy(), clean.tensors["known"].numpy()
    boot, documents = derive_seed(config.seed, "bootstrap"), plan.documents
    nothing = np.zeros(0, np.int64)
    before = judge(ids, nothing, own)
    hidden = clean.tensors["hidden"].numpy()
    served, served_known = ids, known  # of the store that items are planted in, without them
    if len(hidden):
        served, served_known = (clean.tensors[name].numpy() for name in ("capped", "capped known"))
    capped = judge(served, nothing, own)
    defended = turned_away = None
    if config.defended:
        defended = judge(clean.tensors["defended"].numpy(), nothing, own)
        turned_away = clean.tensors["turned away"].numpy()
    shares = []
    for place_of, count in enumerate(plan.counts):
        first = 1 + place_of * config.restarts
        done = results[first : first + config.restarts]
        after, random = [], []
        for restart, result in enumerate(done):
            items = documents + np.arange(count)
            after.append(judge(result.tensors["unseen"].numpy(), items, own))
            seed = derive_seed(config.seed, f"random documents {restart}")
            drawn_rows = np.random.default_rng(seed).permutation(documents)
            drawn_rows = drawn_rows[~np.isin(drawn_rows, hidden)][:count]
            random.append(judge(served, drawn_rows, own))
        hubs = natural_hubs(known, count)
        natural = judge(served, natural_hubs(served_known, count), own)
        metrics = figures(before, after, natural, random, boot, defended, capped)
        metrics["store_recall_at_10"] = mean_metric(clean.tensors["store_recall"].numpy(), boot)
        shares.append(
            AtShare(
                items=count,
                share=count / documents,
                refused=[result.document["refused"] for result in done],
                dropped=[result.document["dropped"] for result in done],
                surfaces=[surface for result in done if (surface := result.document["surface"])],
                natural_refused=None if turned_away is None else int(turned_away[hubs].sum()),
                metrics=metrics,
            )
        )
    return shares


def poison_record(plan: PoisonPlan, results: Sequence[Result], place: Place) -> PoisonRecord:
    """Figures of every share, those of the largest as the run's own."""
    config, clean, shares = plan.config, results[0], figures_of_shares(plan, results)
    turned_away = clean.tensors.get("turned away")
    spent = {
        name: sum(result.document["seconds"].get(name, 0.0) for result in results)
        for name in ("plant", "build", "search")
    }
    method = method_of(config)
    entry = POISONINGS[config.attack.name]
    spent["all"] = place.seconds["all"]
    repeated, victim = clean.document["repeated"], plan.parts.get("victim")
    return PoisonRecord(
        schema_=POISON,
        command="poison",
        run=run_info(
            place.final, config.seed, config.device, {**spent, "all": place.seconds["all"]}
        ),
        source=plan.source,
        quantise=config.quantise.model_dump() if config.quantise else None,
        bits=clean.document["bits"],
        attack=config.attack.model_dump(),
        summary=entry.summary,
        knowledge=list(method.knowledge),
        free_pairs=method.free_pairs,
        budget=None
        if method.budget is None
        else config.budget.resolve(method.budget).text("token"),
        samples=_samples(results[-1], place),
        store={"name": config.store.name, **clean.document["parameters"]},
        rescore=[stage.model_dump() for stage in config.rescore],
        collapse=config.collapse.model_dump() if config.collapse else None,
        gate={**config.gate.model_dump(), **clean.document["guard"]} if config.gate else None,
        cap={**config.cap.model_dump(), **clean.document["guard"]} if config.cap else None,
        turned_away=None if turned_away is None else int(turned_away.sum()),
        rotate=config.rotate,
        attribution=victim.data.attribution if isinstance(victim, PlannedVictim) else "",
        documents=plan.documents,
        known=clean.document["known"],
        unseen=len(clean.tensors["unseen"]),
        repeated=repeated,
        restarts=config.restarts,
        metrics=shares[-1].metrics,
        shares=shares,
        flags=poison_flags(repeated, len(clean.tensors["hidden"]), plan.documents, shares),
    )


def poison_flags(
    repeated: int, hidden: int, documents: int, shares: Sequence[AtShare]
) -> list[Flag]:
    """Doubts that hold at some planted share, which they name, or at all of them."""
    flags = []
    if hidden > MUCH_HIDDEN * documents:
        flags.append(
            Flag(
                "cap_hides_much",
                "warning",
                f"The cap hides {hidden} of {documents} clean documents: what it costs honest "
                "items weighs more than what is planted. A larger --cap hides fewer.",
            )
        )
    weak = [at for at in shares if _not_above_hubs(at)]
    if weak:
        flags.append(
            Flag(
                "no_more_than_natural_hubs",
                "warning",
                f"{_named_shares(weak, shares)} are not shown to reach more queries than natural "
                "hubs do, which are as many clean documents, those that known queries find most "
                "often: the interval of the difference reaches 0 or lies below it.",
            )
        )
    recall = shares[-1].metrics["store_recall_at_10"].value  # of clean queries: of no share
    if recall is not None and recall < 0.5:
        flags.append(
            Flag(
                "store_misses",
                "warning",
                f"Without any attack the store finds {100 * recall:.0f} % of its own exact first "
                "10: what it loses by itself weighs more than what is planted.",
            )
        )
    if repeated:
        flags.append(
            Flag(
                "equal_queries",
                "info",
                f"Left out, as they have the direction of another one: "
                f"{counted(repeated, 'query')}.",
            )
        )
    return flags


def _not_above_hubs(at: AtShare) -> bool:
    over = at.metrics["planted_top10_over_natural"]
    return over.low is not None and over.low <= 0


def _named_shares(some: Sequence[AtShare], every: Sequence[AtShare]) -> str:
    """The items of some planted shares, as the subject of a sentence."""
    if len(some) == len(every):
        return "Planted items" if len(every) == 1 else "Planted items, at each share,"
    counts = [f"{at.items} ({100 * at.share:.2g} %)" for at in some]
    return f"Planted items, where there are {' or '.join(counts)} of them,"
