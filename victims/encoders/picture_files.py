"""How the files of a model of transformers say that its pictures are prepared.

`preprocessor_config.json`, completed by the defaults of the class that it names. What cannot be
done inside a victim to the same values is refused, not left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from advhash.errors import UsageError
from advhash.storage.documents import reason
from advhash.victims.encoders.preprocessing import Preprocessing
from advhash.victims.perceptual.resampling import Filter

FILTERS: Mapping[object, Filter] = {  # names of timm and numbers of Pillow
    "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos", 2: "bilinear",
    3: "bicubic", 1: "lanczos",
}  # fmt: skip
UNFOLLOWED = ("do_flip_channel_order", "do_pad", "include_top", "rescale_offset")
WARPED = 384  # from this side on ConvNeXT squashes pictures instead of cropping them


def read_preprocessing(what: str, place: Mapping[str, Any], name: str) -> Preprocessing:
    """What comes before the network of a model.

    what:  its folder or its id of the hub
    place: how its files are asked for
    name:  of the encoder, for messages

    Raises UsageError: no such file, or a step that is not followed.
    """
    said = _stated(what, place, name)
    steps = [step for step in UNFOLLOWED if said.get(step)]
    steps += [f"{step}=false" for step in ("do_resize", "do_rescale") if not said.get(step, True)]
    if not math.isclose(float(said.get("rescale_factor") or 0), 1 / 255, rel_tol=1e-4):
        steps.append(f"rescale_factor={said.get('rescale_factor')}")
    size: dict[str, Any] = dict(said.get("size") or {})
    shortest, share = size.get("shortest_edge"), said.get("crop_pct")
    stretched = [size.get("height"), size.get("width")]
    side: Any = shortest or stretched[0]
    cut = dict(said.get("crop_size") or {}) if said.get("do_center_crop") else {}
    if share and not str(said.get("image_processor_type")).startswith("ConvNext"):
        steps.append("crop_pct")
    warped = bool(share and shortest and shortest >= WARPED)
    ends: list[Any] = [shortest, shortest] if share else stretched
    if cut:
        ends = [cut.get("height"), cut.get("width")]
    squares = [ends] if shortest else [ends, stretched]
    if any(None in sides or sides[0] != sides[1] for sides in squares):
        steps.append("pictures that are not square")
    if steps:
        raise UsageError(
            f"encoder {name!r}: expected pictures that are resized, cropped and normalised, got "
            f"{', '.join(steps)} in preprocessor_config.json; bring it as onnx:FILE or as a "
            "function of yours"
        )
    normalised = bool(said.get("do_normalize"))
    return Preprocessing(
        crop=int(ends[0]),
        side=int(side / share) if share and not warped else side,
        filter=filter_called(said.get("resample")),
        mean=_numbers(said["image_mean"]) if normalised else (0.0,) * 3,
        std=_numbers(said["image_std"]) if normalised else (1.0,) * 3,
        squashed=warped or not shortest,
        halves="lower",
    )


def _stated(what: str, place: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of the image processor, with the defaults of its class. Raises UsageError."""
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            what, trust_remote_code=False, **place
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        got = "none" if isinstance(error, OSError) else reason(error)
        raise UsageError(
            f"encoder {name!r}: expected preprocessor_config.json beside the model, which says how "
            f"pictures are prepared, got {got}; save it there with processor.save_pretrained"
        ) from None
    said: dict[str, Any] = processor.to_dict()
    return said


def _numbers(values: Any) -> tuple[float, ...]:
    """Values of the three channels, also where one number is meant for all."""
    given = [values] * 3 if isinstance(values, int | float) else list(values)
    return tuple(map(float, given))


def filter_called(name: object) -> Filter:
    """The resize of a name of timm or a number of Pillow. Raises UsageError."""
    if name not in FILTERS:
        raise UsageError(f"expected a resize by {', '.join(map(str, FILTERS))}, got {name}")
    return FILTERS[name]
