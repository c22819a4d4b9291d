"""The data sets: the same everywhere, split without leaks, and clear where data are refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from advhash.codes.metrics import chance_average_precision
from advhash.data import Batch, Dataset, SplitName, cached, splits
from advhash.data.images import decode
from advhash.data.load import image_grid, load_dataset
from advhash.data.readers import openmoji
from advhash.errors import ConfigError, DataError, StorageError, UnknownName, UsageError
from advhash.registry import DATASETS, Entry
from advhash.storage.cache import cached_folder, content_key

NAMES = ["openmoji", "digits", "breast_cancer"]
SPLITS: tuple[SplitName, ...] = ("query", "validation", "database")


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def pictograms() -> Dataset:
    return load_dataset("openmoji", {})


@pytest.fixture(scope="module")
def toned() -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openmoji, "REFERENCE_SIZE", 16)  # which saves drawing all of them twice
        return load_dataset("openmoji", {"size": 16, "skin_tones": True})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 30 and 20 images of noise."""
    generator = np.random.default_rng(0)
    for name, count in (("cats", 30), ("dogs", 20)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return tmp_path / "photos"


def pixels(data: Dataset, split: SplitName) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.split(split).inputs["image"]}


# ---- every data set


def test_another_process_reads_the_same_data(tmp_path: Path, pictograms: Dataset) -> None:
    script = (
        "from advhash.data.load import load_dataset\n"
        "print(load_dataset('openmoji').fingerprint(), load_dataset('digits').fingerprint())"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2",
        "ADVHASH_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    other = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.split() == [pictograms.fingerprint(), load_dataset("digits").fingerprint()]


@pytest.mark.parametrize("name", NAMES)
def test_training_rows_are_a_strict_subset_of_the_database(name: str) -> None:
    data = load_dataset(name)
    rows = data.train_rows.tolist()
    assert rows == sorted(set(rows))
    assert 0 <= rows[0] <= rows[-1] < len(data.database)
    assert 50 <= len(data.database) - len(rows) <= 200


@pytest.mark.parametrize("name", NAMES)
def test_every_query_has_something_to_find(name: str) -> None:
    data = load_dataset(name)
    assert data.card["queries_without_relevant"] == 0
    for split in SPLITS:
        part = data.split(split)
        assert part.labels.dtype == torch.uint8
        assert len(part.names) == len(part)
        assert bool((part.labels.sum(1) > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_json_and_counts_what_is_there(name: str) -> None:
    data = load_dataset(name)
    card = json.loads(json.dumps(data.card, allow_nan=False))
    assert card == data.card
    assert card["items"]["database"] == len(data.database)
    assert card["items"]["train"] == len(data.train)
    for column, label in enumerate(data.classes):
        assert card["labels"][label]["query"] == int((data.query.labels[:, column] == 1).sum())
    assert card["licence"]
    assert card["packages"]
    assert card["warnings"]


@pytest.mark.parametrize("name", NAMES)
def test_chance_map_is_the_mean_over_random_orders(name: str) -> None:
    data = load_dataset(name)
    generator = np.random.default_rng(0)
    queries = generator.choice(len(data.query), 40, replace=False)
    relevant = data.query.labels[queries].float() @ data.database.labels.float().T > 0
    precisions = []
    for row in relevant.numpy():
        for _ in range(20):
            hits = row[generator.permutation(len(row))]
            found = 0
            total = 0.0
            for rank, hit in enumerate(hits.tolist(), start=1):
                found += hit
                total += hit * found / rank
            precisions.append(total / found)
    counts = splits.relevant_counts(data.query.labels[queries], data.database.labels)
    assert counts.tolist() == relevant.sum(1).tolist()
    exact = chance_average_precision(counts, len(data.database)).mean()
    assert np.mean(precisions) == pytest.approx(exact, abs=0.01)
    everything = splits.relevant_counts(data.query.labels, data.database.labels)
    whole = chance_average_precision(everything, len(data.database)).mean()
    assert data.card["chance_map"] == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_increments_are_categories_with_queries_and_database_rows(name: str) -> None:
    data = load_dataset(name)
    assert data.increments or name == "breast_cancer"
    for increment in data.increments:
        columns = [data.classes.index(category) for category in increment]
        for split in SPLITS:
            assert int(data.split(split).labels[:, columns].any(1).sum()) > 0


def test_the_second_load_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset("openmoji", {})
    monkeypatch.setattr(openmoji, "render", None)
    again = load_dataset("openmoji", {})
    assert again.fingerprint() == first.fingerprint()
    assert again.card == first.card
    assert again.classes == first.classes
    assert again.increments == first.increments


# ---- openmoji


def test_openmoji_labels_and_sizes(pictograms: Dataset) -> None:
    assert len(pictograms.query) == 300
    assert len(pictograms.validation) == 120
    assert len(pictograms.database) - len(pictograms.train) == 200
    assert pictograms.query.inputs["image"].shape == (300, 3, 32, 32)
    assert pictograms.query.inputs["image"].dtype == torch.uint8
    assert pictograms.query.inputs["text"].dtype == torch.uint8
    labels = torch.cat([pictograms.split(split).labels for split in SPLITS])
    assert labels.shape == (1898, 33)
    assert int(labels.sum(0, dtype=torch.int64).min()) >= 20
    assert bool((pictograms.query.labels.sum(0) > 0).all())
    assert "CC BY-SA 4.0" in pictograms.attribution


def test_openmoji_pictures_are_drawn_on_white(pictograms: Dataset) -> None:
    images = pictograms.query.inputs["image"].float()
    assert float((images[:, :, 0, 0] == 255).float().mean()) > 0.99
    assert bool((images.flatten(1).std(1) > 5).all())


def test_every_split_has_text(pictograms: Dataset) -> None:
    for split in SPLITS:
        assert bool((pictograms.split(split).inputs["text"].sum(1) > 0).all())


@pytest.mark.parametrize("fixture", ["pictograms", "toned"])
def test_no_picture_straddles_two_splits(fixture: str, request: pytest.FixtureRequest) -> None:
    data: Dataset = request.getfixturevalue(fixture)
    held_out = np.setdiff1d(np.arange(len(data.database)), data.train_rows.numpy())
    parts = [pixels(data, split) for split in ("query", "validation", "train")]
    parts.append(
        {image.numpy().tobytes() for image in data.database.take(held_out).inputs["image"]}
    )
    for one, other in itertools.combinations(parts, 2):
        assert not one & other


def test_skin_tones_stay_with_their_emoji(toned: Dataset) -> None:
    bases = [
        {name.split(", ")[0] for name in toned.split(split).names if "skin tone" in name}
        for split in SPLITS
    ]
    assert all(bases)
    for one, other in itertools.combinations(bases, 2):
        assert not one & other
    assert sum(len(toned.split(split)) for split in SPLITS) == 3478


def test_vocabulary_is_sorted_and_of_frequent_features() -> None:
    texts = [("cat",), ("cat", "face"), ("dog",), ("cat",)]
    known = openmoji.vocabulary(texts)
    assert list(known) == sorted(known)
    assert "word:cat" in known
    assert "gram:<cat" in known
    assert "word:face" not in known
    assert "word:dog" in known, "a text that would have no feature keeps its words"
    counts = openmoji.count_features([("cat", "unseen")], known)
    assert counts[0, known.index("word:cat")] == 1
    assert counts.shape == (1, len(known))


def test_the_vocabulary_knows_the_database_only() -> None:
    everything = openmoji.vocabulary(
        pictogram.text for pictogram in openmoji.read_pictograms(skin_tones=False)
    )
    assert load_dataset("openmoji").query.inputs["text"].shape[1] < len(everything)


def test_duplicates_and_tones_are_grouped_transitively() -> None:
    def of(code: str, base: str) -> openmoji.Pictogram:
        return openmoji.Pictogram(code, base, code, (), "Flags", "flag")

    pictograms = [of("A", "A"), of("B", "B"), of("B-1", "B"), of("C", "C")]
    picture = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    picture[2] = picture[0]
    groups, repeats = openmoji.duplicate_groups(pictograms, [picture])
    assert groups.tolist() == [0, 0, 0, 3]
    assert repeats == 1


def test_giveaway_words_are_precise_and_frequent() -> None:
    texts = [("flag", "of"), ("flag", "of"), ("of",), ("of",)]
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.uint8)
    assert splits.giveaway_words(texts, labels, ["flags", "others"]) == {
        "flags": [{"word": "flag", "precision": 1.0, "recall": 1.0}]
    }


# ---- splitting


def test_rows_kept_in_the_database_are_never_queries() -> None:
    rows = splits.split_rows([0, 1, 2, 3], {"query": 2, "held_out": 1}, keep_in_database=[0])
    assert {name: part.tolist() for name, part in rows.items()} == {
        "query": [1, 2],
        "held_out": [0],
        "train": [3],
    }


def test_a_group_that_does_not_fit_goes_on_to_the_next_split() -> None:
    rows = splits.split_rows([0, 1, 1, 1, 4], {"query": 2})
    assert rows["query"].tolist() == [0, 4]
    assert rows["train"].tolist() == [1, 2, 3]


def test_the_order_moves_no_row_when_one_is_added() -> None:
    keys = [f"k{number}" for number in range(30)]
    longer = [row for row in splits.seeded_order([*keys, "new"], 0) if row != 30]
    assert longer == splits.seeded_order(keys, 0)
    assert splits.seeded_order(keys, 1) != longer


# ---- settings and names


def test_a_wrong_setting_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'sise': did you mean 'size'\?"):
        load_dataset("openmoji", {"sise": 32})


@pytest.mark.parametrize("name", ["openmoji", "digits"])
@pytest.mark.parametrize("size", [15, 513])
def test_sizes_out_of_range_are_refused(name: str, size: int) -> None:
    with pytest.raises(ConfigError, match=f"from 16 to 512 pixels, got {size}"):
        load_dataset(name, {"size": size})


@pytest.mark.parametrize("name", ["opemoji", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="unknown dataset"):
        load_dataset(name)


# ---- the user's own folder


def test_a_path_is_read_as_a_folder_of_images(photos: Path) -> None:
    data = load_dataset(str(photos), {"size": 16})
    assert data.name == "folder"
    assert data.classes == ("cats", "dogs")
    assert [len(data.query), len(data.validation), len(data.database)] == [7, 5, 38]
    assert data.query.labels.sum(0).tolist() == [4, 3]
    assert all((photos / name).is_file() for name in data.query.names)
    assert (
        data.fingerprint()
        == load_dataset("folder", {"root": str(photos), "size": 16}).fingerprint()
    )


def test_a_changed_image_is_read_again(photos: Path) -> None:
    first = load_dataset(str(photos))
    Image.new("RGB", (9, 9)).save(photos / "cats" / "00.png")
    assert load_dataset(str(photos)).fingerprint() != first.fingerprint()


def test_copies_of_one_picture_stay_in_one_split(photos: Path) -> None:
    for number in range(12):
        Image.new("RGB", (30, 30), "red").save(photos / "dogs" / f"copy{number}.png")
    data = load_dataset(str(photos))
    assert not pixels(data, "query") & pixels(data, "database")
    assert data.card["repeated_pictures"] == 11


def test_broken_images_are_counted_and_named_in_one_line(photos: Path) -> None:
    whole = (photos / "cats" / "00.png").read_bytes()
    (photos / "cats" / "00.png").write_bytes(whole[: len(whole) // 2])
    (photos / "dogs" / "a\nb.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"got 2 of 51 broken: cats/00.png .*repair or") as refused:
        load_dataset(str(photos))
    assert "dogs/a\\nb.jpg (not an image)" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_picture_of_too_many_pixels_is_broken(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 400)
    with pytest.raises(DataError, match=r"50 of 50 broken: .*over 400 pixels"):
        load_dataset(str(photos))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(DataError, match=r"50 of 50 broken: .*over 400 pixels"):
        load_dataset(str(photos))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "got 0 sub-folders with images"),
        (["one/a.png"], "got 1 sub-folders with images"),
        (["one/a.png", "two/b.png"], "at least 20 images, got 2"),
        (["a.png", "one/text.txt"], "at least 20 images in .*, got 1"),
    ],
)
def test_too_little_is_refused(tmp_path: Path, made: list[str], message: str) -> None:
    for name in made:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(("each", "empty"), [(3, "query, validation"), (5, "validation")])
def test_classes_too_small_to_share_out_are_told_in_one_line(
    tmp_path: Path, advhash: Callable[..., tuple[int, str, str]], each: int, empty: str
) -> None:
    """They ended in "Out of range float values are not JSON compliant"."""
    generator = np.random.default_rng(0)
    for name in range(8):
        (tmp_path / "small" / f"{name}").mkdir(parents=True)
        for number in range(each):
            picture = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "small" / f"{name}" / f"{number}.png")
    code, _, err = advhash("data", "show", f"{tmp_path}/small")
    assert code == 3
    assert err.count("\n") == 1
    assert f"got none in {empty}: of each class 15 % are queries" in err
    assert f"one of 6 different pictures or more is needed, got at most {each}" in err


@pytest.mark.parametrize("empty", ["query", "validation", "database", "train"])
def test_no_reader_gives_an_empty_split(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the house end in `finish`; those of packages pass `load_dataset`."""
    full = load_dataset("digits")
    none = torch.arange(0)
    parts = {name: full.split(name) for name in SPLITS}
    rows = none.numpy() if empty in ("train", "database") else full.train_rows.numpy()
    if empty != "train":
        parts[empty] = full.database.take(none)  # type: ignore[index]
    with pytest.raises(DataError, match=rf"every split of 'mine', got none in .*{empty}"):
        splits.finish("mine", parts, rows, full.classes, card={})  # type: ignore[arg-type]

    def read_mine(*, seed: int = 0) -> Dataset:
        return replace(full, train_rows=torch.from_numpy(rows), **parts)

    monkeypatch.setitem(DATASETS._entries, "mine", Entry("mine", read_mine, "a package"))
    with pytest.raises(DataError, match=rf"every split of 'digits', got none in .*{empty}"):
        load_dataset("mine")


def test_files_of_a_known_form_with_few_rows_are_told(tmp_path: Path) -> None:
    """Counts that papers state leave nothing to train on."""
    names = ["labels", "bow_indptr", "bow_indices", "vocab", "tags", "images"]
    labels = np.eye(21, dtype=np.uint8)[np.arange(300) % 21]
    words = np.array([f"{row % 2}" for row in range(300)])
    columns = [labels, np.arange(301), np.arange(300) % 2, np.array(["0", "1"]), words, words]
    np.savez(tmp_path / "nuswide10k.npz", **dict(zip(names, columns, strict=True)))
    with pytest.raises(DataError, match="got none in validation, database, train"):
        load_dataset("nuswide_tags", {"root": str(tmp_path)})


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got no folder or file .*absent: check the path"):
        load_dataset(str(tmp_path / "absent"))


def test_links_are_never_followed(photos: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    Image.new("RGB", (30, 30), "blue").save(secret / "private.png")
    (photos / "cats" / "link.png").symlink_to(secret / "private.png")
    (photos / "birds").symlink_to(secret)
    data = load_dataset(str(photos))
    assert data.classes == ("cats", "dogs")
    assert data.card["links_left_out"] == 2
    assert sum(len(data.split(split)) for split in SPLITS) == 50


def test_images_of_all_kinds_become_rgb_on_white(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(file)
    assert (decode.decode(file, 16) == 255).all()
    Image.fromarray(np.full((20, 20), 128 * 256, np.uint16)).save(file)
    assert (decode.decode(file, 16) == 128).all()
    upright = Image.new("RGB", (20, 20), "white")
    upright.paste((0, 0, 0), (0, 0, 20, 10))  # black above; orientation 3 turns it below
    exif = Image.Exif()
    exif[0x0112] = 3
    upright.save(tmp_path / "turned.jpg", exif=exif)
    turned = decode.decode(tmp_path / "turned.jpg", 16)
    assert turned[:, 0].min() > 250
    assert turned[:, -1].max() < 5


# ---- pictures of the data


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (12, 4095), (16, 65535)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_pictures_are_those_of_the_bits_they_hold(
    tmp_path: Path, bits: int, top: int, suffix: str
) -> None:
    """Scanners and cameras put 8 or 12 bits into 16: their pictures were black."""
    grey = np.linspace(0, top, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    found = decode.decode(tmp_path / f"a.{suffix}", 16)
    assert np.array_equal(found[0], grey >> (bits - 8))
    assert found.max() == 255


def deep_png(colours: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a colour, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, _ = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_colours_of_16_bits_that_hold_fewer_are_refused() -> None:
    colours = np.random.default_rng(0).integers(0, 1 << 16, (16, 16, 3)).astype(np.uint16)
    assert np.array_equal(decode.decode(deep_png(colours), 16), (colours >> 8).transpose(2, 0, 1))
    for bits in (8, 12):
        with pytest.raises(ValueError, match="hold 12 or fewer, which would be black: save it"):
            decode.decode(deep_png(colours >> (16 - bits)), 16)


def test_files_that_are_not_read_are_counted_with_the_reason(photos: Path, tmp_path: Path) -> None:
    for name in ("cats/a.jfif", "cats/b.HEIC", "dogs/c.heic", "dogs/notes.txt", "readme.md"):
        (photos / name).touch()
    (photos / "cats" / "more").mkdir()
    told = {
        ".heic": "2: no reader for it; save as PNG or JPEG",
        ".jfif": "1: rename to .jpg",
        ".md": "1: no picture",
        ".txt": "1: no picture",
    }
    line = (
        "Files that are not read: 2 .heic (no reader for it; save as PNG or JPEG), 1 .jfif "
        "(rename to .jpg)."
    )
    data = load_dataset("folder", {"root": str(photos), "size": 16})
    assert data.card["files_not_read"] == {
        **told, "folders in class folders": "1: one level of folders is read",
    }  # fmt: skip
    assert line in data.card["warnings"]  # type: ignore[operator]
    data = load_dataset("near_duplicates", {"root": str(photos), "size": 16})
    assert data.card["files_not_read"] == told
    assert line in data.card["warnings"]  # type: ignore[operator]
    (tmp_path / "few" / "one").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "few" / "one" / f"{number}.heic").touch()
    with pytest.raises(DataError, match=r"got 0 sub-folders with images.* 30 .heic \(no reader"):
        load_dataset("folder", {"root": str(tmp_path / "few")})
    with pytest.raises(DataError, match=r"got 0: add images \(Files .* 30 .heic"):
        load_dataset("near_duplicates", {"root": str(tmp_path / "few")})
    with pytest.raises(DataError, match=r"0 sub-folders with images.* 30 .heic \(no reader"):
        load_dataset(str(tmp_path / "few"))


def test_image_grid_enlarges_without_blur(pictograms: Dataset) -> None:
    grid = image_grid(pictograms, rows=2, columns=3)
    assert grid.size == (3 * 66 + 2, 2 * 66 + 2)
    tile = np.asarray(grid)[2:66, 2:66]
    small = tile[::2, ::2].transpose(2, 0, 1)
    assert (tile == tile[::2, ::2].repeat(2, 0).repeat(2, 1)).all()
    assert small.tobytes() in pixels(pictograms, "query")


def test_image_grid_needs_images() -> None:
    with pytest.raises(DataError, match="with images, got 'breast_cancer' with table"):
        image_grid(load_dataset("breast_cancer"))


# ---- the cache


def test_content_key_ignores_the_order_of_keys() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    assert len(content_key({})) == 16


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "json"])
def test_a_damaged_cache_is_built_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    whole = load_dataset("digits").fingerprint()
    (folder,) = (tmp_path / "data").iterdir()
    file = folder / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[-100] ^= 1
        file.write_bytes(content)
    elif damage == "remove":
        file.unlink()
    else:
        (folder / "dataset.json").write_text("[]")
    assert load_dataset("digits").fingerprint() == whole
    assert load_dataset("digits").fingerprint() == whole
    assert [path.name for path in (tmp_path / "data").iterdir()] == [folder.name]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_nothing_behind(
    failure: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))

    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise failure

    with pytest.raises(failure):
        cached_folder("data", "key", build)
    assert list((tmp_path / "data").iterdir()) == []


def test_the_slower_of_two_processes_drops_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))

    def slow(folder: Path) -> None:
        cached_folder("data", "key", fast)
        (folder / "by").write_text("slower")

    def fast(folder: Path) -> None:
        (folder / "by").write_text("faster")

    folder = cached_folder("data", "key", slow)
    assert (folder / "by").read_text() == "faster"
    assert list((tmp_path / "data").iterdir()) == [folder]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_is_told_in_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))

    def build(folder: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError, match=rf"{tmp_path}/data/key: .*set ADVHASH_CACHE") as refused:
        cached_folder("data", "key", build)
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_under_safetensors_is_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cached, "save_file", full)
    with pytest.raises(StorageError, match="disk is full"):
        load_dataset("digits")


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set ADVHASH_CACHE"):
        load_dataset("digits")


def test_what_a_killed_process_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    left = tmp_path / "data" / ".old.abc.tmp"
    left.mkdir(parents=True)
    cached_folder("data", "key", lambda folder: None)
    assert not left.exists()


def test_a_file_in_the_place_of_a_cached_folder_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    caplog.set_level("INFO", "advhash")
    for place in (tmp_path / "data" / "key", tmp_path / "data"):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        place.write_text("what is this?")
        caplog.clear()
        assert cached_folder("data", "key", lambda folder: None).is_dir()
        assert [record.getMessage() for record in caplog.records] == [
            f"{place} was a file in the place of a cache folder: it is built again"
        ]


def test_what_takes_days_to_build_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))

    def build(folder: Path) -> None:
        os.utime(folder, (0, 0))
        cached_folder("data", "other", lambda _: None)  # sweeps
        assert folder.is_dir()

    assert cached_folder("data", "key", build).is_dir()


def test_rows_are_taken_by_number_or_by_a_mask_of_all() -> None:
    split = load_dataset("digits", {"size": 16}).query
    mask = torch.zeros(len(split), dtype=torch.bool)
    mask[[1, 4]] = True
    assert torch.equal(split.rows(mask).index, torch.tensor([1, 4]))
    assert len(split.rows(torch.tensor([]))) == 0
    for wrong in ([0.5], [[0, 1]], [-1], [len(split)], "a", slice(0, 3), mask[:3]):
        with pytest.raises(UsageError, match="expected"):
            split.rows(wrong)  # type: ignore[arg-type]


def test_what_is_printed_of_data_are_counts_and_shapes(pictograms: Dataset) -> None:
    first, rows, stored = repr(pictograms).splitlines()
    assert first.startswith(f"openmoji, {len(pictograms.classes):,} classes: ")
    assert first.endswith(f"{pictograms.classes[5]}, …")
    assert f"database {len(pictograms.database):,} ({len(pictograms.train_rows):,} " in rows
    image = pictograms.database.inputs["image"]
    assert f"image uint8 {tuple(image.shape)}, text uint8 (" in stored
    few = replace(
        pictograms,
        training=pictograms.query,
        classes=("cat",),
        database=replace(pictograms.database, labels=torch.tensor([[3], [1_400]]).int()),
        query=pictograms.query.take(torch.tensor([0])),
    )
    grouped = replace(few, query=few.database, validation=few.database, training=few.database)
    assert repr(grouped).startswith("openmoji, 1,401 groups\nrows: database 2, validation 2, ")
    assert f"training {len(few.train)}" in repr(few)
    assert repr(few.query).startswith("<Split of 1 row: image uint8 (1, 3, ")
    assert repr(few.query.rows(torch.tensor([], dtype=torch.int64))).endswith(", index>")
    whole = Batch({"text": torch.tensor([[7], [1_200]])}, torch.ones(2, 1), torch.tensor([4, 1500]))
    assert "text int64 (2, 1) in 7 … 1,200, labels float32 (2, 1), index in 4 … 1,500>" in repr(
        whole
    )
