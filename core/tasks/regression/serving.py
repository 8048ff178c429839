"""A regression run that answers requests with a number per image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...contracts.features import PROJECTED
from ...contracts.items import DomainData, Item
from ...contracts.serving import NumberFacts, Refused, Sample, Served, Serving, Wishes, only_answered
from ...contracts.use import Use
from ...data.unlabelled import images_of, readable
from ...errors import NOT_FINITE, ConfigError, DataError
from ...features.extract import CPU_SIZES, GPU_SIZES, encoder
from .predictions import NumberPredictions
from .predictor import NumberPredictor


@dataclass
class _Source:
    """Of a sample: its item, and the data that load it."""

    item: Item
    data: DomainData


class ServedNumbers(Served):
    """A run.

    Args:
        predictor: of the run.
        use: the run, and how it is used.
        serving: of the server.

    Raises:
        ConfigError: labelled images are to be named.
    """

    def __init__(self, predictor: NumberPredictor, use: Use, serving: Serving):
        if serving.training_ids:
            raise ConfigError("--training-ids: this run names no images that it learned from; omit it")
        if serving.threads is not None:
            torch.set_num_threads(serving.threads)
        self.head, self.name = predictor.head, use.run.path.name
        self._domain, self._task = predictor.domain, predictor.task
        self._towers = predictor.towers or predictor.backbone
        self._encode = encoder(self._towers, PROJECTED, predictor.recipe.amp)
        reading, most = (
            predictor.recipe.reading,
            vars(self._domain.reading_of(predictor.recipe.reading)).get("max_pixels"),
        )
        self._reading = reading if most is None else {**reading, "max_pixels": min(most, serving.max_pixels)}
        intervals = self.head.intervals
        coverage = None if intervals is None or intervals.unbounded else intervals.coverage
        self.facts = NumberFacts(self._task, self.head.kind, [], [], column=self.head.column, coverage=coverage)
        on_cpu = self._towers.device.type == "cpu"
        self.sizes = CPU_SIZES if on_cpu else GPU_SIZES
        self.clock = time.process_time if on_cpu else time.perf_counter

    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        data = readable(images_of(self._domain, files, self._reading))
        samples = [Sample(item.id, _Source(item, data)) for item in data.items]
        return samples, [Refused(*pair) for pair in data.skipped]

    def prepare(self, sample: Sample) -> None:
        """`prepared` is pixels (3, H, W), or those of several pictures (T, 3, H, W)."""
        source = sample.source
        transform = self._domain.of(source.data).transforms(self._towers, False, self._task)
        sample.prepared = transform(source.data.load(source.item))

    def answer(self, samples: Sequence[Sample]) -> None:
        for shape in dict.fromkeys(sample.prepared.shape for sample in samples):
            some = [sample for sample in samples if sample.prepared.shape == shape]
            unit = F.normalize(self._encode(torch.stack([sample.prepared for sample in some])).cpu().float(), dim=1)
            numbers, half = self.head.answers(unit), self.head.half_widths(unit)
            reaches = [None] * len(some) if half is None else half.tolist()
            for sample, number, reach in zip(some, numbers, reaches):
                sample.answer = (float(number), reach) if bool(number.isfinite()) else DataError(NOT_FINITE)

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        samples, skipped = only_answered(samples, skipped)
        numbers, reaches = zip(*(sample.answer for sample in samples))
        half = None if None in reaches else reaches
        made = NumberPredictions(self.head.column, [each.id for each in samples], numbers, half)
        return {"run": self.name, "predictions": made.rows(), "skipped": [[each.id, each.reason] for each in skipped]}

    def examples(self, count: int) -> list[Sample]:
        return []
