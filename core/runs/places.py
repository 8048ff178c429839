"""Where a run lies, told without torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError

HUB = "hf:"
"""Before the name of a run of the Hugging Face hub."""
UNFINISHED = ".unfinished"
"""In a folder: a fit is still writing it, or was stopped."""


def run_folder(path: Path) -> Path:
    """The folder of a run; one that holds a single run stands for it.

    Raises:
        DataError: no such folder, no run there, several, or one that is not finished.
    """
    if not path.exists():
        raise DataError(f"{path}: no such run folder; give one that `vladapt fit` wrote")
    if not path.is_dir():
        raise DataError(f"{path}: a file, not a run folder; give the folder that holds run.json")
    if (path / UNFINISHED).exists():
        raise DataError(f"{path}: this run did not finish; fit again")
    if (path / "run.json").is_file():
        return path
    runs = sorted(file.parent for file in path.glob("*/run.json"))
    if len(runs) == 1:
        return run_folder(runs[0])
    if runs:
        raise DataError(f"{path}: holds {len(runs)} runs; give one of them, for instance {runs[-1]}")
    raise DataError(f"{path}: no run.json there; give a run folder that `vladapt fit` wrote")
