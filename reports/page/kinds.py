"""The kinds of runs that a page can show. A new kind is one entry of KINDS.

    KINDS[schema] = what reads its folders and makes chapters of them

A chapter (`chapters.Chapter`) names a template, a file beside this one. Its macros are called like
the topics that the kind speaks on (`chapters.TOPICS`; a new topic is one entry there), and the page
puts what they say under the headings of the topics. Contents, verdicts, flags, deviations and
provenance it makes from the other fields of the chapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from advhash.errors import RunError
from advhash.reports.attack.chapter import attack_chapters
from advhash.reports.benchmark import BENCHMARK, benchmark_chapter
from advhash.reports.certificates import CERTIFY, certificate_chapter
from advhash.reports.detection import DETECT, detection_chapter
from advhash.reports.elements.chapters import Chapter
from advhash.reports.elements.pictures import Pictures
from advhash.reports.encoding import ENCODING, encoding_chapter
from advhash.reports.evolve import SEARCH, search_chapter
from advhash.reports.inversion.chapter import inversion_chapter
from advhash.reports.inversion.record import SCHEMA as INVERSION
from advhash.reports.judge import JUDGE, judge_chapter
from advhash.reports.least_change import LEAST_CHANGE, least_change_chapter
from advhash.reports.lifelong.chapter import lifelong_chapter
from advhash.reports.lifelong.record import LIFELONG
from advhash.reports.phase import PHASE, phase_chapter
from advhash.reports.poison import POISON, poison_chapter
from advhash.reports.record import SCHEMA as ATTACK, SIBLINGS, Siblings, schema_of
from advhash.reports.scan import SCAN, scan_chapter
from advhash.reports.transfer import TRANSFER, transfer_chapter
from advhash.storage.documents import reason

Make = Callable[[Sequence[Path], Pictures], list[Chapter]]


def _each(make: Callable[[Path, Pictures], Chapter]) -> Make:
    """A kind whose runs have a chapter each."""
    return lambda paths, pictures: [make(path, pictures) for path in paths]


KINDS: dict[str, Make] = {  # schema of metrics.json → its chapters; in the order of the page
    BENCHMARK: _each(benchmark_chapter),
    ATTACK: attack_chapters,
    JUDGE: _each(judge_chapter),
    DETECT: _each(detection_chapter),
    TRANSFER: _each(transfer_chapter),
    POISON: _each(poison_chapter),
    CERTIFY: _each(certificate_chapter),
    LEAST_CHANGE: _each(least_change_chapter),
    LIFELONG: _each(lifelong_chapter),
    INVERSION: _each(inversion_chapter),
    ENCODING: _each(encoding_chapter),
    PHASE: _each(phase_chapter),
    SEARCH: _each(search_chapter),
    SCAN: _each(scan_chapter),
}


def _alone(paths: Sequence[Path]) -> Iterator[Path]:
    """The folders of runs, those of several radii one by one."""
    for path in paths:
        if schema_of(path) == SIBLINGS:
            yield from Siblings.read(path).folders(path)
        else:
            yield path


def chapters(paths: Sequence[Path], pictures: Pictures, *, foreign: bool = True) -> list[Chapter]:
    """What these runs say, kind by kind. Raises RunError; `foreign` as in `draw`."""
    groups: dict[str, list[Path]] = {schema: [] for schema in KINDS}
    for path in _alone(paths):
        schema = schema_of(path) or ATTACK  # what cannot be told is refused as a damaged attack run
        if schema not in KINDS:
            raise RunError(f"expected a run that a page can show, got {path} of schema {schema!r}")
        groups[schema].append(path)
    made = []
    for schema, group in groups.items():
        if not group:
            continue
        try:
            made += KINDS[schema](group, pictures)
        except (LookupError, StopIteration) as error:  # valid by its schema, but cut by someone
            if not foreign:
                raise
            raise RunError(
                f"expected whole records, got one of {', '.join(map(str, group))} without "
                f"{str(error) or 'a part'}: run it again"
            ) from None
        except (ValueError, TypeError, ArithmeticError) as error:  # or mixed up
            if not foreign:
                raise
            raise RunError(
                f"expected whole records, got one of {', '.join(map(str, group))} whose parts do "
                f"not fit together ({reason(error)}): run it again"
            ) from error
    return made
