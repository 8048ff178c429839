"""Draws from labelled data: shots per class, and what is held out.

A scenario draws as unequal classes as those it draws from, as SS-Text's evaluation does (Few-Shot, Now for Real:
Medical VLMs Adaptation without Balanced Sets or Validation, 2025, arXiv 2506.17500); rows and counts are those of the
released code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isnan

import numpy as np
import torch

from ..contracts.features import FeatureSet
from ..contracts.items import DomainData, Item
from ..errors import CapabilityError, ConfigError

MIN_SHOTS = 4
STANDARD, RELAXED, REALISTIC = SCENARIOS = ("standard", "relaxed", "realistic")


def sample_shots(items: Sequence[Item], shots: int | None, seed: int, *, num_classes: int) -> list[Item]:
    """K labelled items per class, or all it has, grouped by class in class order.

    Each item has a rank that depends on the seed and its id alone, so that leaving out an unreadable one pulls in the
    next of its class and changes nothing else. Where items have several labels, K positives per label are taken, the
    rarest label first; an image counts for each label it carries. A label that is nowhere negative among them gets up
    to K images without it.

    Args:
        items: candidates, usually a train split; those without a label are passed over.
        shots: K, or None for all.
        seed: fixes the choice.
        num_classes: number of classes.

    Raises:
        ConfigError: shots is not a whole number of 0 or more.
    """
    if shots is not None and (isinstance(shots, bool) or not isinstance(shots, int) or shots < 0):
        raise ConfigError(f"--shots {shots}: give a whole number of images per class, 0 or more")
    if shots == 0:
        return []
    ranked = sorted(items, key=lambda item: item.rank(seed))
    if any(isinstance(item.class_label(), tuple) for item in ranked):
        return _several_labels(ranked, shots, num_classes)
    by_class: list[list[Item]] = [[] for _ in range(num_classes)]
    for item in ranked:
        label = item.class_label()
        if label is not None and (shots is None or len(by_class[label]) < shots):
            by_class[label].append(item)
    return [item for chosen in by_class for item in chosen]


BINS = 5
"""Quantile bins that shots are drawn from where images have numbers for classes."""


def number_bins(items: Sequence[Item], values: Sequence[float], bins: int = BINS) -> list[list[Item]]:
    """The items in quantile bins of their numbers, each of which holds as many, but for one.

    Args:
        items: N.
        values: their numbers. Equal ones are divided by the ids of their items, whatever the order of these.
        bins: how many; fewer where there are fewer items.
    """
    order = sorted(range(len(items)), key=lambda place: (values[place], items[place].rank(0)))
    parts = np.array_split(np.array(order, dtype=int), min(bins, max(1, len(order))))
    return [[items[place] for place in part] for part in parts]


def sample_numbers(items: Sequence[Item], values: Sequence[float], shots: int | None, seed: int) -> list[Item]:
    """K items of each of `BINS` quantile bins of their numbers, or all that a bin has; None for all items.

    Args:
        items, values: as of `number_bins`.
        shots: K, 1 or more.
        seed: fixes the choice.

    Raises:
        ConfigError: shots is not a whole number of 1 or more.
    """
    if shots is None:
        return list(items)
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise ConfigError(f"--shots {shots}: give a whole number of images per bin of the numbers, 1 or more, or all")
    drawn = (sorted(part, key=lambda item: item.rank(seed))[:shots] for part in number_bins(items, values))
    return [item for part in drawn for item in part]


def draw_scenario(
    items: Sequence[Item], shots: int | None, seed: int, *, num_classes: int, scenario: str | None = None
) -> list[Item]:
    """K per class as `sample_shots` has it, or as unequal as a scenario wants them.

    Raises:
        ConfigError: as of both; all images are asked for in a scenario.
    """
    if scenario is None:
        return sample_shots(items, shots, seed, num_classes=num_classes)
    if not shots:
        raise ConfigError(f"--protocol {scenario}: give a number of shots, 1 or more")
    return scenario_shots(items, shots, seed, num_classes=num_classes, scenario=scenario)


def scenario_shots(items: Sequence[Item], shots: int, seed: int, *, num_classes: int, scenario: str) -> list[Item]:
    """K labelled items per class on average, grouped by class in class order.

    Args:
        items: candidates, in the order of the data set.
        shots: K.
        seed: fixes the choice.
        num_classes: C.
        scenario: as for `scenario_rows`.

    Raises:
        CapabilityError: items have several labels.
    """
    labelled = [item for item in items if item.class_label() is not None]
    labels = [item.class_label() for item in labelled]
    if any(isinstance(label, tuple) for label in labels):
        raise CapabilityError(f"--protocol {scenario}: for one class per image; these images have several labels")
    return [labelled[row] for row in scenario_rows(np.array(labels, dtype=int), shots, seed, num_classes, scenario)]


def scenario_rows(labels: np.ndarray, shots: int, seed: int, num_classes: int, scenario: str) -> list[int]:
    """Rows that are drawn, class by class.

    Args:
        labels: (N,) class indices of the pool.
        shots: K; C K rows are wanted.
        seed: each class's rows are shuffled by it anew.
        num_classes: C.
        scenario: "standard": K of each class; "relaxed": as many as its share of the pool, one at least; "realistic":
            the same, and a rare class may have none. A class gives no more than it has, and nothing fills the gap.
    """
    pool = np.bincount(labels, minlength=num_classes)
    rows: list[int] = []
    for label, count in enumerate(scenario_counts(pool, shots, scenario)):
        of_class = np.flatnonzero(labels == label)
        np.random.RandomState(seed).shuffle(of_class)
        rows += of_class[:count].tolist()
    return rows


def scenario_counts(pool: np.ndarray, shots: int, scenario: str) -> list[int]:
    """(C,) rows wanted of each class: their shares of C K rounded to even, the largest cut while there are too many.

    Args:
        pool: (C,) rows of each class.
        shots, scenario: as of `scenario_rows`.
    """
    wanted, classes = len(pool) * shots, len(pool)
    shares = np.full(classes, 1 / classes) if scenario == STANDARD else pool / pool.sum()
    counts = [round(wanted * share) for share in shares]
    if scenario != REALISTIC:
        counts = [max(1, count) for count in counts]
    while sum(counts) > wanted:
        counts[int(np.argmax(counts))] -= 1
    return counts


def class_counts(items: Sequence[Item], num_classes: int) -> list[int]:
    """Items of each class; with several labels, positives of each label."""
    counts = Counter(label for item in items for label in item.classes())
    return [counts[label] for label in range(num_classes)]


def short_classes(items: Sequence[Item], shots: int, *, num_classes: int) -> dict[int, int]:
    """Class index -> images it has, of the classes with fewer than `shots`."""
    counts = class_counts(items, num_classes)
    return {label: count for label, count in enumerate(counts) if count < shots}


def base_new(class_names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Class indices of the base half (the first ceil(C/2), as CoCoOp has it) and of the new half.

    Conditional Prompt Learning for Vision-Language Models, 2022, arXiv 2203.05557.
    """
    half = ceil(len(class_names) / 2)
    return list(range(half)), list(range(half, len(class_names)))


