"""An adversarial set that any tool made, scored on our originals, with its claims beside it."""
