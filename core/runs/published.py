"""Where a published run lies: a repository of the Hugging Face hub, `hf:OWNER/NAME[@REVISION]`, or a folder."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from ..backbones.hub import REPOSITORY, cached_revision, hub_snapshot
from ..errors import CapabilityError, DataError
from .places import HUB

CARD = "README.md"
NEEDED = ("run.json", "metrics.json", "adapter.safetensors")
FILES = (*NEEDED, "calibration.safetensors", "linear-probe.safetensors", CARD)
"""All that is ever pushed, and all that is ever taken from a repository."""
REVISION = re.compile(r"[\w][\w./-]*")
LOCAL_WAY = "give a folder that `vladapt push` wrote"


def folder_of(place: str) -> Path:
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
            f"{place}: not the name of a run; write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION, or {LOCAL_WAY}"
        )
    folder = cached_revision(repo, NEEDED, revision or None)
    folder = folder or hub_snapshot(repo, FILES, revision or None, LOCAL_WAY)
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise DataError(f"{place}: not a run of vladapt, it has no {missing[0]}; {LOCAL_WAY}, or another repository")
    return folder
