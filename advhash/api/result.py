"""What `advhash.attack` returns: adversarial inputs, codes, figures, and a view for notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.data.images.mixed import MixedPictures, one_picture, to_unit
from advhash.errors import UsageError, counted
from advhash.experiments.attack.examples import picture
from advhash.experiments.attack.record import Outcome
from advhash.measures.intervals import Metric
from advhash.measures.paired_runs import Queries
from advhash.reports.elements.numbers import written
from advhash.reports.headline import OWN, Headline, headline_of
from advhash.reports.record import GAIN, Record
from advhash.reports.vocabulary import figure as figure_of
from advhash.shared_labels import Labels, label_numbers

if TYPE_CHECKING:  # matplotlib is imported where it draws
    from matplotlib.figure import Figure

THUMBNAILS = 4
DISTANCES = (  # what else the view shows, in this order, where there is any
    *("bits_changed", "linf", "l2", "psnr", "ssim", "words_changed"),
)
# Names, flags and class names come from data sets and from the user: Jinja escapes them all.
_VIEW = Environment(autoescape=True, undefined=StrictUndefined).from_string(
    """<div class="advhash-result">
<p><strong>{{ title }}</strong></p>
<table>
<caption>Means over {{ count }} with 95 % intervals</caption>
<thead><tr><th scope="col">figure</th><th scope="col">value</th></tr></thead>
<tbody>
{%- for name, value in figures %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{%- endfor %}
</tbody>
</table>
{%- if pictures %}
<table>
<caption>The first queries: clean, attacked, and the change enlarged {{ gain }} times</caption>
<thead><tr><th scope="col">query</th><th scope="col">clean</th><th scope="col">attacked</th>\
<th scope="col">change</th></tr></thead>
<tbody>
{%- for name, clean, moved, change in pictures %}
<tr><th scope="row">{{ name }}</th>\
<td><img src="{{ clean }}" width="96" alt="{{ name }}, clean"></td>\
<td><img src="{{ moved }}" width="96" alt="{{ name }}, attacked"></td>\
<td><img src="{{ change }}" width="96" alt="{{ name }}, change"></td></tr>
{%- endfor %}
</tbody>
</table>
{%- endif %}
{%- for message in messages %}
<p>{{ message }}</p>
{%- endfor %}
</div>"""
)


@dataclass(frozen=True, repr=False)
class AttackResult:
    """N attacked items.

    title:       method, budget, victim and, where there is a database, its data in one line
    modality:    of the items
    index:       (N,) their rows in the split that they came from
    clean:       (N, …) as the victim saw them, images in [0,1]
    adversarial: (N, …) inside the budget and the bounds, images on the 8-bit grid; both are
                 MixedPictures, perhaps of 0 to 255, where pictures have several sizes
    clean_codes, codes: of both
    targets:     (N,C) label sets aimed at; None when untargeted
    columns:     (N,) figures of each item by name: `linf`, `l2` (raw units), `psnr` (dB), `ssim`,
                 `overrun` (how far the method went beyond the budget), `bits_changed`, and where
                 there is a database `map`, `map_adversarial`, `tmap` … (NaN where one has none)
    metrics:     their means with 95 % intervals, and the figures that belong to no single item
    messages:    what to know before the figures are believed, the gravest first
    record:      as `advhash attack --json` prints it; None without a database
    folder:      of the run, where one was written

    A prompt shows title, figures, and what to know of them:

    >>> import torch
    >>> from torch import nn
    >>> import advhash as ah
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 16))
    >>> own = ah.bring(model, ah.load_dataset("digits"), name="hyperplanes")
    >>> result = ah.attack(own, method="hag", protocol={"queries": 20}, steps=5)
    >>> result  # doctest: +ELLIPSIS
    hag (L∞ 8/255) on hyperplanes, digits, 20 queries
    MAP attacked: 14.9 %  [11.8, 19.5]; MAP clean: 29.0 %  [24.6, 34.3]; ...
    Nothing was flagged; .metrics has all figures.
    """

    title: str
    modality: str
    index: npt.NDArray[np.int64]
    clean: Tensor | MixedPictures
    adversarial: Tensor | MixedPictures
    clean_codes: HashCodes
    codes: HashCodes
    targets: Labels | None
    columns: Mapping[str, npt.NDArray[np.float64]]
    metrics: Mapping[str, Metric | None]
    messages: tuple[str, ...] = ()
    record: Record | None = None
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        brief = {*self._headline.brief, *self._own, "linf", "l2", "psnr", "words_changed"}
        figures = [f"{name}: {value}" for name, value in self.figures(brief)]
        title = f"{self.title}, {counted(len(self), 'query')}"
        return "\n".join([title, "; ".join(figures), self._doubt])

    @property
    def _doubt(self) -> str:
        """The gravest thing to know before the figures are believed, or where all of them are."""
        if self.record is None:
            return "No database was searched: there are no figures of retrieval and no flags."
        if not self.messages:
            where = ".metrics" if self.folder is None else f"{self.folder}"
            return f"Nothing was flagged; {where} has all figures."
        more = len(self.messages) - 1
        return self.messages[0] + (f" ({more} more in .messages)" if more else "")

    def plot(self) -> Figure:
        """The first queries as they were, as they are now and what changed, enlarged.

        Results of other inputs than pictures are drawn as the bits that changed in each code. The
        figure is matplotlib's: a notebook shows it, `figure.savefig("change.png")` keeps it.
        """
        from matplotlib.figure import Figure

        if self.modality != "image":
            figure = Figure(figsize=(5, 3), layout="constrained")
            axes = figure.subplots()
            changed = self.columns["bits_changed"]
            axes.hist(changed, bins=(np.arange(self.codes.bits + 2) - 0.5).tolist())
            axes.set(xlabel=f"bits of {self.codes.bits} that changed", ylabel="queries")
            return figure
        shown = list(self._shown())
        figure = Figure(figsize=(5, 1.7 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), 3, squeeze=False)
        for place, (name, *images) in enumerate(shown):
            titles = ("clean", "attacked", f"change × {GAIN}")
            for axes, image, title in zip(grid[place], images, titles, strict=True):
                axes.imshow(image.clamp(0, 1).permute(1, 2, 0).cpu().numpy())
                axes.set(xticks=[], yticks=[], title="" if place else title)
            grid[place][0].set_ylabel(name)
        return figure

    def _repr_html_(self) -> str:
        return _VIEW.render(
            title=self.title,
            count=counted(len(self), "query"),
            figures=self.figures(),
            pictures=self._pictures(),
            gain=GAIN,
            messages=self.messages,
        )

    def figures(self, only: Collection[str] | None = None) -> list[tuple[str, str]]:
        """Label and value of the figures that a reader wants first; `only` those of these names."""
        names = (*self._headline.figures, *self._own, *DISTANCES)
        pictures = self.modality == "image"
        return [
            (
                figure_of(name).heading,
                written(name, self.metrics[name], pictures=pictures),
            )
            for name in dict.fromkeys(names)
            if getattr(self.metrics.get(name), "value", None) is not None
            and (only is None or name in only)
        ]

    @property
    def _headline(self) -> Headline:
        goal = "untargeted" if self.targets is None else "targeted"
        judged = self.record is not None and self.record.protocol.at_threshold
        return headline_of(goal, at_threshold=judged)

    @property
    def _own(self) -> tuple[str, ...]:
        return tuple(filter(self._headline.shows, OWN))

    def queries(self) -> Queries:
        """What a paired comparison needs. Raises UsageError without a database."""
        if self.record is None:
            raise UsageError("expected results with figures of retrieval: attack with data=")
        order = np.argsort(self.index, kind="stable")
        aims = None
        if self.targets is not None:
            aims = [label_numbers(row) for row in self.targets[order]]
        columns = {name: self.columns[name][order] for name in (*self._headline.paired, *self._own)}
        return Queries(self.index[order], aims, columns)

    def _shown(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Name, clean picture, attacked one and the enlarged change of the first queries."""
        for row in range(min(THUMBNAILS, len(self))):
            clean, moved = (
                to_unit(one_picture(images, row)) for images in (self.clean, self.adversarial)
            )
            yield f"query {self.index[row]}", clean, moved, 0.5 + GAIN * (moved - clean)

    def _pictures(self) -> list[tuple[str, str, str, str]]:
        if self.modality != "image":
            return []
        return [
            (name, _uri(clean), _uri(moved), _uri(change))
            for name, clean, moved, change in self._shown()
        ]


def bits_changed(outcome: Outcome) -> npt.NDArray[np.float64]:
    """(N,) Hamming distance of each code to the clean one."""
    different = outcome.clean_codes.unpack() != outcome.codes.unpack()
    return np.asarray(different.sum(axis=1), dtype=np.float64)


def _uri(image: Tensor) -> str:
    buffer = io.BytesIO()
    picture(image, longest=96).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
