"""Where work runs: executors, cores, processes, progress."""
