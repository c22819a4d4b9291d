"""Tables whose figures are those of commands: what `--json` of each prints, as anyone would run it.

A row of TABLES names its commands; each is run once, with seed 0 unless it says otherwise, and what
the tables need of its document is kept in `benchmarks/commands.json` under the command itself: what
stands there from the same code (`code_version`) is not run again. A command that fails costs its
own table alone, which stays as it is. Writes the tables between their marks in docs/. About an hour
on one core, of which five trainings of bounded ProS-GAN take twenty minutes and the phase chart
five. `ta-…` need torchattacks, see docs/attacks/torchattacks.md:

    OMP_NUM_THREADS=1 python benchmarks/commands.py [--pages attacks/text.md ...]
    python benchmarks/commands.py --page    # only write the tables from the json
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pages

OUT = Path(__file__).with_suffix(".json")
DOCS = OUT.parents[1] / "docs"
KEPT = ("metrics", "flags", "coders", "detection", "effects")
Documents = dict[str, dict[str, Any]]
Column = Callable[[dict[str, Any]], str]


def shown(metric: dict[str, Any] | None, digits: int = 3, interval: bool = True) -> str:
    """A metric with its interval, or a dash where there is none.

    >>> shown({"value": 0.5, "low": 0.4, "high": 0.61}, 2)
    '0.50 [0.40, 0.61]'
    >>> shown(None)
    '–'
    """
    if metric is None or metric["value"] is None:
        return "–"
    value = f"{metric['value']:.{digits}f}"
    if not interval or metric["low"] is None:
        return value
    return f"{value} [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"


def figure(name: str, digits: int = 3, interval: bool = True, times: float = 1) -> Column:
    """The column of one metric, in units of 1/`times`."""

    def column(document: dict[str, Any]) -> str:
        metric = document["metrics"].get(name)
        if metric and times != 1:
            metric = {key: value and value * times for key, value in metric.items()}
        return shown(metric, digits, interval)

    return column


def span(document: dict[str, Any]) -> str:
    """From the unattacked queries to the most that the victim's own retrieval allows."""
    ends = (document["metrics"]["tmap_clean"], document["metrics"]["tmap_ceiling"])
    return " → ".join(shown(end, interval=False) for end in ends)


@dataclass(frozen=True)
class Row:
    """A row of a table: its first cells, and the command whose figures follow."""

    first: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Table:
    """A table between `<!-- mark -->` and `<!-- end -->` of a page of docs/.

    titles: of all columns, with bars between
    columns: of figures, each read from the document of the row's command
    """

    page: str
    mark: str
    titles: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]

    def commands(self) -> Iterable[str]:
        return (row.command for row in self.rows)

    def written(self, documents: Documents) -> str:
        rows = [
            [*row.first, *(column(documents[row.command]) for column in self.columns)]
            for row in self.rows
        ]
        return pages.table(self.titles.split(" | "), rows)


@dataclass(frozen=True)
class DocumentTable:
    """A table that shows the documents of a few commands, or of one, in another way."""

    page: str
    mark: str
    asked: tuple[str, ...]
    show: Callable[[list[dict[str, Any]]], str]

    def commands(self) -> Iterable[str]:
        return self.asked

    def written(self, documents: Documents) -> str:
        return self.show([documents[command] for command in self.asked])


def attack(victim: str, method: str, budget: str, *more: str) -> str:
    """The command of one attack. A budget is ε of the method's own norm, or `l2 6`.

    >>> attack("dpsh", "blend", "l2 6", "--queries 100")
    'attack --victim dpsh --method blend --norm l2 --eps 6 --queries 100'
    """
    norm, _, eps = budget.rpartition(" ")
    chosen = [f"--norm {norm}"] if norm else []
    return " ".join(
        ["attack", f"--victim {victim}", f"--method {method}", *chosen, f"--eps {eps}", *more]
    )


