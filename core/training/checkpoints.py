"""Checkpoints that survive a power cut: written whole or not at all, proven by their digest, the one before kept.

One file per checkpoint, of tensors and plain values, read with torch's `weights_only`; beside it its sha256. Where
weights are sharded over processes, a folder per checkpoint (`sharded_checkpoints.py`).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..runtime.distributed import all_gather_json, is_main, rank, run_on_all, world_size
from ..runtime.reading import sha256_of

FOLDER = "checkpoints"
"""Inside the place of a training."""
SUFFIX = ".pt"
NAME = re.compile(r"step-(\d+)(\.pt)?")
INDEX = "index.json"
"""Of a checkpoint in a folder: what lies where, and the sha256 of every file."""
PART = re.compile(r"part-\d{5}\.safetensors")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint; older ones beyond `keep` are removed after it stands.

    Args:
        folder: is made if need be.
        step: optimiser steps done.
        state: nested dicts and lists of tensors, numbers, texts and None.
        keep: how many stay.

    Raises:
        OSError: it cannot be written; those before stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    _write(path, lambda handle: torch.save(state, handle))
    digest = sha256_of(path)
    _write(_digest_file(path), lambda handle: handle.write(digest.encode()))
    keep_newest(folder, keep)
    return path


def newest_checkpoint(folder: Path) -> tuple[Any, Path | None, list[str]]:
    """The newest checkpoint that is whole, on all processes the same: rank 0's.

    Returns:
        (its state, its place, sentences about damaged ones that were passed over); (None, None, ...) where there is
        none. The state of sharded weights is what `read_index` gives.

    Raises:
        DataError: on every rank, the same: all of rank 0's checkpoints are damaged, or another rank's folder does not
            hold the one that rank 0 goes on from, or holds some where rank 0's holds none.
    """
    names = all_gather_json([path.name for path in checkpoints(folder)])[0]
    notes = []
    for path in (folder / name for name in reversed(names)):
        reason = _damage_on_any(path)
        if reason is None:
            return run_on_all(lambda path=path: _read_as_main(path)), path, notes
        notes.append(f"{path}: damaged ({reason}); the checkpoint before it is used")
    run_on_all(lambda: _check_none(folder, names))
    return None, None, notes


def _damage_on_any(path: Path) -> str | None:
    """What is wrong with a checkpoint of rank 0. A file is looked at by rank 0; the files of a folder, which all ranks
    see, by each in turn."""
    if path.suffix == SUFFIX:
        reasons = all_gather_json(run_on_all(lambda: _damage(path) if is_main() else None))
    else:
        run_on_all(lambda: _check_there(path))
        reasons = all_gather_json(run_on_all(lambda: _damage_of_folder(path, world_size(), rank())))
    return next(filter(None, reasons), None)


CURE = "give all processes one --out that they share, or copy rank 0's folder to each machine"


def _check_there(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path.parent}: rank {rank()} has no {path.name}, from which rank 0 continues; {CURE}")


def _check_none(folder: Path, of_main: list[str]) -> None:
    """Raise DataError unless there is no checkpoint anywhere."""
    folders = checkpoints(folder)
    if of_main and is_main():
        raise DataError(f"{folder}: all {len(folders)} checkpoints are damaged; start again without --resume")
    if folders and not of_main:
        raise DataError(f"{folder}: rank {rank()} has {folders[-1].name} there, but rank 0 has no checkpoint; {CURE}")


def _read_as_main(path: Path) -> Any:
    """The state of a whole checkpoint; run on all ranks."""
    _check_there(path)
    if path.suffix != SUFFIX:
        return read_index(path)
    digest = all_gather_json(_digest_file(path).read_text(encoding="utf-8").strip() if is_main() else None)[0]
    if not is_main() and sha256_of(path) != digest:
        raise DataError(f"{path}: on rank {rank()} it differs from the file that rank 0 continues from; {CURE}")
    return torch.load(path, map_location="cpu", weights_only=True)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, files or folders, the oldest first."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), key=lambda path: _step(path))


def keep_newest(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for old in checkpoints(folder)[:-keep]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            _digest_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)


def newest_step(folder: Path) -> str:
    """ "step 12" where that is the newest checkpoint of a training whose place is `folder`, "" without any."""
    folders = checkpoints(folder / FOLDER)
    return f"step {_step(folders[-1])}" if folders else ""


def _step(path: Path) -> int:
    return int(NAME.fullmatch(path.name).group(1))


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint in one file, or None."""
    digest = _digest_file(path)
    if not digest.is_file():
        return "its digest is missing"
    written = digest.read_text(encoding="utf-8").strip()
    return None if written == sha256_of(path) else "its content is not what was written"


def read_index(folder: Path) -> dict[str, Any]:
    """{"tensors": name -> {"dtype", "shape", "chunks"}, "files": name -> sha256, "facts"} of a whole checkpoint."""
    return json.loads((folder / INDEX).read_text(encoding="utf-8"))


def _damage_of_folder(folder: Path, every: int = 1, first: int = 0) -> str | None:
    """What is wrong with a checkpoint in a folder, or None.

    Args:
        every, first: look at each `every`-th of its files alone, from `first` on, where processes share the work.
    """
    digest = folder / f"{INDEX}.sha256"
    if not (folder / INDEX).is_file() or not digest.is_file():
        return "its index is missing"
    if digest.read_text(encoding="utf-8").strip() != sha256_of(folder / INDEX):
        return "its index is not what was written"
    for name, told in sorted(read_index(folder)["files"].items())[first::every]:
        if not PART.fullmatch(name) or not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_of(folder / name) != told:
            return f"{name} is not what was written"
    return None


def _write(path: Path, write) -> None:
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            try:
                write(handle)
            except RuntimeError as error:  # torch makes one of an OSError
                cause = error.__context__
                raise (cause if isinstance(cause, OSError) else error) from error
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def all_random_states() -> list[dict[str, Any]]:
    """One entry per rank."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, spare = random.getstate()
    mine = {
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_initialized() else None,
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), spare],
    }
    return all_gather_json(mine)


def set_random_states(states: list[dict[str, Any]]) -> None:
    """Those of this rank; of another number of ranks, the first's."""
    mine = states[rank()] if rank() < len(states) else states[0]
    torch.set_rng_state(torch.tensor(mine["torch"], dtype=torch.uint8))
    if mine["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(mine["cuda"], dtype=torch.uint8))
    name, keys, position, has_gauss, gauss = mine["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, spare = mine["python"]
    random.setstate((version, tuple(internal), spare))
