"""The commands for codes from anyone's model: `advhash eval` and `advhash codes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from advhash.cli.console import print_flags, print_metrics, print_retrieval
from advhash.cli.options import (
    AllowSuperuser,
    Json,
    Rescore,
    StoreName,
    checked,
    search_tables,
)
from advhash.cli.terminal import tell
from advhash.errors import UsageError, counted

if TYPE_CHECKING:
    from advhash.codes.code_files import LabelledCodes, StoredCodes
    from advhash.codes.forms import Reading
    from advhash.experiments.evaluate import Evaluation
    from advhash.stores.figures import Asked, Search

_DECIDES = {  # what may say what is relevant, where an option decides anything
    "similarity": ("neighbours",),
    "label_form": ("labels",),
    "empty": ("labels", "judgements"),
}

codes_app = typer.Typer(
    help="Files of codes: convert them, or write those of a victim.", no_args_is_help=True
)

Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Labels, where the codes have none: (N,) class numbers, or (N,C) of 0 and 1.",
    ),
]
Form = Annotated[
    Literal["auto", "classes", "multi-hot"],
    typer.Option(
        "--label-form",
        help="What labels are. auto: one column is class numbers, several are multi-hot.",
    ),
]
Stored = Annotated[
    Literal["auto", "bits", "signs", "ubinary", "binary", "floats", "hex", "base64"],
    typer.Option(
        "--form",
        help="How codes are stored: 0 and 1, -1 and 1, packed bytes (uint8, or int8 minus 128), "
        "embeddings, words. auto: as recognised.",
    ),
]
Quantise = Annotated[
    Literal["sign", "mean", "median"] | None,
    typer.Option(
        "--quantise",
        help="Bits of floats: above 0, or above the mean or median of the database.",
    ),
]
Bits = Annotated[
    int | None,
    typer.Option("--bits", help="The first bits or dimensions alone. (default: all)"),
]
Column = Annotated[
    str | None,
    typer.Option("--column", help="The column or array of the codes. (default: by its name)"),
]


def evaluate_codes(
    context: typer.Context,
    codes: Annotated[Path, typer.Option("--codes", help="Codes of the queries.")],
    database: Annotated[Path, typer.Option("--database", help="Codes of the database.")],
    labels: Labels = None,
    database_labels: Annotated[
        Path | None,
        typer.Option("--database-labels", help="Labels of the database, where its file has none."),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option("--targets", help="Labels the queries are meant to retrieve: t-MAP."),
    ] = None,
    label_form: Form = "auto",
    form: Stored = "auto",
    quantise: Quantise = None,
    bits: Bits = None,
    column: Column = None,
    relevance: Annotated[
        Path | None,
        typer.Option(
            "--relevance",
            help="Instead of labels: a BEIR folder, TREC qrels, or pairs of query and document.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Which qrels of a BEIR folder. (default: test)")
    ] = None,
    query_ids: Annotated[
        Path | None,
        typer.Option("--query-ids", help="What the queries are called there, one a row."),
    ] = None,
    database_ids: Annotated[
        Path | None,
        typer.Option("--database-ids", help="What the rows of the database are called there."),
    ] = None,
    ignore_unknown: Annotated[
        bool,
        typer.Option("--ignore-unknown", help="Leave out judgements of rows that are not here."),
    ] = False,
    similarity: Annotated[
        Literal["cosine", "dot"],
        typer.Option("--similarity", help="How floats are compared: their nearest are relevant."),
    ] = "cosine",
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", help="Judge the first K results alone. (default: all of them)"),
    ] = None,
    empty: Annotated[
        Literal["zero", "skip", "error"],
        typer.Option("--empty", help="What becomes of a query without a relevant row."),
    ] = "zero",
    convention: Annotated[
        Literal["prosgan", "dhta", "deephash"] | None,
        typer.Option("--convention", help="Also state MAP as this published code computes it."),
    ] = None,
    store: StoreName = None,
    rescore: Rescore = None,
    allow_superuser: AllowSuperuser = False,
    shards: Annotated[
        int | None, typer.Option("--shards", help="Parts of the database. (default: by size)")
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
    ] = "inline",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the intervals.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the figures of every query (.parquet).")
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """MAP of codes from anyone's model, exact under ties, with bounds, chance and intervals.

    Files: .codes (ours), .npz with arrays `codes` (N,K) and `labels`, .npy, text, .jsonl, .parquet,
    faiss indices. Codes: bits, packed bytes, hex, base64, or floats to quantise. Relevant is what
    shares a label (class numbers (N,), or 0 and 1 (N,C)), what --relevance says, or, of floats
    without either, the nearest floats.
    """
    from advhash.cli.console import print_json, progress_display
    from advhash.codes.code_files import read_stored
    from advhash.codes.stored_rows import expect_columns
    from advhash.compute.executor import check_executor
    from advhash.compute.progress import silent
    from advhash.experiments.evaluate import check_out, write_queries
    from advhash.measures.sanity import check_apart

    check_executor(executor)
    if shards is not None and shards < 1:
        raise UsageError(f"expected --shards above 0, got {shards}")
    if seed < 0:
        raise UsageError(f"expected --seed 0 or above, got {seed}")
    if out is not None:
        check_out(out)
    named = {
        "--split": split,
        "--query-ids": query_ids,
        "--database-ids": database_ids,
        "--ignore-unknown": ignore_unknown or None,
    }
    given = [name for name, value in named.items() if value is not None]
    if relevance is None and given:
        raise UsageError(f"{', '.join(given)} goes with --relevance")
    labelled = (labels or database_labels or targets) is not None
    if relevance is not None and labelled:
        raise UsageError("expected labels or --relevance, got both: leave one of them out")
    searched = _search(store, rescore, allow_superuser)
    how = _reading(form, quantise, bits, column)
    expect_columns(column, codes, database)
    gallery = read_stored(database, how)
    query = read_stored(codes, how, database=gallery)
    asked = None if searched is None else _asked(searched, query, gallery)
    if relevance is not None:
        relevant = "judgements"
    elif labelled or not _floats_alone((codes, query), (database, gallery)):
        relevant = "labels"
    else:
        relevant = "neighbours"
    _check_used(context, relevant)
    settings: dict[str, Any] = {
        "top_k": top_k,
        "shards": shards or default_shards(len(gallery), executor),
        "executor": executor,
        "served": asked,
    }
    judged = {"empty": empty, "convention": convention}
    with nullcontext(silent) if quiet else progress_display() as progress:
        settings["progress"] = progress
        if relevant == "judgements":
            assert relevance is not None
            sides = (("queries", query, query_ids), ("database", gallery, database_ids))
            figures, said = _by_judgements(
                relevance, sides, split, ignore_unknown, {**settings, **judged}
            )
        elif relevant == "labels":
            files = ((codes, query, labels), (database, gallery, database_labels))
            figures, said = _by_labels(files, targets, label_form, {**settings, **judged})
        else:
            figures, said = _by_neighbours(query, gallery, similarity, {**settings, **judged})
    if out is not None:
        write_queries(out, figures)
    document: dict[str, Any] = {
        "schema": "advhash/eval/1",
        "files": {"queries": codes.name, "database": database.name},
        "queries": len(query),
        "database": len(gallery),
        "bits": query.codes.bits,
        "forms": {"queries": query.form, "database": gallery.form},
        "read_as": {"queries": query.described(), "database": gallery.described()},
        "classes": None,
        "label_form": None,
        **said,
        "ties": "expected",
        "empty": empty,
        "top_k": top_k,
        "executor": executor,
        "flags": [vars(flag) for flag in check_apart(query.codes, gallery.codes)],
        **figures.document(seed),
    }
    if as_json:
        print_json(document)
    else:
        print_evaluation(document, quiet=quiet)


def _search(store: str | None, rescore: list[str] | None, allow_superuser: bool) -> Search | None:
    """The search that is asked for. Raises UsageError."""
    tables = search_tables(store, rescore, allow_superuser)
    if not tables:
        return None
    from advhash.stores.figures import Search
    from advhash.stores.served import check_served

    search = Search(tables["store"], tables.get("rescore", []))
    check_served(search.store, search.rescore)
    return search


def _asked(search: Search, query: StoredCodes, database: StoredCodes) -> Asked:
    """Raises UsageError where a side has no floats that the search needs."""
    from advhash.stores.figures import Asked, expect_floats, vectors_of

    expect_floats(search, query.floats, database.floats)
    return Asked(search, vectors_of(query), vectors_of(database))


def _reading(form: str, quantise: str | None, bits: int | None, column: str | None) -> Reading:
    from advhash.codes.forms import Reading

    if bits is not None and bits < 1:
        raise UsageError(f"expected --bits above 0, got {bits}")
    if form == "floats" and quantise is None:
        raise UsageError("--form floats has no bits: add --quantise sign, mean or median")
    given: Any = (None if form == "auto" else form, quantise, bits, column)
    return Reading(*given)


def _check_used(context: typer.Context, relevant: str) -> None:
    """Raise UsageError for an option that decides nothing where this says what is relevant."""
    for name, where in _DECIDES.items():
        source = context.get_parameter_source(name)
        if relevant not in where and source is not None and source.name != "DEFAULT":
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} goes with {' or '.join(where)}, and here {relevant} say what is "
                "relevant: leave it out"
            )


def _floats_alone(*sides: tuple[Path, StoredCodes]) -> bool:
    """Whether both sides are floats, and none of the files has labels."""
    floats = all(stored.floats is not None for _, stored in sides)
    return floats and not any(stored.has_labels(file) for file, stored in sides)


def _by_labels(
    sides: Sequence[tuple[Path, StoredCodes, Path | None]],
    targets: Path | None,
    label_form: Any,
    settings: Mapping[str, Any],
) -> tuple[Evaluation, dict[str, Any]]:
    """Figures where relevant is what shares a label, and what is said of it."""
    from advhash.codes.code_files import read_labels, with_labels
    from advhash.experiments.evaluate import evaluate

    if targets is None and settings["convention"] is None:
        identified = _by_identities(sides, label_form, settings)
        if identified is not None:
            return identified
    read, gallery = (with_labels(*side, label_form) for side in sides)
    query = read.fitted(gallery)
    aims = None
    if targets is not None:
        aims = read_labels(targets, label_form).fitted(gallery.labelled, "targets").hot
    figures = evaluate(query, gallery, targets=aims, **settings)
    return figures, {
        "classes": max(read.labels.bits, gallery.labels.bits),
        "label_form": {"queries": read.form, "database": gallery.form},
        "relevance": {"by": "labels"},
    }


def _by_identities(
    sides: Sequence[tuple[Path, StoredCodes, Path | None]],
    label_form: Any,
    settings: Mapping[str, Any],
) -> tuple[Evaluation, dict[str, Any]] | None:
    """The figures of `_by_labels` where class numbers are so many that each gets no column."""
    from advhash.codes.code_files import LabelledCodes, read_class_numbers
    from advhash.codes.relevance import identities
    from advhash.experiments.evaluate import evaluate

    if not all(labels is not None or side.has_labels(file) for file, side, labels in sides):
        return None
    asked, known = (read_class_numbers(labels or file, label_form) for file, _, labels in sides)
    if asked is None or known is None or not len(asked) or not len(known):
        return None
    fits = [len(asked), len(known)] == [len(side) for _, side, _ in sides]
    pairs = identities(asked, known) if fits else None
    if pairs is None:
        return None
    query, gallery = (LabelledCodes.unlabelled(side.codes) for _, side, _ in sides)
    figures = evaluate(query, gallery, relevance=pairs, **settings)
    return figures, {
        "classes": 1 + int(max(asked.max(), known.max())),
        "label_form": dict.fromkeys(("queries", "database"), "class numbers"),
        "relevance": {"by": "labels"},
    }


def _by_judgements(
    file: Path,
    sides: Sequence[tuple[str, StoredCodes, Path | None]],
    split: str | None,
    ignore: bool,
    settings: Mapping[str, Any],
) -> tuple[Evaluation, dict[str, Any]]:
    """Figures of the queries that a file judges, and what is said of it."""
    from advhash.codes.code_files import LabelledCodes
    from advhash.codes.judgements import Side, read_judgements
    from advhash.experiments.evaluate import evaluate

    asked, known = (Side(name, len(side), side.ids, ids) for name, side, ids in sides)
    judgements = read_judgements(file, asked, known, split=split, ignore=ignore)
    query, gallery = (side for _, side, _ in sides)
    known_codes = LabelledCodes.unlabelled(gallery.codes)
    served: Asked | None = settings["served"]
    if served is not None:
        settings = {**settings, "served": served.of(judgements.queries)}
    figures = evaluate(
        LabelledCodes.unlabelled(query.codes[judgements.queries]),
        known_codes if gallery.mapped is None else gallery.mapped,
        relevance=judgements.pairs,
        **settings,
    )
    return figures, {
        "relevance": {
            "by": "judgements",
            "file": judgements.source,
            "pairs": len(judgements.pairs.rows),
            "queries_judged": len(judgements.queries),
            "rows_called_by": judgements.rows,
            "ignored": judgements.ignored,
        }
    }


def _by_neighbours(
    query: StoredCodes, database: StoredCodes, similarity: Any, settings: Mapping[str, Any]
) -> tuple[Evaluation, dict[str, Any]]:
    """Figures where the nearest floats are what should be found, and what is said of it."""
    from advhash.experiments.evaluate import evaluate_neighbours

    rest = dict(settings)
    if rest.pop("convention") is not None:
        raise UsageError("--convention takes labels")
    rest.pop("empty")  # every query has neighbours
    figures = evaluate_neighbours(query, database, similarity=similarity, **rest)
    return figures, {"relevance": {"by": "neighbours", "similarity": similarity}}


def default_shards(rows: int, executor: str) -> int:
    """One shard inline, where threads share the work; elsewhere enough to share it out."""
    return 1 if executor == "inline" else max(2, min(64, rows // 100_000))


@codes_app.command("import")
def import_codes(
    source: Annotated[Path, typer.Argument(help="A file of codes, as `advhash eval` takes it.")],
    out: Annotated[Path, typer.Argument(help="The .codes file to write.")],
    labels: Labels = None,
    label_form: Form = "auto",
    form: Stored = "auto",
    quantise: Quantise = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            "--fit", help="Floats of the database, which set the thresholds of --quantise."
        ),
    ] = None,
    bits: Bits = None,
    column: Column = None,
    as_json: Json = False,
) -> None:
    """Convert a file of codes, and their labels, to the format that can be mapped and sharded."""
    from advhash.codes.code_files import (
        SUFFIX,
        LabelledCodes,
        read_stored,
        with_labels,
        write_codes,
    )
    from advhash.codes.stored_rows import expect_columns

    if out.suffix != SUFFIX:
        raise UsageError(f"expected a file name that ends in {SUFFIX}, got {out.name!r}")
    if (fit is None) is (quantise in ("mean", "median")):
        raise UsageError(
            "--fit FILE goes with --quantise mean or median: the database, whose rows set the "
            "thresholds (to import the database, name it twice)"
        )
    how = _reading(form, quantise, bits, column)
    expect_columns(column, source, *([] if fit is None else [fit]))
    fitted = None if fit is None else read_stored(fit, how)
    stored = read_stored(source, how, database=fitted)
    if labels is None and not stored.has_labels(source):
        data = LabelledCodes.unlabelled(stored.codes)
    else:
        data = with_labels(source, stored, labels, label_form)
    write_codes(out, data)
    _tell(out, data, as_json, stored.described())


@codes_app.command("export")
def export_codes(
    source: Annotated[str, typer.Argument(help="A .codes file, or a victim's name or checkpoint.")],
    out: Annotated[Path, typer.Argument(help="A .codes, .npz, .npy or .txt file to write.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data of a victim. (default: its own)")
    ] = None,
    part: Annotated[
        Literal["database", "query"], typer.Option("--part", help="Which codes of a victim.")
    ] = "database",
    modality: Annotated[
        str | None,
        typer.Option("--modality", help="What a victim hashes. (default: its headline)"),
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Bits of a victim. (default: 32)")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of a victim. (default: 0)")
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Write codes for other tools: of a .codes file, or of a victim (trained where need be)."""
    from advhash.cli.console import progress_display
    from advhash.codes.code_files import (
        SUFFIX,
        LabelledCodes,
        expect_suffix,
        map_codes,
        write_codes,
    )
    from advhash.codes.packed import HashCodes
    from advhash.compute.progress import silent
    from advhash.experiments.config import TrainConfig

    expect_suffix(out)
    given = {"--dataset": dataset, "--modality": modality, "--bits": bits, "--seed": seed}
    if source.endswith(SUFFIX):
        named = [name for name, value in given.items() if value is not None]
        if named or part != "database":
            raise UsageError(f"{', '.join(named) or '--part'} is for a victim, not for a file")
        data = map_codes(Path(source))
    else:
        values: dict[str, Any] = {
            "command": "train",
            "victim": {"name": source} | ({} if bits is None else {"bits": bits}),
        }
        if dataset is not None:
            values["dataset"] = {"name": dataset}
        if seed is not None:
            values["seed"] = seed
        parsed = checked(TrainConfig, values)

        from advhash.experiments.prepare.planned import PlannedVictim
        from advhash.experiments.prepare.served import database_codes
        from advhash.experiments.prepare.victim import train

        if modality is not None:
            shape = PlannedVictim.of(parsed).victim
            (shape.check_direction if part == "database" else shape.check_modality)(modality)
        with nullcontext(silent) if quiet else progress_display() as progress:
            trained = train(parsed, progress)
        victim, searched = trained.victim, trained.data
        if part == "database":
            split = searched.database
            codes = database_codes(trained, modality or victim.default_database)
        else:
            split = searched.query
            codes = victim.encode_split(split, modality or next(iter(victim.bounds)))
        hot = split.labels.numpy()
        data = LabelledCodes(codes, HashCodes.pack(hot))
    write_codes(out, data)
    _tell(out, data, as_json)


