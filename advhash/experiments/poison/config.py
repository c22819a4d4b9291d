"""The tables of `advhash poison`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from advhash.codes.forms import BitForm
from advhash.experiments.config import (
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    Run,
    Table,
    VictimConfig,
)
from advhash.registry import POISONINGS, QUANTISERS, Registry

Place = Annotated[str, BeforeValidator(lambda path: path if path is None else str(path))]


class RowsConfig(Table):
    """Embeddings in files, as `advhash eval` takes them.

    database: of the documents
    codes:    of the queries that judge; None: documents that are held out
    known:    of the queries that the attacker knows; None: a part of those
    labels, database_labels: which documents answer a query, by equal numbers; None: the 10 nearest
    column:   of the embeddings; None: by its name
    form:     of codes in their place, whose bits become 1 and -1; None: embeddings, or .codes files
    """

    database: Place
    codes: Place | None = None
    known: Place | None = None
    labels: Place | None = None
    database_labels: Place | None = None
    column: str | None = None
    form: BitForm | None = None


class CollapseConfig(Table):
    """What a store does with a new item whose code is within some bits of one that it holds.

    within: bits; keep: first: the new item is refused; last: the old ones are dropped
    """

    within: int = Field(ge=0)
    keep: Literal["first", "last"] = "last"


class GateConfig(Table):
    """Refuses new items that too many probe queries would find, see `advhash.stores.admission`.

    rate:     share of clean documents that may be refused
    rule:     rate, or mad: the published one, median + 5 robust standard deviations
    adaptive: whether the attacker knows the rule, and plants what passes a gate of its own
    """

    rate: float = Field(default=0.01, gt=0, lt=1, allow_inf_nan=False)
    rule: Literal["rate", "mad"] = "rate"
    adaptive: bool = True


class CapConfig(Table):
    """Shows no item, old or new, that too many probe queries find among their first 10.

    share:    of the probe queries that may find an item
    adaptive: as of a gate
    """

    share: float = Field(default=0.02, gt=0, le=1, allow_inf_nan=False)
    adaptive: bool = True


Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class PoisonConfig(Run):
    """`advhash poison`: items planted in a store, judged by queries that nobody knew.

    victim, dataset: what is embedded and by what; without a victim the data set's own embeddings
    rows:     instead: embeddings in files
    modality: of queries and documents
    quantise: what makes bits of embeddings where no victim does
    bits:     K, of a quantiser that lets it be chosen
    attack:   the method that plants
    budget:   of a text or a picture that is planted, in words or pixels
    store, rescore: the search, see `advhash.stores`
    share:    planted items by documents, one run of figures each
    items:    their number instead
    known:    queries that the attacker knows; None: half of them
    unseen:   queries that judge; None: all others
    restarts: seeds of the method
    collapse: of near-duplicates; None: none
    gate:     before the store; None: none. A third of the queries are its probes
    cap:      on what is shown, in the place of a gate
    rotate:   whether the store rotates real values by a secret before their signs are taken
    """

    registries: ClassVar[Mapping[str, Registry[Any]]] = {
        **Run.registries,
        "attack": POISONINGS,
        "quantise": QUANTISERS,
    }
    command: Literal["poison"] = "poison"
    victim: VictimConfig | None = None
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    rows: RowsConfig | None = None
    modality: str | None = None
    quantise: MethodConfig | None = None
    bits: int | None = Field(default=None, ge=1)
    attack: MethodConfig
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    store: MethodConfig = Field(default_factory=lambda: MethodConfig(name="exact"))
    rescore: list[MethodConfig] = Field(default_factory=list)
    share: list[Share] | None = Field(default=None, min_length=1)
    items: int | None = Field(default=None, ge=1)
    known: int | None = Field(default=None, ge=1)
    unseen: int | None = Field(default=None, ge=1)
    restarts: int = Field(default=1, ge=1)
    collapse: CollapseConfig | None = None
    gate: GateConfig | None = None
    cap: CapConfig | None = None
    rotate: bool = False

    @property
    def guard(self) -> GateConfig | CapConfig | None:
        """What judges items by probe queries; None: nothing does."""
        return self.gate or self.cap

    @property
    def defended(self) -> bool:
        """Whether anything keeps items out."""
        return self.guard is not None or self.collapse is not None
