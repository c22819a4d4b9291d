"""Encoders of others as victims: Pillow's path to the bit, cuts by formula, cards that last."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.experiments.config import AttackConfig, TrainConfig, VictimConfig
from advhash.experiments.config_text import method_label, parse_method
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import fingerprint
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.experiments.transfer.config import TransferConfig
from advhash.registry import QUANTISERS, VICTIMS, is_external
from advhash.reports.record import VictimInfo
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.encoders import sources
from advhash.victims.encoders.encoded import Encoded
from advhash.victims.encoders.matrix import read_matrix
from advhash.victims.encoders.picture_files import read_preprocessing
from advhash.victims.encoders.preprocessing import Preprocessing
from advhash.victims.encoders.quantisers import ITQ, Quantiser, principal_axes

SMALL: dict[str, Any] = {"encoder": "timm:test_resnet", "pretrained": False}
PLAIN = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = load_dataset("digits", {})
    return dataclasses.replace(
        data, database=data.database.take(torch.arange(70)), train_rows=torch.arange(40)
    )


def encoder(**settings: Any) -> Encoded:
    torch.manual_seed(0)
    victim: Encoded = VICTIMS.create("encoder", {**SMALL, **settings})
    return victim


# What comes before the network


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(32, 32), (61, 40), (90, 200), (20, 300)])
def test_preprocessing_is_that_of_timm_to_the_bit(name: Any, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop, share = 48, 0.875
    theirs = create_transform(
        (3, crop, crop), interpolation=name, crop_pct=share, mean=PLAIN, std=PLAIN
    )
    ours = Preprocessing(crop, int(crop / share), name, PLAIN, PLAIN)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    assert torch.equal(ours(images)[0], theirs(Image.fromarray(pixels)))


def test_a_picture_is_moved_as_it_is_stored() -> None:
    """The gradient reaches pixels of the stored size, and leaves those beyond the crop alone."""
    images = torch.full((1, 3, 40, 40), 0.5, requires_grad=True)
    Preprocessing(20, 40, "bicubic", PLAIN, PLAIN)(images).sum().backward()
    assert images.grad is not None
    reached = images.grad[0, 0] != 0
    assert bool(reached[10:30, 10:30].all())
    assert int(reached.sum()) == 400


# The cuts


@pytest.fixture(scope="module")
def features() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(400, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    return mixed + 3


def fitted(name: str, features: Tensor, bits: int, seed: int = 0) -> Tensor:
    quantiser: Quantiser = QUANTISERS.create(name)
    cut = quantiser.fit(features, bits, torch.Generator().manual_seed(seed))
    return cut(features)


def test_sign_mean_and_median_by_hand() -> None:
    rows = torch.tensor([[1.0, -1.0], [2.0, -3.0], [6.0, 10.0]])
    assert torch.equal(fitted("sign", rows, 2), rows)
    assert torch.allclose(fitted("mean", rows, 2), rows - torch.tensor([3.0, 2.0]))
    assert torch.allclose(fitted("median", rows, 2), rows - torch.tensor([2.0, -1.0]))


def test_principal_components_are_uncorrelated_and_sorted(features: Tensor) -> None:
    values = fitted("pca-sign", features, 5).double()
    covariance = values.T @ values / len(values)
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-3)
    assert bool((covariance.diag().diff() <= 0).all())


@pytest.mark.parametrize("name", ["pca-sign", "itq"])
def test_more_bits_than_directions_are_refused(name: str, features: Tensor) -> None:
    """Few rows, or features that never fire, leave axes that would be rounding errors."""
    few, dead = features[:6], torch.cat([features, torch.zeros(400, 5)], dim=1)
    assert fitted(name, few, 5).shape == (6, 5)
    assert fitted(name, dead, 12).shape == (400, 12)
    for rows, directions in ((few, 5), (dead, 12)):
        with pytest.raises(ConfigError, match=f"differ in {directions} directions"):
            fitted(name, rows, directions + 1)


def test_itq_rotates_toward_the_signs(features: Tensor) -> None:
    """‖sign V·R − V·R‖ falls from the first rotation on, R stays one, and W spans the same axes."""

    def loss(values: Tensor) -> float:
        return float((torch.where(values > 0, 1.0, -1.0) - values).square().sum())

    def after(rounds: int) -> Tensor:
        return ITQ(rounds=rounds).fit(features, 6, torch.Generator().manual_seed(0))(features)

    losses = [loss(after(rounds)) for rounds in (0, 1, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    centre, axes = principal_axes(features, 6)
    plain = (features.double() - centre) @ axes
    assert torch.allclose(plain.norm(dim=1), after(50).double().norm(dim=1), rtol=1e-4)


def test_random_cuts_follow_the_seed(features: Tensor) -> None:
    for name in ("lsh", "itq"):
        first, again, other = (fitted(name, features, 8, seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first > 0, other > 0)
    assert fitted("lsh", features, 64).shape == (400, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 64}, "quantise=mean makes one bit of each of 96 features"),
        ({"quantise": "itq", "bits": 97}, "expected at most 96 bits, one a feature, got 97"),
        ({"quantise": "pca-sign", "bits": 9, "dimensions": 8}, "expected at most 8 bits"),
        ({"quantise": "lsh", "bits": 0}, "expected bits from 1 to 65536, got 0"),
        ({"quantise": "lsh", "bits": 2**17}, "expected bits from 1 to 65536"),
        ({"dimensions": 97}, "has 96 features: expected dimensions from 1 to that, got 97"),
    ],
)
def test_lengths_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder(**settings)


# The victim


def test_only_training_rows_are_learnt_from(digits: Dataset) -> None:
    """Other queries and other rows that are only searched leave the cut as it is."""
    rest = torch.arange(40, 70)
    changed = digits.database.take(torch.cat([torch.arange(40), rest.flip(0)]))
    other = dataclasses.replace(digits, database=changed, query=digits.validation)
    first, second = (encoder(quantise="itq", bits=16) for _ in range(2))
    second.load_state_dict(first.state_dict())
    first.fit(digits, seed=0)
    second.fit(other, seed=0)
    assert torch.equal(first.centre, second.centre)
    assert torch.equal(first.axes, second.axes)
    moved = dataclasses.replace(digits, train_rows=torch.arange(30, 70))
    assert not torch.equal(first.centre, second.fit(moved, seed=0).centre)


def test_a_checkpoint_needs_nobody_else(digits: Dataset, tmp_path: Path) -> None:
    settings = {**SMALL, "quantise": "lsh", "bits": 24, "dimensions": 50, "online": False}
    victim = encoder(quantise="lsh", bits=24, dimensions=50).fit(digits, seed=0)
    save_victim(tmp_path, victim, name="encoder", settings=settings)
    again, _ = load_victim(tmp_path)
    images = digits.query.inputs["image"][:20]
    batch = digits.query.rows(torch.arange(20)).inputs["image"]
    assert len(images) == len(batch)
    assert torch.equal(victim.relax(batch, "image"), again.relax(batch, "image"))


def test_training_mode_changes_nothing(digits: Dataset) -> None:
    victim = encoder().fit(digits, seed=0)
    batch = digits.query.rows(torch.arange(8)).inputs["image"]
    before = victim.relax(batch, "image")
    assert torch.equal(before, victim.train().relax(batch, "image"))
    assert not any(parameter.requires_grad for parameter in victim.parameters())


def test_signs_after_a_relu_and_cut_features_are_flagged(digits: Dataset) -> None:
    """The features of test_resnet are means of a ReLU."""
    assert [flag.name for flag in encoder(quantise="sign").fit(digits, seed=0).flags()] == [
        "one_sided"
    ]
    assert encoder(quantise="mean").fit(digits, seed=0).flags() == []
    cut = encoder(quantise="mean", dimensions=64).fit(digits, seed=0)
    assert [flag.name for flag in cut.flags()] == ["cut_dimensions"]


def test_features_that_are_none_are_refused(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = encoder()
    for value, message in ((torch.nan, "finite features"), (1.0, "the same for all")):
        fixed = torch.full((1, 96), value)
        monkeypatch.setattr(victim, "features", lambda images, f=fixed: f.expand(len(images), -1))
        with pytest.raises(DataError, match=message):
            victim.fit(digits, seed=0)


# A matrix of the user


def written(file: Path, matrix: np.ndarray[Any, Any]) -> Path:
    """A file of a matrix, in the format of its suffix."""
    if file.suffix == ".npy":
        np.save(file, matrix)
    elif file.suffix == ".npz":
        np.savez(file, projection=matrix)
    elif file.suffix == ".safetensors":
        safetensors.torch.save_file({"m": torch.from_numpy(matrix)}, file)
    else:
        file.write_bytes(bytes(range(128)) + matrix.astype("<f4").tobytes())
    return file


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_a_matrix_is_read(suffix: str, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    file = written(tmp_path / f"m{suffix}", matrix)
    assert np.array_equal(read_matrix(file, 96).numpy(), matrix)


def test_a_matrix_stands_between_network_and_cut(digits: Dataset, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    file = written(tmp_path / "m.npy", matrix)
    plain = encoder(quantise="sign")
    victim = encoder(quantise="mean", projection=str(file)).fit(digits, seed=0)
    batch = digits.query.rows(torch.arange(6)).inputs["image"]
    products = plain.features(batch) @ torch.from_numpy(matrix).T
    assert victim.bits == 40
    assert torch.allclose(victim.features(batch), products, atol=1e-5)
    cut = victim.split_features(digits.train, "image").mean(dim=0)
    assert torch.allclose(victim.relax(batch, "image"), products - cut, atol=1e-4)


def test_the_matrix_of_neural_hash_is_read_as_it_lies(tmp_path: Path) -> None:
    """96 × 128 float32, little-endian, behind 128 bytes."""
    matrix = np.random.default_rng(0).normal(size=(96, 128)).astype(np.float32)
    file = written(tmp_path / "seed1.dat", matrix)
    assert np.array_equal(read_matrix(file, 128).numpy(), matrix)


def test_a_checkpoint_needs_no_matrix_again(digits: Dataset, tmp_path: Path) -> None:
    file = written(tmp_path / "m.npy", np.random.default_rng(0).normal(size=(40, 96)))
    given = {**SMALL, "name": "encoder", "projection": str(file), "quantise": "itq", "bits": 8}
    config = TrainConfig.build({"victim": given, "dataset": {"name": "digits"}})
    planned = plan_victim(config)
    assert planned is not None
    victim = encoder(**planned[1]).fit(digits, seed=0)
    kept = tmp_path / "kept"
    kept.mkdir()
    save_victim(kept, victim, name="encoder", settings=planned[1])
    written(file, np.random.default_rng(1).normal(size=(40, 96)))
    other = plan_victim(config)
    assert other is not None
    assert other[2] != planned[2]  # another matrix is another victim
    file.unlink()
    again, _ = load_victim(kept)
    batch = digits.query.rows(torch.arange(6)).inputs["image"]
    assert torch.equal(victim.relax(batch, "image"), again.relax(batch, "image"))


@pytest.mark.parametrize(
    ("name", "matrix", "message"),
    [
        ("m.npy", np.ones((96, 40)), "it is transposed: store its .T"),
        ("m.npy", np.ones((40, 90)), r"expected a matrix \(P,96\) for 96 features, got \(40, 90\)"),
        ("m.npy", np.ones(96), "expected a matrix of numbers"),
        ("m.npy", np.full((4, 96), np.nan), "expected finite numbers"),
        ("m.dat", np.ones((40, 96)), "as in NeuralHash's file, got 15,488"),
        ("m.pt", np.ones((40, 96)), "a pickle can run code and is not read"),
        ("m.csv", np.ones((40, 96)), "expected a matrix in .npy, .npz or .safetensors"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(
    name: str, matrix: np.ndarray[Any, Any], message: str, tmp_path: Path
) -> None:
    file = written(tmp_path / name, matrix)
    with pytest.raises(DataError, match=message) as refused:
        encoder(projection=str(file))
    assert "\n" not in str(refused.value)


def test_a_matrix_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a file, got .*none\.npy: not there"):
        encoder(projection=str(tmp_path / "none.npy"))
    np.savez(tmp_path / "two.npz", a=np.ones((4, 96)), b=np.ones((4, 96)))
    with pytest.raises(DataError, match=r"expected one array, the matrix, got 2 \(a.npy, b.npy\)"):
        encoder(projection=str(tmp_path / "two.npz"))


# By prefix


def test_a_prefix_names_the_victim_encoder() -> None:
    given = {"name": "timm:test_resnet", "quantise": "sign"}
    config = TrainConfig.build({"victim": given})
    assert config.victim.name == "encoder"
    assert config.victim.settings == {"encoder": "timm:test_resnet", "quantise": "sign"}
    attack = AttackConfig.build({"victim": {"name": "hf:./clip"}, "attack": {"name": "dhta"}})
    assert attack.victim.settings == {"encoder": "hf:./clip"}
    named = parse_method("timm:test_resnet+quantise=itq+bits=8")
    assert method_label(VictimConfig.build(named)) == "timm:test_resnet+quantise=itq+bits=8"
    one = {"victims": [named], "attacks": [{"name": "dhta"}]}
    with pytest.raises(ConfigError, match="setting 'victims': expected at least 2, got 1"):
        TransferConfig.build(one)
    assert not is_external("timm:resnet18")
    assert is_external("my_hashes:average")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_resne", "did you mean 'test_resnet'"),
        ("timm:", "expected the name of a model behind timm:"),
        ("keras:x", "expected timm:…, hf:…, st:…, onnx:…"),
        ("hf:/no/such/folder", "expected a folder or a model on this machine"),
    ],
)
def test_encoders_that_are_not_there_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder(encoder=name)


def test_weights_that_are_not_here_are_missed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    given = {"name": "encoder", "encoder": "timm:test_resnet"}
    config = TrainConfig.build({"victim": given, "dataset": {"name": "digits"}})
    with pytest.raises(UsageError, match=r"not on this machine: victim\.online=true asks"):
        plan_victim(config)


def test_trained_by_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the cache and back, with the victim's own settings in its card."""

    def pooled(victim: Encoded, images: Tensor) -> Tensor:  # as many features, without a network
        return torch.nn.functional.adaptive_avg_pool2d(images, (4, 8)).flatten(1)

    monkeypatch.setattr(Encoded, "features", pooled)
    given = {"name": "timm:test_resnet", "pretrained": False, "quantise": "lsh", "bits": 32}
    trained = train(TrainConfig.build({"victim": given, "dataset": {"name": "digits"}}))
    assert trained.card["settings"]["encoder"] == "timm:test_resnet"
    assert trained.victim.bits == 32
    assert trained.card["metrics"]["map_image_image"]["value"] > 0.1


