"""Hashes of images and texts in one space."""
