"""Attacks as data."""
