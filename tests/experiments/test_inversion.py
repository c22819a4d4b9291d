"""Reconstruction: figures against slow loops, every attacker, the transcript, the run folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from few_digits import few_digits
from killed import killed_when
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from typer.testing import CliRunner

from advhash.attacks.inversion.code_inversion import ATTACKERS, CodeInversion, sample_messages
from advhash.attacks.inversion.decoders import (
    Decoder,
    GradientInversion,
    Inversion,
    Neighbours,
    decode,
    fit_decoder,
    nearest_mean,
    observe,
    total_variation,
)
from advhash.cli.app import app
from advhash.data import Dataset, silent
from advhash.data.load import load_dataset
from advhash.data.parties import party_view
from advhash.errors import RunError, UsageError
from advhash.experiments.config import AttackConfig
from advhash.experiments.invert.cells import reconstruct
from advhash.experiments.invert.config import InvertConfig
from advhash.experiments.invert.run import Invert
from advhash.measures.intervals import Difference
from advhash.measures.reconstruction import (
    class_means,
    clustered,
    nearest_class,
    pixel_distances,
    reconstruction_columns,
    reidentified,
    structural_similarity,
)
from advhash.registry import INVERSIONS
from advhash.reports.inversion.chapter import verdicts
from advhash.reports.inversion.record import InversionRecord
from advhash.reports.page.render import render
from advhash.storage.run_folder import expect_finished
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.federated.wire import Transcript

runner = CliRunner()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return party_view(few_digits(500, 400, 80), 2)


def trained(data: Dataset, **settings: Any) -> HashVFL:
    given: dict[str, Any] = {"epochs": 12, "batch_size": 40, "width": 16, **settings}
    return HashVFL(**{**HashVFL.data_arguments(data), **given}).fit(data, seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def victim(data: Dataset) -> HashVFL:
    return trained(data)


@pytest.fixture(scope="module")
def open_victim(data: Dataset) -> HashVFL:
    return trained(data, protection="none")


class TestLikeness:
    def test_ssim_of_equal_images_is_one_at_every_width(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for width in (2, 4, 8, 11, 16):
            images = torch.rand(3, 3, 16, width, generator=generator)
            found = structural_similarity(images, images)
            assert torch.allclose(found, torch.ones(3), atol=1e-5)
            assert bool((structural_similarity(images, 1 - images) < 0.9).all())

    @pytest.mark.parametrize("size", [(32, 32), (64, 48), (11, 30), (32, 9), (8, 8), (6, 6)])
    def test_ssim_equals_torchmetrics(self, size: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        true = torch.rand(5, 3, *size, generator=generator)
        found = (true + 0.05 * torch.randn(true.shape, generator=generator)).clamp(0, 1)
        least = min(size)
        window: dict[str, Any] = {"gaussian_kernel": True, "sigma": 1.5}
        if least < 11:
            window = {"gaussian_kernel": False, "kernel_size": least - 1 + least % 2}
        peer = structural_similarity_index_measure(
            found, true, data_range=1.0, reduction="none", **window
        )
        assert torch.allclose(structural_similarity(found, true), peer, atol=1e-6)

    def test_columns_against_explicit_loops(self) -> None:
        generator = torch.Generator().manual_seed(0)
        found, true = torch.rand(2, 4, 3, 12, 12, generator=generator)
        columns = reconstruction_columns(found, true)
        for row in range(4):
            gaps = [(a - b) ** 2 for a, b in zip(found[row].flatten().tolist(), true[row].flatten().tolist(), strict=True)]  # fmt: skip  # noqa: E501
            mse = sum(gaps) / len(gaps)
            assert columns["mse"][row] == pytest.approx(mse, abs=1e-6)
            assert columns["psnr"][row] == pytest.approx(10 * np.log10(1 / mse), abs=1e-3)
        exact = reconstruction_columns(true, true)
        assert np.isnan(exact["psnr"]).all()
        assert exact["mse"].tolist() == [0.0] * 4

    def test_tables_have_no_ssim(self) -> None:
        columns = reconstruction_columns(torch.zeros(2, 5), torch.ones(2, 5))
        assert columns["mse"].tolist() == [1.0, 1.0]
        assert np.isnan(columns["ssim"]).all()

    def test_class_means(self) -> None:
        inputs = torch.tensor([[0.0], [2.0], [10.0]])
        labels = torch.tensor([0, 0, 2])
        found = class_means(inputs, labels, torch.tensor([2, 0, 1]))
        assert found.flatten().tolist() == [10.0, 1.0, 4.0]  # class 1 has none: the overall mean

    def test_neighbours_take_all_ties(self) -> None:
        seen = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
        inputs = torch.tensor([[1.0], [3.0], [5.0], [9.0]])
        sent = torch.tensor([[1.0, 1.0]])
        assert nearest_mean(sent, seen, inputs, 1).item() == 2.0
        assert nearest_mean(sent, seen, inputs, 3).item() == 3.0

    def test_pixel_distances(self) -> None:
        found, pool = (
            torch.zeros(1, 3, 2, 2),
            torch.stack([torch.ones(3, 2, 2), torch.zeros(3, 2, 2)]),
        )
        assert pixel_distances(found, pool).flatten().tolist() == pytest.approx([1.0, 0.0])

    def test_reidentification_counts_ties_by_chance(self) -> None:
        labels = torch.tensor([0, 0, 0, 0, 1])
        truth = torch.tensor([0, 1, 2])
        distances = torch.tensor(
            [[0.0, 1, 1, 1, 9], [5, 5, 5, 5, 0], [0, 1, 2, 3, 0]], dtype=torch.float64
        )
        hits, chance = reidentified(distances, truth, labels, candidates=20, seed=0)
        assert hits.tolist() == [1.0, 0.25, 0.0]
        assert chance.tolist() == [0.25] * 3

    def test_reidentification_of_noise_is_chance(self) -> None:
        generator = torch.Generator().manual_seed(0)
        distances = torch.rand(400, 400, generator=generator, dtype=torch.float64)
        hits, chance = reidentified(
            distances, torch.arange(400), torch.zeros(400), candidates=20, seed=0
        )
        assert chance.tolist() == [1 / 20] * 400
        assert hits.mean() == pytest.approx(0.05, abs=0.03)

    def test_labels_from_codes(self) -> None:
        table = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
        codes = torch.tensor([[1.0, 1, -1], [-1, 1, -1], [1, 1, 1]])
        assert nearest_class(codes, table).tolist() == [0, 1, 0]
        labels = torch.tensor([0] * 5 + [1] * 5)
        apart = torch.where(labels[:, None] == 0, 1.0, -1.0).expand(10, 3)
        assert clustered(apart, labels, 2, seed=0).mean() == 1
        assert clustered(torch.ones(10, 3), labels, 2, seed=0).mean() == 0.5

    def test_total_variation(self) -> None:
        step = torch.zeros(1, 1, 2, 2)
        step[..., 1] = 1
        assert total_variation(step).item() == 1.0
        assert total_variation(torch.ones(3, 5)).item() == 0


def members(observed: str) -> Iterator[tuple[str, Inversion]]:
    made = CodeInversion(steps=20, decoder_epochs=5, observed=observed)  # type: ignore[arg-type]
    yield from made.members.items()


class TestAttackers:
    @pytest.mark.parametrize("observed", ["codes", "embeddings"])
    def test_the_contract(self, victim: HashVFL, data: Dataset, observed: Any) -> None:
        """Within bounds, of the right shape, the same for the same seed, the victim untouched."""
        sent = observe(victim, data.query, "party0", observed)
        before = {name: values.clone() for name, values in victim.state_dict().items()}
        names = []
        for name, one in members(observed):
            names.append(name)
            one.fit(victim, data.database, data.validation, "party0", seed=0)
            first, again = (one.reconstruct(victim, sent, "party0", seed=1) for _ in range(2))
            assert first.shape == (80, 3, 16, 8), name
            assert 0 <= first.min() <= first.max() <= 1, name
            assert torch.equal(first, again), name
        assert names == (
            list(ATTACKERS)
            if observed == "codes"
            else ["decoder", "decoder-ssim", "neighbours", "descent"]
        )
        for name, values in victim.state_dict().items():
            assert torch.equal(values, before[name])

    def test_every_attacker_works_where_nothing_defends(
        self, open_victim: HashVFL, data: Dataset
    ) -> None:
        """The positive control: more SSIM than the mean picture of the true class."""
        true = data.query.rows(torch.arange(80)).inputs["party0"]
        labels = data.query.labels.argmax(dim=1)
        known = data.database.rows(torch.arange(500)).inputs["party0"]
        base = class_means(known, data.database.labels.argmax(dim=1), labels)
        floor = structural_similarity(base, true).mean()
        sent = observe(open_victim, data.query, "party0", "embeddings")
        made = CodeInversion(observed="embeddings", decoder_epochs=40, steps=200)
        made.fit(open_victim, data.database, data.validation, "party0", seed=0)
        assert made.chosen == max(made.merits, key=made.merits.__getitem__)
        for name, one in made.members.items():
            found = one.reconstruct(open_victim, sent, "party0")
            assert structural_similarity(found, true).mean() > floor + 0.02, name
        best = made.reconstruct(open_victim, sent, "party0")
        chosen = made.members[made.chosen].reconstruct(open_victim, sent, "party0")
        assert torch.equal(best, chosen)

    def test_a_decoder_trained_on_ssim_gains_ssim(self, data: Dataset) -> None:
        """Told the class alone, so that nothing but the loss can make the difference."""
        full = party_view(load_dataset("digits"), 2)
        known, held, asked = (
            split.rows(torch.arange(min(len(split), 500)))
            for split in (full.database, full.validation, full.query)
        )
        table = torch.eye(10)
        found = {}
        for loss in ("mse", "ssim"):
            network = fit_decoder(
                table[known.labels.argmax(dim=1)], known.inputs["party0"],
                table[held.labels.argmax(dim=1)], held.inputs["party0"],
                hidden=64, epochs=16, seed=0, loss=loss,  # type: ignore[arg-type]
            )  # fmt: skip
            drawn = decode(network, table[asked.labels.argmax(dim=1)]).clamp(0, 1)
            found[loss] = reconstruction_columns(drawn, asked.inputs["party0"])
        assert found["ssim"]["ssim"].mean() > found["mse"]["ssim"].mean() + 0.01
        rows = [data.database.rows(torch.arange(20)).inputs["party0"].flatten(1)] * 4
        with pytest.raises(UsageError, match="expected images"):
            fit_decoder(*rows, hidden=4, epochs=1, seed=0, loss="ssim")

    @pytest.mark.parametrize("surrogate", ["ste", "tanh"])
    def test_a_descent_finds_inputs_of_the_code(
        self, victim: HashVFL, data: Dataset, surrogate: Any
    ) -> None:
        """From the neighbours' mean, which often has another code, to the code itself."""
        sent = observe(victim, data.query, "party0", "codes")
        start = Neighbours().fit(victim, data.database, data.validation, "party0")
        descent = GradientInversion(surrogate=surrogate, steps=60)
        descent.fit(victim, data.database, data.validation, "party0")

        def wrong(found: Tensor) -> float:
            again = torch.from_numpy(victim.encode(found, "party0").signs())
            return (again != sent).float().mean().item()

        before = wrong(start.reconstruct(victim, sent, "party0"))
        assert wrong(descent.reconstruct(victim, sent, "party0")) < before / 2

    def test_noise_reaches_what_is_observed(self, data: Dataset) -> None:
        noisy = trained(data, protection="laplace", epsilon=2.0, epochs=1)
        one, two, other = (
            observe(noisy, data.query, "party0", "codes", seed=seed) for seed in (0, 0, 1)
        )
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        assert len(one.unique()) > 100

    def test_known_inputs_get_no_noise_that_attacked_ones_have(self, data: Dataset) -> None:
        """Were it drawn by the same seed, it would cancel out and point at equal row numbers."""
        noisy = trained(data, protection="laplace", epsilon=0.01, epochs=1)
        rows = data.query.rows(torch.arange(80)).inputs["party0"]
        settings = {"attackers": ("neighbours",)}
        _, found = reconstruct(
            noisy, settings, "codes", data.query, data.validation, data.query, "party0", 0, silent
        )
        far = pixel_distances(found["neighbours"], rows)
        assert far.diag().mean() > 0.93 * far.mean()  # 0.82 where each is one of its own ten
        exact = torch.from_numpy(noisy.encode(rows, "party0").signs())
        assert torch.equal(observe(noisy, data.query, "party0", "codes", noise=False), exact)
        nearest = Neighbours(count=1).fit(noisy, data.query, data.validation, "party0")
        drawn = nearest.reconstruct(noisy, exact, "party0")
        for place in range(80):
            same = (exact == exact[place]).all(dim=1)
            assert torch.allclose(drawn[place], rows[same].mean(dim=0), atol=1e-6)

    def test_what_cannot_be_is_refused(self, victim: HashVFL, data: Dataset) -> None:
        with pytest.raises(UsageError, match="expected codes"):
            Neighbours().reconstruct(victim, torch.ones(2, 5), "party0")
        for one in (Neighbours(), Decoder(), GradientInversion(), CodeInversion()):
            with pytest.raises(UsageError, match="call fit"):
                one.reconstruct(victim, torch.ones(2, 16), "party0")
        with pytest.raises(UsageError, match="expected a modality"):
            Neighbours().reconstruct(victim, torch.ones(2, 16), "image")
        for bad in ({"attackers": ("guess",)}, {"attackers": ()}, {"candidates": 1}):
            with pytest.raises(ValueError, match="expected attackers"):
                CodeInversion(**bad)  # type: ignore[arg-type]

    def test_every_registered_inversion_is_one(self) -> None:
        for entry in INVERSIONS:
            assert issubclass(entry.build, Inversion), entry.name  # type: ignore[arg-type]
            assert entry.summary
            assert entry.build.knowledge  # type: ignore[attr-defined]


