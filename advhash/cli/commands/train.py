"""`advhash train`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from advhash.cli.console import (
    print_flags,
    print_metrics,
    print_next,
    print_pictures,
    print_retrieval,
)
from advhash.cli.following import FEDERATED, is_perceptual, is_trainable
from advhash.cli.options import (
    Bits,
    Config,
    DatasetName,
    Defense,
    Device,
    Json,
    Quiet,
    Seed,
    Settings,
    TrustCode,
    Victim,
    checked,
    gather,
    working,
)
from advhash.cli.terminal import tell
from advhash.compute.processes import is_main_process
from advhash.errors import UsageError


def train(
    victim: Victim = None,
    defense: Defense = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Copy the checkpoint to this new folder.")
    ] = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a victim (or take it from the cache) and print its figures."""
    from advhash.cli.console import print_json
    from advhash.experiments.config import TrainConfig

    values = gather(
        config,
        settings,
        {
            "seed": seed,
            "device": device,
            "victim": {"name": victim, "bits": bits},
            "defense": {"name": defense},
            "dataset": {"name": dataset},
        },
    )
    values["command"] = "train"
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim, got none; see `advhash list victims`")
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    parsed = checked(TrainConfig, values, trust_code=trust_code)

    from advhash.experiments.prepare.hardened import prepare
    from advhash.experiments.prepare.trained import export_checkpoint, train_document
    from advhash.victims.training.acceleration import leave

    with working(quiet or not is_main_process()) as progress:
        trained = prepare(parsed, progress)
    leave()
    if not is_main_process():
        return
    document = train_document(trained)
    if out is not None:
        document["checkpoint"] = str(export_checkpoint(trained, out))
    if as_json:
        print_json(document)
    else:
        print_training(document)


def print_training(document: Mapping[str, Any]) -> None:
    """Figures of a trained victim."""
    print_retrieval(document["metrics"])
    print_metrics(document["metrics"])
    print_pictures(document)
    if document["checkpoint"] is not None:
        tell(f"checkpoint: {document['checkpoint']}")
        victim = shlex.quote(document["checkpoint"])
        export = (f"codes export {victim} database.npz", "its codes for other tools")
        print_next([*_attacks(document["victim"]["name"], victim), export][:2])
    print_flags(document["flags"])


def _attacks(name: str, checkpoint: str) -> list[tuple[str, str]]:
    """What attacks a trained victim, by its registered name; none where its data decide."""
    if name == FEDERATED:
        return [
            (f"invert --victim {checkpoint}", "what its parties could rebuild"),
            (f"detect --victim {checkpoint}", "whether a party that cheats is seen"),
        ]
    config = {"victim": {"name": name}}
    if is_perceptual(config):
        return [(f"attack --victim {checkpoint} --method evasion", "how easily it is evaded")]
    if is_trainable(config):
        return [(f"attack --victim {checkpoint} --method autohash", "how easily it is fooled")]
    return []
