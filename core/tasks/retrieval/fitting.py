"""Towers trained on image-text pairs, scored by how images and texts find each other.

Pairs come from the domain, where it has the task, else from whatever `read_pairs` reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.images import CropTransform
from ...contracts.items import DomainData, Questions
from ...contracts.pair_head import PairHead, PairParts
from ...contracts.sources import NamedSource, SourceOptions
from ...data.file_hashes import FileHashes
from ...data.pairs.captions import CaptionSampler
from ...data.pairs.joined_pairs import JoinedPairs
from ...data.pairs.pair_splits import held_out_elsewhere, left_out, without_divided_copies
from ...data.pairs.reading import read_pairs
from ...data.splits import assign_splits
from ...data.verify import check_skipped, check_tolerated
from ...errors import CapabilityError, DataError
from ...features.pair_files import load_pairs
from ...features.store import FeatureStore
from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...runtime.progress import Reporter
from ...training.batches import BatchPlan
from ...training.log import FILE as LOG
from ...training.log import read_log
from ...training.mixing import MixedBatches, Mixture, mixture_of, names_of
from ...training.sources import MixedSource, PairSource
from ..tower_training.fitted import ZERO_SHOT, FittedTowers, Training
from .encoding import PairEncoding, parts_of_pairs
from .scoring import DomainPairs, RetrievalScores, before_and_after, evaluate_retrieval, scores_of_sources
from .source_scores import KEY as SOURCES
from .source_scores import source_rows


@dataclass(frozen=True)
class RetrievalData:
    """Pairs in their splits, and how their images become pixels.

    Args:
        pairs: a PairSet, or a domain's captioned items.
        name, licence: of the set.
        transform: (backbone, train) -> the transform.
        skipped, notes: of the reading.
        reading: options of the reader that were computed on these data and hold for new images too.
        teaching: (pairs of the train split) -> the pairs that a training sees; by default these.
        by_label: all images and texts of one label belong together, as those of one person; else an image and its own
            texts.
        plan: (those pairs, samples of a batch, seed) -> which of them each step sees; None: all, in an order drawn
            anew in each epoch.
        chosen_by: directions whose mean R@1 on val chooses an epoch.
        captions: seed -> which of an image's texts a step of the training sees.
        questions: that are asked of the test images; None: none.
        strong_view: backbone -> how an image is augmented for losses that ask for strong views; None: as SimCLR does.
        dual_softmax: also score with a dual softmax.
        flip: whether half of the training images are mirrored, where their transform mirrors any.
        mixture: how samples are drawn where the pairs are `JoinedPairs`, of several sources.
    """

    pairs: Any
    name: str
    licence: str
    transform: Callable[[Backbone, bool], Callable]
    skipped: list[tuple[str, str]]
    notes: list[str]
    reading: dict[str, Any] = field(default_factory=dict)
    teaching: Callable[[Any], Any] = lambda pairs: pairs
    by_label: bool = False
    plan: Callable[[Any, int, int], BatchPlan] | None = None
    chosen_by: tuple[str, ...] = (IMAGE_TO_TEXT, TEXT_TO_IMAGE)
    captions: Callable[[int], CaptionSampler] = lambda seed: CaptionSampler(seed=seed)
    questions: Questions | None = None
    strong_view: Callable[[Backbone], Callable[..., Any]] | None = None
    dual_softmax: bool = False
    flip: bool = True
    mixture: Mixture | None = None

    def part(self, split: str) -> Any:
        """The pairs of a split; "all" is every one.

        Raises:
            DataError: there are none.
        """
        pairs = self.pairs if split == "all" else self.pairs.split(split)
        if not len(pairs):
            raise DataError(f"{self.name}: no pairs in split '{split}'; give more pairs, or mark some as {split}")
        return pairs


def read_files(
    path: str, columns: Mapping[str, str], options: Mapping[str, Any], split_seed: int, tolerate: float
) -> RetrievalData:
    """The pairs of plain files.

    Args:
        columns: of the data that losses ask for.
        options: of `read_pairs`.
        tolerate: share of the images that may be unreadable.

    Raises:
        DataError: nothing usable there.
    """
    hashes = FileHashes()
    pairs = read_pairs(path, hashes=hashes, columns=columns, **{"seed": split_seed, **options})
    check_skipped(pairs.skipped, pairs.total, tolerate)
    pairs = without_divided_copies(pairs, hashes)
    return RetrievalData(pairs, pairs.name, pairs.licence, _plain, list(pairs.skipped), list(pairs.notes))


def read_stored_pairs(path: str, split_seed: int) -> RetrievalData:
    """The pairs of a features file, in their splits; what the file does not divide is, whole groups and equal rows at a
    time.

    Raises:
        DataError: as of `load_pairs` and `assign_splits`.
    """
    stored = load_pairs(path)
    data = assign_splits(stored.data(Path(stored.name)), seed=split_seed, hashes=FileHashes())
    notes = [*stored.notes, *data.notes]
    return RetrievalData(DomainPairs.of(data), stored.name, stored.licence, _plain, [], notes)


def divided_pairs(data: DomainData, domain: Domain, task: str, split_seed: int) -> RetrievalData:
    """The pairs of a domain's data, in their splits.

    Raises:
        DataError: nothing usable there. ConfigError: an option does not apply.
    """
    if data.questions is None:  # those need all of their samples, which are then for testing
        data = assign_splits(data, seed=split_seed, hashes=FileHashes())
    check_tolerated(data)

    def transform(backbone: Backbone, train: bool) -> Callable:
        return domain.of(data).transforms(backbone, train, task)

    return RetrievalData(
        DomainPairs.of(data),
        data.name,
        data.licence,
        transform,
        list(data.skipped),
        list(data.notes),
        dict(data.reading),
        questions=data.questions,
    )


def train_on_pairs(
    training: Training, data: RetrievalData, backbone: Backbone, reporter: Reporter, folder: Path | None
) -> tuple[Adapter | None, FitReport, Backbone]:
    """(the fitted adapter, what it chose, the backbone with its towers); of zero-shot None and the backbone itself.

    Args:
        folder: of checkpoints, or None.
    """
    adapter, seed = training.adapter, training.seed
    if adapter is None:
        return None, FitReport(ZERO_SHOT), backbone
    source = _source(data, adapter, seed)
    plan = (
        None
        if data.plan is None or isinstance(source, MixedSource)
        else data.plan(source.pairs, adapter.options["batch_size"], seed)
    )
    has_val = bool(len(data.pairs.split("val")))

    def on_val(towers: Backbone) -> float:
        metrics = scored(towers, data, "val", training, once=False).metrics
        return sum(metrics[direction]["r1"] for direction in data.chosen_by) / len(data.chosen_by)

    def features(towers: Backbone) -> PairParts:
        assert isinstance(source, PairSource)
        how = PairEncoding(
            data.transform(towers, False), None, training.workers, training.amp, reporter, FeatureStore()
        )
        return parts_of_pairs(adapter, towers, source.pairs, how)

    view = data.transform(backbone, True)
    report = training.fit_pairs(
        source,
        backbone,
        reporter,
        folder,
        of=f"{len(source)} pairs",
        view=view if data.flip else CropTransform.unflipped(view),
        strong_view=None if data.strong_view is None else data.strong_view(backbone),
        validate=on_val if has_val else None,
        plan=plan,
        **({"features": features} if on_parts(adapter) else {}),
    )
    return adapter, report, adapter.adapted(backbone)


def _source(data: RetrievalData, adapter: Adapter, seed: int) -> PairSource | MixedSource:
    if data.mixture is None:
        return PairSource(data.teaching(data.part("train")), data.captions(seed))
    if on_parts(adapter):
        raise CapabilityError(f"adapter '{adapter.name}' learns from one data set; give one --data")
    return MixedSource([PairSource(part, data.captions(seed)) for part in data.part("train").parts], data.mixture)


def _check_mixture(data: RetrievalData, adapter: Adapter | None, seed: int) -> None:
    """Raise the ConfigError of several sources whose batches cannot be made, before anything is computed."""
    if adapter is None or data.mixture is None:
        return
    source: Any = _source(data, adapter, seed)
    sizes = [len(part) for part in source.parts]
    MixedBatches(data.mixture, sizes, adapter.options["batch_size"], seed, weights=source.weights)


def joined_sources(
    sources: Sequence[NamedSource], options: SourceOptions, sets: Sequence[RetrievalData]
) -> RetrievalData:
    """Several data sets as one.

    Args:
        sources: as the user names them.
        sets: what was read of each.

    Raises:
        DataError: one has no pairs to train on, or the file of stages cannot be used.
    """
    names = names_of(sources)
    sets = _apart(names, sets)
    trained = [each.part("train") for each in sets]
    weights = [PairSource(part, CaptionSampler()).weights for part in trained]
    sizes = [len(part) if own is None else max(1, round(float(own.sum()))) for part, own in zip(trained, weights)]
    pairs = JoinedPairs(tuple(names), tuple(each.pairs for each in sets))
    licences = ", ".join(dict.fromkeys(each.licence for each in sets))
    skipped = [(f"{name}/{what}", why) for name, each in zip(names, sets) for what, why in each.skipped]
    notes = [f"{name}: {note}" for name, each in zip(names, sets) for note in each.notes]
    mixture = mixture_of(sources, options, names, sizes)
    return replace(
        sets[0], pairs=pairs, name=pairs.name, licence=licences, skipped=skipped, notes=notes, mixture=mixture
    )


def _apart(names: Sequence[str], sets: Sequence[RetrievalData]) -> list[RetrievalData]:
    """The same without what is held out elsewhere."""
    pairs = JoinedPairs(tuple(names), tuple(each.pairs for each in sets))
    apart = np.split(~held_out_elsewhere(pairs, FileHashes()), pairs.offsets[1:-1])
    return [
        replace(each, pairs=each.pairs.select(np.flatnonzero(own)), notes=[*each.notes, left_out(int((~own).sum()))])
        if not own.all()
        else each
        for each, own in zip(sets, apart)
    ]


def scored(
    backbone: Backbone,
    data: RetrievalData,
    split: str,
    training: Training,
    reporter: Reporter | None = None,
    once: bool = True,
) -> RetrievalScores:
    """Retrieval on the pairs of a split.

    Args:
        once: whether it is for a report, which says more than what chooses an epoch.
    """
    return evaluate_retrieval(
        backbone,
        data.part(split),
        split=None,
        amp=training.amp,
        workers=training.workers,
        reporter=reporter,
        transform=data.transform(backbone, False),
        by_label=data.by_label,
        store=FeatureStore() if on_parts(training.adapter) else None,
        sentences=once,
        dual_softmax=once and data.dual_softmax,
        questions=data.questions if once else None,
        tolerate=training.tolerate,
    )


def on_parts(adapter: Adapter | None) -> bool:
    """Whether a method learns pairs on stored features of parts, with which zero-shot is then scored, too."""
    return isinstance(adapter, PairHead)


def fitted_retrieval(
    training: Training,
    data: RetrievalData,
    load: Callable[[], Backbone],
    reporter: Reporter,
    folder: Path | None = None,
) -> FittedTowers:
    """Score, train, score again.

    Args:
        load: gives the backbone.
    """
    started = time.monotonic()
    _check_mixture(data, training.adapter, training.seed)
    backbone = load()
    if training.adapter is not None:
        source, transform = _source(data, training.adapter, training.seed), data.transform(backbone, False)
        training.adapter.check_pairs(source, backbone)
        training.adapter.check_sample(lambda: transform(source.image(0)))
    before = scored(backbone, data, "test", training, reporter)
    adapter, report, towers = train_on_pairs(training, data, backbone, reporter, folder)
    after = scored(towers, data, "test", training, reporter)
    metrics = before_and_after(before, after)
    if data.mixture is not None:
        log = [] if folder is None else [line for file in folder.rglob(LOG) for line in read_log(file)]
        metrics[SOURCES] = _source_rows(data, backbone, before, after, log)
    notes = [*data.notes, *backbone.notes_on_channels(), *report.notes]
    seconds = time.monotonic() - started
    return FittedTowers(adapter, report, backbone, towers, before, after, metrics, notes, seconds)


def _source_rows(
    data: RetrievalData, backbone: Backbone, before: RetrievalScores, after: RetrievalScores, log: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """As of `source_rows`."""
    assert data.mixture is not None
    names = data.mixture.names
    scores = [scores_of_sources(each, backbone, names) for each in (before, after)]
    compared = {name: before_and_after(scores[0].get(name), each) for name, each in scores[1].items()}
    shares = zip(*(stage.shares for stage in data.mixture.stages))
    sizes = [len(part) for part in data.part("train").parts]
    sources = [
        {"name": name, "shares": list(of), "splits": {"train": size}} for name, of, size in zip(names, shares, sizes)
    ]
    return source_rows(sources, log, compared)


def _plain(backbone: Backbone, train: bool) -> Callable:
    return backbone.preprocess(train)
