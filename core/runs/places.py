"""Where a run lies: in a folder, or published in a repository of the Hugging Face hub; told without torch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from ..backbones.hub import REPOSITORY, cached_revision, hub_snapshot
from ..errors import CapabilityError, DataError

HUB = "hf:"
"""Before the name of a run of the Hugging Face hub."""
UNFINISHED = ".unfinished"
"""In a folder: a fit is still writing it, or was stopped."""
CARD = "README.md"
NEEDED = ("run.json", "metrics.json", "adapter.safetensors")
FILES = (*NEEDED, "calibration.safetensors", "linear-probe.safetensors", CARD)
"""All that is ever pushed, and all that is ever taken from a repository."""
REVISION = re.compile(r"[\w][\w./-]*")
LOCAL_WAY = "give a folder that `vladapt push` wrote"


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
    of_model = (path / "config.json").is_file()
    cure = f"a model of transformers is named {HUB}{path}" if of_model else "give a run folder that `vladapt fit` wrote"
    raise DataError(f"{path}: no run.json there; {cure}")


def hub_run_folder(place: str) -> Path:
    """The folder of a published run: one in the hub's cache, downloaded if it is not there, or the one that is named.

    Args:
        place: `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION`, or `hf:FOLDER`.

    Raises:
        DataError: no such name, none of the files of a run there, or not cached and offline.
    """
    rest = place.removeprefix(HUB)
    if rest and Path(rest).expanduser().is_dir():
        return Path(rest).expanduser()
    if find_spec("huggingface_hub") is None:
        raise CapabilityError(f"{place}: needs huggingface_hub; install it with: pip install 'vladapt[sharing]'")
    repo, at, revision = rest.partition("@")
    if not REPOSITORY.fullmatch(repo) or repo.startswith(".") or (at and not REVISION.fullmatch(revision)):
        raise DataError(
            f"{place}: no such folder, and not the name of a run or model of the hub; write hf:OWNER/NAME, "
            "hf:OWNER/NAME@REVISION or hf:FOLDER"
        )
    folder = cached_revision(repo, NEEDED, revision or None)
    folder = folder or hub_snapshot(repo, FILES, revision or None, LOCAL_WAY)
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise DataError(f"{place}: not a run of vladapt, it has no {missing[0]}; {LOCAL_WAY}, or another repository")
    return folder
