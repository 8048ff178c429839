"""Checkpoints that survive a power cut: written whole or not at all, proven by their digest, the one before kept.

One file per checkpoint, of tensors and plain values, read with torch's `weights_only`; beside it its sha256.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..runtime.distributed import all_gather_json, is_main, rank, run_on_all, world_size

FOLDER = "checkpoints"
"""Inside the place of a training."""
NAME = re.compile(r"step-(\d+)\.pt")


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
    digest = _sha256(path)
    _write(_digest_file(path), lambda handle: handle.write(digest.encode()))
    for old in checkpoints(folder)[:-keep]:
        _digest_file(old).unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, Path | None, list[str]]:
    """The newest checkpoint that is whole.

    Returns:
        (state, its file, sentences about damaged ones that were passed over); (None, None, ...) where there is none.

    Raises:
        DataError: there are checkpoints, and all are damaged.
    """
    paths, notes = checkpoints(folder), []
    for path in reversed(paths):
        reason = _damage(path)
        if reason is None:
            return torch.load(path, map_location="cpu", weights_only=True), path, notes
        notes.append(f"{path}: damaged ({reason}), the checkpoint before it is used")
    if paths:
        raise DataError(f"{folder}: all {len(paths)} checkpoints are damaged; start again without --resume")
    return None, None, notes


def agreed_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, Path | None, list[str]]:
    """The newest whole checkpoint of rank 0, on every rank; as `newest_checkpoint`, which it is on one.

    Raises:
        DataError: on every rank, the same: rank 0's checkpoints are all damaged, or another rank's folder does not hold
            the one that rank 0 goes on from, or holds some where rank 0's holds none.
    """
    if world_size() == 1:
        return newest_checkpoint(folder)
    found = run_on_all(lambda: newest_checkpoint(folder) if is_main() else (None, None, []))
    _, path, notes = found
    told = None if path is None else [path.name, _digest_file(path).read_text(encoding="utf-8").strip()]
    choice = all_gather_json(told)[0]
    return run_on_all(lambda: found if is_main() else (*_same_as_main(folder, choice), notes))


def _same_as_main(folder: Path, choice: list[str] | None) -> tuple[dict[str, Any] | None, Path | None]:
    """This rank's copy of the checkpoint that rank 0 chose: [name, sha256], or None where it starts anew."""
    cure = "give all processes one --out that they share, or copy rank 0's folder to each machine"
    if choice is None:
        if kept := checkpoints(folder):
            raise DataError(f"{folder}: rank {rank()} has {kept[-1].name} there, and rank 0 no checkpoint; {cure}")
        return None, None
    name, digest = choice
    path = folder / name
    if not path.is_file():
        raise DataError(f"{folder}: rank {rank()} has no {name}, from which rank 0 goes on; {cure}")
    if _sha256(path) != digest:
        raise DataError(f"{path}: on rank {rank()} it is not the file that rank 0 goes on from; {cure}")
    return torch.load(path, map_location="cpu", weights_only=True), path


def checkpoints(folder: Path) -> list[Path]:
    """Files of checkpoints, the oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if NAME.fullmatch(path.name))


def newest_step(folder: Path) -> str:
    """ "step 12" where that is the newest checkpoint of a training whose place is `folder`, "" without any."""
    kept = checkpoints(folder / FOLDER)
    return f"step {int(kept[-1].stem.partition('-')[2])}" if kept else ""


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    digest = _digest_file(path)
    if not digest.is_file():
        return "its digest is missing"
    return (
        None if digest.read_text(encoding="utf-8").strip() == _sha256(path) else "its content is not what was written"
    )


def _write(path: Path, write) -> None:
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            noting = _NotingErrors(handle)
            try:
                write(noting)
            except RuntimeError as error:
                raise noting.error or error from error
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


class _NotingErrors:
    """A file that keeps what was wrong with a write: torch makes something of its own of it."""

    def __init__(self, handle):
        self.handle, self.error = handle, None

    def write(self, content) -> int:
        try:
            return self.handle.write(content)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str):
        return getattr(self.handle, name)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(handle)


def _slow(handle) -> str:
    """For Python 3.10."""
    digest = hashlib.sha256()
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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
