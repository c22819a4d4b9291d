"""What a lifelong run says: its verdict, its curves, its chapter of a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from advhash.errors import counted
from advhash.measures.intervals import Metric
from advhash.reports.elements.chapters import Chapter, Statement, data_fact, source_of
from advhash.reports.elements.numbers import as_number, as_percent
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import (
    COLOURS,
    MUTED,
    STYLE,
    Drawing,
    legend_below,
    make_logarithmic,
    svg_of,
)
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    number,
    of_figures,
    points,
    row,
)
from advhash.reports.elements.verdict import NO_VALUE
from advhash.reports.lifelong.record import (
    GROUPS,
    NAMES,
    VERDICT,
    VIEWS,
    Group,
    LifelongRecord,
    TimeRow,
    View,
)
from advhash.reports.vocabulary import label_of

MARKS = dict(zip(NAMES, "sdDo^vP*x", strict=True))
TINTS = dict(zip(NAMES, (*COLOURS, "#5c4033", "#1f2328", MUTED), strict=True))
HASHES_ALL = {"retrain", "retrain_same_time", "dcmh"}  # there is no old code that could change
DASHED = {"codes_only", "dlcmh_binary", "retrain_same_time", "chance"}


def verdict(record: LifelongRecord) -> list[str]:
    """What was found, in sentences, with intervals."""
    metrics = {name: record.metrics[name] or Metric() for name in VERDICT}
    changed = metrics["old_codes_changed"].value
    sentences = [
        f"An increment takes {_share(metrics['increment_seconds_ratio'])} of the time of "
        "retraining on everything (processor time: "
        f"{_share(metrics['increment_cpu_seconds_ratio'])}).",
        "On queries of new categories, its MAP is "
        f"{_gain(metrics['map_new_gain'])} the frozen networks and "
        f"{_gain(metrics['map_new_gain_same_time'])} retraining in the same time.",
        "Part of that are codes learnt with the labels of the rows: among rows never trained on it "
        f"is {_gain(metrics['map_new_gain_untrained'])} the frozen networks and "
        f"{_gain(metrics['map_new_gain_same_time_untrained'])} retraining in the same time; with "
        "all rows hashed by the networks, "
        f"{_gain(metrics['map_new_gain_hashed'])} the frozen ones.",
        f"Against full retraining, all queries {_lost(metrics['map_all_gap'])}.",
        f"Queries of phase 1 {_lost(metrics['forgetting_old'])} among the rows of phase 1 by the "
        f"last increment; with naive fine-tuning they {_lost(metrics['forgetting_old_finetune'])}.",
        "No old code changed."
        if changed == 0
        else f"{100 * changed:.1f} % of the old codes changed."
        if changed is not None
        else "Whether old codes changed is not known.",
    ]
    stale, fresh = (
        [row for row in record.robustness if row.attack == name and row.stage == record.last]
        for name in ("stale", "fresh")
    )
    if stale and fresh:
        sentences.append(
            "ProS-GAN fitted to the victim of phase 1 still has t-MAP "
            f"{_share(stale[0].tmap)} after the last increment, a fresh one "
            f"{_share(fresh[0].tmap)}; clean queries have {_share(stale[0].tmap_clean)}."
        )
    return sentences


def _share(metric: Metric) -> str:
    """A share in percent with its interval."""
    if metric.value is None:
        return "an unknown share"
    return f"{100 * metric.value:.0f} %{_interval(metric, 0)}"


def _interval(metric: Metric, digits: int, sign: int = 1) -> str:
    if metric.low is None or metric.high is None:
        return ""
    low, high = sorted((100 * sign * metric.low, 100 * sign * metric.high))
    unsure = " (may be chance)" if low < 0 < high else ""
    return f" [{low:z.{digits}f}, {high:z.{digits}f}]{unsure}"


def _gain(metric: Metric) -> str:
    if metric.value is None:
        return "an unknown share above"
    side = "above" if metric.value >= 0 else "below"
    sign = 1 if metric.value >= 0 else -1
    return f"{abs(100 * metric.value):.0f} %{_interval(metric, 0, sign)} {side}"


def _lost(metric: Metric) -> str:
    if metric.value is None:
        return "lose an unknown amount"
    verb, sign = ("lose", 1) if metric.value >= 0 else ("gain", -1)
    return f"{verb} {abs(100 * metric.value):.1f} points of MAP{_interval(metric, 1, sign)}"


def figures(record: LifelongRecord) -> list[Drawing]:
    """MAP by group, seconds, robustness; over the increments."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        for group, meaning in GROUPS.items():
            drawn.append(
                Drawing(
                    _map_figure(record, group),
                    f"MAP of each method after each increment, {meaning}. The same numbers stand "
                    "in the table below.",
                    f"MAP, mean of image → text and text → image: {meaning}.",
                )
            )
        drawn.append(
            Drawing(
                _map_figure(record, "new", "untrained"),
                "MAP of new queries among rows that were never trained on. The same numbers stand "
                "in the table below.",
                "MAP of new queries among rows never trained on.",
            )
        )
        drawn.append(
            Drawing(
                _time_figure(record),
                "Seconds of training of each method and increment, on a logarithmic axis. The same "
                "numbers stand in the table of costs.",
                "Seconds of training (logarithmic).",
            )
        )
        if record.robustness:
            drawn.append(
                Drawing(
                    _attack_figure(record),
                    "t-MAP of the stale and the fresh attack and of clean queries after each "
                    "increment. The same numbers stand in the table of robustness.",
                    "ProS-GAN against the fused database, queries and targets of phase 1.",
                )
            )
    return drawn


