"""Names for victims, attacks, defences, data sets and runs; the constructor is the config.

A method is one class or function and one decorator:

    @ATTACKS.register("dhta", source="Bai et al., ECCV 2020")
    class ...:
        def __init__(self, *, steps: int = 100) -> None: ...

The registry reads the settings from the signature: a keyword without a default is required, an
unknown keyword or a wrong type names the field and the nearest valid name. A preset is a named
set of settings that replaces the defaults, e.g. `preset="paper"`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from advhash.errors import ConfigError, UnknownName, UsageError, nearest

T = TypeVar("T")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered method: its name, what builds it, its source and its presets."""

    name: str
    build: Callable[..., T]
    source: str
    presets: Mapping[str, Settings] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @property
    def deviations(self) -> list[str]:
        """Where the method differs from its source: the bullets of its docstring.

        They stand under a line that begins with "Deviations", in the class or its bases.
        """
        classes = self.build.__mro__ if inspect.isclass(self.build) else (self.build,)
        deviations: list[str] = []
        for owner in classes:
            listing = False
            for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
                if line.startswith("Deviations"):
                    listing = True
                elif listing and line.startswith("- "):
                    deviations.append(line[2:])
                elif listing and line.startswith("  "):
                    deviations[-1] += " " + line.strip()
                else:
                    listing = False
        return [text.rstrip(";.") for text in deviations]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file that defines the method; "" for those of advhash.

        Cache keys hold all files of advhash already; a package's own file must not be confused
        with what it was before.
        """
        file = inspect.getsourcefile(inspect.unwrap(self.build))
        if self.build.__module__.partition(".")[0] == "advhash" or file is None:
            return ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    @functools.cached_property
    def model(self) -> type[BaseModel]:
        """The pydantic model of the constructor's keyword-only arguments."""
        target: Any = self.build
        if inspect.isclass(target) and not is_dataclass(target):
            target = target.__init__
        hints = typing.get_type_hints(target)  # of a dataclass, each field in its own module
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(self.build).parameters.values():
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise TypeError(f"{self.name}: {parameter.name} must be keyword-only")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        return create_model(
            f"{self.name}_settings",
            __config__=ConfigDict(
                extra="forbid",
                allow_inf_nan=False,
                arbitrary_types_allowed=True,
                protected_namespaces=(),
                validate_default=False,
            ),
            **fields,
        )

    def check_names(self, kind: str, given: Mapping[str, object]) -> None:
        """Raise ConfigError for the first key that is no setting, with the nearest one."""
        for key in given:
            if key != "preset" and key not in self.model.model_fields:
                known = sorted(self.model.model_fields)
                raise ConfigError(
                    f"{kind} {self.name!r} has no setting {key!r}: {nearest(key, known)}"
                    f"Known: {', '.join(known)}"
                )

    def settings(self, kind: str, given: Mapping[str, object]) -> Settings:
        """All settings, defaults included, after `preset` and then `given` were applied.

        Raises ConfigError: an unknown key, a wrong type, a missing required setting.
        """
        given = dict(given)
        preset = given.pop("preset", None)
        base: Settings = {}
        if preset not in (None, "small"):  # "small" names the defaults
            if not isinstance(preset, str) or preset not in self.presets:
                known = ["small", *self.presets]
                raise ConfigError(
                    f"{kind} {self.name!r} has no preset {preset!r}: "
                    f"{nearest(str(preset), known)}Known: {', '.join(sorted(known))}"
                )
            base = dict(self.presets[preset])
        self.check_names(kind, given)
        try:
            return dict(self.model.model_validate({**base, **given}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{kind} {self.name!r}, setting {where!r}: {first['msg'].lower()}"
                + ("" if first["type"] == "missing" else f", got {first['input']!r}")
            ) from None


class Registry(Generic[T]):
    """A table of methods of one kind.

    modules: imported when a name is first looked up
    beside:  methods with a command of their own whose names may be given for one of these
    """

    def __init__(
        self, kind: str, modules: tuple[str, ...], beside: Registry[Any] | None = None
    ) -> None:
        self.kind = kind
        self._modules = modules
        self._beside = beside
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(
        self, name: str, *, source: str, presets: Mapping[str, Settings] | None = None
    ) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator. Raises ValueError where the name is taken, TypeError where a method lacks."""

        def decorate(build: Callable[..., T]) -> Callable[..., T]:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            if inspect.isabstract(build):
                lacks = ", ".join(sorted(getattr(build, "__abstractmethods__", ())))
                raise TypeError(f"{self.kind} {name!r} lacks {lacks}")
            self._entries[name] = Entry(name, build, source, presets or {})
            return build

        return decorate

    def _load(self) -> None:
        if self._loaded:
            return
        for module in self._modules:
            importlib.import_module(module)
        for point in entry_points(group=f"advhash.{self.kind}s"):
            try:
                point.load()
            except Exception as error:  # code of others can raise anything
                package = point.dist.name if point.dist else "an unknown package"
                raise UsageError(
                    f"{package} registers {_article(self.kind)} in {point.value!r}, which raised "
                    f"{type(error).__name__}: {error}; repair or uninstall {package}"
                ) from error
        self._loaded = True

    def __iter__(self) -> Iterator[Entry[T]]:
        self._load()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __getitem__(self, name: str) -> Entry[T]:
        self._load()
        if name not in self._entries:
            beside = [entry.name for entry in self._beside or ()]
            if self._beside is not None and name in beside:
                raise UsageError(
                    f"{name} is no {self.kind} but one of the {self._beside.kind}s: it runs alone "
                    f"(`advhash attack --method {name}`)"
                )
            raise UnknownName(self.kind, name, [*self._entries, *beside])
        return self._entries[name]

    def settings(self, name: str, given: Mapping[str, object] | None = None) -> Settings:
        """The full settings of a method; see `Entry.settings`."""
        return self[name].settings(self.kind, given or {})

    def create(self, name: str, given: Mapping[str, object] | None = None) -> T:
        """Build a method from its settings. Raises UsageError, among them UnknownName."""
        entry = self[name]
        try:
            return entry.build(**entry.settings(self.kind, given or {}))
        except UsageError:
            raise
        except ValueError as error:  # a constructor refuses a value
            raise ConfigError(f"{self.kind} {name!r}: {error}") from None


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# The element types are kept as Any here: this module lies below those that define them.
VICTIMS: Registry[Any] = Registry(
    "victim",
    (
        "advhash.victims.image.pairwise",
        "advhash.victims.image.hashnet",
        "advhash.victims.image.csq",
        "advhash.victims.cross_modal.dlcmh",
        "advhash.victims.cross_modal.dcmh",
        "advhash.victims.federated.hashvfl",
        "advhash.victims.perceptual.hashes",
        "advhash.victims.neural.neural_code",
    ),
)
INVERSIONS: Registry[Any] = Registry("inversion", ("advhash.attacks.inversion.code_inversion",))
ATTACKS: Registry[Any] = Registry(
    "attack",
    (
        "advhash.attacks.gradient.targeted",
        "advhash.attacks.evolved.genome",
        "advhash.attacks.gradient.hiding",
        "advhash.attacks.prosgan.prosgan",
        "advhash.attacks.universal",
        "advhash.attacks.black_box.baselines",
        "advhash.attacks.words.hotflip",
        "advhash.attacks.collision",
        "advhash.attacks.black_box.nes",
        "advhash.attacks.black_box.square",
        "advhash.attacks.bridge.torchattacks_bridge",
        "advhash.attacks.ensemble",
    ),
    beside=INVERSIONS,
)
DEFENSES: Registry[Any] = Registry(
    "defense",
    (
        "advhash.defenses.training.adversarial",
        "advhash.defenses.training.noise",
        "advhash.defenses.wrappers.purify",
        "advhash.defenses.wrappers.smoothing",
    ),
)
DETECTORS: Registry[Any] = Registry(
    "detector",
    (
        "advhash.defenses.detectors.federated",
        "advhash.defenses.detectors.image_codes",
        "advhash.defenses.detectors.combined",
        "advhash.defenses.detectors.novelty",
    ),
)
DATASETS: Registry[Any] = Registry(
    "dataset",
    (
        "advhash.data.readers.arrays",
        "advhash.data.readers.caption_table",
        "advhash.data.readers.dcmh_mat",
        "advhash.data.readers.flickr8k",
        "advhash.data.readers.hashnet_lists",
        "advhash.data.readers.image_folder",
        "advhash.data.readers.near_duplicates",
        "advhash.data.readers.openmoji_set",
        "advhash.data.readers.own_table",
        "advhash.data.readers.scikit_learn",
        "advhash.data.readers.tables",
    ),
)
EXPERIMENTS: Registry[Any] = Registry(
    "experiment",
    (
        "advhash.experiments.attack.run",
        "advhash.experiments.benchmark.run",
        "advhash.experiments.certify.run",
        "advhash.experiments.detect.run",
        "advhash.experiments.encode.run",
        "advhash.experiments.evolve.run",
        "advhash.experiments.invert.run",
        "advhash.experiments.lifelong.run",
        "advhash.experiments.phase.run",
        "advhash.experiments.transfer.run",
        "advhash.experiments.defend",
    ),
)
