"""What happens to pictures on their way: saved again, resized, cut, turned, made brighter."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Change = Callable[[Image.Image, int], Image.Image]
TEXT = "SAMPLE"


@dataclass(frozen=True)
class Edit:
    """One way to change a picture.

    kind:   what it belongs to: saved, resized, cut, framed, turned, tone, blur, noise, drawn
    text:   the same in words
    change: of a picture (RGB) and a seed, which noise alone looks at
    """

    kind: str
    text: str
    change: Change


def _saved(form: str, quality: int) -> Change:
    def change(image: Image.Image, _: int) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, form, quality=quality)
        with Image.open(buffer) as again:
            return again.convert("RGB")

    return change


def _resized(share: float) -> Change:
    def change(image: Image.Image, _: int) -> Image.Image:
        size = tuple(max(round(side * share), 1) for side in image.size)
        return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)

    return change


def _cut(share: float) -> Change:
    """`share` of each side, half of it at either end."""

    def change(image: Image.Image, _: int) -> Image.Image:
        width, height = image.size
        across, down = round(width * share / 2), round(height * share / 2)
        return image.crop((across, down, max(width - across, 1), max(height - down, 1)))

    return change


def _framed(share: float, colour: str) -> Change:
    """A border at each end, `share` of the longer side wide."""

    def change(image: Image.Image, _: int) -> Image.Image:
        return ImageOps.expand(image, max(round(max(image.size) * share), 1), colour)

    return change


def _rotated(degrees: float) -> Change:
    """In the same frame; the corners that it leaves empty are black."""

    def change(image: Image.Image, _: int) -> Image.Image:
        return image.rotate(degrees, Image.Resampling.BICUBIC)

    return change


def _transposed(way: Image.Transpose) -> Change:
    return lambda image, _: image.transpose(way)


def _brightness(factor: float) -> Change:
    return lambda image, _: ImageEnhance.Brightness(image).enhance(factor)


def _contrast(factor: float) -> Change:
    return lambda image, _: ImageEnhance.Contrast(image).enhance(factor)


def _gamma(power: float) -> Change:
    table = [round(255 * (level / 255) ** power) for level in range(256)]
    return lambda image, _: image.point(table * 3)


def _blurred(share: float) -> Change:
    """By a Gaussian whose σ is `share` of the longer side."""

    def change(image: Image.Image, _: int) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(max(image.size) * share))

    return change


def _noisy(sigma: float) -> Change:
    """Gaussian noise of `sigma` grey levels, drawn for each colour of each pixel."""

    def change(image: Image.Image, seed: int) -> Image.Image:
        pixels = np.asarray(image)
        noisy = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
        noisy *= sigma  # in place: a float copy of a large picture is 150 MB
        noisy += pixels
        np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy)
        return Image.fromarray(noisy.astype(np.uint8))

    return change


def _grey(image: Image.Image, _: int) -> Image.Image:
    return image.convert("L").convert("RGB")


def _labelled(image: Image.Image, _: int) -> Image.Image:
    """A word across the lower part, an eighth of the height, white with a black edge."""
    copy = image.copy()
    height = max(copy.height // 8, 4)
    ImageDraw.Draw(copy).text(
        (copy.width / 2, copy.height * 0.8),
        TEXT,
        fill="white",
        font=ImageFont.load_default(height),
        anchor="mm",
        stroke_width=max(height // 12, 1),
        stroke_fill="black",
    )
    return copy


EDITS: Mapping[str, Edit] = {
    "jpeg90": Edit("saved", "JPEG of quality 90", _saved("JPEG", 90)),
    "jpeg70": Edit("saved", "JPEG of quality 70", _saved("JPEG", 70)),
    "jpeg50": Edit("saved", "JPEG of quality 50", _saved("JPEG", 50)),
    "jpeg20": Edit("saved", "JPEG of quality 20", _saved("JPEG", 20)),
    "webp80": Edit("saved", "WebP of quality 80", _saved("WEBP", 80)),
    "webp40": Edit("saved", "WebP of quality 40", _saved("WEBP", 40)),
    "resize75": Edit("resized", "resized to 75 %", _resized(0.75)),
    "resize50": Edit("resized", "resized to 50 %", _resized(0.5)),
    "resize25": Edit("resized", "resized to 25 %", _resized(0.25)),
    "crop2": Edit("cut", "cropped by 2 % of each side", _cut(0.02)),
    "crop5": Edit("cut", "cropped by 5 % of each side", _cut(0.05)),
    "crop10": Edit("cut", "cropped by 10 % of each side", _cut(0.1)),
    "crop20": Edit("cut", "cropped by 20 % of each side", _cut(0.2)),
    "border2": Edit("framed", "black border of 2 %", _framed(0.02, "black")),
    "border10": Edit("framed", "white border of 10 %", _framed(0.1, "white")),
    "rotate1": Edit("turned", "rotated by 1°", _rotated(1)),
    "rotate5": Edit("turned", "rotated by 5°", _rotated(5)),
    "rotate90": Edit("turned", "rotated by 90°", _transposed(Image.Transpose.ROTATE_90)),
    "rotate180": Edit("turned", "rotated by 180°", _transposed(Image.Transpose.ROTATE_180)),
    "mirror": Edit("turned", "mirrored", _transposed(Image.Transpose.FLIP_LEFT_RIGHT)),
    "brighter": Edit("tone", "brighter by 30 %", _brightness(1.3)),
    "darker": Edit("tone", "darker by 30 %", _brightness(0.7)),
    "contrast": Edit("tone", "contrast up by 40 %", _contrast(1.4)),
    "flatter": Edit("tone", "contrast down by 40 %", _contrast(0.6)),
    "gamma": Edit("tone", "gamma 1.5", _gamma(1.5)),
    "blur": Edit("blur", "blurred by 0.5 % of the longer side", _blurred(0.005)),
    "blur2": Edit("blur", "blurred by 2 % of the longer side", _blurred(0.02)),
    "noise5": Edit("noise", "noise of 5 grey levels", _noisy(5)),
    "noise20": Edit("noise", "noise of 20 grey levels", _noisy(20)),
    "grey": Edit("tone", "grey", _grey),
    "text": Edit("drawn", "a word written across it", _labelled),
}
