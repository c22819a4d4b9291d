"""Training in several processes and in mixed precision."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from advhash.compute.processes import is_main_process, local_process, process_count
from advhash.errors import UsageError
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.seeds import resolve_device
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.victims.training import descent as fit
from advhash.victims.training.acceleration import accelerated, joined, precision, share
from advhash.victims.training.descent import Descent, augment

FILE = Path(__file__).resolve().parents[1] / "scenes/shared_training.py"
_spec = importlib.util.spec_from_file_location("shared_training", FILE)
assert _spec is not None
assert _spec.loader is not None
shared: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shared)

CPU = torch.device("cpu")


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        + list(command),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """Gathered pairs, summed gradients, odd shares, buffers F, G, H and codes: all as in one."""
    torchrun(str(FILE), str(tmp_path))
    for name in shared.SETTINGS:
        alone = shared.trained(name).state_dict()
        first, second = (load_file(tmp_path / f"{name}.{rank}") for rank in (0, 1))
        assert set(alone) == set(first) == set(second)
        for key, value in first.items():
            assert torch.equal(value, second[key]), key
            if value.is_floating_point():
                torch.testing.assert_close(value, alone[key], rtol=1e-3, atol=1e-4)
            elif "_words" in key:
                flipped = value.ne(alone[key]).float().mean()
                assert flipped < 0.05, key  # a real value next to 0
            else:
                assert torch.equal(value, alone[key]), key


@pytest.mark.slow
def test_two_processes_reach_the_map_of_one(tmp_path: Path) -> None:
    arguments = ["-m", "advhash", "train", "--victim", "dpsh", "--dataset", "digits", "--json"]
    figures = []
    for run, prefix in (("one", [sys.executable]), ("two", [])):
        environment = {**os.environ, "ADVHASH_CACHE": str(tmp_path / run)}
        if prefix:
            done = subprocess.run(
                [*prefix, *arguments], capture_output=True, text=True, env=environment, timeout=500
            )
            assert done.returncode == 0, done.stderr
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ADVHASH_CACHE", str(tmp_path / run))
                done = torchrun(*arguments)
        document = json.loads(done.stdout)  # one document, of the main process
        figures.append(document["metrics"]["map_image_image"])
        card = json.loads((Path(document["checkpoint"]) / "card.json").read_text())
        assert card["processes"] == (1 if prefix else 2)
    one, two = figures
    assert one["value"] > 0.9
    assert one["low"] <= two["value"] <= one["high"] or two["low"] <= one["value"] <= two["high"]


def test_shares_cover_a_batch_once() -> None:
    class Pretended:
        num_processes = 3

        def __init__(self, index: int) -> None:
            self.process_index = index

    for count in (6, 7, 64, 65):
        parts = [share(Pretended(index), count) for index in range(3)]  # type: ignore[arg-type]
        rows = torch.cat([torch.arange(count)[part] for part in parts])
        assert rows.tolist() == list(range(count))
        sizes = [part.stop - part.start for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_one_process_joins_nothing() -> None:
    accelerator = accelerated(CPU)
    values = torch.ones(3, 2, requires_grad=True)
    assert joined(accelerator, values, 3) is values
    assert share(accelerator, 3) == slice(0, 3)


def test_augmentation_of_a_part() -> None:
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = augment(images, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    part = augment(images[2:5], generator, batch=7, part=slice(2, 5))
    torch.testing.assert_close(part, whole[2:5], rtol=0, atol=1e-6)
    reference = torch.Generator().manual_seed(1)
    augment(images, reference)
    assert torch.equal(generator.get_state(), reference.get_state())


def test_batches_too_small_for_the_processes() -> None:
    descent = Descent([nn.Parameter(torch.zeros(2))], epochs=1, steps=1, learning_rate=1.0)

    class Pretended:
        num_processes = 2

    descent.accelerator = Pretended()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="at least 4 rows for 2 processes"):
        descent.epoch([torch.arange(3)], lambda rows: torch.zeros(()))


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1}.items():
            monkeypatch.setenv(name, str(value))

    def test_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert process_count() == 2
        assert local_process() == (1, 2)
        assert not is_main_process()
        monkeypatch.delenv("LOCAL_RANK")  # a batch system may set the others
        assert process_count() == 1
        assert local_process() == (0, 1)
        assert is_main_process()

    def test_a_gpu_for_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(UsageError, match="a GPU for each of the 2 processes"):
            resolve_device("cuda")
        assert resolve_device("cpu") == CPU

    def test_only_training_is_shared(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "advhash", "list"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "only `advhash train` shares out" in done.stderr
        assert done.stdout == ""


class TestPrecision:
    def test_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        assert precision(CPU) == "no"
        cuda = torch.device("cuda")
        for has, expected in ((True, "bf16"), (False, "fp16")):
            monkeypatch.setattr(
                torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has
            )
            assert precision(cuda) == expected

    @pytest.mark.parametrize("given", ["fp16", "fp8", "half", ""])
    def test_refused(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", given)
        with pytest.raises(UsageError, match="expected no, bf16 on cpu"):
            precision(CPU)

    def test_bf16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The forward pass is in bf16, the outputs, the loss and the weights are float32."""
        layer = nn.Linear(3, 2)
        inputs = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
        seen: list[torch.dtype] = []

        def forward(part: slice) -> Tensor:
            values: Tensor = layer(inputs[part])
            seen.append(values.dtype)
            return values

        results = []
        for name in ("no", "bf16", "no"):
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", name)
            descent = Descent(layer.parameters(), epochs=1, steps=1, learning_rate=0.0)
            outputs = descent.outputs(4, forward)
            assert outputs.dtype == torch.float32
            results.append(outputs)
            descent.step(outputs.square().mean())
            assert layer.weight.grad is not None
            assert layer.weight.grad.dtype == torch.float32
        assert seen == [torch.float32, torch.bfloat16, torch.float32]
        assert torch.equal(results[0], results[2])
        assert not torch.equal(results[0], results[1])
        torch.testing.assert_close(results[0], results[1], rtol=0.02, atol=0.02)

    def test_is_part_of_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = TrainConfig.build(
            {"victim": {"name": "dpsh", "epochs": 3}, "dataset": {"name": "digits"}}
        )
        keys = []
        for name in ("no", "bf16"):
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", name)
            planned = plan_victim(config)
            assert planned is not None
            keys.append(planned[2])
        assert keys[0] != keys[1]
        trained = train(config)
        assert trained.card["precision"] == "bf16"
        assert trained.card["metrics"]["map_image_image"]["value"] > 0.3

    def test_a_gradient_too_large_for_fp16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The step is left out, the schedule stands still, the scale halves and is kept."""

        def scaled(device: torch.device) -> Accelerator:
            accelerator = accelerated(device)
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            return accelerator

        monkeypatch.setattr(fit, "accelerated", scaled)
        weight = nn.Parameter(torch.ones(2))
        descent = Descent([weight], epochs=10, steps=1, learning_rate=0.1, decay="linear")
        descent.step((weight * torch.tensor([float("inf"), 1.0])).sum())
        assert torch.equal(weight.detach(), torch.ones(2))
        assert descent.schedule.last_epoch == 0
        before = descent.optimiser.param_groups[0]["lr"]
        descent.step(weight.sum())
        assert bool((weight < 1).all())
        assert descent.optimiser.param_groups[0]["lr"] < before
        tensors, numbers = descent.state()
        assert numbers["scaler"]["scale"] == 512.0
        other = Descent([nn.Parameter(torch.ones(2))], epochs=10, steps=1, learning_rate=0.1)
        other.restore(tensors, json.loads(json.dumps(numbers)))
        assert other.state()[1] == numbers
