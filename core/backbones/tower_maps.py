"""Linear maps from the vectors of one tower to those of another, in closed form, and the choice among them.

SITTA: A Semantic Image-Text Alignment for Image Captioning, 2023, arXiv 2307.05591. Both sides are standardised by
column with the statistics of the rows that are fitted on; these are kept, so that a single row can be mapped. The
published fits are least squares, ridge with a penalty of 1, orthogonal Procrustes (Schonemann, 1966, "A generalized
solution of the orthogonal Procrustes problem") and a robust Procrustes. Which of them is best hangs on the number of
rows and on the towers: by default it is chosen by cross-validation, and so is the penalty of ridge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

PUBLISHED_PENALTY = 1.0
ROBUST_ROUNDS, ROBUST_EPS = 5, 1e-3
PENALTIES = tuple(float(penalty) for penalty in np.logspace(0, 5, 11))
"""Of ridge, that cross-validation tries."""
NOTHING = 1e-10
"""Share of the largest singular value up to which another counts as zero."""
FOLDS = 5
MOST_IN_FOLD = 1000
"""Rows of a fold that are ranked among each other: of more the ranks say no more."""
AUTO = "auto"
LEAST_SQUARES, RIDGE, PROCRUSTES, ROBUST = "least-squares", "ridge", "procrustes", "robust-procrustes"
KINDS = (LEAST_SQUARES, RIDGE, PROCRUSTES, ROBUST)
LEAST_ROWS = 2 * FOLDS


@dataclass(frozen=True)
class Standard:
    """What brings each column of some rows to mean 0 and standard deviation 1.

    Args:
        mean, std: (D,); the std is that of the population, and 1 of a column that does not vary.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Standard:
        """Of (N, D) rows."""
        std = rows.std(dim=0, unbiased=False)
        return cls(rows.mean(dim=0), torch.where(std > 0, std, torch.ones_like(std)))

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std


@dataclass(frozen=True)
class TowerMap:
    """A fitted map.

    Args:
        matrix: (S, T), from standardised source rows to standardised target rows.
        source, target: the statistics of the rows that it was fitted on.
        kind: one of `KINDS`.
        penalty: of ridge; None of the others.
    """

    matrix: Tensor
    source: Standard
    target: Standard
    kind: str
    penalty: float | None = None

    @property
    def in_words(self) -> str:
        """Its kind, with its penalty."""
        return self.kind if self.penalty is None else f"{self.kind} {self.penalty:g}"

    def __call__(self, rows: Tensor) -> Tensor:
        """(N, S) source rows -> (N, T), to be compared by cosine with `target` of the other tower's rows."""
        return self.source(rows) @ self.matrix


@dataclass(frozen=True)
class Choice:
    """What cross-validation says of one candidate.

    Args:
        kind, penalty: as of `TowerMap`.
        score: mean reciprocal rank of the true partner among the rows of a held-out fold, both ways, over the folds.
    """

    kind: str
    penalty: float | None
    score: float


def least_squares(source: Tensor, target: Tensor) -> Tensor:
    """(N, S) and (N, T) -> the (S, T) of least norm among those of least squared error."""
    return torch.linalg.pinv(source, rtol=NOTHING) @ target


def ridge(source: Tensor, target: Tensor, penalty: float = PUBLISHED_PENALTY) -> Tensor:
    """(N, S) and (N, T) -> (S, T) of least squared error plus `penalty` times its squared norm; of 0 the limit."""
    if not penalty:
        return least_squares(source, target)
    few = len(source) < source.shape[1]  # then the same by products of rows: (X'X + p)^-1 X' = X' (XX' + p)^-1
    gram = source @ source.T if few else source.T @ source
    gram.diagonal().add_(penalty)
    return source.T @ torch.linalg.solve(gram, target) if few else torch.linalg.solve(gram, source.T @ target)


def procrustes(source: Tensor, target: Tensor) -> Tensor:
    """(N, S) and (N, T) -> (S, T) with orthonormal columns where S >= T, orthonormal rows where S <= T.

    Fewer rows than dimensions leave directions of which they say nothing; these are mapped to nothing, where the
    released code maps them to whatever a library's decomposition ends with.
    """
    if len(source) < min(source.shape[1], target.shape[1]):  # all happens within the rows: (N, N) instead of (S, T)
        (left, of_source), (right, of_target) = torch.linalg.qr(source.T), torch.linalg.qr(target.T)
        return left @ procrustes(of_source.T, of_target.T) @ right.T
    left, values, right = torch.linalg.svd(source.T @ target, full_matrices=False)
    significant = values > NOTHING * values.max()
    return left[:, significant] @ right[significant]


