"""The attack on a whole training: all codes, and all gradients, that crossed for each sample.

The attacker knows some of the training inputs (its own, or leaked ones) and with them what was
sent for these; from such pairs it learns to read what was sent for the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel

from advhash.attacks.inversion.code_inversion import sample_messages
from advhash.attacks.inversion.decoders import decode, fit_decoder, nearest_mean, observe
from advhash.compute.progress import Progress
from advhash.data.parties import party_names
from advhash.errors import UsageError
from advhash.experiments.invert.config import InvertConfig
from advhash.experiments.invert.figures import gained, rated_attacker
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.measures.intervals import (
    Difference,
    Metric,
    mean_metric,
    paired_difference,
    rate_metric,
)
from advhash.measures.reconstruction import (
    class_means,
    nearest_class,
    pixel_distances,
    reconstruction_columns,
    reidentified,
)
from advhash.registry import VICTIMS
from advhash.reports.inversion.record import World
from advhash.storage.cache import cached, content_key
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.federated.wire import Transcript

Floats = npt.NDArray[np.float64]
ATTACKED = 300  # training rows at most, and at most a third of them
HELD = 0.15  # of the known rows, to choose by
NEIGHBOURS = 10
TEXTS = {
    "final code": "the same training samples by one code each, made by the trained model",
    "transcript: codes": "every code that was sent for a sample during training",
    "transcript: codes and gradients": "the same, and every gradient that was answered",
}


class TranscriptFigures(BaseModel):
    """What the transcript gives away."""

    samples: int
    bytes: int
    worlds: list[World]
    metrics: dict[str, Metric | None]
    differences: dict[str, Difference | None]


def transcript_of(trained: Trained, seed: int, progress: Progress) -> Transcript:
    """All messages of the victim's training, from the cache or by training it again.

    Raises UsageError: the weights come out otherwise here, so the messages would be others.
    """
    victim, data = trained.victim, trained.data
    assert isinstance(victim, HashVFL)

    def build(folder: Path) -> None:
        transcript = Transcript()
        again: HashVFL = VICTIMS.create(trained.card["name"], trained.card["settings"])
        again.to(victim.device).fit(data, seed=seed, progress=progress, transcript=transcript)
        for name, values in again.state_dict().items():
            if not torch.equal(values, victim.state_dict()[name]):
                raise UsageError(
                    "the victim's training cannot be repeated here to record its transcript (its "
                    "weights come out otherwise): train it on this machine, or set "
                    "attack.transcript=false"
                )
        transcript.save(folder / "transcript")

    key = content_key({**cache_identity(trained), "seed": seed})
    return cached("transcripts", key, build, lambda folder: Transcript.load(folder / "transcript"))


def attack_transcript(
    trained: Trained, config: InvertConfig, progress: Progress
) -> tuple[TranscriptFigures, Floats]:
    """Reconstruct training samples from the transcript, and the same ones from a single code.

    Also (n,) of 0/1 for the training rows: whether the last gradient gives the label away.
    """
    victim, data = trained.victim, trained.data
    party, candidates = config.protocol.query_modality, int(config.attack.settings["candidates"])
    assert isinstance(victim, HashVFL)
    boot, draw = derive_seed(config.seed, "bootstrap"), derive_seed(config.seed, "candidates")
    train_seed = derive_seed(int(trained.card.get("seed", config.seed)), "victim")
    transcript = transcript_of(trained, train_seed, progress)
    train = data.train
    order = torch.randperm(
        len(train), generator=torch.Generator().manual_seed(derive_seed(config.seed, "transcript"))
    )
    count = min(ATTACKED, len(train) // 3)
    held = int(HELD * (len(train) - count))
    secret, held_rows, known = order.split([count, held, len(train) - count - held])
    inputs = train.rows(torch.arange(len(train))).inputs[party]
    labels = train.labels.argmax(dim=1)
    up, down = sample_messages(
        transcript, victim.rounds(data, train_seed), party_names(victim.parties).index(party),
        torch.arange(len(train)), bits=victim.bits, epochs=victim.epochs,
    )  # fmt: skip
    size = transcript.size
    transcript.close()
    final = observe(victim, train, party, "codes", seed=derive_seed(config.seed, "final code"))
    views = {
        "final code": final,
        "transcript: codes": up.flatten(1),
        "transcript: codes and gradients": torch.cat(
            [up.flatten(1), (down / down.std().clamp_min(1e-12)).flatten(1)], dim=1
        ),
    }
    true, truth = inputs[secret], torch.arange(count)
    base = reconstruction_columns(class_means(inputs[known], labels[known], labels[secret]), true)
    score = "ssim" if victim.is_image(party) else "mse"
    worlds, metrics, differences = [], {}, {}
    keys = {"final code": "final_code", "transcript: codes": "transcript_codes"}
    for name, seen in views.items():
        network = fit_decoder(
            seen[known], inputs[known], seen[held_rows], inputs[held_rows], hidden=256,
            epochs=int(config.attack.settings["decoder_epochs"]),
            seed=derive_seed(config.seed, "attack"), progress=progress,
        )  # fmt: skip

        drawn = {
            "decoder": decode(network, seen).clamp(*victim.bounds[party]),
            "neighbours": nearest_mean(seen, seen[known], inputs[known], NEIGHBOURS),
        }
        merits = {}
        for attacker, pictures in drawn.items():
            judged = reconstruction_columns(pictures[held_rows], inputs[held_rows])
            merits[attacker] = float((judged["ssim"] if score == "ssim" else -judged["mse"]).mean())
        best = max(merits, key=merits.__getitem__)
        rated = []
        for attacker, merit in merits.items():
            pictures = drawn[attacker][secret]
            columns = reconstruction_columns(pictures, true)
            far = pixel_distances(pictures, true)
            columns["hit"], chance = reidentified(
                far, truth, labels[secret], candidates=candidates, seed=draw
            )
            chosen = attacker == best
            rated.append(rated_attacker(attacker, chosen, merit, columns, base, boot))
            if chosen:
                key, hit = keys.get(name, "transcript"), columns["hit"]
                metrics[f"{score}_{key}"] = mean_metric(columns[score], boot)
                metrics[f"reidentification_{key}"] = rate_metric(hit, boot)
                gain = gained(score, columns[score], base[score], boot)
                differences[f"gain_{key}"] = gain
                over = paired_difference(hit, chance, boot)
                differences[f"reidentification_{key}_over_chance"] = over
        worlds.append(World(name=name, text=TEXTS[name], attackers=rated))
    metrics[f"{score}_transcript_class_mean"] = mean_metric(base[score], boot)
    last = down[:, -1]
    guessed = nearest_class(-last, victim.class_codes.cpu())
    figures = TranscriptFigures(
        samples=count,
        bytes=size,
        worlds=worlds,
        metrics=dict(metrics),
        differences=dict(differences),
    )
    return figures, (guessed == labels).double().numpy()
