"""advhash: adversarial robustness of hashing retrieval.

The folders `victims`, `attacks`, `defenses` and `reports` of a checkout stand beside this one and
are imported as `advhash.victims` and so on. See ARCHITECTURE.md.
"""

from __future__ import annotations

from pathlib import Path

from advhash._version import __version__

__all__ = ["__version__"]

# With a wheel installed, `python -m pytest` in a checkout finds this folder first: its siblings
# must then be found beside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "victims/__init__.py").is_file():
    __path__.append(str(_checkout))
del _checkout, Path
