"""One picture from the bytes of a file: decoded within bounds, upright, cut and shrunk."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from advhash.errors import DataError
from advhash.storage.documents import reason as why_unread

Fit = Literal["stretch", "centre"]
CENTRE = 224 / 256  # share of the shorter side that "centre" keeps
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 8 * 2**30
_CONVERT = "no reader for it; save as PNG or JPEG"
UNREAD = {  # suffixes of pictures that are not read → why, and what to do
    **dict.fromkeys((".jfif", ".jpe", ".jif"), "rename to .jpg"),
    **dict.fromkeys((".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".tga"), _CONVERT),
    **dict.fromkeys((".ppm", ".pgm", ".raw", ".cr2", ".nef", ".arw", ".dng", ".ico"), _CONVERT),
}
DEPTHS = (8, 12, 16)  # bits that grey pictures of 16 bits a pixel may hold


_SIZES: list[list[tuple[int, int]]] = []  # of the readings that go on


@contextmanager
def measured() -> Iterator[list[tuple[int, int]]]:
    """The upright (width, height) of each picture that `decode` reads meanwhile, in any thread."""
    sizes: list[tuple[int, int]] = []
    _SIZES.append(sizes)
    try:
        yield sizes
    finally:
        _SIZES.remove(sizes)


def printable(name: str) -> str:
    """A file name that can be printed and stored, whatever its bytes are."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class TooLarge(ValueError):
    """A picture with a longer side than is allowed."""


def decode(source: Path | bytes, size: int, fit: Fit = "stretch") -> npt.NDArray[np.uint8]:
    """(3,size,size) of an image file or its bytes: turned upright, on white, made square by `fit`.

    "stretch" keeps all of the picture. "centre" keeps the middle, as hashing papers do: of the
    shorter side 224/256. Grey pixels of 16 bits are those of the fewest of 8, 12 and 16 bits that
    hold them all. Remarks of Pillow about metadata are warnings; see `quietly`.
    """
    upright = _upright(source, None)
    square = upright.resize((size, size), Image.Resampling.BICUBIC, _box(upright.size, fit))
    return np.asarray(square).transpose(2, 0, 1)


def decode_stored(source: Path | bytes, longest: int) -> npt.NDArray[np.uint8]:
    """(3,H,W) of an image file or its bytes at its own size, upright and on white, as `decode`.

    Raises TooLarge, before the pixels are read: a side above `longest`.
    """
    return np.asarray(_upright(source, longest)).transpose(2, 0, 1)


def decode_small(source: Path, longest: int) -> npt.NDArray[np.uint8]:
    """(3,H,W) of an image file, upright and on white, reduced until no side is above `longest`."""
    small = _upright(source, None)
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(small).transpose(2, 0, 1)


def turned_as_noted(image: Image.Image, source: Path) -> Image.Image:
    """A picture that was read as `source` stores it, turned as the camera noted in that file."""
    with _open(source) as stored:
        stored.load()  # a TIFF is turned by that, and notes nothing more
        note = stored.getexif().get(ExifTags.Base.Orientation, 1)
    turned = image.copy()
    turned.getexif()[ExifTags.Base.Orientation] = note
    return ImageOps.exif_transpose(turned)


def _upright(source: Path | bytes, longest: int | None) -> Image.Image:
    """The whole picture in RGB."""
    with _checked(source, longest) as (image, deep):
        upright = ImageOps.exif_transpose(image)
        for sizes in _SIZES:
            sizes.append(upright.size)
        upright = _in_eight_bits(upright, deep=deep)
        if upright.has_transparency_data:
            over = upright.convert("RGBA")
            upright = Image.new("RGBA", over.size, "white")
            upright.alpha_composite(over)
        return upright.convert("RGB")


@dataclass(frozen=True)
class Read:
    """A picture as hashes are given it.

    image:   of mode RGB, at its own size
    hidden:  (H,W) where it is wholly transparent; None: nowhere
    remarks: what was odd about it, though it could be read
    """

    image: Image.Image
    hidden: npt.NDArray[np.bool_] | None
    remarks: tuple[str, ...]


