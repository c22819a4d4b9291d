"""The folders say what a module may know; ARCHITECTURE.md draws their order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from source_tree import FILES, FOLDERS, ROOT, folder_of, imports, modules_of, named

DRAWING = re.compile(r"^    (ground ←(?:.|\n    )*)", re.MULTILINE)
LAYERS = [
    {name.strip() for name in floor.split(",")}
    for floor in DRAWING.findall((ROOT / "ARCHITECTURE.md").read_text("utf-8"))[0].split("←")
]
GROUND = {
    *("__init__", "__main__", "_version"),
    *("budget", "chance", "errors", "registry", "shared_labels", "targets", "validation"),
}
MOST_MODULES = 30  # of a folder that is no plug-in
every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


def floor(module: str) -> int:
    """The layer of a module, counted from the ground."""
    (found,) = (place for place, names in enumerate(LAYERS) if folder_of(module) in names)
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch", set()),
        ("import advhash.attacks.base as b, torch", {"advhash.attacks.base"}),
        ("from advhash.victims.base import HashVictim", {"advhash.victims.base.HashVictim"}),
        ("from advhash import api, __version__", {"advhash.api", "advhash.__version__"}),
        ("def f():\n    from advhash.cli import app", {"advhash.cli.app"}),
        ("if TYPE_CHECKING:\n    from advhash.cli import app", set()),
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
    ("module", "folder"),
    [
        ("advhash", "ground"),
        ("advhash.errors", "ground"),
        ("advhash.codes", "codes"),
        ("advhash.storage.checkpoint", "storage"),
        ("advhash.victims", "victims"),
        ("advhash.victims.base", "victims"),
        ("advhash.reports.page.render", "reports"),
        ("advhash.experiments.prepare.victim", "experiments"),
        ("advhash.cli.commands.doctor", "cli"),
    ],
)
def test_modules_have_their_folder(module: str, folder: str) -> None:
    assert folder_of(module) == folder


def test_the_drawing_has_every_folder_once() -> None:
    drawn = [name for names in LAYERS for name in names]
    assert sorted(drawn) == sorted({folder_of(named(file)) for file in FILES})


@every_file
def test_a_module_imports_its_own_layer_or_lower_ones(file: Path) -> None:
    if file.name == "__main__.py":  # it starts the command line
        return
    own = floor(named(file))
    upward = {name for name in modules_of(file) if floor(name) > own}
    assert not upward, f"{named(file)} is of {LAYERS[own]} and may not import {upward}"


DRAWS = {"reports", "measures", "codes", "storage", "compute", "ground"}


@pytest.mark.parametrize("file", sorted((ROOT / "reports").rglob("*.py")), ids=lambda f: f.name)
def test_reports_draw_what_records_hold(file: Path) -> None:
    """They know no data set, victim, attack, defence or experiment, which would be computing."""
    assert {folder_of(name) for name in modules_of(file)} <= DRAWS


COMPUTES = {"numpy", "pandas", "pyarrow", "scipy", "sklearn", "statistics", "torch"}


@pytest.mark.parametrize("file", sorted((ROOT / "reports").rglob("*.py")), ids=lambda f: f.name)
def test_reports_leave_computing_to_measures(file: Path) -> None:
    """A mean, an interval or a test on a page is made where figures are made."""
    packages = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").split(".")[0])
    assert not packages & COMPUTES


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The modules of one circle, the first one again at its end; empty where there is none."""
    above: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in done:
            return []
        above.append(module)
        for other in sorted(graph[module]):
            if found := visit(other):
                return found
        above.pop()
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module))), [])


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": "b", "b": "c", "c": ""}, []),
        ({"a": "bc", "b": "d", "c": "d", "d": ""}, []),
        ({"a": "b", "b": "a"}, ["a", "b", "a"]),
        ({"a": "b", "b": "c", "c": "db", "d": ""}, ["b", "c", "b"]),
    ],
)
def test_circles_are_found(graph: dict[str, str], found: list[str]) -> None:
    assert circle(graph) == found


def test_imports_for_type_checkers_are_found() -> None:
    source = "if TYPE_CHECKING:\n    from advhash.cli import app\nimport advhash.data"
    assert imports(source, typed=True) == {"advhash.cli.app", "advhash.data"}