def robust_procrustes(source: Tensor, target: Tensor, rounds: int = ROBUST_ROUNDS, eps: float = ROBUST_EPS) -> Tensor:
    """Procrustes fitted again `rounds` times, rows weighted by how well the last one met them."""
    matrix = procrustes(source, target)
    for _ in range(rounds):
        weights = 1 / ((target - source @ matrix).norm(dim=1, keepdim=True) + eps)
        weights = (weights / weights.max()).sqrt()
        matrix = procrustes(weights * source, weights * target)
    return matrix


FITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    LEAST_SQUARES: least_squares,
    RIDGE: ridge,
    PROCRUSTES: procrustes,
    ROBUST: robust_procrustes,
}


def fit_map(source: Tensor, target: Tensor, kind: str, penalty: float | None = None) -> TowerMap:
    """The map of one kind, fitted in float64.

    Args:
        source: (N, S) rows of one tower, not normalised.
        target: (N, T) rows of the other, in the same order.
        kind: one of `KINDS`.
        penalty: of ridge; the published 1 by default.

    Raises:
        ConfigError: no such kind, or a penalty for another than ridge.
    """
    if kind not in FITS:
        raise ConfigError(f"map '{kind}' is not known; give {AUTO}, {', '.join(KINDS)}")
    if penalty is not None and kind != RIDGE:
        raise ConfigError(f"ridge={penalty:g}: the map {kind} has no penalty; omit it, or give the map {RIDGE}")
    source, target = source.double(), target.double()
    of_source, of_target = Standard.of(source), Standard.of(target)
    if kind == RIDGE:
        penalty = PUBLISHED_PENALTY if penalty is None else penalty
        matrix = ridge(of_source(source), of_target(target), penalty)
    else:
        matrix = FITS[kind](of_source(source), of_target(target))
    return TowerMap(matrix, of_source, of_target, kind, penalty)


def choose_map(
    source: Tensor, target: Tensor, groups: Sequence[int] | np.ndarray | None = None, seed: int = 1
) -> tuple[TowerMap, list[Choice]]:
    """The map that cross-validation finds best, fitted on all rows.

    The statistics of a fold are those of its training rows: the released code standardises before it divides.

    Args:
        source, target: as of `fit_map`.
        groups: (N,) numbers; rows of one group (captions of one image) stay together. None: each row is its own.
        seed: of the division into folds.

    Returns:
        The map, and all candidates, the best first.

    Raises:
        ConfigError: fewer than `LEAST_ROWS` groups.
    """
    source, target = source.double(), target.double()
    groups = np.arange(len(source)) if groups is None else np.asarray(groups)
    scores: dict[tuple[str, float | None], list[float]] = {}
    for taught, left in _folds(groups, seed):
        of_source, of_target = Standard.of(source[taught]), Standard.of(target[taught])
        rows, partners = of_source(source[left]), of_target(target[left])
        for candidate, matrix in _candidates(of_source(source[taught]), of_target(target[taught])):
            scores.setdefault(candidate, []).append(mean_reciprocal_rank(rows @ matrix, partners, groups[left]))
    choices = [Choice(kind, penalty, float(np.mean(each))) for (kind, penalty), each in scores.items()]
    choices.sort(key=lambda choice: -choice.score)
    return fit_map(source, target, choices[0].kind, choices[0].penalty), choices


def mean_reciprocal_rank(mapped: Tensor, partners: Tensor, groups: np.ndarray) -> float:
    """Of the true partner by cosine, both ways; partners of the same group, and equal ones, count as true, and ties
    against it.

    Args:
        mapped, partners: (N, T), in the same order.
        groups: (N,).
    """
    similarity = F.normalize(mapped, dim=1) @ F.normalize(partners, dim=1).T
    number, alike = torch.from_numpy(groups), torch.from_numpy(_alike(partners))
    true = (number[:, None] == number[None]) | (alike[:, None] == alike[None])
    both = (_reciprocal_ranks(similarity, true), _reciprocal_ranks(similarity.T, true))
    return float(torch.cat(both).mean())


