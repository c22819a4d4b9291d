"""How long work tells how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

OVERALL = "overall"  # the stage of a whole command


class Progress(Protocol):
    """Called as work goes on: what is done, how far, out of how much, with which figures."""

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None: ...


def silent(stage: str, done: int, total: int, **figures: float) -> None:
    """The progress that shows nothing."""


class Steps:
    """The progress of work in steps that are known beforehand: "step 2 of 5: decoder".

    What a step tells is shown under its number, and the whole as the stage `OVERALL`.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._total, self._done, self._now = progress, 0, 0, 0

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        step = f"step {self._now} of {self._total}: " if self._now and self._total > 1 else ""
        self._progress(step + stage, done, total, **figures)

    def expect(self, total: int) -> None:
        """Say, before the first, how many steps there are."""
        self._total = total
        self.at(0)

    def begin(self) -> None:
        """The next step begins; the one before it is done."""
        self.at(self._now)
        self._now += 1

    def finish(self) -> None:
        """All steps are done."""
        self.at(self._total)

    def at(self, done: int) -> None:
        """So many steps are done."""
        self._done = done
        self._now = max(self._now, done)
        self._progress(OVERALL, done, self._total)

    def beside(self) -> Progress:
        """The progress of the next steps, worked at side by side: each unit of it is one."""
        before = self._done if self._now == self._done else self._now

        def together(stage: str, done: int, total: int, **figures: float) -> None:
            self._progress(stage, done, total, **figures)
            self.at(before + done)

        return together


@dataclass(frozen=True)
class Span:
    """One passage through a stage: the number-th of its name, begun at a time and a place."""

    number: int
    since: float
    first: int
    done: int
    total: int

    def left(self, now: float) -> float | None:
        """Seconds that it takes on, as fast as before; None where nothing tells, or it is done."""
        made = self.done - self.first
        if now <= self.since or made <= 0 or self.done >= self.total:
            return None
        return (now - self.since) / made * (self.total - self.done)


class Clocks:
    """Each passage through a stage has its own clock, where one name comes more than once."""

    def __init__(self) -> None:
        self._spans: dict[str, Span] = {}

    def tell(self, stage: str, done: int, total: int, now: float) -> Span:
        """The passage that this call belongs to: a new one where less is done, or of other size."""
        known = self._spans.get(stage)
        if known is None or done < known.done or total != known.total:
            number = 1 if known is None else known.number + 1
            span = Span(number, now, done, done, total)
        else:
            span = Span(known.number, known.since, known.first, done, total)
        self._spans[stage] = span
        return span
