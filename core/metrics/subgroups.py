"""Whether a model does equally well in the parts of a test set: sites, sexes, scanners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .intervals import SIGNIFICANT, effective_number, share_interval, units_of

LEAST_UNITS = 20
"""Patients, or images where patients are not known, below which a part is not shown."""
MOST_VALUES = 10
"""Different numbers that are parts of their own; more are cut at the quartiles."""
QUARTERS = 4
PERMUTATIONS, AT_ONCE = 10_000, 2_000_000
LEVEL = 0.95


@dataclass(frozen=True)
class Subgroup:
    """One part of the test set.

    Attributes:
        name: what its images have in the column.
        images: that belong to it and count.
        units: patients among them, or images.
        share: that is right.
        interval: [low, high]; those of all parts hold their true shares together, with 95 %.
        shrunk: the share drawn towards that of all parts, as far as chance alone may have moved it (`shrunk_shares`):
            the worst of many parts that are alike looks bad. None where an earlier version did not say.
        zero_shot: the share that zero-shot has right, or None.
    """

    name: str
    images: int
    units: int
    share: float
    interval: list[float]
    shrunk: float | None = None
    zero_shot: float | None = None


@dataclass(frozen=True)
class Subgroups:
    """Shares by part.

    Attributes:
        parts: of at least `LEAST_UNITS` units, the most images first.
        left_out: parts with fewer.
        p_value: of parts that do not differ, as many patients having been dealt to them by chance; None for one part.
    """

    parts: tuple[Subgroup, ...]
    left_out: int
    p_value: float | None

    @property
    def differ(self) -> bool:
        """Whether parts differ by more than chance, so that the largest gap between two may be named."""
        return self.p_value is not None and self.p_value < SIGNIFICANT

    @property
    def gap(self) -> tuple[Subgroup, Subgroup] | None:
        """The best and the worst part, where parts differ by more than chance."""
        if not self.differ:
            return None
        return max(self.parts, key=lambda part: part.share), min(self.parts, key=lambda part: part.share)


def quartiles(
    values: Sequence[str], most: int = MOST_VALUES, cut_by: Sequence[str] | None = None, parts: int = QUARTERS
) -> tuple[list[str], list[str]] | None:
    """The quarter that each number lies in, in words, and all quarters in order; None where the values are no numbers,
    or few different ones.

    Args:
        values: N numbers as texts, "" where there is none.
        most: different numbers that are few.
        parts: so many instead of four, at least two.
        cut_by: other numbers of that kind, whose quartiles they are cut at and which are to be many; by default these.
    """
    numbers, own = (_numbers(each) for each in (values, values if cut_by is None else cut_by))
    if numbers is None or own is None or len(np.unique(own[~np.isnan(own)])) <= most:
        return None
    shares = np.arange(1, max(2, parts)) / max(2, parts)
    cuts = np.unique(np.nanquantile(own, shares, method="lower"))
    low, high = [f"above {cut:g}" for cut in cuts], [f"up to {cut:g}" for cut in cuts]
    names = [high[0], *(f"{above}, {below}" for above, below in zip(low, high[1:])), low[-1]]
    places = np.searchsorted(cuts, numbers).tolist()
    return ["" if np.isnan(number) else names[place] for number, place in zip(numbers, places)], names


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    """NaN for "" ; None where another is no number."""
    try:
        numbers = np.array([float(value) if value else np.nan for value in values], dtype=np.float64)
    except ValueError:
        return None
    filled = np.array([bool(value) for value in values], dtype=bool)
    return numbers if np.isfinite(numbers[filled]).all() else None


def subgroups(
    right: Tensor, part_of: Sequence[str], groups: Sequence[str] | None = None, *, seed: int = 0
) -> Subgroups:
    """Shares by part, with intervals that hold together (Bonferroni's) and a permutation test of all differences at
    once ("The Design of Experiments", Fisher 1935).

    A patient lies in one part, or counts in each of several as one of its own; whole patients are dealt anew to parts
    of as many patients. The statistic is the variance of the shares between the parts, weighted by images.

    Args:
        right: (N,) bool.
        part_of: N values; images with "" are left out.
        groups: N patients, or None.
        seed: of the permutations.
    """
    rows = [row for row, name in enumerate(part_of) if name]
    names = [part_of[row] for row in rows]
    owners = None if groups is None else [f"{groups[row]}\n{part_of[row]}" if groups[row] else "" for row in rows]
    unit, units = units_of(owners, len(rows))
    values, places = right[rows].double(), {name: place for place, name in enumerate(dict.fromkeys(names))}
    part_of_unit = torch.zeros(units, dtype=torch.int64)
    part_of_unit[unit] = torch.tensor([places[name] for name in names], dtype=torch.int64)
    large = {place for place, count in enumerate(part_of_unit.bincount().tolist()) if count >= LEAST_UNITS}
    level = 1 - (1 - LEVEL) / max(1, len(large))
    parts, numbers = [], []
    for name, place in places.items():
        if place in large:
            own = (part_of_unit[unit] == place).nonzero().flatten()
            theirs = None if owners is None else [owners[row] for row in own.tolist()]
            interval = share_interval(values[own] > 0, theirs, level)
            count = units_of(theirs, len(own))[1]
            parts.append(Subgroup(name, len(own), count, float(values[own].mean()), interval))
            numbers.append(effective_number(values[own] > 0, theirs))
    parts = [replace(part, shrunk=of) for part, of in zip(parts, shrunk_shares([p.share for p in parts], numbers))]
    parts.sort(key=lambda part: -part.images)
    p_value = _p_of_parts(values, unit, part_of_unit, large, seed) if len(large) > 1 else None
    return Subgroups(tuple(parts), len(places) - len(large), p_value)


def shrunk_shares(shares: Sequence[float], numbers: Sequence[float]) -> list[float]:
    """Shares of parts, each drawn towards that of all by how much of its distance chance explains.

    ("Stein's estimation rule and its competitors - an empirical Bayes approach", Efron and Morris 1973, with the
    variance between parts of "Meta-analysis in clinical trials", DerSimonian and Laird 1986.)

    Args:
        shares: of K parts.
        numbers: independent images that each rests on.
    """
    if not shares:
        return []
    share, number = np.array(shares), np.array(numbers)
    middle = float((share * number).sum() / number.sum())
    weight = number / max(middle * (1 - middle), 1e-12)  # 1 / variance, were all parts alike
    excess = (weight * (share - middle) ** 2).sum() - (len(share) - 1)
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    return (middle + between / (between + 1 / weight) * (share - middle)).tolist()


def _p_of_parts(values: Tensor, unit: Tensor, part_of_unit: Tensor, large: set[int], seed: int) -> float:
    """Of units that are dealt anew."""
    units = len(part_of_unit)
    sums = torch.zeros(units, dtype=torch.float64).index_add_(0, unit, values)
    sizes = torch.bincount(unit, minlength=units).double()
    here = torch.isin(part_of_unit, torch.tensor(sorted(large)))
    sums, sizes, part = sums[here], sizes[here], part_of_unit[here].unique(return_inverse=True)[1]

    def between(dealt: Tensor) -> Tensor:
        """(s, U) parts of the units -> (s,) variance between the parts, times all images."""
        one_hot = torch.nn.functional.one_hot(dealt, int(part.max()) + 1).double()  # (s, U, P)
        right, images = torch.einsum("u,sup->sp", sums, one_hot), torch.einsum("u,sup->sp", sizes, one_hot)
        return (images * (right / images - sums.sum() / sizes.sum()).square()).sum(dim=1)

    observed = between(part[None])[0] - 1e-9
    generator, extreme = torch.Generator().manual_seed(seed), 0
    rows = max(1, AT_ONCE // (len(part) * (int(part.max()) + 1)))
    for start in range(0, PERMUTATIONS, rows):
        some = min(rows, PERMUTATIONS - start)
        order = torch.rand(some, len(part), generator=generator).argsort(dim=1)
        extreme += int((between(part[order]) >= observed).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)