def restrict(data: DomainData, indices: Sequence[int]) -> DomainData:
    """The set with only the classes in `indices`, relabelled 0, 1, ... in that order.

    Items of other classes go; with several labels, those go of which nothing is known about the classes that stay.

    Raises:
        ConfigError: an index is out of range or given twice. CapabilityError: as `Target.restricted`.
    """
    chosen = list(indices)
    if len(set(chosen)) != len(chosen) or not all(0 <= index < len(data.class_names) for index in chosen):
        raise ConfigError(f"classes {chosen}: give different indices from 0 to {len(data.class_names) - 1}")
    new = {old: position for position, old in enumerate(chosen)}
    smaller = data.with_items([kept for item in data.items if (kept := item.restricted(new)) is not None])
    smaller.class_names = tuple(data.class_names[index] for index in chosen)
    return smaller


def _several_labels(ranked: list[Item], shots: int | None, num_classes: int) -> list[Item]:
    labelled = [item for item in ranked if isinstance(item.class_label(), tuple)]
    known = [item for item in labelled if not all(map(isnan, item.class_label()))]
    if shots is None:
        return known
    counts = class_counts(known, num_classes)
    chosen: dict[str, Item] = {}
    for label in sorted(range(num_classes), key=lambda label: (counts[label], label)):
        _take(known, chosen, label, 1.0, shots)
    for label in range(num_classes):
        if not any(item.class_label()[label] == 0 for item in chosen.values()):
            _take(known, chosen, label, 0.0, shots)
    first_label = {item.id: min(item.classes(), default=num_classes) for item in chosen.values()}
    return sorted(chosen.values(), key=lambda item: first_label[item.id])


