"""How well images find their captions and captions their images: what `--task retrieval` measures, in every domain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch

from ...backbones.finders import searched
from ...contracts.backbone import Backbone
from ...contracts.items import Decoded, DomainData, Item, Questions
from ...contracts.options import TOLERATED
from ...data.file_hashes import FileHashes
from ...data.pairs.pair_set import SPLIT_CODES, Pair
from ...data.verify import digests_of, image_digest
from ...errors import DataError
from ...features.store import FeatureStore
from ...metrics.intervals import share_interval, units_of
from ...metrics.retrieval import (
    IMAGE_TO_TEXT,
    TEXT_TO_IMAGE,
    Ranking,
    image_text_rankings,
    mean_recall,
    named_rightly,
    rankings_of_scores,
)
from ...metrics.sentence_ranks import Similarity
from ...metrics.significance import mcnemar
from ...runs.folder import DIGITS
from ...runtime.progress import Reporter
from ...training.sources import TargetNumbers
from .comparison import DIRECTIONS, RetrievalMetrics
from .encoding import EncodedPairs, PairEncoding, Pairs, distinct_images, encoded_texts, features_of
from .multiple_choice import KEY as CHOICES
from .multiple_choice import choice_scores
from .sentences import KEY as SENTENCES
from .sentences import sentence_scores


@dataclass
class RetrievalScores:
    """Retrieval by one model on one set.

    Attributes:
        metrics: of both directions, with intervals.
        units: direction -> (Q,) the image that each query is of, or its group: captions of one image, and images of
            one group, are drawn together.
        rankings: direction -> the ranks behind them.
        ids: N images, what `rankings` count.
        right: (N,) bool, whether an image's class is named correctly by the captions; None without classes.
        skipped: (id, reason) of images left out, with their captions.
        groups: N keys of images that belong together; None where each stands alone.
        sentences: of `sentence_scores`; None where they were not asked for, or no image has several texts.
        choices: of `choice_scores`, where the set asks questions.
        features: that were compared.
    """

    metrics: RetrievalMetrics
    rankings: dict[str, Ranking]
    ids: tuple[str, ...]
    right: torch.Tensor | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    units: dict[str, torch.Tensor] = field(default_factory=dict)
    groups: tuple[str | None, ...] | None = None
    sentences: dict[str, dict[str, float]] | None = None
    choices: dict[str, Any] | None = None
    features: EncodedPairs | None = None


def evaluate_retrieval(
    backbone: Backbone,
    pairs: Pairs,
    *,
    split: str | None = "test",
    batch_size: int | None = None,
    workers: int | None = None,
    amp: str | None = None,
    reporter: Reporter | None = None,
    store: FeatureStore | None = None,
    transform: Callable[[Decoded], torch.Tensor] | None = None,
    by_label: bool = False,
    sentences: bool = False,
    dual_softmax: bool = False,
    questions: Questions | None = None,
    tolerate: float = TOLERATED,
) -> RetrievalScores:
    """Rank all captions for each image and all images for each caption.

    An image with several captions counts by the best of them for R@K and ranks, by all for mAP; see
    `core/metrics/retrieval.py` for ties. Under torchrun images and texts are split by rank, and every rank returns the
    same.

    Args:
        backbone: its towers as they are now, which may be in the middle of a training; they end in the mode they had.
        pairs: a PairSet, or what `DomainPairs.of` makes of a domain's captions.
        split: "train", "val" or "test"; None takes all rows.
        batch_size: images at once; None measures the best.
        workers: decoding threads; None takes one per CPU core.
        amp: None, "bf16" or "fp16".
        reporter: what shows progress and messages; by default they are not shown.
        store: where features are kept, for frozen backbones only: it knows weights by the backbone's fingerprint, which
            a training does not change.
        transform: decoded image -> pixels; by default the backbone's own.
        by_label: what has the label of a query is relevant to it, as all pictures and sentences of one person are; the
            metrics then have "minp" too.
        sentences: whether images with several texts are also scored as text-video work does; not by label.
        dual_softmax: whether that is done with a dual softmax besides, however many texts an image has.
        questions: that are asked too.
        tolerate: share of the images that may be unreadable.

    Raises:
        DataError: no pairs in the split, no captions, no labels where they count, or too many images cannot be read.
    """
    progress, view = reporter or Reporter(quiet=True), transform or backbone.preprocess(False)
    options = PairEncoding(view, batch_size, workers, amp, progress, store, tolerate)
    features = features_of(searched(backbone), _part(pairs, split), options)
    return scores_of_features(features, backbone, by_label, sentences, dual_softmax, questions)


def scores_of_sources(scores: RetrievalScores, backbone: Backbone, names: Sequence[str]) -> dict[str, RetrievalScores]:
    """Retrieval within each of several sources, by the features of a `JoinedPairs` of them.

    Args:
        names: of the sources; one of which nothing could be read has no scores.
    """
    assert scores.features is not None
    parts = {name: scores.features.part([each.startswith(f"{name}/") for each in scores.ids]) for name in names}
    return {name: scores_of_features(part, backbone) for name, part in parts.items() if len(part.texts)}


def scores_of_features(
    features: EncodedPairs,
    backbone: Backbone,
    by_label: bool = False,
    sentences: bool = False,
    dual_softmax: bool = False,
    questions: Questions | None = None,
) -> RetrievalScores:
    """The scores of features; options as of `evaluate_retrieval`."""
    device = backbone.device if backbone.device.type == "cuda" else torch.device("cpu")
    labels = _labels(features) if by_label else None
    if features.scores is None:
        sides = features.images.to(device), features.texts.to(device)
        rankings = image_text_rankings(*sides, features.image_of_text, labels=labels)
    else:
        rankings = _rankings_of_scores(features, labels)
    unit, number = units_of(features.groups, len(features.images))
    groups = features.groups if number < len(features.images) else None
    image_of = {IMAGE_TO_TEXT: torch.arange(len(features.images)), TEXT_TO_IMAGE: features.image_of_text.cpu()}
    units = {direction: unit[image_of[direction]][ranking.query.cpu()] for direction, ranking in rankings.items()}
    between = {direction: each.intervals(units[direction], penalty=by_label) for direction, each in rankings.items()}
    of_each = {direction: ranking.metrics(penalty=by_label) for direction, ranking in rankings.items()}
    values: dict[str, Any] = {
        **of_each,
        "mean_recall": mean_recall(of_each),
        "images": len(features.images),
        "texts": len(features.texts),
        "intervals": {direction: of["r1"] for direction, of in between.items()},
        "metric_intervals": between,
        **({} if groups is None else {"groups": number}),
    }
    right = None
    if features.labels is not None and not by_label and features.scores is None:
        right = named_rightly(features.images, features.texts, features.image_of_text, features.labels)
    if right is not None:
        values["accuracy"] = float(right.float().mean())
        values["intervals"]["accuracy"] = share_interval(right, groups)
    several = None
    if not by_label and (dual_softmax or (sentences and len(features.texts) > len(features.image_of_text.unique()))):
        several = sentence_scores(_similarity(features, device), backbone.logit_scale, dual_softmax)
    choices = None if questions is None else choice_scores(questions, features, partial(encoded_texts, backbone))
    further = {"sentences": several, "choices": choices, "features": features}
    metrics = RetrievalMetrics.from_json(values)
    return RetrievalScores(metrics, rankings, features.ids, right, features.skipped, units, groups, **further)


def _rankings_of_scores(features: EncodedPairs, labels: torch.Tensor | None) -> dict[str, Ranking]:
    """As `image_text_rankings`, by the scores of pairs."""
    of_images = torch.arange(len(features.images)) if labels is None else labels
    of_texts = features.image_of_text if labels is None else labels[features.image_of_text]
    return {
        IMAGE_TO_TEXT: rankings_of_scores(features.scores.of_images, of_images, of_texts),
        TEXT_TO_IMAGE: rankings_of_scores(features.scores.of_texts, of_texts, of_images),
    }


def _similarity(features: EncodedPairs, device: torch.device) -> Similarity:
    if features.scores is None:
        return Similarity.of_features(features.texts.to(device), features.images.to(device), features.image_of_text)
    return Similarity(features.scores.of_texts, features.image_of_text, len(features.images))


def _labels(features: EncodedPairs) -> torch.Tensor:
    if features.labels is None:
        raise DataError("some images have no label, and queries are judged by labels here; label all of them")
    return features.labels


def before_and_after(before: RetrievalScores | None, after: RetrievalScores) -> dict[str, Any]:
    """Both scores in the shape of metrics.json.

    Returns:
        {"zero_shot": {"image_to_text/r1": ..., "text_to_image/map": ..., "mean_recall": ...} or None, "adapted": {...},
        "test_images": N, "test_texts": M, "intervals": {"adapted": {direction: [low, high]}, ...}, "mcnemar":
        {direction: {"gained", "lost", "p_value"}} or None, "metric_intervals": {"adapted": {"text_to_image/r5": [low,
        high], ...}, ...}}; where images have classes also "accuracy" on both sides and "accuracy_mcnemar"; where images
        belong to groups "test_groups", their number. McNemar's test pairs the queries whose first result is right;
        where several are captions of one image, or of images of one group, it counts these, and "exchanged" is "images"
        or "groups". Where images have several texts "sentences": {"adapted": of
        `sentence_scores`, "zero_shot": the same or None}; where the set asks questions "multiple_choice" likewise.

    Raises:
        DataError: the two are of different images or texts.
    """
    scored = {"adapted": after.metrics} if before is None else {"adapted": after.metrics, "zero_shot": before.metrics}
    values: dict[str, Any] = {
        "zero_shot": None if before is None else before.metrics.flat,
        "adapted": after.metrics.flat,
        "test_images": after.metrics.images,
        "test_texts": after.metrics.texts,
        "intervals": {side: of.intervals for side, of in scored.items()},
        "metric_intervals": {side: of.flat_intervals for side, of in scored.items()},
        "mcnemar": None if before is None else _paired(before, after),
        **({} if after.metrics.groups is None else {"test_groups": after.metrics.groups}),
    }
    for key, name in ((SENTENCES, "sentences"), (CHOICES, "choices")):
        if (scores := getattr(after, name)) is not None:
            values[key] = {"adapted": scores, "zero_shot": None if before is None else getattr(before, name)}
    if before is not None and before.right is not None and after.right is not None:
        test = vars(mcnemar(before.right, after.right, after.groups))
        values["accuracy_mcnemar"] = test if after.groups is None else {**test, "exchanged": "groups"}
    return values


@dataclass(frozen=True)
class DomainPairs:
    """Captioned items of a domain's data, as pairs. Made by `of`."""

    data: DomainData
    items: tuple[Item, ...]

    @classmethod
    def of(cls, data: DomainData) -> DomainPairs:
        """The captioned images of a domain's data set, for `evaluate_retrieval`.

        Raises:
            DataError: no item has a caption.
        """
        if not any(item.captions() for item in data.items):
            raise DataError(f"{data.name or 'this data set'}: no image has a caption; retrieval needs captions")
        return cls(data, tuple(data.items))

    def __len__(self) -> int:
        return len(self.items)

    def id(self, row: int) -> str:
        """Of an item."""
        return self.items[row].id

    def __getitem__(self, row: int) -> Pair:
        item = self.items[row]
        return DomainPair(
            id=item.id,
            source=str(item.source),
            offset=None,
            size=None,
            captions=tuple(item.captions()),
            label=self.label(item),
            split=item.split,
            image=row,
            group=item.group,
            decode=dict(item.decode),
        )

    def label(self, item: Item) -> int | None:
        """The class of an item that has exactly one."""
        label = item.class_label()
        return None if isinstance(label, tuple) else label

    def __iter__(self) -> Iterator[Pair]:
        return (self[row] for row in range(len(self)))

    @property
    def fields(self) -> frozenset[str]:
        labelled = all(self.label(item) is not None for item in self.items)
        return frozenset({"label"} if labelled else ()) | self.further_columns.keys()

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.data.class_names)

    @property
    def labels(self) -> np.ndarray:
        """(N,) classes, -1 for none."""
        return np.array([-1 if (label := self.label(item)) is None else label for item in self.items], np.int64)

    @cached_property
    def facts(self) -> TargetNumbers:
        """What the targets say in numbers."""
        return TargetNumbers(self.items)

    @property
    def further_columns(self) -> dict[str, str]:
        return self.facts.columns

    def numbers(self, row: int, column: str) -> Sequence[float]:
        """What a further column holds, NaN where the item has no numbers."""
        return self.facts.numbers(column, row)

    @property
    def image_numbers(self) -> np.ndarray:
        """(N,) each row has an image of its own."""
        return np.arange(len(self))

    def load_image(self, row: int) -> Decoded:
        return self.data.load(self.items[row])

    comparable: ClassVar[bool] = True

    def image_sizes(self, rows: np.ndarray) -> np.ndarray:
        """(n,) alike: samples may be parts of files, so that `content_hash` alone tells copies."""
        return np.ones(len(rows), np.int64)

    def image_end(self, row: int, most: int) -> bytes:
        return b""

    @property
    def split_codes(self) -> np.ndarray:
        """(N,) positions of their splits, as those of a PairSet."""
        return np.array([SPLIT_CODES[item.split or ""] for item in self.items], np.uint8)

    def content_hash(self, row: int, hashes: FileHashes) -> str:
        """A digest of what an image shows."""
        return image_digest(self.items[row], hashes)

    @property
    def caption_count(self) -> int:
        """Captions of all rows."""
        return sum(len(item.captions()) for item in self.items)

    def select(self, rows: Sequence[int] | np.ndarray) -> DomainPairs:
        """Some rows, in their order."""
        return replace(self, items=tuple(self.items[row] for row in rows))

    def split(self, name: str) -> DomainPairs:
        return replace(self, items=tuple(item for item in self.items if item.split == name))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if any(item.split == name for item in self.items))


