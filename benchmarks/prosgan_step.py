"""Seconds of a training step of ProS-GAN at the published sizes, beside the published step.

The peer is the published step written down from its formulas (Wang et al., CVPR 2021) as plain
PyTorch, with the same networks, victim, pictures, targets and Adam's defaults: the critic judges
real and generated pictures in passes of their own, keeps its gradients while the generator learns,
and every pass computes the spectral norms anew. The rate falls as in a training of 200 steps. Ours
is `attack.preset=paper` in float32 and, where the processor computes in it, in bf16. All take
batches of 24 and run in turns in one process, 200 steps a seed; the median over epochs of CPU
milliseconds per step counts. Means of hash and reconstruction terms over steps 150 to 200 say
whether they learn the same. PrototypeNet has 600 steps. Writes `benchmarks/prosgan_step.json`, seed
by seed, so that it can be stopped and started again, and the table between its marks in
`docs/attacks/prosgan.md`. About 25 minutes of one core:

    OMP_NUM_THREADS=1 python benchmarks/prosgan_step.py [--seeds 0 1 2]
    python benchmarks/prosgan_step.py --page    # only write the table from the json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pages import filled

from advhash.attacks.base import AttackData, frozen
from advhash.attacks.gradient.anchors import label_sets
from advhash.attacks.gradient.objectives import (
    hash_term,
    lsgan,
    reconstruction,
    soft_code,
    typical_size,
)
from advhash.attacks.gradient.precision import computes_bf16
from advhash.attacks.prosgan.networks import decayed
from advhash.attacks.prosgan.prosgan import BETAS, DISCRIMINATOR_EVERY, ProSGAN
from advhash.attacks.prosgan.settings import PAPER
from advhash.budget import Budget
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import train
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.victims.training.descent import seeded

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/prosgan.md"
UNBOUNDED = Budget("none", math.inf)
STEPS, LATE = 200, 150
SETTINGS = {"preset": "paper", "prototype_steps": 600}
SHOWN = {"published": "published step", "advhash": "`preset=paper`", "bf16": "`preset=paper`, bf16"}


def made(trained: Trained, **settings: Any) -> ProSGAN:
    """ProS-GAN with the epochs that make STEPS steps."""
    batches = -(-len(trained.data.train) // int(PAPER["batch_size"]))
    attack: ProSGAN = ATTACKS.create(
        "prosgan", {**SETTINGS, "epochs": -(-STEPS // batches), **settings}
    )
    return attack


def ours(trained: Trained, seen: AttackData, seed: int, precision: str) -> dict[str, Any]:
    """Milliseconds a step of each epoch but the last, which is validated, and the late terms."""
    attack, ends = made(trained, precision=precision), []

    def noted(stage: str, done: int, total: int | None = None, **_: object) -> None:
        if stage == "generator":
            ends.append(time.process_time())

    attack.fit(trained.victim, seen, UNBOUNDED, seed=seed, progress=noted)
    rows = [row for row in attack.history if row["phase"] == "generator"]
    steps = [float(row["step"]) for row in rows]
    late = [row for row in rows if float(row["step"]) > LATE]
    spent = [
        1e3 * (ends[place] - ends[place - 1]) / (steps[place] - steps[place - 1])
        for place in range(1, len(ends) - 1)
    ]
    return {
        "ms": spent,
        **{
            name: statistics.mean(float(row[name]) for row in late)
            for name in ("hash", "reconstruction")
        },
    }


def published(trained: Trained, seen: AttackData, seed: int) -> dict[str, Any]:
    """The same of the published step."""
    victim, split = trained.victim, trained.data.train
    attack = made(trained, epochs=1)
    attack.fit(victim, seen, UNBOUNDED, seed=seed)  # PrototypeNet, and networks of the right sizes
    size, rate = int(PAPER["batch_size"]), float(PAPER["learning_rate"])
    spent, late = [], {"hash": [], "reconstruction": []}  # type: ignore[var-annotated]
    with seeded(seed), frozen(victim):
        sets = label_sets(seen.labels)
        conditions, codes = attack.supervise(sets)
        generator = attack._build_generator(victim, seen)
        critic = attack._critic_of(sets.shape[1], split.tensor("image").shape[-1])
        maker = torch.optim.Adam(generator.parameters(), rate, BETAS)
        judge = torch.optim.Adam(critic.parameters(), rate, BETAS)
        scale, step = typical_size(victim, split), 0
        while step < STEPS:
            began, first = time.process_time(), step
            for rows in torch.randperm(len(split)).split(size):
                for group in (*maker.param_groups, *judge.param_groups):
                    group["lr"] = rate * decayed("linear", step / STEPS)
                batch = split.rows(rows)
                images = batch.inputs["image"]
                drawn = torch.randint(len(sets), (len(rows),))
                raw = generator(images, conditions[drawn])
                moved = raw.clamp(0, 1)
                if step % DISCRIMINATOR_EVERY == 0:
                    real = lsgan(critic(images), batch.labels, real=True)
                    fake = lsgan(critic(moved.detach()), sets[drawn], real=False)
                    judge.zero_grad()
                    ((real + fake) / 2).backward()
                    judge.step()
                soft = soft_code(victim.relax(moved, "image"), 1.0, scale)
                hashed = hash_term(soft, codes[drawn])
                rebuilt = reconstruction(raw, images)
                fooled = lsgan(critic(moved), sets[drawn], real=True)
                maker.zero_grad()
                (float(PAPER["rec_weight"]) * rebuilt + 5 * hashed + fooled).backward()
                maker.step()
                step += 1
                if LATE < step <= STEPS:
                    late["hash"].append(hashed.item())
                    late["reconstruction"].append(rebuilt.item())
            spent.append(1e3 * (time.process_time() - began) / (step - first))
    return {"ms": spent[1:-1], **{name: statistics.mean(terms) for name, terms in late.items()}}


def steps(seed: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each kind of step by its name, and what measures it."""
    trained = train(TrainConfig.build({"victim": {"name": "dpsh"}, "dataset": {"name": "digits"}}))
    served = trained.victim.default_database
    codes = trained.victim.database_codes(trained.data, served)
    seen, drawn = AttackData(trained.data, codes, served, "image"), derive_seed(seed, "attack")
    yield "published", lambda: published(trained, seen, drawn)
    yield "advhash", lambda: ours(trained, seen, drawn, "no")
    if computes_bf16(trained.victim.device):
        yield "bf16", lambda: ours(trained, seen, drawn, "bf16")


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def table(rows: dict[str, Any]) -> str:
    """Markdown, a line for each kind of step."""
    lines = [
        "| step | CPU ms | of the published | hash term | reconstruction |",
        "|---|---|---|---|---|",
    ]
    taken: dict[str, list[float]] = {}
    for row in rows.values():
        for name, known in row.items():
            taken.setdefault(name, []).extend(known["ms"])
    ms = {name: statistics.median(taken[name]) for name in SHOWN if name in taken}
    for name, median in ms.items():
        terms = [
            spread([row[name][term] for row in rows.values() if name in row])
            for term in ("hash", "reconstruction")
        ]
        share = median / ms["published"]
        lines.append(f"| {SHOWN[name]} | {median:.0f} | {share:.2f} | {' | '.join(terms)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", action="store_true", help="write the table only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if OUT.is_file() else {"rows": {}}
    for seed in [] if given.page else given.seeds:
        row = kept["rows"].setdefault(str(seed), {})
        for name, make in steps(seed):
            if name not in row:
                row[name] = make()
            kept["environment"] = environment()
            OUT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    PAGE.write_text(filled(PAGE.read_text("utf-8"), {"steps": table(kept["rows"])}), "utf-8")


if __name__ == "__main__":
    main()
