"""What all cache models share: keys and values from the support, the logits they add to zero-shot, and the grid search.

The search is over beta, alpha (and APE's gamma), all points scored on val in one sweep: the affinity of val and keys is
computed once, the class sums of exp(-beta (1 - affinity)) once per beta (and gamma), and alphas only rescale those
sums. Rows of val are taken in blocks, so memory is bounded by `ClassSums.BUDGET`, not by N_val.

With more than `MOST_KEYS` keys of one class each, accuracies are swept in another way (`_interpolated_search.py`).

Keys may be of another backbone than the texts: `--resource keys=SPEC`. A cache compares images with images, so a tower
without texts will do for it (DINO's beside CLIP's in "Prompt, Generate, then Cache: Cascade of Foundation Models makes
Strong Few-shot Learners", Zhang et al., 2023, arXiv 2303.02151). Where a method ties its cache to the texts (APE's
channels, TIP-X's signatures) it takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, TextClassifier, Ties
from ...core.data import Selection
from ...core.errors import CapabilityError, DataError
from ...core.metrics import ALIKE, best_setting, row_weights
from ._interpolated_search import TOLERANCE, sweep_interpolated
from ._several_labels import signed_shares, sweep_auroc

CHUNK_ELEMENTS = 2**24  # of a (rows, N) block of affinities: 64 MiB
REFERENCE_SCALE = 100.0  # published alphas assume CLIP's logit scale
BEYOND = (2, 4, 8, 16, 32)  # times the end of the grid of alpha
MOST_KEYS = 4096  # whose sums are computed at each beta
SPARSE_FROM = 2**33  # multiplications from which the zeros of the values are passed over

Rows = Callable[[FeatureSet], FeatureSet]
"""Rows of support or val -> the same rows by the backbone of the keys, in whose space images are compared."""


@dataclass(eq=False, kw_only=True)
class CacheModel(Adapter):
    """Base of caches that are added to zero-shot: logits = s x W^T + b + alpha s / 100 exp(-beta (1 - q F^T)) L.

    A method leaves F and L in `keys` (N, D_k) and `values` (N, C), beta and alpha in `beta_` and `alpha_`. One that
    takes a resource `keys` has it in `optional`, and "keyed" in its `state` and its `later_state`.
    """

    can: ClassVar[frozenset[str]] = frozenset({"examples"})
    weighting: ClassVar[ClassWeighting]
    choice: ClassVar[Ties]

    def take_texts(self, classifier: TextClassifier) -> None:
        """Set `text` (C, D), `logit_bias` and `logit_scale`, by which the classifier's logits are told.

        With negative prompts (several labels per image) a row is the positive minus the negative prompt.
        """
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.logit_bias = classifier.logit_bias or 0.0
        if classifier.negative is not None:
            self.text, self.logit_bias = classifier.weights - classifier.negative, 0.0

    def zero_shot(self, unit: Tensor, text: Tensor | None = None) -> Tensor:
        """(B, C) logits of unit features without a cache; of `text` where other rows than the adapter's are given."""
        return self.logit_scale * unit @ (self.text if text is None else text).T + self.logit_bias

    @property
    def keyed(self) -> bool:
        """Whether the keys are of another backbone, which is then needed to predict."""
        return "keys" in self.at_predict

    @keyed.setter
    def keyed(self, value: bool) -> None:
        self.at_predict = frozenset({"features", "keys"}) if value else type(self).at_predict

    def take_keys(self, resources: Mapping[str, Any], support: FeatureSet) -> tuple[FeatureSet, Rows, list[str]]:
        """The support to learn from, how its rows are compared, and notes of the keys.

        With a backbone of the keys images are taken as they are, without augmented views, of which it has none.
        """
        other = resources.get("keys")
        self.keyed = other is not None
        if other is None:
            return support, as_they_are, []
        note = f"cache keys are features of backbone {other.spec}"
        return replace(support, views=None), key_rows(other.spec, other.support, other.val), [note]

    def queries(self, batch: Batch) -> Tensor:
        """(B, D_k) unit rows that are compared with the keys.

        Raises:
            CapabilityError: the keys are of another backbone, whose features are not there.
        """
        if not self.keyed:
            return batch.unit
        if batch.keys is None:
            raise CapabilityError(
                f"adapter '{self.name}' has keys of another backbone; pass Batch(features=..., keys=...)"
            )
        return F.normalize(batch.keys.float(), dim=-1)

    def class_values(self) -> Tensor:
        """(N, C) what the keys add to the classes."""
        return self.values

    @property
    def cache_weight(self) -> float:
        """Of the cache in the logits; published alphas assume CLIP's logit scale."""
        return self.alpha_ * self.logit_scale / REFERENCE_SCALE

    def scores(self, unit: Tensor, queries: Tensor, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, C) logits of unit features (B, D) that are compared as `queries` (B, D_k)."""
        cache = cache_logits(queries, keys, values, self.beta_)  # (B, C)
        return self.zero_shot(unit, text) + self.cache_weight * cache

    def _logits(self, batch: Batch) -> Tensor:
        return self.scores(batch.unit, self.queries(batch), self.text, self.keys, self.class_values())

    def example_parts(self, batch: Batch, classes: Tensor) -> Tensor:
        parts = example_logits(self.queries(batch), self.keys, self.class_values(), self.beta_, classes)  # (B, N)
        return self.cache_weight * parts


def as_they_are(features: FeatureSet) -> FeatureSet:
    """Where the keys are of the backbone of the texts."""
    return features


def key_rows(spec: str, support: FeatureSet, val: FeatureSet | None) -> Rows:
    """The rows by the backbone of the keys, which has features of support and val.

    Raises:
        DataError: rows without ids, or that the backbone of the keys has no features of.
    """
    sets = [support] if val is None else [support, val]
    place = {name: (each, row) for each in sets for row, name in enumerate(each.ids or ())}

    def rows(features: FeatureSet) -> FeatureSet:
        lacking = [name for name in features.ids or ("rows without ids",) if name not in place]
        if lacking:
            raise DataError(
                f"--resource keys={spec}: that backbone has no features of {lacking[0]}; compute them "
                "for the same images"
            )
        made = torch.stack([place[name][0].features[place[name][1]] for name in features.ids])
        return replace(features, features=made.to(features.features.device), views=None, parts=None, parts_mask=None)

    return rows


def cache_keys(support: FeatureSet, views: int) -> Tensor:
    """(N, D) unit keys: the mean over an image's first `views` raw view features, normalised once; else its feature."""
    if views and support.views is not None:
        return F.normalize(support.views[:, :views].float().mean(dim=1), dim=-1)
    return support.unit


