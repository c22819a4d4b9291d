"""Runs `advhash` commands of one checkout one after another, and keeps what they print and ask for.

    PYTHONPATH=CHECKOUT python tools/command_recorder.py PLAN.json

The plan is a list of {"label": …, "arguments": [words of a command line]}; "python NAME" calls that
function of `compared_commands` instead. In the current folder each gets `LABEL.out`, `LABEL.err`
and `LABEL.keys`, a JSON line for every call of `content_key`. On stdout: "LABEL EXIT SECONDS" when
it ends.

torch takes seconds to import, and is imported once: each command is a fork of this process. In it
`time.perf_counter` and `time.process_time` move by `TICK` a call, so that what a run does with the
seconds it measures is the same every time; the tick is a power of two, so that sums are exact.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HEAVY = (  # imported before the first fork; nothing of advhash is among them
    *("torch", "torchvision", "timm", "kornia", "numba", "accelerate", "torchmetrics"),
    *("pyarrow.parquet", "sklearn.cluster", "scipy.stats", "matplotlib.figure", "rich", "jinja2"),
    *("pydantic", "typer", "safetensors.torch"),
)
CACHES = ("advhash.cache", "advhash.storage.cache")  # where `content_key` is, or will be
TICK = 2.0**-10


def ticking() -> Callable[[], float]:
    """A clock that moves by one tick whenever it is read."""
    ticks = itertools.count(1)
    return lambda: next(ticks) * TICK


def record_keys(file: Path) -> None:
    """Write every content that `content_key` is asked for to the file, with its key and caller."""
    for name in CACHES:
        with suppress(ModuleNotFoundError):
            home = import_module(name)
            break
    else:
        raise ModuleNotFoundError(f"expected content_key in one of {', '.join(CACHES)}")
    true_key: Callable[[object], str] = home.content_key

    def recorded(content: object) -> str:
        key, caller = true_key(content), sys._getframe(1)
        place = f"{caller.f_globals.get('__name__')}.{caller.f_code.co_name}"
        with file.open("a") as lines:
            lines.write(json.dumps({"key": key, "caller": place, "content": content}) + "\n")
        return key

    for module in list(sys.modules.values()):
        if getattr(module, "content_key", None) is true_key:
            module.content_key = recorded  # type: ignore[attr-defined]


def run_command(label: str, arguments: list[str]) -> int:
    """In a fork: the exit code of the command."""
    for stream, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{label}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    record_keys(Path(f"{label}.keys"))
    time.perf_counter = time.process_time = ticking()
    try:
        sys.path.insert(0, str(Path.cwd()))  # as for `python -m`: code of the user lies there
        if arguments[0] == "python":
            getattr(import_module("compared_commands"), arguments[1])()
        else:
            sys.argv = ["advhash", *arguments]
            runpy.run_module("advhash", run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    plan: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    found, wanted = find_spec("advhash"), os.environ["PYTHONPATH"]
    if found is None or not str(found.origin).startswith(wanted):
        raise ModuleNotFoundError(f"expected advhash in {wanted}, got {found}")
    for name in HEAVY:
        import_module(name)
    for one in plan:
        began = time.perf_counter()
        child = os.fork()
        if not child:
            code = run_command(one["label"], one["arguments"])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{one['label']} {code} {time.perf_counter() - began:.1f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
