"""Intervals of average precision and of mean IoU: a bootstrap over images, or over groups of them.

Nothing is matched or counted again: each draw weighs what every image added, so that an image drawn twice counts twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ....core.contracts import Item
from ....core.metrics import drawn_weights, intervals_of, units_of

SAMPLES = 200
NUMBERS_AT_ONCE = 4_000_000


def average_precision_intervals(
    evaluation,
    class_names: Sequence[str],
    novel: Collection[str] = (),
    groups: Sequence[str | None] | None = None,
    often: Mapping[str, Collection[str]] | None = None,
    sizes: Sequence[str] = (),
) -> dict[str, list[float]]:
    """95 % intervals of AP, AP50, AP75 and AR, of the AP of small, medium and large objects and, with novel classes, of
    those of base and novel ones.

    Args:
        evaluation: pycocotools' COCOeval, evaluated, with one limit of detections per image.
        class_names: K names.
        novel: names of novel classes.
        groups: a key per image of what is drawn as a whole, or None.
        often: name of a mean of APs -> names of its classes, rare ones for instance.
        sizes: names of the evaluation's ranges of areas, after the one of all.
    """
    images, thresholds = len(evaluation.params.imgIds), torch.as_tensor(evaluation.params.recThrs)
    weights = torch.cat([torch.ones(1, images), *drawn_weights(images, groups, SAMPLES)])  # (1 + S, N)

    def drawn(area: int) -> tuple[Tensor, Tensor]:
        """(K, T, 1 + S) each: average precision, and recall."""
        of_class = [_of_class(evaluation, k, area, weights, thresholds) for k in range(len(class_names))]
        return tuple(map(torch.stack, zip(*of_class)))

    precision, recall = drawn(0)
    draws = {"AP": precision.mean(dim=1), "AP50": precision[:, 0], "AP75": precision[:, 5]}  # (K, 1 + S) each
    found = {name: values.nanmean(dim=0) for name, values in draws.items()}
    found["AR"] = recall.mean(dim=1).nanmean(dim=0)
    found |= {f"AP_{name}": drawn(area)[0].mean(dim=1).nanmean(dim=0) for area, name in enumerate(sizes, start=1)}
    for name, of in (often or {}).items():
        found[name] = draws["AP"][_among(class_names, of)].nanmean(dim=0)
    is_novel = _among(class_names, novel)
    for name in ("AP50", "AP") if novel else ():
        base, new = draws[name][~is_novel].nanmean(dim=0), draws[name][is_novel].nanmean(dim=0)
        found |= {f"base_{name}": base, f"novel_{name}": new, f"harmonic_{name}": _harmonic(base, new)}
    return _around(found, units_of(groups, images)[1])


def mean_iou_intervals(
    counts: np.ndarray, class_names: Sequence[str], novel: Collection[str] = (), groups: Sequence | None = None
) -> dict[str, list[float]]:
    """95 % intervals of mIoU, pixel and mean accuracy and, with novel classes, of base_mIoU, novel_mIoU and hIoU.

    Args:
        counts: (N, 3, C) pixels of each image by class: right, true, and found (among pixels that are counted).
        class_names: C names.
        novel: names of novel classes.
        groups: a key per image of what is drawn as a whole, or None.
    """
    table = torch.as_tensor(np.asarray(counts, dtype=np.float64)).flatten(1)  # (N, 3C)
    weights = [torch.ones(1, len(table)), *drawn_weights(len(table), groups, SAMPLES)]
    sums = torch.cat([weight.double() @ table for weight in weights]).unflatten(1, (3, -1))  # (1 + S, 3, C)
    right, true, found = sums.unbind(dim=1)
    overlap = right / (true + found - right)  # 0 / 0 is NaN: the class is nowhere in this draw
    is_novel = _among(class_names, novel)
    draws = {
        "mIoU": overlap.nanmean(dim=1),
        "pixel_accuracy": right.sum(dim=1) / true.sum(dim=1),
        "mean_accuracy": (right / true).nanmean(dim=1),
    }
    if novel:
        base, new = overlap[:, ~is_novel].nanmean(dim=1), overlap[:, is_novel].nanmean(dim=1)
        draws |= {"base_mIoU": base, "novel_mIoU": new, "hIoU": _harmonic(base, new)}
    return _around(draws, units_of(groups, len(table))[1])


def image_counts(matrix: np.ndarray) -> np.ndarray:
    """(3, C) pixels that are right, true and found of each class, from one image's confusion matrix (C, C + 1)."""
    num_classes = len(matrix)
    return np.stack([np.diagonal(matrix), matrix.sum(axis=1), matrix[:, :num_classes].sum(axis=0)])


