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


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter, of a card as `advhash train` writes it.

    Names and settings may come from strangers: they are shown as code, on one line each.
    """
    from huggingface_hub import ModelCard

    data = card["data"]
    own = _word(called(card["name"], card["settings"]))
    name = f"{own}-{_word(data_called(data['name'], data['settings']))}-{card['bits']}"
    content = f"---\n{_front(name, card)}\n---\n\n# {name}\n\n{_body(card)}"
    return str(ModelCard(content))


def _front(name: str, card: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = card["data"]
    word = _word(data_called(data["name"], data["settings"]))
    results = [
        EvalResult(
            task_type="image-retrieval",
            dataset_type=word,
            dataset_name=word,
            dataset_split="query",
            metric_type="map",
            metric_name=key,
            metric_value=round(metric["value"], 4),
        )
        for key, metric in card["metrics"].items()
        if metric["value"] is not None
    ]
    front = ModelCardData(
        library_name="advhash",
        license=_word(data.get("licence", "unknown")).lower(),
        tags=["hashing", "image-retrieval", "adversarial-robustness", card["name"]],
        datasets=[word],
        metrics=["map"],
        model_name=name,
        eval_results=results,
    )
    return str(front.to_yaml())


def _body(card: Mapping[str, Any]) -> str:
    entry = VICTIMS[card["name"]]
    data, rows, metrics = card["data"], card["data"]["rows"], card["metrics"]
    trained = card["environment"]
    parts = [
        entry.summary,
        f"Source of the method: {entry.source}. A victim for robustness tests of "
        "advhash-toolkit, not a product.",
        "## Data",
        f"{_code(data_called(data['name'], data['settings']))}, settings "
        f"{_code(data['settings'])}: {rows['train']} rows trained on, a strict subset of the "
        f"database of {rows['database']}; {rows['query']} queries and {rows['validation']} "
        "validation rows, none of them in the database.",
        f"Source: {_code(data.get('source', 'unknown'))}. Licence of the data: "
        f"{_code(data.get('licence', 'unknown'))}.",
    ]
    if data.get("attribution"):
        parts.append(f"Attribution: {_plain(data['attribution'])}")
    parts += [
        "## Retrieval",
        "Mean average precision of the query split over the full ranking of the database by "
        "Hamming distance, ties in expectation; relevant is what shares a label. In brackets the "
        "95 % BCa interval over queries. *Untrained* leaves rows that the victim was trained on "
        "out of the database.",
        _table(("direction", "MAP", "MAP, untrained"), _directions(metrics)),
        f"Chance: {_figure(metrics['map_chance'])}.",
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
        "## Training",
        f"Seed {card['seed']}, {card['seconds']} s on {counted(trained['threads'], 'CPU thread')}"
        f"{'' if trained['cuda'] is None else ' and ' + _code(trained['cuda'])}, advhash "
        f"{card['version']}, torch {trained['packages']['torch']}.",
        _table(
            ("setting", "value"),
            [(f"`{key}`", _code(value)) for key, value in card["settings"].items()],
        ),
        "## Use",
        "```python\nfrom pathlib import Path\n\n"
        "from advhash.storage.checkpoint import load_victim\n\n"
        'victim, card = load_victim(Path("this/folder"))\n```',
        "`advhash attack --victim this/folder --method prosgan`",
    ]
    return "\n\n".join(parts) + "\n"


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


def _directions(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """One row a direction: "image → fused", MAP, MAP on untrained rows."""
    return [
        (
            " → ".join(key.split("_")[1:]),
            _figure(metric),
            _figure(metrics.get(key + UNTRAINED)),
        )
        for key, metric in metrics.items()
        if key != "map_chance" and not key.endswith(UNTRAINED)
    ]


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
