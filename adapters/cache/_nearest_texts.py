"""The nearest of many texts: by faiss where the pool is large, by blocks of a matrix product else; the same texts."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from ...core.retrieval.kinds import faiss_library
from ._cache import CHUNK_ELEMENTS

SEARCHES = ("auto", "faiss", "torch")
LARGE = 100_000  # texts from which faiss' blocks and heaps are faster than a matrix product and a partial sort


class NearestTexts:
    """A pool of texts to search in.

    Args:
        pool: (N, D) unit rows.
        search: "faiss", "torch", or "auto": faiss where it is installed, the pool is on the CPU and large.

    Raises:
        CapabilityError: faiss is asked for and not installed.
    """

    def __init__(self, pool: Tensor, search: str = "auto"):
        self.pool, self._index = pool, None
        large = pool.device.type == "cpu" and len(pool) >= LARGE and find_spec("faiss") is not None
        if search == "faiss" or (search == "auto" and large):
            self._index = faiss_library().IndexFlatIP(pool.shape[1])
            self._index.add(_rows(pool))

    def __call__(self, queries: Tensor, top: int) -> Tensor:
        """(B, K) int64 places of the nearest texts, the best first; K is at most the size of the pool.

        Args:
            queries: (B, D) unit rows.
        """
        top = min(top, len(self.pool))
        if self._index is not None:
            return torch.from_numpy(self._index.search(_rows(queries), top)[1]).to(queries.device)
        rows = max(1, CHUNK_ELEMENTS // len(self.pool))
        return torch.cat([(block @ self.pool.T).topk(top, dim=-1).indices for block in queries.split(rows)])


def _rows(features: Tensor) -> np.ndarray:
    return np.ascontiguousarray(features.detach().to("cpu", torch.float32).numpy())
