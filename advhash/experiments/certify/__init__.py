"""What randomised smoothing certifies of a victim."""
