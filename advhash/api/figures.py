"""Figures by their names, as a notebook or a prompt shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from advhash.measures.intervals import Metric
from advhash.reports.elements.numbers import written
from advhash.reports.elements.verdict import NBSP

M = TypeVar("M", bound=Metric | None)


class Figures(dict[str, M]):
    """A mapping from names of figures to metrics, which prints one figure a line in its unit.

    figures:  by their names in docs/metrics.md
    pictures: whether they are of pictures, whose pixels are written in 255ths

    >>> Figures({"tmap": Metric(0.974, 0.93, 0.99, 9), "psnr": Metric(37.1)})
    tmap  97.4 %  [93.0, 99.0]
    psnr  37.1 dB
    >>> Figures({"linf": Metric(8 / 255)}), Figures({"linf": Metric(0.5)}, pictures=False)
    (linf  8.0/255, linf  0.500)
    """

    def __init__(self, figures: Mapping[str, M], *, pictures: bool = True) -> None:
        super().__init__(figures)
        self.pictures = pictures

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(
            f"{name:{width}}  "
            + written(name, metric, pictures=self.pictures, headed=False).replace(NBSP, " ")
            for name, metric in self.items()
        )