def _tell(out: Path, data: LabelledCodes, as_json: bool, described: str = "") -> None:
    from advhash.cli.console import print_json

    if as_json:
        print_json(
            {
                "schema": "advhash/codes/1",
                "file": str(out),
                "rows": len(data),
                "bits": data.codes.bits,
                "classes": data.labels.bits,
                "label_form": data.form,
            }
            | ({"read_as": described} if described else {})
        )
    else:
        if described:
            tell(f"read as {described}")
        labelled = f"{counted(data.labels.bits, 'class')} (labels: {data.form})"
        if data.form == "none":
            labelled = "no labels"
        tell(f"{out}: {counted(len(data), 'code')} of {data.codes.bits} bits, {labelled}")


def _forms(by_side: Mapping[str, str]) -> str:
    """In which form something was written, of both sides where they differ."""
    same = by_side["queries"] == by_side["database"]
    if same:
        return by_side["queries"]
    return f"queries {by_side['queries']}, database {by_side['database']}"


def _relevant(document: Mapping[str, Any]) -> str:
    """What was relevant, and to how many of the queries nothing was."""
    said = document["relevance"]
    if said["by"] == "neighbours":
        return f"relevant: the nearest floats ({said['similarity']})"
    if said["by"] == "labels":
        said = f"{counted(document['classes'], 'class')} (labels: {_forms(document['label_form'])})"
    else:
        without = document["queries"] - said["queries_judged"]
        judged = f"{counted(said['pairs'], 'judgement')} in {said['file']}"
        parts = [f"{judged}, rows by {said['rows_called_by']}"]
        if without:
            parts.append(f"{counted(without, 'query')} without a judgement left out")
        if said["ignored"]:
            parts.append(f"{counted(said['ignored'], 'judgement')} of unknown rows left out")
        said = "; ".join(parts)
    return f"{said}; {counted(document['empty_queries'], 'query')} without a relevant row"


def print_evaluation(document: Mapping[str, Any], *, quiet: bool) -> None:
    """Figures of codes from outside; without how long they took where `quiet`."""
    tell(f"read as {_forms(document['read_as'])}")
    asked, database = document["files"].values()
    tell(
        f"{counted(document['queries'], 'query')} of {asked} against "
        f"{counted(document['database'], 'code')} of {document['bits']} bits of {database}, "
        f"{_relevant(document)}"
    )
    if document["served"] is not None:
        tell(f"served by {_served(document['served'])}")
    print_retrieval(document["metrics"])
    print_metrics(document["metrics"])
    print_flags(document["flags"])
    if not quiet:
        speed = float(f"{document['pairs_per_second']:.2g}")
        tell(f"{document['seconds']:.4f} s, {speed:,.0f} pairs/s")


def _served(parameters: Mapping[str, Any]) -> str:
    """The store with its settings, and the rescorers behind it."""
    tables = [{"name": parameters["store"]["name"], **parameters["store"]["settings"]}]
    return ", then ".join(
        " ".join([str(table["name"]), *(f"{key}={table[key]}" for key in table if key != "name")])
        for table in [*tables, *parameters["rescore"]]
    )
