"""One run, one file. `config.toml` holds every setting of a run and replays it.

Precedence: `--set table.key=value` over options over `--config FILE` over defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from advhash.budget import Budget, Norm, parse_eps
from advhash.codes.metrics import Empty, Scoring, Ties
from advhash.errors import ConfigError, SettingError
from advhash.registry import (
    ATTACKS,
    DEFENSES,
    DETECTORS,
    RESCORERS,
    STORES,
    VICTIMS,
    Registry,
    is_encoder,
)
from advhash.storage.documents import WHOLE
from advhash.targets import TargetRule
from advhash.validation import first_fault, refusal

if TYPE_CHECKING:
    from advhash.data.dataset import Dataset

Model = TypeVar("Model", bound="Table")
Other = TypeVar("Other", bound="Run")


LARGEST = 3.4e38  # that a float of 32 bits holds
COUNTS = range(-(2**31), 2**31)  # sizes and counts beyond them fit no machine


def _expect_numbers(value: Any, name: str = "") -> None:
    """Raise ConfigError for numbers that nothing can be done with.

    Whole numbers beyond 64 bits, which no file of ours can hold (see `documents`), where they are
    seeds, and beyond 32 bits elsewhere; others beyond the floats of 32 bits that networks have.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            _expect_numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            _expect_numbers(part, name)
    elif isinstance(value, int) and value not in WHOLE:
        bits = value.bit_length()
        raise SettingError(name, f"expected a whole number of 64 bits at most, got {bits} bits")
    elif isinstance(value, int) and "seed" not in name.lower() and value not in COUNTS:
        raise SettingError(name, f"expected a whole number below 2^31, got {value}")
    elif isinstance(value, float) and math.isfinite(value) and abs(value) > LARGEST:
        raise SettingError(name, f"expected a number up to {LARGEST}, got {value}")


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    @classmethod
    def build(cls: type[Model], values: Mapping[str, Any]) -> Model:
        """Validate. Raises ConfigError naming the field, what was expected and what came."""
        _expect_numbers(values)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = first_fault(cls, error, values)
            assert fault is not None
            raise refusal(fault) from None


class Named(Table):
    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        """Every key but `name`; the registry checks them."""
        return dict(self.model_extra or {})


class MethodConfig(Named):
    """A registered name and its settings: `name`, and any further key that the method takes."""

    name: str

    def written(self, registry: Registry[Any]) -> Self:
        """The same with every setting. Raises UnknownName, UsageError."""
        own = self.model_dump(include=set(type(self).model_fields))
        return self.build({**own, **registry.settings(self.name, self.settings)})


class VictimConfig(MethodConfig):
    """A victim; `timm:NAME` and the like name the victim "encoder" with that encoder.

    seed: of its training and of its defence; None: the seed of the run
    """

    seed: int | None = Field(default=None, ge=0, lt=2**63, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _by_prefix(cls, values: Any) -> Any:
        name = values.get("name") if isinstance(values, Mapping) else None
        if isinstance(name, str) and is_encoder(name):
            return {**values, "name": "encoder", "encoder": name}
        return values


class DatasetConfig(Named):
    """Likewise; without a name, the victim's default data set."""

    name: str | None = None

    @classmethod
    def of(cls, data: Dataset) -> DatasetConfig:
        """The table that reads this data set again, with every setting."""
        return cls.build({"name": data.name, **data.settings})


class BudgetConfig(Table):
    """norm and eps; both None: the method's default budget."""

    norm: Norm | None = None
    eps: str | float | None = None
    eight_bit: bool = True

    def resolve(self, default: Budget) -> Budget:
        """The budget, given the default of the attack.

        `--eps 8/255` alone means linf, or l0 for an attack on words; `--norm none` alone means
        no bound.
        """
        if self.norm is None and self.eps is None:
            return default
        if self.norm == "none" and self.eps is None:
            return Budget("none", float("inf"))
        if self.eps is None:
            raise ConfigError(f"norm {self.norm} needs an eps: add --eps, e.g. --eps 8/255")
        eps = parse_eps(self.eps)
        if eps == float("inf"):
            if self.norm not in (None, "none"):
                raise ConfigError(f"eps none needs norm none, got norm {self.norm}")
            return Budget("none", eps)
        return Budget(self.norm or ("l0" if default.norm == "l0" else "linf"), eps)

    def written(self, default: Budget) -> BudgetConfig:
        """The table of `resolve` with nothing left out."""
        budget = self.resolve(default)
        eps = "none" if math.isinf(budget.eps) else budget.eps
        return BudgetConfig(norm=budget.norm, eps=eps, eight_bit=self.eight_bit)


class ProtocolConfig(Table):
    """How the figures are taken; see docs/metrics.md.

    false_positive_rate: of the threshold of perceptual hashes, on clean pairs that differ
    store, rescore: what serves the first results, of which further figures are taken; see
        `advhash.stores`
    """

    targets: TargetRule = "disjoint"
    query_modality: str = "image"
    database: str | None = None  # None: the victim's default direction
    queries: int | None = Field(default=None, ge=1)  # None: the whole query split
    top_k: int | None = Field(default=None, ge=1, lt=2**31)
    ties: Ties = "expected"
    empty: Empty = "zero"
    batch_size: int = Field(default=100, ge=1)
    noise_control: bool = True
    false_positive_rate: float = Field(default=0.001, gt=0, lt=1)
    store: MethodConfig | None = None
    rescore: list[MethodConfig] = Field(default_factory=list)

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.ties, self.top_k, self.empty)


