"""Attacks and controls that need no gradient."""