def keys_note(support: FeatureSet, views: int) -> str:
    """What the keys are, in words, for `FitReport.notes`."""
    if views and support.views is not None:
        return f"cache keys are means of {min(views, support.views.shape[1])} augmented views per image"
    return "cache keys are features of the images as they are, without augmented views"


def one_hot_values(support: FeatureSet, num_classes: int) -> Tensor:
    """(N, C) one-hot rows; a class without images is a column of zeros."""
    values = support.one_hot()
    return F.pad(values, (0, num_classes - values.shape[1])).to(support.features.device)


def cache_values(support: FeatureSet, num_classes: int, weights: Tensor | None = None) -> Tensor:
    """(N, C) values of the keys. One label per image: one-hot rows. Several: `signed_shares` of each label, since a sum
    over the positives would grow with them, and say nothing of the negatives.

    Args:
        weights: (C,) of the classes, for one-hot rows, so that a class with more keys has no larger sum.
    """
    if support.multilabel:
        return signed_shares(support.labels, num_classes).to(support.features.device)
    values = one_hot_values(support, num_classes)
    return values if weights is None else values * weights.to(values)


def cache_logits(queries: Tensor, keys: Tensor, values: Tensor, beta: float) -> Tensor:
    """exp(-beta (1 - queries keys^T)) values, in blocks of rows so that memory does not grow with B.

    Args:
        queries: (B, D) unit rows.
        keys: (N, D).
        values: (N, C).
        beta: sharpness.

    Returns:
        (B, C).
    """
    rows = max(1, CHUNK_ELEMENTS // max(1, len(keys)))
    exporting = torch.compiler.is_exporting()
    if not exporting and len(queries) * values.numel() > SPARSE_FROM:
        # (N, b) kernels -> their (C, b) class sums, a product in which the zeros of one-hot values cost nothing.
        transposed = values.T
        sums = (transposed.to_sparse() if values.count_nonzero() <= 4 * len(values) else transposed).matmul
        kernels = (torch.exp_((keys @ block.T).sub_(1).mul_(beta)) for block in queries.split(rows))  # (N, b)
        return torch.cat([sums(kernel).T for kernel in kernels])
    blocks = (queries,) if exporting else queries.split(rows)  # of several a graph would keep the first alone
    return torch.cat([torch.exp(-beta * (1 - block @ keys.T)) @ values for block in blocks])


def example_logits(queries: Tensor, keys: Tensor, values: Tensor, beta: float, classes: Tensor) -> Tensor:
    """(B, N): what each key adds to `cache_logits` of one class of each query, (B,) int64."""
    return torch.exp(-beta * (1 - queries @ keys.T)) * values[:, classes].T


@dataclass(frozen=True)
class Axis:
    """One hyper-parameter: the value the user gave, else a grid to search, else a default.

    Args:
        name: "beta", "alpha" or "gamma".
        given: used as it is, not searched.
        default: used where there is nothing to choose on.
        grid: values to search.
    """

    name: str
    given: float | None
    default: float
    grid: tuple[float, ...]

    @property
    def values(self) -> tuple[float, ...]:
        return self.grid if self.given is None else (float(self.given),)

    @property
    def fallback(self) -> float:
        return float(self.default if self.given is None else self.given)


def grid_axes(adapter, names: tuple[str, ...], setting) -> tuple[Axis, ...]:
    """The axes of an adapter: its options where given, else those of a published or default setting."""
    scale, step = adapter.search_scale or setting.search_scale, adapter.search_step or setting.search_step
    default = {"beta": 1.0, "alpha": setting.alpha, "gamma": 0.1}
    start = {"beta": 0.1, "alpha": 0.1, "gamma": 0.0}
    return tuple(
        Axis(name, getattr(adapter, name), default[name], grid(scale[i], step[i], start[name]))
        for i, name in enumerate(names)
    )


def grid(scale: float, steps: int, start: float = 0.1) -> tuple[float, ...]:
    """`steps` values from `start` on towards `scale`, which is excluded, as published."""
    return tuple(i * (scale - start) / steps + start for i in range(steps))


def choose(
    axes: Sequence[Axis], selection: Selection, search: Callable[..., tuple[tuple[float, ...], float]]
) -> tuple[dict[str, float], str, float | None]:
    """Hyper-parameters by search where there is val, by default else.

    Args:
        axes: in the order of the search's loops, the outermost first.
        selection: what to choose on.
        search: called with one sequence of values per axis, gives the best point and its score.

    Returns:
        name -> value, on what it was chosen in words, and the score there or None.
    """
    names = [axis.name for axis in axes]
    if all(axis.given is not None for axis in axes):
        return dict(zip(names, [axis.fallback for axis in axes])), "given as options", None
    if selection.val is None:
        return dict(zip(names, [axis.fallback for axis in axes])), selection.words, None
    best, score = search(*[axis.values for axis in axes])
    return dict(zip(names, best)), selection.words, score


def search_as(
    adapter, selection: Selection, rows: Rows = as_they_are
) -> Callable[..., tuple[tuple[float, float], float]]:
    """The search over (betas, alphas) of an adapter's `text`, `keys` and `values`, as they are when it is called.

    Args:
        rows: as they are compared.
    """

    def search(betas, alphas):
        queries, labels = rows(selection.val).unit, selection.val.labels
        (beta, alpha, _), score = search_cache(
            queries,
            labels,
            adapter.zero_shot(selection.val.unit),
            adapter.keys,
            adapter.values,
            betas,
            alphas,
            beyond=beyond(adapter, alphas),
            alpha_factor=adapter.logit_scale / REFERENCE_SCALE,
            balanced=adapter.weighting.balanced,
            ties=adapter.choice.ties,
        )
        return (beta, alpha), score

    return search


def beyond(adapter, alphas: Sequence[float]) -> tuple[float, ...]:
    """Alphas beyond the end of the grid, for `search_cache`: a cache must be able to overrule texts that say nothing.

    None where the published grid was asked for, by a preset, `search_scale` or `ties="published"`; where alpha is
    given; and where images have several labels.
    """
    if (
        adapter.multilabel_
        or adapter.as_published
        or adapter.choice.ties == "published"
        or adapter.search_scale is not None
        or adapter.alpha is not None
    ):
        return ()
    return tuple(max(alphas) * factor for factor in BEYOND)


def search_cache(
    queries: Tensor,
    labels: Tensor,
    zero_shot: Tensor,
    keys: Tensor,
    values: Tensor,
    betas: Sequence[float],
    alphas: Sequence[float],
    gammas: Sequence[float] = (0.0,),
    *,
    exponent: Tensor | None = None,
    alpha_factor: float = 1.0,
    beyond: Sequence[float] = (),
    balanced: bool = False,
    ties: str = "published",
) -> tuple[tuple[float, float, float], float]:
    """The best point of zero_shot + alpha * factor * exp(-beta (1 - queries keys^T)) (values * exp(gamma e)).

    Args:
        queries: (V, D) unit val features.
        labels: (V,) class indices, scored by accuracy; or (V, C) with NaN for unknown, scored by macro AUROC.
        zero_shot: (V, C) logits the cache adds to.
        keys: (N, D).
        values: (N, C).
        betas, alphas, gammas: the grid; the first point is the first in loop order (beta outside, gamma inside).
        exponent: (N,) e, or None for 0.
        alpha_factor: what alphas are multiplied by, logit_scale / 100.
        beyond: further alphas, which count only where one of them scores better than the whole grid.
        balanced: score by balanced accuracy.
        ties: as for `best_setting`.

    Returns:
        (beta, alpha, gamma), and their score.
    """
    sums, inside = ClassSums(keys, values, gammas, exponent), len(alphas)
    alphas = (*alphas, *beyond)
    scaled = [alpha * alpha_factor for alpha in alphas]
    with torch.no_grad():
        if labels.ndim == 1:
            weights = row_weights(labels) if balanced else None
            sweep = sweep_interpolated if _is_large(keys, values) else _sweep_accuracy
            scores = sweep(sums, queries, labels, zero_shot, betas, scaled, weights)  # (B, A, G)
        else:
            scores = sweep_auroc(sums, queries, labels, zero_shot, betas, scaled)
    if beyond and scores[:, inside:].max() <= scores[:, :inside].max() + ALIKE:
        scores = scores[:, :inside]
    b, a, g = best_setting(scores, ties)
    return (float(betas[b]), float(alphas[a]), float(gammas[g])), float(scores[b, a, g])


def _is_large(keys: Tensor, values: Tensor) -> bool:
    """Whether class sums of the search are interpolated."""
    return len(keys) > MOST_KEYS and _slots(values) is not None


def search_notes(keys: Tensor, values: Tensor, score: float | None) -> list[str]:
    """For `FitReport.notes`: how the search told class sums of these keys, where that is not exactly.

    Args:
        score: of the search; None where there was none.
    """
    if score is None or not _is_large(keys, values):
        return []
    return [f"class sums of {len(keys):,} cache keys are interpolated between the betas searched, to {TOLERANCE:.0e}"]


class ClassSums:
    """exp(-beta (1 - A)) summed into classes, laid out (C, G, rows) so that all later reductions run over rows at once.

    Where each key has one class, keys are put into (C, K) slots, the empty ones with weight 0, and a small product a
    class does the sum; otherwise it is one product with the (C, N) values.

    Class attributes:
        BUDGET: bytes of working memory of the search.
        BLOCK: elements of a block of it: its arrays stay in the processor's cache.
    """

    BUDGET, BLOCK = 48 * 2**20, 2**16

    def __init__(self, keys: Tensor, values: Tensor, gammas: Sequence[float], exponent: Tensor | None):
        boost = [torch.ones_like(keys[:, 0]) if exponent is None else torch.exp(gamma * exponent) for gamma in gammas]
        boost = torch.stack(boost)  # (G, N)
        self.num_classes, self.num_gammas = values.shape[1], len(boost)
        slots = _slots(values)
        if slots is None:
            self.keys, self.boost, self.values = keys, boost, values.T.contiguous()
            self.weights = None
        else:
            index, filled = slots  # (C * K,)
            self.keys = keys[index]
            weights = boost[:, index] * (values.sum(dim=1)[index] * filled)  # (G, C * K)
            self.weights = weights.view(len(boost), self.num_classes, -1).transpose(0, 1).contiguous()  # (C, G, K)

    def rows_at_once(self) -> int:
        """How many val rows fit the budget."""
        floats = 2 * len(self.keys) + 3 * self.num_classes * self.num_gammas
        return max(1, self.BUDGET // (4 * floats))

    def rows_in_cache(self) -> int:
        """How many val rows have class sums at one beta that fill a block, within the budget."""
        return max(1, min(self.rows_at_once(), self.BLOCK // (self.num_classes * self.num_gammas)))

    def affinity(self, queries: Tensor) -> Tensor:
        """(S, V) cosines minus 1."""
        return self.keys @ queries.T - 1

    def at(self, affinity: Tensor, beta: float, buffer: Tensor) -> Tensor:
        """(C, G, V) sums; `buffer` is overwritten."""
        kernel = torch.mul(affinity, beta, out=buffer).exp_()
        if self.weights is not None:
            return torch.bmm(self.weights, kernel.view(self.num_classes, -1, kernel.shape[1]))
        return torch.stack([self.values @ (weight[:, None] * kernel) for weight in self.boost], dim=1)

    def at_each(self, affinity: Tensor, betas: Tensor) -> Tensor:
        """(C, B * G, V) sums at several betas (B,): of few rows and keys, one by one would mostly be calls of torch."""
        kernel = (betas[:, None, None] * affinity).exp_()  # (B, S, V)
        if self.weights is not None:
            kernel = kernel.unflatten(1, (self.num_classes, -1)).permute(1, 2, 0, 3)  # (C, K, B, V)
            sums = torch.bmm(self.weights, kernel.flatten(2)).unflatten(2, kernel.shape[2:])  # (C, G, B, V)
            return sums.transpose(1, 2).flatten(1, 2)
        sums = torch.stack([self.values @ (weight[:, None] * kernel) for weight in self.boost], dim=2)  # (B, C, G, V)
        return sums.transpose(0, 1).flatten(1, 2)


def _slots(values: Tensor) -> tuple[Tensor, Tensor] | None:
    """(C * K,) key index of each slot and whether it is filled; None if a key has several classes or slots waste."""
    num_keys, num_classes = values.shape
    if not bool(((values != 0).sum(dim=1) == 1).all()):
        return None
    classes = values.abs().argmax(dim=1)
    counts = torch.bincount(classes, minlength=num_classes)
    width = int(counts.max())
    if num_classes * width > 4 * num_keys:
        return None
    order = torch.argsort(classes, stable=True)
    starts = counts.cumsum(0) - counts
    within = torch.arange(num_keys, device=values.device) - starts[classes[order]]
    slot = classes[order] * width + within
    index = torch.zeros(num_classes * width, dtype=torch.long, device=values.device)
    filled = torch.zeros(num_classes * width, dtype=values.dtype, device=values.device)
    index[slot], filled[slot] = order, 1.0
    return index, filled


def _sweep_accuracy(sums: ClassSums, queries, labels, zero_shot, betas, alphas, weights: Tensor | None) -> np.ndarray:
    """(B, A, G) accuracies. Rows are independent, so each block of them is swept whole and counts are added."""
    counted = torch.long if weights is None else torch.double
    right = torch.zeros(len(betas), len(alphas), sums.num_gammas, dtype=counted, device=queries.device)
    several = torch.tensor(alphas, dtype=zero_shot.dtype, device=queries.device)[:, None, None]  # (A, 1, 1)
    for rows in torch.arange(len(queries), device=queries.device).split(sums.rows_at_once()):
        rival = zero_shot[rows].T.contiguous()  # (C, V)
        truth = labels[rows][None]  # (1, V)
        true_zero_shot = rival.gather(0, truth)
        rival = rival.scatter(0, truth, -torch.inf)[:, None]  # (C, 1, V): the strongest other class
        affinity = sums.affinity(queries[rows])
        buffer, together = torch.empty_like(affinity), max(1, sums.BLOCK // affinity.numel())
        for b in range(0, len(betas), together):
            at = affinity.new_tensor(betas[b : b + together])  # (B',)
            cache = (
                sums.at(affinity, betas[b], buffer) if together == 1 else sums.at_each(affinity, at)
            )  # (C, B' * G, V)
            true_cache = cache.gather(0, truth[None].expand(1, *cache.shape[1:]))[0]  # (B' * G, V)
            start = 0
            for some in several.split(max(1, sums.BLOCK // cache.numel())):
                each = _right(rival, true_zero_shot, cache, true_cache, some, truth)  # (A', B' * G, V)
                counts = each.sum(dim=-1) if weights is None else each.double() @ weights[rows]
                counts = counts.unflatten(1, (len(at), -1)).transpose(0, 1)  # (B', A', G)
                right[b : b + len(at), start : start + len(some)] += counts
                start += len(some)
    return right.cpu().numpy() / len(queries)


def _right(rival, true_zero_shot, cache, true_cache, alphas: Tensor, truth) -> Tensor:
    """(A, G, V) whether the first largest logit of each row is the true class, at each of the (A, 1, 1) alphas."""
    logits = torch.addcmul(rival[:, None], cache[:, None], alphas)  # (C, A, G, V)
    best = logits.amax(dim=0)
    mine = torch.addcmul(true_zero_shot, true_cache, alphas)
    right, tied = mine > best, mine == best
    if tied.any():
        right[tied] = truth.expand_as(best)[tied] < logits[:, tied].argmax(dim=0)
    return right
