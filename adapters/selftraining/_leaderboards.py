"""Which images get a pseudo-label: the most probable ones of each class, equally many in all classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def top_k_per_class(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows and their pseudo-labels, class by class, in the order of each class's board.

    Images come in their order. One goes to the board of its likeliest class, where there is room for k, or where the
    last entry is less probable; otherwise it is offered to the boards of all other classes alike, so that it may have
    several pseudo-labels. A board is sorted when an entry is replaced, and not before: until then its last entry is
    the latest, as published. Of equal probabilities the later image stands first.

    Args:
        probabilities: (N, C).
        k: entries of a board.
    """
    values = probabilities.detach().cpu().float().numpy()
    boards: list[list[tuple[float, int]]] = [[] for _ in range(values.shape[1])]
    size, last = np.zeros(len(boards), dtype=np.int64), np.full(len(boards), np.inf, dtype=values.dtype)

    def offer(image: int, name: int) -> None:
        board = boards[name]
        board.append((float(values[image, name]), image))
        if len(board) > k:
            board.sort(reverse=True)
            board.pop()
        size[name], last[name] = len(board), board[-1][0]

    for image, likeliest in enumerate(values.argmax(axis=1).tolist()):
        takes = (size < k) | (last < values[image])
        if takes[likeliest]:
            offer(image, likeliest)
            continue
        for name in np.flatnonzero(takes).tolist():
            offer(image, name)
    rows = [image for board in boards for _, image in board]
    labels = [name for name, board in enumerate(boards) for _ in board]
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64)


def growing_counts(images: int, classes: int, rounds: int) -> list[int]:
    """Pseudo-labels per class at the start and after each round: a further share of all images each time, and at most
    what they would be if all classes had as many."""
    share = images // rounds
    return [min((done + 1) * share // classes, images // classes) for done in range(rounds + 1)]
