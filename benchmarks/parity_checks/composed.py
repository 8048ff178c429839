"""Queries of an image and words: how they are made, and how what they find is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt.core.contracts.composition import ImagesAndWords
from vladapt.core.metrics import composed as metrics
from vladapt.core.registry.build import build_composition

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

DECIMALS = 2
"""Of the released percentages."""


@dataclass
class Table:
    """A gallery whose texts are rows of a table: word number i with text number j is row (i, j).

    Args:
        rows: (G, D) images. words: (W, D). composed: (W + 1, J, D), the last of no word.
    """

    rows: Tensor
    words: Tensor
    composed: Tensor

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        cosines, places = (queries @ self.rows.T).topk(count)
        return cosines, self.rows[places]

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.composed[tuple(map(int, text.split()))] for text in texts])

    def vocabulary(self) -> tuple[Sequence[str], Tensor]:
        return [str(number) for number in range(len(self.words))], self.words


def of_fixture(ref: Reference) -> tuple[ImagesAndWords, Table]:
    """The queries and the gallery of fixture `freedom`."""
    target, images = int(ref.setting("target_domain")), ref["query"]
    text = ref["domain_text"][target].expand(len(images), -1)
    return ImagesAndWords(images, text, [(str(target),)] * len(images)), Table(
        ref["database"], ref["words"], ref["composed"]
    )


def as_released(ref: Reference, **options):
    """Freedom with the fixture's settings, by whose rule an image is absent if one of the call is."""
    sizes = {"neighbours": "kappa", "words_each": "ni", "words": "miu"}
    made = build_composition("freedom", **{ours: int(ref.setting(theirs)) for ours, theirs in sizes.items()}, **options)
    own = made.is_absent
    made.is_absent = lambda cosines: own(cosines).any().expand(len(cosines))
    return made


@compares("composed queries", "freedom")
def composed_queries(ref: Reference, f: Fixtures) -> Iterator[Check]:
    queries, gallery = of_fixture(ref)
    of_class = ref["query_class"][:, None] == ref["database_class"]
    relevant = of_class & (ref["database_domain"] == int(ref.setting("target_domain")))  # (Q, G)
    places = _places(relevant)
    freedom = as_released(ref)
    cosines, nearest = gallery.nearest(queries.unit_image, freedom.neighbours)
    absent = freedom.is_absent(cosines)
    yield ref.check(absent[0].long(), "freedom.self_added")
    counted = freedom.words_of(queries.unit_image, cosines, nearest, gallery.words)
    padded = [[*each, *[(len(gallery.words), 0)] * (freedom.words - len(each))] for each in counted]
    yield ref.check(torch.tensor([[word for word, _ in each] for each in padded]), "freedom.chosen_words")
    weights = torch.tensor([[count / each[0][1] for _, count in each] for each in padded])
    yield ref.check(weights, "freedom.word_weights")
    factors = {
        "image": queries.unit_image[:, None],
        "text": queries.unit_text[:, None],
        "sum": 2 * _unscaled_sum(queries),
        "product": build_composition("product").compose(queries, gallery).factors,
        "freedom": freedom.compose(queries, gallery).factors,
    }
    for name, rows in factors.items():
        scores = torch.einsum("qfd,gd->qfg", rows, gallery.rows).prod(dim=1)
        yield ref.check(scores, f"{name}.sim")
        if f"{name}.ranking" in ref:
            yield ref.check(scores.argsort(dim=1, descending=True), f"{name}.ranking")
        ranks = metrics.target_ranks(scores, places)
        precision = metrics.composed_average_precision(ranks)
        yield ref.check(precision.float(), f"{name}.ap")
        ks = [int(k) for k in ref.setting("at")]
        shares = [precision.mean(), *(of(ranks, k).mean() for of in (metrics.recall, metrics.precision) for k in ks)]
        yield ref.check(torch.tensor([round(100 * float(share), DECIMALS) for share in shares]), f"{name}.metrics")


def _unscaled_sum(queries: ImagesAndWords) -> Tensor:
    """The mean of both, in the direction of our sum: theirs is not brought to unit length."""
    mean = (queries.unit_image + queries.unit_text)[:, None] / 2
    ours = build_composition("sum").compose(queries, None).factors
    return ours * (ours * mean).sum(dim=-1, keepdim=True)


@compares("composed metrics", "metrics_composed")
def composed_metrics(ref: Reference, f: Fixtures) -> Iterator[Check]:
    scores = ref["queries"] @ F.normalize(ref["index"], dim=-1).T
    target, reference = ref["target"][:, None], ref["reference"]
    ranks = metrics.target_ranks(scores, target)
    yield ref.check(_percent(metrics.is_found(ranks, k) for k in _ks(ref, "fashioniq")), "fashioniq")
    without = metrics.target_ranks(scores, target, reference)
    in_group = metrics.target_ranks(scores.gather(1, ref["group"]), (ref["group"] == target).long().argmax(1)[:, None])
    of_cirr = [
        metrics.is_found(in_group if "group" in name else without, k)
        for name, k in zip(ref.setting("cirr"), _ks(ref, "cirr"))
    ]
    yield ref.check(_percent(of_cirr), "cirr")
    every = metrics.target_ranks(scores, ref["ground_truth"])
    first = metrics.target_ranks(scores, ref["ground_truth"][:, :1])
    of_circo = [
        metrics.average_precision_at(every, k) if "map" in name else metrics.is_found(first, k)
        for name, k in zip(ref.setting("circo"), _ks(ref, "circo"))
    ]
    yield ref.check(_percent(of_circo), "circo")


def _ks(ref: Reference, key: str) -> list[int]:
    return [int(name.rpartition("_at")[2]) for name in ref.setting(key)]


def _percent(values: Iterator[Tensor] | list[Tensor]) -> Tensor:
    return torch.tensor([100 * float(value.double().mean()) for value in values])


def _places(relevant: Tensor) -> Tensor:
    """(Q, R) places of what is relevant, -1 where there is less."""
    order = relevant.long().argsort(dim=1, descending=True, stable=True)[:, : int(relevant.sum(dim=1).max())]
    return order.where(relevant.gather(1, order), -1)


GROUPS = (composed_queries, composed_metrics)
DEVIATIONS = {
    "composed queries": "whether the query's image is in the gallery is decided for each query, the released code "
    "decides it for all queries of a call: the fixture is compared by its rule",
    "composed metrics": "none; of equal scores what is no target comes first",
}
