"""Towers trained to find a person again, scored before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import (
    Adapter,
    Backbone,
    Decoded,
    DomainData,
    FitReport,
    Item,
    height_and_width,
)
from ....core.data import FileHashes, assign_splits, check_tolerated
from ....core.errors import DataError
from ....core.registry import build_adapter
from ....core.runtime import Reporter
from ....core.tasks import FittedTowers, Training
from ....core.training import Remembered
from ..pedestrian import cameras_of, identity_numbers
from ..random_erasing import RandomErasing
from ..samplers import IdentityBatches
from ..transforms import PedestrianTransform
from .protocol import SearchedSplit
from .scoring import ReidScores, Reranking, evaluate_reid, flat_reid_scores

BATCH_SIZE = 64


@dataclass(frozen=True)
class IdentitySource:
    """Pictures labelled by who is in them, for a training; nothing is said of them.

    Args:
        items: of people who are known.
        load: item -> decoded image.
    """

    items: Sequence[Item]
    load: Callable[[Item], Decoded]
    labels: Sequence[int]

    texts: ClassVar[frozenset[str]] = frozenset()
    labelled: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def of(cls, data: DomainData, split: str) -> IdentitySource:
        """The pictures of a split, its identities numbered from 0; distractors teach nothing."""
        known = [item for item in data.split(split) if item.target.identity is not None]
        return cls(known, Remembered(data.load), identity_numbers(known))

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        """A number: names of files of people are not told."""
        return f"training picture {row + 1}"

    def image(self, row: int) -> Decoded:
        return self.load(self.items[row])

    def label(self, row: int) -> int:
        return self.labels[row]

    def image_id(self, row: int) -> int:
        return row


@dataclass(frozen=True)
class ReidData:
    """People in their splits.

    Args:
        data: with all splits.
        options: of the task.
    """

    data: DomainData
    options: Mapping[str, Any]

    def protocol(self, split: str) -> SearchedSplit:
        """Queries and gallery of a split; "all" is every picture.

        Raises:
            DataError: no pictures there, or nothing to retrieve.
        """
        items = self.data.items if split == "all" else self.data.split(split)
        if not items:
            raise DataError(
                f"{self.data.name}: no pictures in split '{split}'; give more people, or mark some as {split}"
            )
        return SearchedSplit.of(items, self.options["camera_rule"], self.data.name)

    @property
    def reranking(self) -> Reranking | None:
        options = self.options
        if not options["rerank"]:
            return None
        return Reranking(options["rerank_k1"], options["rerank_k2"], options["rerank_weight"])

    def transform(self, backbone: Backbone, train: bool) -> PedestrianTransform:
        """The whole picture at the tower's size; for training moved and erased as the options say."""
        options, size = self.options, height_and_width(backbone.image_size)
        erasing = RandomErasing(options["erasing"], fill=options["erasing_fill"]) if options["erasing"] else None
        how = {"flip": options["flip_probability"], "pad": options["pad"], "erasing": erasing}
        return PedestrianTransform(size, tuple(backbone.image_mean), tuple(backbone.image_std), train, **how)


def divided_people(data: DomainData, options: Mapping[str, Any], split_seed: int, *, whole: bool = False) -> ReidData:
    """The people of a data set, each in one split: 20 % of those who train are val where the data have none.

    Args:
        options: of the task.
        whole: data without splits are all test: where nothing is trained, and of other data that a run is scored on.

    Raises:
        DataError: nothing usable there. ConfigError: an option does not apply.
    """
    check_tolerated(data)
    divided = any(item.split for item in data.items)
    if whole and not divided:
        return ReidData(data.with_items([item.with_(split="test") for item in data.items]), options)
    if data.items and not divided:
        people = {item.target.identity for item in data.items} - {None}
        if len(people) < 3:
            raise DataError(f"{data.name}: {len(people)} identities, and train, val and test need one each; give more")
    target_of = {item.id: item.target for item in data.items}
    plain = data.with_items([item.with_(target=replace(item.target, attributes=None)) for item in data.items])
    parts = assign_splits(plain, seed=split_seed, hashes=FileHashes())  # by people, whatever they wear
    return ReidData(parts.with_items([i.with_(target=target_of[i.id]) for i in parts.items]), options)