# transformers


def tiny(kind: str, folder: Path) -> Any:
    """A model of that kind with random weights and its preprocessing, saved into the folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 12,
    }  # fmt: skip
    size = {"height": 32, "width": 32}
    if kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**vision))
        processor = transformers.ViTImageProcessor(size=size)
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**vision, mlp_ratio=2))
        processor = transformers.ViTImageProcessor(size=size, resample=3)
    elif kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
        )
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessor(size=size, resample=3)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


SQUARE = {"height": 32, "width": 32}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {"size": SQUARE}),
        ("ViT", {"size": SQUARE, "do_normalize": False}),
        ("DeiT", {"size": {"height": 40, "width": 40}, "crop_size": SQUARE}),
        ("CLIP", {"size": {"shortest_edge": 36}, "crop_size": SQUARE}),
        ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.8, "resample": 2}),
        ("ConvNext", {"size": {"shortest_edge": 384}, "resample": 2}),
    ],
)
def test_pictures_are_prepared_as_their_processor_does(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """A picture that is no square, so that a squash and a crop are not the same."""
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{kind}ImageProcessor")(**settings)
    processor.save_pretrained(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    theirs = processor([Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    ours = read_preprocessing(str(tmp_path), {}, "hf:x")(
        torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    )
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 0.03  # pixels are rounded in another place


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("MobileViT", {}, "got do_flip_channel_order in preprocessor_config.json"),
        ("EfficientNet", {}, "got include_top"),
        ("PoolFormer", {}, "got crop_pct"),
        ("Vilt", {}, "got do_pad, pictures that are not square"),
        ("ViT", {"size": {"height": 32, "width": 16}}, "got pictures that are not square"),
        ("ViT", {"do_rescale": False}, "got do_rescale=false"),
        ("ViT", {"rescale_factor": 1 / 127.5}, "got rescale_factor=0.0078"),
        ("ViT", {"resample": 0}, "expected a resize by bilinear"),
    ],
)
def test_pictures_that_are_prepared_otherwise_are_refused(
    kind: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    getattr(transformers, f"{kind}ImageProcessor")(**settings).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=message) as refused:
        read_preprocessing(str(tmp_path), {}, "hf:x")
    assert "\n" not in str(refused.value)


def test_a_model_whose_preprocessing_is_missing_is_refused(tmp_path: Path) -> None:
    tiny("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"expected preprocessor_config.json .* got none; save"):
        encoder(encoder=f"hf:{tmp_path}", pretrained=True, side="image")


def test_weights_that_lack_the_pooler_give_the_mean_token(tmp_path: Path) -> None:
    """As those of a classifier: a pooler of random weights would be another victim each time."""
    transformers = pytest.importorskip("transformers")
    model, _ = tiny("vit", tmp_path)
    transformers.ViTForImageClassification(model.config).save_pretrained(tmp_path)
    named = {"encoder": f"hf:{tmp_path}", "quantise": "sign", "pretrained": True}
    victim = encoder(**named)
    pictures = torch.rand(3, 3, 32, 32).mul(255).round() / 255
    theirs = transformers.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        hidden = theirs(pixel_values=(pictures - 0.5) / 0.5).last_hidden_state
    assert torch.allclose(victim.relax(pictures, "image"), hidden.mean(dim=1), atol=1e-5)
    settings = {**named, **Encoded.source_arguments({**named, "projection": None})}
    (tmp_path / "kept").mkdir()
    save_victim(tmp_path / "kept", victim, name="encoder", settings=settings)
    again, _ = load_victim(tmp_path / "kept")
    assert torch.equal(victim.relax(pictures, "image"), again.relax(pictures, "image"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("take", "got 1 too few, such as encoder.layer.0"),
        ("turn", "got 1 of another shape, such as encoder.layer.0"),
        ("add", "got 1 of further layers, such as encoder.layer.2.x; save model and"),
        ("cut", "expected a folder or a model on this machine .*; save it there"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: str, message: str, tmp_path: Path) -> None:
    """None is left random: the victim would be another one each time."""
    tiny("dinov2", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = "encoder.layer.0.mlp.fc1.weight"
    if change == "take":
        del tensors[name]
    elif change == "turn":
        tensors[name] = tensors[name].T[:3].contiguous()
    else:
        tensors["encoder.layer.2.x"] = torch.ones(2)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UsageError, match=message) as refused:
        encoder(encoder=f"hf:{tmp_path}", pretrained=True)
    assert "\n" not in str(refused.value)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model, _ = tiny("vit", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # noqa: TID251
    with pytest.raises(UsageError, match="safetensors"):
        encoder(encoder=f"hf:{tmp_path}", pretrained=True)


def changed(folder: Path, what: str) -> None:
    """Another model under the same name: other weights, or another preprocessing."""
    if what == "weights":
        file = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(file)
        moved = {name: value + 0.5 for name, value in tensors.items()}
        safetensors.torch.save_file(moved, file, metadata={"format": "pt"})
        return
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "image_mean": [0.1, 0.2, 0.3]}))


@pytest.mark.parametrize("what", ["weights", "preprocessing"])
def test_a_folder_that_changed_is_another_victim(what: str, tmp_path: Path) -> None:
    tiny("vit", tmp_path)
    given = {"victim": {"name": f"hf:{tmp_path}"}, "dataset": {"name": "digits"}}
    config = TrainConfig.build(given)

    def key() -> str:
        planned = plan_victim(config)
        assert planned is not None
        return planned[2]

    first = key()
    assert key() == first
    changed(tmp_path, what)
    assert key() != first


def test_a_checkpoint_needs_no_folder_of_transformers(digits: Dataset, tmp_path: Path) -> None:
    """Neither its structure nor its preprocessing is read from the folder again."""
    source = tmp_path / "model"
    tiny("clip", source)
    named = {"name": f"hf:{source}", "side": "image"}
    config = TrainConfig.build({"victim": named, "dataset": {"name": "digits"}})
    planned = plan_victim(config)
    assert planned is not None
    victim: Encoded = VICTIMS.create("encoder", planned[1]).fit(digits, seed=0)
    kept = tmp_path / "kept"
    kept.mkdir()
    save_victim(kept, victim, name="encoder", settings=planned[1])
    batch = digits.query.rows(torch.arange(8)).inputs["image"]
    changed(source, "preprocessing")
    again, card = load_victim(kept)
    assert torch.equal(victim.relax(batch, "image"), again.relax(batch, "image"))
    shutil.rmtree(source)
    again, card = load_victim(kept)
    assert torch.equal(victim.relax(batch, "image"), again.relax(batch, "image"))
    other = {**card, "settings": {**card["settings"], "description": "{}"}}
    assert fingerprint(kept, again, card) != fingerprint(kept, again, other)


def test_a_description_of_somebody_else_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a description that advhash wrote"):
        encoder(encoder="hf:./none", description='{"config": {}}')


def test_pictures_are_sized_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The files say it, which may be fetched where the user says so; no network is made."""
    tiny("clip", tmp_path)
    asked = []
    files_of = sources.Files.of

    def opened(name: str, online: bool) -> Any:
        asked.append(online)
        return files_of(name, online)

    monkeypatch.setattr(sources.Files, "of", opened)
    monkeypatch.setattr(sources, "_model", None)
    assert Encoded.picture_side({"encoder": f"hf:{tmp_path}", "online": True}) == 32
    assert asked
    assert all(asked)


