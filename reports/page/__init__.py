"""One page over finished runs, and its tables and figures as files."""
