"""advhash: adversarial robustness of hashing retrieval.

From Python, everything stands under one name, and nothing heavy is imported before it is used:

    import advhash as ah
    victim = ah.train("dpsh", "digits")
    result = ah.attack(victim, method="dhta", eps=8 / 255, protocol={"queries": 50})

The folders `victims`, `attacks`, `defenses` and `reports` of a checkout stand beside this one and
are imported as `advhash.victims` and so on. See ARCHITECTURE.md.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from advhash._version import __version__

if TYPE_CHECKING:
    from advhash.api import attack, bring, compare, evaluate, load, load_dataset, report, train
    from advhash.data import Batch
    from advhash.errors import AdvhashError

__all__ = [
    "AdvhashError",
    "Batch",
    "__version__",
    "attack",
    "bring",
    "compare",
    "evaluate",
    "load",
    "load_dataset",
    "report",
    "train",
]

_KINDS = ("benchmark", "certify", "detect", "encode", "evolve", "lifelong", "phase", "transfer")
_MOVED = {  # modules of version 0.1 that its documentation showed → where their names are
    "attacks.anchors": "attacks.gradient.anchors",
    "attacks.baselines": "attacks.black_box.baselines",
    "attacks.code_inversion": "attacks.inversion.code_inversion",
    "attacks.hiding": "attacks.gradient.hiding",
    "attacks.objectives": "attacks.gradient.objectives",
    "attacks.query": "attacks.black_box.nes",
    "attacks.square": "attacks.black_box.square",
    "attacks.text": "attacks.words.hotflip",
    "attacks.transforms": "attacks.gradient.transforms",
    "checkpoint": "storage.checkpoint",
    "code_files": "codes.code_files",
    "comparing": "experiments.compare",
    "config": "experiments.config experiments.config_text "
    + " ".join(f"experiments.{kind}.config" for kind in _KINDS),
    "datasets": "data.load",
    "defenses.adaptive_codes": "defenses.detectors.adaptive_images",
    "defenses.adversarial": "defenses.training.adversarial",
    "defenses.code_detectors": "defenses.detectors.image_codes",
    "defenses.combined_detector": "defenses.detectors.combined",
    "defenses.noise": "defenses.training.noise",
    "defenses.novelty": "defenses.detectors.novelty",
    "defenses.purify": "defenses.wrappers.purify",
    "defenses.smoothing": "defenses.wrappers.smoothing",
    "evaluation": "experiments.evaluate",
    "hamming": "codes.hamming",
    "hierarchical": "measures.hierarchical",
    "metrics": "codes.metrics",
    "reports.ceiling": "experiments.prepare.ceiling",
    "reports.html": "reports.page.render",
    "reports.measures": "experiments.attack.columns reports.record",
    "reports.operating": "experiments.attack.operating",
    "sharding": "codes.sharding",
    "stats": "measures.intervals",
    "victims.csq": "victims.image.csq",
    "victims.dcmh": "victims.cross_modal.dcmh",
    "victims.dlcmh": "victims.cross_modal.dlcmh",
    "victims.hashnet": "victims.image.hashnet",
    "victims.hashvfl": "victims.federated.hashvfl",
    "victims.neural_code": "victims.neural.neural_code",
}


class _Moved(MetaPathFinder, Loader):
    """Imports a module of version 0.1 from where it is now, with a DeprecationWarning."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = name.startswith("advhash.") and name.removeprefix("advhash.") in _MOVED
        return spec_from_loader(name, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        places = [
            f"advhash.{place}" for place in _MOVED[module.__name__.removeprefix("advhash.")].split()
        ]
        warnings.warn(
            f"{module.__name__} is now {', '.join(places)}; the old name goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        modules = [import_module(place) for place in places]
        for other in reversed(modules):
            vars(module).update(
                {name: value for name, value in vars(other).items() if name[0] != "_"}
            )
        if len(modules) == 1:
            sys.modules[module.__name__] = modules[0]


sys.meta_path.append(_Moved())

_PLACES = {"AdvhashError": "errors", "Batch": "data"}

# With a wheel installed, `python -m pytest` in a checkout finds this folder first: its siblings
# must then be found beside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "victims/__init__.py").is_file():
    __path__.append(str(_checkout))
del _checkout, Path


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'advhash' has no attribute {name!r}")
    return getattr(import_module(f"advhash.{_PLACES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    """What the documentation shows; every sub-package can be imported all the same."""
    return sorted(__all__)