def under(budget: str) -> str:
    """A budget as the page names it."""
    norm, _, eps = budget.rpartition(" ")
    return f"{'L2' if norm == 'l2' else 'L∞'} {eps}"


def black_box() -> Table:
    methods = ("nes", "square", "nes-untargeted", "square-untargeted")
    return Table(
        "attacks/black_box.md",
        "measured",
        "method | L∞ | t-MAP | MAP",
        tuple(
            Row((method, eps), attack("dpsh", method, eps, "--queries 100"))
            for eps in ("8/255", "16/255")
            for method in methods
        ),
        (figure("tmap"), figure("map_adversarial")),
    )


def torchattacks() -> Table:
    names = (
        *("pgd", "apgd", "mifgsm", "difgsm", "vmifgsm", "nifgsm", "sinifgsm", "tifgsm", "square"),
        *("pgd-untargeted", "apgd-untargeted", "apgdt"),
    )
    return Table(
        "attacks/torchattacks.md",
        "measured",
        "method | t-MAP | MAP",
        tuple(
            Row((f"ta-{name}",), attack("dpsh", f"ta-{name}", "8/255", "--queries 100"))
            for name in names
        ),
        (figure("tmap"), figure("map_adversarial")),
    )


def controls() -> Table:
    budgets = [
        ("noise", ("8/255", "16/255", "l2 6")),
        ("blend", ("8/255", "16/255", "l2 2", "l2 6")),
    ]
    return Table(
        "attacks/baselines.md",
        "controls",
        "method | budget | t-MAP | MAP | mean L2 | mean L∞ · 255",
        tuple(
            Row((method, under(budget)), attack("dpsh", method, budget))
            for method, chosen in budgets
            for budget in chosen
        ),
        (
            figure("tmap"),
            figure("map_adversarial"),
            figure("l2", 2, interval=False),
            figure("linf", 0, interval=False, times=255),
        ),
    )


def forward_passes(
    page: str, mark: str, method: str, cells: Iterable[tuple[str, int, str]]
) -> Table:
    """An attack that knows a query by one pass or by none, above 100 steps of DHTA."""
    names = {"dpsh": "digits, dpsh, image", "dlcmh": "openmoji, dlcmh, fused"}
    settings = {"prosgan": ["--set attack.bounded=true"]}
    rows = []
    for victim, seed, eps in cells:
        for each in (method, "dhta"):
            seeded = [f"--seed {seed}"] if seed else []
            command = attack(victim, each, eps, *settings.get(each, []), *seeded)
            rows.append(Row((names[victim], str(seed), under(eps), each), command))
    return Table(
        page,
        mark,
        "data, victim, database | seed | budget | attack | clean → ceiling | t-MAP "
        "| normalised [95 %]",
        tuple(rows),
        (span, figure("tmap", interval=False), figure("tmap_normalised")),
    )


def transforms() -> Table:
    rows = []
    for eps in ("8/255", "16/255"):
        for drawn in ("", "jpeg", "resize,noise", "resize,noise,jpeg"):
            chosen = [f"--set attack.transforms={drawn}", "--set attack.samples=4"] if drawn else []
            command = attack("dpsh", "dhta", eps, "--queries 100", *chosen)
            rows.append(Row((under(eps), drawn.replace(",", ", ") or "none"), command))
    return Table(
        "attacks/transforms.md",
        "measured",
        "budget | transforms in the gradient | t-MAP | after JPEG 90 | after JPEG 75",
        tuple(rows),
        (figure("tmap"), figure("tmap_jpeg90"), figure("tmap_jpeg75")),
    )


