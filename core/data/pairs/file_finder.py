"""Image files by the names that a list gives, millions of them: one look at each, safety checked once per folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..links import cure_of, stays_inside


class FileFinder:
    """Finds listed files below some folders, and never outside them.

    Args:
        base: folder that found names are relative to; holds all roots.
        roots: folders that listed names may be relative to, the likeliest first.
    """

    def __init__(self, base: Path, roots: Sequence[Path]):
        self.base, self._prefix = base, os.path.join(base, "")
        self._roots = [str(root) for root in dict.fromkeys(roots) if root.is_dir()] or [str(base)]
        self._inside: dict[tuple[str, str], bool] = {}

    def find(self, name: str, listed_in: str) -> tuple[str, str]:
        """(name relative to the base, "") of a file that has content, or ("", why there is none).

        Args:
            name: a relative path, or an absolute one inside a root.
            listed_in: "pairs.csv line 3", for the message.

        Raises:
            DataError: the path leaves the folders.
        """
        leaves = ""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):  # lists made on Windows
            for root in self._roots:
                path = os.path.join(root, spelling)
                reason = self._look(path, root)
                if not reason:
                    self._first(root)
                    return self._relative(path, spelling), ""
                if reason == "empty file (0 bytes)":
                    return "", reason
                leaves = leaves or (cure_of(Path(path), Path(root)) if reason == "leaves" else "")
        if leaves:
            raise DataError(
                f"{listed_in}: '{name[:80]}' leaves the folder {self.base}; {leaves}, or give their folder as root"
            )
        return "", f"no such file below {self.base}"

    def _look(self, path: str, root: str) -> str:
        """ "" for a file that can be used, else why not."""
        try:
            if not self._is_inside(os.path.dirname(path), root):
                return "leaves"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                if not stays_inside(Path(path), Path(root)):
                    return "leaves"
                status = os.stat(path)
        except (OSError, ValueError):  # missing, or no name that a file can have
            return "missing"
        if not stat.S_ISREG(status.st_mode):
            return "missing"
        return "" if status.st_size else "empty file (0 bytes)"

    def _is_inside(self, folder: str, root: str) -> bool:
        key = (folder, root)
        if key not in self._inside:
            self._inside[key] = stays_inside(Path(folder), Path(root))
        return self._inside[key]

    def _first(self, root: str) -> None:
        """Where one file was found the next is sought first."""
        if self._roots[0] != root:
            self._roots.sort(key=lambda other: other != root)

    def _relative(self, path: str, name: str) -> str:
        """One spelling for one file, so that two rows of it are seen to be of the same image."""
        # behind a link ".." is another folder than the name says; an absolute name may not go by way of the link
        if ".." in name or (os.path.isabs(name) and not path.startswith(self._prefix)):
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            return os.path.relpath(path, os.path.realpath(self.base))
        plain = path.startswith(self._prefix) and "//" not in path and "/./" not in path
        return path[len(self._prefix) :] if plain else os.path.relpath(path, self.base)
