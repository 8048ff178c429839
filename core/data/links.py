"""Links that leave a data folder, as DVC, git-annex and caches make them, and where they may lead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError

FOLLOWED = "VLADAPT_FOLLOW_LINKS"
"""Environment variable, as PATH: folders below which the files of links may lie. A command's processes have it, too."""
CURE = "copy the file there, or give --follow-links with the folder of the files"


def follow_links(roots: Sequence[str]) -> None:
    """Let links of all data lead below these folders, too, in this process and those that it starts.

    Raises:
        ConfigError: one is no folder.
    """
    for root in roots:
        if not Path(root).is_dir():
            raise ConfigError(f"--follow-links {root}: no such folder; give the folder that the links lead to")
    os.environ[FOLLOWED] = os.pathsep.join(os.path.abspath(root) for root in roots)


def stays_inside(path: Path, root: Path) -> bool:
    """Whether a path, links resolved, lies in the folder, or where links may lead; links in a circle lie nowhere."""
    places = [root, *map(Path, filter(None, os.environ.get(FOLLOWED, "").split(os.pathsep)))]
    return any(lies_in(path, place) for place in places)


def cure_of(path: Path, root: Path) -> str:
    """What helps where a listed path does not stay inside a folder: by way of a link, or by its name."""
    return CURE if Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)) else "list only files inside it"


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path, links resolved, lies in the folder itself."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (RuntimeError, OSError, ValueError):  # a circle, gone meanwhile, a NUL in the name
        return False