def _take(known: list[Item], chosen: dict[str, Item], label: int, value: float, shots: int) -> None:
    """Add items whose `label` has that value, by rank, until `shots` of those chosen have it."""
    have = sum(item.class_label()[label] == value for item in chosen.values())
    for item in known:
        if have >= shots:
            return
        if item.class_label()[label] == value and item.id not in chosen:
            chosen[item.id] = item
            have += 1


@dataclass(frozen=True)
class Selection:
    """Images to learn from while choosing, images to choose on, and how to say so.

    Args:
        train: the whole support, or what is left of it when a part is held out.
        val: labelled images to choose on, none of them in `train`; None where nothing can be chosen.
        words: for `FitReport.chosen_on`.
        held_out: True where `val` was taken out of the support, so that a refit on all of it follows.
    """

    train: FeatureSet
    val: FeatureSet | None
    words: str
    held_out: bool = False


def selection_split(support: FeatureSet, val: FeatureSet | None, seed: int) -> Selection:
    """Val if it can score anything; else floor(K/4) images per class of the support; else nothing.

    A val of which `chooses` is False says that nothing is to be chosen, not even on images held out.
    """
    if val is not None and not val.chooses:
        return Selection(support, None, "defaults: no validation")
    if val is not None and _scorable(val):
        return Selection(support, val, f"val ({len(val)} images)")
    parts = hold_out_support(support, seed)
    if parts is None or not _scorable(parts[1]):
        return Selection(
            support, None, f"defaults: no val, and fewer than {MIN_SHOTS} shots per class, too few to hold some out"
        )
    rest, held = parts
    return Selection(rest, held, f"{len(held)} images held out of the support", held_out=True)


def hold_out_support(support: FeatureSet, seed: int) -> tuple[FeatureSet, FeatureSet] | None:
    """Split the support into (rest, held): floor(K/4) images of each class of K are held.

    With several labels per image K counts a label's positives, and images without any count as one more class. Groups
    (patient, identity, video) go to one side whole; where a class's groups are larger than its share, one of up to
    half the class is taken, and a class that is all one group gives nothing.

    Args:
        support: N labelled images, one label or several per image.
        seed: fixes which images are held.

    Returns:
        (rest, held), in the order of the support; None where most classes have fewer than 4 images, or groups leave
        nothing to hold.
    """
    member = support.memberships()  # (N, C)
    totals = member.sum(axis=0)
    share = totals // MIN_SHOTS
    if 2 * (share > 0).sum() < (totals > 0).sum() or not share.any():
        return None
    units = support.units()
    shuffled = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
    taken, held = _fill(units, shuffled, member, np.zeros_like(totals), share)
    short = (share > 0) & (held == 0)
    if short.any():
        left = [u for u in shuffled if u not in set(taken) and member[units[u]].sum(axis=0)[short].any()]
        taken += _fill(units, left, member, held, np.where(short, totals // 2, share))[0]
    if not taken:
        return None
    is_held = torch.zeros(len(support), dtype=torch.bool)
    is_held[[row for u in taken for row in units[u]]] = True
    is_held = is_held.to(support.features.device)
    return support.select(~is_held), support.select(is_held)


def _fill(units, candidates, member, held, limit) -> tuple[list[int], np.ndarray]:
    """Take candidates in order as long as no class goes over its limit."""
    taken, held = [], held.copy()
    for unit in candidates:
        counts = member[units[unit]].sum(axis=0)
        if (held + counts <= limit).all():
            taken.append(unit)
            held += counts
    return taken, held


def _scorable(val: FeatureSet) -> bool:
    """Accuracy needs one labelled image; AUROC needs one label with a positive and a negative."""
    if val.labels is None or not len(val):
        return False
    if not val.multilabel:
        return True
    return bool(((val.labels == 1).any(dim=0) & (val.labels == 0).any(dim=0)).any())
