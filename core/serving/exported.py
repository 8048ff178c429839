"""An ONNX export that answers requests, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..contracts.serving import (
    CLASSIFYING,
    PATIENT,
    ClassifierFacts,
    Refused,
    Sample,
    Served,
    Serving,
    Wishes,
    only_answered,
    with_parts,
)
from ..data.images import decode_picture
from ..data.sent_bags import SentBag
from ..errors import NOT_FINITE, ConfigError, DataError
from ..export.folder import BAG, COARSE, PIXELS, Session, library, read_export, read_facts, script_picture
from ..runtime.reading import read_bytes

SIZES = (1, 4, 8, 16, 32)
TOP = 3
NOT_EXPORTED = ("set_method", "max_error", "nearest")
"""Wishes that need what a run holds beside its model."""


class ServedPictures(Served):
    """An export with a graph from pictures, prepared as predict.py does. A kind sets `_script`, `_facts`, `_session`,
    `_max_pixels` and what `Served` asks for."""

    sizes: Sequence[int] = SIZES
    _script: Any
    _facts: Mapping[str, Any]
    _session: Session
    _max_pixels: int

    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        return [Sample(str(file), file) for file in files], []

    def prepare(self, sample: Sample) -> None:
        picture = decode_picture(read_bytes(sample.source), sample.id, self._max_pixels)
        sample.prepared = self._script.pixels(script_picture(picture), self._facts["preprocessing"])  # (1, 3, H, W)

    def examples(self, count: int) -> list[Sample]:
        grey = script_picture(np.full((64, 64, 3), 127, np.uint8))
        pixels = self._script.pixels(grey, self._facts["preprocessing"])
        return [Sample(f"example {number}", None, pixels) for number in range(count)]


class ServedExport(ServedPictures):
    """The folder that `vladapt export` wrote.

    Raises:
        DataError: it is damaged. CapabilityError: it has no graph from pictures to classes, or onnxruntime is missing.
    """

    graph: ClassVar = PIXELS

    def __init__(self, folder: Path, serving: Serving):
        library("onnxruntime")
        from ..export import standalone

        self._script, self._facts = standalone, read_facts(folder)
        self._session = Session(folder / self._facts["graphs"][self.graph], serving.threads)
        self._max_pixels, self._max_bytes = serving.max_pixels, serving.max_bytes
        self.name = str(self._facts.get("run", folder.name))
        self._coverages = {float(text): text for text in self._facts["coverage"]}
        self.facts = ClassifierFacts(
            task=str(self._facts.get("task", "")),
            adapter=str(self._facts.get("adapter", "")),
            class_names=self._facts["class_names"],
            options=[name for name in CLASSIFYING if name not in NOT_EXPORTED],
            multilabel=self._facts["multilabel"],
            coverages=sorted(self._coverages),
            unlike=self._facts.get("unlike_beyond") is not None,
        )

    def answer(self, samples: Sequence[Sample]) -> None:
        found = self._session(pixels=np.concatenate([sample.prepared for sample in samples]))
        distances = found.get("distance", [None] * len(samples))
        for sample, logits, distance in zip(samples, found["logits"], distances):
            finite = np.isfinite(logits).all()
            sample.answer = (logits, distance) if finite else DataError(NOT_FINITE)

    def check(self, wishes: Wishes) -> None:
        """Sets of the coverages that were exported, and any number of classes."""
        if unknown := next((name for name in NOT_EXPORTED if getattr(wishes, name) is not None), None):
            raise ConfigError(f"--{unknown.replace('_', '-')}: an export cannot do that; serve the run")
        super().check(wishes)
        of_patient = self._facts.get("per_patient", {}).get("how")
        if wishes.per_patient is not None and wishes.per_patient != of_patient:
            cure = f"give {of_patient}" if of_patient else "serve the run, or export it with --per-patient"
            raise ConfigError(f"--per-patient {wishes.per_patient}: this export cannot do that; {cure}")
        if wishes.top is not None and wishes.top < 1:
            raise ConfigError(f"--top {wishes.top}: give a number of classes, 1 or more")
        if wishes.threshold is not None and not (self._facts["multilabel"] or self._facts.get("finding")):
            raise ConfigError("--threshold: for two classes or several labels; omit it")
        if wishes.threshold is not None and not 0 <= wishes.threshold <= 1:
            raise ConfigError(f"--threshold {wishes.threshold}: give a probability between 0 and 1")
        if wishes.coverage is not None and wishes.coverage not in self._coverages:
            known = ", ".join(map(str, sorted(self._coverages))) or "none: the run is not calibrated"
            raise ConfigError(f"--coverage {wishes.coverage}: the export has {known}")
        if wishes.coverage_per not in (None, "all", *self._facts.get("coverage_per", ())):
            raise ConfigError(f"--coverage-per {wishes.coverage_per}: the export has no such sets; omit it")

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        samples, skipped = only_answered(samples, skipped)
        top = wishes.top or TOP
        coverage = None if wishes.coverage is None else self._coverages[wishes.coverage]
        how = {"top": top, "coverage": coverage, "per": wishes.coverage_per or "all", "threshold": wishes.threshold}
        if wishes.per_patient is None:
            rows = [self._script.row_of(each.id, *each.answer, self._facts, **how) for each in samples]
        else:
            logits = np.stack([each.answer[0] for each in samples])
            rows = [self._script.patient_row(PATIENT, [each.id for each in samples], logits, self._facts, **how)]
        return {
            "run": self.name,
            "predictions": rows,
            "skipped": [[each.id, each.reason] for each in skipped],
        }


class ExportedBags(ServedExport):
    """The same of one that takes bags: files with the features of a sample's parts. One is read at a time, when it is
    answered."""

    sizes = (1,)
    graph: ClassVar = BAG

    def __init__(self, folder: Path, serving: Serving):
        super().__init__(folder, serving)
        from ..export.scripts.bags import deciding

        self._deciding = deciding

    def prepare(self, sample: Sample) -> None:
        sample.prepared = SentBag(
            sample.source, self._facts["width"], self._max_bytes, self._facts.get("magnifications", 1)
        )

    def answer(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            try:
                scales, coords = sample.prepared.read()
            except DataError as error:
                sample.answer = error
                continue
            outputs = self._session(**dict(zip((BAG, COARSE), scales)))
            logits, distance = outputs["logits"][0], outputs.get("distance", [None])[0]
            sample.answer = (logits, distance) if np.isfinite(logits).all() else DataError(NOT_FINITE)
            if "attention" in outputs:
                sample.parts = self._deciding(logits, outputs["attention"], coords)

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        return with_parts(super().rows(samples, skipped, wishes), samples)

    def examples(self, count: int) -> list[Sample]:
        return []


def has_bags(folder: Path) -> bool:
    """Whether an export takes the features of a sample's parts."""
    graphs = read_export(folder).get("graphs")
    return isinstance(graphs, dict) and BAG in graphs
