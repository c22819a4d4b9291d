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
    hides:   how the names of figures begin that say nothing of such a run
    """

    main: str
    sign: int
    against: tuple[str, ...]
    brief: tuple[str, ...]
    paired: tuple[str, ...]
    hides: tuple[str, ...] = ()

    @property
    def figures(self) -> tuple[str, ...]:
        """The main figure and what it is read against."""
        return (self.main, *self.against)

    @property
    def unattacked(self) -> str:
        """The main figure of the same queries before they are attacked."""
        return "map" if self.main == "map_adversarial" else f"{self.main}_clean"

    def shows(self, name: str) -> bool:
        """Whether a figure of this name says something of such a run."""
        return not name.startswith(self.hides)


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
AT_THRESHOLD = {  # where a threshold decides whether two pictures are one
    "targeted": Headline(
        main="collision_rate",
        sign=1,
        against=("collision_rate_clean", "threshold_bits", "bits_adversarial", "bits_own"),
        brief=("collision_rate", "bits_adversarial"),
        paired=("collision_rate", "bits_adversarial"),
        hides=("tmap", "map"),
    ),
    "untargeted": Headline(
        main="evasion_rate",
        sign=1,
        against=("evasion_rate_clean", "threshold_bits", "bits_adversarial"),
        brief=("evasion_rate", "bits_adversarial"),
        paired=("evasion_rate", "bits_adversarial"),
        hides=("tmap", "map"),
    ),
}
OF_QUERIES = {name for led in AT_THRESHOLD.values() for name in led.paired}  # of no direction
CONTROLS = ("noise", "token-noise")  # what attacks of the same budget are held against
OWN = HEADLINES["untargeted"].paired  # for the labels of the query, whatever the goal


def is_control(method: str) -> bool:
    """Whether a method, with its settings or without, is no attack: random changes alone.

    >>> is_control("noise"), is_control("token-noise+tries=2"), is_control("hag")
    (True, True, False)
    """
    return method.partition("+")[0] in CONTROLS


def headline_of(goal: str, *, at_threshold: bool) -> Headline:
    """What a run of this goal leads with."""
    return (AT_THRESHOLD if at_threshold else HEADLINES)[goal]
