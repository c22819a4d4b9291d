"""`advhash scan`: a folder of pictures under hashes as they are run, and all that can be wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.data.images.decode import decode_small, read_picture
from advhash.data.images.edits import EDITS
from advhash.experiments.scan.evasion import least_change
from advhash.experiments.scan.figures import recommended
from advhash.experiments.scan.hashes import ReadyHash
from advhash.measures.intervals import Metric
from advhash.registry import VICTIMS
from advhash.reports.scan import AtThreshold, HashFigures, ScanRecord, verdicts
from advhash.victims.perceptual import PDQ, PHash
from advhash.victims.perceptual.resampling import Picture


def scan(folder: Path, *options: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["scan", str(folder), *map(str, options), "--json", "-q"])
    if code == 0 and result.exception is not None:
        raise result.exception
    if code:
        return str(result.exception)
    return json.loads(result.stdout)


def pixels(file: Path) -> Any:
    """(H,W,3) of a picture file."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 parts of two photographs in two folders, of two sizes; two are saved again."""
    folder = tmp_path / "pictures"
    for row, photo in enumerate(load_sample_images().images):
        below = folder / f"photo {row}" / "deeper"
        below.mkdir(parents=True)
        for place in range(20):
            top, left = 70 * (place // 5), 100 * (place % 5)
            part = photo[top : top + 64 + row, left : left + 96]
            Image.fromarray(np.ascontiguousarray(part)).save(below / f"{place:02}.png")
    first = folder / "photo 0/deeper/12.png"
    Image.open(first).save(folder / "again.jpg", quality=92)
    Image.open(first).save(folder / "same.bmp")
    return folder


def test_a_scan_from_the_folder_to_the_page(pictures: Path, tmp_path: Path) -> None:
    options = ("--hash", "pdq,phash", "--threshold", "pdq=31,phash=10", "--edited", "5")
    document = scan(pictures, *options, "--out", tmp_path / "run")
    assert document["schema"] == "advhash/scan/1"
    assert document["pictures"] == 42
    assert document["copies"] == 1  # the BMP
    assert document["edited"] == 5
    assert document["seconds"]["all"] > 0
    by_label = {found["label"]: found for found in document["hashes"]}
    assert by_label["pdq"]["threshold"] == 31
    assert by_label["phash"]["threshold"] == 10
    nearest = by_label["pdq"]["nearest"][0]
    assert {nearest["first"], nearest["second"]} == {"again.jpg", "photo 0/deeper/12.png"}
    edits = by_label["pdq"]["edits"]  # some of the pictures are sky
    assert edits["jpeg90"]["value"] > edits["mirror"]["value"]
    assert by_label["pdq"]["worst_edit"] in EDITS
    assert by_label["pdq"]["pairs_within"] >= 1
    rows = pq.read_table(tmp_path / "run/scan.parquet").to_pylist()
    assert len(rows) == 2 * 42
    again = next(row for row in rows if row["picture"] == "again.jpg" and row["hash"] == "pdq")
    assert again["nearest"] == "photo 0/deeper/12.png"
    assert again["distance"] == nearest["distance"]
    same = next(row for row in rows if row["picture"] == "same.bmp")
    assert same["copy_of"] == "photo 0/deeper/12.png"
    page = (tmp_path / "run/report.html").read_text()
    assert "again.jpg" in page
    assert "What edits do" in page


def test_the_page_shows_the_closest_pairs_although_the_folder_is_gone(
    pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--hash", "pdq,phash", "--threshold", "pdq=31,phash=4", "--edited", "0")
    document = scan(pictures, *options, "--attacked", "4", "--out", run)
    first, *others = document["shown_pairs"]
    assert {first["first"], first["second"]} == {"again.jpg", "photo 0/deeper/12.png"}
    both = [Picture(Image.open(pictures / first[place]).convert("RGB")) for place in
            ("first", "second")]  # fmt: skip
    assert first["distances"] == [
        int((hashing.bits_of(both[0]) != hashing.bits_of(both[1])).sum())
        for hashing in (PDQ(), PHash())
    ]
    assert len(others) == 2  # twelve pictures, six of them of changes
    assert pixels(run / first["files"][0]).shape == (128, 192, 3)  # twice its size
    for change in document["shown_changes"]:
        threshold = {"pdq": 31, "phash": 4}[change["hash"]]
        assert change["distance"] > threshold
        clean, enlarged, moved = (pixels(run / file) for file in change["files"])
        assert np.abs(moved - clean).max() == change["linf"]
        assert np.abs(enlarged - 128).max() == min(10 * change["linf"], 127)
    least, most = document["shown_changes"]  # both of one hash, as the page says
    assert least["hash"] == most["hash"]
    (own,) = [each for each in document["hashes"] if each["label"] == least["hash"]]
    moved = [size for size in own["evasion_at"]["l2"] if size is not None]
    assert (least["l2"], most["l2"]) == (min(moved), max(moved))
    page = (run / "report.html").read_text()
    assert len(page) < 1_000_000
    assert page.count('class="pic ') == 12
    shutil.rmtree(pictures)
    again = tmp_path / "again.html"
    drawn = CliRunner().invoke(app, ["report", str(run), "--out", str(again)])
    assert drawn.exit_code == 0
    assert again.read_text() == page
    private = CliRunner().invoke(app, ["report", str(run), "--out", str(again), "--no-pictures"])
    assert private.exit_code == 0
    assert "background-image" not in again.read_text()
    assert "photo 0/deeper/12.png" in again.read_text()


def test_the_page_shows_pictures_upright_and_leaves_out_those_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.fromarray(load_sample_images().images[0][:200, :300])
    note = photo.getexif()
    note[0x0112] = 6
    folder = tmp_path / "turned"
    folder.mkdir()
    for name, quality in (("a", 90), ("b", 60), ("c", 30)):
        photo.save(folder / f"{name}.jpg", exif=note, quality=quality)
    options = ("--hash", "phash", "--threshold", "4", "--edited", "0")
    document = scan(folder, *options, "--attacked", "1", "--out", tmp_path / "run")
    shown = [*document["shown_pairs"][0]["files"], *document["shown_changes"][0]["files"]]
    sizes = [pixels(tmp_path / "run" / file).shape for file in shown]
    assert all(high > wide for high, wide, _ in sizes), sizes  # stored lying on its side

    def gone(source: Path, longest: int) -> Any:
        if source.name == "b.jpg":
            raise FileNotFoundError(source)
        return decode_small(source, longest)

    monkeypatch.setattr("advhash.experiments.scan.samples.decode_small", gone)
    (pair,) = scan(folder, *options, "--out", tmp_path / "other")["shown_pairs"]
    assert {pair["first"], pair["second"]} == {"a.jpg", "c.jpg"}


def test_pairs_that_are_marked_as_the_same_are_shown_last(pictures: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked.csv"
    marked.write_text("again.jpg,photo 0/deeper/12.png\n")
    options = ("--hash", "pdq", "--threshold", "31", "--edited", "0", "--duplicates", marked)
    pairs = scan(pictures, *options)["shown_pairs"]
    assert len(pairs) == 6
    assert not any(pair["marked"] for pair in pairs)


def test_the_terminal_says_edits_in_words_and_leaves_out_what_nobody_asked_for(
    pictures: Path,
) -> None:
    options = ("--hash", "dhash", "--threshold", "6", "--edited", "5")
    result = CliRunner().invoke(app, ["scan", str(pictures), *options])
    assert result.exit_code == 0, result.exception
    steps = re.findall(r"step (\d) of (\d)", result.stderr)
    assert list(dict.fromkeys(steps)) == [("1", "3"), ("2", "3"), ("3", "3")]
    heads, row = result.stdout.splitlines()[2:4]
    assert "worst edit" in heads
    words = "|".join(re.escape(f"“{edit.text}”") for edit in EDITS.values())
    assert re.search(rf"({words}|\d+ edits): \d", row)
    assert "median least" not in heads
    attacked = CliRunner().invoke(app, ["scan", str(pictures), *options, "--attacked", "1", "-q"])
    assert "median least" in attacked.stdout
    assert "/255 (1 picture)" in attacked.stdout


def test_distances_are_those_of_the_hashes_themselves(pictures: Path, tmp_path: Path) -> None:
    scan(
        pictures, "--hash", "phash", "--threshold", "9", "--edited", "42", "--out", tmp_path / "run"
    )
    rows = {row["picture"]: row for row in pq.read_table(tmp_path / "run/scan.parquet").to_pylist()}
    for name in ("again.jpg", "photo 1/deeper/07.png"):
        image = Image.open(pictures / name).convert("RGB")
        own = PHash().bits_of(Picture(image))
        for edit in ("jpeg20", "crop10", "rotate5", "text"):
            other = PHash().bits_of(Picture(EDITS[edit].change(image, 0)))
            assert rows[name][f"bits_{edit}"] == (own != other).sum(), edit
        assert rows[name]["quality"] == PDQ().quality(Picture(image))


def test_marked_pairs_are_no_false_positives(pictures: Path, tmp_path: Path) -> None:
    common = ("--hash", "pdq", "--threshold", "31", "--edited", "0")
    before = scan(pictures, *common, "--out", tmp_path / "before")["hashes"][0]
    with (tmp_path / "before/pairs.csv").open(newline="") as stream:
        close = [row for row in csv.DictReader(stream) if int(row["distance"]) <= 31]
    marked = tmp_path / "marked.csv"
    with marked.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, close[0])
        writer.writeheader()
        writer.writerows(close)
    after = scan(pictures, *common, "--duplicates", marked, "--out", tmp_path / "after")
    found = after["hashes"][0]
    assert after["marked"] == len(close)
    assert before["false_positive_rate"]["value"] > 0
    assert found["false_positive_rate"]["value"] == 0
    assert found["lookup_rate"]["value"] == 0
    for name in ("false_positive_rate", "false_positive_rate_good", "lookup_rate"):
        assert found[name]["low"] is None, name  # no close pair is left: a bound alone
        assert found[name]["high"] > 0, name
    with_marked = found["false_positive_rate_with_marked"]
    assert with_marked["value"] == before["false_positive_rate"]["value"]
    marked.write_text("again.jpg,nowhere.png\n")
    told = scan(pictures, *common, "--duplicates", marked, code=3)
    assert "pair 1: expected the name of a picture below the folder, got 'nowhere.png'" in told


def test_a_bank_is_told_by_rows_and_ids(pictures: Path, tmp_path: Path) -> None:
    """imagehash strings and CSV with ids; no hash of the bank appears in any file."""
    image = Image.open(pictures / "again.jpg").convert("RGB")
    own = PHash().bits_of(Picture(image))
    texts = [np.packbits(bits).tobytes().hex() for bits in (~own, own)]
    bank = tmp_path / "bank.txt"
    bank.write_text("\n".join(texts) + "\n")
    common = ("--hash", "phash,pdq", "--threshold", "phash=0,pdq=31", "--edited", "0")
    found = scan(pictures, *common, "--bank", bank, "--out", tmp_path / "run")["hashes"][0]["bank"]
    assert found["entries"] == 2
    names = {(match["picture"], match["entry"], match["distance"]) for match in found["matches"]}
    assert ("again.jpg", "row 1", 0) in names
    for file in (tmp_path / "run").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(text.encode() in content for text in texts), file
    bank.write_text(texts[0] + "\n" + texts[1][:8] + "\n")
    told = scan(pictures, *common, "--bank", bank, code=3)
    assert "line 2: expected 16 hex digits as before, got 8" in told
    bank.write_text("00ff\n")
    assert "hashes of 16 bits" in scan(pictures, *common, "--bank", bank, code=2)
    bank.write_text(texts[0])
    both = ("--hash", "phash,dhash", "--edited", "0", "--bank", bank)
    assert "phash and dhash have 64 bits" in scan(pictures, *both, code=2)


def test_odd_files_are_counted_and_never_fatal(pictures: Path) -> None:
    odd = pictures / "odd"
    odd.mkdir()
    image = Image.open(pictures / "again.jpg").convert("RGB")
    (odd / "broken.jpg").write_bytes((pictures / "again.jpg").read_bytes()[:900])
    (odd / "text.png").write_text("no picture")
    image.convert("CMYK").save(odd / "inks.jpg")
    frames = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(odd / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(odd / "deep.png")
    Image.new("RGB", (1, 1), "red").save(odd / "pixel.png")
    Image.new("RGB", (20_000, 4_000)).save(odd / "huge.png")
    (odd / "loop").symlink_to(odd)
    os.mkfifo(odd / "pipe.png")
    (odd / "notes.txt").write_text("no picture by its name")
    (odd / "photo.heic").write_text("")
    named = os.fsencode(odd) + b"/not \xff unicode.png"
    with open(named, "wb") as stream:
        image.save(stream, "PNG")
    document = scan(pictures, "--hash", "pdq", "--threshold", "31", "--edited", "99")
    assert document["skipped"] == {
        "broken": 1, "no picture inside": 1, "over 64,000,000 pixels": 1,
    }  # fmt: skip
    assert sum(document["left_out"].values()) == 4
    assert document["left_out"]["a pipe, a socket or a device"] == 1
    assert document["remarks"]["animated: its first picture"] == 1
    assert document["remarks"]["16 bits a colour: read with 8"] == 1
    assert document["remarks"]["one pixel wide or high"] == 1
    assert any("CMYK" in why for why in document["remarks"])
    assert document["low_quality"] >= 1  # one pixel
    names = {pair["first"] for pair in document["hashes"][0]["nearest"]}
    assert any("\\xff unicode.png" in name for name in names | {"\\xff unicode.png"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_counted(pictures: Path) -> None:
    (pictures / "photo 1").chmod(0)
    document = scan(pictures, "--hash", "phash", "--threshold", "9", "--edited", "0")
    (pictures / "photo 1").chmod(0o700)
    assert document["left_out"] == {"a folder that cannot be read": 1}


def test_what_cannot_be_scanned_is_refused_in_one_line(pictures: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected pictures in" in scan(empty, code=3)
    assert "expected a folder of pictures" in scan(tmp_path / "nowhere", code=3)
    told = scan(pictures, "--hash", "phash", "--threshold", "65", code=2)
    assert "--threshold 65: expected 0 to 64, the bits of phash" in told
    assert "expected one of phash" in scan(
        pictures, "--hash", "phash", "--threshold", "pdq=3", code=2
    )
    assert "equal shares of the bits are --threshold pdq=31,phash=7,dhash=7" in scan(
        pictures, "--threshold", "31", code=2
    )
    assert "equal shares of the bits are --threshold pdq=31,phash=10,dhash=7" in scan(
        pictures, "--hash", "pdq,phash,dhash", "--threshold", "31,phash=10", code=2
    )
    assert "did you mean 'phash'?" in scan(pictures, "--hash", "phsh", code=2)
    assert "needs no training" in scan(pictures, "--hash", "dpsh", code=2)
    assert "--false-positives: expected a" in scan(pictures, "--false-positives", "2", code=2)
    refused = scan(pictures, "--hash", "pdqq", code=2)
    assert "did you mean 'pdq'? expected a hash that needs no training (pdq, phash" in refused
    assert "dpsh" not in refused
    assert "no such file" in scan(pictures, "--bank", "nowhere.txt", code=3)
    assert "a folder; name a file in it" in scan(pictures, "--bank", pictures, code=3)
    (empty / "broken.png").write_text("")
    assert "1 × no picture inside" in scan(empty, "--hash", "phash", code=3)


def test_one_threshold_holds_for_the_hashes_of_one_length(pictures: Path) -> None:
    """Beside another that is named."""
    options = ("--hash", "pdq,phash,dhash", "--threshold", "9,pdq=31", "--edited", "0")
    document = scan(pictures, *options, "--dry-run")
    assert document["thresholds"] == {"pdq": 31, "phash": 9, "dhash": 9}


def test_a_missed_limit_is_exit_4(pictures: Path, tmp_path: Path) -> None:
    common = ("--hash", "phash", "--threshold", "20", "--edited", "0")
    result = CliRunner().invoke(app, ["scan", str(pictures), *common, "-q", "--fail-over", "1e-6"])
    assert "--fail-over" in str(result.exception)
    assert getattr(result.exception, "exit_code", 0) == 4
    passed = CliRunner().invoke(app, ["scan", str(pictures), *common, "-q", "--fail-over", "1"])
    assert passed.exit_code == 0


def test_a_rate_that_is_not_shown_to_be_low_is_exit_4(pictures: Path) -> None:
    """No close pair among 42 pictures is no proof of a rate of 1e-4."""
    common = ("--hash", "phash", "--threshold", "0", "--edited", "0", "-q")
    result = CliRunner().invoke(app, ["scan", str(pictures), *common, "--fail-over", "1e-4"])
    assert getattr(result.exception, "exit_code", 0) == 4
    assert "phash below" in str(result.exception)
    assert "cannot show to lie at or below the limit" in str(result.exception)


def test_pictures_that_are_too_few_are_told_the_rate_that_they_show(
    pictures: Path, tmp_path: Path
) -> None:
    def reason(rate: str) -> str:
        command = ["scan", str(pictures), "--hash", "phash", "--edited", "0", "--json", "-q"]
        out = str(tmp_path / rate)
        result = CliRunner().invoke(app, [*command, "--false-positives", rate, "--out", out])
        return str(json.loads(result.stdout)["recommendation"]["reason"])

    missed = reason("1e-4")
    told = re.search(r"show is (\S+) \(phash\); ([\d,]+) pictures", missed)
    assert told is not None, missed
    assert 42 < int(told[2].replace(",", "")) < 10_000
    asked = reason(told[1])
    assert asked.startswith("41 pictures are too few to recommend a threshold.")
    assert "No threshold of phash is without a false positive among them" in asked  # JPEG
    assert "at least 100 pictures would be needed" in asked


def figures_at(threshold: int, **more: Any) -> HashFigures:
    """A hash at a threshold; its lowest rate is 0.01, and at 20 bits or fewer nothing matches."""
    fields: dict[str, Any] = dict.fromkeys(HashFigures.model_fields)
    curve = [
        AtThreshold(threshold=at, value=v, low=0, high=high, resolved=high > 0.01)
        for at, v, high in ((0, 0.0, 0.0099), (20, 0.0, 0.0099), (30, 0.003, 0.0099))
    ]
    return HashFigures.model_construct(
        **{
            **fields,
            "label": "pdq",
            "bits": 256,
            "threshold": threshold,
            "chosen": "interval",
            "false_positive_rate": Metric(0.003, 0.001, 0.0099, 9),
            "curve": curve,
            **more,
        }
    )


def test_a_rate_that_the_pictures_chose_themselves_recommends_nothing() -> None:
    own = recommended([figures_at(30)], 0.0099, 500)
    assert own.hash is None
    assert "the lowest rate that they show at all" in own.reason
    assert "no false positive among them is pdq at 20 of 256 bits" in own.reason
    assert "710 pictures would be needed" in own.reason
    asked = recommended([figures_at(30)], 0.02, 500)
    assert asked.reason.startswith("Recommended: pdq at 30 of 256 bits, the largest threshold")
    given = recommended([figures_at(30, chosen="given")], 0.0099, 500)
    assert "at 30 of 256 bits, the threshold that you gave" in given.reason
    assert recommended([figures_at(30)], 0.02, 99).hash is None


def test_what_half_of_the_attacked_pictures_need_is_told_with_their_number(
    pictures: Path, tmp_path: Path
) -> None:
    options = ("--hash", "pdq", "--threshold", "31", "--edited", "2", "--attacked", "3")
    document = scan(pictures, *options, "--out", tmp_path / "run")
    (hashing,) = document["hashes"]
    line = verdicts(ScanRecord.from_document(document))[1]
    median = f"{hashing['evasion_at']['median_linf']:g} grey level"
    assert f"At a change of at most {median}" in line
    assert "at least half of the 3 attacked pictures leave the threshold (too few for an" in line
    assert document["sides"] == {"shorter": 64, "longest": 96}
    rates = [rate["value"] for rate in hashing["edits"].values()]
    tied = rates.count(min(rates))
    assert tied > 1
    assert re.search(rf"the fewest after {tied} edits: {100 * min(rates):.1f}\s%", line)


def test_what_is_finished_is_not_read_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks stay in the cache: another threshold decodes nothing."""
    from advhash.experiments.scan import blocks, run

    monkeypatch.setattr(run, "LOOKS", 10)
    first = scan(pictures, "--hash", "phash", "--threshold", "5", "--edited", "4")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(blocks, "read_picture", refuse)
    second = scan(pictures, "--hash", "phash", "--threshold", "9", "--edited", "4")
    assert second["pictures"] == first["pictures"]
    assert second["hashes"][0]["pairs_within"] >= first["hashes"][0]["pairs_within"]


class TestLeastChange:
    """How little leaves the threshold, as it would be stored."""

    @pytest.mark.parametrize("name", ["pdq", "phash", "dhash", "blockhash"])
    def test_the_change_is_out_and_little(self, name: str) -> None:
        victim = VICTIMS.create(name)
        pixels = np.ascontiguousarray(load_sample_images().images[0][200:264, 200:296])
        threshold = victim.bits // 8 - 1
        found = least_change(ReadyHash(victim), pixels, threshold, seed=0)
        assert found is not None
        own, moved = (victim.bits_of(Picture.of(each)) for each in (pixels, found.changed))
        assert (own != moved).sum() > threshold
        change = found.changed.astype(float) - pixels
        assert found.l2 == pytest.approx(np.sqrt((change**2).mean()))
        assert found.linf <= 8
        generator = np.random.default_rng(0)
        for _ in range(20):  # noise of that size leaves nothing
            noise = generator.normal(0, found.l2, pixels.shape)
            noisy = (pixels + noise).round().clip(0, 255).astype(np.uint8)
            assert (own != victim.bits_of(Picture.of(noisy))).sum() <= threshold

    @pytest.mark.parametrize("name", ["pdq", "phash", "dhash"])
    def test_the_linear_map_needs_no_more_than_gradients(self, name: str) -> None:
        ready = ReadyHash(VICTIMS.create(name))
        threshold = ready.bits // 8 - 1
        for left in (0, 90, 200):
            pixels = np.ascontiguousarray(load_sample_images().images[0][200:264, left : left + 96])
            found = least_change(ready, pixels, threshold, seed=0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("advhash.experiments.scan.evasion.has_map", lambda _: False)
                other = least_change(ready, pixels, threshold, seed=0)
            assert found is not None
            assert other is not None
            assert found.linf <= other.linf
            assert found.l2 <= other.l2

    def test_a_flat_picture_is_moved_too(self) -> None:
        flat = np.full((64, 64, 3), 120, np.uint8)
        flat[20:24, 30:34] = 121
        for name in ("phash", "dhash"):
            assert least_change(ReadyHash(VICTIMS.create(name)), flat, 6, seed=0) is not None

    def test_a_higher_threshold_takes_more(self) -> None:
        ready = ReadyHash(PDQ())
        pixels = np.ascontiguousarray(load_sample_images().images[0][200:264, 200:296])
        found = [least_change(ready, pixels, threshold, seed=0) for threshold in (11, 31, 61)]
        sizes = [each.l2 for each in found if each is not None]
        assert len(sizes) == 3
        assert sizes == sorted(sizes)
        assert least_change(ready, pixels, 256, seed=0) is None

    def test_a_scan_tells_it(self, pictures: Path, tmp_path: Path) -> None:
        options = ("--hash", "dhash", "--threshold", "6", "--edited", "0", "--attacked", "3")
        document = scan(pictures, *options, "--save-images", "--out", tmp_path / "run")
        evasion = document["hashes"][0]["evasion_at"]
        assert evasion["pictures"] == 3
        assert evasion["moved_out"] == 3
        assert evasion["median_l2"] > 0
        assert evasion["shares"]["16"]["value"] == 1
        assert len(list((tmp_path / "run/changed").glob("*.png"))) == 3
        rows = pq.read_table(tmp_path / "run/scan.parquet").to_pylist()
        assert sum(row["linf"] is not None for row in rows) == 3
        assert "How little suffices" in (tmp_path / "run/report.html").read_text()


class TestReading:
    """Hashes of files are those that `imagehash` takes of them, whatever their mode."""

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
    def test_modes(self, mode: str, tmp_path: Path) -> None:
        imagehash = pytest.importorskip("imagehash", reason="pip install imagehash")
        photo = Image.fromarray(load_sample_images().images[0][:90, :70])
        image = photo.convert(mode)
        if "A" in mode:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        file = tmp_path / ("picture.tiff" if mode in ("CMYK", "LA") else "picture.png")
        image.save(file)
        seen = read_picture(file)
        got = PHash().bits_of(Picture(seen.image, seen.hidden))
        assert np.array_equal(got, imagehash.phash(Image.open(file)).hash.ravel())

    def test_cameras_notes_are_left_alone_unless_asked_for(self, tmp_path: Path) -> None:
        image = Image.fromarray(load_sample_images().images[0][:90, :70])
        note = image.getexif()
        note[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=note)
        assert read_picture(tmp_path / "turned.jpg").image.size == (70, 90)
        assert read_picture(tmp_path / "turned.jpg", upright=True).image.size == (90, 70)