def reid_scores(
    backbone: Backbone,
    people: ReidData,
    protocol: SearchedSplit,
    training: Training,
    reporter: Reporter | None = None,
    **how: Any,
) -> ReidScores:
    """Re-identification on a split. `how`: further arguments of `evaluate_reid`."""
    how = {"amp": training.amp, "workers": training.workers, "reporter": reporter, **how}
    return evaluate_reid(backbone, people.data, protocol, people.transform(backbone, False), **how)


def train_on_people(
    training: Training, people: ReidData, backbone: Backbone, reporter: Reporter, folder: Path | None
) -> tuple[Adapter | None, FitReport, Backbone]:
    """(the fitted adapter, what it chose, the backbone with its towers); of zero-shot None and the backbone itself.

    Args:
        folder: of checkpoints, or None.

    Raises:
        DataError: fewer than two people train.
    """
    adapter = training.adapter
    if adapter is None:
        return None, FitReport(training.name), backbone
    validate, note = _validation(training, people)
    if validate is None and not training.chooses:
        adapter = build_adapter(adapter.name, **{**adapter.options, "select": "last"})
    source = IdentitySource.of(people.data, "train")
    if not len(source):
        raise DataError(
            f"{people.data.name}: no training picture names its person; give identities, or --adapter zero-shot"
        )
    report = replace(training, adapter=adapter).fit_pairs(
        source,
        backbone,
        reporter,
        folder,
        of=f"{len(source)} pictures of {1 + max(source.labels)} people",
        view=people.transform(backbone, True),
        plan=planned_people(people, source, adapter.options["batch_size"], training.seed),
        validate=validate,
    )
    return adapter, replace(report, notes=[*report.notes, *note]), adapter.adapted(backbone)


def planned_people(people: ReidData, source: IdentitySource, batch_size: int, seed: int) -> IdentityBatches:
    """Which pictures each step sees.

    Raises:
        DataError: the batch is no multiple of the pictures of each person, or one person trains.
    """
    pictures, sampler = people.options["pictures"], people.options["sampler"]
    if batch_size % pictures:
        raise DataError(
            f"--batch-size {batch_size}: not a multiple of the {pictures} pictures of each person in a batch; give a "
            "multiple, or --set pictures=K"
        )
    cameras = cameras_of(source.items)
    return IdentityBatches(source.labels, cameras, batch_size // pictures, pictures, sampler, seed)


def _validation(training: Training, people: ReidData) -> tuple[Callable[[Backbone], float] | None, list[str]]:
    """mAP of a backbone on val, and a note where nothing can be retrieved there."""
    if not people.data.split("val"):
        return None, ["Nothing was chosen on val, which has no people; the last epoch is kept."]
    try:
        protocol = people.protocol("val")
    except DataError as error:
        return None, [f"Nothing was chosen on val; the last epoch is kept: {error}."]

    def score(towers: Backbone) -> float:
        return reid_scores(towers, people, protocol, training).ranking.metrics()["map"]

    return score, []


def fitted_people(
    training: Training, people: ReidData, load: Callable[[], Backbone], reporter: Reporter, folder: Path | None
) -> FittedTowers:
    """Score, train, score again; re-ranking, where it is asked for, of the last score.

    Args:
        load: gives the backbone.
    """
    started = time.monotonic()
    protocol = people.protocol("test")  # what cannot be retrieved is told before anything is computed
    backbone = load()
    before = None if training.adapter is None else reid_scores(backbone, people, protocol, training, reporter)
    adapter, report, towers = train_on_people(training, people, backbone, reporter, folder)
    after = reid_scores(towers, people, protocol, training, reporter, reranking=people.reranking)
    metrics = flat_reid_scores(before, after, people.data.class_names, people.reranking)
    notes = [*people.data.notes, *report.notes]
    return FittedTowers(adapter, report, backbone, towers, before, after, metrics, notes, time.monotonic() - started)
