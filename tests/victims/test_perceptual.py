"""Perceptual hashes: the codes of the reference programs, bit for bit, and useful gradients."""

from __future__ import annotations

import html
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from source_tree import SHARED
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.hamming import distances
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.data.readers import openmoji
from advhash.errors import ConfigError, DataError
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.victim import train
from advhash.registry import ATTACKS, VICTIMS
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.perceptual import PDQ, AHash, BlockHash, DHash, PerceptualHash, PHash, WHash
from advhash.victims.perceptual.hashes import box_filter
from advhash.victims.perceptual.resampling import (
    Filter,
    Picture,
    eight_bit_pixels,
    fitted_size,
    grey,
    resize,
)

FLICKR = SHARED / "flickr8k_128/images.zip"
PUBLISHED = SHARED / "pdq_reference"  # pictures, and their hashes in a README.md
NAMES = ("phash", "dhash", "ahash", "whash", "blockhash", "pdq")
Bits = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]  # (H,W,3)


def imagehash_bits(kind: str, **settings: int) -> Callable[[Pixels], Bits]:
    imagehash = pytest.importorskip("imagehash", reason="pip install imagehash to compare with it")

    def bits(picture: Pixels) -> Bits:
        found: Bits = getattr(imagehash, kind)(Image.fromarray(picture), **settings).hash
        return found.ravel()

    return bits


def block_bits(side: int) -> Callable[[Pixels], Bits]:
    core = pytest.importorskip(
        "blockhash.core", reason="pip install phash-blockhashio to compare with it"
    )

    def bits(picture: Pixels) -> Bits:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Pillow, which it uses
            text = core.blockhash(Image.fromarray(picture), side)
        return np.array([digit == "1" for digit in f"{int(text, 16):0{side**2}b}"])

    return bits


def pdq_bits() -> Callable[[Pixels], Bits]:
    pdqhash = pytest.importorskip("pdqhash", reason="pip install pdqhash to compare with it")
    return lambda picture: np.asarray(pdqhash.compute(picture)[0], bool)


def photos() -> list[Pixels]:
    """Parts of two photographs, of many sizes: 64×64 is a case of its own in PDQ, and narrow ones
    are resized in another order by Pillow 13."""
    found = []
    for photo in load_sample_images().images:
        found.append(photo)
        for height, width in (
            (128, 200), (64, 64), (50, 70), (32, 32), (33, 31), (17, 90), (64, 128), (300, 16),
        ):  # fmt: skip
            for start in (0, 40, 80):
                part = photo[start : start + height, 2 * start : 2 * start + width]
                found.append(np.ascontiguousarray(part))
    return found


def emoji() -> list[Pixels]:
    """Many are symmetric: half of their frequencies are 0 but for rounding."""
    pictograms = openmoji.read_pictograms(skin_tones=False)[::12]
    return [
        np.ascontiguousarray(picture.transpose(1, 2, 0))
        for size in (32, 64, 90)
        for picture in openmoji.render(pictograms, size)
    ]


def digits() -> list[Pixels]:
    small = (load_digits().images[:200] * (255 / 16)).round().astype(np.uint8)
    large = [Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in small]
    return [np.repeat(np.asarray(image)[:, :, None], 3, axis=2) for image in large]


def odd_ones() -> list[Pixels]:
    """Flat, noisy and mirrored."""
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (70, 90, 3), np.uint8) for _ in range(10)]
    mirrored = [np.concatenate([picture, picture[:, ::-1]], axis=1) for picture in noise]
    return [np.full((40, 40, 3), grey, np.uint8) for grey in (0, 7, 128, 255)] + noise + mirrored


def tiny() -> list[Pixels]:
    """From one pixel on, flat ones among them: sums of sums determine their bits."""
    generator = np.random.default_rng(5)
    found = [np.full((7, 9, 3), 200, np.uint8), np.full((50, 33, 3), 3, np.uint8)]
    for height in (1, 2, 3, 4, 5, 9, 17):
        for width in (1, 2, 4, 5, 6, 33):
            found.append(generator.integers(0, 256, (height, width, 3), np.uint8))
            found.append(found[-1] // 64 * 64)
    return found


def flickr() -> list[Pixels]:
    if not FLICKR.is_file():
        pytest.skip(f"no photographs in {FLICKR}")
    with zipfile.ZipFile(FLICKR) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:200]
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    return [np.asarray(picture) for picture in pictures]


