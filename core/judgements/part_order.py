"""Whether a method uses the order of a sample's parts: its score with the parts shuffled, and in reverse.

HiTeA: Hierarchical Temporal-Aware Video-Language Pre-training (Ye et al., 2022, arXiv 2212.14546) proposes to shuffle
the frames of test clips; its formula is not public, and how it is done here is ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from ..contracts.features import FeatureSet
from ..contracts.items import Item
from ..contracts.judgement import JudgedClassifier, Judgement, Place
from ..contracts.prepared import PreparedData, on_adapted
from ..contracts.run_info import Record
from ..features.batches import logits_of
from ..metrics.classification import metrics_of
from ..runs.sections import MEASURES, Cell, TableSection, deciding_of, points
from ..runtime.progress import Reporter

ORDERS = 5
"""Shufflings of each test sample."""
MOST_SAMPLES = 200
"""Test samples that go through towers again in each order."""


@dataclass(frozen=True, eq=False)
class OrderReliance(Record):
    """How much is lost when parts are in another order. A method that sees no order drops by 0.

    Attributes:
        metric: the one that decides, which all scores are of.
        orders: shufflings of each sample.
        in_order: the score of the samples as they are.
        shuffled, spread: mean over shufflings, and their standard deviation.
        drop, relative_drop: of that mean, absolute and as a share of `in_order`.
        reversed: the score of the parts from the last to the first; `reversed_drop`, `reversed_relative_drop` as above.
    """

    key: ClassVar[str] = "part_order"
    metric: str
    orders: int
    in_order: float
    shuffled: float
    spread: float
    drop: float
    relative_drop: float
    reversed_drop: float
    reversed_relative_drop: float
    reversed: float

    @classmethod
    def of_scores(cls, metric: str, shuffled: Sequence[float], reverse: float, in_order: float) -> OrderReliance:
        """Of the scores of each shuffling, of reversed order and in order."""
        mean = statistics.fmean(shuffled)
        drops = [in_order - value for value in (mean, reverse)]
        of_each = [share for drop in drops for share in (drop, drop / in_order if in_order else 0.0)]
        return cls(metric, ORDERS, in_order, mean, statistics.stdev(shuffled), *of_each, reverse)

    def section(self) -> TableSection:
        measure = MEASURES[self.metric]

        def row(name: str, score: float, drop: float, relative: float) -> tuple[Any, ...]:
            change = f"{-relative:+.1%}".replace("-", "−")
            return name, Cell(measure.text(score)), Cell(points(measure, -drop)), Cell(change)

        shuffled = f"Shuffled, mean of {self.orders} orders (standard deviation {measure.text(self.spread)})"
        rows = [
            ("In order", Cell(measure.text(self.in_order)), None, None),
            row(shuffled, self.shuffled, self.drop, self.relative_drop),
            row("Reversed", self.reversed, self.reversed_drop, self.reversed_relative_drop),
        ]
        unused = not self.drop and not self.spread and not self.reversed_drop
        contributes = (
            "The score is the same: this method does not use the order."
            if unused
            else "The difference is what the order contributes."
        )
        note, header = f"The test samples with their parts in another order. {contributes}", ("Parts", measure.name)
        return TableSection("The order of the parts", (*header, "Change", "Relative"), rows, note, sub=True)


@dataclass(eq=False, kw_only=True)
class PartOrder(Judgement):
    """The scores of the test samples with their parts shuffled, and in reverse."""

    record: ClassVar = OrderReliance
    needs: ClassVar = frozenset({"labelled", "sees_parts"})
    place: ClassVar = Place.REASONS

    def compute(self, fit: JudgedClassifier) -> OrderReliance | None:
        """How much is lost when parts are in another order; None where no sample has two parts, and of stored bags.

        Where the fit made towers that see the parts of a sample together, at most `MOST_SAMPLES` test samples are
        decoded and encoded in each order. The seed of the fit fixes the `ORDERS` shufflings.
        """
        if fit.columns is not None or not len(fit.test):
            return None
        adapter, test, moved = fit.adapter, fit.test, on_adapted(fit.prepared, fit.adapter)
        if moved.backbone is not None and moved.backbone.joint is not None:
            return _of_joint_towers(fit, moved)
        seen = test if moved is fit.prepared and test.has_parts else moved.of_ids(test.ids, parts=True)
        if seen.parts is None or int(seen.parts_mask.sum(dim=1).max()) < 2:
            return None
        key = deciding_of(fit.metrics)

        def score(samples: FeatureSet) -> float:
            logits = logits_of(adapter, moved.batches(adapter, samples), len(samples))
            return metrics_of(logits, test.labels, fit.class_names)[key]

        return reliance(key, score, seen, fit.scores.adapted[key], torch.Generator().manual_seed(fit.seed))


def reliance(
    metric: str,
    score: Callable[[FeatureSet], float],
    samples: FeatureSet,
    in_order: float,
    generator: torch.Generator,
) -> OrderReliance:
    """How much is lost, by a score of samples with parts."""
    shuffled = [score(shuffled_parts(samples, generator)) for _ in range(ORDERS)]
    return OrderReliance.of_scores(metric, shuffled, score(reversed_parts(samples)), in_order)


def _of_joint_towers(fit: JudgedClassifier, moved: PreparedData) -> OrderReliance | None:
    """Of towers that see the parts of a sample together; None where it has one part."""
    from ..training.samples import seed_of  # and with it all sources of a training

    if moved.backbone.joint.parts < 2:
        return None
    adapter, test = fit.adapter, fit.test
    key, count = deciding_of(fit.metrics), min(len(test), MOST_SAMPLES)
    rows = torch.linspace(0, len(test) - 1, count, dtype=torch.float64).round().long()
    some = test.select(rows).without_parts()

    def score(order: Callable[[Item, int], np.ndarray]) -> float:
        def load(item: Item) -> Any:
            decoded = np.asarray(moved.data.load(item))
            return decoded if decoded.ndim < 4 else np.ascontiguousarray(decoded[order(item, len(decoded))])

        other = moved.again(replace(moved.data, load=load), Reporter(quiet=True))
        features = other.of_ids(some.ids)
        logits = logits_of(adapter, other.batches(adapter, features), len(some))
        return metrics_of(logits, some.labels, fit.class_names)[key]

    def drawn(number: int) -> Callable[[Item, int], np.ndarray]:
        return lambda item, parts: np.random.default_rng(seed_of(fit.seed, number, item.id)).permutation(parts)

    orders = [*(drawn(number) for number in range(ORDERS)), lambda item, parts: np.arange(parts)[::-1]]
    orders += [lambda item, parts: np.arange(parts)] if count < len(test) else []
    scores: list[float] = []
    with moved.reporter.task("Predicting with parts in other orders") as progress:
        for order in orders:
            scores.append(score(order))
            progress(len(scores), len(orders))
    in_order = scores[ORDERS + 1] if count < len(test) else fit.scores.adapted[key]
    return OrderReliance.of_scores(key, scores[:ORDERS], scores[ORDERS], in_order)


def shuffled_parts(samples: FeatureSet, generator: torch.Generator) -> FeatureSet:
    """Each sample with its parts in another order, drawn for it alone, those of each view among themselves; what is not
    there stays where it is."""
    return _rearranged(samples, torch.rand(samples.parts_mask.shape, generator=generator).to(samples.parts.device))


def reversed_parts(samples: FeatureSet) -> FeatureSet:
    """Each sample with its parts from the last to the first."""
    mask = samples.parts_mask
    return _rearranged(samples, 1 - mask.cumsum(dim=1) / (mask.shape[1] + 1))


def _rearranged(samples: FeatureSet, keys: torch.Tensor) -> FeatureSet:
    """The parts of each view that are there in the order of their keys (N, T) in 0..1, in places that have parts."""
    mask, views = samples.parts_mask, samples.part_views
    keys = keys if views is None else views.keys(keys, mask)
    wanted = keys.masked_fill(~mask, 2).argsort(dim=1)  # those that are there first
    places = (~mask).long().argsort(dim=1, stable=True)
    order = torch.zeros_like(wanted).scatter(1, places, wanted)  # (N, T)
    moved = samples.parts.gather(1, order[..., None].expand(-1, -1, samples.dim))
    before = samples.parts_order
    return replace(samples, parts=moved, parts_order=order if before is None else before.gather(1, order))
