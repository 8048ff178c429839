"""A classification run that answers requests: images of many go through the tower at once, with `predict`'s answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...confidence.calibration import TABLE_COVERAGES
from ...contracts.bags import mean_of_rows
from ...contracts.items import Decoded, DomainData, Item
from ...contracts.serving import (
    CLASSIFYING,
    PATIENT,
    ClassifierFacts,
    NoneReadable,
    Refused,
    Sample,
    Served,
    Serving,
    Wishes,
    only_answered,
    with_parts,
)
from ...contracts.task import Task
from ...contracts.use import Use
from ...data.sent_bags import SentBag
from ...data.unlabelled import images_of, readable
from ...errors import NOT_FINITE, ConfigError, DataError
from ...explanation.deciding_tiles import attended_tiles
from ...explanation.evidence import LabelledImages
from ...features.batches import PLAIN
from ...features.extract import CPU_SIZES, GPU_SIZES
from ...features.store import FeatureStore
from ...runs.sections import worded, words_of_task
from ...runtime.progress import Reporter
from .predictions import check_wishes
from .predictor import Predictor

OF_PIXELS = PLAIN | {"pre_projection"}
"""What pixels that were prepared for the tower are enough for."""


@dataclass
class _Source:
    """Of a sample: its item, the data that load it, and its place in its file."""

    item: Item
    data: DomainData
    place: dict[str, Any]


@dataclass
class _File:
    """Of a bag: the file that it came in, of which no place is known."""

    path: Path
    place: dict[str, Any] = field(default_factory=dict)


class ServedRun(Served):
    """A run.

    Args:
        use: the run, and how it is used.
        task: with the domain that reads its images.
        serving: of the server.

    Raises:
        CapabilityError: the run's method reads all images together, or the run has no backbone.
        DataError: the run is damaged.
    """

    def __init__(self, use: Use, task: Task, serving: Serving):
        if serving.threads is not None:
            torch.set_num_threads(serving.threads)
        self.predictor = self._loaded(use, task)
        self.use, self.name = use, use.run.path.name
        adapter, calibration = self.predictor.adapter, self.predictor.calibration
        self.predictor.check_one_by_one("an answer would depend on other requests; use vladapt predict")
        self._take_samples(task, serving)
        self._labelled, self._ids = LabelledImages.load(use.run.path), serving.training_ids
        self.facts = ClassifierFacts(
            task=task.name,
            adapter=adapter.name,
            class_names=list(adapter.class_names_),
            options=CLASSIFYING,
            multilabel=bool(adapter.multilabel_),
            coverages=[] if calibration is None else list(TABLE_COVERAGES),
            unlike=calibration is not None and calibration.unlike is not None and calibration.unlike.known,
            labelled=0 if self._labelled is None else len(self._labelled),
        )

    def _loaded(self, use: Use, task: Task) -> Predictor:
        return Predictor.of_use(use, task)

    def _take_samples(self, task: Task, serving: Serving) -> None:
        """How samples are read, and how many at once."""
        reading, adapter = self.predictor.recipe.reading, self.predictor.adapter
        if (most := vars(task.domain.reading_of(reading)).get("max_pixels")) is not None:
            reading = {**reading, "max_pixels": min(most, serving.max_pixels)}
        self._reading = reading
        self._towers = adapter.adapted(self.predictor.backbone)
        self._store = FeatureStore(keep=False)
        self._of_pixels = adapter.at_predict <= OF_PIXELS
        on_cpu = self.predictor.backbone.device.type == "cpu"
        self.sizes = CPU_SIZES if on_cpu else GPU_SIZES
        self.clock = time.process_time if on_cpu else time.perf_counter

    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        data = readable(images_of(self.predictor.domain, files, self._reading))
        samples = [Sample(item.id, _Source(item, data, {})) for item in data.items]
        return samples, [Refused(*pair) for pair in data.skipped]

    def prepare(self, sample: Sample) -> None:
        """`prepared` is pixels (3, H, W) for the tower; None where the method, or a sample of parts, needs more: such
        samples are decoded when they are answered, since decoded ones would take too much memory while they wait."""
        source = sample.source
        source.place = self.predictor.domain.placed(source.item)
        if self._of_pixels and source.data.part_views is None:
            pixels = self._transform(source.data)(source.data.load(source.item))
            sample.prepared = pixels if pixels.ndim == 3 else None

    def _transform(self, data: DomainData) -> Callable[[Decoded], torch.Tensor]:
        """How images of the data become inputs of the tower."""
        return self.predictor.domain.of(data).transforms(self._towers, False, self.predictor.task.name)

    def answer(self, samples: Sequence[Sample]) -> None:
        for ready in (True, False):
            if chosen := [sample for sample in samples if (sample.prepared is not None) == ready]:
                self._answer(chosen, ready)

    def _answer(self, samples: Sequence[Sample], ready: bool) -> None:
        by_id = {sample.id: sample for sample in samples}
        errors: dict[str, DataError] = {}

        def load(item: Item) -> Decoded:
            try:
                return by_id[item.id].source.data.load(item)
            except DataError as error:  # of a limit, or of damage
                errors[item.id] = error
                raise

        data = replace(samples[0].source.data, items=[sample.source.item for sample in samples], load=load)
        pixels = {sample.id: sample.prepared for sample in samples} if ready else None
        images = self.predictor.images(self.use, data, Reporter(quiet=True), store=self._store, ready=pixels)
        try:
            logits, features, skipped = images.logits(self.predictor.adapter)
        except NoneReadable as error:
            skipped = error.skipped
        else:
            for id_, *rows in zip(features.ids, logits.detach().cpu(), features.features.detach().cpu()):
                finite = bool(rows[0].logsumexp(0).isfinite())
                by_id[id_].answer = tuple(rows) if finite else DataError(NOT_FINITE)
        for id_, reason in skipped:
            by_id[id_].answer = errors.get(id_) or DataError(reason)

    def check(self, wishes: Wishes) -> None:
        super().check(wishes)
        use = self.use.asking(wishes.of_use)
        check_wishes(use, self.predictor.task, self.predictor.adapter)
        if use.per_patient is not None:
            self.predictor.patients(use.per_patient, use.threshold)
            if wishes.nearest is not None:
                raise ConfigError("--nearest: labelled images are near to an image; omit it, or --per-patient")
        if wishes.nearest is not None and wishes.nearest < 1:
            raise ConfigError(f"--nearest {wishes.nearest}: give a number of labelled images, 1 or more")
        if wishes.nearest is not None and self._labelled is None:
            raise ConfigError("--nearest: the run keeps none of the images that it learned from; fit again")

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        samples, skipped = only_answered(samples, skipped)
        logits, features = (torch.stack(rows) for rows in zip(*(sample.answer for sample in samples)))
        made = self.predictor.predictions(
            self.use.asking(wishes.of_use),
            [sample.id for sample in samples],
            logits,
            features,
            [],
            [sample.source.place for sample in samples],
            [PATIENT] * len(samples),
        )
        rows = made.rows()
        if wishes.nearest is not None:
            for row, examples in zip(rows, self._labelled.nearest(features, wishes.nearest)):
                shown = [each if self._ids else replace(each, id=str(each.row)) for each in examples]
                row["explanation"] = {"examples": [each.to_dict() for each in shown]}
        answer = {"run": self.name, "predictions": rows, "skipped": [[each.id, each.reason] for each in skipped]}
        words = words_of_task(self.predictor.task, self.use.run.info.recipe.get("data") or {})
        return {**answer, "notes": [worded(note, words) for note in made.notes]} if made.notes else answer

    def examples(self, count: int) -> list[Sample]:
        if not self._of_pixels or self._towers.channels is not None:
            return []
        items = [Item(f"example {number}", Path("example")) for number in range(count)]
        data = DomainData(items, (), load=lambda item: np.zeros((1, 1, 3), np.uint8))
        pixels = self._transform(data)(np.full((64, 64, 3), 127, np.uint8))
        if pixels.ndim != 3:
            return []
        return [Sample(item.id, _Source(item, data, {}), pixels) for item in items]


class ServedBags(ServedRun):
    """A run on bags of tiles: it takes files with the features of a sample's parts, never the slides or HDF5 that
    they come from. One is read at a time, when it is answered."""

    sizes = (1,)

    def _loaded(self, use: Use, task: Task) -> Predictor:
        return Predictor.of_bags(use, task)

    def _take_samples(self, task: Task, serving: Serving) -> None:
        self._most_bytes, self._device = serving.max_bytes, self.predictor.device
        if self._device.type != "cpu":
            self.clock = time.perf_counter

    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        return [Sample(str(file), _File(file)) for file in files], []

    def prepare(self, sample: Sample) -> None:
        adapter = self.predictor.adapter
        sample.prepared = SentBag(sample.source.path, adapter.dim_, self._most_bytes, adapter.magnifications)

    def answer(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            try:
                sample.answer = self._answered(sample)
            except DataError as error:
                sample.answer = error

    @torch.no_grad()
    def _answered(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """(C,) logits, and the mean (D,) of the parts."""
        adapter = self.predictor.adapter
        scales, coords = sample.prepared.read()
        rows = torch.from_numpy(scales[0])
        bag, *coarse = (torch.from_numpy(each).to(self._device) for each in scales)
        logits = adapter.bag_logits((bag, *coarse) if coarse else bag)
        if not logits.logsumexp(0).isfinite():
            raise DataError(NOT_FINITE)
        calibration, logits = self.predictor.calibration, logits.cpu()
        likely = logits if calibration is None else calibration.probabilities(logits[None])[0]
        tiles = attended_tiles(adapter, bag, int(likely.argmax()))  # leaving parts out would take minutes
        sample.parts = None if tiles is None else tiles.rows(coords)
        return logits, mean_of_rows(rows)

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        return with_parts(super().rows(samples, skipped, wishes), samples)

    def examples(self, count: int) -> list[Sample]:
        return []
