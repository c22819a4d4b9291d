"""What is kept, whole or not at all: files, the cache, checkpoints, run folders."""
