"""One run, one file. `config.toml` holds every setting of a run and replays it.

Precedence: `--set table.key=value` over options over `--config FILE` over defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from advhash.budget import Budget, Norm, parse_eps
from advhash.config_text import parse_method
from advhash.errors import ConfigError, nearest
from advhash.metrics import Empty, Ties
from advhash.targets import TargetRule

__all__ = [
    "AttackConfig",
    "BudgetConfig",
    "CertifyConfig",
    "DatasetConfig",
    "DetectConfig",
    "EncodeConfig",
    "GridConfig",
    "LifelongConfig",
    "MethodConfig",
    "OrdersConfig",
    "PhaseConfig",
    "PhaseGrid",
    "ProtocolConfig",
    "SearchConfig",
    "SearchTable",
    "SuiteConfig",
    "TrainConfig",
    "TransferConfig",
    "VictimConfig",
    "method_label",
]

Model = TypeVar("Model", bound="_Table")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    @classmethod
    def build(cls: type[Model], values: Mapping[str, Any]) -> Model:
        """Validate. Raises ConfigError naming the field, what was expected and what came."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _config_error(cls, error) from None


class _Named(_Table):
    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        """Every key but `name`; the registry checks them."""
        return dict(self.model_extra or {})


class MethodConfig(_Named):
    """A registered name and its settings: `name`, and any further key that the method takes."""

    name: str


class VictimConfig(MethodConfig):
    """seed: of its training and of its defence; None: the seed of the run."""

    seed: int | None = Field(default=None, ge=0, lt=2**63, strict=True)


class DatasetConfig(_Named):
    """Likewise; without a name, the victim's default data set."""

    name: str | None = None


class BudgetConfig(_Table):
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


class ProtocolConfig(_Table):
    """How the figures are taken; see docs/metrics.md.

    false_positive_rate: of the threshold of perceptual hashes, on clean pairs that differ
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
    poison: int | None = Field(default=None, ge=1)  # adversarial items added to the database


class _Run(_Table):
    """A whole command, which one file replays."""

    def to_toml(self) -> str:
        """The file that replays the run. None has no place in TOML and means the default."""
        body: dict[str, Any] = _plain(self.model_dump(mode="json"))
        return tomli_w.dumps(body)


class _Command(_Run):
    """Whether the user trusts code that the config names is told with the command, never in a file.

    A config from a stranger could name any function: it is neither read from a file nor written.
    """

    _trust_code: bool = PrivateAttr(default=False)

    @property
    def trust_code(self) -> bool:
        return self._trust_code

    def trusting(self, trust_code: bool) -> Self:
        """The same config, with the word of the user about code it names."""
        config = self.model_copy()
        config._trust_code = trust_code
        return config


class _OneVictim(_Command):
    """A victim and the data that it is trained on."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    victim: VictimConfig
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)


class _Hardened(_OneVictim):
    """Perhaps with a defence.

    defense_budget: what the defence is trained against; by default L∞ 8/255
    """

    defense: MethodConfig | None = None
    defense_budget: BudgetConfig = Field(default_factory=BudgetConfig)

    @property
    def victim_seed(self) -> int:
        """Of the training of the victim and of its defence."""
        return self.seed if self.victim.seed is None else self.victim.seed


class TrainConfig(_Hardened):
    """`advhash train`: a victim, a data set, a seed, and perhaps a defence."""

    command: Literal["train"] = "train"


class AttackConfig(_Hardened):
    """`advhash attack`. `victim.seed` trains the victim with another seed than the attack's."""

    command: Literal["attack"] = "attack"
    attack: MethodConfig
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)


class OrdersConfig(_Table):
    """In which order categories arrive, and how much is repeated.

    categories: the new categories of each increment of each order, instead of drawn ones
    attacked_seeds: how many of the seeds of each order are attacked; 0: none
    """

    orders: int = Field(default=3, ge=1, le=100, strict=True)
    increments: int = Field(default=2, ge=1, le=20, strict=True)
    share: float = Field(default=0.08, gt=0, lt=1)  # of the database, of one increment
    seeds: int = Field(default=3, ge=1, le=100, strict=True)
    categories: list[list[list[str]]] | None = None
    attacked_seeds: int = Field(default=1, ge=0, strict=True)
    queries: int = Field(default=100, ge=1, strict=True)  # that are attacked


class LifelongConfig(_Run):
    """`advhash lifelong`. `rival` is dcmh; `attack` prosgan."""

    command: Literal["lifelong"] = "lifelong"
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    victim: VictimConfig
    rival: MethodConfig = Field(default_factory=lambda: MethodConfig(name="dcmh"))
    attack: MethodConfig = Field(default_factory=lambda: MethodConfig(name="prosgan"))
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    lifelong: OrdersConfig = Field(default_factory=OrdersConfig)


