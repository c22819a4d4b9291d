"""`--dataset PATH` means what the victim reads: the reader is found by what lies there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advhash.data.load import load_dataset
from advhash.data.paths import Reads, Recognised, reader_of
from advhash.errors import DataError
from advhash.registry import DATASETS, VICTIMS

Command = Callable[..., tuple[int, str, str]]
IMAGE, BOTH = Reads(), Reads((frozenset({"image", "text"}),))
ANY = Reads(classes=False)
TABLE = Reads(tuple(frozenset({name}) for name in ("table", "image", "text")))


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("ADVHASH_DATA", raising=False)
        yield


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def captions(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("image,caption,labels\na.png,A dog,dog\n")


def photographs(folder: Path, count: int = 24) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for row in range(count):
        picture = generator.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{row}.jpg")
    return folder


LIST = ("database_img.txt", "database_label.txt", "train_img.txt", "train_label.txt")
CASES: list[tuple[tuple[str, ...], str, Reads | None, str]] = [
    (("a/1.png", "b/2.png"), "", IMAGE, "folder"),
    (("a/1.png", "b/2.png", "readme.txt"), "", ANY, "folder"),
    (("1.png", "2.JPG"), "", ANY, "near_duplicates"),
    (("1.png", "2.JPG"), "", None, "near_duplicates"),
    (("1.png", "a/1.png", "b/2.png"), "", IMAGE, "folder"),
    ((*LIST, "a/1.png", "b/2.png"), "", IMAGE, "image_lists"),
    (("database.txt", "train.txt", "test.txt"), "train.txt", IMAGE, "image_lists"),
    (("images.zip", "captions.json"), "", BOTH, "flickr8k"),
    (("cifar-10-batches-py/data_batch_1",), "", IMAGE, "cifar10"),
    (("cifar-10-batches-py/data_batch_1",), "cifar-10-batches-py", IMAGE, "cifar10"),
    (("mirflickr25k.npz",), "mirflickr25k.npz", TABLE, "mirflickr_tags"),
    (("nuswide10k.npz",), "", TABLE, "nuswide_tags"),
    (("FLICKR-25K/x.mat",), "FLICKR-25K", BOTH, "mirflickr_mat"),
    (("NUS-WIDE-TC10/x.mat",), "NUS-WIDE-TC10/x.mat", BOTH, "nuswide_mat"),
    (("adult_train.csv.gz",), "", TABLE, "adult"),
    (("polish_bankruptcy_5year.csv.gz",), "", TABLE, "polish_bankruptcy"),
    (("mine.parquet",), "mine.parquet", TABLE, "table"),
    (("mine.csv", "a/1.png", "b/2.png"), "", TABLE, "table"),
    (("mine.csv", "a/1.png", "b/2.png"), "", IMAGE, "folder"),
]


@pytest.mark.parametrize(("files", "path", "reads", "reader"), CASES)
def test_what_lies_there_decides(
    tmp_path: Path, files: tuple[str, ...], path: str, reads: Reads | None, reader: str
) -> None:
    found = reader_of(touch(tmp_path, *files) / path, reads)
    assert found.reader == reader
    assert set(found.settings) <= set(DATASETS[reader].model.model_fields)


def test_captions_are_found_by_their_columns(tmp_path: Path) -> None:
    captions(tmp_path / "captions.csv")
    touch(tmp_path, "a/1.png", "b/2.png")
    root = {"root": str(tmp_path)}
    assert reader_of(tmp_path, BOTH).settings == root
    captions(tmp_path / "more/words.csv")
    for path in (tmp_path / "more", tmp_path / "more/words.csv"):
        found = reader_of(path, BOTH)
        assert found.reader == "captioned"
        assert found.settings == {"root": str(tmp_path / "more"), "table": "words.csv"}


@pytest.mark.parametrize(
    ("files", "path", "reads", "message"),
    [
        (("1.png",), "", IMAGE, r"this victim is trained on classes, got pictures without classes"),
        (("a/1.png", "b/1.png"), "", BOTH, r"victim reads \(image and text with classes\) .*class"),
        (("nuswide10k.npz",), "", IMAGE, r"reads \(image with classes\) in .*, got nuswide10k"),
        (("readme.txt",), "", None, "got 0 sub-folders with images or texts .* nothing else that"),
        (("readme.txt",), "readme.txt", None, "which no reader takes; a folder of pictures is"),
        (("a.codes",), "a.codes", IMAGE, "got codes in .*: `advhash eval --codes"),
        (("one.csv", "two.csv"), "", TABLE, r"one data set .*=.*one.csv, or --dataset table .*two"),
        (("x/y.mat",), "x", BOTH, r"say which by --dataset mirflickr_mat --set dataset.root=.*/x"),
        ((), "absent.csv", None, "got no folder or file .*absent.csv: check the path"),
        ((), "absent", None, "got no folder or file .*absent: check the path"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_one_line(
    tmp_path: Path, files: tuple[str, ...], path: str, reads: Reads | None, message: str
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        reader_of(touch(tmp_path, *files) / path, reads)
    assert "\n" not in str(refused.value)


def test_every_reader_that_a_path_can_mean_is_registered() -> None:
    known = {entry.name for entry in DATASETS}
    assert {reader for _, _, _, reader in CASES} <= known
    for entry in VICTIMS:
        reads = entry.build.reads  # type: ignore[attr-defined]
        data = load_dataset(entry.build.default_dataset)  # type: ignore[attr-defined]
        carries = frozenset(data.modalities)
        assert reads.place(Recognised("x", {}, "", carries)) is not None, "its own default"


def test_the_command_line_takes_a_flat_folder_and_says_who_reads_it(
    tmp_path: Path, advhash: Command
) -> None:
    """It was told to make sub-folders, which near-duplicates have no use for."""
    flat = photographs(tmp_path / "flat")
    code, _, err = advhash("train", "--victim", "dhash", "--dataset", str(flat), "--bits", "64")
    assert code == 0, err
    told = f"{flat}: pictures without classes, read by 'near_duplicates'"
    assert err.splitlines().count(told) == 1
    code, out, err = advhash(
        "attack", "--victim", "dhash", "--dataset", str(flat), "--method", "noise", "--queries",
        "4", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0, err
    assert told in err
    assert "on dhash, flat, " in out
    code, out, _ = advhash("data", "show", str(flat))
    assert (code, "reader: near_duplicates (pictures without classes)" in out) == (0, True)
    code, _, err = advhash("train", "--victim", "dpsh", "--dataset", str(flat))
    assert (code, err.count("\n")) == (3, 1)
    assert "make one sub-folder a class" in err
    code, _, err = advhash("train", "--victim", "dhash", "--dataset", str(flat), "--quiet")
    assert (code, err) == (0, "")


def test_the_reader_is_logged_for_python(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = photographs(tmp_path / "flat")
    with caplog.at_level(logging.INFO, "advhash"):
        data = load_dataset(str(flat), {"size": 16})
    assert caplog.messages == [f"{flat}: pictures without classes, read by 'near_duplicates'"]
    assert data.card["reader"] == "near_duplicates (pictures without classes)"
    same = load_dataset("near_duplicates", {"root": str(flat), "size": 16})
    assert data.fingerprint() == same.fingerprint()
