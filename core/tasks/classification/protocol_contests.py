"""Comparisons under protocols that do not test each fit on the test images of its own data set."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...contracts.adapter import Adapter
from ...contracts.features import FeatureSet
from ...contracts.recipe import Recipe
from ...contracts.task import Contest
from ...registry import load_adapter
from ...runtime.progress import Reporter
from .contest import ZERO_SHOT, ClassificationContest, Tested, as_uncalibrated
from .feature_rows import PreparedFeatures, rows_of_split
from .images import Prepared, Shots
from .scoring import fitted_zero_shot, score_on
from .transfer import Transfer

QUIET = Reporter(quiet=True)


class SourceContest(ClassificationContest):
    """Fits on one data set that others are tested with; each is kept on disk while the comparison runs.

    Args:
        transfer: how they are tested.
        others: as for `ClassificationContest`.
    """

    def __init__(self, transfer: Transfer, recipe: Recipe, prepared, adapters: Mapping[str, Adapter], repeated):
        super().__init__(recipe, prepared, adapters, repeated)
        self.transfer, self.source, self._planned = transfer, self.data, adapters
        self._kept = TemporaryDirectory(prefix="vladapt-fits-")
        self._seconds: dict[Path, float] = {}

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Metrics on the source's own test set."""
        self._check(entry["adapter"])
        return super().score(entry)

    def fit(self, name: str, prepared: Prepared | PreparedFeatures, shots: Shots, seed: int) -> Adapter:
        started = time.perf_counter()
        adapter = super().fit(name, prepared, shots, seed)
        file = self._file(name, self._drawn[0][0], seed)
        adapter.save(file)
        self._seconds[file] = time.perf_counter() - started
        return adapter

    def fitted(self, entry: Mapping[str, Any]) -> tuple[Adapter, float]:
        """The fit of an entry and the seconds it took; made anew where a stopped comparison made it."""
        name, prepared, device = entry["adapter"], self.prepared, self.prepared.classifier.weights.device
        self._check(name)
        file = self._file(name, entry["shots"], entry["seed"])
        if file not in self._seconds:
            self.score(entry)
        return load_adapter(file, prepared.backbone).to(device), self._seconds[file]

    def _check(self, name: str) -> None:
        if name in self._planned and name != ZERO_SHOT:
            self.transfer.check(self._planned[name])

    def _file(self, name: str, shots: int | None, seed: int) -> Path:
        return Path(self._kept.name) / f"{name}-{shots}-{seed}.safetensors"


class TargetContest(Contest):
    """Tests of fits that were made on another data set.

    Args:
        made: the comparison on the source.
        prepared: the target; it shares the source's backbone.
    """

    def __init__(self, made: SourceContest, prepared: Prepared | PreparedFeatures):
        super().__init__(prepared.data.name, list(prepared.notes), deciding=made.deciding, baselines=made.baselines)
        if made.prepared.backbone is not None:
            prepared = replace(prepared, backbone=made.prepared.backbone)
        self.made, self.prepared, self.source = made, prepared, made.source
        self._tested = Tested()

    @cached_property
    def test(self) -> FeatureSet:
        """The target's test images; all of its images where it has no split, as none was learned from."""
        return rows_of_split(self.prepared, "test", everything=True).without_parts()

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        prepared, columns, seconds = self.prepared, None, 0.0
        if entry["adapter"] == ZERO_SHOT:
            adapter = fitted_zero_shot(self.test, prepared.classifier)
            if adapter is None:
                return None
        else:
            fitted, seconds = self.made.fitted(entry)
            adapter, columns = self.made.transfer.onto(fitted, prepared)
        of = (prepared, adapter, self.test, prepared.class_names, None, QUIET)
        scores = score_on(*of, judged=False, columns=columns)
        self._tested.add(entry["adapter"], entry["shots"], scores)
        return {**as_uncalibrated(scores), "seconds": round(seconds, 3)}

    def judged(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each method against zero-shot on the target's test images."""
        return self._tested.judged(entries, self.baselines)
