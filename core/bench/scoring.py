"""Scores that several kinds of sets have: of one label per image, and of retrieval in both directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts.bench import BenchScore
from ..errors import DataError
from ..metrics.classification import multilabel_metrics
from ..metrics.intervals import units_of
from ..metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Ranking, image_text_rankings
from ..metrics.score_intervals import score_intervals

ROWS_AT_ONCE = 4096
AMONG = 5
"""Of `acc5`, which tells nothing of fewer classes than one more."""
RANKING = ("mean_average_precision", "auroc")
"""Measures of several labels."""


def classification_scores(
    images: Tensor, classes: Tensor, labels: Tensor, *, part: str = "", units: Tensor | None = None
) -> list[BenchScore]:
    """Top-1 accuracy, top-5 accuracy of six classes or more, and mean recall of the classes.

    Of classes that score alike the first is the answer, as `argmax` has it.

    Args:
        images: (N, D) unit rows.
        classes: (C, D) unit rows.
        labels: (N,) class indices.
        part: of the set.
        units: (N,) what is equal belongs together; None where each image stands alone.
    """
    ranks, count = class_ranks(images, classes, labels), len(classes)
    scores = [BenchScore.share("acc1", ranks == 1, units=units, guessing=1 / count, part=part)]
    if count > AMONG:
        scores.append(BenchScore.share("acc5", ranks <= AMONG, units=units, guessing=AMONG / count, part=part))
    recall = BenchScore.share(
        "mean_per_class_recall", ranks == 1, units=units, labels=labels, guessing=1 / count, part=part
    )
    return [*scores, recall]


@torch.no_grad()
def class_ranks(images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """(N,) place of the true class among all, from 1; arguments as of `classification_scores`."""
    ranks, numbers = [], torch.arange(len(classes))
    for some, mine in zip(images.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE)):
        scores = some @ classes.T  # (n, C)
        own = scores.gather(1, mine[:, None])
        before = (scores > own) | ((scores == own) & (numbers < mine[:, None]))
        ranks.append(before.sum(dim=1) + 1)
    return torch.cat(ranks)


def several_labels_scores(
    scores: Tensor, labels: Tensor, class_names: Sequence[str], *, groups: Sequence[str] | None = None, part: str = ""
) -> list[BenchScore]:
    """Mean average precision and AUROC over the classes, each by its own ranking of the images. A class of which no
    image, or every one, is labelled positive is left out.

    Args:
        scores: (N, C).
        labels: (N, C) of 0, 1 and NaN (unknown).
        class_names: C names.
        groups: N keys of images that belong together, or None.
        part: of the set.

    Raises:
        DataError: no class can be ranked.
    """
    labels = labels.double()
    values = multilabel_metrics(scores, labels, class_names)
    reached = {name: value for name in RANKING if (value := values[name]) is not None}
    if len(reached) < len(RANKING):
        raise DataError("no class is labelled in some of the images and not in others, so none can be ranked")
    between = score_intervals(scores, labels, values, groups)
    shares = [of[~of.isnan()].mean() for of in labels.T if 0 < float(of.nansum()) < int((~of.isnan()).sum())]
    guessing, made = (float(torch.stack(shares).mean()), 0.5), []
    for (measure, value), guessed in zip(reached.items(), guessing):
        bounds = between.get(measure)
        interval = None if bounds is None else (bounds[0], bounds[1])
        made.append(BenchScore(measure, value, len(labels), interval, guessed, part))
    return made


def retrieval_scores(
    images: Tensor,
    texts: Tensor,
    image_of_text: Tensor,
    *,
    groups: Sequence[str | None] | None = None,
    part: str = "",
) -> list[BenchScore]:
    """R@1, R@5 and R@10 in both directions: a query hits where any of what belongs to it is among the first K.

    Args:
        images: (N, D) unit rows.
        texts: (M, D) unit rows.
        image_of_text: (M,) the image that each text describes.
        groups: N keys of images that belong together, None where one stands alone; captions of an image always do.
        part: of the set.
    """
    ranked, scores = image_text_rankings(images, texts, image_of_text), []
    unit = units_of(groups, len(images))[0]
    gallery = {IMAGE_TO_TEXT: len(texts), TEXT_TO_IMAGE: len(images)}
    for direction, ranking in ranked.items():
        units = unit[ranking.query if direction == IMAGE_TO_TEXT else image_of_text[ranking.query]]
        for k in Ranking.RECALL_AT:
            guessing = guessed_recall(ranking.relevant.tolist(), gallery[direction], k)
            measure = f"{direction}/r{k}"
            scores.append(BenchScore.share(measure, ranking.best <= k, units=units, guessing=guessing, part=part))
    return scores


def guessed_recall(relevant: Sequence[int], gallery: int, k: int) -> float:
    """R@K of a random order: the mean chance that one of a query's relevant items is among K of the gallery.

    Args:
        relevant: how many items are relevant to each query.
        gallery: items in all.
    """
    counts = sorted(set(relevant))
    missed = {r: math.comb(gallery - r, min(k, gallery)) / math.comb(gallery, min(k, gallery)) for r in counts}
    return sum(1 - missed[r] for r in relevant) / len(relevant)