def read_picture(source: Path | bytes, *, upright: bool = False) -> Read:
    """A picture at its own size, as programs that hash files read it.

    Transparency is dropped: `hidden` says where nothing shows. An animation is its first picture,
    and grey pixels of 16 bits are those of 8, as in `decode`.

    upright: whether it is turned as its camera noted; such programs leave it as it is stored

    Raises ValueError, OSError and whatever a decoder raises that is fed broken bytes.
    """
    with _checked(source) as (image, deep):
        remarks = [
            remark
            for remark, holds in (
                ("animated: its first picture", getattr(image, "n_frames", 1) > 1),
                ("16 bits a colour: read with 8", deep or image.mode.startswith("I;16")),
                ("four inks (CMYK): turned into red, green and blue", image.mode == "CMYK"),
                ("one pixel wide or high", min(image.size) == 1),
            )
            if holds
        ]
        turned = ImageOps.exif_transpose(image) if upright else image
        plain = _in_eight_bits(turned, deep=deep)
        hidden = None
        if plain.mode in ("RGBA", "LA"):
            hidden = np.asarray(plain.getchannel("A")) == 0
        rgb = plain.convert("RGB")
        rgb.load()
    return Read(rgb, hidden if hidden is not None and hidden.any() else None, tuple(remarks))


@contextmanager
def _checked(
    source: Path | bytes, longest: int | None = None
) -> Iterator[tuple[Image.Image, bool]]:
    """A picture that may be decoded, not decoded yet, and whether it has 16 bits a colour.

    Raises ValueError: it is too large; TooLarge: a side above `longest`.
    """
    with _open(source) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height}: over {MAX_PIXELS:,} pixels")
        if longest is not None and max(image.size) > longest:
            raise TooLarge(f"{image.width}×{image.height}")
        image.verify()
    with _open(source) as image:  # `verify` leaves it unusable
        tiles = getattr(image, "tile", ())  # as they lie in the file, until the pixels are read
        yield image, any(";16" in str(tile[3]) for tile in tiles)


def _in_eight_bits(image: Image.Image, *, deep: bool) -> Image.Image:
    """A picture with 8 bits a colour. Raises ValueError where their range is not known."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if deep and np.asarray(image.convert("RGB")).max() < 1 << 4:
        raise ValueError(  # Pillow keeps the upper 8 of 16 bits
            "16 bits a colour that hold 12 or fewer, which would be black: save it with 8"
        )
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, whose range is not known")
    return image


def _eight_bits(grey: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint8]:
    """(H,W) pixels of 16 bits, perhaps of fewer in a wider file, with 8 bits.

    >>> _eight_bits(np.array([[0, 255]], np.uint16)), _eight_bits(np.array([[4095]], np.uint16))
    (array([[  0, 255]], dtype=uint8), array([[255]], dtype=uint8))
    """
    depth = next(bits for bits in DEPTHS if not grey.size or int(grey.max()) < 1 << bits)
    return (grey >> (depth - 8)).astype(np.uint8)


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)


def _box(size: tuple[int, int], fit: Fit) -> tuple[float, float, float, float] | None:
    if fit == "stretch":
        return None
    width, height = size
    side = min(size) * CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def unread(names: Iterable[str]) -> dict[str, str]:
    """How many files of a folder are not read, by their suffix, and why: for the card.

    >>> unread(["a.jfif", "b.jfif", "notes.txt"])
    {'.jfif': '2: rename to .jpg', '.txt': '1: no picture'}
    """
    counts = Counter(os.path.splitext(name)[1].lower() for name in names)
    return {
        printable(suffix) or "no suffix": f"{count}: {UNREAD.get(suffix, 'no picture')}"
        for suffix, count in sorted(counts.items())
    }


def unread_warning(left_out: Mapping[str, str]) -> list[str]:
    """What a card says of pictures among the files that are not read."""
    pictures = [
        f"{why.partition(':')[0]} {suffix} ({why.partition(': ')[2]})"
        for suffix, why in left_out.items()
        if suffix in UNREAD
    ]
    return [f"Files that are not read: {', '.join(pictures)}."] if pictures else []


@contextmanager
def quietly() -> Iterator[None]:
    """No remarks of Pillow; held around threads, since the filters belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_larger(larger: Sequence[str], count: int, where: str, longest: int) -> None:
    """Raise DataError where images of `count` are too large: "name (size)", the first three."""
    if larger:
        more = ", …" if len(larger) > 3 else ""
        raise DataError(
            f"expected pictures of at most {longest} pixels a side in {where}, got {len(larger)} "
            f"of {count} larger: {', '.join(sorted(larger)[:3])}{more}; raise dataset.longest, "
            "make them smaller, or give all one size by --set dataset.size=PIXELS"
        )


def refuse_broken(broken: Sequence[str], count: int, where: str) -> None:
    """Raise DataError where images of `count` are broken: "name (reason)", the first three."""
    if broken:
        more = ", …" if len(broken) > 3 else ""
        raise DataError(
            f"expected readable images in {where}, got {len(broken)} of "
            f"{count} broken: {', '.join(sorted(broken)[:3])}{more}; repair or remove them"
        )


def reason(error: Exception) -> str:
    """Why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"over {MAX_PIXELS:,} pixels"
    return why_unread(error)