class TestTranscript:
    def test_messages_are_put_together_sample_by_sample(self, data: Dataset) -> None:
        transcript = Transcript()
        victim: HashVFL = HashVFL(
            **{**HashVFL.data_arguments(data), "epochs": 3, "batch_size": 64, "width": 8}  # type: ignore[arg-type]
        )
        victim.fit(data, seed=0, transcript=transcript)
        rounds = victim.rounds(data, 0)
        rows = torch.tensor([7, 0, 399])
        up, down = sample_messages(transcript, rounds, 1, rows, bits=16, epochs=3)
        assert up.shape == down.shape == (3, 3, 16)
        slow_up, slow_down = torch.zeros(3, 3, 16), torch.zeros(3, 3, 16)
        for message in transcript:
            epoch = message.round // 7
            batch = rounds[message.round].tolist()
            for place, row in enumerate(rows.tolist()):
                if message.party == 1 and row in batch:
                    table = slow_down if message.kind.name == "GRADIENTS" else slow_up
                    table[place, epoch] = message.values[batch.index(row)]
        assert torch.equal(up, slow_up)
        assert torch.equal(down, slow_down)
        assert bool((up.abs() == 1).all())


SETTINGS = [
    "--set", "dataset.size=16", "--set", "victim.epochs=6", "--set", "victim.width=8",
    "--set", "attack.steps=10", "--set", "attack.decoder_epochs=4",
]  # fmt: skip