def words(mark: str, kind: str) -> Table:
    """Texts as counts of words or as tokens, with 1 to 3 words of 100 queries changed."""
    methods = (
        ("`token-noise`", "token-noise", []),
        ("`hotflip`", "hotflip", []),
        ("`hotflip`, `label_words=true`", "hotflip", ["--set attack.label_words=true"]),
        ("`hotflip-untargeted`", "hotflip-untargeted", []),
    )
    kinds = [] if kind == "words" else [f"--set dataset.text={kind}"]
    more = ("--query-modality text", "--queries 100", *kinds)
    return Table(
        "attacks/text.md",
        mark,
        "words | method | MAP | t-MAP | normalised | changed",
        tuple(
            Row((count, name), attack("dlcmh", method, count, *more, *settings))
            for count in ("1", "2", "3")
            for name, method, settings in methods
        ),
        (
            figure("map_adversarial"),
            figure("tmap"),
            figure("tmap_normalised"),
            figure("words_changed", 2),
        ),
    )


def collisions(mark: str, loss: str, methods: tuple[str, ...]) -> Table:
    def rate(part: str) -> Column:
        def column(document: dict[str, Any]) -> str:
            known = document["metrics"]
            found = [known.get(f"{name}_rate{part}") for name in ("evasion", "collision")]
            return shown(found[0] or found[1], 2)

        return column

    settings = [] if loss == "tanh" else [f"--set attack.loss={loss}"]
    return Table(
        "attacks/collision.md",
        mark,
        "hash | attack | budget | T | false positives, clean queries | clean | attacked | JPEG 90 "
        "| JPEG 75 | at 31/256: clean | attacked | distance, bits | SSIM",
        tuple(
            Row(
                (victim, method, under(eps)), attack(victim, method, eps, "--queries 60", *settings)
            )
            for victim in ("phash", "dhash", "pdq")
            for method in methods
            for eps in ("8/255", "16/255")
        ),
        (
            figure("threshold_bits", 0, interval=False),
            figure("false_positives", 5, interval=False),
            *(rate(part) for part in ("_clean", "", "_jpeg90", "_jpeg75", "_clean_pdq", "_pdq")),
            figure("bits_adversarial", 1),
            figure("ssim", 2, interval=False),
        ),
    )


def neural_code() -> Table:
    cells = [("mlp, 100 bits", "", eps) for eps in ("8/255", "16/255", "32/255")]
    cells.append(("`preset=cnn`", "--set victim.preset=cnn", "8/255"))
    return Table(
        "victims/neural_code.md",
        "measured",
        "victim | DHTA, L∞ | MAP | MAP after | clean → ceiling | t-MAP | normalised [95 %]",
        tuple(
            Row((name, eps), attack("neural-code", "dhta", eps, *([more] if more else [])))
            for name, more, eps in cells
        ),
        (figure("map"), figure("map_adversarial"), span, figure("tmap"), figure("tmap_normalised")),
    )


def slices() -> Table:
    return Table(
        "victims/hashvfl.md",
        "slices",
        "method | t-MAP | normalised [95 %] | joint accuracy | moved | target's class",
        tuple(
            Row((method,), attack("hashvfl", method, "linf 32/255")) for method in ("dhta", "p2p")
        ),
        (
            figure("tmap"),
            figure("tmap_normalised"),
            figure("joint_accuracy"),
            figure("joint_accuracy_adversarial"),
            figure("joint_success"),
        ),
    )


def poisoned() -> Table:
    return Table(
        "attacks/poisoning.md",
        "measured",
        "planted | find one among their first 10, % | the same pictures unmoved, % "
        "| gain, points | a random order, %",
        (Row(("50",), attack("dpsh", "dhta", "8/255", "--poison 50")),),
        tuple(
            figure(f"poison_hit10{part}", 1, times=100)
            for part in ("", "_clean", "_gain", "_chance")
        ),
    )


TRANSFERRED = "transfer --victims dpsh,dpsh+seed=1,dpsh+bits=16,csq --methods dhta,p2p --eps 8/255"


