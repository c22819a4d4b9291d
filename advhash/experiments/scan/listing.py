"""The files of a folder, however deep: what may be a picture, and what is left out and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advhash.data.images.decode import UNREAD, printable
from advhash.data.paths import PICTURES
from advhash.errors import DataError
from advhash.storage.documents import reason

LINK = "a link: it may lead out of the folder"
FOLDER = "a folder that cannot be read"
SPECIAL = "a pipe, a socket or a device"
OTHER = "no picture by its name"


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder in the order of their names.

    names:    relative paths, as the file system has them
    stamps:   size and time of change of each
    left_out: how many other entries there are, by reason
    """

    root: Path
    names: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    left_out: Mapping[str, int]

    def shown(self, row: int) -> str:
        """The name of a picture as it can be printed and stored."""
        return printable(self.names[row])


def list_pictures(root: Path) -> Listing:
    """All pictures below `root`, without hidden files and without following links.

    Raises DataError: no such folder, or no picture in it.
    """
    if not root.is_dir():
        got = f"the file {root}: name its folder" if root.is_file() else f"{root}: check the path"
        raise DataError(f"expected a folder of pictures, got {got}")
    pictures: list[tuple[str, tuple[int, int]]] = []
    left_out: Counter[str] = Counter()
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if folder == str(root):
                raise DataError(
                    f"expected a folder that can be read, got {root}: {reason(error)}"
                ) from None
            left_out[FOLDER] += 1
            continue
        for entry in listed:
            if entry.is_symlink():
                left_out[LINK] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                left_out[SPECIAL] += 1  # a pipe would be waited for without end
            elif entry.name.lower().endswith(PICTURES):
                status = entry.stat(follow_symlinks=False)
                name = os.path.relpath(entry.path, root)
                pictures.append((name, (status.st_size, status.st_mtime_ns)))
            else:
                suffix = os.path.splitext(entry.name)[1].lower()
                left_out[f"{suffix}: {UNREAD[suffix]}" if suffix in UNREAD else OTHER] += 1
    if not pictures:
        more = "; ".join(f"{count} × {why}" for why, count in sorted(left_out.items()))
        raise DataError(
            f"expected pictures in {root}, got none{f' ({more})' if more else ''}: name a folder "
            f"that holds {', '.join(PICTURES)}"
        )
    pictures.sort(key=lambda pair: os.fsencode(pair[0]))
    names, stamps = zip(*pictures, strict=True)
    return Listing(root, names, stamps, dict(left_out))