FIGURES = ("metrics", "differences", "worlds", "bits", "leakage", "sweep", "detection", "protocol")


def figures(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in FIGURES}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("inversion") / "run"
    more = ["--set", "attack.sweep_bits=[4,8]", "--set", "attack.sweep_parties=[]"]
    command = ["attack", "--victim", "hashvfl", "--method", "code-inversion", "--json", "-q"]
    result = runner.invoke(app, [*command, "--out", str(folder), *SETTINGS, *more])
    assert result.exit_code == 0, result.stderr
    return folder, json.loads(result.stdout)


class TestRun:
    def test_the_document_has_what_the_issue_asks_for(
        self, run: tuple[Path, dict[str, Any]]
    ) -> None:
        document = run[1]
        assert document["schema"] == "advhash/inversion/1"
        assert document["attack"]["kind"] == "inversion"
        assert document["budget"] is None
        names = ("accuracy", "accuracy_undefended", "ssim_codes", "ssim_undefended",
                 "ssim_class_mean", "reidentification", "reidentification_chance")  # fmt: skip
        for name in names:
            assert 0 <= document["metrics"][name]["value"] <= 1
        assert document["metrics"]["reidentification_chance"]["value"] == pytest.approx(0.05)
        assert document["protocol"]["auxiliary"] == 1347
        assert [world["name"] for world in document["worlds"]] == [
            "codes", "embeddings", "undefended",
            "final code", "transcript: codes", "transcript: codes and gradients",
        ]  # fmt: skip
        for world in document["worlds"]:
            assert sum(one["chosen"] for one in world["attackers"]) == 1
        assert [point["bits"] for point in document["sweep"]] == [4, 8, 16]  # the run's own too
        assert document["sweep"][2]["accuracy"] == document["metrics"]["accuracy"]

    def test_each_attacker_stands_against_a_decoder_that_is_told_the_class(
        self, run: tuple[Path, dict[str, Any]]
    ) -> None:
        """Trained by the same loss, so that what training by itself adds is on both sides."""
        document = run[1]
        told = {"decoder-ssim": document["metrics"]["ssim_class_decoder_ssim"]["value"]}
        for world in document["worlds"][:3]:
            for one in world["attackers"]:
                floor = told.get(one["name"], document["metrics"]["ssim_class_decoder"]["value"])
                gain = one["gain_over_told"]["value"]
                assert one["ssim"]["value"] - floor == pytest.approx(gain)
                if one["name"] == "decoder-ssim" and world["name"] == "codes":
                    over = document["differences"]["gain_decoder_ssim_over_class_decoder"]
                    assert one["gain_over_told"] == over
        page = " ".join(verdicts(InversionRecord.read(run[0])))
        added = document["differences"]["gain_decoder_ssim_over_class_decoder"]["value"]
        assert f"the code adds {added:.3f}" in page

    def test_every_mean_can_be_taken_again_from_the_samples(
        self, run: tuple[Path, dict[str, Any]]
    ) -> None:
        folder, document = run
        table = pq.read_table(folder / "samples.parquet").to_pydict()
        assert len(table["query"]) == document["protocol"]["samples"] == 300
        for world in document["worlds"][:3]:
            for one in world["attackers"]:
                for name, column in (("ssim", "ssim"), ("mse", "mse"), ("reidentification", "hit")):
                    values = np.array(table[f"{column}:{world['name']}:{one['name']}"])
                    assert values.mean() == pytest.approx(one[name]["value"])
                    if name == "ssim":
                        gain = values - np.array(table["ssim:class_mean"])
                        assert gain.mean() == pytest.approx(one["gain"]["value"], abs=1e-9)

    def test_the_page_is_drawn_again_from_the_record(
        self, run: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        folder, document = run
        record = InversionRecord.read(folder)
        assert record.document() == document
        assert InversionRecord.loads(record.dumps()) == record
        result = runner.invoke(app, ["report", str(folder), "--out", str(tmp_path / "p.html")])
        assert result.exit_code == 0, result.stderr
        text = (tmp_path / "p.html").read_text()
        assert text == (folder / "report.html").read_text()
        assert "<script" not in text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert text.count('class="pic ') >= 10 * 6
        for line in verdicts(record):
            assert line.replace("’", "’") in text

    def test_hostile_text_is_escaped(
        self, run: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        record = InversionRecord.read(run[0])
        bad = "<script>alert(1)</script>"
        pictures = [one.model_copy(update={"labels": bad, "files": {}}) for one in record.pictures]
        changed = record.model_copy(update={"pictures": pictures})
        (tmp_path / "metrics.json").write_text(changed.dumps())
        render([tmp_path], tmp_path / "page.html")
        assert bad not in (tmp_path / "page.html").read_text()
        leaving = [record.pictures[0].model_copy(update={"files": {"original": "../../x.png"}})]
        (tmp_path / "metrics.json").write_text(
            record.model_copy(update={"pictures": leaving}).dumps()
        )
        with pytest.raises(RunError, match="leaves it"):
            render([tmp_path], tmp_path / "page.html")

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.json").write_text("{")
        with pytest.raises(RunError, match="expected a run record"):
            InversionRecord.read(tmp_path)

    def test_the_config_replays_the_run(
        self, run: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        folder, document = run
        command = ["attack", "--config", str(folder / "config.toml"), "--out", str(tmp_path / "r")]
        more = ["--set", "attack.sweep_bits=[]", "--set", "attack.sweep_parties=[]"]
        result = runner.invoke(app, [*command, *more, "--json", "-q"])
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["metrics"] == document["metrics"]

    @pytest.mark.parametrize(
        ("options", "message", "code"),
        [
            (["--victim", "dpsh"], "expected --victim hashvfl", 2),
            (["--victim", "hashvfl", "--eps", "8/255"], "moves no input", 2),
            (["--victim", "hashvfl", "--set", "victim.protection=none"], "a victim that hashes", 2),
            (["--victim", "hashvfl", "--query-modality", "party7"], "expected a modality", 2),
            (["--victim", "hashvfl", "--set", "attack.stepz=1"], "did you mean 'steps'", 2),
            (["--victim", "hashvfl", "--norm", "linf"], "moves no input", 2),
            (["--victim", "hashvfl", "--set", "attack.sweep_parties=[2,99]"], "parties=99: ", 2),
            (["--victim", "hashvfl", "--set", "attack.sweep_bits=[2]"], "bits=2, parties=2: ", 2),
        ],
    )
    @pytest.mark.parametrize("how", [["-q"], ["--dry-run"]])
    def test_what_makes_no_sense_is_refused_before_a_training(
        self,
        options: list[str],
        message: str,
        code: int,
        how: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("advhash.experiments.prepare.hardened.train", None)
        quick = ["--set", "dataset.size=16", "--set", "victim.epochs=1"]
        command = ["attack", "--method", "code-inversion", "--out", str(tmp_path / "r"), *how]
        result = runner.invoke(app, [*command, *options, *quick])
        assert result.exit_code == 1  # the runner keeps the exception; `main` makes it an exit code
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)
        assert result.exception.exit_code == code
        assert not list(tmp_path.iterdir())

    def test_a_killed_run_goes_on(
        self, run: tuple[Path, dict[str, Any]], tmp_path: Path, session_cache: Path
    ) -> None:
        out = tmp_path / "r"
        advhash = [sys.executable, "-m", "advhash"]
        given = ["--config", str(run[0] / "config.toml"), "--out", str(out)]
        cells = session_cache / "invert"
        killed_when(
            [*advhash, "invert", *given, "-q"],
            lambda: any(cells.glob("[!.]*/result.json")),
            dict(os.environ),
        )
        assert [path.name for path in tmp_path.iterdir()] == ["r.partial"]
        first = next(cells.glob("[!.]*/result.json"))
        kept = first.stat().st_mtime_ns
        with pytest.raises(RunError, match=f"advhash invert --resume {out}"):
            expect_finished(tmp_path / "r.partial")
        wrong = runner.invoke(app, ["attack", "--resume", str(out)])
        assert isinstance(wrong.exception, RunError)
        assert "expected an interrupted run of attack, got one of invert" in str(wrong.exception)
        assert first.stat().st_mtime_ns == kept
        resumed = subprocess.run(
            [*advhash, "invert", "--resume", str(out), "--json", "-q"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert resumed.returncode == 0, resumed.stderr
        assert figures(json.loads(resumed.stdout)) == figures(run[1])
        assert pq.read_table(out / "samples.parquet").equals(
            pq.read_table(run[0] / "samples.parquet")
        )
        assert not list(cells.glob("[!.]*"))  # the folder has taken them over

    def test_in_other_processes_the_figures_are_the_same(
        self, run: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        given = ["--config", str(run[0] / "config.toml"), "--out", str(tmp_path / "r")]
        more = ["--set", "attack.sweep_bits=[4]", "--set", "attack.transcript=false"]
        result = runner.invoke(
            app, ["invert", *given, *more, "--executor", "local", "--json", "-q"]
        )
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["worlds"] == run[1]["worlds"][:3]
        assert document["metrics"].items() <= run[1]["metrics"].items()
        assert [point for point in run[1]["sweep"] if point["bits"] != 8] == document["sweep"]

    def test_a_folder_of_a_version_that_kept_no_kind_is_refused(self, tmp_path: Path) -> None:
        partial = tmp_path / "r.partial"
        partial.mkdir()
        config = {"victim": {"name": "hashvfl"}, "attack": {"name": "code-inversion"}}
        (partial / "config.toml").write_text(AttackConfig.build(config).to_toml())
        for command in ("attack", "invert"):
            result = runner.invoke(app, [command, "--resume", str(tmp_path / "r")])
            assert isinstance(result.exception, RunError)
            assert f"{partial}: it was begun by a version before 0.2" in str(result.exception)
            assert "delete it" in str(result.exception)

    def test_a_config_of_such_a_version_replays(self) -> None:
        tables = {"victim": {"name": "hashvfl"}, "attack": {"name": "code-inversion"}}
        old = tomllib.loads(AttackConfig.build(tables).to_toml())
        assert InvertConfig.build(old) == InvertConfig.build(tables)

    def test_a_defence_hardens_the_victim_and_not_its_twin(self) -> None:
        tables = {
            "victim": {"name": "hashvfl", "epochs": 1},
            "dataset": {"size": 16},
            "defense": {"name": "saat", "epochs": 1, "steps": 1},
            "attack": {"name": "code-inversion", "transcript": False, "sweep_bits": [4]},
        }
        plan = Invert().plan(InvertConfig.build(tables))
        parts = [plan.parts["victim"], plan.parts["twin"], *plan.cells[-1].planned]  # type: ignore[attr-defined]
        names = [one.identity["defense"] and one.identity["defense"][0] for one in parts]
        assert names == ["saat", None, "saat", None]
        with pytest.raises(UsageError, match=r"attack\.transcript=false"):
            Invert().plan(InvertConfig.build({**tables, "attack": {"name": "code-inversion"}}))

    def test_how_many_are_attacked_does_not_change_chance(
        self, run: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        """Candidates come from the whole query split: 15 attacked rows have 20 of their class."""
        command = ["invert", "--config", str(run[0] / "config.toml"), "--queries", "15"]
        more = ["--set", "attack.sweep_bits=[]", "--set", "attack.sweep_parties=[]"]
        few = ["--set", "attack.transcript=false", "--out", str(tmp_path / "r"), "--json", "-q"]
        result = runner.invoke(app, [*command, *more, *few])
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["protocol"]["samples"] == 15
        chance = document["metrics"]["reidentification_chance"]
        assert (chance["value"], chance["n"]) == (pytest.approx(0.05), 15)

    def test_noise_states_what_it_composes_to(self, tmp_path: Path) -> None:
        command = ["attack", "--victim", "hashvfl", "--method", "code-inversion", "--json", "-q"]
        noise = ["--set", "victim.protection=laplace", "--set", "victim.epsilon=3"]
        few = ["--set", 'attack.attackers=["neighbours"]', "--queries", "15"]
        more = ["--set", "attack.transcript=false", "--out", str(tmp_path / "r")]
        result = runner.invoke(app, [*command, *SETTINGS, *noise, *few, *more])
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        found = {k: v["value"] for k, v in document["metrics"].items() if k.startswith("epsilon")}
        assert found == {"epsilon_message": 3 * 16, "epsilon_training": 3 * 16 * 6}
        assert any("= 48 for one code and 288 for the training" in line
                   for line in verdicts(InversionRecord.read(tmp_path / "r")))  # fmt: skip
        card = document["victim"]["notes"]["metrics"]  # of the victim's card
        assert card["epsilon_training"]["value"] == 3 * 16 * 6

    def test_fewer_candidates_are_called_fewer(self, run: tuple[Path, dict[str, Any]]) -> None:
        record = InversionRecord.read(run[0])
        one_code = re.compile("From one code per sample, .* among (.*) of its class")
        assert [match[1] for line in verdicts(record) if (match := one_code.match(line))] == ["20"]
        hit = record.metrics["reidentification"]
        assert hit is not None
        assert hit.value is not None
        over = Difference(hit.value - 0.25, 0.0, 0.3, 40, 0.5)
        differences = {**record.differences, "reidentification_over_chance": over}
        few = verdicts(record.model_copy(update={"differences": differences}))
        assert [match[1] for line in few if (match := one_code.match(line))] == ["at most 20"]

    def test_a_dry_run_writes_nothing(self, tmp_path: Path) -> None:
        command = ["attack", "--victim", "hashvfl", "--method", "code-inversion", "--dry-run"]
        result = runner.invoke(app, [*command, "--json", "--out", str(tmp_path / "r"), *SETTINGS])
        assert result.exit_code == 0, result.stderr
        plan = json.loads(result.stdout)
        assert (plan["command"], plan["attack"]["kind"]) == ("invert", "inversion")
        assert plan["cells"] == 6  # three worlds, two decoders that are told the class, transcript
        assert not list(tmp_path.iterdir())


def test_a_table_is_reconstructed_too(tmp_path: Path) -> None:
    command = ["invert", "--victim", "hashvfl", "--json", "-q"]
    more = ["--dataset", "breast_cancer", "--out", str(tmp_path / "r")]
    quick = [*SETTINGS[2:], "--set", "attack.transcript=false"]
    result = runner.invoke(app, [*command, *more, *quick])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["metrics"]["ssim_codes"] is None
    assert (
        document["metrics"]["mse_codes"]["value"] > document["metrics"]["mse_undefended"]["value"]
    )
    page = (tmp_path / "r" / "report.html").read_text()
    assert "the data are a table" in page
    assert "an MSE below that of the class mean of the same samples, is more than" in page
    assert "party0 holds 15 features: mean radius" in page
    mean = document["metrics"]["mse_class_mean"]["value"]
    for world in document["worlds"]:
        for one in world["attackers"]:
            assert one["gain"]["value"] == pytest.approx(mean - one["mse"]["value"])
            if one["chosen"]:
                assert document["differences"][f"gain_{world['name']}"] == one["gain"]
    assert "SSIM" not in page.partition("<caption><span>Errors of")[2].partition("</table>")[0]
    assert "a decoder told the class alone: SSIM" not in page


def test_the_plan_of_an_attack_says_which_party_is_moved() -> None:
    command = ["attack", "--victim", "hashvfl", "--method", "dhta", "--dry-run", "--json"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["protocol"]["query_modality"] == "party0"


def test_ssim_of_a_table_is_refused_before_a_training(tmp_path: Path) -> None:
    command = ["attack", "--victim", "hashvfl", "--method", "code-inversion", "--json", "-q"]
    more = ["--dataset", "breast_cancer", "--set", 'attack.attackers=["decoder-ssim"]']
    result = runner.invoke(app, [*command, *more, "--out", str(tmp_path / "r"), "--dry-run"])
    assert isinstance(result.exception, UsageError)
    assert "decoder-ssim draws images" in str(result.exception)


def test_any_hashing_victim_can_be_inverted() -> None:
    """The reconstructions know no federation: an image hash is inverted as well."""
    from advhash.victims.image.pairwise import DPSH

    full = load_dataset("digits", {"size": 16})
    victim: HashVictim = DPSH(bits=8, image_size=16, epochs=1).fit(full, seed=0)
    sent = observe(victim, full.query, "image", "codes")
    found = (
        Neighbours()
        .fit(victim, full.database, full.validation, "image")
        .reconstruct(victim, sent, "image")
    )
    assert found.shape == (300, 3, 16, 16)