@dataclass(frozen=True)
class DomainPair(Pair):
    """A pair whose image is part of a file in a way its domain knows: `decode` as in Item."""

    decode: Mapping[str, Any] = field(default_factory=dict)


def digests_of_images(pairs: Any) -> list[str]:
    """Digests of what each distinct image of pairs shows; "" for one that cannot be read.

    Args:
        pairs: a PairSet, or what `DomainPairs.of` makes.
    """
    hashes, rows = FileHashes(), [row for row, _ in distinct_images(pairs)]
    if isinstance(pairs, DomainPairs):
        return digests_of(pairs.items[row] for row in rows)

    def digest(row: int) -> str:
        try:
            return pairs.content_hash(row, hashes)[:DIGITS]
        except DataError:  # left out of the training as well
            return ""

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        return list(threads.map(digest, rows))


def _part(pairs: Pairs, split: str | None) -> Pairs:
    chosen = pairs if split is None else pairs.split(split)
    if len(chosen):
        return chosen
    name = getattr(pairs, "name", "") or "this set"
    if split is None:
        raise DataError(f"{name}: holds no pairs")
    there = ", ".join(getattr(pairs, "splits", ())) or "none is marked"
    raise DataError(f"--split {split}: {name} has no such pairs; give one of its splits: {there}")


def _paired(before: RetrievalScores, after: RetrievalScores) -> dict[str, dict[str, float]]:
    tests = {}
    for side in DIRECTIONS:
        old, new = before.rankings[side], after.rankings[side]
        if before.ids != after.ids or not torch.equal(old.query, new.query):
            raise DataError("the scores before and after are of different images or texts; evaluate both on one set")
        unit = after.units.get(side)
        tests[side] = vars(mcnemar(old.best == 1, new.best == 1, unit))
        if unit is not None and len(unit.unique()) < len(unit):
            tests[side]["exchanged"] = "images" if after.groups is None else "groups"
    return tests
