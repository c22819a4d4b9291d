"""Neural codes over size, training time and data."""
