"""What `compare_commits.py` runs: for each kind of run a few command lines, as small as can be.

A line that begins with "python" calls the function of this file that it names. `{evolve}` is the
name that the command for searches has in the checkout. Each line writes to the folder
`KIND-NUMBER` of its own, by `{out}`; kinds share the cache of trained victims, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["COMMANDS", "FILES", "api", "noisy_set", "registry"]

DATA = "--dataset digits --set dataset.size=16"
ASK = "--queries 12 --set protocol.batch_size=8"
DPSH = f"--victim dpsh --bits 16 --set victim.epochs=2 {DATA}"
FEDERATION = (
    "--victim hashvfl --bits 8 --set victim.epochs=2 --set victim.width=8 --set dataset.size=16"
)
EMOJI = (
    "--victim dlcmh --bits 16 --set victim.epochs=1 --set victim.increment_epochs=1 "
    "--set victim.width=16 --set victim.samples=64 --set victim.batch_size=128 "
    "--set dataset.size=16"
)
GAN = (
    "--set attack.epochs=1 --set attack.width=4 --set attack.blocks=2 --set attack.hidden=8 "
    "--set attack.feature=8 --set attack.prototype_steps=5"
)
DHTA = "--method dhta --set attack.steps=3"
SAAT = "--defense saat --set defense.epochs=1 --set defense.steps=1"
SEARCH = "--repeats 2 --set search.population=4 --set search.tournament=2"

COMMANDS = {
    "registry": ["python registry"],
    "train": [f"train {DPSH} --out {{out}}", f"train {DPSH} {SAAT}"],
    "attack": [
        f"attack {DPSH} {ASK} {DHTA} --eps 8/255 --poison 4 --out {{out}}",
        f"attack {DPSH} {ASK} {DHTA} --eps 2/255,8/255 --out {{out}}",
        f"attack {DPSH} {ASK} --method prosgan {GAN} --out {{out}}",
        f"attack {DPSH} {ASK} {SAAT} --method hag --set attack.steps=3 --out {{out}}",
        f"attack {FEDERATION} {ASK} {DHTA} --norm linf --eps 16/255 --out {{out}}",
        f"attack {EMOJI} {ASK} --method prosgan {GAN} --out {{out}}",
        f"attack {EMOJI} {ASK} --method hotflip --query-modality text --out {{out}}",
        f"train {DPSH} --out victim",
        f"attack --victim victim {ASK} --method square --set attack.queries=20 --out {{out}}",
        f"attack --victim pixels:code --trust-code {DATA} {ASK} --method nes "
        "--set attack.queries=20 --out {out}",
    ],
    "invert": [
        f"attack {FEDERATION} --queries 12 --method code-inversion --set attack.steps=5 "
        "--set attack.decoder_epochs=1 --set attack.sweep_bits=[4] --set attack.sweep_parties=[2] "
        "--out {out}",
    ],
    "transfer": [
        f"transfer --victims dpsh+epochs=2+bits=16,csq+epochs=1+bits=16 --methods "
        f"dhta+steps=3,noise {DATA} {ASK} --eps 8/255 --out {{out}}",
    ],
    "defend": [
        f"defend {DPSH} {SAAT} --queries 6 --set protocol.batch_size=6 --out {{out}}",
    ],
    "detect": [
        f"detect {FEDERATION} --queries 20 --adaptive steps=5",
        f"detect {DPSH} --queries 12 {DHTA} --detector all --eps 8/255 --adaptive steps=3",
        f"detect --victim neural-code {DATA} --set victim.epochs=2 --set victim.width=16 "
        "--queries 12 --inputs ood --detector novelty --adaptive steps=3",
    ],
    "certify": [f"certify {DPSH} --queries 12 --sigma 0.1 --samples 150 --radii 0.05,0.15,0.9"],
    "least-change": ["certify --victim phash --set dataset.pictures=40 --queries 12"],
    "judge": [
        "python noisy_set",
        "judge noisy.npz --clean digits --set clean.size=16 --eps 8/255 --out {out} "
        "--victim dpsh --bits 16 --set victim.epochs=2",
    ],
    "lifelong": [
        f"lifelong {EMOJI} --orders 1 --increments 1 --seeds 2 --set rival.epochs=1 "
        f"--set rival.width=16 {GAN} --set lifelong.queries=12 --out {{out}}",
    ],
    "encode": [
        f"encode {DPSH} --queries 12 {DHTA} --eps 16/255 --set most_bits=600 --out {{out}}",
    ],
    "phase-chart": [
        "phase-chart --widths 3,12 --epochs 0,2 --samples 60,100 --repeats 1 "
        "--set phase.queries=12 --set phase.noises=[0.0,0.3] --set phase.weight_decays=[1e-6] "
        "--set attack.steps=3 --eps 32/255 --out {out}",
    ],
    "search": [
        "{evolve} --domain attack --victim dpsh --set victim.bits=16 --set victim.epochs=2 "
        f"--other dpsh --set other.bits=12 --set other.epochs=1 {DATA} --eps 32/255 "
        f"--candidates 6 {SEARCH} --set search.steps=3 --set search.queries=12 "
        "--set search.held_out=12 --set search.checked=1.0 --out {out}",
        f"{{evolve}} --domain nas --candidates 40 --seconds 40 {SEARCH} --out {{out}}",
    ],
    "benchmark": ["benchmark --suite suite.toml --executor inline --out {out}"],
    "compare": [
        f"attack {DPSH} {ASK} {DHTA} --eps 8/255 --out first",
        f"attack {DPSH} {ASK} --method blend --eps 8/255 --out second",
        "compare first second",
    ],
    "eval": [
        f"train {DPSH} --out coder",
        "codes export coder database.codes",
        "codes export coder query.npz --part query",
        "eval --codes query.npz --database database.codes --convention prosgan --out {out}.parquet",
    ],
    "api": ["python api"],
}
GRADIENT_PROTOTYPE = "advhash.attacks.gradient.prototype"  # where it is, or will be
FILES = {  # written into the folder where the commands run
    "suite.toml": """\
