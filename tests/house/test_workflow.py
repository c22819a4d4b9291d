"""The workflow of docs/how_to/ci.md does what it says: its steps are run in a repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "docs/how_to"
CONFIG = (FOLDER / "robustness.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        (CONFIG, 0, ""),
        (CONFIG.replace("steps = 20", "steps = 1"), 4, "tmap_normalised is"),
        (CONFIG.replace("epochs = 4", "epochs = 1"), 4, "map is"),
    ],
    ids=["unchanged", "a weaker attack", "a worse victim"],
)
def test_the_workflow_stops_what_is_worse(
    tmp_path: Path, changed: str, code: int, message: str
) -> None:
    (job,) = yaml.safe_load((FOLDER / "robustness.yml").read_text())["jobs"].values()
    assert job["env"]["BASE"] == "origin/${{ github.base_ref }}"
    install, *steps = [step for step in job["steps"] if "run" in step]
    assert install["run"] == 'pip install "advhash-toolkit @ $ADVHASH"'
    environment = {
        **os.environ,
        # where the command `advhash` of these tests is installed
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BASE": "main",
        **{f"GIT_{who}_NAME": "test" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")},
    }

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    config = tmp_path / "robustness.toml"
    config.write_text(CONFIG)
    assert shell("git init -q -b main && git add . && git commit -qm base").returncode == 0
    config.write_text(changed)
    for step in steps:
        done = shell(step["run"])
        compares = step["name"] == "Compare"
        assert done.returncode == (code if compares else 0), (step["name"], done.stderr)
        if compares:
            assert message in done.stderr
    assert (tmp_path / "robustness.html").is_file()
