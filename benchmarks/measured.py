"""The measured tables of README and docs: every attack of the main job, over seeds.

A seed determines the victim's training, the attack's training, targets and intervals alike.
Writes `benchmarks/measured.json`, and the tables between their marks in README.md and in the pages
of ProS-GAN, of gradient attacks and of baselines. About 25 minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/measured.py [--seeds 0 1] [--victims dpsh dlcmh]
    python benchmarks/measured.py --page    # only write the tables from the json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pages import filled, table

from advhash.cli.console import progress_display
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig
from advhash.storage.run_folder import environment

OUT = Path(__file__).with_suffix(".json")
ROOT = OUT.parents[1]
Rows = list[dict[str, Any]]
NAMES = {"dpsh": "digits, dpsh", "dlcmh": "openmoji, dlcmh"}
SEARCHED = {"dpsh": "image", "dlcmh": "fused"}
ATTACKS: list[tuple[str, dict[str, Any], str | None]] = [
    ("prosgan", {}, None),
    ("prosgan", {}, "8/255"),
    ("prosgan", {}, "16/255"),
    ("dhta", {}, "8/255"),
    ("dhta", {}, "16/255"),
    ("p2p", {}, "8/255"),
]
ABLATIONS: list[tuple[str, dict[str, Any], str | None]] = [
    ("prosgan", {"discriminator": False}, None),
    ("prosgan", {"prototype": "majority"}, None),
]
METRICS = ("map", "map_adversarial", "tmap", "tmap_clean", "tmap_ceiling", "tmap_normalised", "l2")


def run(
    victim: str, seed: int, method: str, settings: dict[str, Any], budget: dict[str, Any]
) -> Any:
    config = AttackConfig.build(
        {
            "seed": seed,
            "victim": {"name": victim},
            "attack": {"name": method, **settings},
            "budget": budget,
        }
    )
    with tempfile.TemporaryDirectory() as folder, progress_display() as progress:
        return attack(config, Path(folder) / "run", progress)


def figure(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def of_attacks(rows: Rows, attacks: tuple[str, ...]) -> str:
    """The rows of some attacks, as the page of a method shows them."""
    titles = (
        "data, victim, database | seed | attack | budget | clean → ceiling | t-MAP "
        "| normalised [95 %] | mean L2"
    )
    shown = []
    for row in rows:
        m = row["metrics"]
        if row["attack"] in attacks:
            span = f"{m['tmap_clean']['value']:.3f} → {m['tmap_ceiling']['value']:.3f}"
            first = f"{NAMES[row['victim']]}, {SEARCHED[row['victim']]}"
            reached = [f"{m['tmap']['value']:.3f}", figure(m["tmap_normalised"])]
            length = f"{m['l2']['value']:.2f}"
            known = [first, str(row["seed"]), row["attack"], row["budget"]]
            shown.append([*known, span, *reached, length])
    return table(titles.split(" | "), shown)


def of_readme(rows: Rows) -> str:
    """The main job: dlcmh, seed 0."""
    shown = []
    for row in rows:
        m = row["metrics"]
        if (
            row["victim"] == "dlcmh"
            and row["seed"] == 0
            and row["attack"] in ("prosgan", "blend", "dhta")
        ):
            name = "blend, same L2" if row["attack"] == "blend" else row["attack"]
            hidden = f"{m['map_adversarial']['value']:.3f}"
            reached = [figure(m["tmap"]), figure(m["tmap_normalised"])]
            shown.append([name, row["budget"], hidden, *reached, f"{m['l2']['value']:.2f}"])
    return table(["attack", "budget", "MAP attacked", "t-MAP", "normalised", "mean L2"], shown)


def of_variants(rows: Rows) -> str:
    """ProS-GAN on dlcmh, unbounded, seed 0, without its parts."""
    names = {
        "prosgan": "default",
        "prosgan discriminator=False": "without discriminator (`discriminator=false`)",
        "prosgan prototype=majority": "majority code, no PrototypeNet (`prototype=majority`)",
    }
    shown = []
    for row in rows:
        m = row["metrics"]
        wanted = row["victim"] == "dlcmh" and row["seed"] == 0 and row["budget"] == "unbounded"
        if wanted and row["attack"] in names:
            reached = [f"{m['tmap']['value']:.3f}", figure(m["tmap_normalised"])]
            shown.append([names[row["attack"]], *reached, f"{m['l2']['value']:.2f}"])
    return table(["variant, seed 0", "t-MAP", "normalised [95 %]", "mean L2"], shown)


def of_blends(rows: Rows) -> str:
    """The blend beside ProS-GAN, whose mean L2 it was given."""
    shown = []
    for row in rows:
        if row["attack"] == "blend":
            (other,) = (
                each["metrics"]
                for each in rows
                if (each["victim"], each["seed"]) == (row["victim"], row["seed"])
                and (each["attack"], each["budget"]) == ("prosgan", "unbounded")
            )
            m = row["metrics"]
            values = (m["tmap"], other["tmap"], m["tmap_clean"])
            first = [NAMES[row["victim"]], str(row["seed"]), f"{m['l2']['value']:.2f}"]
            shown.append([*first, *(f"{metric['value']:.3f}" for metric in values)])
    return table(["data, victim, database", "seed", "L2", "blend", "ProS-GAN", "clean"], shown)


def write_pages(rows: Rows) -> None:
    """Put each table between its marks."""
    tables = {
        "README.md": {"measured": of_readme(rows)},
        "docs/attacks/gradient.md": {"measured": of_attacks(rows, ("dhta", "p2p"))},
        "docs/attacks/prosgan.md": {
            "measured": of_attacks(rows, ("prosgan", "blend")),
            "variants": of_variants(rows),
        },
        "docs/attacks/baselines.md": {"measured": of_blends(rows)},
    }
    for name, parts in tables.items():
        page = ROOT / name
        page.write_text(filled(page.read_text("utf-8"), parts), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--victims", nargs="+", default=["dpsh", "dlcmh"])
    parser.add_argument("--page", action="store_true", help="write the tables only")
    given = parser.parse_args()
    if given.page:
        write_pages(json.loads(OUT.read_text("utf-8"))["rows"])
        return
    rows: Rows = []

    def note(victim: str, seed: int, name: str, record: Any) -> None:
        metrics = {key: vars(record.metrics[key]) for key in METRICS if record.metrics[key]}
        seconds = {k: record.metrics[k].value for k in ("seconds_fit", "seconds_per_image")}
        rows.append(
            {
                "victim": victim,
                "seed": seed,
                "attack": name,
                "budget": record.budget.text,
                "metrics": metrics,
                "victim_metrics": record.victim.notes["metrics"],
                "victim_seconds": record.victim.notes["seconds"],
                **seconds,
            }
        )
        OUT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")

    for victim in given.victims:
        for seed in given.seeds:
            for method, settings, eps in ATTACKS + (ABLATIONS if seed == given.seeds[0] else []):
                label = method + "".join(f" {key}={value}" for key, value in settings.items())
                budget = {} if eps is None else {"norm": "linf", "eps": eps}
                record = run(victim, seed, method, settings, budget)
                note(victim, seed, label, record)
                if (method, settings, eps) == ATTACKS[0]:
                    same = {"norm": "l2", "eps": record.metrics["l2"].value}
                    note(victim, seed, "blend", run(victim, seed, "blend", {}, same))
    write_pages(rows)


if __name__ == "__main__":
    main()
