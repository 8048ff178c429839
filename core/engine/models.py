"""Runs that are named, by folder or of the Hugging Face hub; a model of the hub that a domain can use as it is is one,
too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..backbones.hub import REPOSITORY, cached_revision
from ..contracts.backbone import Backbone
from ..errors import CapabilityError
from ..registry import catalogue, load_domain
from ..runs.folder import Run, open_run
from ..runs.places import HUB, NEEDED, REVISION


def opened_run(run: str | Path, backbone: str | Backbone | None = None) -> Run:
    """The run of a place, or the one that a domain makes of the model that it names, which is shown as the place.

    Args:
        backbone: as of `open_run`.

    Raises:
        As `open_run`; DataError: the place names neither a run nor a model that a domain has a use for.
    """
    folder = _folder_of(run)
    opened = open_run(folder, backbone)
    if folder is not run:
        opened.place = str(run)
    return opened


def _folder_of(run: str | Path) -> str | Path:
    if not str(run).startswith(HUB) or _is_run(str(run).removeprefix(HUB)):
        return run
    for name in catalogue.domains():
        try:
            made = load_domain(name).run_of_model(str(run))
        except CapabilityError:  # its packages are missing
            continue
        if made is not None:
            return made
    return run


def _is_run(rest: str) -> bool:
    """Whether a place of the hub is left to those who open runs."""
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return (folder / NEEDED[0]).is_file() or not (folder / "config.json").is_file()
    repository, at, revision = rest.partition("@")
    named = REPOSITORY.fullmatch(repository) and not repository.startswith(".")
    if not named or (at and not REVISION.fullmatch(revision)) or find_spec("huggingface_hub") is None:
        return True  # which says what is wrong
    return cached_revision(repository, NEEDED, revision or None) is not None
