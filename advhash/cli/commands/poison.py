"""`advhash poison`: items planted in a vector store, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import UNHARDENED, experiment
from advhash.cli.options import (
    AllowSuperuser,
    DatasetName,
    Norm,
    Rescore,
    Sets,
    StoreName,
    Victim,
    complete_poisonings,
    search_tables,
)
from advhash.cli.terminal import tell
from advhash.errors import UsageError, counted

if TYPE_CHECKING:
    from advhash.reports.poison import PoisonRecord
    from advhash.reports.record import Record

READ_FIRST = (
    *("planted_top10", "planted_top10_natural", "own_recall10_before", "own_recall10_after"),
)
TARGETED = "targeted"  # the alias of `advhash attack --poison N`


def print_poison(record: PoisonRecord | Record, every: bool) -> None:
    """What planted items reach, at every share."""
    from advhash.reports.poison import PoisonRecord, verdicts

    if not isinstance(record, PoisonRecord):
        from advhash.cli.commands.attack import show

        show(record, every)
        return
    tell(
        f"{record.source}: {counted(record.documents, 'document')} of {record.bits} bits in "
        f"{record.served_by}; {counted(record.known, 'query')} known, {record.unseen} unseen"
    )
    print_lead(verdicts(record), every=every)
    for at in record.shares:
        tell(f"{at.items} planted ({100 * at.share:.3g} %)")
        if record.turned_away is not None:
            tell(
                f"refused: {sum(at.refused) / len(at.refused):.3g} of them; the defences keep out "
                f"{at.natural_refused or 0} natural hubs and {record.turned_away} of "
                f"{counted(record.documents, 'clean document')}"
            )
        print_metrics(at.metrics, first=READ_FIRST, every=every)
    print_end(record)


def _attack(values: dict[str, Any]) -> str | None:
    """`attack` where the method is `targeted`: its tables become those of `attack --poison`.

    Raises UsageError, of `--keep` without `--collapse` too.
    """
    if "within" not in values.get("collapse", {"within": None}):
        raise UsageError("--keep says which near-duplicate stays: expected --collapse BITS as well")
    if values["attack"]["name"] != TARGETED:
        if "method" in values["attack"]:
            raise UsageError(
                f"--attack goes with --method {TARGETED}, got {values['attack']['name']}: leave "
                "it out"
            )
        return None
    method, items = values["attack"].pop("method", None), values.pop("items", None)
    if method is None or items is None or "victim" not in values:
        raise UsageError(
            "--method targeted moves pictures by an attack: expected --victim, --attack NAME and "
            "--items N"
        )
    settings = {key: value for key, value in values.pop("attack").items() if key != "name"}
    values["attack"] = {"name": method, **settings}
    protocol: dict[str, Any] = {
        name: values.pop(name) for name in ("store", "rescore") if name in values
    }
    modality = values.pop("modality", None)
    if modality is not None:
        protocol["query_modality"] = modality
    values["protocol"] = {"poison": items, **protocol, **values.get("protocol", {})}
    return "attack"


def _shares(text: str) -> list[float]:
    """Shares that commas part. Raises UsageError."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UsageError(
            "--share: expected shares above 0 and up to 1, such as 0.004 or 0.001,0.01, got "
            f"{text!r}"
        )
    return shares


@experiment("poison", show=print_poison, required=("attack",), alias=_attack, hint=UNHARDENED)
def poison(
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="What plants: hubs, hub-text, hub-image …; see `advhash list poisonings`.",
            autocompletion=complete_poisonings,
        ),
        Sets("attack.name"),
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--database", help="Embeddings of the documents, as `advhash eval` reads."),
        Sets("rows.database"),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(
            "--codes", help="Embeddings of the queries. (default: some documents are held out)"
        ),
        Sets("rows.codes"),
    ] = None,
    known_file: Annotated[
        Path | None,
        typer.Option("--known", help="Queries that the attacker knows. (default: half of them)"),
        Sets("rows.known"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Numbers of the queries, by which documents answer them."),
        Sets("rows.labels"),
    ] = None,
    database_labels: Annotated[
        Path | None,
        typer.Option("--database-labels", help="Labels of the documents. (default: 10 nearest)"),
        Sets("rows.database_labels"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            help="How files hold codes, not embeddings: bits, signs, ubinary, binary, hex, base64.",
        ),
        Sets("rows.form"),
    ] = None,
    victim: Victim = None,
    dataset: DatasetName = None,
    modality: Annotated[
        str | None, typer.Option("--modality", help="image or text. (default: the victim's)")
    ] = None,
    quantise: Annotated[
        str | None,
        typer.Option(
            "--quantise", help="sign, mean, median, itq, lsh or pca-sign. (default: sign)"
        ),
        Sets("quantise.name"),
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Length of a code. (default: one a dimension)")
    ] = None,
    norm: Norm = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Pixels of hub-image, 8/255; tokens of hub-text, 20. (default)"),
        Sets("budget.eps"),
    ] = None,
    store: StoreName = None,
    rescore: Rescore = None,
    allow_superuser: AllowSuperuser = False,
    share: Annotated[
        str | None,
        typer.Option("--share", help="Planted items by documents: 0.004, or 0.001,0.01 …"),
        Sets(""),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option("--items", help="How many items are planted, instead of the share."),
    ] = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", help="Seeds of the method. (default: 1)")
    ] = None,
    known_count: Annotated[
        int | None,
        typer.Option("--known-queries", help="How many the attacker knows. (default: half)"),
        Sets("known"),
    ] = None,
    unseen: Annotated[
        int | None, typer.Option("--unseen-queries", help="How many judge. (default: all others)")
    ] = None,
    collapse: Annotated[
        int | None,
        typer.Option("--collapse", help="Bits within which a new item is a near-duplicate."),
        Sets("collapse.within"),
    ] = None,
    keep: Annotated[
        Literal["first", "last"] | None,
        typer.Option("--keep", help="Which near-duplicate stays. (default: last)"),
        Sets("collapse.keep"),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option("--gate", help="Share of clean documents that a gate on hubs may refuse."),
        Sets("gate.rate"),
    ] = None,
    cap: Annotated[
        float | None,
        typer.Option(
            "--cap", help="Share of the store's probe queries that may find an item, old or new."
        ),
        Sets("cap.share"),
    ] = None,
    rotate: Annotated[
        bool | None,
        typer.Option("--rotate", help="The store rotates embeddings secretly before the cut."),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", help="What moves the pictures of --method targeted, e.g. dhta."),
        Sets("attack.method"),
    ] = None,
) -> dict[str, Any]:
    """Plant items in a vector store and count who finds them, among queries nobody knew.

    Embeddings come from files (--database), from a victim, or from a data set that has some. Random
    documents and natural hubs stand beside the planted items; own answers before and after.
    """
    return {
        "share": None if share is None else _shares(share),
        **search_tables(store, rescore, allow_superuser),
    }
