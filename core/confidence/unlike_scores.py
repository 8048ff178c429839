"""Scores by which images of other things are told from those of a classifier's classes, and how well each does it.

"Delving into Out-of-Distribution Detection with Vision-Language Representations" (Ming et al. 2022, arXiv 2211.13445):
maximum concept matching (MCM), the largest softmax of the cosines to the class texts. "GL-MCM: Global and Local Maximum
Concept Matching for Zero-Shot Out-of-Distribution Detection" (Miyai et al. 2023, arXiv 2304.04521) adds the largest
over all patches. Beside them the energy (Liu et al. 2020, arXiv 2010.03759), the largest logit (Hendrycks et al. 2019,
arXiv 1911.11132), and the entropy and variance of the softmax, as the released code of both has them.

Whatever the score, more is more ordinary; released scores have the other sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics.classification import auroc, average_precision
from ..metrics.intervals import units_of
from ..metrics.score_intervals import Aurocs
from ..metrics.significance import drawn_weights, intervals_of

MCM, LOCAL_MCM, GL_MCM, ENERGY, MAX_LOGIT = "mcm", "local_mcm", "gl_mcm", "energy", "max_logit"
ENTROPY, VARIANCE, DISTANCE = "entropy", "variance", "distance"
PUBLISHED_TEMPERATURE = 1.0
LOCAL_WEIGHT = 1.0
"""Of the patches in GL-MCM, as published; the released script for ImageNet has 0.5."""
RECALL = 0.95
FEWEST_FOR_THRESHOLD = 40
"""Ordinary images, and others, from which on the share at a threshold of 95 % has an interval: two images lie beyond
it, and draws of fewer are too much alike (of 20 images intervals hold the truth in 84 to 99 of 100 sets, of 50 in 95 to
97)."""
DRAWS_AT_ONCE = 64


def class_scores(cosines: Tensor, temperature: float = PUBLISHED_TEMPERATURE) -> dict[str, Tensor]:
    """Name -> (N,) float64, of cosines to classes, or other logits, (N, C).

    Args:
        temperature: what they are divided by; 1 as published, which is no scale at all, and one over the logit scale
            for the probabilities that a classifier gives.
    """
    cosines = cosines.double()
    probabilities = (cosines / temperature).softmax(dim=1)
    return {
        MCM: probabilities.amax(dim=1),
        ENERGY: temperature * (cosines / temperature).logsumexp(dim=1),
        MAX_LOGIT: cosines.amax(dim=1),
        ENTROPY: torch.xlogy(probabilities, probabilities).sum(dim=1),
        VARIANCE: probabilities.var(dim=1, unbiased=False),
    }


def local_score(patches: Tensor, classes: Tensor, temperature: float = PUBLISHED_TEMPERATURE) -> Tensor:
    """(N,) the largest probability of a class over all patches: the local half of GL-MCM.

    Args:
        patches: (N, P, D) features of patches, of any length.
        classes: (C, D) features of the classes' texts, of any length.
    """
    cosines = F.normalize(patches.double(), dim=-1) @ F.normalize(classes.double(), dim=-1).T  # (N, P, C)
    return (cosines / temperature).softmax(dim=-1).amax(dim=(1, 2))


def global_and_local(mcm: Tensor, local: Tensor, weight: float = LOCAL_WEIGHT) -> Tensor:
    """(N,) GL-MCM."""
    return mcm + weight * local


@dataclass(frozen=True)
class Separation:
    """How well a score tells ordinary images, the positive ones, from others.

    Attributes:
        auroc: chance that an ordinary image scores higher than another one.
        aupr: average precision; it depends on how many images there are of both.
        fpr: share of the others that pass a threshold which about 95 % of the ordinary ones pass.
        auroc_interval, fpr_interval: of 95 %; None where too few images tell one.
    """

    auroc: float
    auroc_interval: Sequence[float]
    aupr: float
    fpr: float
    fpr_interval: Sequence[float] | None


def separations(
    ordinary: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    groups: Sequence[str] | None = None,
    other_groups: Sequence[str] | None = None,
) -> dict[str, Separation]:
    """Name of a score -> how well it separates.

    Args:
        ordinary: name -> (n,) of images of the classes.
        others: the same of m images of other things.
        groups: n keys of images that belong together (patients), or None; `other_groups` m keys of the others.
    """
    names = list(ordinary)
    scores = torch.stack([torch.cat([ordinary[name].double(), others[name].double()]) for name in names], dim=1).cpu()
    count = len(ordinary[names[0]])
    truth = torch.arange(len(scores)) < count  # (n + m,)
    units = _units(groups, count), _units(other_groups, len(scores) - count)
    together = torch.cat([units[0][0], units[0][1] + units[1][0]])
    aurocs = Aurocs.of(scores, truth.double()[:, None].expand_as(scores), together)
    limits = zip(*(each.tolist() for each in aurocs.limits()))
    false = torch.cat([false_positive_rate(scores, truth, weights) for weights in _draws(units, count, len(scores))])
    fprs, fewest = false_positive_rate(scores, truth)[0].tolist(), min(units[0][1], units[1][1])
    made = {}
    for place, (name, limit) in enumerate(zip(names, limits)):
        of, fpr = scores[:, place], fprs[place]
        between = _fpr_interval(fpr, false[:, place], fewest)
        made[name] = Separation(auroc(of, truth), list(limit), average_precision(of, truth), fpr, between)
    return made


def false_positive_rate(scores: Tensor, truth: Tensor, weights: Tensor | None = None, recall: float = RECALL) -> Tensor:
    """(S, K) share of the false rows at the threshold whose recall is nearest to `recall`, be it above or below; the
    larger recall of two that are as near, and of thresholds with one recall the lowest.

    Args:
        scores: (N, K) of K scores.
        truth: (N,) bool.
        weights: (S, N) how often each row counts in each of S draws; None: once.
    """
    weights = torch.ones(1, len(scores)) if weights is None else weights
    rates = [_at_recall(of, truth, weights.double(), recall) for of in scores.unbind(dim=1)]
    return torch.stack(rates, dim=1)


def _at_recall(scores: Tensor, truth: Tensor, weights: Tensor, recall: float) -> Tensor:
    """(S,) of one score."""
    order = scores.argsort(descending=True)
    scores, truth, weights = scores[order], truth[order], weights[:, order]
    last = F.pad((scores[1:] != scores[:-1]).nonzero().flatten(), (0, 1), value=len(scores) - 1)  # of each tie
    hits, alarms = ((weights * rows).cumsum(dim=1)[:, last] for rows in (truth, ~truth))  # (S, T)
    gap = (hits / hits[:, -1:] - recall).abs()
    complete = (hits == hits[:, -1:]).cumsum(dim=1) > 1  # thresholds below the one that all true rows pass
    nearest = gap.masked_fill(complete, torch.inf).flip(1).argmin(dim=1)
    chosen = gap.shape[1] - 1 - nearest
    return alarms.gather(1, chosen[:, None])[:, 0] / alarms[:, -1]


def _fpr_interval(value: float, draws: Tensor, fewest: int) -> list[float] | None:
    """Percentiles of the draws, which are not moved to the value: near 0 those of a moved distribution hold the truth
    too seldom.

    Args:
        fewest: units of the images of which there are fewer.
    """
    if fewest < FEWEST_FOR_THRESHOLD:
        return None
    low, high = intervals_of({"fpr": draws}, units=fewest)["fpr"]
    return [min(low, value), max(high, value)]


def _units(groups: Sequence[str] | None, count: int) -> tuple[Tensor, int]:
    unit, units = units_of(groups, count)
    return unit, int(units)


def _draws(units: tuple[tuple[Tensor, int], tuple[Tensor, int]], count: int, total: int) -> Iterator[Tensor]:
    """(s, n + m) how often each image is in each draw; ordinary images, or their groups, are drawn apart from the
    others."""
    drawn = [
        torch.cat(list(drawn_weights(images, unit.tolist(), seed=seed)))
        for seed, (images, (unit, _)) in enumerate(zip((count, total - count), units))
    ]
    for start in range(0, len(drawn[0]), DRAWS_AT_ONCE):
        yield torch.cat([each[start : start + DRAWS_AT_ONCE] for each in drawn], dim=1)
