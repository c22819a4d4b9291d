"""`advhash encode`: what the codes of a victim encode, beside controls on the same pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacking import attack_queries, choose_queries
from advhash.attacks.base import Attack, AttackData
from advhash.cache import content_key
from advhash.codes import HashCodes
from advhash.config import AttackConfig, DatasetConfig, EncodeConfig, MethodConfig, TrainConfig
from advhash.data import Batch, Dataset, Progress, Split, silent
from advhash.datasets import load_dataset
from advhash.defenses.base import Detector
from advhash.defenses.novelty import Confidence, Novelty
from advhash.detection import area_under_roc
from advhash.encoding import (
    NEIGHBOURS,
    bit_correlation,
    cluster_classes,
    clusters,
    first_labels,
    knn_classes,
    logistic_classes,
    pixel_knn_classes,
    redundancy_ratio,
    separation,
    simhash,
)
from advhash.errors import UsageError
from advhash.files import write_json
from advhash.fitting import FittedAttack, fit_attack
from advhash.pipeline import resolve
from advhash.recording import (
    Outcome,
    attack_info,
    budget_info,
    dataset_info,
    run_info,
    victim_info,
)
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.encoding import (
    ENCODING,
    FIGURES,
    METRICS,
    Coder,
    Detection,
    EncodingRecord,
    Site,
    render_encoding,
)
from advhash.reports.victim import code_figures
from advhash.runs import RunFolder, environment, new_run_id
from advhash.sanity import Flag
from advhash.stats import Metric, mean_metric
from advhash.training import Trained, cache_identity, derive_seed, plan_victim, train
from advhash.victims.base import HashVictim
from advhash.victims.neural_code import ActivationCode, NeuralCode, NeuralCodeOf

__all__ = ["Sets", "code_metrics", "encode", "mixed_images"]

Classes = npt.NDArray[np.int64]
Kind = Literal["code", "network", "initial", "simhash"]
BLOCK = 256


@dataclass(frozen=True)
class Sets:
    """The same pictures for every coder: (N,3,H,W) in [0,1], training rows as a split.

    Test, noise and moved pictures are equally many; moved is None without an attack.
    """

    train: Split
    train_classes: Classes
    test: Tensor
    test_classes: Classes
    noise: Tensor
    moved: Tensor | None


def encode(
    config: EncodeConfig, out: Path | None = None, progress: Progress = silent
) -> EncodingRecord:
    """Measure, and write the run folder. Raises AdvhashError."""
    began = time.perf_counter()
    training = TrainConfig.build(
        {
            "seed": config.seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "dataset": config.dataset.model_dump(),
        }
    ).trusting(config.trust_code)
    planned = plan_victim(training)
    if planned is not None:  # a wrong victim must not cost a training
        _check(config, VICTIMS.create(config.victim.name, planned[1]))
    trained = train(training, progress)
    _check(config, trained.victim)
    folder = RunFolder.start(out or Path("runs") / new_run_id(f"{trained.card['name']}-encode"))
    try:
        folder.identify(content_key({**cache_identity(trained), "config": config.model_dump()}))
        write_json(folder.path / "env.json", environment())
        record = _measured(folder, config, trained, began, progress)
        shown = config.model_copy(
            update={
                "victim": trained.replay,
                "dataset": DatasetConfig.build(
                    {"name": trained.data.name, **trained.data.settings}
                ),
            }
        )
        folder.write_text("config.toml", shown.to_toml())
        folder.write_text("metrics.json", record.dumps())
        render_encoding(folder.path, folder.path / "report.html")
        folder.finish()
    except BaseException:
        folder.abandon(keep=False)
        raise
    return record


def _check(config: EncodeConfig, victim: HashVictim) -> None:
    """Raise UsageError where the victim takes no images or the attack cannot move them."""
    victim.check_modality("image")
    if config.attack is not None:
        method: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
        if not method.can_move(victim, "image"):
            raise UsageError(f"--method: expected an attack on images, got {config.attack.name}")
        method.check_gradients(victim)


def _measured(
    folder: RunFolder, config: EncodeConfig, trained: Trained, began: float, progress: Progress
) -> EncodingRecord:
    victim, data, seed = trained.victim, trained.data, config.seed
    boot = derive_seed(seed, "bootstrap")
    rows = choose_queries(data.query, config.queries, derive_seed(seed, "queries"))
    batch = data.query.rows(rows)
    fitted, moved, flags = _moved(folder, config, trained, progress)
    train_split = data.train
    generator = torch.Generator().manual_seed(derive_seed(seed, "noise images"))
    sets = Sets(
        train_split,
        first_labels(train_split.labels.numpy()),
        batch.inputs["image"],
        first_labels(batch.labels.numpy()),
        torch.rand(batch.inputs["image"].shape, generator=generator),
        moved,
    )
    ways, more = _coders(trained, sets, config)
    coders = []
    for number, (label, kind, bits, way) in enumerate(ways):
        progress("encoding", number, len(ways))
        coders.append(_coder(label, kind, bits, way, sets, boot))
    progress("encoding", len(ways), len(ways))
    coders.append(_pixels(sets, boot))
    flags += more
    several = int((data.query.labels.sum(dim=1) > 1).sum())
    if several:
        flags.append(
            Flag(
                "several_labels",
                "info",
                f"{several} of {len(data.query)} queries have several labels: the class of a "
                "picture is the first of them.",
            )
        )
    detection, odd = _detection(trained, batch, sets, config, boot)
    flags += odd
    networks = [one.victim for *_, one in ways if isinstance(one, _Encoding)]
    coder = next((one for one in networks if isinstance(one, ActivationCode)), None)
    return EncodingRecord(
        schema_=ENCODING,
        command="encode",
        run=run_info(folder.final, seed, str(victim.device), {"all": time.perf_counter() - began}),
        victim=victim_info(trained),
        attack=None if fitted is None else attack_info(*fitted),
        budget=None
        if fitted is None
        else budget_info(fitted[1].budget, eight_bit=config.budget.eight_bit),
        dataset=dataset_info(data),
        train=len(train_split),
        test=len(rows),
        neighbours=NEIGHBOURS,
        chance=float(np.bincount(sets.test_classes).max() / len(rows)),
        sites=[] if coder is None else _sites(coder),
        flags=flags,
        metrics=dict(coders[0].metrics),
        coders=coders,
        detection=detection,
    )


def _moved(
    folder: RunFolder, config: EncodeConfig, trained: Trained, progress: Progress
) -> tuple[tuple[str, FittedAttack, Outcome] | None, Tensor | None, list[Flag]]:
    """The test pictures as the attack moves them on the victim; DHTA unless one is named."""
    table = config.attack
    if table is None:
        if not trained.victim.differentiable:
            text = "The victim has no gradients: no moved pictures, unless --method names an attack"
            return None, None, [Flag("not_attacked", "info", f"{text} on codes alone.")]
        table = MethodConfig(name="dhta")
    alone = resolve(
        AttackConfig.build(
            {
                "seed": config.seed,
                "device": config.device,
                "victim": trained.replay.model_dump(),
                "attack": table.model_dump(),
                "dataset": config.dataset.model_dump(),
                "budget": config.budget.model_dump(),
                "protocol": {"query_modality": "image", "queries": config.queries},
            }
        ).trusting(config.trust_code),
        trained,
    )
    database = str(alone.protocol.database)
    codes = trained.victim.database_codes(trained.data, database)
    fitted = fit_attack(
        alone, trained, AttackData(trained.data, codes, database, "image"), progress
    )
    outcome = attack_queries(folder, alone, trained, fitted, progress)
    return (table.name, fitted, outcome), outcome.moved, []


@dataclass(frozen=True)
class _Encoding:
    """Images → codes by a victim, in batches."""

    victim: HashVictim

    def __call__(self, images: Tensor) -> HashCodes:
        return HashCodes.concatenate(
            [self.victim.encode(part, "image") for part in images.split(BLOCK)]
        )


@dataclass(frozen=True)
class _Projected:
    """Images → SimHash of their pixels, centred as the training pictures are."""

    centre: npt.NDArray[np.float32]
    bits: int
    seed: int

    def __call__(self, images: Tensor) -> HashCodes:
        return simhash(images.flatten(1).numpy(), self.centre, self.bits, self.seed)


Way = Callable[[Tensor], HashCodes]


def _coders(
    trained: Trained, sets: Sets, config: EncodeConfig
) -> tuple[list[tuple[str, Kind, int, Way]], list[Flag]]:
    """The victim's code, the pattern of its network, both at initialisation, SimHash."""
    victim, data, seed = trained.victim, trained.data, config.seed
    name = str(trained.card["name"])
    flags: list[Flag] = []
    found: list[tuple[str, Kind, HashVictim]] = [(name, "code", victim)]
    starts: list[tuple[str, Kind, HashVictim]] = []
    first = _at_initialisation(trained, seed)
    if first is not None:
        starts.append((f"{name} at initialisation", "initial", first))
    else:
        flags.append(
            Flag("no_initial_network", "info", f"{name} is not trained: no code before training.")
        )
    if not isinstance(victim, ActivationCode):
        size = data.database.inputs["image"].shape[-1]
        try:
            inside = NeuralCodeOf(victim, image_size=size, most_bits=config.most_bits).fit(
                data, seed=seed
            )
            found.append((f"{name} network", "network", inside))
            if first is not None:
                start = NeuralCodeOf(first, image_size=size, most_bits=config.most_bits).fit(
                    data, seed=seed
                )
                starts.append((f"{name} network at initialisation", "initial", start))
        except UsageError as error:
            flags.append(Flag("no_neural_code", "info", f"No neural code of {name}: {error}."))
    centre = _pixel_mean(sets.train)
    ways: list[tuple[str, Kind, int, Way]] = [
        (label, kind, one.bits, _Encoding(one)) for label, kind, one in [*found, *starts]
    ]
    for label, _, one in found:
        way = _Projected(centre, one.bits, derive_seed(seed, "simhash"))
        text = "SimHash" if len(found) == 1 else f"SimHash, bits of {label}"
        ways.append((text, "simhash", one.bits, way))
    smooth = [one.smooth for *_, one in found if isinstance(one, ActivationCode)]
    if any(smooth):
        flags.append(
            Flag(
                "smooth_activations",
                "info",
                f"{sum(map(len, smooth))} layers have smooth activations (GELU, SiLU …), "
                "thresholded at 0, where nothing breaks.",
            )
        )
    return ways, flags


