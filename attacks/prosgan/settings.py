"""The settings of ProS-GAN as published, and the defaults of its two modes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

PAPER = {
    "epochs": 100,
    "batch_size": 24,
    "learning_rate": 1e-4,
    "discriminator": True,
    "decay": "linear",
    "rec_weight": 100.0,
    "rec_warmup": 0.0,
    "alpha": 1.0,
    "width": 64,
    "downs": 2,
    "blocks": 6,
    "lifts": 4,
    "shrink": 1,
    "residual": False,
    "modulated": False,
    "offset": False,
    "ssim_weight": 0.0,
    "discriminator_width": 64,
    "discriminator_depth": 5,
    "hidden": 4096,
    "feature": 512,
    "prototype_steps": 30_000,
    "prototype_learning_rate": 1e-4,
    "theta_scale": 0.5,
    "positive_share": 0.0,
}


@dataclass(frozen=True)
class Mode:
    """The settings whose defaults depend on `bounded`: `FREE` without it, `HARD` with it."""

    epochs: int
    rec_weight: float
    ssim_weight: float
    alpha: float
    discriminator: bool
    modulated: bool
    offset: bool
    width: int
    learning_rate: float

    def changed(self, settings: object) -> Mode:
        """With those of the same names in `settings` that are not None."""
        given = {field.name: getattr(settings, field.name) for field in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


FREE = Mode(
    epochs=30, rec_weight=30.0, ssim_weight=3.0, alpha=1.0, discriminator=True, modulated=True,
    offset=False, width=16, learning_rate=3e-3,
)  # fmt: skip
HARD = Mode(
    epochs=120, rec_weight=0.0, ssim_weight=0.0, alpha=0.5, discriminator=False, modulated=True,
    offset=True, width=32, learning_rate=1e-3,
)  # fmt: skip
