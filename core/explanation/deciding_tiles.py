"""Which parts of a bag an answer rests on: those that the method attends to; where it attends to none, those without
which the class loses most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contracts.adapter import Adapter

MOST = 5
"""Parts that are named."""
CANDIDATES = 32
"""Parts that are left out one by one: those that a first-order estimate says matter most."""
ATTENTION, LOSS = "attention", "loss"
"""What weights are: shares of the attention, which add up to 1; or how far the logit falls without the part."""


@dataclass(frozen=True)
class DecidingTiles:
    """The parts of a bag that weigh most for a class, those first.

    Args:
        parts: their places in the bag.
        weights: of each.
        kind: what they are, "attention" or "loss".
        every: (T,) weights of all parts, where the method gives them; else None.
    """

    parts: list[int]
    weights: list[float]
    kind: str
    every: Tensor | None = None

    def rows(self, coords: Any = None) -> list[dict[str, Any]]:
        """The first as JSON: "part", "weight", and of coords (T, 2) "x" and "y" of the upper left corner."""
        pairs = list(zip(self.parts, self.weights))[:MOST]
        rows: list[dict[str, Any]] = [{"part": part, "weight": round(weight, 6)} for part, weight in pairs]
        if coords is None:
            return rows
        return [{**row, **dict(zip("xy", map(int, coords[row["part"]])))} for row in rows]

    def within(self, start: int, count: int) -> DecidingTiles | None:
        """Those among some parts after each other, counted from the first of these; None where there are none."""
        pairs = [(part - start, weight) for part, weight in zip(self.parts, self.weights) if 0 <= part - start < count]
        if not pairs:
            return None
        parts, weights = map(list, zip(*pairs))
        return DecidingTiles(parts, weights, self.kind, None if self.every is None else self.every[start:][:count])


@torch.no_grad()
def deciding_tiles(adapter: Adapter, bag: Tensor, called: int, most: int = MOST) -> DecidingTiles:
    """The parts that decide for a class.

    Args:
        adapter: fitted, that can answer by bags.
        bag: (T, D), on the adapter's device.
        called: class index.
        most: parts that are named.
    """
    return attended_tiles(adapter, bag, called, most) or _without_each(adapter, bag, called, most)


@torch.no_grad()
def attended_tiles(adapter: Adapter, bag: Tensor, called: int, most: int = MOST) -> DecidingTiles | None:
    """Those that the method attends to, at the cost of one answer; None where it has no attention to show."""
    attention = adapter.deciding(bag)
    if attention is None:
        return None
    weights = attention[called if len(attention) > 1 else 0]
    best = weights.topk(min(most, len(bag)))
    return DecidingTiles(best.indices.tolist(), best.values.tolist(), ATTENTION, weights)


def _without_each(adapter: Adapter, bag: Tensor, called: int, most: int) -> DecidingTiles:
    """By how far the logit falls, above the mean of the others', without a part. Candidates have the largest slope
    towards the mean of the bag, which one backward pass gives of all parts."""
    with torch.enable_grad():
        seen = bag.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_height(adapter, seen, called), seen)
    slopes = ((bag - bag.mean(dim=0)) * gradient).sum(dim=1)  # (T,)
    candidates = slopes.topk(min(max(CANDIDATES, most), len(bag))).indices
    falls = torch.zeros(len(candidates), device=bag.device)
    if len(bag) > 1:
        rest = torch.ones(len(bag), dtype=torch.bool, device=bag.device)
        for n, part in enumerate(candidates):
            falls[n] = _height(adapter, bag[rest.index_fill(0, part, False)], called)
        falls = _height(adapter, bag, called) - falls
    best = falls.topk(min(most, len(falls)))
    return DecidingTiles(candidates[best.indices].tolist(), best.values.tolist(), LOSS)


def _height(adapter: Adapter, bag: Tensor, called: int) -> Tensor:
    """() logit of a class, above the mean of the others where only one is right."""
    logits = adapter.bag_logits(bag).float()
    if adapter.multilabel_ or len(logits) < 2:
        return logits[called]
    return logits[called] - (logits.sum() - logits[called]) / (len(logits) - 1)
