"""The videos of a set, found by the names that lists give them: a path, a file's name with or without its suffix; a
folder of frames counts as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...core.data import Format, ItemCollector, shown, stays_inside, walk
from ...core.errors import DataError, shortened


class ClipFiles:
    """Videos below some folders.

    Args:
        roots: folders that names are relative to; all below them is known by its name alone too.
        formats: what counts as a video; the first that takes a folder makes that one.
    """

    def __init__(self, roots: Sequence[Path], formats: Sequence[Format]):
        self.roots, self._formats = tuple(roots), tuple(formats)
        self._by_name: dict[str, list[Path]] | None = None
        self.skipped: list[tuple[str, str]] = []

    def find(self, name: str, place: str) -> Path | None:
        """The file of a name, or the one that stands for its folder; None where there is none.

        Args:
            place: where the name is listed, for messages.

        Raises:
            DataError: the name leaves the folders, or means several files.
        """
        spelled = name.replace("\\", "/").strip()
        if not spelled or "\0" in spelled:
            raise DataError(f"{place}: '{shortened(name)}' is not the name of a video; correct it")
        for root in self.roots:
            path = root / spelled
            if not stays_inside(path, root):
                raise DataError(
                    f"{place}: '{shortened(name)}' lies outside the folder {root}; list only files inside it"
                )
            if path.is_file():
                return path
            if path.is_dir() and (file := self._of_folder(path)) is not None:
                return file
        found = self._known().get(PurePosixPath(spelled).name) or self._known().get(PurePosixPath(spelled).stem)
        if found and len(found) > 1:
            names = ", ".join(shown(path, self.roots[0]) for path in found[:2])
            raise DataError(f"{place}: '{shortened(name)}' may be {names}; give the path below {self.roots[0]}")
        return found[0] if found else None

    def _known(self) -> dict[str, list[Path]]:
        """Name and stem -> files."""
        if self._by_name is None:
            self._by_name, collector = {}, ItemCollector()
            for root in self.roots:
                seen: set[Path] = set()
                for file in walk(root, root, collector) if root.is_dir() else ():
                    self._take(file, seen)
            self.skipped = collector.skipped
        return self._by_name

    def _take(self, file: Path, seen: set[Path]) -> None:
        fmt = Format.of(file, self._formats)
        if fmt is None:
            return
        stands = self._of_folder(file.parent) if fmt.of_folder(file.parent) is not None else None
        path, names = (file, {file.name, file.stem}) if stands is None else (stands, {file.parent.name})
        if path in seen:
            return
        seen.add(path)
        for name in names:
            places = self._by_name.setdefault(name, [])
            if path not in places:
                places.append(path)

    def _of_folder(self, folder: Path) -> Path | None:
        return next((file for fmt in self._formats if (file := fmt.of_folder(folder)) is not None), None)
