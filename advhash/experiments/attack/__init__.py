"""One attack, under one budget or several."""
