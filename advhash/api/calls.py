"""advhash from Python: `import advhash as ah`. What the command line does, on objects in memory.

Everything goes through the same harness and the same metrics as the commands: equal seeds give
equal numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from advhash.api.bars import shown
from advhash.api.batch import ask
from advhash.api.checked import OTHER_NAMES, brief, checked
from advhash.api.figures import Figures
from advhash.api.in_memory import with_database, without_database
from advhash.api.result import AttackResult
from advhash.attacks.base import Attack
from advhash.budget import Norm
from advhash.compute.progress import Progress
from advhash.data.dataset import Batch, Dataset
from advhash.data.load import load_dataset as read_dataset
from advhash.errors import DataError, UsageError
from advhash.experiments.attack.run import resolve
from advhash.experiments.compare import Comparison, compare_records, load_run
from advhash.experiments.config import AttackConfig, AttackProtocol, TrainConfig
from advhash.experiments.prepare.brought import SAMPLES, fingerprint, introduce
from advhash.experiments.prepare.hardened import prepare
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.store import fit_data
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.worth import victim_metrics
from advhash.measures.intervals import Metric
from advhash.measures.paired_runs import Queries
from advhash.registry import ATTACKS, is_external, is_zoo
from advhash.reports.page.render import render
from advhash.reports.record import Record
from advhash.storage.places import user_path
from advhash.storage.run_folder import RunFolder, expect_finished
from advhash.victims.base import HashVictim
from advhash.victims.external import ExternalVictim, taken_modality

Victim = Trained | HashVictim | Callable[[Tensor], Any]
Table = str | Mapping[str, Any]
_OF_THE_DATABASE = {"database codes", "labels", "auxiliary data"}


@checked
def train(
    victim: str = "dpsh",
    dataset: Table | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    defense: Table | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Trained:
    """A victim with its data, trained or taken from the cache, as `advhash train` does.

    dataset:  a name, an image folder, or a table {"name": …, setting: …}; by default the victim's
    defense:  a name or such a table: the victim is hardened with it
    progress: what is told how far it is; None: bars in a notebook and on a terminal
    settings: of the victim, e.g. bits=16

    Raises AdvhashError.

    >>> import advhash as ah
    >>> ah.train("dpsh", {"name": "digits", "size": 16}, bits=12, epochs=1)
    <dpsh, 12 bits, on digits>
    """
    if not isinstance(victim, str):
        raise UsageError(
            f'advhash.train: expected the name of a victim, e.g. "dpsh", got {brief(victim)}; '
            "give a model of yours to advhash.bring"
        )
    if is_external(victim):
        raise UsageError(
            f"expected a registered victim, got {victim!r}: import the function and give it to "
            "advhash.bring"
        )
    given = _named(victim, settings)
    tables = {"victim": given, "dataset": _table(dataset)}
    if defense is not None:
        tables["defense"] = _table(defense)
    config = TrainConfig.build({"seed": seed, "device": device, **tables})
    with shown(progress) as watched:
        return prepare(config, watched)


@checked
def load(checkpoint: str | Path, dataset: Table | None = None, *, device: str = "auto") -> Trained:
    """The victim of a checkpoint folder with the data that it was trained on, or other data.

    checkpoint: a folder, or "zoo:NAME" of the zoo that is installed

    Raises CheckpointError, DataError, UsageError.

    The cache keeps the checkpoint of each trained victim:

    >>> import advhash as ah
    >>> ah.load(ah.train("dhash", "digits").folder)
    <dhash, 64 bits, on digits>
    """
    name = str(checkpoint)
    place = name if is_zoo(name) else str(user_path(checkpoint).absolute())
    tables = {"victim": {"name": place}, "dataset": _table(dataset)}
    return prepare(TrainConfig.build({"device": device, **tables}))


@checked
def bring(
    victim: HashVictim | Callable[[Tensor], Any],
    data: Dataset,
    *,
    name: str | None = None,
    seed: int = 0,
) -> Trained:
    """A model of yours on this data, with its figures and flags, ready for several attacks.

    victim: a torch module or any function from (B,3,H,W) float32 images in [0,1], a list of texts
            or (B,F) float32 rows of a table to (B,K) codes: real ones, whose bit is 1 iff > 0, or
            bits; see docs/bring_your_own.md. A module is put into eval mode
    name:   what records call it; by default where it is defined

    Raises UsageError: it fails on its inputs or returns no codes; DataError: data without these.

    >>> import torch
    >>> from torch import nn
    >>> import advhash as ah
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 16))
    >>> ah.bring(model, ah.load_dataset("digits"), name="hyperplanes")
    <hyperplanes, 16 bits, on digits>
    """
    start = time.perf_counter()
    _expect_data(data)
    called = name or _defined(victim)
    if not isinstance(victim, HashVictim):
        given = taken_modality(victim, called, data)
        data.expect_one_size(called)
        some = torch.arange(min(SAMPLES, len(data.validation)))
        victim = _external(victim, called, data.validation.rows(some).inputs[given])
    served = victim.served_codes(data)
    card = introduce(
        victim,
        data,
        served,
        name=called,
        source="code of the user",
        seed=seed,
        bootstrap_seed=derive_seed(seed, "bootstrap"),
    )
    mark = fingerprint(called, served)
    return Trained(
        victim, data, called, {}, card, None, mark, "brought", time.perf_counter() - start
    )


@checked
def attack(
    victim: Victim,
    batch: Batch | Tensor | None = None,
    *,
    method: str,
    targets: str | Tensor | npt.NDArray[Any] | None = None,
    data: Dataset | None = None,
    norm: Norm | None = None,
    eps: float | str | None = None,
    eight_bit: bool = True,
    seed: int = 0,
    protocol: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> AttackResult:
    """Attack a batch, as `advhash attack` attacks the queries of a data set.

    victim:    from `train`, `load` or `bring`; or a torch module or function as `bring` takes it
    batch:     a Batch, or (N,3,H,W) images in [0,1], rounded to 8 bits unless `eight_bit` is False;
               None: queries of the data, as many as `protocol={"queries": …}` says
    targets:   (N,C) multi-hot labels that rows of the database carry, or the name of a target rule;
               not used by untargeted methods. None: "disjoint" from the query's own labels
    data:      whose database is searched; by default the victim's. Without any, only methods that
               need no database run, and there are no figures of retrieval
    norm, eps: the budget in raw units (8/255); both None: the method's default
    protocol:  further settings, e.g. {"top_k": 100, "batch_size": 50}; see docs/metrics.md
    out:       a new run folder to write, for `report`
    progress:  what is told how far it is; None: bars in a notebook and on a terminal
    settings:  of the method, e.g. steps=20

    Raises AdvhashError in one line that says what was expected.

    >>> import torch
    >>> from torch import nn
    >>> import advhash as ah
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 16))
    >>> own = ah.bring(model, ah.load_dataset("digits"))
    >>> result = ah.attack(own, method="hag", eps=8 / 255, protocol={"queries": 20}, steps=5)
    >>> result.adversarial.shape
    torch.Size([20, 3, 32, 32])
    >>> bool((result.adversarial - result.clean).abs().max() <= 8 / 255 + 1e-6)
    True
    >>> result.metrics["map_adversarial"].value < result.metrics["map"].value
    True
    """
    if not isinstance(protocol, Mapping | None):
        raise UsageError(f"expected protocol={{setting: …}}, got {brief(protocol)}")
    _expect_settings(method, settings)
    rule = {"targets": targets} if isinstance(targets, str) else {}
    config = AttackConfig.build(
        {
            "seed": seed,
            "victim": {"name": "given"},
            "attack": _named(method, settings),
            "budget": {"norm": norm, "eps": eps, "eight_bit": eight_bit},
            "protocol": {**(protocol or {}), **rule},
        }
    )
    algorithm: Attack = ATTACKS.create(method, config.attack.settings)
    algorithm.check_budget(config.budget.resolve(algorithm.default_budget))
    if config.protocol.poison:
        raise UsageError("expected no protocol.poison: use `advhash attack --poison`")
    trained = _ready(victim, data, batch, algorithm, config)
    if batch is not None and config.protocol.start:
        raise UsageError("expected no protocol.start with a batch, which is attacked as it is")
    config = resolve(config, trained)
    if batch is not None:
        as_given = config.protocol.model_copy(update={"start": None})
        config = config.model_copy(update={"protocol": as_given})
    asked = ask(
        trained.data, batch, config, algorithm, None if isinstance(targets, str) else targets
    )
    if trained.fingerprint == "":  # no database
        if out is not None:
            raise UsageError("out= writes a run with figures of retrieval: expected data= as well")
        with shown(progress) as watched:
            return without_database(config, trained, asked, watched)
    if out is None:
        with shown(progress) as watched:
            return with_database(config, trained, asked, None, watched)
    with RunFolder.writing(Path(out)) as folder, shown(progress) as watched:
        return with_database(config, trained, asked, folder, watched)


@checked
def evaluate(victim: Victim, data: Dataset | None = None, *, seed: int = 0) -> Figures[Metric]:
    """MAP of a victim in every direction on the queries of its data, chance beside it, 95 %.

    `_untrained`: on database rows that it was not trained on, of one that was trained here. Raises
    AdvhashError.

    >>> import advhash as ah
    >>> ah.evaluate(ah.train("dhash", "digits"))
    map_chance       10.4 %  [10.4, 10.5]
    map_image_image  48.0 %  [45.4, 50.6]
    """
    if not isinstance(victim, Trained):
        if data is None:
            raise UsageError("expected data=, a data set whose queries are searched for")
        metrics = bring(victim, data).card["metrics"]
        return Figures({name: Metric(**metric) for name, metric in metrics.items()})
    trained = _on(victim, data)
    served = trained.victim.served_codes(trained.data)
    boot = derive_seed(seed, "bootstrap")
    return Figures(victim_metrics(trained.victim, trained.data, served, boot))


@checked
def compare(first: AttackResult | str | Path, second: AttackResult | str | Path) -> Comparison:
    """Paired differences, second − first, of two results or run folders on the same queries.

    Raises UsageError: they cannot be paired; RunError: a folder that cannot be read.

    >>> import torch
    >>> from torch import nn
    >>> import advhash as ah
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 16))
    >>> own = ah.bring(model, ah.load_dataset("digits"))
    >>> noise = ah.attack(own, method="noise", protocol={"queries": 20})
    >>> change = ah.compare(noise, ah.attack(own, method="hag", protocol={"queries": 20}, steps=5))
    >>> change.title
    'hag − noise on digits, 20 queries, paired'
    >>> change.differences["map_adversarial"].value < 0
    True
    """
    one, other = _loaded(first), _loaded(second)
    return compare_records(*one, *other)


@checked
def load_dataset(
    name: str | Path, settings: Mapping[str, object] | None = None, **misplaced: object
) -> Dataset:
    """A registered data set, or, where `name` is a path, what lies there.

    settings:  of the data set, by name: a table, so that further keywords are refused

    Raises UnknownName, ConfigError, DataError, StorageError, UsageError.

    >>> import advhash as ah
    >>> ah.load_dataset("digits", {"size": 16})
    digits, 10 classes: 0, 1, 2, 3, 4, 5, …
    rows: database 1,347 (1,197 trained on), validation 150, query 300
    database: image uint8 (1347, 3, 16, 16)
    """
    table = isinstance(settings, Mapping) and all(isinstance(key, str) for key in settings)
    named = isinstance(name, str | Path) and (settings is None or table)
    if misplaced or not named:
        got = ", ".join(f"{key}={value!r}" for key, value in misplaced.items())
        raise UsageError(
            f"expected load_dataset(name, {misplaced or {'size': 64}!r}): a name or path, then a "
            "table of settings by their names, got "
            f"{got or f'{type(name).__name__} and {type(settings).__name__}'}"
        )
    return read_dataset(str(name), settings)


@checked
def report(
    runs: AttackResult | str | Path | Sequence[AttackResult | str | Path],
    out: str | Path = "report.html",
    *,
    pictures: bool = True,
) -> Path:
    """Write one page over finished runs and return its path. Raises RunError, UsageError.

    pictures: whether it shows pictures of the data, which may be private

    >>> from tempfile import TemporaryDirectory
    >>> import advhash as ah
    >>> victim, few = ah.train("dhash", "digits"), {"queries": 5}
    >>> with TemporaryDirectory() as folder:
    ...     result = ah.attack(victim, method="noise", protocol=few, out=f"{folder}/run")
    ...     page = ah.report(result, f"{folder}/report.html")
    ...     page.name, "noise" in page.read_text("utf-8")
    ('report.html', True)
    """
    listed: list[Any] = list(runs) if isinstance(runs, list | tuple) else [runs]
    folders = []
    for run in listed:
        _expect_run(run)
        folder = run.folder if isinstance(run, AttackResult) else user_path(run)
        if folder is None:
            raise UsageError("expected results with a run folder: attack with out=")
        folders.append(folder)
    if not folders:
        raise UsageError("expected at least one run, got none")
    if out is None:
        raise UsageError('report: expected out= to be a path, e.g. "report.html", got None')
    for folder in folders:
        expect_finished(folder)
    render(folders, Path(out), pictures=pictures)
    return Path(out)


def _expect_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Raise UsageError for what is no setting of the method but stands elsewhere in `attack`."""
    known = ATTACKS.settings(method, {})
    for name, value in settings.items():
        if name in known:
            continue
        if name in AttackProtocol.model_fields:
            raise UsageError(
                f"{name} is of the protocol: expected protocol={{{name!r}: {value!r}}}, got "
                f"{name}={value!r}"
            )
        if name in OTHER_NAMES:
            raise UsageError(f"advhash.attack: no {name!r}: did you mean {OTHER_NAMES[name]!r}?")