def nearest_share(mapped: Tensor, partners: Tensor) -> float:
    """Share of the rows whose nearest of all partners, by cosine, is their own or equal to it."""
    nearest = (F.normalize(mapped, dim=1) @ F.normalize(partners, dim=1).T).argmax(dim=1).numpy()
    numbers = _alike(partners)
    return float((numbers[nearest] == numbers).mean())


def split_groups(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to measure on, a fifth of the groups; ConfigError of fewer than `LEAST_ROWS`."""
    return next(_folds(groups, seed))


def check_groups(groups: int) -> None:
    """Raise the ConfigError of fewer than `LEAST_ROWS` groups."""
    if groups < LEAST_ROWS:
        raise ConfigError(
            f"{groups} pairs are too few: the map and its logit scale are chosen on pairs that are left out; give "
            f"{LEAST_ROWS} or more"
        )


def _alike(rows: Tensor) -> np.ndarray:
    """(N,) numbers, one for equal rows."""
    return np.unique(rows.numpy(), axis=0, return_inverse=True)[1].reshape(-1)


def _reciprocal_ranks(similarity: Tensor, true: Tensor) -> Tensor:
    best = similarity.masked_fill(~true, -torch.inf).max(dim=1, keepdim=True).values
    return 1 / (1 + ((similarity >= best) & ~true).sum(dim=1))


def _folds(groups: np.ndarray, seed: int):
    """(rows to learn from, rows held out) of each fold."""
    numbers, place = np.unique(groups, return_inverse=True)
    check_groups(len(numbers))
    drawn = np.random.default_rng(seed).permutation(len(numbers))
    fold = np.empty(len(numbers), dtype=int)
    fold[drawn] = np.arange(len(numbers)) % FOLDS
    for number in range(FOLDS):
        held_out = fold[place] == number
        yield np.flatnonzero(~held_out), np.flatnonzero(held_out)[:MOST_IN_FOLD]


def _candidates(source: Tensor, target: Tensor):
    """((kind, penalty), matrix) of all candidates. Robust Procrustes, which takes six decompositions and was nowhere
    better than the plain one in what was published, is taken by name only."""
    if len(source) < source.shape[1]:  # one decomposition for least squares and all ridges
        values, vectors = torch.linalg.eigh(source @ source.T)
        turned, vectors = vectors.T @ target, source.T @ vectors
    else:
        values, vectors = torch.linalg.eigh(source.T @ source)
        turned = vectors.T @ (source.T @ target)
    values = values.clamp(min=0)
    inverse = torch.where(values > NOTHING * values.max(), 1 / values, 0)
    yield (LEAST_SQUARES, None), vectors @ (turned * inverse[:, None])
    for penalty in PENALTIES:
        yield (RIDGE, penalty), vectors @ (turned / (values + penalty)[:, None])
    yield (PROCRUSTES, None), procrustes(source, target)


def held_out_scale(source: Tensor, target: Tensor, fitted: TowerMap, groups: np.ndarray, seed: int = 1) -> float:
    """The `best_scale` of a map of the same kind on rows that it was not fitted on.

    Args:
        source, target, groups: as of `choose_map`.
        fitted: tells the kind.
    """
    source, target = source.double(), target.double()
    taught, left = next(_folds(np.asarray(groups), seed))
    other = fit_map(source[taught], target[taught], fitted.kind, fitted.penalty)
    rows = left
    for numbers in (np.asarray(groups), _alike(target)):  # captions of one image are no rivals, nor equal ones
        rows = rows[np.unique(numbers[rows], return_index=True)[1]]
    return best_scale(other(source[rows]), other.target(target[rows]))


def best_scale(mapped: Tensor, partners: Tensor, tried: int = 96) -> float:
    """The logit scale between 1 and 1000 at which the symmetric contrastive loss of held-out pairs is least.

    Args:
        mapped, partners: (N, T), in the same order.
        tried: values, evenly spaced in their logarithm.
    """
    cosines = F.normalize(mapped.double(), dim=1) @ F.normalize(partners.double(), dim=1).T
    scales = torch.logspace(0, 3, tried, dtype=torch.float64)
    own = torch.arange(len(cosines))
    losses = [F.cross_entropy(s * cosines, own) + F.cross_entropy(s * cosines.T, own) for s in scales]
    return float(scales[int(torch.stack(losses).argmin())])
