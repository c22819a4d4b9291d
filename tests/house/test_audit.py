"""The audit of dependencies tells a hole from a database that does not answer."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", TREE / "tools" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hole_fails(audit: Any) -> None:
    hole = {"id": "CVE-1", "fix_versions": ["2.0"]}
    found = {"dependencies": [{"name": "a", "version": "1.0", "vulns": [hole]}]}
    assert audit.verdict(found) == (1, ["a 1.0: CVE-1, fixed in: 2.0"])


def test_no_answer_is_no_clean_bill(audit: Any) -> None:
    found = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}
    code, lines = audit.verdict(found)
    assert code == 0
    assert lines[0].startswith("no database answered")
    found["dependencies"].append({"name": "b", "version": "1", "vulns": []})  # type: ignore[dict-item]
    assert audit.verdict(found)[1] == ["1 packages without a known hole, 1 unknown to the database"]


def test_the_lock_is_dated_and_names_what_is_required(audit: Any) -> None:
    first, *lines = audit.LOCK.read_text().splitlines()
    assert re.match(r"# Tested on \d{4}-\d{2}-\d{2} with Python 3\.", first)
    locked = dict(line.lower().replace("_", "-").split("==") for line in lines)
    wanted = [Requirement(one) for one in requires("advhash-toolkit") or []]
    for one in wanted:
        if one.marker is None:
            version = locked[one.name.lower().replace("_", "-")]
            assert one.specifier.contains(version, prereleases=True), one
