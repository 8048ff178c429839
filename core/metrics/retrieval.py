"""How well a query finds what belongs to it in a gallery: recall at K, ranks, mean average precision.

**Ties.** Items of equal score have no order of their own, so the worst one is assumed: of equal scores, those that are
not relevant come first. A rank is then 1 + the number of irrelevant items that score at least as high, whatever the
order of the gallery; and a tower that gives everything the same feature finds nothing, rather than all by luck. A
matrix product rounds by position, so equal features of the gallery (one text for many images) are scored once and
share that score.

R@K and ranks over several captions per image are those of "VSE++: Improving Visual-Semantic Embeddings with Hard
Negatives" (Faghri et al. 2017, arXiv 1707.05612): an image counts by its best caption among the captions of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from .intervals import exact_interval, share_interval

NUMBERS_AT_ONCE = 1 << 24
"""Scores held at a time, whatever the sizes of queries and gallery."""
ROWS_AT_ONCE = 8192
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"


@dataclass(frozen=True)
class Ranking:
    """Where Q queries found what is relevant to them. Ranks begin at 1.

    Class attributes:
        RECALL_AT: the K of usual recalls.

    Attributes:
        query: (Q,) int64, positions of the queries. One without any relevant item in the gallery is left out.
        best, last: (Q,) int64, ranks of the first and of the last relevant item.
        relevant: (Q,) int64, how many items are relevant.
        average_precision: (Q,) float64, the mean over relevant items of precision at their rank.
    """

    RECALL_AT: ClassVar[tuple[int, ...]] = (1, 5, 10)

    query: Tensor
    best: Tensor
    last: Tensor
    relevant: Tensor
    average_precision: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def recall(self, k: int) -> float:
        """R@K: the share of queries with a relevant item among the first K, in 0..1."""
        return float((self.best <= k).double().mean())

    @staticmethod
    def precision_at(
        scores: Tensor, query_labels: Tensor, gallery_labels: Tensor, ks: Sequence[int], own: Tensor | None = None
    ) -> dict[int, Tensor]:
        """K -> (Q,) float64, the share of the K best items whose label is the query's. Of equal scores the others come
        first; where the gallery has fewer than K items, all count.

        Args:
            scores: (Q, G).
            query_labels: (Q,) int64. gallery_labels: (G,) int64.
            own: (Q,) position of the query itself in the gallery, which it does not find; None: it is not there.
        """
        scores, relevant = scores.double(), query_labels[:, None] == gallery_labels  # (Q, G)
        if own is not None:
            scores = scores.scatter(1, own[:, None], -torch.inf)
        last = relevant.long().argsort(dim=1, stable=True)  # what is not relevant comes first
        order = last.gather(1, scores.gather(1, last).argsort(dim=1, descending=True, stable=True))
        hits = relevant.gather(1, order).double()
        size = hits.shape[1] - (own is not None)
        return {k: hits[:, : min(k, size)].mean(dim=1) for k in ks}

    def cmc(self, ranks: int) -> list[float]:
        """The cumulative matching curve: R@1 to R@`ranks`, in 0..1."""
        return [self.recall(k) for k in range(1, ranks + 1)]

    def recall_interval(self, k: int = 1, level: float = 0.95) -> tuple[float, float]:
        """The exact interval of R@K, for queries of which none belong together."""
        return exact_interval(int((self.best <= k).sum()), len(self), level)

    @property
    def inverse_penalty(self) -> Tensor:
        """(Q,) relevant items over the rank of the last of them."""
        return self.relevant / self.last.double()

    def intervals(self, unit: Tensor, *, penalty: bool = False) -> dict[str, list[float]]:
        """95 % intervals of r1, r5, r10 and map.

        Args:
            unit: (Q,) which unit (an image with its captions, a person) each query belongs to.
            penalty: of "minp", too.
        """
        intervals = {f"r{k}": share_interval(self.best <= k, unit) for k in Ranking.RECALL_AT}
        means = {"map": self.average_precision, **({"minp": self.inverse_penalty} if penalty else {})}
        return intervals | {name: share_interval(values, unit) for name, values in means.items()}

    def metrics(self, *, penalty: bool = False) -> dict[str, float]:
        """r1, r5, r10 in 0..1; median_rank (of an even number of queries the mean of the middle two) and mean_rank of
        the best relevant item; map, the mean average precision over all relevant items, in 0..1.

        Args:
            penalty: add "minp": mean inverse negative penalty, the mean of relevant items / rank of the last ("Deep
                Learning for Person Re-identification: A Survey and Outlook", Ye et al. 2020, arXiv 2001.04193).
        """
        return {
            **{f"r{k}": self.recall(k) for k in Ranking.RECALL_AT},
            "median_rank": float(self.best.double().quantile(0.5)),
            "mean_rank": float(self.best.double().mean()),
            "map": float(self.average_precision.mean()),
            **({"minp": float(self.inverse_penalty.mean())} if penalty else {}),
        }


def retrieval_metrics(
    image_features: Tensor, text_features: Tensor, image_of_text: Tensor, *, one_per_image: bool = False
) -> dict[str, dict[str, float]]:
    """Image-to-text and text-to-image retrieval of images with one or several captions each.

    Args:
        image_features: (N, D) unit rows.
        text_features: (M, D) unit rows.
        image_of_text: (M,) int64, which image each text describes.
        one_per_image: image-to-text ranks images by their best caption each, so that an image with many captions
            takes one place only. This is how text-video work with several sentences per video counts ("CLIP4Clip", Luo
            et al. 2021, arXiv 2104.08860).

    Returns:
        {"image_to_text": {"r1", "r5", "r10", "median_rank", "mean_rank", "map"}, "text_to_image": {...}}; see
        `Ranking.metrics`. An image without a caption is not a query, but stays in the gallery.

    Raises:
        DataError: sizes disagree, no rows, or a feature is not finite.
    """
    ranked = image_text_rankings(image_features, text_features, image_of_text, one_per_image=one_per_image)
    return {direction: ranking.metrics() for direction, ranking in ranked.items()}


def mean_recall(metrics: Mapping[str, Mapping[str, float]]) -> float:
    """The mean of R@1, R@5 and R@10 of both directions, in 0..1, by which methods are ranked in "Exploring a
    Fine-Grained Multiscale Method for Cross-Modal Remote Sensing Image Retrieval" (Yuan et al. 2022, arXiv 2204.09868).

    Args:
        metrics: of `retrieval_metrics`.
    """
    recalls = [metrics[side][f"r{k}"] for side in (IMAGE_TO_TEXT, TEXT_TO_IMAGE) for k in Ranking.RECALL_AT]
    return sum(recalls) / len(recalls)


def image_text_rankings(
    image_features: Tensor,
    text_features: Tensor,
    image_of_text: Tensor,
    *,
    one_per_image: bool = False,
    labels: Tensor | None = None,
) -> dict[str, Ranking]:
    """The rankings behind `retrieval_metrics`, by direction; same arguments and errors.

    Args:
        labels: (N,) int64 of the images: what has the label of a query is relevant to it, in place of an image's own
            texts.
    """
    image_of_text = torch.as_tensor(image_of_text, device=text_features.device).long()
    images = torch.arange(len(image_features), device=image_features.device)
    if len(image_of_text) and not 0 <= int(image_of_text.min()) <= int(image_of_text.max()) < len(images):
        raise DataError(f"image_of_text names an image outside 0..{len(images) - 1}; give positions of images")
    if labels is not None:
        labels = torch.as_tensor(labels, device=text_features.device).long()
        of_text = labels[image_of_text]
        return {
            IMAGE_TO_TEXT: rankings(image_features, text_features, labels, of_text),
            TEXT_TO_IMAGE: rankings(text_features, image_features, of_text, labels),
        }
    return {
        IMAGE_TO_TEXT: rankings(image_features, text_features, images, image_of_text, one_per_label=one_per_image),
        TEXT_TO_IMAGE: rankings(text_features, image_features, image_of_text, images),
    }


@torch.no_grad()
def rankings(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    one_per_label: bool = False,
    numbers_at_once: int = NUMBERS_AT_ONCE,
) -> Ranking:
    """Ranks of the relevant items: those whose label is the query's.

    Args:
        query: (Q, D).
        gallery: (G, D).
        query_labels: (Q,) int64.
        gallery_labels: (G,) int64.
        one_per_label: all gallery items of one label count as one, scored by the best of them.
        numbers_at_once: scores held at a time, for memory. Q x G are never held.

    Raises:
        DataError: sizes disagree, a feature is not finite, or no query has a relevant item.
    """
    query_labels, gallery_labels = _checked(query, gallery, query_labels, gallery_labels)
    distinct, place = gallery.float().unique(dim=0, return_inverse=True)  # (U, D), (G,)

    def scores(some: Tensor) -> Tensor:
        return _scores(query[some].float(), distinct, place)

    how = {"one_per_label": one_per_label, "numbers_at_once": numbers_at_once}
    return rankings_of_scores(scores, query_labels, gallery_labels, **how)


@torch.no_grad()
def rankings_of_scores(
    scores: Callable[[Tensor], Tensor],
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    one_per_label: bool = False,
    numbers_at_once: int = NUMBERS_AT_ONCE,
) -> Ranking:
    """`rankings` by other scores than products of features.

    Args:
        scores: (q,) positions of queries -> (q, G).
        query_labels: (Q,) int64. gallery_labels: (G,) int64.

    Raises:
        DataError: no query has a relevant item.
    """
    labels, gallery_labels, count = gallery_labels.unique(return_inverse=True, return_counts=True)
    where = torch.searchsorted(labels, query_labels).clamp(max=len(labels) - 1)
    answerable = (labels[where] == query_labels).nonzero().flatten()  # (Q',)
    if not len(answerable):
        raise DataError("no query has a relevant item in the gallery; give labels that occur in both")
    if one_per_label:
        members = torch.arange(len(labels), device=labels.device)[:, None]  # (labels, 1)
    else:
        members = _members(gallery_labels, count)
    parts, rows = [], max(1, numbers_at_once // len(gallery_labels))
    for some in answerable.split(rows):
        of_query = scores(some)  # (q, G)
        if one_per_label:
            of_query = _best_of_each(of_query, gallery_labels, len(labels))  # (q, labels)
        parts.append(_ranked(of_query, members[where[some]]))
    best, last, relevant, precision = (torch.cat(column).cpu() for column in zip(*parts))
    return Ranking(answerable.cpu(), best, last, relevant, precision)


def _checked(query: Tensor, gallery: Tensor, query_labels, gallery_labels) -> tuple[Tensor, Tensor]:
    sides = []
    for name, features, labels in (("query", query, query_labels), ("gallery", gallery, gallery_labels)):
        labels = torch.as_tensor(labels, device=features.device)
        if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
            raise DataError(
                f"{name} has features {tuple(features.shape)} and labels {tuple(labels.shape)}; "
                "(n, D) and (n,) are needed, n of 1 or more"
            )
        if not all(torch.isfinite(some).all() for some in features.split(ROWS_AT_ONCE)):
            raise DataError(f"{name} features hold NaN or infinity; extract them again")
        sides.append(labels.long())
    if query.shape[1] != gallery.shape[1]:
        raise DataError(f"queries are {query.shape[1]} wide, the gallery {gallery.shape[1]}; use one backbone for both")
    return sides[0], sides[1]


def _members(label: Tensor, count: Tensor) -> Tensor:
    """(labels, R) gallery positions of each label, -1 where it has fewer than R.

    Args:
        label: (G,) of each gallery item, 0 to labels - 1.
        count: (labels,) how many items have it.
    """
    order = label.argsort(stable=True)  # (G,)
    start = count.cumsum(0) - count
    place = torch.arange(len(label), device=label.device) - start[label[order]]  # (G,) within its label
    members = torch.full((len(count), int(count.max())), -1, device=label.device)
    members[label[order], place] = order
    return members


def _scores(query: Tensor, distinct: Tensor, place: Tensor) -> Tensor:
    """(q, G) dot products with the U distinct rows of the gallery, each where it stands there.

    Args:
        query: (q, D).
        distinct: (U, D).
        place: (G,), which distinct row each gallery item is.
    """
    return (query @ distinct.T).index_select(1, place)


def _best_of_each(scores: Tensor, label: Tensor, labels: int) -> Tensor:
    """(q, G) -> (q, labels), the highest score of each label."""
    lowest = torch.full((len(scores), labels), -torch.inf, device=scores.device)
    return lowest.scatter_reduce(1, label.expand(scores.shape), scores, "amax")


def _ranked(scores: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rank of the first and of the last relevant item, their number and the average precision, each (q,).

    Args:
        scores: (q, G).
        members: (q, R) positions of relevant items, -1 where there are fewer than R.
    """
    known = members >= 0  # (q, R)
    relevant_scores = scores.gather(1, members.clamp(min=0)).masked_fill(~known, -torch.inf)
    relevant_scores = relevant_scores.sort(dim=1).values  # (q, R) rising, what fills the rows up first
    others = _counts_by_bucket(scores, relevant_scores) - _counts_by_bucket(relevant_scores, relevant_scores)
    above = others.flip(1).cumsum(dim=1)[:, :-1]  # (q, R) irrelevant items at or above each, the best relevant first
    place = torch.arange(1, members.shape[1] + 1, device=scores.device).expand_as(above)  # among the relevant ones
    rank = above + place  # (q, R)
    relevant = known.sum(dim=1)  # (q,)
    precision = (place / rank.double()).masked_fill(place > relevant[:, None], 0.0).sum(dim=1) / relevant
    return rank[:, 0], rank.gather(1, relevant[:, None] - 1).squeeze(1), relevant, precision


def _counts_by_bucket(scores: Tensor, edges: Tensor) -> Tensor:
    """(q, R + 1): of each row, how many scores reach exactly b of its R rising edges."""
    buckets = edges.shape[1] + 1
    reached = torch.searchsorted(edges, scores, right=True)  # (q, n) in 0..R
    reached += torch.arange(len(scores), device=scores.device)[:, None] * buckets
    return torch.bincount(reached.flatten(), minlength=len(scores) * buckets).view(-1, buckets)


def named_rightly(images: Tensor, texts: Tensor, image_of_text: Tensor, labels: Tensor) -> Tensor | None:
    """(N,) bool: whether an image's nearest class is its own.

    A class is the normalised mean of the unit features of its captions, each distinct one once, as a zero-shot
    classifier averages its prompts. All images of a class share its captions, so that a caption that fits several
    images, which makes retrieval by pairs too strict, does no harm here.

    Args:
        images: (N, D) unit.
        texts: (M, D) unit; equal texts have equal rows.
        image_of_text: (M,) int64, the image each text belongs to.
        labels: (N,) int64.

    Returns:
        None where there are fewer than two classes.
    """
    classes, class_of = labels.unique(return_inverse=True)  # (C,), (N,)
    if len(classes) < 2:
        return None
    class_of_text = class_of[image_of_text]
    distinct = torch.cat([class_of_text[:, None].to(texts.dtype), texts], dim=1).unique(dim=0)  # (M', 1 + D)
    sums = torch.zeros(len(classes), texts.shape[1], dtype=texts.dtype)
    sums.index_add_(0, distinct[:, 0].long(), distinct[:, 1:])
    return (images @ F.normalize(sums, dim=-1).T).argmax(dim=1) == class_of