def _at_initialisation(trained: Trained, seed: int) -> HashVictim | None:
    """The same victim before any training; None where nothing is trained."""
    name = str(trained.card["name"])
    if trained.folder is None or next(trained.victim.parameters(), None) is None:
        return None
    settings = {**trained.card["settings"]}
    if isinstance(trained.victim, NeuralCode):
        settings["epochs"] = 0
    drawn = derive_seed(seed, "victim")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn)
        first: HashVictim = VICTIMS.create(name, settings).to(trained.victim.device)
    if isinstance(first, NeuralCode):
        first.fit(trained.data, seed=drawn)
    return first.eval()


def _pixel_mean(train: Split) -> npt.NDArray[np.float32]:
    total = sum(batch.inputs["image"].flatten(1).sum(0) for batch in train.batches(BLOCK))
    assert isinstance(total, Tensor)
    mean: npt.NDArray[np.float32] = (total / len(train)).numpy()
    return mean


def _coder(label: str, kind: Kind, bits: int, way: Way, sets: Sets, boot: int) -> Coder:
    known = HashCodes.concatenate(
        [way(batch.inputs["image"]) for batch in sets.train.batches(BLOCK)]
    )
    test, noise = way(sets.test), way(sets.noise)
    moved = None if sets.moved is None else way(sets.moved)
    metrics = code_metrics(
        known, sets.train_classes, test, sets.test_classes, boot, noise=noise, moved=moved
    )
    apart = separation(known, sets.train_classes)
    figures: dict[str, float | None] = {
        **code_figures(known),
        "correlation": bit_correlation(known, boot),
        "within": apart.within,
        "between": apart.between,
    }
    return Coder(label=label, kind=kind, bits=bits, metrics=metrics, figures=figures)


