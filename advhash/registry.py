"""Names for victims, attacks, defences, data sets and runs; the constructor is the config.

A method is one class or function and one decorator:

    @ATTACKS.register("dhta", source="Bai et al., ECCV 2020")
    class ...:
        def __init__(self, *, steps: int = 100) -> None: ...

The registry reads the settings from the signature: a keyword without a default is required, an
unknown keyword or a wrong type names the field and the nearest valid name. A preset is a named
set of settings that replaces the defaults, e.g. `preset="paper"`.

What is listed, completed and refused needs no import of a method: `methods.json` holds names,
summaries, settings and presets of all that advhash has (`python tests/test_method_index.py` writes
it, a test compares it). Other packages are known by their entry points. A method is imported when
it is looked up; its constructor alone determines what it does.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import json
import os
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from advhash.errors import ConfigError, UnknownName, UsageError, nearest
from advhash.validation import first_fault, refusal

T = TypeVar("T")
Settings = dict[str, Any]
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
INDEX = Path(__file__).with_name("methods.json")
FORMS = frozenset(  # readers of anybody's data in a form, whose names do not say what was read
    {"captioned", "folder", "image_lists", "near_duplicates", "table", "texts"}
)


class Method(ABC):
    """What is known of a method, imported or not: enough to list it and to refuse settings."""

    name: str
    source: str
    presets: Mapping[str, Settings]

    @property
    @abstractmethod
    def module(self) -> str:
        """The module that defines the method."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """First line of the docstring."""

    @property
    @abstractmethod
    def model(self) -> type[BaseModel]:
        """The pydantic model of the constructor's keyword-only arguments."""

    @abstractmethod
    def fact(self, name: str) -> Any:
        """An attribute of the class that its registry keeps, as JSON: a class is `module:name`."""

    def check_names(self, kind: str, given: Mapping[str, object]) -> None:
        """Raise ConfigError for the first key that is no setting, with the nearest one."""
        for key in given:
            if key != "preset" and key not in self.model.model_fields:
                known = sorted(self.model.model_fields)
                raise ConfigError(
                    f"{kind} {self.name!r} has no setting {key!r}: {nearest(key, known)}"
                    f"Known: {', '.join(known) or 'none'}"
                )

    def settings(self, kind: str, given: Mapping[str, object], *, table: str = "") -> Settings:
        """All settings, defaults included, after `preset` and then `given` were applied.

        table: of a config, which names the method; by default called as the kind is

        Raises ConfigError: an unknown key, a wrong type, a missing required setting.
        """
        return self._validated(kind, given, partly=False, table=table)

    def check(
        self, kind: str, given: Mapping[str, object], *, partly: bool = False, table: str = ""
    ) -> None:
        """Raise ConfigError for what `settings` refuses.

        partly: further settings will come, e.g. from the data: none is missing yet
        """
        self._validated(kind, given, partly=partly, table=table)

    def _listed(self, key: str, value: object) -> object:
        """What `2/255,16/255`, or one item alone, means where a setting is a list."""
        annotation = self.model.model_fields[key].annotation
        if get_origin(annotation) is tuple:
            if isinstance(value, str):
                return [item.strip() for item in value.split(",")] if value else []
            alone = isinstance(value, int | float) and not isinstance(value, bool)
            return [value] if alone else value
        some = any(get_origin(kind) is tuple for kind in get_args(annotation))
        if some and isinstance(value, str) and "," in value:
            return [item.strip() for item in value.split(",")]
        return value

    def _validated(
        self, kind: str, given: Mapping[str, object], *, partly: bool, table: str
    ) -> Settings:
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
        values = {**base, **{key: self._listed(key, value) for key, value in given.items()}}
        try:
            return dict(self.model.model_validate(values))
        except ValidationError as error:
            fault = first_fault(self.model, error, values, partly=partly)
            if fault is None:
                return {}
            raise refusal(fault, table=table or kind, method=self.name) from None


@dataclass(frozen=True)
class Entry(Method, Generic[T]):
    """One registered method: its name, what builds it, its source and its presets."""

    name: str
    build: Callable[..., T]
    source: str
    presets: Mapping[str, Settings] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.build.__module__

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @property
    def deviations(self) -> list[str]:
        """Where the method differs from its source: the bullets of its docstring.

        They stand under a line that begins with "Deviations", in the class or its bases. Those
        "of the defaults only", which settings of a run may undo, begin with "by default".
        """
        classes = self.build.__mro__ if inspect.isclass(self.build) else (self.build,)
        deviations: list[str] = []
        for owner in classes:
            listing, opening = False, ""
            for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
                if line.startswith("Deviations"):
                    listing = True
                    opening = "by default " if "of the defaults only" in line else ""
                elif listing and line.startswith("- "):
                    deviations.append(opening + line[2:])
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
        if _is_ours(self.build) or file is None:
            return ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    @functools.cached_property
    def model(self) -> type[BaseModel]:
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
        return _model(self.name, fields)

    def fact(self, name: str) -> Any:
        value = getattr(self.build, name)
        if inspect.isclass(value):
            return f"{value.__module__}:{value.__name__}"
        return sorted(value) if isinstance(value, frozenset) else value


