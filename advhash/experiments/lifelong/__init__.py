"""Categories that arrive one after another."""
