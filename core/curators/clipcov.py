"""CLIPCov: a subset that keeps the cross-covariance of images and captions of each latent class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..contracts.recipe import check_features_place
from ..errors import ConfigError
from ._kmeans import unit_rows
from ._ranks import count_of, rounded
from ._targets import read_target

RELEASED_PICKS_PER_REFRESH = 1400
"""The released 200 picks per refresh are of 284,000 in all: this many times fewer."""
MEMBERS_AT_ONCE = 4096
"""Of one class, whose similarities are computed as one block."""
SIMILARITIES_AT_ONCE = MEMBERS_AT_ONCE**2


@dataclass(eq=False, kw_only=True)
class Clipcov(Curator):
    """Data-Efficient Contrastive Language-Image Pretraining: Prioritizing Data Quality over Quantity (Joshi et al.,
    2024, arXiv 2403.12267), with its released greedy.

    A pair's latent class is the class whose name is nearest to its image. With x the image and t the caption of a pair
    in class V, and similarities below 0 set to 0, its score is

        cross + 2 <x, t> + <t, name of its class> / 2 - <x, mean captions of other classes> - <t, their mean images>

    where cross is the mean similarity to all pairs of V in both directions. Pairs are picked in the order of their
    scores; now and then the scores of a class are lowered by their similarity to what was picked of it.

    Picks cost one pass over a class per refresh, so that the time grows with the pairs and not with its square; the
    first scores need |V|^2 similarities per class, in blocks.

    For 5 to 10 % of a pool where the classes of the task are known: `classes` is a file of `vladapt embed` with
    `text_features`, or a folder of `embed --captions` over class names. One huge class decides its time.

    Example:
        >>> build_curator("clipcov", classes="classes.safetensors", fraction=0.1).decide_all(pairs).keep.sum()
        100
    """

    stage: ClassVar[str] = "subset"

    classes: str | None = option(
        None, "features of class names: a file with text_features, or a folder of `embed --captions`", metavar="FILE"
    )
    fraction: float = option(0.1, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    by: str = option("image", "what is compared with the class names for the class", choices=("image", "caption"))
    refresh: int | None = option(None, "picks of a class until its scores are lowered; none: picks / 1400", low=1)
    variant: str = option(
        "released",
        "each refresh subtracts the mean similarities of all picks of the class so far (released), which balances "
        "classes, or of the new ones alone (gain)",
        choices=("released", "gain"),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.classes is None:
            raise ConfigError(
                f"curator '{self.name}': give classes=FILE, features of class names; they decide what is kept"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return IMAGE_FEATURES, CAPTION_FEATURES

    def check(self, columns: Collection[str]) -> None:
        check_features_place(str(self.classes))

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        array = CAPTION_FEATURES if Path(str(self.classes)).is_dir() else "text_features"
        names = read_target(str(self.classes), pairs, CAPTION_FEATURES, array).features
        column = IMAGE_FEATURES if self.by == "image" else CAPTION_FEATURES
        blocks = pairs.blocks(max(1, min(MEMBERS_AT_ONCE, SIMILARITIES_AT_ONCE // len(names))))
        latent = np.concatenate([nearest_class(unit_rows(pairs, column, rows), names) for rows in blocks])
        members = _members_of(latent, len(names))
        terms = _terms(pairs, names, latent, members, progress)
        start = rounded(start_scores(**terms))
        count = count_of(len(pairs), self.fraction)
        refresh = self.refresh or max(1, round(count / RELEASED_PICKS_PER_REFRESH))

        def overlap(rows: np.ndarray, picks: np.ndarray) -> np.ndarray:
            image, caption = unit_rows(pairs, IMAGE_FEATURES, picks), unit_rows(pairs, CAPTION_FEATURES, picks)
            parts = [similarity_to(*_features(pairs, some), image, caption) for some in _blocks(rows)]
            return np.concatenate(parts)

        order, _ = greedy(
            start, terms["cross"], terms["label"], members, count, refresh, overlap, self.variant == "released"
        )
        rank = np.full(len(pairs), -1, np.int64)
        rank[order] = np.arange(len(order))
        sizes = np.array([len(each) for each in members])
        picked = np.bincount(latent[order], minlength=len(names))
        note = (
            f"{np.count_nonzero(sizes)} of {len(names)} classes have pairs, {np.count_nonzero(picked)} are in the "
            f"subset; the largest has {sizes.max()} pairs, {picked[sizes.argmax()]} of them kept"
        )
        return Survey({"picked": picked, "pairs": sizes}, {"rank": rank, "start": start.astype(np.float32)}, (note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        return Decision.of({"not among the picks": survey.rows["rank"] < 0}, scores={"clipcov": survey.rows["start"]})


def nearest_class(rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(N,) int64, of (N, D) unit rows the nearest of (C, D); of equal ones the first."""
    return (rows @ names.T).argmax(axis=1)


def _members_of(classes: np.ndarray, count: int) -> list[np.ndarray]:
    """Positions of each of `count` classes, ascending; (N,) class indices."""
    order = np.argsort(classes, kind="stable")
    return np.split(order, np.searchsorted(classes[order], np.arange(1, count)))


