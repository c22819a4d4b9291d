"""What figures are made with: intervals, operating curves, what codes encode, sanity."""
