"""The chapter of attack runs."""