def image_groups(items: Sequence[Item]) -> tuple[list[str | None] | None, int | None]:
    """The group of each image and their number; None where no two images are of one group."""
    groups = [item.group for item in items]
    number = units_of(groups, len(groups))[1]
    return (groups, number) if number < len(groups) else (None, None)


def _among(class_names: Sequence[str], some: Collection[str]) -> Tensor:
    """(K,) bool."""
    return torch.tensor([name in set(some) for name in class_names], dtype=torch.bool)


def _of_class(evaluation, k: int, area: int, weights: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """(T, S) average precision and recall of one class; NaN where a draw has no object of it.

    The precision envelope at 101 recalls, as COCO has it.
    """
    images = len(evaluation.params.imgIds)
    start = (k * len(evaluation.params.areaRng) + area) * images
    seen = [(n, one) for n, one in enumerate(evaluation.evalImgs[start : start + images]) if one is not None]
    overlaps = len(evaluation.params.iouThrs)
    objects = torch.zeros(images, dtype=torch.float64)
    for n, one in seen:
        objects[n] = float((np.asarray(one["gtIgnore"]) == 0).sum())
    positives = weights.double() @ objects  # (S,)
    nothing = torch.zeros(overlaps, len(weights), dtype=torch.float64).masked_fill(positives == 0, torch.nan)
    scores = np.concatenate([np.asarray(one["dtScores"]) for _, one in seen]) if seen else np.zeros(0)
    if not len(scores) or not bool(objects.any()):
        return nothing, nothing
    order = np.argsort(-scores, kind="mergesort")
    image = torch.as_tensor(np.concatenate([np.full(len(one["dtScores"]), n) for n, one in seen])[order])
    matched = np.concatenate([one["dtMatches"] for _, one in seen], axis=1)[:, order] != 0  # (T, D)
    ignored = np.concatenate([one["dtIgnore"] for _, one in seen], axis=1)[:, order].astype(bool)
    right, wrong = torch.as_tensor(matched & ~ignored), torch.as_tensor(~matched & ~ignored)
    parts, rows = [], max(1, NUMBERS_AT_ONCE // len(scores))
    for some, positive in zip(weights.split(rows), positives.split(rows)):
        counted = some.double()[:, image]  # (s, D)
        at_overlaps = [_interpolated(counted * r, counted * w, positive, thresholds) for r, w in zip(right, wrong)]
        parts.append(torch.stack(at_overlaps))  # (T, s)
    recall = torch.zeros(len(right), images, dtype=torch.float64).index_add_(1, image, right.double())  # (T, N)
    return torch.cat(parts, dim=1) + nothing, recall @ weights.double().T / positives + nothing


def _interpolated(right: Tensor, wrong: Tensor, positives: Tensor, thresholds: Tensor) -> Tensor:
    """(s,) mean over recalls of the best precision at that recall or above.

    Args:
        right, wrong: (s, D) weights of detections by falling score.
        positives: (s,).
    """
    right, wrong = right.cumsum(dim=1), wrong.cumsum(dim=1)
    recall = right / positives[:, None].clamp(min=1)
    precision = (right / (right + wrong).clamp(min=np.spacing(1))).flip(1).cummax(dim=1).values.flip(1)
    at = torch.searchsorted(recall, thresholds.expand(len(recall), -1).contiguous())  # (s, R)
    return torch.nn.functional.pad(precision, (0, 1)).gather(1, at).mean(dim=1)


def _around(found: Mapping[str, Tensor], units: int) -> dict[str, list[float]]:
    """Intervals around the values on all images, the first of each (1 + S,); none where one image, or group, has all
    that is scored, so that every draw has the same value and none tells how sure it is."""
    values = {name: float(of[0]) for name, of in found.items() if of[0].isfinite() and _varies(of)}
    return intervals_of({name: found[name][1:] for name in values}, units=units, values=values)


def _varies(values: Tensor) -> bool:
    """Whether draws differ; those of 0 and 1 alone have an interval all the same."""
    known = values[values.isfinite()]
    return bool(known[0] in (0, 1)) or bool((known - known[0]).abs().max() > 1e-9)


def _harmonic(base: Tensor, new: Tensor) -> Tensor:
    return (2 * base * new / (base + new)).where(base + new > 0, base + new)