def _panel(record: LifelongRecord, label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("increment (0: phase 1)")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.15, record.last + 0.15)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _line(
    axes: Axes, place: int, name: str, label: str, points: Sequence[tuple[int, Metric]]
) -> None:
    known = [(stage, metric) for stage, metric in points if metric.value is not None]
    if not known:
        return
    colour = TINTS[name] if name in TINTS else COLOURS[place % len(COLOURS)]
    across = [stage + 0.02 * (place - 3) for stage, _ in known]
    axes.plot(
        across,
        [100 * (metric.value or 0) for _, metric in known],
        "--" if name in DASHED else "-",
        marker=MARKS.get(name, "o"),
        markersize=5,
        linewidth=2.4 if name == "dlcmh" else 1.3,
        color=colour,
        label=label,
    )
    for x, (_, metric) in zip(across, known, strict=True):
        if metric.low is not None and metric.high is not None:
            axes.plot([x, x], [100 * metric.low, 100 * metric.high], color=colour, alpha=0.45)


def _finish(figure: Figure) -> bytes:
    legend_below(figure, 2, fontsize=8)
    return svg_of(figure)


def _map_figure(record: LifelongRecord, group: Group, view: View = "served") -> bytes:
    figure, axes = _panel(record, "MAP (%)")
    for place, method in enumerate(NAMES):
        points = [
            (stage, metric)
            for stage in range(record.last + 1)
            if (metric := _start(record, method, stage, group, view)) is not None
        ]
        _line(axes, place, method, NAMES[method], points)
    return _finish(figure)


def _start(
    record: LifelongRecord, method: str, stage: int, group: Group, view: View
) -> Metric | None:
    """Phase 1 has one group, so that the curves of old queries begin with all of its queries."""
    if stage == 0:
        return None if group == "new" else record.at(method, 0, "all", view=view)
    return record.at(method, stage, group, view=view)


def _time_figure(record: LifelongRecord) -> bytes:
    figure, axes = _panel(record, label_of("seconds"))
    for method in NAMES:
        points = [(row.stage, row.seconds) for row in record.times if row.method == method]
        known = [(stage, metric.value) for stage, metric in points if metric.value is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                "--" if method in DASHED else "-",
                marker=MARKS[method],
                markersize=5,
                color=TINTS[method],
                label=NAMES[method],
            )
    make_logarithmic(axes)
    return _finish(figure)


def _attack_figure(record: LifelongRecord) -> bytes:
    figure, axes = _panel(record, f"{label_of('tmap')} (%)")
    axes.set_ylim(-2, 102)
    labels = {"stale": "fitted to the victim of phase 1", "fresh": "fitted to the present victim"}
    for place, (attack, label) in enumerate(labels.items(), start=1):
        points = [(row.stage, row.tmap) for row in record.robustness if row.attack == attack]
        _line(axes, place, attack, label, points)
    clean = [(row.stage, row.tmap_clean) for row in record.robustness if row.attack == "fresh"]
    _line(axes, 0, "chance", "clean queries", clean)
    return _finish(figure)


def orders_table(record: LifelongRecord) -> Table:
    """What each increment brings."""
    protocol = record.protocol
    rows = []
    for place, order in enumerate(protocol.orders):
        brought = ["all others", *(", ".join(names) for names in order)]
        for stage, names in enumerate(brought):
            counts = (protocol.rows[place][stage], protocol.queries[place][stage])
            rows.append(
                row(TableCell(str(place)), number(stage), TableCell(names), map(number, counts))
            )
    return Table(
        "Orders of categories",
        "What each increment brings.",
        [
            *columns("Order", "Stage"),
            Column("New categories", wide=True),
            *columns("Rows there", "New queries"),
        ],
        rows,
    )