def _named(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if "name" in settings:
        raise UsageError(f"no setting 'name' of {name!r}")
    return {"name": name, **settings}


def _table(given: Table | None) -> dict[str, Any]:
    if isinstance(given, Dataset):
        raise UsageError(
            "expected the name of a data set, a folder or a table, got a Dataset: victims are "
            "trained on data that can be read again"
        )
    if not isinstance(given, str | Mapping | None):
        raise UsageError(
            f'expected a name or a table such as {{"name": …}}, got {type(given).__name__}'
        )
    return {} if given is None else {"name": given} if isinstance(given, str) else dict(given)


def _defined(victim: object) -> str:
    """`module:name` of a function, or of the class of a module."""
    named = victim if hasattr(victim, "__qualname__") else type(victim)
    return f"{named.__module__}:{named.__qualname__}"


def _external(function: Callable[[Tensor], Any], name: str, sample: Tensor) -> ExternalVictim:
    if isinstance(function, type) or not callable(function):
        raise UsageError(
            "expected a trained victim, a torch module or a function from (B,3,H,W) images in "
            f"[0,1] to (B,K) codes, got {brief(function)}"
        )
    weights = next(function.parameters(), None) if isinstance(function, nn.Module) else None
    return ExternalVictim(
        function, name=name, sample=sample if weights is None else sample.to(weights.device)
    )


def _expect_data(data: object) -> None:
    if not isinstance(data, Dataset):
        raise UsageError(
            f'expected data=, a Dataset, got {brief(data)}; e.g. advhash.load_dataset("digits")'
        )


def _on(trained: Trained, data: Dataset | None) -> Trained:
    """The same victim before other data, which its card flags."""
    if data is not None:
        _expect_data(data)
    if data is None or data.fingerprint() == trained.data.fingerprint():
        return trained
    if trained.folder is None:
        return bring(trained.victim, data, name=trained.name)
    card = dict(trained.card)
    seen = fit_data(trained.folder, trained.victim, card, data)
    return replace(trained, data=seen, card=card)


def _ready(
    victim: Victim,
    data: Dataset | None,
    batch: Batch | Tensor | None,
    algorithm: Attack,
    config: AttackConfig,
) -> Trained:
    """The victim before the data; without any, before the batch itself, with no fingerprint."""
    if isinstance(victim, Trained):
        return _on(victim, data)
    if data is not None:
        return bring(victim, data, seed=config.seed)
    needed = sorted(algorithm.knowledge & _OF_THE_DATABASE)
    if needed:
        raise UsageError(
            f"{config.attack.name} uses {', '.join(needed)}: expected data=, a data set with a "
            'database, e.g. advhash.load_dataset("digits")'
        )
    if batch is None:
        raise UsageError("expected a batch, or data= whose queries are attacked, got neither")
    name = _defined(victim)
    alone = ask(None, batch, config, algorithm, None).data
    if not isinstance(victim, HashVictim):
        if "image" not in alone.query.inputs:
            raise DataError(f"{name} needs images: the batch has {', '.join(alone.modalities)}")
        some = torch.arange(min(SAMPLES, len(alone.query)))
        victim = _external(victim, name, alone.query.rows(some).inputs["image"])
    return Trained(
        victim, alone, name, {}, {"name": name, "settings": {}}, None, "", "brought", 0.0
    )


def _expect_run(given: object) -> None:
    if not isinstance(given, AttackResult | str | Path):
        raise UsageError(f"expected a result of advhash.attack or a run folder, got {brief(given)}")


def _loaded(given: AttackResult | str | Path) -> tuple[Record, Queries]:
    if isinstance(given, AttackResult):
        queries = given.queries()
        assert given.record is not None
        return given.record, queries
    _expect_run(given)
    folder = user_path(given)
    expect_finished(folder)
    return load_run(folder)
