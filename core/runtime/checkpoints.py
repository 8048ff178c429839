"""Checkpoints of a fit that trains towers: kept beside the runs while it goes on, found again by what it is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine import Config

from ..contracts.adapter import Adapter
from ..contracts.domain import Item
from ..contracts.errors import ConfigError
from ..data.identity import FileHashes, content_key
from ..features.keys import canonical_json
from ..runs.folder import RUNS
from ..tasks.classification.images import Prepared, Shots
from ..training.checkpoints import checkpoints
from .distributed import is_main, run_on_all
from .progress import Reporter

PLACE = ".resume"
CHECKPOINTS = "checkpoints"


@contextmanager
def kept_checkpoints(
    recipe: Config, adapter: Adapter, prepared: Prepared, shots: Shots, reporter: Reporter
) -> Iterator:
    """The folder of a fit's checkpoints, `<out>/.resume/<key>`; None for an adapter that keeps none.

    It is removed where the block ends well. Else it stays, and the same fit with `resume` goes on from it: the same
    data, shots, prompts, backbone, seed and options, but for those that change speed and memory alone.

    Raises:
        ConfigError: an unfinished fit is there and `resume` is not given.
    """
    if "pixels" not in adapter.needs:
        if recipe.resume:
            reporter.say(f"--resume: {adapter.name} keeps no checkpoints, there is nothing to go on from")
        yield None
        return
    key = fit_key(recipe, adapter, prepared, shots)
    with checkpoints_of(Path(recipe.out or RUNS), key, recipe.resume, reporter) as folder:
        yield folder


@contextmanager
def checkpoints_of(runs: Path, key: str, resume: bool, reporter: Reporter) -> Iterator[Path]:
    """`<runs>/.resume/<key>`, removed where the block ends well.

    Raises:
        ConfigError: an unfinished training is there and it is not to be resumed.
    """
    folder = runs / PLACE / key
    run_on_all(lambda: _refuse_unfinished(folder, resume))
    try:
        yield folder
    except BaseException:
        if is_main() and _steps(folder):
            reporter.say(f"Step {_steps(folder)} is kept in {folder}; the same command with --resume goes on from it")
        raise
    if is_main():
        _remove(folder)


def fit_key(recipe: Config, adapter: Adapter, prepared: Prepared, shots: Shots) -> str:
    """16 hex digits that say what a training learns from what."""
    lasting = {name: value for name, value in adapter.options.items() if name not in adapter.passing}
    classifier = prepared.classifier
    parts: list[Any] = [adapter.name, lasting, prepared.backbone.fingerprint, recipe.seed, recipe.shots]
    parts += [list(prepared.class_names), [list(texts) for texts in classifier.texts]]
    hashes = FileHashes()
    parts += [[_content(item, hashes) for item in items] for items in (shots.items, shots.val_items)]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _content(item: Item, hashes: FileHashes) -> list[Any]:
    return [content_key(item, hashes), item.label, repr(item.labels)]


def _refuse_unfinished(folder: Path, resume: bool) -> None:
    if not resume and (steps := _steps(folder)):
        raise ConfigError(
            f"{folder}: this fit was stopped after step {steps}; add --resume to go on with it, or remove that folder "
            "to start anew"
        )


def _steps(folder: Path) -> int:
    """Steps of the newest checkpoint, 0 where there is none."""
    found = checkpoints(folder / CHECKPOINTS)
    return int(found[-1].stem.partition("-")[2]) if found else 0


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another fit's checkpoints lie there
        folder.parent.rmdir()
