"""Random states of every library and process, as plain data: mmengine's checkpoints hold none."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from ..runtime.distributed import all_gather_json, rank


def all_random_states() -> list[dict[str, Any]]:
    """One entry a rank."""
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