def code_metrics(
    known: HashCodes,
    known_classes: Classes,
    test: HashCodes,
    classes: Classes,
    boot: int,
    *,
    noise: HashCodes | None = None,
    moved: HashCodes | None = None,
) -> dict[str, Metric | None]:
    """Redundancy and categorisation, see `reports.encoding.Coder`; boot: seed of the bootstrap."""
    equal = np.random.default_rng(boot).permutation(len(known))[: len(test)]
    metrics: dict[str, Metric | None] = {
        **dict.fromkeys(METRICS),
        "redundancy_train": _ratio(known),
        "redundancy_train_equal": _ratio(known[np.sort(equal)]),
        "redundancy_test": _ratio(test),
        "redundancy_random": None if noise is None else _ratio(noise),
        "redundancy_adversarial": None if moved is None else _ratio(moved),
    }
    groups = int(max(known_classes.max(), classes.max())) + 1
    for suffix, codes, wanted in (("", test, classes), ("_train", known, known_classes)):
        rows, found = clusters(codes, groups, boot)
        for name, way in (("purity", False), ("one_to_one", True)):
            right = cluster_classes(found, wanted[rows], one_to_one=way) == wanted[rows]
            metrics[f"kmeans_{name}{suffix}"] = mean_metric(right, boot)
    asked = {"": test} if moved is None else {"": test, "_adversarial": moved}
    predicted = logistic_classes(list(asked.values()), known, known_classes, boot)
    for (suffix, codes), guess in zip(asked.items(), predicted, strict=True):
        nearest = knn_classes(codes, known, known_classes)
        metrics[f"knn_accuracy{suffix}"] = mean_metric(nearest == classes, boot)
        metrics[f"logistic_accuracy{suffix}"] = mean_metric(guess == classes, boot)
    return metrics


