"""Victims × defences × attacks × budgets × data sets × seeds, ranked."""