class _Queried(Protocol):
    @property
    def queries(self) -> int | None: ...

    @property
    def model_fields_set(self) -> set[str]: ...


def queries_asked(table: _Queried, held: int) -> int:
    """How many queries a table asks for: the number that the user gave, or its default.

    held: as many as there are, which the default does not exceed, and which None stands for
    """
    if table.queries is None:
        return held
    return table.queries if "queries" in table.model_fields_set else min(table.queries, held)


class AttackProtocol(ProtocolConfig):
    """The same for attacks on queries alone.

    threshold: in bits, the one in use; it takes the place of that which the rate sets
    start:  what is attacked where queries are altered copies of pictures in the database:
        "originals", these pictures themselves, or "copies"; None: originals
    poison: adversarial items added to the database
    """

    threshold: int | None = Field(default=None, ge=0)
    start: Literal["originals", "copies"] | None = None
    poison: int | None = Field(default=None, ge=1)


class Run(Table):
    """A whole command, which one file replays.

    Whether the user trusts code that the config names is told with the command, never in a file: a
    config from a stranger could name any function. It is neither read from a file nor written.

    registries: where the names in its tables of methods are found, by the names of those tables
    """

    registries: ClassVar[Mapping[str, Registry[Any]]] = {
        "attack": ATTACKS,
        "defense": DEFENSES,
        "detector": DETECTORS,
        "rival": VICTIMS,
        "store": STORES,
        "rescore": RESCORERS,
    }
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    _trust_code: bool = PrivateAttr(default=False)

    @property
    def trust_code(self) -> bool:
        return self._trust_code

    def trusting(self, trust_code: bool) -> Self:
        """The same config, with the word of the user about code it names."""
        config = self.model_copy()
        config._trust_code = trust_code
        return config

    def turned_into(self, kind: type[Other], **more: Any) -> Other:
        """Another command with everything that both have, and `more`."""
        shared = type(self).model_fields.keys() & kind.model_fields.keys() - {"command"}
        values = {**self.model_dump(include=shared), **more}
        return kind.build(values).trusting(self.trust_code)

    def to_toml(self) -> str:
        """The file that replays the run. None has no place in TOML and means the default."""
        body: dict[str, Any] = _plain(self.model_dump(mode="json"))
        return tomli_w.dumps(body)


class OneVictim(Run):
    """A victim and the data that it is trained on."""

    victim: VictimConfig
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)


class Hardened(OneVictim):
    """Perhaps with a defence.

    defense_budget: what the defence is trained against; by default L∞ 8/255
    """

    defense: MethodConfig | None = None
    defense_budget: BudgetConfig = Field(default_factory=BudgetConfig)

    @property
    def victim_seed(self) -> int:
        """The seed of the training of the victim and of its defence."""
        return self.seed if self.victim.seed is None else self.victim.seed


class TrainConfig(Hardened):
    """`advhash train`: a victim, a data set, a seed, and perhaps a defence."""

    command: Literal["train"] = "train"


class AttackConfig(Hardened):
    """`advhash attack`. `victim.seed` trains the victim with another seed than the attack's."""

    command: Literal["attack"] = "attack"
    attack: MethodConfig
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: AttackProtocol = Field(default_factory=AttackProtocol)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
