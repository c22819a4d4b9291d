"""What users write: TOML files, `--set` assignments, methods in a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advhash.errors import ConfigError
from advhash.experiments.config import DatasetConfig, MethodConfig
from advhash.registry import data_called, is_encoder, is_own
from advhash.storage import documents
from advhash.storage.documents import NotParsed, Unreadable, parse_toml, reason

MOST_KEYS = 16  # parts of a key: no table of ours lies so deep


def read_toml(path: Path) -> dict[str, Any]:
    """A config file. Raises ConfigError: missing, or not TOML."""
    try:
        return documents.read_toml(path)
    except OSError as error:
        raise ConfigError(f"expected a config file, got {path}: {reason(error)}") from None
    except Unreadable as error:
        raise ConfigError(f"expected TOML in {path}, got: {error}") from None


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`victim.bits=64` as (["victim", "bits"], 64); what is no TOML value is a string.

    >>> parse_assignment("budget.eps=8/255")
    (['budget', 'eps'], '8/255')
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set: expected table.key=value, got {text!r}")
    if len(keys) > MOST_KEYS:
        raise ConfigError(f"--set: expected table.key=value, got a key of {len(keys)} parts")
    try:
        parsed = parse_toml(f"value = {value}")
    except NotParsed:
        return keys, value.strip()
    except Unreadable as error:
        raise ConfigError(f"--set {'.'.join(keys)}: expected a value, got {error}") from None
    return keys, parsed["value"] if len(parsed) == 1 else value.strip()


def parse_method(text: str) -> dict[str, Any]:
    """`dpsh+bits=16+epochs=5` as a table: a name and its settings.

    >>> parse_method("dpsh+bits=16")
    {'name': 'dpsh', 'bits': 16}

    Raises ConfigError.
    """
    name, plus, settings = text.strip().partition("+")
    if not name:
        raise ConfigError(f"expected name+key=value+…, got {text!r}")
    table = parse_settings(settings) if plus else {}
    if "name" in table:
        raise ConfigError(f"expected name+key=value+…, each key once, got {text!r}")
    return {"name": name, **table}


def parse_listed(text: str) -> dict[str, Any]:
    """`pgvector-hnsw,m=16,ef_search=40` as a table: a name and its settings.

    >>> parse_listed("faiss-ivf,probes=8")
    {'name': 'faiss-ivf', 'probes': 8}

    Raises ConfigError.
    """
    name, *settings = (part.strip() for part in text.split(","))
    table: dict[str, Any] = {"name": name}
    wrong = ConfigError(f"expected name,key=value,…, each key once, got {text!r}")
    if not name or not all("=" in setting for setting in settings):
        raise wrong
    for setting in settings:
        keys, value = parse_assignment(setting)
        if len(keys) > 1 or keys[0] in table:
            raise wrong
        table[keys[0]] = value
    return table


def parse_settings(text: str) -> dict[str, Any]:
    """`steps=200+weight=16` as a table. Raises ConfigError.

    >>> parse_settings("steps=200+weight=16")
    {'steps': 200, 'weight': 16}
    """
    table: dict[str, Any] = {}
    wrong = ConfigError(f"expected key=value+…, each key once, got {text!r}")
    for setting in text.strip().split("+"):
        if "=" not in setting:
            raise wrong
        keys, value = parse_assignment(setting)
        if len(keys) > 1 or keys[0] in table:
            raise wrong
        table[keys[0]] = value
    return table


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, table by table; None in `over` leaves the base as it is.

    A table whose `name` changes starts afresh: settings of one method mean nothing to another. A
    `label` that is not given again goes with the settings that it was given for.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if value is None:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            changed = {name for name in value if value[name] not in (None, old.get(name))}
            kept = {
                name: setting for name, setting in old.items() if name != "label" or not changed
            }
            result[key] = merge({} if "name" in changed else kept, value)
        elif isinstance(value, Mapping):
            result[key] = merge({}, value)
        else:
            result[key] = value
    return result


def method_label(table: MethodConfig | DatasetConfig) -> str:
    """`dpsh+bits=16+seed=1`: what `parse_method` reads, of a path its last folder or file.

    An encoder is called as `--victim` calls it, `timm:resnet18+bits=16`, and data of the user's own
    by their name for it, `holiday_photos+size=64`.
    """
    own = table.model_dump(exclude={"name"}, exclude_none=True)
    name = Path(table.name or "").name
    if is_own(name, own):
        name = data_called(name, own)
        del own["root"]
    if name == "encoder" and is_encoder(str(own.get("encoder"))):
        name = own.pop("encoder")
    return "+".join([name, *map(_setting, own.items())])


def _setting(pair: tuple[str, Any]) -> str:
    key, value = pair
    if key == "defense" and isinstance(value, Mapping):
        rest = [f"{name}={setting}" for name, setting in value.items() if name != "name"]
        return "+".join([str(value.get("name")), *rest])
    return str(value) if key == "defense" else f"{key}={value}"
