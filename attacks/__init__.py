"""Attacks on hashing retrieval."""
