"""ProS-GAN: PrototypeNet, generator, discriminator."""

from advhash.attacks.prosgan.prosgan import (
    DISCRIMINATOR_EVERY,
    ProSGAN,
)

__all__ = ["DISCRIMINATOR_EVERY", "ProSGAN"]