def start_scores(
    cross: np.ndarray, easy: np.ndarray, label: np.ndarray, image_centre: np.ndarray, text_centre: np.ndarray
) -> np.ndarray:
    """(N,) scores before anything is picked, from the terms (N,) of each pair."""
    return cross + 2 * easy + label / 2 - (text_centre + image_centre)


def similarity_to(
    image: np.ndarray, caption: np.ndarray, their_image: np.ndarray, their_caption: np.ndarray
) -> np.ndarray:
    """(N,) float64 sums over M other pairs of <x, t'> + <x', t>, those below 0 as 0; all (., D) unit rows."""
    total = np.maximum(image @ their_caption.T, 0).sum(axis=1, dtype=np.float64)
    return total + np.maximum(caption @ their_image.T, 0).sum(axis=1, dtype=np.float64)


def centre_terms(rows: np.ndarray, classes: np.ndarray, means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) mean similarity of rows (N, D) to the means (C, D) of all classes but their own, of those with pairs."""
    others = means.sum(axis=0) - means[classes]
    return np.einsum("nd,nd->n", rows, others) / max(1, np.count_nonzero(sizes) - 1)


def greedy(
    start: np.ndarray,
    cross: np.ndarray,
    label: np.ndarray,
    members: list[np.ndarray],
    count: int,
    refresh: int,
    overlap: Callable[[np.ndarray, np.ndarray], np.ndarray],
    whole_history: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The lazily refreshed greedy: the best score of all, one by one; the smaller position where scores are equal.

    Each class holds its positions in order, and a heap the first of each. When one more pick would make a multiple of
    `refresh` in a class, every pair V of that class loses, divided by |V|: its similarity to the picks since the last
    refresh, the sum of cross over the picks, and half the sum of label over the new ones.

    Args:
        start, cross, label: (N,).
        members: positions of each class, ascending.
        count: how many picks.
        overlap: (n,) positions of a class and (m,) of its new picks -> (n,) similarities, as `similarity_to`.
        whole_history: whether cross is summed over all picks of the class so far, else over the new ones.

    Returns:
        (count,) picks in order, and (N,) scores at the end, -inf where picked before the last refresh.
    """
    scores = start.astype(np.float64)
    queues = [_best_first(scores, rows) for rows in members]
    heads = [(*next(queue), number) for number, queue in enumerate(queues) if len(members[number])]
    heapify(heads)
    order: list[int] = []
    picks: list[list[int]] = [[] for _ in members]
    refreshed = [0] * len(members)
    gone = 0
    while heads and len(order) < count:
        _, position, number = heappop(heads)
        order.append(position)
        mine = picks[number]
        mine.append(position)
        if (len(mine) + 1) % refresh == 0:
            rows, new = members[number], np.array(mine[refreshed[number] :])
            summed = cross[mine if whole_history else new].sum(dtype=np.float64)
            scores[rows] -= (overlap(rows, new) + summed + label[new].sum(dtype=np.float64) / 2) / len(rows)
            scores[mine] = -np.inf
            refreshed[number], gone = len(mine), len(order)
            queues[number] = _best_first(scores, rows)
        if (following := next(queues[number], None)) is not None:
            heappush(heads, (*following, number))
    scores[order[:gone]] = -np.inf
    return np.array(order, np.int64), scores


def _best_first(scores: np.ndarray, rows: np.ndarray) -> Iterator[tuple[float, int]]:
    """(-score, position), the best first, without what is picked."""
    rows = rows[scores[rows] > -np.inf]
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return zip((-scores[rows]).tolist(), rows.tolist())


def _terms(
    pairs: PairTable, names: np.ndarray, latent: np.ndarray, members: list[np.ndarray], progress: Progress
) -> dict[str, np.ndarray]:
    """The terms (N,) of `start_scores`, class by class and block by block."""
    sizes = np.array([len(rows) for rows in members])
    sums = np.zeros((2, *names.shape))
    for number, rows in enumerate(members):
        for some in _blocks(rows):
            sums[:, number] += [each.sum(axis=0, dtype=np.float64) for each in _features(pairs, some)]
    images, captions = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
    terms = {each: np.zeros(len(pairs)) for each in ("cross", "easy", "label", "image_centre", "text_centre")}
    done = 0
    for rows in members:
        for some in _blocks(rows):
            image, caption = _features(pairs, some)
            cross = sum(similarity_to(image, caption, *_features(pairs, others)) for others in _blocks(rows))
            terms["cross"][some] = cross / len(rows)
            terms["easy"][some] = np.einsum("nd,nd->n", image, caption)
            terms["label"][some] = np.einsum("nd,nd->n", caption, names[latent[some]])
            terms["image_centre"][some] = centre_terms(image, latent[some], captions, sizes)
            terms["text_centre"][some] = centre_terms(caption, latent[some], images, sizes)
            done += len(some)
            progress(done, len(pairs))
    return terms


def _features(pairs: PairTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return unit_rows(pairs, IMAGE_FEATURES, rows), unit_rows(pairs, CAPTION_FEATURES, rows)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[first : first + MEMBERS_AT_ONCE] for first in range(0, len(rows), MEMBERS_AT_ONCE))