def published() -> dict[str, tuple[Pixels, Bits]]:
    """The pictures that the reference implementation tests itself with, and their hashes."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published hashes in {PUBLISHED}")
    rows = re.findall(
        r"\| (\S+) \| ([0-9a-f]{64}) \|", (PUBLISHED / "README.md").read_text("utf-8")
    )
    return {
        name: (
            np.asarray(Image.open(PUBLISHED / name).convert("RGB")),
            np.array([digit == "1" for digit in f"{int(text, 16):0256b}"]),
        )
        for name, text in rows
    }


def tensor(pictures: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """(4,3,96,80) in [0,1]."""
    picture = load_sample_images().images[0]
    return tensor([picture[at : at + 96, at : at + 80] for at in (0, 100, 200, 300)])


@pytest.fixture(scope="module")
def copies() -> Dataset:
    return load_dataset("near_duplicates", {"pictures": 100, "size": 32})


class TestPillow:
    def test_grey_is_pillows(self) -> None:
        colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        colours[0, :4] = [[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]]
        expected = np.asarray(Image.fromarray(colours).convert("L"))
        assert np.array_equal(grey(eight_bit_pixels(tensor([colours])))[0].numpy(), expected)

    def test_resize_is_pillows_whatever_the_sizes(self) -> None:
        generator = np.random.default_rng(1)
        for _ in range(300):
            old, new = generator.integers(3, 130, 2), generator.integers(2, 70, 2).tolist()
            noise = generator.integers(0, 256, old, np.uint8)
            expected = Image.fromarray(noise).resize((new[1], new[0]), Image.Resampling.LANCZOS)
            got = resize(torch.from_numpy(noise)[None].float(), *new)[0].numpy()
            assert np.array_equal(got, np.asarray(expected)), f"{old} to {new}"

    @pytest.mark.parametrize("name", ["bicubic", "lanczos"])
    def test_a_thumbnail_is_pillows(self, name: Filter) -> None:
        generator = np.random.default_rng(2)
        for _ in range(60):
            height, width = generator.integers(3, 200, 2).tolist()
            noise = generator.integers(0, 256, (height, width, 3), np.uint8)
            expected = Image.fromarray(noise)
            expected.thumbnail((64, 64), Image.Resampling[name.upper()], reducing_gap=None)
            new = fitted_size(height, width, 64)
            channels = torch.from_numpy(noise).permute(2, 0, 1).float()
            got = resize(channels, *new, name).permute(1, 2, 0).numpy()
            assert np.array_equal(got, np.asarray(expected)), f"{height}×{width} to {new}"

    def test_pixels_off_the_grid_are_rounded(self) -> None:
        images = torch.tensor([-0.2, 0.4999 / 255, 0.501 / 255, 1.3], requires_grad=True)
        pixels = eight_bit_pixels(images)
        assert pixels.tolist() == [0, 0, 1, 255]
        pixels.sum().backward()
        assert images.grad is not None
        assert images.grad.tolist() == [255] * 4


class TestCodes:
    @pytest.mark.parametrize("pictures", [photos, emoji, digits, odd_ones, tiny, flickr])
    @pytest.mark.parametrize(
        ("victim", "reference"),
        [
            (PHash(), lambda: imagehash_bits("phash")),
            (PHash(bits=256), lambda: imagehash_bits("phash", hash_size=16)),
            (
                PHash(bits=25, highfreq_factor=3),
                lambda: imagehash_bits("phash", hash_size=5, highfreq_factor=3),
            ),
            (DHash(), lambda: imagehash_bits("dhash")),
            (DHash(bits=256), lambda: imagehash_bits("dhash", hash_size=16)),
            (AHash(), lambda: imagehash_bits("average_hash")),
            (AHash(bits=256), lambda: imagehash_bits("average_hash", hash_size=16)),
            (WHash(), lambda: imagehash_bits("whash")),
            (WHash(bits=256), lambda: imagehash_bits("whash", hash_size=16)),
            (BlockHash(), lambda: block_bits(16)),
            (BlockHash(bits=64), lambda: block_bits(8)),
            (PDQ(shrink="none"), pdq_bits),
        ],
        ids=[
            *("phash", "phash-256", "phash-25", "dhash", "dhash-256", "ahash", "ahash-256"),
            *("whash", "whash-256", "blockhash", "blockhash-64", "pdq"),
        ],
    )
    def test_equal_the_reference(
        self,
        victim: PerceptualHash,
        reference: Callable[[], Callable[[Pixels], Bits]],
        pictures: Callable[[], list[Pixels]],
    ) -> None:
        bits = reference()
        of_size: dict[tuple[int, ...], list[Pixels]] = {}
        slow = isinstance(victim, BlockHash) or (isinstance(victim, WHash) and victim.bits > 64)
        for picture in pictures()[:: 7 if slow else 1]:
            of_size.setdefault(picture.shape, []).append(picture)
        for shape, some in of_size.items():
            expected = np.stack([bits(picture) for picture in some])
            with torch.no_grad():
                got = (victim.relax(tensor(some), "image") > 0).numpy()
            assert np.array_equal(got, expected), f"{(got != expected).sum()} bits at {shape}"
            plain = victim.encode(tensor(some), "image").unpack()
            assert np.array_equal(plain, expected), "by Pillow, without gradients"

    @pytest.mark.parametrize("pictures", [photos, odd_ones, tiny])
    def test_quality_and_turned_hashes_are_the_reference_ones(
        self, pictures: Callable[[], list[Pixels]]
    ) -> None:
        pdqhash = pytest.importorskip("pdqhash", reason="pip install pdqhash to compare with it")
        for pixels in pictures():
            codes, quality = pdqhash.compute_dihedral(pixels)
            picture = Picture.of(pixels)
            assert PDQ(shrink="none").quality(picture) == quality
            assert np.array_equal(
                PDQ(shrink="none").dihedral(picture).unpack(), np.array(codes, bool)
            )

    def test_turned_hashes_know_a_turned_picture(self) -> None:
        """The pictures that the reference publishes: a bridge, and the bridge turned by 90°."""
        pictures = published()
        wanted = pictures["bridge-2-rotate-90.jpg"][1]
        turned = PDQ().dihedral(Picture.of(pictures["bridge-1-original.jpg"][0])).unpack()
        far = (turned != wanted).sum(axis=1)
        assert far.min() <= 16
        assert sorted(far)[1] > 90

    def test_pdq_is_the_published_hash(self) -> None:
        """That of q0003, a JPEG of quality 3, is 10 bits off in `pdqhash` as well."""
        large = []
        for name, (picture, wanted) in published().items():
            got = PDQ().encode(tensor([picture]), "image").unpack()[0]
            own_size = PDQ(shrink="none").encode(tensor([picture]), "image").unpack()[0]
            assert (got != wanted).sum() == (10 if name == "q0003.jpg" else 0), name
            if max(picture.shape) > 512:
                large.append(int((own_size != wanted).sum()))
            else:
                assert np.array_equal(got, own_size), name
        assert sorted(large) == [6, 6, 10]

    def test_pdq_shrinks_by_the_filter_that_it_names(self) -> None:
        """And only what is larger: with a gradient to all pixels of the large picture."""
        picture = np.asarray(Image.fromarray(photos()[0]).resize((900, 1000)))
        small = Image.fromarray(picture)
        small.thumbnail((512, 512), Image.Resampling.BICUBIC, reducing_gap=None)
        images = tensor([picture]).requires_grad_()
        found = PDQ().relax(images, "image")
        assert torch.equal(found, PDQ(shrink="none").relax(tensor([np.asarray(small)]), "image"))
        assert not torch.equal(found, PDQ(shrink="none").relax(images, "image"))
        (gradient,) = torch.autograd.grad(found.square().sum(), images)
        assert (gradient.flatten(2) != 0).float().mean() > 0.9
        edge = tensor([np.asarray(small)])
        assert max(edge.shape) == 512
        assert torch.equal(PDQ().relax(edge, "image"), found)

    def test_pdq_values_are_the_reference_ones(self, photo: Tensor) -> None:
        """Not only their signs: the same float32 operations in the same order."""
        pdqhash = pytest.importorskip("pdqhash", reason="pip install pdqhash to compare with it")
        got = PDQ().relax(photo, "image").double() * 255
        for row, image in enumerate((photo * 255).round().byte()):
            values, _ = pdqhash.compute_float(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            expected = values - np.sort(values)[127]
            assert np.allclose(got[row].numpy(), expected, rtol=1e-6, atol=1e-4)

    @pytest.mark.parametrize(("size", "width"), [(9, 3), (9, 4), (7, 1), (6, 6)])
    def test_box_filter_against_a_loop(self, size: int, width: int) -> None:
        values = np.random.default_rng(2).random((size, 3), np.float32)
        after = (width + 2) // 2 - 1
        for place, got in enumerate(box_filter(values, width)):
            first, last = max(place - (width - 1 - after), 0), min(place + after, size - 1)
            assert got == pytest.approx(values[first : last + 1].mean(axis=0), rel=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_batch_is_its_images(self, name: str, photo: Tensor) -> None:
        victim = VICTIMS.create(name)
        together = victim.relax(photo, "image")
        alone = torch.cat([victim.relax(image[None], "image") for image in photo])
        assert torch.equal(together, alone)
        assert together.shape == (len(photo), victim.bits)
        assert together.dtype == torch.float32


class TestGradients:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("size", [(96, 80), (64, 64), (40, 150)])
    def test_they_foretell_the_change(self, name: str, size: tuple[int, int]) -> None:
        """Without roundings all is linear but for the median, which weights of sum 0 cancel."""
        victim = VICTIMS.create(name)
        generator = torch.Generator().manual_seed(0)
        picture = load_sample_images().images[1]
        start = tensor([picture[: size[0], : size[1]]]) / 2 + 0.2
        weights = torch.randn(4 if name == "blockhash" else 1, victim.bits, generator=generator)
        weights = weights[:, : victim.bits // len(weights)]  # a median in each of four bands
        weights = (weights - weights.mean(dim=1, keepdim=True)).flatten()
        inputs = start.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((victim.relax(inputs, "image") @ weights).sum(), inputs)
        step = 8 / 255 * gradient.sign()  # far above the roundings
        change = (victim.relax(start + step, "image") - victim.relax(start, "image")) @ weights
        assert (gradient * step).sum().item() == pytest.approx(change.item(), rel=0.05)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_code_is_the_same_with_and_without(self, name: str, photo: Tensor) -> None:
        victim = VICTIMS.create(name)
        with torch.no_grad():
            plain = victim.relax(photo, "image")
        assert torch.equal(victim.relax(photo.clone().requires_grad_(), "image"), plain)

    @pytest.mark.parametrize("name", NAMES)
    def test_an_attack_comes_nearer_to_its_target(self, name: str, copies: Dataset) -> None:
        victim = VICTIMS.create(name).fit(copies, seed=0)
        codes = victim.database_codes(copies, "image")
        attack = ATTACKS.create("p2p", {"steps": 30})
        budget = Budget("linf", 16 / 255)
        attack.fit(victim, AttackData(copies, codes, "image", "image"), budget)
        batch = copies.query.rows(torch.arange(0, 60, 3))
        rows = torch.arange(60, 80)  # the pictures aimed at
        moved = attack.perturb(victim, batch, copies.database.labels[rows], budget)
        goal = codes[rows.numpy()]
        far = [np.diag(distances(part, goal)).mean() for part in (
            victim.encode(batch.inputs["image"], "image"), moved.codes)]  # fmt: skip
        assert far[1] < 0.85 * far[0]


class TestVictims:
    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_is_trained_and_near_duplicates_are_found(self, name: str) -> None:
        trained = train(TrainConfig.build({"victim": {"name": name}}))
        assert trained.data.name == "near_duplicates"
        assert trained.card["history"] == []
        least = 0.35 if name == "whash" else 0.65  # flat backgrounds, whose roundings decide
        assert trained.card["metrics"]["map_image_image"]["value"] > least
        assert "map_image_image_untrained" not in trained.card["metrics"]
        assert not {flag["name"] for flag in trained.card["flags"]} - {"constant_bits"}

    def test_victims_without_weights_are_told_apart(self) -> None:
        configs = [
            {"name": "phash"}, {"name": "phash", "bits": 16}, {"name": "dhash"}, {"name": "pdq"},
            {"name": "pdq", "shrink": "none"},
        ]  # fmt: skip
        data = {"name": "near_duplicates", "pictures": 20, "size": 16}
        marks = [
            train(TrainConfig.build({"victim": victim, "dataset": data})).fingerprint
            for victim in configs
        ]
        assert len(set(marks)) == len(marks)

    @pytest.mark.parametrize("name", NAMES)
    def test_checkpoint_round_trip(self, name: str, photo: Tensor, tmp_path: Path) -> None:
        settings = VICTIMS.settings(name, {} if name == "pdq" else {"bits": 256})
        victim = VICTIMS.create(name, settings)
        save_victim(tmp_path, victim, name=name, settings=settings)
        again, card = load_victim(tmp_path)
        assert card["bits"] == victim.bits
        assert torch.equal(again.relax(photo, "image"), victim.relax(photo, "image"))

    @pytest.mark.parametrize("name", ["phash", "dhash", "ahash", "whash", "blockhash"])
    @pytest.mark.parametrize("bits", [-4, 0, 1, 32])
    def test_bits_must_be_a_square(self, name: str, bits: int) -> None:
        with pytest.raises(ConfigError, match=f"{name}.*square number.*got {bits}"):
            VICTIMS.create(name, {"bits": bits})

    @pytest.mark.parametrize(("name", "of"), [("whash", "power of two"), ("blockhash", "of 4")])
    def test_some_squares_will_not_do(self, name: str, of: str) -> None:
        with pytest.raises(ConfigError, match=f"{name}.*square of a .*{of}.*got 36"):
            VICTIMS.create(name, {"bits": 36})

    def test_pdq_has_256_bits(self) -> None:
        assert PDQ().bits == 256
        with pytest.raises(ConfigError, match="no setting 'bits'"):
            VICTIMS.create("pdq", {"bits": 64})

    def test_a_run_says_whether_pdq_shrinks(self, tmp_path: Path) -> None:
        for shrink, said in (({}, '"shrink": 512'), ({"shrink": "none"}, '"shrink": "none"')):
            folder = tmp_path / str(len(shrink))
            config = AttackConfig.build(
                {
                    "victim": {"name": "pdq", **shrink},
                    "attack": {"name": "noise"},
                    "dataset": {"name": "near_duplicates", "pictures": 20, "size": 16},
                    "protocol": {"queries": 2},
                }
            )
            attack(config, folder)
            assert said in (folder / "metrics.json").read_text("utf-8")
            page = html.unescape((folder / "report.html").read_text("utf-8"))
            assert said in page
            assert "Computed: there is nothing to learn." in page
            assert "Trained in this run." not in page
        with pytest.raises(ConfigError, match="512 or none"):
            VICTIMS.create("pdq", {"shrink": 256})

    @pytest.mark.parametrize("name", NAMES)
    def test_a_table_has_no_pictures(self, name: str) -> None:
        with pytest.raises(DataError, match="needs images: 'breast_cancer' has table"):
            train(
                TrainConfig.build({"victim": {"name": name}, "dataset": {"name": "breast_cancer"}})
            )
