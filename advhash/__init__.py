"""advhash: adversarial robustness of hashing retrieval.

From Python, everything stands under one name, and nothing heavy is imported before it is used:

    import advhash as ah
    victim = ah.train("dpsh", "digits")
    result = ah.attack(victim, method="dhta", eps=8 / 255, protocol={"queries": 50})

The folders `victims`, `attacks`, `defenses` and `reports` of a checkout stand beside this one and
are imported as `advhash.victims` and so on. See ARCHITECTURE.md.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from advhash._version import __version__

if TYPE_CHECKING:
    from advhash.api import attack, bring, compare, evaluate, load, report, train
    from advhash.data import Batch
    from advhash.datasets import load_dataset
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

_PLACES = {"AdvhashError": "errors", "Batch": "data", "load_dataset": "datasets"}

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
    return sorted({*globals(), *__all__})
