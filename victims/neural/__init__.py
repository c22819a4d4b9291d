"""A network's activation pattern as a hash."""