def _ratio(codes: HashCodes) -> Metric:
    return Metric(value=redundancy_ratio(codes), n=len(codes))


def _pixels(sets: Sets, boot: int) -> Coder:
    known = np.concatenate(
        [batch.inputs["image"].flatten(1).numpy() for batch in sets.train.batches(BLOCK)]
    )
    asked = {"": sets.test} if sets.moved is None else {"": sets.test, "_adversarial": sets.moved}
    metrics: dict[str, Metric | None] = dict.fromkeys(METRICS)
    for suffix, images in asked.items():
        found = pixel_knn_classes(images.flatten(1).numpy(), known, sets.train_classes)
        metrics[f"knn_accuracy{suffix}"] = mean_metric(found == sets.test_classes, boot)
    return Coder(
        label="pixels",
        kind="pixels",
        bits=None,
        metrics=metrics,
        figures=dict.fromkeys(FIGURES),
    )


def _sites(victim: ActivationCode) -> list[Site]:
    return [
        Site(name=layer.name, size=layer.size, kept=part.stop - part.start, smooth=layer.smooth)
        for layer, part in victim.sections
    ]


def mixed_images(images: Tensor, classes: Classes, seed: int) -> Tensor:
    """Each picture averaged with one of another class, on the 8-bit grid.

    Raises UsageError where all are of one class.
    """
    generator = np.random.default_rng(seed)
    if len(np.unique(classes)) < 2:
        raise UsageError("mixed inputs: expected test pictures of two classes, got one")
    other = [int(generator.choice(np.flatnonzero(classes != one))) for one in classes]
    return ((images + images[torch.tensor(other)]) / 2 * 255).round() / 255


def _detection(
    trained: Trained, clean: Batch, sets: Sets, config: EncodeConfig, boot: int
) -> tuple[list[Detection], list[Flag]]:
    """AUROC of novelty, by layer as well, and of confidence, on each kind of odd picture."""
    victim, data = trained.victim, trained.data
    kinds: dict[Literal["adversarial", "mixed", "noise", "ood"], Tensor] = {"noise": sets.noise}
    flags: list[Flag] = []
    if sets.moved is not None:
        kinds["adversarial"] = sets.moved
    try:
        drawn = derive_seed(config.seed, "mixed images")
        kinds["mixed"] = mixed_images(sets.test, sets.test_classes, drawn)
    except UsageError as error:
        flags.append(Flag("no_mixed_inputs", "info", f"{error}."))
    strange = _other_images(data, tuple(sets.test.shape[1:]))
    if len(strange):
        kinds["ood"] = strange[: len(sets.test)]
    detectors: dict[str, Detector] = {"novelty of the code": Novelty()}
    if isinstance(victim, NeuralCode):
        detectors["softmax confidence"] = Confidence()
    elif not isinstance(victim, ActivationCode):
        detectors["novelty of the network"] = Novelty(code="network", most_bits=config.most_bits)
    rows: list[Detection] = []
    for name, detector in detectors.items():
        try:
            detector.fit(victim, sets.train, "image")
        except UsageError:  # no activation modules: flagged with the coders
            continue
        normal = _scores(name, detector, victim, clean.inputs["image"])
        for kind, images in kinds.items():
            found = _scores(name, detector, victim, images)
            rows += [
                Detection(
                    detector=label,
                    inputs=kind,
                    auroc=area_under_roc(found[label], normal[label], boot),
                )
                for label in found
            ]
    return rows, flags


def _scores(
    name: str, detector: Detector, victim: HashVictim, images: Tensor
) -> dict[str, npt.NDArray[np.float32]]:
    """(N,) scores by the detector, and by each layer where there are several."""
    parts: dict[str, list[Tensor]] = {}
    for part in images.split(BLOCK):
        batch = Batch({"image": part}, torch.zeros(len(part), 1), torch.arange(len(part)))
        parts.setdefault(name, []).append(detector.score(victim, batch, "image"))
        layers = detector.by_layer(victim, batch, "image") if isinstance(detector, Novelty) else {}
        for layer, values in layers.items() if len(layers) > 1 else ():
            parts.setdefault(f"{name}, layer {layer}", []).append(values)
    return {label: torch.cat(values).numpy() for label, values in parts.items()}


def _other_images(data: Dataset, shape: tuple[int, ...]) -> Tensor:
    """Pictures of another data set at the same size: emoji, or digits for them."""
    other = load_dataset("digits" if data.name == "openmoji" else "openmoji", {"size": shape[-1]})
    return other.query.rows(torch.arange(len(other.query))).inputs["image"]
