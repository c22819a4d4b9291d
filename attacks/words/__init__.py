"""Attacks that change words."""
