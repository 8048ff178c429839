"""Whether what a command line names is there, told without torch and before anything is read."""

from __future__ import annotations

from pathlib import Path

from ..contracts.recipe import SAMPLE
from ..errors import ConfigError, DataError


def check_data_place(path: str) -> None:
    """Raise DataError where there is no such data set."""
    if path != SAMPLE and not Path(path).exists():
        raise DataError(f"--data {path}: no such file or folder; give the path of a data set, or 'sample'")


def check_out_folder(out: str | Path | None, holds: str = "run") -> None:
    """Raise ConfigError where a file lies in place of the folder that is to hold what a command writes."""
    if out and Path(out).is_file():
        raise ConfigError(f"--out {out}: a file, not a folder; give the folder that is to hold the {holds}")


def check_features_place(path: str | Path) -> None:
    """Raise DataError where there is no such file of features."""
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; give a .safetensors or .npz file of features")
