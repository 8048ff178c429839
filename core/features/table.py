"""The result being filled: one row an image, one column the image itself and one each augmented view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..contracts.domain import Item
from ..contracts.errors import DataError
from ..data.identity import FileHashes, content_key
from .extract import Job, cores, one_line
from .request import Request


class Table:
    """Cells (N, 1 + V), each found by its key; images with the same content share keys, so each is computed once.

    Attributes:
        values: (N, 1 + V, D) float32, None until the first row is put.
        reasons: row -> why that image cannot be used.
    """

    def __init__(self, request: Request, items: Sequence[Item], hashes: FileHashes):
        self.items = items
        self.request = request
        self.values: Tensor | None = None
        self.reasons: dict[int, str] = {}
        self._filled = np.zeros((len(items), request.columns), dtype=bool)
        self._contents = self._contents_of(hashes)
        self._cells: dict[bytes, list[tuple[int, int]]] = {}
        for row, content in enumerate(self._contents):
            for column in range(request.columns if content else 0):
                self._cells.setdefault(request.key(content, column), []).append((row, column))

    @property
    def filled(self) -> int:
        """Number of cells that have their feature."""
        return int(self._filled.sum())

    @property
    def kept(self) -> list[int]:
        """Rows that have all their features."""
        return [row for row in range(len(self.items)) if row not in self.reasons]

    def missing(self) -> list[bytes]:
        """Keys without a feature, each once, in the order of the images."""
        return [key for key, cells in self._cells.items() if not self._filled[cells[0]]]

    def jobs(self) -> list[Job]:
        """What is to be computed: of each image all that is missing."""
        by_row: dict[int, list[tuple[bytes, int]]] = {}
        for key in self.missing():
            row, column = self._cells[key][0]
            by_row.setdefault(row, []).append((key, column))
        jobs = []
        for row, wanted in by_row.items():
            seeds = tuple(self.request.seed_of(self._contents[row], column) for _, column in wanted)
            jobs.append(Job(self.items[row], tuple(key for key, _ in wanted), seeds))
        return jobs

    def put(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Features (k, D) of k keys."""
        if self.values is None:
            self.values = torch.zeros(*self._filled.shape, rows.shape[1])
        cells = [(row, column, i) for i, key in enumerate(keys) for row, column in self._cells[key]]
        row, column, i = np.array(cells).T
        self.values.numpy()[row, column] = rows[i]
        self._filled[row, column] = True

    def fail(self, keys: Sequence[bytes], reason: str) -> None:
        """No feature can be had for these keys: their images are left out."""
        for key in keys:
            for row, _ in self._cells[key]:
                self.reasons.setdefault(row, reason)

    def _contents_of(self, hashes: FileHashes) -> list[str | None]:
        """Content keys of the items; None, and a reason, for files that cannot be read."""
        outcomes = _in_threads(lambda item: _content(item, hashes), self.items, self.request.workers)
        for row, (content, reason) in enumerate(outcomes):
            if content is None:
                self.reasons[row] = reason
        return [content for content, _ in outcomes]


def _in_threads(step: Callable, items: Sequence[Item], workers: int | None) -> list:
    if not items:
        return []
    first = step(items[0])  # alone: it makes FileHashes read its memory, which threads then share
    with ThreadPoolExecutor(max(1, cores() if workers is None else workers)) as pool:
        return [first, *pool.map(step, items[1:])]


def _content(item: Item, hashes: FileHashes) -> tuple[str | None, str]:
    try:
        return content_key(item, hashes), ""
    except DataError as error:
        if str(error).startswith(f"{item.source}:"):
            return None, one_line(error)
        raise  # not the image's fault: the hashes cannot be stored
