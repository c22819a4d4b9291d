"""What attack runs lead with, by their goal: terminal, page, notebook and `compare` ask here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """The figures that runs of a goal lead with.

    main:    what runs are compared and ranked by
    sign:    1 where a higher main figure is the stronger attack, −1 where a lower one is
    against: what the main figure is read against, in this order
    brief:   what a table with little room shows
    paired:  what each query has, so that two runs are compared query by query
    """

    main: str
    sign: int
    against: tuple[str, ...]
    brief: tuple[str, ...]
    paired: tuple[str, ...]

    @property
    def figures(self) -> tuple[str, ...]:
        """The main figure and what it is read against."""
        return (self.main, *self.against)


HEADLINES = {  # by the goal of an attack
    "targeted": Headline(
        main="tmap",
        sign=1,
        against=("tmap_clean", "tmap_ceiling", "tmap_normalised"),
        brief=("tmap", "tmap_normalised"),
        paired=("tmap",),
    ),
    "untargeted": Headline(
        main="map_adversarial",
        sign=-1,
        against=("map", "map_chance"),
        brief=("map_adversarial", "map_chance"),
        paired=("map", "map_adversarial"),
    ),
}
OWN = HEADLINES["untargeted"].paired  # for the labels of the query, whatever the goal
