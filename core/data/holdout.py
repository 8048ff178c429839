"""Which labelled images choose hyper-parameters: val where there is one, else a part held out of the support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..contracts.features import FeatureSet

MIN_SHOTS = 4


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
    """Val if it can score anything; else floor(K/4) images a class of the support; else nothing."""
    if val is not None and _scorable(val):
        return Selection(support, val, f"val ({len(val)} images)")
    parts = hold_out(support, seed)
    if parts is None or not _scorable(parts[1]):
        return Selection(support, None, f"defaults: no val, and fewer than {MIN_SHOTS} shots a class to hold some out")
    rest, held = parts
    return Selection(rest, held, f"{len(held)} images held out of the support", held_out=True)


def hold_out(support: FeatureSet, seed: int) -> tuple[FeatureSet, FeatureSet] | None:
    """Split the support into (rest, held): floor(K/4) images of each class of K are held.

    With several labels an image K counts a label's positives, and images without any count as one more class. Groups
    (patient, identity, video) go to one side whole; where a class's groups are larger than its share, one of up to
    half the class is taken, and a class that is all one group gives nothing.

    Args:
        support: N labelled images, one label or several an image.
        seed: fixes which images are held.

    Returns:
        (rest, held), in the order of the support; None where most classes have fewer than 4 images, or groups leave
        nothing to hold.
    """
    member = _memberships(support)  # (N, C)
    totals = member.sum(axis=0)
    share = totals // MIN_SHOTS
    if 2 * (share > 0).sum() < (totals > 0).sum() or not share.any():
        return None
    units = _units(support.groups, len(support))
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


def _memberships(support: FeatureSet) -> np.ndarray:
    """(N, C) int64 of 0 and 1; with several labels an image, a last column marks images without a positive."""
    member = (support.one_hot() > 0.5).cpu().numpy().astype(np.int64)
    if support.multilabel:
        member = np.concatenate([member, member.sum(axis=1, keepdims=True) == 0], axis=1)
    return member


def _units(groups: tuple[str, ...] | None, size: int) -> list[list[int]]:
    """Rows that must stay together; an image without a group is a unit of its own."""
    rows_of: dict[object, list[int]] = {}
    for row in range(size):
        key = groups[row] if groups is not None and groups[row] else row
        rows_of.setdefault(key, []).append(row)
    return list(rows_of.values())


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
