"""How a classifier stands a growing vocabulary: extensibility and stability of "Delving into the Openness of CLIP" (Ren
et al., 2022, arXiv 2206.01986).

The classes are divided into G groups. One after the other is the target group, which is scored alone first (closed
accuracy), and into whose vocabulary the other groups then come, in several orders:

* extensibility is the accuracy on the images of all groups so far, the mean over the G vocabularies of an order;
* stability is the accuracy on the images of the target group alone, each of its classes counting alike, the mean over
  the G - 1 vocabularies that hold more than it.

Both are means over orders, then over target groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 4096
"""Images whose classes are ranked at once."""


@dataclass(frozen=True)
class VocabularyGrowth:
    """Shares from 0 to 1.

    Attributes:
        closed: accuracy of each target group alone, the mean.
        extensibility, stability: as above.
        extensibility_by_step: per number of groups in the vocabulary, from 1 to G.
        stability_by_step: the same, from 2 to G.
    """

    closed: float
    extensibility: float
    stability: float
    extensibility_by_step: list[float]
    stability_by_step: list[float]


def divided_classes(labels: Tensor, classes: int, groups: int, seed: int) -> Tensor:
    """(C,) int64, the group of each class: drawn, as equal in size as can be, each with classes that images show.

    Args:
        labels: (N,) of the images.
        groups: at most as many as there are classes with images.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = torch.bincount(labels.cpu(), minlength=classes) > 0
    drawn = torch.randperm(classes, generator=generator)
    drawn = torch.cat([drawn[shown[drawn]], drawn[~shown[drawn]]])
    group = torch.empty(classes, dtype=torch.int64)
    group[drawn] = torch.arange(classes) % groups
    return group


def growing_orders(groups: int, trials: int, seed: int) -> list[tuple[int, ...]]:
    """Orders of the groups, `trials` for each as the target, which comes first; all there are where these are fewer."""
    generator, orders = torch.Generator().manual_seed(seed), []
    for target in range(groups):
        others = [group for group in range(groups) if group != target]
        if math.factorial(len(others)) <= trials:
            drawn: Iterable[Sequence[int]] = itertools.permutations(others)
        else:
            drawn = ([others[i] for i in torch.randperm(len(others), generator=generator)] for _ in range(trials))
        orders += [(target, *order) for order in drawn]
    return orders


def vocabulary_growth(
    logits: Tensor, labels: Tensor, group: Tensor, orders: Sequence[Sequence[int]]
) -> VocabularyGrowth:
    """The scores of one classifier.

    Args:
        logits: (N, C), of which those of a vocabulary are compared.
        labels: (N,).
        group: (C,) the group of each class.
        orders: of the groups, as many for each target.
    """
    own, best = _places(logits.cpu(), labels.cpu(), group)
    groups, of_image = best.shape[1], group[labels.cpu()]
    # Images of a class count together as one of a target group, whose classes count alike.
    share = 1 / torch.bincount(labels.cpu(), minlength=len(group)).clamp(min=1).double()[labels.cpu()]  # (N,)
    extensibility, stability, closed = [], [], []
    for order in orders:
        order = torch.as_tensor(order)
        right = own[:, None] == best[:, order].cummin(dim=1).values  # (N, G): among the groups so far
        came = torch.empty_like(order).scatter_(0, order, torch.arange(groups))[of_image]  # (N,) when its group came
        there = came[:, None] <= torch.arange(groups)  # (N, G)
        extensibility.append((right & there).sum(dim=0).double() / there.sum(dim=0))
        of_target = torch.where(came == 0, share, 0)
        stability.append((of_target @ right.double() / of_target.sum())[1:])
        closed.append(extensibility[-1][0])
    grown, stable = torch.stack(extensibility).mean(dim=0), torch.stack(stability).mean(dim=0)
    return VocabularyGrowth(
        closed=float(torch.stack(closed).mean()),
        extensibility=float(grown.mean()),
        stability=float(stable.mean()),
        extensibility_by_step=grown.tolist(),
        stability_by_step=stable.tolist(),
    )


def _places(logits: Tensor, labels: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the place of each image's class among all classes, 0 the best, and (N, G) the best place of each group. Of
    equal logits the first class is the better one, as for `argmax`."""
    own, best = [], []
    for rows, answers in zip(logits.split(ROWS), labels.split(ROWS)):
        order = rows.argsort(dim=1, descending=True, stable=True)
        place = torch.empty_like(order).scatter_(1, order, torch.arange(rows.shape[1]).expand_as(order))
        own.append(place.gather(1, answers[:, None])[:, 0])
        least = torch.full((len(rows), int(group.max()) + 1), rows.shape[1])
        best.append(least.scatter_reduce(1, group.expand_as(place), place, "amin"))
    return torch.cat(own), torch.cat(best)