def maps_table(record: LifelongRecord) -> Table:
    """MAP of all methods after each increment, by group of queries."""
    return Table(
        "MAP of all methods",
        "MAP in percent, mean of image → text and text → image, 95 % intervals in small print. "
        "“First”: queries of phase 1 among the rows of phase 1 alone; a fall there is forgetting.",
        columns("Method", "Increment", *map(str.capitalize, GROUPS)),
        [
            row(
                TableCell(NAMES[method]),
                number(stage),
                (points(record.at(method, stage, group)) for group in GROUPS),
            )
            for method in record.methods
            for stage in range(record.last + 1)
            if record.at(method, stage, "all") is not None
        ],
    )


def kinds_table(record: LifelongRecord) -> Table:
    """MAP of new queries by what the database holds."""
    return Table(
        "MAP by kind of code",
        "MAP of new queries in percent by what the database holds. A method may serve codes that "
        "were learnt with the labels of the rows it trained on: “never trained on” leaves these "
        "rows out, “networks” hashes all rows by the networks of that stage.",
        [
            *columns("Method", "Increment"),
            *(Column(meaning.capitalize(), wide=True) for meaning in VIEWS.values()),
        ],
        [
            row(
                TableCell(NAMES[method]),
                number(stage),
                (points(record.at(method, stage, "new", "mean", view)) for view in VIEWS),
            )
            for method in record.methods
            if method != "chance"
            for stage in range(1, record.last + 1)
            if record.at(method, stage, "new") is not None
        ],
    )


def directions_table(record: LifelongRecord) -> Table:
    """MAP after the last increment by direction."""
    return Table(
        "MAP by direction",
        "MAP in percent after the last increment: query – what the database holds.",
        columns("Method", "Direction", *map(str.capitalize, GROUPS)),
        [
            row(
                TableCell(NAMES[method]),
                TableCell(way.replace("_", " – ")),
                (points(record.at(method, record.last, group, way)) for group in GROUPS),
            )
            for method in record.methods
            if method != "chance"
            for way in ("image_text", "text_image", "image_fused", "text_fused")
        ],
    )


def costs_table(record: LifelongRecord) -> Table:
    """What training took."""
    threads = record.protocol.threads

    def changed(cost: TimeRow) -> str:
        return (
            NO_VALUE if cost.stage == 0 or cost.method in HASHES_ALL else as_percent(cost.changed)
        )

    return Table(
        "Costs",
        f"Costs of training and hashing, {counted(threads, 'thread')}; means with "
        "intervals over orders and seeds. Old codes changed: the largest share over all cells.",
        [
            *columns("Method", "Increment"),
            *of_figures("seconds", "cpu_seconds", "epochs", "old_codes_changed"),
        ],
        [
            row(
                TableCell(NAMES[cost.method]),
                number(cost.stage),
                number(as_number(cost.seconds, 1)),
                number(as_number(cost.cpu_seconds, 1)),
                number(as_number(cost.epochs, 1)),
                number(changed(cost)),
            )
            for cost in record.times
        ],
    )


def robustness_table(record: LifelongRecord) -> Table | None:
    """What ProS-GAN reaches; None where it was not asked."""
    if not record.robustness:
        return None
    return Table(
        "Lifelong robustness",
        "t-MAP in percent, 95 % intervals in small print; mean L2 of the change.",
        [
            *columns("Attack", "Increment"),
            *of_figures("tmap", "tmap_clean", "tmap_chance", "l2"),
        ],
        [
            row(
                TableCell("fitted in phase 1" if entry.attack == "stale" else "fitted anew"),
                number(entry.stage),
                map(points, (entry.tmap, entry.tmap_clean, entry.tmap_chance)),
                number(as_number(entry.l2)),
            )
            for entry in record.robustness
        ],
    )


def lifelong_chapter(folder: Path, _: Pictures) -> Chapter:
    """What a lifelong run says. Raises RunError."""
    record = LifelongRecord.read(folder)
    victim, data, label = record.victim, record.dataset, f"lifelong run {record.run.id}"
    title = f"Lifelong learning: {victim.name} on {data.label}"
    settings = {
        "victim": victim.settings,
        "rival": record.rival.settings,
        "attack": record.attack,
        "data set": data.settings,
    }
    facts = [
        *((method.name, f"Source: {method.source}.") for method in (victim, record.rival)),
        ("Data set", data_fact(data)),
    ]
    lead, *more = verdict(record)
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=f"How well a lifelong victim learns on {data.label}",
        template="lifelong.html",
        values={
            "record": record,
            "figures": figures(record),
            "orders": orders_table(record),
            "maps": maps_table(record),
            "kinds": kinds_table(record),
            "directions": directions_table(record),
            "costs": costs_table(record),
            "robustness": robustness_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, facts, settings)],
        datasets=[data.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=[
            (method.name, text) for method in (victim, record.rival) for text in method.deviations
        ],
        attributions=[data.attribution],
    )