name = "tiny"
victim_seeds = 1
attack_seeds = 2

[[grids]]
datasets = ["digits+size=16"]
victims = ["dpsh+epochs=2+bits=16"]
attacks = ["dhta+steps=3"]
budgets = ["8/255"]
protocol = {queries = 12, batch_size = 8}

[[grids]]
datasets = ["digits+size=16"]
victims = ["phash"]
attacks = ["noise"]
budgets = [{norm = "l2", eps = 0.5}]
protocol = {queries = 12, batch_size = 8}
""",
    "pixels.py": '''\
"""A hash of the user: signs of differences between neighbours."""


def code(images):
    gray = images.mean(dim=1)[:, ::4, ::4]
    return (gray[:, :, 1:] - gray[:, :, :-1]).flatten(1) - 0.01
''',
}


def shapes(module: nn.Module | dict[str, Tensor]) -> dict[str, str]:
    """Names, shapes and a digest of the values of a state."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {
        name: f"{tuple(values.shape)} {values.dtype} "
        + hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]
        for name, values in state.items()
    }


def written(settings: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in settings.items()}


def networks(*places: tuple[str, str]) -> type[nn.Module]:
    """The class that stands at the first of the places (module, name) that exists."""
    for module, name in places:
        with suppress(ModuleNotFoundError):
            return getattr(import_module(module), name)  # type: ignore[no-any-return]
    raise ModuleNotFoundError(f"expected a class in one of {places}")