class Listed(Method):
    """A method of advhash as the index has it, not imported.

    module: whose import registers it
    """

    def __init__(self, name: str, record: Mapping[str, Any]) -> None:
        self.name = name
        self.source = record["source"]
        self.presets = record.get("presets", {})
        self._record = record

    @property
    def module(self) -> str:
        return str(self._record["module"])

    @property
    def summary(self) -> str:
        return str(self._record["summary"])

    @functools.cached_property
    def model(self) -> type[BaseModel]:
        fields: dict[str, Any] = {}
        for name, text in self._record.get("settings", {}).items():
            kind, equals, default = text.partition(" = ")
            fields[name] = (kind, ast.literal_eval(default) if equals else ...)
        return _model(self.name, fields)

    def fact(self, name: str) -> Any:
        return self._record["facts"][name]


@dataclass(frozen=True)
class Row:
    """A line of `advhash list`. presets: None of a package's method that was not imported."""

    name: str
    source: str
    summary: str
    presets: tuple[str, ...] | None


class Registry(Generic[T]):
    """A table of methods of one kind.

    modules: each imported when a name of its is first looked up
    facts:   attributes of the classes that the index keeps
    beside:  methods with a command of their own whose names may be given for one of these
    stored:  how names begin that stand for a folder of an installed package
    table:   of a config, which names one; by default called as the kind is
    """

    def __init__(
        self,
        kind: str,
        modules: tuple[str, ...],
        *,
        facts: tuple[str, ...] = (),
        beside: Registry[Any] | None = None,
        stored: str = "",
        table: str = "",
    ) -> None:
        self.kind = kind
        self.table = table or kind
        self.modules = modules
        self.facts = facts
        self._stored = stored
        self._beside = beside
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self, name: str, *, source: str, presets: Mapping[str, Settings] | None = None
    ) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator. Raises ValueError where the name is taken, TypeError where a method lacks."""

        def decorate(build: Callable[..., T]) -> Callable[..., T]:
            if name in self._entries or (name in self._listed and not _is_ours(build)):
                raise ValueError(f"{self.kind} {name!r} is registered already")
            if inspect.isabstract(build):
                lacks = ", ".join(sorted(getattr(build, "__abstractmethods__", ())))
                raise TypeError(f"{self.kind} {name!r} lacks {lacks}")
            self._entries[name] = Entry(name, build, source, presets or {})
            return build

        return decorate

    @functools.cached_property
    def _listed(self) -> dict[str, Listed]:
        """The methods of advhash, by name."""
        known = _index().get(self.kind, {}) if self.modules else {}
        return {name: Listed(name, record) for name, record in known.items()}

    @functools.cached_property
    def _points(self) -> dict[str, EntryPoint]:
        """The methods that installed packages bring, by the names of their entry points.

        Raises UsageError where one has the name of another method.
        """
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=f"advhash.{self.kind}s"):
            if point.name in self._listed or point.name in points:
                raise UsageError(
                    f"{_package(point)} brings {_article(self.kind)} {point.name!r}, which is "
                    f"registered already; repair or uninstall {_package(point)}"
                )
            points[point.name] = point
        return points

    def names(self) -> list[str]:
        """The names of all methods, none imported."""
        return sorted({*self._entries, *self._listed, *self._points})

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._listed or name in self._points

    def rows(self) -> Iterator[Row]:
        """What `advhash list` prints of each method, none imported."""
        for name in self.names():
            known = self._entries.get(name) or self._listed.get(name)
            if known is not None:
                yield Row(name, known.source, known.summary, ("small", *known.presets))
            else:
                summary = "From an installed package, which is imported when it is used."
                yield Row(name, _package(self._points[name]), summary, None)

    def is_place(self, name: str) -> bool:
        """Whether a name is that of a file or folder, there or not, rather than of a method."""
        if name in self:
            return False
        return (
            (self._stored != "" and name.startswith(self._stored))
            or "/" in name
            or "\\" in name
            or os.path.splitext(name)[1][1:].isalpha()  # nofile.csv
            or os.path.exists(name)
        )

    def describe(self, name: str) -> Method:
        """What is known of a method; one of advhash is not imported. Raises as a look-up does."""
        if name in self._listed and name not in self._points:  # which refuse a name that is taken
            return self._entries.get(name) or self._listed[name]
        return self[name]

    def brought(self) -> Iterator[Entry[T]]:
        """The methods of installed packages, imported. Raises UsageError for a broken package."""
        for name in self._points:
            yield self[name]

    def __iter__(self) -> Iterator[Entry[T]]:
        """Every method, imported."""
        for module in self.modules:
            importlib.import_module(module)
        for point in self._points.values():
            _load(self.kind, point)
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __getitem__(self, name: str) -> Entry[T]:
        """A method, imported. Raises UnknownName, UsageError."""
        if name in self._entries:
            return self._entries[name]
        if name in self._listed and name not in self._points:
            importlib.import_module(self._listed[name].module)
        elif name in self._points:
            point = self._points[name]
            _load(self.kind, point)
            if name not in self._entries:
                raise UsageError(
                    f"{_package(point)} brings {_article(self.kind)} {name!r} in {point.value!r}, "
                    f"which registers none of that name; repair or uninstall {_package(point)}"
                )
        elif self._beside is not None and name in self._beside:
            raise UsageError(
                f"{name} is no {self.kind} but one of the {self._beside.kind}s: it runs alone "
                f"(`advhash attack --method {name}`)"
            )
        else:
            beside = [] if self._beside is None else self._beside.names()
            if self.kind == "victim":
                beside = [f"{prefix}:…" for prefix in ENCODER_PREFIXES]
            error = UnknownName(self.kind, name, [*self.names(), *beside])
            if self.kind == "dataset":
                error.args = (f"{error}; or the path of a folder or file (no {name!r} is here)",)
            raise error
        return self._entries[name]

    def settings(self, name: str, given: Mapping[str, object] | None = None) -> Settings:
        """The full settings of a method; see `Method.settings`."""
        return self[name].settings(self.kind, given or {}, table=self.table)

    def create(self, name: str, given: Mapping[str, object] | None = None) -> T:
        """Build a method from its settings. Raises UsageError, among them UnknownName."""
        entry = self[name]
        try:
            return entry.build(**entry.settings(self.kind, given or {}, table=self.table))
        except UsageError:
            raise
        except ValueError as error:  # a constructor refuses a value
            raise ConfigError(f"{self.kind} {name!r}: {error}") from None


ZOO_PREFIX = "zoo:"
ENCODER_PREFIXES = ("timm", "hf", "st", "onnx")  # see advhash.victims.encoders.sources


def is_encoder(name: str) -> bool:
    """Whether a victim's name is that of an encoder: a known prefix, a colon, a model.

    >>> is_encoder("timm:resnet18"), is_encoder("hf:./clip"), is_encoder("my_hashes:average")
    (True, True, False)
    """
    return name.partition(":")[0] in ENCODER_PREFIXES and ":" in name


def is_zoo(name: str) -> bool:
    """Whether a victim's name is that of one in a zoo that is installed.

    >>> is_zoo("zoo:dpsh-digits-32"), is_zoo("dpsh")
    (True, False)
    """
    return name.startswith(ZOO_PREFIX)


def called(name: str, settings: Mapping[str, object]) -> str:
    """What people call a victim: an encoder by the model that it is, without the folders around it.

    >>> called("encoder", {"encoder": "timm:resnet18"}), called("dpsh", {"bits": 32})
    ('timm:resnet18', 'dpsh')
    >>> called("encoder", {"encoder": "onnx:/srv/models/hash.onnx"})
    'onnx:hash.onnx'
    """
    encoder = str(settings.get("encoder", ""))
    if name != "encoder" or not is_encoder(encoder):
        return name
    prefix, _, what = encoder.partition(":")
    return f"{prefix}:{PurePath(what).name or what}"


def data_called(name: str, settings: Mapping[str, object]) -> str:
    """What people call a data set: their own by its folder or file, without the folders around it.

    >>> data_called("folder", {"root": "/home/kim/holiday_photos"}), data_called("digits", {})
    ('holiday_photos', 'digits')
    >>> data_called("near_duplicates", {"root": ""}), data_called("cifar10", {"root": "/data/jpg"})
    ('near_duplicates', 'cifar10')
    """
    return PurePath(str(settings["root"])).name or name if is_own(name, settings) else name


def is_own(name: str, settings: Mapping[str, object]) -> bool:
    """Whether a data set is the user's own, whose name is that of its folder or file."""
    return name in FORMS and bool(settings.get("root"))


