"""Whether a method uses the order of a sample's parts: its score with the parts shuffled, and in reverse.

HiTeA: Hierarchical Temporal-Aware Video-Language Pre-training (Ye et al., 2022, arXiv 2212.14546) proposes to shuffle
the frames of test clips; its formula is not public, and how it is done here is ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...contracts.adapter import Adapter
from ...contracts.domain import Item
from ...contracts.features import FeatureSet
from ...runs.sections import Cell, TableSection
from ...runtime.progress import Reporter
from ...training.samples import seed_of
from .batches import logits_of
from .images import Counts
from .scoring import metrics_of, on_adapted
from .verdict import MEASURES, deciding_of, points

ORDERS = 5
"""Shufflings of each test sample."""
KEY = "part_order"
MOST_SAMPLES = 200
"""Test samples that go through towers again in each order."""


def order_reliance(
    prepared, adapter: Adapter, test: FeatureSet, class_names: Sequence[str], metrics: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """{"part_order": how much is lost when parts are in another order}, of the metric that decides.

    Args:
        prepared: the data on the backbone of the fit. Where the fit made towers that see the parts of a sample
            together, at most `MOST_SAMPLES` test samples are decoded and encoded in each order.
        test: labelled rows of it.
        metrics: of these rows in their order, with "adapted".
        seed: fixes the `ORDERS` shufflings.

    Returns:
        Nothing where the method sees no parts, no sample has two, or nothing is labelled. Else "metric", "orders",
        "in_order", "shuffled" (mean over shufflings), "spread" (their standard deviation), "drop" and "relative_drop"
        of that mean, "reversed", "reversed_drop" and "reversed_relative_drop". A method that sees no order drops by 0.
    """
    if test.labels is None or not len(test):
        return {}
    key, moved = deciding_of(metrics), on_adapted(prepared, adapter)
    if moved.backbone is not None and moved.backbone.joint is not None:
        told = _of_joint_towers(moved, adapter, test, class_names, metrics, seed)
        return {KEY: {"metric": key, **told}} if told else {}
    if "parts" not in adapter.at_predict:
        return {}
    seen = test if moved is prepared and test.parts is not None else moved.of_ids(test.ids, parts=True)
    if seen.parts is None or int(seen.parts_mask.sum(dim=1).max()) < 2:
        return {}

    def score(samples: FeatureSet) -> float:
        logits = logits_of(adapter, moved.batches(adapter, samples), len(samples))
        return metrics_of(logits, replace(test, parts=None, parts_mask=None), class_names)[key]

    generator = torch.Generator().manual_seed(seed)
    return {KEY: {"metric": key, **reliance(score, seen, metrics["adapted"][key], generator)}}


def reliance(
    score: Callable[[FeatureSet], float], samples: FeatureSet, in_order: float, generator: torch.Generator
) -> dict[str, Any]:
    """What `order_reliance` says besides the metric, of a score of samples with parts."""
    shuffled = [score(shuffled_parts(samples, generator)) for _ in range(ORDERS)]
    return told_of(shuffled, score(reversed_parts(samples)), in_order)


def told_of(shuffled: Sequence[float], reverse: float, in_order: float) -> dict[str, Any]:
    """The same of the scores of each shuffling, of reversed order and in order."""
    mean = statistics.fmean(shuffled)
    told = {"orders": ORDERS, "in_order": in_order, "shuffled": mean, "spread": statistics.stdev(shuffled)}
    for name, value in (("", mean), ("reversed_", reverse)):
        told[f"{name}drop"] = in_order - value
        told[f"{name}relative_drop"] = (in_order - value) / in_order if in_order else 0.0
    return {**told, "reversed": reverse}


def _of_joint_towers(
    moved, adapter: Adapter, test: FeatureSet, class_names: Sequence[str], metrics: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """What `order_reliance` says of towers that see the parts of a sample together; nothing where it has one part."""
    if moved.backbone.joint.parts < 2:
        return {}
    key, count = deciding_of(metrics), min(len(test), MOST_SAMPLES)
    rows = torch.linspace(0, len(test) - 1, count, dtype=torch.float64).round().long()
    some = test.select(rows).without_parts()

    def score(order: Callable[[Item, int], np.ndarray]) -> float:
        def load(item: Item) -> Any:
            decoded = np.asarray(moved.data.load(item))
            return decoded if decoded.ndim < 4 else np.ascontiguousarray(decoded[order(item, len(decoded))])

        other = replace(moved, data=replace(moved.data, load=load), counts=Counts(), reporter=Reporter(quiet=True))
        features = other.of_ids(some.ids)
        return metrics_of(logits_of(adapter, other.batches(adapter, features), len(some)), some, class_names)[key]

    def drawn(number: int) -> Callable[[Item, int], np.ndarray]:
        return lambda item, parts: np.random.default_rng(seed_of(seed, number, item.id)).permutation(parts)

    orders = [*(drawn(number) for number in range(ORDERS)), lambda item, parts: np.arange(parts)[::-1]]
    orders += [lambda item, parts: np.arange(parts)] if count < len(test) else []
    scores: list[float] = []
    with moved.reporter.task("Predicting with parts in other orders") as progress:
        for order in orders:
            scores.append(score(order))
            progress(len(scores), len(orders))
    in_order = scores[ORDERS + 1] if count < len(test) else metrics["adapted"][key]
    return told_of(scores[:ORDERS], scores[ORDERS], in_order)


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


def order_section(metrics: Mapping[str, Any]) -> TableSection | None:
    """The scores in order, shuffled and in reverse, for the report; None where they were not measured."""
    told = metrics.get(KEY)
    if not told:
        return None
    measure, change = MEASURES[told["metric"]], lambda drop: f"{points(MEASURES[told['metric']], -drop)}"
    rows = [
        ("In order", Cell(measure.text(told["in_order"])), None, None),
        (
            f"Shuffled, mean of {told['orders']} orders (standard deviation {measure.text(told['spread'])})",
            Cell(measure.text(told["shuffled"])),
            Cell(change(told["drop"])),
            Cell(f"{-told['relative_drop']:+.1%}".replace("-", "−")),
        ),
        (
            "Reversed",
            Cell(measure.text(told["reversed"])),
            Cell(change(told["reversed_drop"])),
            Cell(f"{-told['reversed_relative_drop']:+.1%}".replace("-", "−")),
        ),
    ]
    unused = not told["drop"] and not told["spread"] and not told["reversed_drop"]
    note = (
        "The test samples with their parts in another order. The score is the same: this method does not use the order."
        if unused
        else "The test samples with their parts in another order. The difference is what the order contributes."
    )
    return TableSection("The order of the parts", ("Parts", measure.name, "Change", "Relative"), rows, note, sub=True)