class TransferConfig(_Command):
    """`advhash transfer`: every method on every victim, judged on all of them.

    victims: at least two; a setting `seed` of one trains it with a seed of its own, and `defense`
        (a name, or a table of a name and settings) hardens it under `defense_budget`, or else under
        the budget of the attacks
    attacks: the methods, with their settings
    """

    command: Literal["transfer"] = "transfer"
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    victims: list[VictimConfig] = Field(min_length=2)
    attacks: list[MethodConfig] = Field(min_length=1)
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)


class GridConfig(_Table):
    """Every data set × victim × defence × attack × budget of its lists.

    An item is a table, or a line: `dpsh+bits=16`; for a budget, its ε: `8/255`.

    defenses: "none" is the victim as it was trained
    budgets:  an empty list: the default budget of each attack
    """

    datasets: list[DatasetConfig] = Field(min_length=1)
    victims: list[VictimConfig] = Field(min_length=1)
    defenses: list[MethodConfig] = Field(
        default_factory=lambda: [MethodConfig(name="none")], min_length=1
    )
    attacks: list[MethodConfig] = Field(min_length=1)
    budgets: list[BudgetConfig] = []
    defense_budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)

    @field_validator("datasets", "victims", "defenses", "attacks", mode="before")
    @classmethod
    def _named(cls, items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [parse_method(one) if isinstance(one, str) else one for one in items]

    @field_validator("budgets", mode="before")
    @classmethod
    def _radii(cls, items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [{"eps": one} if isinstance(one, str | float | int) else one for one in items]


class SuiteConfig(_Command):
    """`advhash benchmark`: grids, each victim trained and each attack made with several seeds.

    seed: the first of the seeds
    name: becomes part of the run folder's name
    """

    command: Literal["benchmark"] = "benchmark"
    name: str = Field(default="suite", pattern=r"^[\w .+-]+$")
    seed: int = Field(default=0, ge=0, lt=2**62)
    device: str = "auto"
    victim_seeds: int = Field(default=3, ge=1, le=100, strict=True)
    attack_seeds: int = Field(default=3, ge=1, le=100, strict=True)
    grids: list[GridConfig] = Field(min_length=1)


class AdaptiveConfig(_Table):
    """Of the attacker who knows the detector; what is not set is as `AdaptiveSlice` has it.

    Of a hash of images `AdaptiveTargeted` takes `steps` alone.
    """

    classes: int | None = None
    steps: int | None = None
    learning_rate: float | None = None
    weight: float | None = None


class DetectConfig(_Hardened):
    """`advhash detect`: how well abnormal inputs are told from clean ones.

    detector: None: `code-max` of a federation, `flips` of a hash of images
    attack:   what makes the abnormal inputs; None: `inputs` does
    inputs:   None without an attack: mixed of a federation, unbounded `prosgan` of a hash of images
    other:    data set of the out-of-distribution inputs
    budget:   of the attack and the adaptive one
    """

    command: Literal["detect"] = "detect"
    detector: MethodConfig | None = None
    attack: MethodConfig | None = None
    inputs: Literal["mixed", "noise", "ood"] | None = None
    other: str | None = None
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    adaptive: AdaptiveConfig = Field(default_factory=AdaptiveConfig)
    queries: int | None = Field(default=None, ge=1)


class CertifyConfig(_Hardened):
    """`advhash certify`: what randomised smoothing certifies of a victim of images.

    sigma, votes: of the smoothing around the victim; None: its own where it is smoothed, else the
        defaults of `smoothing`
    samples, selection, alpha: of the certificate, see `advhash.defenses.smoothing.certify`
    radii:      L2, in [0,1] pixels
    within:     T, the Hamming radius that is searched; None: a quarter of the bits
    served_votes, level: of a server that draws its noise anew, see `held_when_served`
    """

    command: Literal["certify"] = "certify"
    database: str | None = None
    queries: int | None = Field(default=100, ge=1)
    sigma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    votes: int | None = Field(default=None, ge=1)
    samples: int = Field(default=1000, ge=1)
    selection: int = Field(default=100, ge=1)
    alpha: float = Field(default=0.001, gt=0, lt=1)
    radii: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=[0.25, 0.5, 1.0], min_length=1
    )
    within: int | None = Field(default=None, ge=0)
    served_votes: int = Field(default=101, ge=1)
    level: float = Field(default=0.01, gt=0, lt=1)


class EncodeConfig(_OneVictim):
    """`advhash encode`: what codes encode. Without an attack: DHTA, where the victim has gradients.

    queries: how many test pictures; None: the whole query split
    most_bits: of the network inside an image hash, drawn where more vary
    """

    command: Literal["encode"] = "encode"
    attack: MethodConfig | None = None
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    queries: int | None = Field(default=None, ge=2)
    most_bits: int = Field(default=8192, ge=1)


class PhaseGrid(_Table):
    """The axes of a phase chart, and the thresholds of its regimes, which are ours.

    epochs: times at which each training is measured; 0 is the network at initialisation
    samples: training rows; noises: shares of wrong training labels
    queries: that are attacked at each point
    under, sufficient: redundancy ratios; saturation: gain of accuracy by the next width
    """

    widths: list[Annotated[int, Field(ge=1)]] = [3, 6, 12, 25, 50, 100, 200]
    epochs: list[Annotated[int, Field(ge=0)]] = [0, 1, 3, 10, 20, 40]
    samples: list[Annotated[int, Field(ge=2)]] = [100, 300, 1000]
    weight_decays: list[Annotated[float, Field(ge=0)]] = [1e-6, 1e-2]
    noises: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 0.3]
    repeats: int = Field(default=2, ge=1, le=100, strict=True)
    queries: int = Field(default=50, ge=1, strict=True)
    under: float = Field(default=0.05, ge=0, le=1)
    sufficient: float = Field(default=0.01, ge=0, le=1)
    saturation: float = Field(default=0.01, ge=0, le=1)

    @field_validator("widths", "epochs", "samples", "weight_decays", "noises")
    @classmethod
    def _ascending(cls, values: list[Any]) -> list[Any]:
        if not values or sorted(set(values)) != values:
            raise ValueError("expected different values in ascending order")
        return values