def is_external(name: str) -> bool:
    """Whether a victim's name has the form `module:function`, and is no encoder's or zoo's.

    >>> is_external("my_package.hashes:average"), is_external("dpsh"), is_external("C:/victim")
    (True, False, False)
    """
    return _FUNCTION.fullmatch(name) is not None and not is_encoder(name) and not is_zoo(name)


@functools.cache
def _index() -> dict[str, dict[str, Any]]:
    """The methods of advhash by kind and name."""
    index: dict[str, dict[str, Any]] = json.loads(INDEX.read_text("utf-8"))
    return index


def _model(name: str, fields: dict[str, Any]) -> type[BaseModel]:
    """The pydantic model of settings: each a type, or its text, and a default; `...` has none."""
    return create_model(
        f"{name}_settings",
        __module__=__name__,  # where the texts of types are understood
        __config__=ConfigDict(
            extra="forbid",
            allow_inf_nan=False,
            arbitrary_types_allowed=True,
            protected_namespaces=(),
            validate_default=False,
        ),
        **fields,
    )


def _is_ours(build: Callable[..., object]) -> bool:
    """Whether advhash itself defines a method."""
    return build.__module__.partition(".")[0] == "advhash"


def _load(kind: str, point: EntryPoint) -> None:
    """Import what a package brings. Raises UsageError where that fails."""
    try:
        point.load()
    except Exception as error:  # code of others can raise anything
        package = _package(point)
        raise UsageError(
            f"{package} registers {_article(kind)} in {point.value!r}, which raised "
            f"{type(error).__name__}: {error}; repair or uninstall {package}"
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# The element types are kept as Any here: this module lies below those that define them.
VICTIMS: Registry[Any] = Registry(
    "victim",
    (
        "advhash.victims.image.pairwise",
        "advhash.victims.image.hashnet",
        "advhash.victims.image.csq",
        "advhash.victims.image.hash_layer",
        "advhash.victims.cross_modal.dlcmh",
        "advhash.victims.cross_modal.dcmh",
        "advhash.victims.federated.hashvfl",
        "advhash.victims.perceptual.hashes",
        "advhash.victims.perceptual.block_means",
        "advhash.victims.neural.neural_code",
        "advhash.victims.encoders.encoded",
    ),
    facts=("default_dataset",),
    stored=ZOO_PREFIX,
)
# Trained victims of installed packages: each is a function without settings that gives the folder
# of a checkpoint; `--victim zoo:NAME`.
ZOO: Registry[Path] = Registry("zoo", ())
QUANTISERS: Registry[Any] = Registry(
    "quantiser",
    ("advhash.victims.encoders.head", "advhash.victims.encoders.quantisers"),
    table="quantise",
)
INVERSIONS: Registry[Any] = Registry(
    "inversion", ("advhash.attacks.inversion.code_inversion",), table="attack"
)
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
        "advhash.attacks.words.synonyms",
        "advhash.attacks.collision",
        "advhash.attacks.black_box.nes",
        "advhash.attacks.black_box.square",
        "advhash.attacks.bridge.torchattacks_bridge",
        "advhash.attacks.ensemble",
    ),
    facts=("norms", "goal", "modalities"),
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
        "advhash.data.readers.caption_groups",
        "advhash.data.readers.caption_table",
        "advhash.data.readers.dcmh_mat",
        "advhash.data.readers.flickr8k",
        "advhash.data.readers.hashnet_lists",
        "advhash.data.readers.image_folder",
        "advhash.data.readers.near_duplicates",
        "advhash.data.readers.openmoji_set",
        "advhash.data.readers.own_table",
        "advhash.data.readers.own_texts",
        "advhash.data.readers.scikit_learn",
        "advhash.data.readers.tables",
    ),
)
POISONINGS: Registry[Any] = Registry(
    "poisoning",
    (
        "advhash.attacks.poisoning.hubs",
        "advhash.attacks.poisoning.copies",
        "advhash.attacks.poisoning.hub_text",
        "advhash.attacks.poisoning.hub_image",
    ),
    facts=("plants", "single"),
    table="attack",
)
STORES: Registry[Any] = Registry(
    "store",
    (
        "advhash.stores.exact",
        "advhash.stores.faiss_stores",
        "advhash.stores.usearch_store",
        "advhash.stores.sqlite_store",
        "advhash.stores.pgvector_store",
    ),
    facts=("exact", "holds", "extra"),
)
RESCORERS: Registry[Any] = Registry("rescorer", ("advhash.stores.rescoring",), table="rescore")
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
        "advhash.experiments.judge.run",
        "advhash.experiments.least_change.run",
        "advhash.experiments.lifelong.run",
        "advhash.experiments.phase.run",
        "advhash.experiments.scan.run",
        "advhash.experiments.poison.run",
        "advhash.experiments.transfer.run",
        "advhash.experiments.defend.run",
    ),
    facts=("config", "alone"),
)