def moved_between(documents: list[dict[str, Any]]) -> str:
    """t-MAP of DHTA in percent: a row for each victim that it was made for, then no attack."""
    cells = [cell for cell in documents[0]["cells"] if cell["method"] == "dhta"]
    names = list(dict.fromkeys(cell["source"] for cell in cells))

    def percent(metric: dict[str, Any]) -> str:
        return shown({key: 100 * metric[key] for key in ("value", "low", "high")}, 1)

    rows = []
    for source in names:
        found = {cell["target"]: cell["metrics"] for cell in cells if cell["source"] == source}
        rows.append([source, *(percent(found[target]["tmap"]) for target in names)])
    clean = {cell["target"]: cell["metrics"]["tmap_clean"] for cell in cells}
    rows.append(["clean queries", *(percent(clean[name]) for name in names)])
    return pages.table([" ", *names], rows)


ENCODED = ("encode --victim dph", "encode --victim neural-code")


def encoded(documents: list[dict[str, Any]]) -> str:
    """What each code is worth; the pixels beside each victim, for which they were moved."""
    names = ("kmeans_one_to_one", "knn_accuracy", "knn_accuracy_adversarial")
    rows: dict[str, list[str]] = {}
    for victim, document in zip(("dph", "neural-code"), documents, strict=True):
        for coder in document["coders"]:
            known = coder["metrics"]
            shares = [
                shown(known.get(f"redundancy_{part}"), interval=False) for part in ("train", "test")
            ]
            figures = [shown(known.get(name)) for name in names]
            bits = "–" if coder["bits"] is None else str(coder["bits"])
            label = f"pixels, {victim} attacked" if coder["kind"] == "pixels" else coder["label"]
            rows[label] = [label, bits, *shares, *figures]
    measures = ("redundancy, training", "test", "K-Means, one to one", "K-NN", "K-NN, moved")
    return pages.table(["code", "bits", *measures], list(rows.values()))


def detected(documents: list[dict[str, Any]]) -> str:
    """AUROC of each detector; of single layers, the one that is best for moved pictures."""
    rows = []
    kinds = ("adversarial", "mixed", "noise", "ood")
    for victim, document in zip(("dph, 32 bits", "neural-code, 100 bits"), documents, strict=True):
        found: dict[str, dict[str, Any]] = {}
        for one in document["detection"]:
            found.setdefault(one["detector"], {})[one["inputs"]] = one["auroc"]
        layers = [name for name in found if ", layer " in name]
        if layers:
            best = max(layers, key=lambda name: found[name]["adversarial"]["value"])
            found = {name: row for name, row in found.items() if name not in layers or name == best}
        rows += [
            [
                victim,
                name.replace("network.0.network.", ""),
                *(shown(row.get(kind)) for kind in kinds),
            ]
            for name, row in found.items()
        ]
    return pages.table(["victim", "detector", "moved", "mixed", "noise", "ood"], rows)


CHART = "phase-chart"
FACTORS = ("width", "epochs", "sample", "weight_decay", "noise")
OUTCOMES = {
    "redundancy_train": "redundancy, training",
    "kmeans_one_to_one": "K-Means, one to one",
    "knn_accuracy": "K-NN",
    "logistic_accuracy": "logistic regression",
    "accuracy": "own accuracy",
    "tmap": "t-MAP",
    "auroc": "AUROC of novelty",
}


def effects(documents: list[dict[str, Any]]) -> str:
    """η² of each factor in percent."""
    found = {effect["outcome"]: effect for effect in documents[0]["effects"]}
    rows = [
        [
            title,
            *(f"{100 * found[name]['eta_squared'][factor]:.1f}" for factor in FACTORS),
            f"{100 * found[name]['repeats']:.1f}",
        ]
        for name, title in OUTCOMES.items()
    ]
    titles = ("model size", "training time", "sample size", "regularisation", "label noise")
    return pages.table(["η² in %", *titles, "repeats"], rows)


