"""The command line: parse, run an experiment, print."""
