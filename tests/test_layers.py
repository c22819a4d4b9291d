"""The package is layered one way: core ← victims ← attacks ← defenses ← reports ← pipeline ← cli.

The core may name a higher layer for type checkers only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("advhash", "victims", "attacks", "defenses", "reports")
LAYERS = ("core", "victims", "attacks", "defenses", "reports", "pipeline", "cli")
PIPELINE = {
    "abnormal",
    "inversion_parts",
    "inversion_plan",
    "detecting",
    "detecting_images",
    *("encoding_coders", "encoding_detection", "encoding_run"),
    *("phase_cell", "phase_run"),
    "inverting",
    "transcripts",
    *("own_victim", "training", "fitting", "recording", "attacking", "pipeline"),
    *(
        "budgets",
        "poisoning",
        "transfer_members",
        "transferring",
        "hardening",
        "defending",
        "certifying",
    ),
    *("comparing", "suites", "suite_cell", "suite_record", "benchmarking"),
    *("lifelong_cell", "lifelong_attack", "lifelong_run"),
    *("attack_domain", "search_cell", "search_winner", "searching"),
    *("measuring", "asking", "results", "in_memory", "api"),
}
CLI = {
    "cli",
    "cli_benchmark",
    "cli_certify",
    "cli_compare",
    "cli_defend",
    "cli_detect",
    "cli_codes",
    "cli_encode",
    "cli_lifelong",
    "cli_search",
    "cli_transfer",
    "cli_options",
    "console",
    "doctor",
    "__main__",
}
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


def layer(module: str) -> str:
    """The layer of `advhash.x` or `advhash.folder.x`."""
    name = module.split(".")[1] if "." in module else ""
    if name in LAYERS[1:5]:
        return name
    if name in PIPELINE:
        return "pipeline"
    return "cli" if name in CLI else "core"


def module_name(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[0] == "advhash" else ["advhash", *parts])


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, except what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.If) and is_type_checking(node.test) and child in node.body:
            continue
        yield child
        yield from running(child)


def imports(source: str) -> set[str]:
    """The modules of advhash that running this source imports, inside functions too.

    `from advhash import x` may mean a module or a name: it counts as `advhash.x`.
    """
    found = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= names if module == "advhash" else {module}
    return {name for name in found if name.split(".")[0] == "advhash"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch", set()),
        ("import advhash.attacks.base as b, torch", {"advhash.attacks.base"}),
        ("from advhash.victims.base import HashVictim", {"advhash.victims.base"}),
        ("from advhash import pipeline, __version__", {"advhash.pipeline", "advhash.__version__"}),
        ("def f():\n    from advhash.cli import main", {"advhash.cli"}),
        ("if TYPE_CHECKING:\n    from advhash.cli import main", set()),
        ("import typing\nif typing.TYPE_CHECKING:\n    import advhash.cli", set()),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import advhash.cli", {"advhash.cli"}),
        ("if not TYPE_CHECKING:\n    import advhash.cli", {"advhash.cli"}),
        ("try:\n    import advhash.cli\nexcept ImportError:\n    pass", {"advhash.cli"}),
        ("import advhash_other", set()),
    ],
)
def test_imports_are_found(source: str, found: set[str]) -> None:
    assert imports(source) == found


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("advhash", "core"),
        ("advhash.codes", "core"),
        ("advhash.checkpoint", "core"),
        ("advhash.victims", "victims"),
        ("advhash.victims.base", "victims"),
        ("advhash.reports.html", "reports"),
        ("advhash.training", "pipeline"),
        ("advhash.doctor", "cli"),
    ],
)
def test_modules_have_their_layer(module: str, expected: str) -> None:
    assert layer(module) == expected


def test_every_layer_has_files() -> None:
    assert {layer(module_name(file)) for file in FILES} == set(LAYERS)
    for name in PIPELINE | CLI:
        assert (ROOT / "advhash" / f"{name}.py").is_file(), f"{name} is gone: update this test"


@every_file
def test_a_module_imports_its_own_layer_or_lower_ones(file: Path) -> None:
    own = LAYERS.index(layer(module_name(file)))
    upward = {name for name in imports(file.read_text("utf-8")) if LAYERS.index(layer(name)) > own}
    assert not upward, f"{module_name(file)} is {LAYERS[own]} and may not import {upward}"


def test_checkpoint_knows_victims_for_type_checkers_only() -> None:
    source = (ROOT / "advhash" / "checkpoint.py").read_text("utf-8")
    assert "from advhash.victims.base import HashVictim" in source
    assert not any(layer(name) == "victims" for name in imports(source))


@every_file
def test_imports_are_absolute(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), ast.unparse(node)


@every_file
def test_imports_stay_under_one_name(file: Path) -> None:
    """`import victims` from a checkout would make a second copy of every class."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & set(FOLDERS[1:]), ast.unparse(node)


@every_file
def test_no_module_is_a_drawer_of_odds_and_ends(file: Path) -> None:
    assert file.stem not in ("utils", "util", "helpers", "common", "misc")


def calls(file: Path) -> set[str]:
    return {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call)
    }


LIBRARY = [file for file in FILES if layer(module_name(file)) != "cli"]


@pytest.mark.parametrize("file", LIBRARY, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_library_never_prints(file: Path) -> None:
    """What is shown is the business of the command line."""
    found = {name.removeprefix("builtins.") for name in calls(file)}
    assert not found & {"print", "pprint", "pprint.pprint", "sys.stdout.write"}


UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@every_file
def test_nothing_that_can_run_code_is_loaded_or_saved(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
            named = {alias.name for alias in node.names}
            assert not (node.module == "torch" and named & {"load", "save"}), ast.unparse(node)
    assert not modules & UNSAFE
    forbidden = {"torch.load", "torch.save", "eval", "exec", "yaml.load", "pd.read_pickle"}
    if file == ROOT / "victims/pretrained.py":  # see the test below
        forbidden.remove("torch.load")
    assert not calls(file) & forbidden
    assert "allow_pickle=True" not in file.read_text("utf-8")


def test_the_one_pickle_is_of_known_bytes_and_gives_tensors_only() -> None:
    """`pretrained.py` alone may call torch.load: once, after the SHA-256, of bytes in memory."""
    tree = ast.parse((ROOT / "victims/pretrained.py").read_text("utf-8"))
    readers = [
        function
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and "torch.load" in ast.unparse(function)
    ]
    assert [function.name for function in readers] == ["_read"]
    loads = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(loads) == 1
    assert ast.unparse(loads[0].args[0]) == "stream"
    assert {word.arg: ast.unparse(word.value) for word in loads[0].keywords} == {
        "map_location": "'cpu'",
        "weights_only": "True",
    }
    source = ast.unparse(readers[0])
    assert source.index("!= LITE0_SHA256") < source.index("raise") < source.index("torch.load")
