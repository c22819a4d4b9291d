"""Paths as users give them, in options, configs and calls: looked at once, before any work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from advhash.errors import UnknownName, UsageError
from advhash.registry import ZOO, ZOO_PREFIX, is_zoo

GET_ZOO = "`make zoo` in a checkout builds it, then `pip install dist/advhash_zoo-*.whl`"
LONGEST = 3500  # bytes of a path: the file system takes 4096, with what is put behind it
UNTIDY = {
    errno.ENAMETOOLONG: "a name that is too long: shorten it",
    errno.ELOOP: "a link that leads back to itself: repair it",
    errno.EACCES: "no permission to look there",
}


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path that a user names, `~` written out; whether anything lies there is not asked.

    Raises UsageError: no path of this file system, or one that cannot be written into a record,
    since it is not UTF-8; a relative one where the working directory is gone.
    """
    text = os.fspath(given)
    try:
        length = len(text.encode("utf-8"))
        path = Path(text).expanduser()
        if not path.is_absolute():
            os.getcwd()
        if length > LONGEST:
            raise OSError(errno.ENAMETOOLONG, "")
    except UnicodeEncodeError:
        raise _refused(text, "a name that is not UTF-8: rename it") from None
    except RuntimeError:
        user = text.partition("/")[0]
        raise _refused(text, f"no user {user[1:]}: a name with ~ is written ./{user}") from None
    except FileNotFoundError:
        raise _refused(text, "a working directory that is gone: change to another one") from None
    except OSError as error:
        raise _refused(text, UNTIDY[error.errno or 0]) from None
    try:
        os.stat(path)
    except ValueError:
        raise _refused(text, "a zero byte in it") from None
    except OSError as error:
        if error.errno in UNTIDY:
            raise _refused(text, UNTIDY[error.errno]) from None
    return path


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint, of which a user gives the path or, in the zoo, `zoo:NAME`.

    Raises UsageError: no zoo is installed; UnknownName.
    """
    if not is_zoo(name):
        return user_path(name)
    known, victim = ZOO.names(), name.removeprefix(ZOO_PREFIX)
    if not known:
        raise UsageError(f"expected an installed zoo for {name}, got none: {GET_ZOO}")
    if victim not in known:
        raise UnknownName("victim of the zoo", victim, known)
    return ZOO.create(victim)


def _refused(text: str, got: str) -> UsageError:
    shown = text if len(text) <= 80 else text[:40] + " … " + text[-20:]
    return UsageError(f"expected a path, got {shown!r}: {got}")
