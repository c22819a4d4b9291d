"""Inputs reconstructed from codes: no perturbation, no budget."""