def test_no_imports_go_round() -> None:
    """Between modules, those for type checkers alone included.

    A package that shows its face imports what lies in it.
    """
    graph: dict[str, frozenset[str]] = {
        named(file): frozenset() if file.name == "__init__.py" else modules_of(file, typed=True)
        for file in FILES
    }
    assert not (found := circle(graph)), " → ".join(found)


def test_the_ground_is_small() -> None:
    assert {file.stem for file in (ROOT / "advhash").glob("*.py")} == GROUND


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=str)
def test_a_folder_can_be_read_at_a_glance(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


def test_checkpoint_knows_victims_for_type_checkers_only() -> None:
    source = (ROOT / "advhash/storage/checkpoint.py").read_text("utf-8")
    assert "from advhash.victims.base import HashVictim" in source
    assert not any(folder_of(name) == "victims" for name in imports(source))


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


def names_of_nothing(source: str) -> set[str]:
    """Names that say what happened to a thing instead of what it is.

    `one` is a name beside `other` alone, where two of a kind are compared.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    plain = {name.strip("_").lower() for name in names}
    return plain & ({"found", "told"} if "other" in plain else {"found", "told", "one"})


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("found = 1", {"found"}),
        ("def _told(): ...", {"told"}),
        ("[one for one in x]", {"one"}),
        ("lambda found: 1", {"found"}),
        ("def apart(one, other): ...", set()),
    ],
)
def test_names_of_nothing_are_noticed(source: str, names: set[str]) -> None:
    assert names_of_nothing(source) == names


@every_file
def test_a_name_says_what_it_stands_for(file: Path) -> None:
    assert not names_of_nothing(file.read_text("utf-8"))


def calls(file: Path) -> set[str]:
    return {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call)
    }


LIBRARY = [file for file in FILES if folder_of(named(file)) != "cli"]


@pytest.mark.parametrize("file", LIBRARY, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_library_never_prints(file: Path) -> None:
    """What is shown is the business of the command line."""
    found = {name.removeprefix("builtins.") for name in calls(file)}
    assert not found & {"print", "pprint", "pprint.pprint", "sys.stdout.write"}


UNSAFE = {
    *("pickle", "cPickle", "_pickle", "pickletools", "copyreg"),
    *("dill", "cloudpickle", "joblib", "shelve", "marshal"),
}
OPCODES = (
    ROOT / "advhash/storage/pickle_opcodes.py"
)  # cuts pickles into opcodes; see the test below


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
    assert not modules & (UNSAFE - {"pickletools"} if file == OPCODES else UNSAFE)
    forbidden = {"torch.load", "torch.save", "eval", "exec", "yaml.load", "pd.read_pickle"}
    if file == ROOT / "victims/networks/pretrained.py":  # see the test below
        forbidden.remove("torch.load")
    assert not calls(file) & forbidden
    assert "allow_pickle=True" not in file.read_text("utf-8")


def test_the_one_pickle_is_of_known_bytes_and_gives_tensors_only() -> None:
    """`pretrained.py` alone may call torch.load: once, after the SHA-256, of bytes in memory."""
    tree = ast.parse((ROOT / "victims/networks/pretrained.py").read_text("utf-8"))
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


def test_the_one_reader_of_opcodes_can_call_and_set_nothing() -> None:
    """It imports what follows, and has no words by which a name could become an object."""
    tree = ast.parse(OPCODES.read_text("utf-8"))
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert modules == {
        *("__future__", "math", "pickletools", "struct", "collections.abc", "dataclasses", "io"),
        *("typing", "advhash.storage.documents", "advhash.storage.foreign_text"),
    }
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    reached = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    roads = {"getattr", "setattr", "eval", "exec", "compile", "open", "globals", "vars"}
    assert not named & {*roads, "__import__", "__builtins__", "super"}
    assert not reached & {"__dict__", "__class__", "__globals__", "__setattr__", "update"}
    used = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickletools"
    }
    assert used == {"pickletools.genops"}


def test_files_of_torch_are_opened_by_one_module() -> None:
    """Whoever wants what is pickled goes through the reader that checks where tensors lie."""
    users = {named(file) for file in FILES if "advhash.storage.pickle_opcodes" in modules_of(file)}
    assert users == {"advhash.storage.torch_file", "advhash.storage.foreign_model"}
