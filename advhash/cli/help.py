"""What `--help` shows: commands in the order of use, options in groups, an example at the foot."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

COMMANDS = {  # in the order of use: heading → commands
    "Look around": "doctor list data",
    "Get a victim": "train import",
    "Judge what you have, without training": "scan eval judge codes",
    "Attack": "attack transfer invert poison",
    "Defend": "defend detect certify",
    "Read results": "report compare benchmark",
    "Study": "encode lifelong phase-chart evolve",
}
OWN = "For this command alone"
OPTIONS = {  # heading → options, by the names of their parameters; `eval.database` is that of eval
    "Codes and what is relevant": "codes eval.database poison.database labels database_labels "
    "label_form form quantise column eval.bits relevance split query_ids database_ids "
    "ignore_unknown similarity eval.targets top_k empty convention known_file",
    "Victim and data": "victim victims source other defense dataset modality bits part",
    "Attack and budget": "method methods attack norm eps match targets share items restarts clean "
    "claims precision float_pixels poison",
    OWN: "",
    "Queries and search": "queries query_modality database threshold known_count unseen store "
    "rescore allow_superuser",
    "Defences of the store": "collapse keep gate cap rotate",
    "Hashes and thresholds": "hash_names scan.threshold false_positives banks bank_size",
    "Run": "seed device executor shards max_time dry_run resume config settings trust_code",
    "Output": "out tables_to columns width figures_to no_pictures image_grid save_images "
    "fail_under fail_over every as_json quiet version install_completion show_completion help",
}
EXAMPLES = {
    "": "advhash attack --victim dpsh --method dhta --dataset digits --eps 8/255",
    "doctor": "advhash doctor",
    "list": "advhash list attacks",
    "data list": "advhash data list",
    "data show": "advhash data show digits --image-grid digits.png",
    "train": "advhash train --victim dpsh --dataset digits --out checkpoint",
    "import": "advhash import weights.pth --as my-hash --pictures photos/",
    "scan": "advhash scan photos/ --hash pdq,phash --attacked 20",
    "eval": "advhash eval --codes queries.npz --database database.npz --top-k 10",
    "judge": "advhash judge changed/ --clean photos/ --victim pdq --eps 8/255 --threshold 31",
    "codes export": "advhash codes export dpsh database.npz --dataset digits",
    "codes import": "advhash codes import database.npy database.codes --labels labels.npy",
    "attack": "advhash attack --victim dpsh --method dhta --dataset digits --eps 8/255",
    "transfer": "advhash transfer --victims dpsh,csq --methods dhta --dataset digits --eps 8/255",
    "invert": "advhash invert --victim hashvfl --queries 100",
    "poison": "advhash poison --method hubs --database documents.npy --share 0.01",
    "defend": "advhash defend --victim dpsh --defense saat --dataset digits --eps 8/255",
    "detect": "advhash detect --victim dpsh --detector flips --method dhta --eps 8/255",
    "certify": "advhash certify --victim dpsh --dataset digits --sigma 0.25 --queries 50",
    "report": "advhash report runs/first runs/second --out both.html --tables tables",
    "compare": "advhash compare runs/first runs/second --fail-over tmap=0.5",
    "benchmark": "advhash benchmark --suite smoke --max-time 30",
    "encode": "advhash encode --victim dpsh --dataset digits --method dhta",
    "lifelong": "advhash lifelong --victim dlcmh --dataset openmoji --orders 1 --seeds 1",
    "phase-chart": "advhash phase-chart --widths 6,25,100 --epochs 0,10,40 --repeats 1",
    "evolve": "advhash evolve --domain attack --victim dpsh --dataset digits --seconds 120",
    "least-change": "advhash certify --victim pdq --threshold 31 --queries 50",
    "search": "advhash evolve --domain attack --victim dpsh --dataset digits --seconds 120",
}


def heading_of(command: str) -> str | None:
    """The group of a command on the first page of help; None for one of another package."""
    return next((head for head, names in COMMANDS.items() if command in names.split()), None)


def in_order_of_use(names: list[str]) -> list[str]:
    """Names of commands, those of other packages last."""
    order = " ".join(COMMANDS.values()).split()
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def epilog(path: str) -> str | None:
    """The example at the foot of the help of a command."""
    return f"Example: [bold]{EXAMPLES[path]}[/bold]" if path in EXAMPLES else None


def grouped(command: str, parameters: list[Any]) -> list[Any]:
    """Parameters of a command in the order of their groups; flags show no type."""
    places: dict[str, tuple[str, int]] = {}
    for heading, names in OPTIONS.items():
        for name in names.split():
            places[name] = heading, len(places)
    order = list(OPTIONS)

    def place(parameter: Any) -> tuple[int, int]:
        heading, position = places.get(
            f"{command}.{parameter.name}", places.get(parameter.name, (OWN, 0))
        )
        if parameter.param_type_name == "argument":
            return -1, 0  # in the order in which they are typed
        parameter.rich_help_panel = heading
        if parameter.is_flag:
            parameter.metavar = ""
        return order.index(heading), position

    return sorted(parameters, key=place)


class Command(TyperCommand):
    """A command whose help is grouped."""

    def get_params(self, ctx: Any) -> list[Any]:
        return grouped(self.name or "", super().get_params(ctx))
