"""Sphinx configuration; `make docs` builds with warnings as errors."""

from advhash import __version__

project = "advhash"
author = "The advhash developers"
copyright = "2026, the advhash developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path: list[str] = []
