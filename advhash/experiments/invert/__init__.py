"""Inputs reconstructed from codes."""
