"""The commands for codes from anyone's model: `advhash eval` and `advhash codes`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advhash.cli.console import print_metrics
from advhash.cli.options import checked

if TYPE_CHECKING:
    from advhash.codes.code_files import LabelledCodes

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from advhash.errors import UsageError

codes_app = typer.Typer(
    help="Files of codes: convert them, or write those of a victim.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
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


def evaluate_codes(
    codes: Annotated[Path, typer.Option("--codes", help="Codes of the queries.")],
    database: Annotated[Path, typer.Option("--database", help="Codes of the database.")],
    labels: Labels = None,
    database_labels: Annotated[
        Path | None,
        typer.Option("--database-labels", help="Their labels, where the file has none."),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option("--targets", help="Labels the queries are meant to retrieve: t-MAP."),
    ] = None,
    label_form: Form = "auto",
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Cut the ranking. (default: all of it)")
    ] = None,
    empty: Annotated[
        Literal["zero", "skip", "error"],
        typer.Option("--empty", help="A query without a relevant row."),
    ] = "zero",
    convention: Annotated[
        Literal["prosgan", "dhta", "deephash"] | None,
        typer.Option("--convention", help="Also state MAP as this published code computes it."),
    ] = None,
    shards: Annotated[
        int | None, typer.Option("--shards", help="Parts of the database. (default: by size)")
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
    ] = "inline",
    seed: Annotated[int, typer.Option("--seed", help="Of the intervals.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the figures of every query (.parquet).")
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """MAP of codes from anyone's model, exact under ties, with bounds, chance and intervals.

    Files: .codes (ours), .npz with arrays `codes` (N,K) and `labels`, .npy, or text. Labels are
    class numbers (N,), or 0 and 1 (N,C).
    """
    from advhash.cli.console import print_json, progress_display
    from advhash.codes.code_files import read_codes, read_labels
    from advhash.compute.executor import check_executor
    from advhash.compute.progress import silent
    from advhash.experiments.evaluate import check_out, evaluate, write_queries

    check_executor(executor)
    if shards is not None and shards < 1:
        raise UsageError(f"expected --shards above 0, got {shards}")
    if seed < 0:
        raise UsageError(f"expected --seed 0 or above, got {seed}")
    if out is not None:
        check_out(out)
    read = read_codes(codes, labels, label_form=label_form)
    gallery = read_codes(database, database_labels, label_form=label_form)
    query = read.fitted(gallery)
    aims = None
    if targets is not None:
        aims = read_labels(targets, label_form).fitted(gallery.labelled, "targets").hot
    with nullcontext(silent) if quiet else progress_display() as progress:
        figures = evaluate(
            query,
            gallery,
            targets=aims,
            top_k=top_k,
            empty=empty,
            convention=convention,
            shards=shards or default_shards(len(gallery), executor),
            executor=executor,
            progress=progress,
        )
    if out is not None:
        write_queries(out, figures)
    document: dict[str, Any] = {
        "schema": "advhash/eval/1",
        "queries": len(query),
        "database": len(gallery),
        "bits": query.codes.bits,
        "classes": max(read.labels.bits, gallery.labels.bits),
        "label_form": {"queries": read.form, "database": gallery.form},
        "ties": "expected",
        "empty": empty,
        "top_k": top_k,
        "executor": executor,
        **figures.document(seed),
    }
    if as_json:
        print_json(document)
    else:
        print_evaluation(document)


def default_shards(rows: int, executor: str) -> int:
    """One shard inline, where threads share the work; elsewhere enough to share it out."""
    return 1 if executor == "inline" else max(2, min(64, rows // 100_000))


@codes_app.command("import")
def import_codes(
    source: Annotated[Path, typer.Argument(help="An .npz, .npy or text file.")],
    out: Annotated[Path, typer.Argument(help="The .codes file to write.")],
    labels: Labels = None,
    label_form: Form = "auto",
    as_json: Json = False,
) -> None:
    """Convert a file of codes and labels to the format that can be mapped and sharded."""
    from advhash.codes.code_files import SUFFIX, read_codes, write_codes

    if out.suffix != SUFFIX:
        raise UsageError(f"expected a file name that ends in {SUFFIX}, got {out.name!r}")
    data = read_codes(source, labels, label_form=label_form)
    write_codes(out, data)
    _tell(out, data, as_json)


@codes_app.command("export")
def export_codes(
    source: Annotated[str, typer.Argument(help="A .codes file, or a victim's name or checkpoint.")],
    out: Annotated[Path, typer.Argument(help="A .codes, .npz, .npy or .txt file to write.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Of a victim. (default: the victim's)")
    ] = None,
    part: Annotated[
        Literal["database", "query"], typer.Option("--part", help="Which codes of a victim.")
    ] = "database",
    modality: Annotated[
        str | None,
        typer.Option("--modality", help="Of a victim: what is hashed. (default: its headline)"),
    ] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="Of a victim. (default: 32)")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of a victim. (default: 0)")] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Write codes for other tools: of a .codes file, or of a victim (trained where need be)."""
    from advhash.cli.console import progress_display
    from advhash.codes.code_files import SUFFIX, LabelledCodes, map_codes, write_codes
    from advhash.codes.packed import HashCodes
    from advhash.compute.progress import silent
    from advhash.experiments.config import TrainConfig

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

        from advhash.experiments.prepare.victim import train

        with nullcontext(silent) if quiet else progress_display() as progress:
            trained = train(parsed, progress)
        victim, searched = trained.victim, trained.data
        if part == "database":
            split = searched.database
            codes = victim.database_codes(searched, modality or victim.default_database)
        else:
            split = searched.query
            codes = victim.encode_split(split, modality or next(iter(victim.bounds)))
        hot = split.labels.numpy()
        data = LabelledCodes(codes, HashCodes.pack(hot))
    write_codes(out, data)
    _tell(out, data, as_json)


def _tell(out: Path, data: LabelledCodes, as_json: bool) -> None:
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
        )
    else:
        sys.stdout.write(
            f"{out}: {len(data)} codes of {data.codes.bits} bits, {data.labels.bits} classes "
            f"(labels: {data.form})\n"
        )


def _forms(document: Mapping[str, Any]) -> str:
    """In which form the labels were written, of both sides where they differ."""
    of = document["label_form"]
    same = of["queries"] == of["database"]
    return of["queries"] if same else f"queries {of['queries']}, database {of['database']}"


def print_evaluation(document: Mapping[str, Any]) -> None:
    """Figures of codes from outside."""
    sys.stdout.write(
        f"{document['queries']} queries against {document['database']} codes of "
        f"{document['bits']} bits, {document['classes']} classes (labels: {_forms(document)}); "
        f"{document['empty_queries']} queries without a relevant row\n"
    )
    print_metrics(document["metrics"])
    sys.stdout.write(
        f"{document['seconds']:.4f} s, {document['pairs_per_second'] / 1e9:.2f} billion pairs/s\n"
    )
