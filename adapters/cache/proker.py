"""ProKeR: kernel ridge regression of what zero-shot gets wrong on the support, in closed form.

Take it from 1 shot on, for hundreds to a few thousand images: an answer in a second, nothing to tune.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Batch, ClassWeighting, FeatureSet, FitReport, StoredViews, Ties, has, option, require
from ...core.data import Selection, selection_split
from ...core.metrics import best_setting
from ..published_sets import SETS, preset_option
from ._cache_model import Axis, CacheModel, Rows, cache_logits, choose, example_logits
from ._presets import PROKER_SETTINGS

BY_SHOTS = ((16, (1.7, 0.1)), (8, (1.66, 0.07)), (4, (1.5, 0.05)), (2, (2.6, 0.05)), (1, (3.0, 0.05)))
"""Beta and lambda that the authors found on ImageNet, from so many shots on, and take to other sets."""
MOST_ROWS, MOST_SEARCHED, NO_LIMIT = 1024, 2048, 0
"""Rows with which a fit, and our own search, take seconds, not minutes; `most_rows` as published."""
MOST_DOUBLE, MOST_SINGLE = 4096, 1_000_000
"""Rows up to which A is solved in double precision; rows over lambda up to which single precision does for more."""
MOST_EXACT, RESIDUAL, MOST_STEPS = 8192, 0.03, 3
"""Rows up to which A is always exact; what conjugate gradients leave of more, as a share; steps that take less than a
factor of the whole matrix."""
LANDMARKS, PROBES, COLUMNS, STRIP, TINY = 768, 32, 256, 1024, 1e-5
"""Rows, and columns of A, that tell how to solve for all; columns solved at once; what keeps a factor positive."""


@dataclass(eq=False, kw_only=True)
class ProKeR(CacheModel):
    """ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models (Bendou, Ouasfi, Gripon and
    Boukhayma, 2025, arXiv 2501.11175).

    logits = s (x W^T + k(x, V) A), with A = (K / lambda + I)^-1 (Y - V W^T), k(a, b) = exp(-beta (1 - a b)), K the
    kernel of the N unit rows V with themselves, Y their one-hot labels, W the unit text weights and s the logit scale,
    which the released code leaves out: it changes no prediction. Every augmented view of an image is a row of its own.

    This is the released form. Kernel ridge regression would have k(x, V) (K + lambda I)^-1 (Y - V W^T), which is A over
    lambda: here lambda scales the correction as well as the ridge, and the best lambda is that of both.

    Beta and lambda (`penalty`) are searched on val, the first best with beta in the outer loop; without val on images
    held out of the support, whose rows are left out meanwhile. Where nothing can be held out, and by default for more
    than 2,048 rows (each beta takes time cubic in them), they are the values that the authors found on ImageNet for the
    same number of shots. By default a set of many images takes fewer views, so that there are at most `most_rows`; a
    preset or a protocol takes all views and searches, however long that takes.

    Of more than 4,096 rows A is solved in the place of the kernel and in single precision, as a note says: that takes
    4 N^2 bytes, and coefficients differ by some 1e-5 of their size. Where lambda is less than a millionth of N, double
    precision is kept. Of more than 8,192 rows, unless there is a preset or a protocol or `most_rows` is 0, conjugate
    gradients go on until 3 % of the right side is left, where few steps do that; a note says so. What is added to
    zero-shot then differs by some 1 %, and 1 to 2 answers of a hundred on two drawn sets.

    A class without images keeps its zero-shot score, which the regression would move towards 0 near every image of the
    support.

    Without texts (W = 0, of an image tower alone) it is the regression of the labels themselves. The kernel may be of
    another backbone than the texts (`--resource keys=dinov2`): it then compares the unit features of that backbone,
    without views.

    A preset is a set of the few-shot protocol in any usual spelling: its grid.

    Classes with unequal numbers of images count alike (`class_weight`): with v the weights of the rows, I in A becomes
    diag(1 / v), the regression in which each class has the same sum of weights. Among settings that score alike on val
    the middle one is taken (`ties`). Published are "none" and "published". With equal classes only ties differ.

    Resources:
        keys: `FurtherBackbone`, of the same images.

    Raises:
        ConfigError: an option is out of range, or the ends of a grid are in the wrong order.
        UnknownNameError: no such preset.
        DataError: the backbone of the keys has no features of an image.

    Example:
        >>> adapter = build_adapter("proker", beta=1.7, penalty=0.1)
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "logits are the released ones times the logit scale; a class without images keeps its zero-shot score "
        "(released: it is missing); rows of val may come in any order (released: grouped by class); searched settings "
        "are never read back from disk. Without val they are searched on held-out images. ProKeR+CLAP is not included"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    text_free: ClassVar[bool] = True
    published: ClassVar[dict[str, int]] = {"most_rows": NO_LIMIT}
    optional: ClassVar[frozenset[str]] = frozenset({"keys"})
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "rows", "coefficients", "beta_", "keyed",
    )  # fmt: skip
    later_state: ClassVar = {"keyed": False}

    pool = has(StoredViews, published_crop=(0.5, 1.0))
    weighting = has(ClassWeighting)
    choice = has(Ties)
    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()
    beta: float | None = option(None, "sharpness of the kernel; none to search it", low=0)
    penalty: float | None = option(None, "lambda; none to search it", above=0)
    search_beta: tuple[float, float] | None = option(
        None, "ends of the grid of beta; none: the preset's, or 0.5,3", low=0
    )
    search_penalty: tuple[float, float] | None = option(
        None, "ends of the grid of lambda; none: the preset's, or 0.001,1", above=0
    )
    search_step: tuple[int, int] | None = option(
        None, "points (beta, lambda) of the grid; none: the preset's, or 20,10", low=1, high=100_000
    )
    most_rows: int | None = option(
        None,
        "rows beyond which fewer views are taken; 0: no limit; none: no limit with a preset, else 1024",
        low=0,
        high=10_000_000,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.most_rows is None:
            self.most_rows = NO_LIMIT if self.as_published else MOST_ROWS
        for name in ("search_beta", "search_penalty"):
            ends = getattr(self, name)
            require(ends is None or ends[0] <= ends[1], name, ends, "give the lower end first")

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.logit_bias = classifier.logit_bias or 0.0
        support, rows, notes = self.take_keys(resources, support)
        taken = self._taken(support)
        selection = self._selection(support, val, taken, seed)
        chosen, words, score = choose(self._axes(support), selection, self._search(selection, taken, rows))
        self.beta_ = chosen["beta"]
        problem = self._problem(support, taken, rows)
        exact = self.most_rows == NO_LIMIT
        self.rows = problem.rows
        self.coefficients, how = problem.solved(self.beta_, chosen["penalty"], exact)
        notes = [*(notes or self._notes(support, taken)), *how]
        return FitReport(self.name, chosen, words, score, notes=notes)

    def _selection(self, support: FeatureSet, val: FeatureSet | None, taken: int, seed: int) -> Selection:
        selection = selection_split(support, val, seed)
        rows, most = len(selection.train) * max(1, taken), max(MOST_SEARCHED, self.most_rows)
        if rows <= most or self.most_rows == NO_LIMIT or selection.val is None:
            return selection
        words = f"defaults: {rows} rows are more than the {most} searched without a preset or a protocol"
        return replace(selection, val=None, words=words)

    def _axes(self, support: FeatureSet) -> tuple[Axis, Axis]:
        setting = PROKER_SETTINGS[self.preset]
        ends = self.search_beta or setting.beta, self.search_penalty or setting.penalty
        steps = self.search_step or setting.steps
        grids = [tuple(np.linspace(*end, step).tolist()) for end, step in zip(ends, steps)]
        beta, penalty = next(values for least, values in BY_SHOTS if support.shots >= least)
        return Axis("beta", self.beta, beta, grids[0]), Axis("penalty", self.penalty, penalty, grids[1])

    def _search(self, selection: Selection, taken: int, rows: Rows):
        """The search over (betas, penalties): the best of them, and its score."""

        def search(betas: Sequence[float], penalties: Sequence[float]):
            problem, val = self._problem(selection.train, taken, rows), selection.val
            zero_shot = val.unit @ self.text.T
            score = partial(self.weighting.val_score, labels=val.labels)
            scores = problem.scores(rows(val).unit, zero_shot, betas, penalties, score)
            best, lam = best_setting(scores, self.choice.ties)
            return (betas[best], penalties[lam]), float(scores[best, lam])

        return search

    def _problem(self, support: FeatureSet, taken: int, rows: Rows) -> Problem:
        compared, (unit, labels) = rows(support), support_rows(support, taken)
        keys = unit if compared is support else support_rows(compared, taken)[0]
        return Problem.of(keys, labels, unit @ self.text.T, self.weighting.class_weights(labels, len(self.text)))

    def _taken(self, support: FeatureSet) -> int:
        """How many views of each image are rows; 0 where the image itself is."""
        if not self.pool.views or support.views is None:
            return 0
        taken = min(self.pool.views, support.views.shape[1])
        within = taken if self.most_rows == NO_LIMIT else self.most_rows // max(1, len(support))
        return max(1, min(taken, within))

    def _notes(self, support: FeatureSet, taken: int) -> list[str]:
        if not taken:
            return ["rows are features of the images as they are, without augmented views"]
        given = min(self.pool.views, support.views.shape[1])
        fewer = f" (of {given}, to keep to {self.most_rows} rows)" if taken < given else ""
        return [f"{taken} augmented views of each image are rows of their own{fewer}"]

    def _logits(self, batch: Batch) -> Tensor:
        cache = cache_logits(self.queries(batch), self.rows, self.coefficients, self.beta_)  # (B, C)
        corrected = batch.unit @ self.text.T + cache
        return self.logit_scale * corrected + self.logit_bias

    def example_parts(self, batch: Batch, classes: Tensor) -> Tensor:
        queries = self.queries(batch)
        return self.logit_scale * example_logits(queries, self.rows, self.coefficients, self.beta_, classes)


def support_rows(support: FeatureSet, taken: int) -> tuple[Tensor, Tensor]:
    """(N, D) unit rows and their (N,) labels: so many views of each image, or with 0 the image itself."""
    if not taken:
        return support.unit, support.labels
    views = F.normalize(support.views[:, :taken].float(), dim=-1)  # (M, V, D)
    return views.flatten(0, 1), support.labels.repeat_interleave(taken)


@dataclass(frozen=True)
class Problem:
    """Rows (N, D_k), what zero-shot lacks of their labels (N, C), and the roots of row weights (N, 1).

    With r these roots, A = diag(r) (diag(r) K diag(r) / lambda + I)^-1 diag(r) (Y - V W^T).
    """

    rows: Tensor
    residual: Tensor
    roots: Tensor

    @classmethod
    def of(cls, rows: Tensor, labels: Tensor, zero_shot: Tensor, weights: Tensor | None = None) -> Problem:
        """Args: rows (N, D_k) that are compared, labels (N,), zero_shot (N, C) of the same images or views, weights
        (C,) of the classes, where these count alike."""
        classes = zero_shot.shape[1]
        roots = torch.ones_like(rows[:, 0]) if weights is None else weights[labels].to(rows).sqrt()
        member = F.one_hot(labels, classes).to(rows)
        residual = (member - zero_shot) * member.any(dim=0)  # of a class without images nothing is known
        if len(rows) > MOST_DOUBLE:
            return cls(rows, residual, roots[:, None])
        return cls(rows, residual.double(), roots[:, None].double())

    def solved(self, beta: float, penalty: float, exact: bool = True) -> tuple[Tensor, list[str]]:
        """(N, C) float32 coefficients A, and what is to be said of how they were solved.

        Args:
            exact: whatever the time it takes; else many rows are solved to `RESIDUAL`.
        """
        if len(self.rows) > MOST_DOUBLE:
            return self._solved_in_place(beta, penalty, exact or len(self.rows) <= MOST_EXACT)
        matrix = self._weighted_kernel(beta) / penalty
        matrix.diagonal().add_(1.0)
        factor = torch.linalg.cholesky(matrix)
        return (self.roots * torch.cholesky_solve(self.roots * self.residual, factor)).float(), []

    def _solved_in_place(self, beta: float, penalty: float, exact: bool) -> tuple[Tensor, list[str]]:
        """As `solved`, with memory for one (N, N) matrix. Errors of a factor grow with the largest eigenvalue, which is
        N / lambda at most; the least is 1."""
        single, count = len(self.rows) <= MOST_SINGLE * penalty, f"{len(self.rows):,} rows"
        rows, roots = (each.float() if single else each.double() for each in (self.rows, self.roots))
        matrix, target = rows.new_empty(len(rows), len(rows)), roots * self.residual.to(roots)
        for start in range(0, len(rows), STRIP):  # half of a symmetric matrix, and the other half from it
            own, upto = slice(start, start + STRIP), slice(start + STRIP)
            strip = torch.mm(rows[own], rows[upto].T, out=matrix[own, upto])
            strip.sub_(1).mul_(beta).exp_().div_(penalty).mul_(roots[own]).mul_(roots[upto].T)
            matrix[:start, own] = strip[:, :start].T
        inner = None if exact or not single else self._nearly_solved(matrix, target, beta, penalty)
        if inner is not None:
            steps = f"{count} are solved by conjugate gradients, to 3 % of the right side; exactly: most_rows=0"
            return (roots * inner).float(), [steps]
        matrix.diagonal().add_(1.0)
        factor = torch.linalg.cholesky(matrix.mT, out=matrix.mT)  # columns lie one after the other: nothing is copied
        inner = torch.linalg.solve_triangular(factor, target, upper=False)
        how = [f"{count} are solved in single precision, to some 1e-5 of the coefficients"] if single else []
        return (roots * torch.linalg.solve_triangular(factor.mT, inner, upper=True)).float(), how

    def _nearly_solved(self, matrix: Tensor, target: Tensor, beta: float, penalty: float) -> Tensor | None:
        try:
            return nearly_solved(matrix, self._likeness(matrix, beta, penalty), target)
        except torch.linalg.LinAlgError:  # rounding, where nearly all rows are alike
            return None

    def _likeness(self, matrix: Tensor, beta: float, penalty: float) -> Likeness:
        """Of diag(r) K diag(r) / lambda, the matrix: of e^z, with z the inner product around the mean row, it has
        1 + z, and of the rest what some rows know of it (Nystroem)."""
        mean = self.rows.mean(dim=0)
        scale = self.roots * (beta * (self.rows @ mean - (mean @ mean + 1) / 2)).exp()[:, None] / penalty**0.5
        wide = scale.new_empty(len(self.rows), 1 + self.rows.shape[1] + LANDMARKS)
        plain, further = wide.tensor_split([1 + self.rows.shape[1]], dim=1)
        torch.mul(scale, self.rows - mean, out=plain[:, 1:]).mul_(beta**0.5)
        plain[:, :1] = scale
        some = torch.arange(LANDMARKS, device=mean.device) * len(self.rows) // LANDMARKS
        rest = torch.addmm(matrix[:, some], plain, plain[some].T, alpha=-1)
        corner = rest[some].double()
        corner.diagonal().add_(TINY * float(matrix.diagonal().max()))
        factor = torch.linalg.cholesky(corner).float()
        further.copy_(torch.linalg.solve_triangular(factor.mT, rest, upper=True, left=False))  # (N, landmarks)
        return Likeness.of(wide, matrix.diagonal())

    def scores(
        self,
        queries: Tensor,
        zero_shot: Tensor,
        betas: Sequence[float],
        penalties: Sequence[float],
        score: Callable[[Tensor], float],
    ) -> np.ndarray:
        """(B, L) scores on val, by its (M, D_k) queries, (M, C) zero-shot cosines and the score of (M, C) cosines. The
        kernel of each beta is decomposed once, which solves for every lambda."""
        zero_shot, cosines, found = zero_shot.double(), (queries @ self.rows.T).double(), []  # (M, C), (M, N)
        roots, residual = self.roots.double(), self.residual.double()
        for beta in betas:
            values, vectors = torch.linalg.eigh(self._weighted_kernel(beta))
            inside = vectors.T @ (roots * residual)  # (N, C)
            outside = torch.exp(-beta * (1 - cosines)) @ (roots * vectors)  # (M, N)
            for penalty in penalties:
                shrunk = penalty / (values.clamp(min=0) + penalty)  # (N,)
                found.append(score(zero_shot + outside @ (shrunk[:, None] * inside)))
        return np.array(found).reshape(len(betas), len(penalties))

    def _weighted_kernel(self, beta: float) -> Tensor:
        """(N, N) float64."""
        roots = self.roots.double()
        return roots * torch.exp(-beta * (1 - (self.rows @ self.rows.T).double())) * roots.T


@dataclass(frozen=True)
class Likeness:
    """U U^T + diag(d), which is like a matrix plus 1 and quickly inverted."""

    wide: Tensor
    diagonal: Tensor
    factor: Tensor

    @classmethod
    def of(cls, wide: Tensor, diagonal: Tensor) -> Likeness:
        """Args: wide (N, R) U, diagonal (N,) of the matrix, which is kept."""
        left = 1 + (diagonal - wide.square().sum(dim=1)).clamp(min=0)[:, None]
        inner = (wide.T @ (wide / left)).double()
        inner.diagonal().add_(1.0)
        return cls(wide, left, torch.linalg.cholesky(inner).float())

    def solved(self, target: Tensor) -> Tensor:
        """(N, C) -> (N, C), by Woodbury's identity."""
        scaled = target / self.diagonal
        return scaled - self.wide @ torch.cholesky_solve(self.wide.T @ scaled, self.factor) / self.diagonal


def nearly_solved(matrix: Tensor, likeness: Likeness, target: Tensor) -> Tensor | None:
    """(matrix + I)^-1 target (N, C) by conjugate gradients from the likeness's own answer on, to `RESIDUAL`; None where
    that takes too many steps.

    The steps are those of some columns together, which cost little; all columns then take the same ones.
    """
    steps = _steps(matrix, likeness, target[:, :: max(1, target.shape[1] // PROBES)])
    if steps is None:
        return None
    return torch.cat([_stepped(matrix, likeness, some, steps) for some in target.split(COLUMNS, dim=1)], dim=1)


def _steps(matrix: Tensor, likeness: Likeness, target: Tensor) -> list[tuple[float, float]] | None:
    """(length, share of the direction before) of each step."""
    solution = likeness.solved(target)
    left, direction = target - torch.addmm(solution, matrix, solution), torch.zeros_like(target)
    steps: list[tuple[float, float]] = []
    before = 0.0
    while float(left.norm()) > RESIDUAL * float(target.norm()):
        if len(steps) == MOST_STEPS:
            return None
        nearer = likeness.solved(left)
        slope = float((left * nearer).sum())
        share = slope / before if before else 0.0
        direction = nearer + share * direction
        change = torch.addmm(direction, matrix, direction)
        length, before = slope / float((direction * change).sum()), slope
        left -= length * change
        steps.append((length, share))
    return steps


def _stepped(matrix: Tensor, likeness: Likeness, target: Tensor, steps: Sequence[tuple[float, float]]) -> Tensor:
    """What the steps make of a target (N, c)."""
    solution = change = likeness.solved(target)
    left, taken, direction = target, 1.0, torch.zeros_like(target)
    for length, share in steps:
        left = left - taken * torch.addmm(change, matrix, change)
        direction = change = likeness.solved(left) + share * direction
        solution, taken = solution + length * direction, length
    return solution
