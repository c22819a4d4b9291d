"""`import advhash as ah`: the functions of the toolkit from Python."""

from advhash.api.calls import (
    attack,
    bring,
    compare,
    evaluate,
    load,
    load_dataset,
    report,
    train,
)

__all__ = ["attack", "bring", "compare", "evaluate", "load", "load_dataset", "report", "train"]
