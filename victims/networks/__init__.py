"""Backbones of images, encoders of texts, and where weights come from."""
