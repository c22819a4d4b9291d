"""Tabular neural architecture search: cells of up to 5 vertices whose trainings are done already.

A cell is a graph from an input to an output; each vertex between takes the maximum of its
predecessors and applies one of three operations. Every distinct cell was trained with three seeds
by `nas_training` (benchmarks/nas_table.py), so that a search only looks figures up, on a clock of
simulated seconds: those that training and hashing took. The idea is NAS-Bench-101's (Ying et al.,
ICML 2019).

Which cells compute the same function is known: a pool of a maximum is the maximum of pools, and
max(x, pool x) is pool x. `normal_form` is by these rules, `canonical` by the graph alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from advhash.errors import RunError
from advhash.functional.evaluation_cache import Evaluation
from advhash.functional.functional_hash import FunctionalHash, quantised
from advhash.storage.documents import parse_json, read_gzip

Keyed = Literal["losses", "accuracies", "structure"]
OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")
VERTICES = 5  # input and output included
SEEN = 2  # pools of a cell after which, in `nas_training`, each place has seen the whole picture
EDGES = tuple(itertools.combinations(range(VERTICES), 2))
TABLE = Path(__file__).with_name("nas_table.json.gz")
SCHEMA = "advhash/nas-table/1"
MOST_BYTES = 2**28  # of a table, unpacked


@dataclass(frozen=True)
class NetworkCell:
    """A cell as written, with what is on no path from input to output.

    edges:      one bit for each pair of vertices i < j, in the order of `itertools.combinations`
    operations: one for each vertex between input and output, as its place in OPERATIONS
    """

    edges: tuple[bool, ...]
    operations: tuple[int, ...]


def canonical(cell: NetworkCell) -> str | None:
    """The name that all cells of one graph share, e.g. "01|00-" ; None where no path leads through.

    Vertices on no path from input to output are dropped; of all orders of the others the least is
    taken, so two cells share it iff a renaming of vertices makes them equal.

    >>> canonical(NetworkCell((True, *[False] * 9), (0, 1, 2))) is None  # no way on from vertex 1
    True
    """
    edges = {pair for pair, there in zip(EDGES, cell.edges, strict=True) if there}
    last = VERTICES - 1
    forward = _reached(0, edges)
    backward = _reached(last, {(second, first) for first, second in edges})
    if last not in forward:
        return None
    kept = sorted((forward & backward) - {0, last})
    names = []
    for order in itertools.permutations(kept):
        place = {vertex: number for number, vertex in enumerate((0, *order, last))}
        pairs = [(place[a], place[b]) for a, b in edges if a in place and b in place]
        if all(a < b for a, b in pairs):
            present = set(pairs)
            count = len(order) + 2
            bits = "".join(
                "01"[pair in present] for pair in itertools.combinations(range(count), 2)
            )
            names.append("".join(str(cell.operations[vertex - 1]) for vertex in order) + "|" + bits)
    return min(names)


def _reached(start: int, edges: set[tuple[int, int]]) -> set[int]:
    reached, waiting = {start}, [start]
    while waiting:
        vertex = waiting.pop()
        new = {second for first, second in edges if first == vertex} - reached
        reached |= new
        waiting += new
    return reached


@functools.cache
def distinct_cells(vertices: int = VERTICES) -> dict[str, NetworkCell]:
    """One writing of every distinct cell of at most so many vertices, by its canonical name."""
    cells: dict[str, NetworkCell] = {}
    for edges in itertools.product((False, True), repeat=len(EDGES)):
        for operations in itertools.product(range(len(OPERATIONS)), repeat=VERTICES - 2):
            cell = NetworkCell(edges, operations)
            name = canonical(cell)
            if name is not None and len(name.partition("|")[0]) <= vertices - 2:
                cells.setdefault(name, cell)
    return dict(sorted(cells.items(), key=lambda item: (len(item[0]), item[0])))


def parents(name: str) -> tuple[list[int], list[list[int]]]:
    """The operations of the vertices of a canonical name, and the predecessors of each vertex.

    The second list begins with the input, which has none, and ends with the output.

    >>> parents("0|101")
    ([0], [[], [0], [1]])
    """
    operations, _, bits = name.partition("|")
    count = len(operations) + 2
    before: list[list[int]] = [[] for _ in range(count)]
    for (first, second), bit in zip(itertools.combinations(range(count), 2), bits, strict=True):
        if bit == "1":
            before[second].append(first)
    return [int(operation) for operation in operations], before


@dataclass(frozen=True)
class NormalForm:
    """What a cell computes: equal texts iff equal functions, for all weights.

    ranks: of each convolution, by its vertex, its place in the text
    """

    text: str
    ranks: Mapping[int, int]


def normal_form(name: str) -> NormalForm:
    """The normal form of a canonical name.

    Every value is the maximum of convolutions, or of the input, each after so many pools, and of
    equal ones the most pools win.

    >>> normal_form("2|101").text == normal_form("2|111").text  # max(x, pool x) = pool x
    True
    >>> normal_form("0|101").text == normal_form("0|111").text
    False

    Without a convolution, two pools in each cell see the whole picture, and a third changes
    nothing (found by its hash: 104 cells of two normal forms had one key at every number of bits).

    >>> normal_form("22|100101").text == normal_form("222|1000100101").text
    True
    """
    operations, before = parents(name)
    values: list[dict[int, int]] = [{0: 0}]  # of each vertex: source → pools; 0 is the input
    made: dict[int, dict[int, int]] = {}  # of each convolution: what goes in
    for vertex, sources in enumerate(before[1:], start=1):
        merged: dict[int, int] = {}
        for before_it in sources:
            for source, pools in values[before_it].items():
                merged[source] = max(pools, merged.get(source, 0))
        if vertex <= len(operations) and OPERATIONS[operations[vertex - 1]] == "maxpool3x3":
            merged = {source: pools + 1 for source, pools in merged.items()}
        elif vertex <= len(operations):
            made[vertex], merged = merged, {vertex: 0}
        values.append(merged)
    if not made:
        values[-1] = {source: min(pools, SEEN) for source, pools in values[-1].items()}
    forms = []
    for order in itertools.permutations(made):
        ranks = {vertex: place for place, vertex in enumerate(order, start=1)}

        def written(value: dict[int, int], ranks: dict[int, int] = ranks) -> str:
            return ",".join(
                sorted(f"{ranks.get(source, 0)}^{pools}" for source, pools in value.items())
            )

        lines = [f"{operations[vertex - 1]}({written(made[vertex])})" for vertex in order]
        forms.append((";".join([*lines, written(values[-1])]), ranks))
    return NormalForm(*min(forms, key=lambda form: form[0]))


def read_table(file: Path | None = None) -> dict[str, Any]:
    """The table of trained cells. Raises RunError: none, no such table, or cells that are none.

    cells: by canonical name: "short" (figures of the short training for the functional hash, and
           its seconds) and "full" (one {valid, test, seconds} a seed)
    """
    file = file or TABLE
    try:
        table = parse_json(read_gzip(file), finite=False)
        known = table["schema"] == SCHEMA and isinstance(table["cells"], dict)
    except FileNotFoundError:
        raise RunError(
            f"expected a table of trained cells, got no {file}: make it with "
            "`python benchmarks/nas_table.py`"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise RunError(f"expected a table of trained cells ({SCHEMA}), got {file}: make it again")
    names = distinct_cells()
    wrong = [name for name, row in table["cells"].items() if name not in names or not _whole(row)]
    if wrong or not table["cells"]:
        raise RunError(
            f"expected figures of distinct cells in {file}, got "
            f"{f'{wrong[0]!r} of {len(wrong)} damaged rows' if wrong else 'none'}: make it again"
        )
    return dict(table)


def _whole(row: Any) -> bool:
    """Whether a row of the table has all its figures; only losses may be NaN or infinite."""
    try:
        short, full = row["short"], row["full"]
        hashed = [*short["losses"], *short["accuracies"]]
        figures = [entry[name] for entry in full for name in ("valid", "test", "seconds")]
        figures.append(short["seconds"])
        whole = len(short["losses"]) == len(short["accuracies"]) == 4 and len(full) > 0
        return (
            whole
            and all(type(part) in (int, float) for part in hashed)
            and all(type(figure) in (int, float) and 0 <= figure < math.inf for figure in figures)
        )
    except (KeyError, TypeError):
        return False


class CellDomain:
    """Cells as a `Domain`: figures from the table, seconds simulated.

    keyed:      what stands for a cell in the cache: the losses or, as published, the accuracies of
                a short training (functional hashes, at the measured cost), or its structure (the
                canonical name, free of charge: the baseline)
    bits:       of the mantissa that count in a functional hash
    rate:       expected changes among edges, and among operations, of a mutation
    noise:      standard deviation of Gaussian noise that is added to the fitness

    fitness is the validation accuracy of one of three trainings, drawn by the seed; "test" its test
    accuracy, "mean" the mean validation accuracy of all three, "function" a number that all cells
    of one normal form share.

    Deviations:
    - NAS-Bench-101 has cells of 7 vertices and at most 9 edges that add up what goes in and
      concatenate at their output; here all vertices take maxima
    """

    def __init__(
        self,
        table: Mapping[str, Any],
        *,
        keyed: Keyed = "losses",
        bits: int = 24,
        rate: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        if keyed not in ("losses", "accuracies", "structure"):
            raise ValueError(f"expected keyed by losses, accuracies or structure, got {keyed!r}")
        if not rate > 0 or not noise >= 0:
            raise ValueError(f"expected rate > 0 and noise >= 0, got {rate} and {noise}")
        self.keyed, self.rate, self.noise = keyed, rate, noise
        self.cells: Mapping[str, Any] = table["cells"]
        self._hash = FunctionalHash((), {"data": "digits"}, bits)
        self._names: dict[NetworkCell, str | None] = {}
        self._keys: dict[str, str] = {}
        forms = {name: normal_form(name).text for name in self.cells}
        numbers = {form: number for number, form in enumerate(sorted(set(forms.values())))}
        self._number = {name: numbers[form] for name, form in forms.items()}

    def name(self, cell: NetworkCell) -> str | None:
        """The canonical name; None where no path leads through, or the table lacks it."""
        if cell not in self._names:
            name = canonical(cell)
            self._names[cell] = name if name in self.cells else None
        return self._names[cell]

    def random(self, chance: Random) -> NetworkCell:
        """Uniform over writings of cells of the table."""
        while True:
            cell = NetworkCell(
                tuple(chance.random() < 0.5 for _ in EDGES),
                tuple(chance.randrange(len(OPERATIONS)) for _ in range(VERTICES - 2)),
            )
            if self.name(cell) is not None:
                return cell

    def mutate(self, candidate: NetworkCell, chance: Random) -> NetworkCell:
        """Each edge flips with probability rate/5, each operation becomes another with rate/3.

        Again and again until something changed and the result is in the table.
        """
        while True:
            edges = tuple(
                there ^ (chance.random() < self.rate / VERTICES) for there in candidate.edges
            )
            operations = tuple(
                chance.choice([other for other in range(len(OPERATIONS)) if other != operation])
                if chance.random() < self.rate / (VERTICES - 2)
                else operation
                for operation in candidate.operations
            )
            cell = NetworkCell(edges, operations)
            if cell != candidate and self.name(cell) is not None:
                return cell

    def key(self, candidate: NetworkCell) -> tuple[str, float]:
        """The hash, and the simulated seconds of the short training behind it."""
        name = self._known(candidate)
        if self.keyed == "structure":
            return name, 0.0
        return self.key_of(name), float(self.cells[name]["short"]["seconds"])

    def key_of(self, name: str) -> str:
        """The functional hash of a canonical cell, of training and validation figures half-way
        through the short training and at its end."""
        if name not in self._keys:
            values = np.array(self.cells[name]["short"][self.keyed], np.float32)
            self._keys[name] = self._hash(lambda: values)
        return self._keys[name]

    def evaluate(self, candidate: NetworkCell, seed: int) -> Evaluation:
        """One of three trainings."""
        name = self._known(candidate)
        full = self.cells[name]["full"]
        chance = Random(seed)
        entry = full[chance.randrange(len(full))]
        fitness = entry["valid"] + (chance.gauss(0, self.noise) if self.noise else 0.0)
        mean = sum(run["valid"] for run in full) / len(full)
        figures = {
            "fitness": fitness,
            "test": entry["test"],
            "mean": mean,
            "function": float(self._number[name]),
        }
        return Evaluation(figures, entry["seconds"])

    def agree(self, first: Mapping[str, float], second: Mapping[str, float]) -> bool:
        """Whether they are one function, which the normal form tells."""
        return first["function"] == second["function"]

    def write(self, candidate: NetworkCell) -> Any:
        return [[int(edge) for edge in candidate.edges], list(candidate.operations)]

    def read(self, document: Any) -> NetworkCell:
        edges, operations = document
        return NetworkCell(tuple(bool(bit) for bit in edges), tuple(int(bit) for bit in operations))

    def _known(self, cell: NetworkCell) -> str:
        name = self.name(cell)
        if name is None:
            raise ValueError(f"expected a cell of the table, got {cell}")
        return name

    def study(self, bits: Sequence[int]) -> list[dict[str, float]]:
        """How well keys of so many bits stand for functions, over all cells of the table.

        keys; cells_per_key; collided: share of cells that share a key with another function; split:
        share of functions, of those that several cells write, that have several keys
        """
        names = list(self.cells)
        column = "losses" if self.keyed == "structure" else self.keyed
        values = np.array([self.cells[name]["short"][column] for name in names], np.float32)
        studies = []
        for count in bits:
            words = quantised(values, count).reshape(values.shape)
            _, keys = np.unique(words, axis=0, return_inverse=True)
            pairs = {(int(key), self._number[name]) for key, name in zip(keys, names, strict=True)}
            functions = Counter(key for key, _ in pairs)
            written = Counter(self._number[name] for name in names)
            spread = Counter(number for _, number in pairs)
            several = [number for number, cells in written.items() if cells > 1]
            studies.append(
                {
                    "bits": float(count),
                    "keys": float(len(functions)),
                    "cells_per_key": len(names) / len(functions),
                    "collided": sum(functions[int(key)] > 1 for key in keys) / len(names),
                    "split": sum(spread[form] > 1 for form in several) / max(1, len(several)),
                }
            )
        return studies
