"""Compares the numbers of two commits: every kind of run, small, on this machine, to the last bit.

    python tools/compare_commits.py OLD NEW [--kinds attack,transfer] [--keys] [--keep FOLDER]

OLD and NEW are commits, or folders of checkouts (`.` is the working tree). Both run the commands of
`compared_commands.py` under this Python, each with one thread, an empty cache and an injected clock
(`command_recorder.py`). Compared are documents on stdout, `metrics.json`, tables, pictures and
`config.toml` of run folders, and the inputs of all cache keys, our sources left out. What only the
new one has is a note in a config and at the top of a document, and a difference elsewhere.

Exit code 1: something differs. Keys count with `--keys` alone, since a move may change their shape.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from compared_commands import COMMANDS, FILES

IGNORED = {  # path of a figure, its names joined by "/" → why it may differ
    r"(.*/)?\w*seconds\w*(/.*)?": "measured time; what follows from it agrees by injected clocks",
    r"(.*/)?created": "when it ran",
    r"(.*/)?run/(id|folder)": "the name of a run",
    r"report|file|(.*/)?checkpoint": "a path",
    r"(.*/)?(version|environment)(/.*)?": "of the package and of the machine",
}
ASKED = r"(.*/)?(settings|fields|presets|suite)/.*"  # no measurement: never ignored
RENAMED = {"search": "evolve", "advhash/search/1": "advhash/evolve/1"}  # `command` and `schema`
OF_THE_CODE = ("code", "readers")  # entries of keys that are digests of our sources
ALONE = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
OPTIONS = ("--seed", "0", "--json", "--quiet")
OTHER_OPTIONS = {"compare": ("--json",), "codes": ("--json",), "python": ()}  # by the first word
KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
DIGEST = re.compile(r"[0-9a-f]{64}")
COPIES = ("settings", "suite")  # of the config, at the top of a document
PRINTED = "stdout"
SHOWN = 8  # differences of a kind
WIDTH = 100  # characters of a value

Leaves = dict[str, str]  # path → value as text


@dataclass
class Side:
    """One commit: its checkout, the folder in which its commands run, and what came of them.

    ended: label → exit code and seconds; keys: kind → content → how often it was asked for
    callers: content → who asked for its key
    """

    name: str
    checkout: Path
    folder: Path
    ended: dict[str, tuple[int, float]] = field(default_factory=dict)
    keys: dict[str, Counter[str]] = field(default_factory=dict)
    callers: dict[str, str] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)  # key → a name without our sources

    def run(self, kinds: list[str]) -> None:
        """Run all commands of the kinds. Raises RuntimeError where that is impossible."""
        search = "evolve" if self._knows("evolve") else "search"
        plan = [
            {"label": label, "arguments": [*words, *OTHER_OPTIONS.get(words[0], OPTIONS)]}
            for label, line in labelled(kinds)
            for words in [line.format(out=label, evolve=search).split()]
        ]
        for name, text in {**FILES, "plan.json": json.dumps(plan)}.items():
            (self.folder / name).write_text(text)
        recorder = Path(__file__).with_name("command_recorder.py")
        with self._started(str(recorder), "plan.json") as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stderr.write(f"{self.name}: {line}")
                label, code, seconds = line.split()
                self.ended[label] = int(code), float(seconds)
        if process.returncode or len(self.ended) < len(plan):
            raise RuntimeError(f"{self.name}: the recorder of {self.checkout} ended early")
        for label, _ in labelled(kinds):
            self._read_keys(label)

    def _knows(self, command: str) -> bool:
        with self._started("-m", "advhash", command, "--help", quiet=True) as process:
            process.communicate()
        return process.returncode == 0

    def _started(self, *arguments: str, quiet: bool = False) -> subprocess.Popen[str]:
        more = {**ALONE, "PYTHONPATH": str(self.checkout), "ADVHASH_CACHE": f"{self.folder}/cache"}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )

    def _read_keys(self, label: str) -> None:
        file = self.folder / f"{label}.keys"
        counts = self.keys.setdefault(label.rpartition("-")[0], Counter())
        for line in file.read_text().splitlines() if file.is_file() else ():
            asked = json.loads(line)
            content = json.dumps(self.plain(asked["content"], self._names), sort_keys=True)
            digest = hashlib.sha256(content.encode()).hexdigest()
            self._names[asked["key"]] = f"<key {digest[:8]}>"
            counts[content] += 1
            self.callers[content] = asked["caller"]

    def plain(self, value: Any, names: Mapping[str, str]) -> Any:
        """Without paths, digests of sources and keys that hold them; TOML texts as tables."""
        if isinstance(value, Mapping):
            return {
                name: "<code>"
                if name in OF_THE_CODE and isinstance(one, str) and DIGEST.fullmatch(one)
                else self.plain(one, names)
                for name, one in value.items()
            }
        if isinstance(value, list):
            return [self.plain(one, names) for one in value]
        if not isinstance(value, str):
            return value
        try:
            if "\n" in value:
                return self.plain(tomllib.loads(value), names)
        except tomllib.TOMLDecodeError:
            pass
        value = value.replace(str(self.folder), "<folder>").replace(str(self.checkout), "<code>")
        return KEY.sub(lambda found: names.get(found[0], found[0]), value)

    def documents(self, label: str) -> dict[str, Leaves]:
        """What a command printed and what stands in its folder, by name."""
        names = dict.fromkeys(self._names, "<key>")
        found: dict[str, Leaves] = {}
        printed = (self.folder / f"{label}.out").read_text()
        if printed.startswith("{"):
            found[PRINTED] = leaves(self.plain(json.loads(printed), names))
        tables = self.folder.glob(f"{label}.parquet")
        for file in sorted([*tables, *(self.folder / label).rglob("*")]):
            name = str(file.relative_to(self.folder))
            if file.name == "metrics.json":
                found[name] = leaves(self.plain(json.loads(file.read_text("utf-8")), names))
            elif file.suffix == ".toml":
                found[name] = leaves(self.plain(tomllib.loads(file.read_text("utf-8")), names))
            elif file.suffix == ".parquet":
                found[name] = table_leaves(file)
            elif file.suffix == ".png":
                found[name] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        return found

    def last_words(self, label: str) -> str:
        lines = (self.folder / f"{label}.err").read_text().strip().splitlines()
        return lines[-1] if lines else ""


def labelled(kinds: list[str]) -> list[tuple[str, str]]:
    """Label and command line of everything that is run for these kinds."""
    return [(f"{kind}-{n}", line) for kind in kinds for n, line in enumerate(COMMANDS[kind])]


def leaves(value: Any, path: str = "") -> Leaves:
    """Every value of a document by its path. JSON of two floats is equal iff they are.

    >>> leaves({"tmap": {"value": 0.5}, "seeds": [0, 1], "flags": []})
    {'tmap/value': '0.5', 'seeds/0': '0', 'seeds/1': '1', 'flags': '[]'}
    """
    if not isinstance(value, dict | list) or not value:
        return {path: json.dumps(value, ensure_ascii=False, default=str)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        place: text
        for name, one in items
        for place, text in leaves(one, f"{path}/{name}" if path else str(name)).items()
    }


def table_leaves(file: Path) -> Leaves:
    """Every value of a table by column and row, NaN by its bits, and the type of each column."""
    table = pq.read_table(file)
    found = {f"{column.name}/type": str(column.type) for column in table.schema}
    for name in table.column_names:
        for row, value in enumerate(table.column(name).to_pylist()):
            nan = isinstance(value, float) and value != value
            found[f"{name}/{row}"] = struct.pack(">d", value).hex() if nan else repr(value)
    return found


def is_ignored(name: str, path: str) -> bool:
    """Whether a figure of a document may differ; no setting may."""
    if name.endswith(".toml") or re.fullmatch(ASKED, path):
        return False
    return any(re.fullmatch(pattern, path) for pattern in IGNORED)


def compare_leaves(old: Leaves, new: Leaves, name: str) -> tuple[list[str], list[str]]:
    """Differences, and notes on what only the new one has."""
    differences: list[str] = []
    notes: list[str] = []
    known = {path.partition("/")[0] for path in old}
    for path in [*old, *(path for path in new if path not in old)]:
        if is_ignored(name, path) or old.get(path) == new.get(path):
            continue
        before, after = old.get(path), new.get(path)
        if path in ("command", "schema") and after == json.dumps(
            RENAMED.get(json.loads(before or '""'))
        ):
            continue
        told = f"{path}: {shown(before)} → {shown(after)}"
        root = path.partition("/")[0]
        free = name.endswith(".toml") or root not in known or root in COPIES
        added = before is None and free
        (notes if added else differences).append(told)
    return differences, notes


def shown(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"


def compare_command(
    label: str, old: Side, new: Side, counts: Counter[str]
) -> tuple[list[str], list[str]]:
    """Differences and notes of one command; counts what was compared."""
    differences: list[str] = []
    notes: list[str] = []
    codes = [side.ended[label][0] for side in (old, new)]
    if any(codes):
        told = " and ".join(side.last_words(label) or "nothing" for side in (old, new))
        return [f"{label}: exit codes {codes[0]} and {codes[1]}; last said: {told}"], []
    before, after = old.documents(label), new.documents(label)
    for name in sorted({*before, *after}, key=lambda name: (name == PRINTED, name)):
        found = compare_leaves(before.get(name, {}), after.get(name, {}), name)
        for lines, paths in zip((differences, notes), found, strict=True):
            known = {line.partition(": ")[2] for line in lines if name == PRINTED}  # in a file
            place = f"{label} {name}" if name == PRINTED else name
            lines += [f"{place}: {told}" for told in paths if told not in known]
        counts["pictures"] += name.endswith(".png")
        kept = {
            path: text for path, text in before.get(name, {}).items() if not is_ignored(name, path)
        }
        if name.endswith(".parquet"):
            counts["tables"] += 1
            counts["cells"] += sum(not path.endswith("/type") for path in kept)
        elif name != PRINTED or not any(one.endswith("metrics.json") for one in before):
            numbers = sum(bool(re.match(r"-?\d", text)) for text in kept.values())
            counts["figures"] += numbers
            counts["texts"] += len(kept) - numbers
    return differences, notes


def compare_keys(kind: str, old: Side, new: Side) -> tuple[list[str], list[str]]:
    """Contents of keys that one side alone asks for, each beside the most alike of the other."""
    lost = {text: leaves(json.loads(text)) for text in old.keys[kind] - new.keys[kind]}
    come = {text: leaves(json.loads(text)) for text in new.keys[kind] - old.keys[kind]}
    often = [text for text in {*lost, *come} if text in old.keys[kind] and text in new.keys[kind]]
    for text in often:
        lost.pop(text, None)
        come.pop(text, None)
    told = []
    for text, before in lost.items():
        asked = old.callers[text]
        if not come:
            told.append(f"{asked} asks for a key that {new.name} does not ask for: {shown(text)}")
            continue
        alike = max(come, key=lambda one: len(before.items() & come[one].items()))
        after = come.pop(alike)
        parts = [
            f"{path}: {shown(before.get(path))} → {shown(after.get(path))}"
            for path in {**before, **after}
            if before.get(path) != after.get(path)
        ]
        told.append(f"{asked}, now {new.callers[alike]}: " + "; ".join(parts[:SHOWN]))
    told += [f"{new.callers[text]} asks for a new key: {shown(text)}" for text in come]
    told = [f"{line} ({count} ×)" for line, count in Counter(told).items()]
    notes = [f"{len(often)} keys are asked for more or less often"] if often else []
    return told, notes


def report(kind: str, old: Side, new: Side, *, keys: bool) -> bool:
    """Print what differs in a kind; whether nothing does that counts."""
    counts: Counter[str] = Counter()
    differences: list[str] = []
    notes: list[str] = []
    for label, _ in labelled([kind]):
        found = compare_command(label, old, new, counts)
        differences += found[0]
        notes += found[1]
    changed, more = compare_keys(kind, old, new)
    counts["keys"] = len(old.keys[kind])
    if not counts["figures"] + counts["texts"]:
        differences.append("nothing was there to compare")
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    seconds = [sum(side.ended[label][1] for label, _ in labelled([kind])) for side in (old, new)]
    verdict = f"{len(differences)} DIFFERENT" if differences else "equal"
    verdict += ", KEYS DIFFER" if changed else ""
    sys.stdout.write(f"{kind}: {verdict} ({told}; {seconds[0]:.0f} s and {seconds[1]:.0f} s)\n")
    for heading, lines in (("", differences), ("note: ", [*notes, *more]), ("key: ", changed)):
        sys.stdout.writelines(f"  {heading}{line}\n" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            sys.stdout.write(f"  {heading}and {len(lines) - SHOWN} more\n")
    return not differences and not (keys and changed)


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The folder of a checkout: the given one, or a git worktree of the commit, removed after."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    git = ["git", "-C", str(Path(__file__).parent), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("old", help="a commit, or the folder of a checkout")
    parser.add_argument("new")
    parser.add_argument("--kinds", help=f"of {','.join(COMMANDS)} (default: all)")
    parser.add_argument("--keys", action="store_true", help="inputs of keys must be equal too")
    parser.add_argument("--keep", type=Path, help="a new folder for the runs of both sides")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="2: both sides at once")
    given = parser.parse_args()
    kinds = given.kinds.split(",") if given.kinds else list(COMMANDS)
    if unknown := sorted({*kinds} - {*COMMANDS}):
        parser.error(f"unknown kinds: {', '.join(unknown)}")
    with ExitStack() as stack:
        if given.keep is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            given.keep.mkdir(parents=True)
            place = given.keep.resolve()
        sides: list[Side] = []
        for name, commit in (("old", given.old), ("new", given.new)):
            (place / name).mkdir()
            code = stack.enter_context(checkout(commit, place / f"{name}-code"))
            sides.append(Side(name, code, place / name))
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda side: side.run(kinds), sides))
        equal = [report(kind, sides[0], sides[1], keys=given.keys) for kind in kinds]
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