def regimes(documents: list[dict[str, Any]]) -> str:
    known = documents[0]["metrics"]
    rows = [
        [
            regime,
            f"{100 * known[f'share_{regime}']['value']:.0f} %",
            *(shown(known[f"{name}_{regime}"], interval=False) for name in ("tmap", "auroc")),
        ]
        for regime in ("under", "critical", "sufficient")
    ]
    return pages.table(["regime", "share of points", "t-MAP", "AUROC of novelty"], rows)


UNIVERSAL = [(victim, 0, eps) for victim in ("dpsh", "dlcmh") for eps in ("16/255", "8/255")]
TABLES: tuple[Table | DocumentTable, ...] = (
    black_box(),
    torchattacks(),
    controls(),
    transforms(),
    words("measured", "words"),
    words("tokens", "tokens"),
    collisions("measured", "tanh", ("evasion", "collision")),
    collisions("hinge", "hinge", ("collision",)),
    neural_code(),
    slices(),
    poisoned(),
    forward_passes("attacks/universal.md", "measured", "universal", UNIVERSAL),
    DocumentTable("attacks/transfer.md", "matrix", (TRANSFERRED,), moved_between),
    DocumentTable("neural_codes.md", "encoded", ENCODED, encoded),
    DocumentTable("defenses/novelty.md", "measured", ENCODED, detected),
    DocumentTable("neural_codes.md", "effects", (CHART,), effects),
    DocumentTable("neural_codes.md", "regimes", (CHART,), regimes),
    forward_passes(
        "attacks/prosgan.md", "bounded", "prosgan", [*UNIVERSAL, ("dlcmh", 1, "16/255")]
    ),
)


def document(command: str) -> dict[str, Any]:
    """What the tables need of the document that `advhash COMMAND --json` prints.

    Raises RuntimeError where the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = [*shlex.split(command), "--json", "--out", f"{folder}/run"]
        done = subprocess.run(
            [sys.executable, "-m", "advhash", *asked], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"advhash {command} ended with {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    kept = KEPT + (("cells",) if found["command"] == "transfer" else ())
    return {key: found[key] for key in kept if key in found}


def known() -> Documents:
    """The documents that stand in the json file."""
    return dict(json.loads(OUT.read_text("utf-8"))["commands"]) if OUT.exists() else {}


def keep(command: str, found: dict[str, Any]) -> None:
    """Put a document into the json file, beside what another process has put there meanwhile."""
    from advhash.storage.run_folder import environment

    written = {"environment": environment(), "commands": {**known(), command: found}}
    partial = OUT.with_suffix(".partial")
    partial.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    partial.replace(OUT)


def measure(commands: Iterable[str]) -> list[str]:
    """Run what is missing or of other code. Returns the commands that failed."""
    from advhash.experiments.prepare.code_key import code_version

    code, failed = code_version(), []
    for command in dict.fromkeys(commands):
        if known().get(command, {}).get("code") != code:
            print(f"advhash {command}", flush=True)
            try:
                keep(command, {"code": code, **document(command)})
            except RuntimeError as problem:
                print(problem, flush=True)
                failed.append(command)
    return failed


def write_pages(documents: Documents, tables: Iterable[Table | DocumentTable]) -> None:
    """Put each table whose commands were all run between its marks."""
    for table in tables:
        if not all(command in documents for command in table.commands()):
            continue
        page = DOCS / table.page
        text = pages.filled(page.read_text("utf-8"), {table.mark: table.written(documents)})
        page.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", nargs="+", choices=sorted({table.page for table in TABLES}))
    parser.add_argument("--page", action="store_true", help="write the tables only")
    given = parser.parse_args()
    tables = [table for table in TABLES if given.pages is None or table.page in given.pages]
    asked = [command for table in tables for command in table.commands()]
    failed = [] if given.page else measure(asked)
    write_pages(known(), tables)
    if failed:
        sys.exit(f"not measured: {'; '.join(failed)}; the same command tries these again")


if __name__ == "__main__":
    main()