def test_a_folder_that_is_not_there_is_no_model_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder") as refused:
        encoder(encoder=f"hf:{tmp_path}/none")
    assert "online" not in str(refused.value)


def test_an_encoder_without_its_name_is_a_missing_setting(tmp_path: Path) -> None:
    assert Encoded.picture_side({}) is None
    config = TrainConfig.build({"victim": {"name": "encoder"}, "dataset": {"name": "digits"}})
    with pytest.raises(ConfigError, match="encoder"):
        plan_victim(config)


def test_pages_and_cards_say_which_encoder(digits: Dataset, tmp_path: Path) -> None:
    """ "encoder" says nothing: titles, comparisons and cards name the model."""
    given = {**SMALL, "name": "encoder"}
    planned = PlannedVictim.of(
        TrainConfig.build({"victim": given, "dataset": {"name": "digits"}, "device": "cpu"})
    )
    assert planned.called == "timm:test_resnet"
    info = VictimInfo(
        name="encoder",
        settings={"encoder": "hf:/home/me/clip-small/", "quantise": "mean"},
        source="",
        summary="",
        cached=False,
        fingerprint="",
        history=[],
        deviations=[],
        modalities=["image"],
        notes={},
        defenses=[{"name": "jpeg"}],
    )
    assert info.label == "hf:clip-small + jpeg"
