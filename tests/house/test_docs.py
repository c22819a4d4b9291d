"""What the documentation says can be done: commands parse, tables follow their figures."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import typer
from measuring_scripts import load_script

from advhash.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDES = [*sorted((DOCS / "how_to").glob("*.md")), DOCS / "tutorial.md"]
BLOCK = re.compile(r"```(?:sh|bash|console)\n(.*?)```", re.DOTALL)


def commands(file: Path) -> list[list[str]]:
    """The advhash commands in the shell blocks of a page, without what follows a pipe."""
    found = []
    for block in BLOCK.findall(file.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["advhash"]:
                found.append(words[1:])
    return found


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda file: file.stem
)
def test_commands_of_a_page_can_be_parsed(file: Path) -> None:
    """Names of commands and options, and the types of their values; nothing is run."""
    command = typer.main.get_command(app)
    if file in GUIDES:
        assert commands(file) or file.stem in ("index", "ci")  # a file that the page includes
    for words in commands(file):
        name, *rest = words
        assert isinstance(command, click.Group) or hasattr(command, "commands")
        found = command.commands[name]  # type: ignore[attr-defined]
        while hasattr(found, "commands"):
            found = found.commands[rest.pop(0)]
        found.make_context(name, rest, resilient_parsing=False)


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(file: Path) -> set[str]:
    """What `page.md#…` may name: each heading in small letters, hyphens for blanks."""
    headings = HEADING.findall(file.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "file", [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))], ids=lambda file: file.stem
)
def test_links_of_a_page_lead_somewhere(file: Path) -> None:
    for link in LINK.findall(file.read_text("utf-8")):
        if not link.startswith(("https://", "http://", "mailto:")):
            name, _, anchor = link.partition("#")
            target = file.parent / name if name else file
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "file", [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))], ids=lambda file: file.stem
)
def test_rows_of_a_table_have_its_columns(file: Path) -> None:
    columns = None
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        bars = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line)))
        columns = columns or bars
        assert bars == columns, line


def test_each_door_of_the_front_page_has_a_picture_and_a_tutorial() -> None:
    doors = (ROOT / "README.md").read_text("utf-8").partition("## Four doors")[2].split("\n### ")
    for door in [part.partition("\n## ")[0] for part in doors[1:]]:
        (picture,) = re.findall(r"!\[[^\]]+\]\((docs/images/door_\w+\.\w+)\)", door)
        assert (ROOT / picture).stat().st_size < 80_000
        (page,) = re.findall(r"From nothing to [^:]+: \[[^\]]+\]\(docs/([\w/]+\.md)\)", door)
        assert ROOT / "docs" / page in GUIDES
    assert len(doors) == 5


def test_guides_have_commands() -> None:
    assert sum(len(commands(file)) for file in GUIDES) >= 20


def test_every_page_that_a_script_writes_is_in_the_list() -> None:
    text = (DOCS / "tables.md").read_text("utf-8")
    found = load_script("tables.py")["scripts"]()
    assert len(found) >= 8
    for script in found:
        assert f"`benchmarks/{script.name}`" in text


def test_one_command_measures_every_page() -> None:
    """`make measure` knows each script that writes a page, and pages that are there."""
    tables = load_script("tables.py")
    measure = load_script("measure.py")
    names = {script.name for script in measure["SCRIPTS"]}
    assert {script.name for script in tables["scripts"]()} <= names
    assert all((ROOT / "benchmarks" / name).is_file() for name in names)
    listed = tomllib.loads((ROOT / "benchmarks/measured_at.toml").read_text("utf-8"))
    for script in measure["SCRIPTS"]:
        text = (ROOT / "benchmarks" / script.name).read_text("utf-8")
        assert set(script.pages) <= listed.keys(), script.name
        assert all((ROOT / page).is_file() for page in script.parts), script.name
        # A page that names the commit of its tables is one that the script writes.
        assert not script.pages or '"--page"' in text, script.name
        for page in script.pages:
            folder = Path(page).parent.as_posix()
            assert page in text or f"{folder}/{{name}}.md" in text, (script.name, page)
        if script.name == "commands.py":
            written = {table.page for table in load_script("commands.py")["TABLES"]}
            assert written == {*script.pages, *(page[5:] for page in script.parts)}


def test_a_page_without_its_marks_is_refused_and_not_cut() -> None:
    filled = load_script("pages.py")["filled"]
    page = "# Costs\n<!-- t -->\nold\n<!-- end -->\nafter\n"
    assert filled(page, {"t": "new\n"}) == page.replace("old", "new")
    for lost in ("<!-- t -->", "<!-- end -->"):
        with pytest.raises(SystemExit, match="page 'Costs': expected the marks 't' and 'end'"):
            filled(page.replace(lost, ""), {"t": "new\n"})


def test_a_page_names_the_commit_once_every_script_of_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that fails keeps the head, costs no other, and is not run a second time then."""
    spec = importlib.util.spec_from_file_location("measure", ROOT / "benchmarks/measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "measure", module)
    spec.loader.exec_module(module)
    heads = tmp_path / "heads.toml"
    heads.write_text('["a.md"]\ncommits = ["1"]\nanew = "x"\n')
    for name, value in (("HERE", tmp_path), ("STATE", tmp_path / "state"), ("HEADS", heads)):
        monkeypatch.setattr(module, name, value)
    first = module.Script("first.py", ("a.md",), runs=(("1",), ("2",)))
    second = module.Script("second.py", ("a.md",))
    monkeypatch.setattr(module, "SCRIPTS", (first, second))
    for script in (first, second):
        note = "import sys\nopen(__file__ + '.log', 'a').write(f'{sys.argv[1:]}')\n"
        (tmp_path / script.name).write_text(note)
    state: dict[str, dict[str, str]] = {}
    assert module.measure(first, state, "code", "2")
    assert (tmp_path / "first.py.log").read_text() == "['1']['2']"
    assert 'commits = ["1"]' in heads.read_text()  # the other script's table is the old one
    (tmp_path / "first.py").write_text("raise SystemExit(3)")
    (tmp_path / "first.json").write_text("old")
    assert not module.measure(first, state, "other code", "3")
    assert not (tmp_path / "first.json").exists()  # else it would pass for figures of this code
    assert module.measure(second, state, "code", "2")
    assert 'commits = ["1"]' in heads.read_text()
    (tmp_path / "first.py").write_text("")
    assert module.measure(first, state, "code", "2")
    assert heads.read_text() == '["a.md"]\ncommits = ["2"]\n'


def test_pages_with_figures_say_at_which_commit_they_were_measured() -> None:
    tables = load_script("tables.py")
    listed = tomllib.loads((ROOT / "benchmarks/measured_at.toml").read_text("utf-8"))
    for name, given in listed.items():
        text = (DOCS / name).read_text("utf-8")
        assert text == tables["headed"](text, **given)
    for page in DOCS.rglob("*.md"):
        text, name = page.read_text("utf-8"), str(page.relative_to(DOCS))
        figures = re.search(r"benchmarks/\w+\.(py|json)|^#+ Measured", text, re.MULTILINE)
        if name != "tables.md" and figures:
            assert name in listed, f"{name}: expected it in benchmarks/measured_at.toml"


def test_pages_that_scripts_write_are_checked_and_put_back() -> None:
    checked = load_script("tables.py")["pages"]()
    for script in (ROOT / "benchmarks").glob("*.py"):
        for name in re.findall(r'"((?:docs/|README)[\w/]*\.md)"', script.read_text("utf-8")):
            assert ROOT / name in checked, f"{script.name} writes {name}"


@pytest.mark.slow
def test_every_measured_page_follows_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


FIRST_AUTHORS = {  # of the papers that the methods of this house come from, as arXiv has them
    "1511.03855": "Li", "1602.02255": "Jiang", "1702.00758": "Cao", "1809.01238": "Cao",
    "1908.00347": "Yuan", "2101.05490": "He", "2212.00325": "Qiu", "2302.05433": "Gillard",
    "2304.13357": "Xu",
}  # fmt: skip
CITED = re.compile(
    r"([A-Z][a-z]+)(?: et al\.|(?:(?:,|,? and) [A-Z][a-z]+|, …)+)[:,]? "
    r"(?:\(?\*[^*]*\*, |\"[^\"]*\", )?"
    r"[^.*;()]{0,45}\(?arXiv (\d{4}\.\d{5})"
)


def test_a_paper_has_its_own_authors_wherever_it_is_cited() -> None:
    """Four places gave Unified Functional Hashing to Liu et al."""
    folders = ("advhash", "attacks", "victims", "defenses", "reports", "docs", "benchmarks")
    cited: dict[str, set[str]] = {}
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md", ".html") and "_build" not in file.parts:
                text = " ".join(file.read_text("utf-8").split())
                for author, number in CITED.findall(text):
                    cited.setdefault(number, set()).add(author)
    for number, author in FIRST_AUTHORS.items():
        assert cited.get(number) == {author}, f"arXiv {number}"