def registry() -> None:
    """Print the settings of all that is registered, and the weights of every network at its start.

    Weights are drawn after `torch.manual_seed(0)`: the order of the draws is compared as well.
    """
    import advhash as ah
    from advhash import registry as tables

    found: dict[str, Any] = {}
    for table in ("VICTIMS", "ATTACKS", "INVERSIONS", "DEFENSES", "DETECTORS", "DATASETS"):
        for entry in getattr(tables, table):
            fields = {
                name: [re.sub(r"advhash\.[\w.]*\.", "", str(one.annotation)), repr(one.default)]
                for name, one in entry.model.model_fields.items()
            }
            needed = any(one.is_required() for one in entry.model.model_fields.values())
            found[f"{table}/{entry.name}"] = {
                "source": entry.source,
                "fields": fields,
                "settings": {} if needed else written(entry.settings(table, {})),
                "presets": {name: dict(values) for name, values in entry.presets.items()},
                "deviations": entry.deviations,
            }
    victims: Any = tables.VICTIMS
    for entry in victims:
        data = ah.load_dataset(entry.build.default_dataset)
        settings = victims.settings(entry.name, entry.build.data_arguments(data))
        torch.manual_seed(0)
        state = shapes(victims.create(entry.name, settings))
        found[f"weights/{entry.name}"] = {"settings": written(settings), "state": state}
    old, new = "advhash.attacks.prosgan_networks", "advhash.attacks.prosgan.networks"
    prototype = networks((old, "PrototypeNet"), (GRADIENT_PROTOTYPE, "PrototypeNet"))
    sizes = {"width": 8, "downs": 1, "blocks": 2, "lifts": 2, "shrink": 2, "residual": True}
    for modulated in (False, True):
        torch.manual_seed(0)
        generator = networks((old, "Generator"), (new, "Generator"))
        found[f"weights/generator, modulated {modulated}"] = shapes(
            generator(8, 32, **sizes, modulated=modulated)
        )
    torch.manual_seed(0)
    discriminator = networks((old, "Discriminator"), (new, "Discriminator"))
    found["weights/discriminator"] = shapes(discriminator(10, 32, width=8, depth=4))
    found["weights/prototype"] = shapes(prototype(10, 16, hidden=8, feature=8))
    sys.stdout.write(json.dumps(found))


def noisy_set() -> None:
    """Write digits with noise of 8 grey levels, as another tool would leave them."""
    import numpy as np

    import advhash as ah

    rows = ah.load_dataset("digits", {"size": 16}).query
    images = rows.inputs["image"][:12].numpy().astype(int)
    noise = np.random.default_rng(0).integers(-8, 9, images.shape)
    moved = (images + noise).clip(0, 255).astype(np.uint8)
    np.savez("noisy.npz", images=moved, ids=np.arange(12))


def api() -> None:
    """Print what the calls from Python find: with a run folder, in memory, without a database."""
    import advhash as ah

    code = import_module("pixels").code

    asked = {"queries": 12, "batch_size": 8}
    data = {"name": "digits", "size": 16}
    victim = ah.train("dpsh", data, bits=16, epochs=2)
    rows = ah.load_dataset("digits", {"size": 16})
    runs = {
        "folder": ah.attack(
            victim, method="dhta", eps="8/255", steps=3, protocol=asked, out="api-0"
        ),
        "memory": ah.attack(victim, method="hag", eps="8/255", steps=3, protocol=asked),
        "function": ah.attack(code, data=rows, method="noise", eps="8/255", protocol=asked),
        "batch": ah.attack(code, rows.query.rows(torch.arange(6)), method="noise", eps="8/255"),
    }
    found: dict[str, Any] = {
        name: {
            "columns": {column: values.tolist() for column, values in run.columns.items()},
            "codes": run.codes.words.tolist(),
            "moved": shapes({"adversarial": run.adversarial}),
            "metrics": {n: None if m is None else vars(m) for n, m in run.metrics.items()},
            "record": None if run.record is None else run.record.document(),
        }
        for name, run in runs.items()
    }
    found["evaluate"] = {name: vars(metric) for name, metric in ah.evaluate(victim).items()}
    found["compare"] = ah.compare("api-0", "api-0").document()
    sys.stdout.write(json.dumps(found))
