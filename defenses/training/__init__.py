"""Defences that train a victim."""
