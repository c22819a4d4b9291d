"""The model card of a checkpoint: `card.json` as a page, in the form of the Hugging Face hub.

`card.json` stays the truth: the page is drawn from it, and loading a victim never reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from advhash.errors import counted
from advhash.registry import VICTIMS, called, data_called

PAGE = "README.md"
UNTRAINED = "_untrained"
# trained here, read from the cache or from a checkpoint that the user named, a model of the user's
# own, or a hash that is computed and has nothing to learn
Origin = Literal["trained", "cache", "checkpoint", "brought", "computed"]


def model_card(card: Mapping[str, Any], name: str = "") -> str:
    """Markdown with YAML front matter, of a card as `advhash train` writes it.

    name: of a victim of a zoo, `zoo:name`; by default method, data and bits

    Names and settings may come from strangers: they are shown as code, on one line each.
    """
    from huggingface_hub import ModelCard

    data = card["data"]
    own = _word(called(card["name"], card["settings"]))
    title = name or f"{own}-{_word(data_called(data['name'], data['settings']))}-{card['bits']}"
    place = f"zoo:{name}" if name else "this/folder"
    content = f"---\n{_front(title, card)}\n---\n\n# {title}\n\n{_body(card, place)}"
    return str(ModelCard(content))


def _front(name: str, card: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = card["data"]
    word = _word(data_called(data["name"], data["settings"]))
    results = [
        EvalResult(
            task_type=_task(card),
            dataset_type=word,
            dataset_name=word,
            dataset_split="query",
            metric_type="accuracy" if key == "accuracy" else "map",
            metric_name=key,
            metric_value=round(metric["value"], 4),
        )
        for key, metric in card["metrics"].items()
        if metric["value"] is not None
    ]
    front = ModelCardData(
        library_name="advhash",
        license=_word(data.get("licence", "unknown")).lower(),
        tags=["hashing", _task(card), "adversarial-robustness", card["name"]],
        datasets=[word],
        metrics=["map"],
        model_name=name,
        eval_results=results,
    )
    return str(front.to_yaml())


def _body(card: Mapping[str, Any], place: str) -> str:
    entry = VICTIMS[card["name"]]
    data, rows, metrics = card["data"], card["data"]["rows"], card["metrics"]
    trained = card["environment"]
    parts = [
        entry.summary,
        f"Source of the method: {entry.source}. A victim for robustness tests of "
        "advhash-toolkit, not a product.",
        "## Data",
        f"{_code(data_called(data['name'], data['settings']))}, settings "
        f"{_code(data['settings'])}: a database of {rows['database']}"
        + (f", {rows['train']} of its rows trained on" if card["history"] else "")
        + f"; {rows['query']} queries and {rows['validation']} validation rows, none of them in "
        "the database.",
        f"Source: {_code(data.get('source', 'unknown'))}. Licence of the data: "
        f"{_code(data.get('licence', 'unknown'))}.",
    ]
    if data.get("attribution"):
        parts.append(f"Attribution: {_plain(data['attribution'])}")
    parts += [
        "## Retrieval",
        "Mean average precision of the query split over the full ranking of the database by "
        "Hamming distance, ties in expectation; relevant is what shares a label. In brackets the "
        "95 % BCa interval over queries."
        + (
            " *Untrained* leaves rows that the victim was trained on out of the database."
            if card["history"]
            else ""
        ),
        _retrieval(metrics),
        f"Chance: {_figure(metrics['map_chance'])}."
        + (
            f" Accuracy of the server: {_figure(metrics['accuracy'])}."
            if "accuracy" in metrics
            else ""
        ),
        "## Codes",
        "These are figures of the database. Balance is 1 where every bit is 1 in half of the rows "
        "and 0 where all are constant; entropy is the mean over bits, 1 at best.",
        _table(
            ("direction", "codes", "distinct", "bit balance", "bit entropy"),
            [
                (
                    key,
                    str(row["rows"]),
                    str(row["distinct"]),
                    f"{row['balance']:.3f}",
                    f"{row['entropy']:.3f}",
                )
                for key, row in card["codes"].items()
            ],
        ),
        *_robustness(card),
        "## Sanity flags",
        _bullets(
            f"{flag['level']}, `{flag['name']}`: {_plain(flag['message'])}"
            for flag in card["flags"]
        ),
        "## Deviations from the source",
        _bullets(entry.deviations),
        "## Training" if card["history"] else "## Settings",
        (f"Seed {card['seed']}, {card['seconds']} s" if card["history"] else "Learns nothing;")
        + f" on {counted(trained['threads'], 'CPU thread')}"
        f"{'' if trained['cuda'] is None else ' and ' + _code(trained['cuda'])}, advhash "
        f"{card['version']}, torch {trained['packages']['torch']}.",
        _table(
            ("setting", "value"),
            [(f"`{key}`", _code(value)) for key, value in card["settings"].items()],
        ),
        "## Use",
        f'```python\nimport advhash as ah\n\nvictim = ah.load("{place}")\n```',
        f"`{_command(card, place)}`",
    ]
    return "\n\n".join(parts) + "\n"


def _federated(card: Mapping[str, Any]) -> bool:
    return ".federated." in VICTIMS.describe(card["name"]).module


def _task(card: Mapping[str, Any]) -> str:
    """As the hub calls what the victim is for."""
    if _federated(card):
        return "tabular-classification"
    return "image-retrieval" if "image" in card["modalities"] else "sentence-similarity"


def _command(card: Mapping[str, Any], place: str) -> str:
    """A first command that takes the victim: the attack that its card was measured by, if any."""
    measured = card.get("recipe", {}).get("attacks", [])
    if _federated(card):
        return f"advhash invert --victim {place}"
    if measured:
        asked = measured[0]
        return f"advhash attack --victim {place} --method {asked['method']} --eps {asked['eps']}"
    if ".perceptual." in VICTIMS.describe(card["name"]).module:
        return f"advhash attack --victim {place} --method evasion --eps 8/255"
    if "image" not in card["modalities"]:
        return f"advhash attack --victim {place} --method hotflip"
    return f"advhash attack --victim {place} --method autohash --eps 8/255"


def _robustness(card: Mapping[str, Any]) -> list[str]:
    """What attacks did to a victim of a zoo; nothing where none was measured."""
    measured = card.get("robustness", [])
    if not measured:
        return []
    rows = [
        (_code(of["attack"]), _plain(of["budget"] or "none"), f"`{name}`", _figure(figure))
        for of in measured
        for name, figure in of["metrics"].items()
    ]
    return [
        "## Robustness",
        f"Short attacks on the queries, at commit {_code(card.get('commit', ''))}: the figures are "
        "those of docs/metrics.md, with 95 % intervals over queries. A longer attack may do more.",
        _table(("attack", "budget", "figure", "value"), rows),
    ]


def _retrieval(metrics: Mapping[str, Any]) -> str:
    """One row for each direction: "image → fused", MAP, and MAP on untrained rows."""
    rows, untrained = [], False
    for key, metric in metrics.items():
        if not key.startswith("map_") or key == "map_chance" or key.endswith(UNTRAINED):
            continue
        other = metrics.get(key + UNTRAINED)
        untrained |= other is not None
        rows.append((" → ".join(key.split("_")[1:]), _figure(metric), _figure(other)))
    head = ("direction", "MAP", "MAP, untrained")
    return _table(head, rows) if untrained else _table(head[:2], [row[:2] for row in rows])


def _figure(metric: Mapping[str, Any] | None) -> str:
    """0.512 [0.480, 0.543]"""
    if metric is None or metric["value"] is None:
        return "not measured"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts) or "None."


def _word(text: object) -> str:
    """Letters, digits, dots and dashes only; the last part of a path."""
    return re.sub(r"[^\w.-]+", "-", str(text).rstrip("/").rpartition("/")[2]).strip("-") or "data"


def _plain(text: object) -> str:
    """On one line, without what Markdown or HTML would act on."""
    return re.sub(r"[<>\[\]`|\\]", "", " ".join(str(text).split()))


def _code(text: object) -> str:
    """A code span on one line, fit for a table, of at most 200 characters."""
    line = re.sub(r"[`|]", "'", " ".join(str(text).split()))
    return f"`{line if len(line) <= 200 else line[:200] + ' …'}`"
