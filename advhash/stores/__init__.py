"""Where codes are kept and searched: ours, and the vector stores that people run."""
