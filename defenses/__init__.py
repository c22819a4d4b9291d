"""Defences and detectors."""
