"""What is installed is what is in the tree."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from source_tree import FILES, FOLDERS, ROOT, named

from advhash import __version__

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def installed(file: Path) -> str:
    """Where a file of the tree lies in the wheel."""
    path = file.relative_to(ROOT).as_posix()
    return path if path.startswith("advhash/") else f"advhash/{path}"


def files(pattern: str) -> list[Path]:
    return [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob(pattern))]


def test_the_list_of_packages_equals_the_tree() -> None:
    """A sub-package that is not listed would work here and be missing in the wheel."""
    found = [named(file) for file in FILES if file.name == "__init__.py"]
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    folders = {file.parent for file in FILES}
    assert folders == {file.parent for file in FILES if file.name == "__init__.py"}


def test_only_the_four_folders_beside_advhash_are_mapped() -> None:
    """Their sub-packages follow from them."""
    beside = {f"advhash.{folder}": folder for folder in FOLDERS[1:]}
    assert SETUPTOOLS["package-dir"] == {"advhash": "advhash", **beside}


def test_tests_are_no_package() -> None:
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_the_name_is_not_that_of_the_unrelated_package_on_pypi() -> None:
    assert PROJECT["project"]["name"] == "advhash-toolkit"
    assert PROJECT["project"]["scripts"] == {"advhash": "advhash.cli.app:main"}


def test_every_file_that_names_the_version_names_the_same() -> None:
    def text(name: str) -> str:
        return (ROOT / name).read_text("utf-8")

    zoo = tomllib.loads(text("zoo/pyproject.toml"))["project"]
    assert zoo["version"] == __version__
    assert zoo["dependencies"] == [f"advhash-toolkit>={__version__}"]
    assert f"\nversion: {__version__}\n" in text("CITATION.cff")
    assert f"\n## {__version__} (" in text("CHANGELOG.md")
    assert f"advhash       {__version__} on Python" in text("docs/tutorial.md")


def test_torchattacks_is_no_dependency() -> None:
    """It pins an old `requests` that it never imports."""
    groups = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(name for group in groups for name in group)]
    assert not any(name.lower().startswith(("torchattacks", "requests")) for name in wanted)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone has, so that building leaves nothing behind here."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it without isolation: offline."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools is older than pyproject.toml demands")
    out = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=checkout, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def content(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module_and_nothing_else(content: list[str]) -> None:
    package = ROOT / "advhash"
    data = [package / "py.typed", package / "methods.json"]
    data += [package / "functional/nas_table.json.gz", *files("*.html")]
    data += (package / "experiments/benchmark/suites").glob("*.toml")
    data.append(package / "experiments/reference_costs.jsonl")
    expected = sorted(installed(file) for file in [*files("*.py"), *data])
    assert sorted(name for name in content if ".dist-info/" not in name) == expected


@pytest.mark.parametrize("suffix", ["html", "css", "js", "json", "toml", "txt", "typed"])
def test_every_data_file_of_the_tree_is_in_the_wheel(content: list[str], suffix: str) -> None:
    assert {installed(file) for file in files(f"*.{suffix}")} <= set(content)


def test_the_wheel_says_what_it_is(wheel: Path, content: list[str]) -> None:
    assert wheel.name == f"advhash_toolkit-{__version__}-py3-none-any.whl"
    folder = f"advhash_toolkit-{__version__}.dist-info"
    assert f"{folder}/licenses/LICENSE" in content
    with zipfile.ZipFile(wheel) as archive:
        head = HeaderParser().parsestr(archive.read(f"{folder}/METADATA").decode())
        scripts = archive.read(f"{folder}/entry_points.txt").decode()
    assert (head["Name"], head["Version"]) == ("advhash-toolkit", __version__)
    assert head["License-Expression"] == "Apache-2.0"
    assert "advhash = advhash.cli.app:main" in scripts


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed somewhere."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def located(site: Path, cwd: Path, *modules: str) -> list[Path]:
    """The files that a plain Python in `cwd` imports; -S keeps this environment out of it."""
    names = ", ".join(f"{name}.__file__" for name in modules)
    lines = [f"import {', '.join(modules)}", f"print({names}, sep='\\n')"]
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", "\n".join(lines)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [Path(line) for line in done.stdout.split()]


PARTS = [f"advhash.{folder}" for folder in FOLDERS[1:]]


def test_in_a_checkout_its_own_folders_are_imported_although_a_wheel_is_installed(
    checkout: Path, site: Path
) -> None:
    """`./advhash` shadows the installed one, so its parts must be found beside it."""
    found = located(site, checkout, "advhash", *PARTS)
    assert found == [checkout / folder / "__init__.py" for folder in FOLDERS]


def test_elsewhere_the_installed_folders_are_imported(site: Path, tmp_path: Path) -> None:
    for folder in ("attacks", "victims"):  # a user's own folders of the same name
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "pyproject.toml").write_text("")
    found = located(site, tmp_path, "advhash", *PARTS)
    inside = [installed(ROOT / folder / "__init__.py") for folder in FOLDERS]
    assert found == [site / name for name in inside]