class PhaseConfig(_Run):
    """`advhash phase-chart`: neural codes over size, time, sample, regularisation, label noise."""

    command: Literal["phase-chart"] = "phase-chart"
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    victim: VictimConfig = Field(default_factory=lambda: VictimConfig(name="neural-code"))
    attack: MethodConfig = Field(
        default_factory=lambda: MethodConfig.build({"name": "dhta", "steps": 20})
    )
    dataset: DatasetConfig = Field(
        default_factory=lambda: DatasetConfig.build({"name": "digits", "size": 16})
    )
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    phase: PhaseGrid = Field(default_factory=PhaseGrid)


class SearchTable(_Table):
    """How a search goes; None: the default of the domain, see `advhash.searching`.

    seconds, candidates: when it ends; keyed, bits, noise: of the functional hash and the fitness
    steps, queries: of each attack; checked: share of hits that are evaluated nevertheless
    held_out: queries on which the winner is judged
    """

    algorithm: Literal["evolution", "random", "hill-climbing"] = "evolution"
    population: int | None = Field(default=None, ge=1, le=100_000)
    tournament: int | None = Field(default=None, ge=1)
    different: bool = False
    tabu_after: int = Field(default=0, ge=0)
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    candidates: int | None = Field(default=None, ge=1)
    repeats: int | None = Field(default=None, ge=1, le=1000)
    keyed: Literal["losses", "accuracies"] = "losses"
    bits: int | None = Field(default=None, ge=0, le=52)
    noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_num_evals: int = Field(default=1, ge=1)
    remove_probability: float = Field(default=0.0, ge=0, le=1)
    forget_every: int = Field(default=0, ge=0)
    capacity: int = Field(default=100_000, ge=1)
    checked: float = Field(default=0.05, ge=0, le=1)
    steps: int = Field(default=20, ge=1)
    queries: int = Field(default=100, ge=1)
    held_out: int | None = Field(default=None, ge=1)


class SearchConfig(_Command):
    """`advhash search`. `table`: a file of trained cells; `other`: a victim that no search sees."""

    command: Literal["search"] = "search"
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    domain: Literal["attack", "nas"]
    executor: str = "inline"
    search: SearchTable = Field(default_factory=SearchTable)
    table: str | None = None
    victim: VictimConfig = Field(default_factory=lambda: VictimConfig(name="dpsh"))
    other: VictimConfig = Field(default_factory=lambda: VictimConfig(name="csq"))
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    targets: TargetRule = "disjoint"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _config_error(model: type[BaseModel], error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    # in a union, pydantic appends the type that it tried
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "float"))
    if first["type"] == "extra_forbidden":
        table: Any = model
        for part in first["loc"][:-1]:
            if isinstance(part, int):  # an item of a list of tables
                continue
            field = table.model_fields[str(part)]
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            table = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
        known = sorted(table.model_fields)
        return ConfigError(
            f"no setting {where!r}: {nearest(str(first['loc'][-1]), known)}"
            f"Known here: {', '.join(known)}"
        )
    if first["type"] == "missing":
        return ConfigError(f"setting {where!r} is missing")
    return ConfigError(f"setting {where!r}: {first['msg'].lower()}, got {first['input']!r}")


def method_label(table: MethodConfig | DatasetConfig) -> str:
    """`dpsh+bits=16+seed=1`: what `parse_method` reads, of a checkpoint its last folder."""
    own = table.model_dump(exclude={"name"}, exclude_none=True)
    return "+".join([Path(table.name or "").name, *map(_setting, own.items())])


def _setting(pair: tuple[str, Any]) -> str:
    key, value = pair
    if key == "defense" and isinstance(value, Mapping):
        rest = [f"{name}={one}" for name, one in value.items() if name != "name"]
        return "+".join([str(value.get("name")), *rest])
    return str(value) if key == "defense" else f"{key}={value}"
