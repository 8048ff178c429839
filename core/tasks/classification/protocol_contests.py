"""Comparisons under protocols that do not test each fit on the test images of its own data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ...contracts.adapter import Adapter
from ...contracts.features import FeatureSet
from ...contracts.prepared import PreparedData, Shots
from ...contracts.task import Axes, Contest
from ...data.splits import MADE_ANEW
from ...data.test_batches import Tasks
from ...errors import CapabilityError, ConfigError
from ...features.batches import logits_of
from ...registry import adapter_class, load_adapter
from ...runtime.progress import Reporter
from .contest import ClassificationContest, RepeatedSplits, Tested, as_uncalibrated
from .feature_rows import rows_of_split
from .fitting import fit_adapter
from .protocols import ZERO_SHOT, Protocol
from .resources import check_needs
from .scoring import score_on
from .transfer import Transfer

QUIET = Reporter(quiet=True)


def contest_kind(protocol: Protocol, axes: Axes) -> Callable[..., ClassificationContest]:
    """What makes the comparison on one data set under a protocol."""
    if protocol.transfer is not None:
        return partial(SourceContest, protocol.transfer)
    return partial(TasksContest, protocol.tasks, axes.tasks) if protocol.tasks else ClassificationContest


def check_contest_protocol(
    protocol: Protocol, axes: Axes, sources: int, adapters: Callable[[], Mapping[str, Adapter]]
) -> None:
    """Raise the error of a comparison that its protocol rules out.

    Args:
        sources: how many data sets are given.
        adapters: gives name -> adapter, not fitted, of the methods that are compared.
    """
    if axes.tasks is not None and not protocol.tasks:
        raise ConfigError("--tasks: for --protocol transductive only; omit it")
    if not (protocol.transfer or protocol.tasks):
        return
    for key in ("splits", "folds"):
        if getattr(axes, key) is not None:
            raise ConfigError(f"--{key}: --protocol {protocol.name} has its own test images; omit it")
    if protocol.transfer is None:
        return
    if sources < 2:
        raise ConfigError(
            f"--protocol {protocol.name}: give --data at least twice; the first set is fitted on, the others are tested"
        )
    refused: dict[str, CapabilityError] = {}
    planned = adapters()
    for name, adapter in planned.items():
        try:
            protocol.transfer.check(adapter)
        except CapabilityError as error:
            refused[name] = error
    if len(refused) == len(planned):
        raise next(iter(refused.values()))


class SourceContest(ClassificationContest):
    """Fits on one data set that others are tested with; each is kept on disk while the comparison runs.

    Args:
        transfer: how they are tested.
        others: as for `ClassificationContest`.
    """

    at_once = ""

    def __init__(self, transfer: Transfer, repeated: RepeatedSplits, *of: Any, **how: Any):
        super().__init__(repeated, *of, **how)
        self.transfer, self.source = transfer, self.data
        self.notes = [note for note in self.notes if note not in repeated.notes]
        self._kept = TemporaryDirectory(prefix="vladapt-fits-")
        self._seconds: dict[Path, float] = {}

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Metrics on the source's own test set."""
        self._check(entry["adapter"])
        return super().score(entry)

    def fit(self, name: str, prepared: PreparedData, shots: Shots, seed: int) -> Adapter:
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
        if name in self.adapters and name != ZERO_SHOT:
            self.transfer.check(self.adapters[name])

    def _file(self, name: str, shots: int | None, seed: int) -> Path:
        return Path(self._kept.name) / f"{name}-{shots}-{seed}.safetensors"


class TargetContest(Contest):
    """Tests of fits that were made on another data set.

    Args:
        made: the comparison on the source.
        prepared: the target; it shares the source's backbone.

    Raises:
        CapabilityError: features files of two backbones.
    """

    def __init__(self, made: SourceContest, prepared: PreparedData):
        notes = _without_splits(prepared.notes)
        super().__init__(prepared.data.name, notes, deciding=made.deciding, baselines=made.baselines)
        if made.prepared.backbone is not None:
            prepared = replace(prepared, backbone=made.prepared.backbone)
        elif made.prepared.made_by and prepared.made_by and made.prepared.made_by != prepared.made_by:
            raise CapabilityError(
                f"{prepared.path}: made by backbone {prepared.made_by}, {made.prepared.path} by "
                f"{made.prepared.made_by}; give features of one backbone"
            )
        self.made, self.prepared, self.source = made, prepared, made.source
        self._tested = Tested()

    def left_out(self) -> list[tuple[str, str]]:
        return [*self.prepared.data.skipped, *self.prepared.skipped]

    @cached_property
    def test(self) -> FeatureSet:
        """The target's test images; all of its images where it has no split, as none was learned from."""
        return rows_of_split(self.prepared, "test", everything=True).without_parts()

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        prepared, columns, seconds = self.prepared, None, 0.0
        if entry["adapter"] == ZERO_SHOT:
            adapter = self.made.zero_shot(prepared, self.test)
            if adapter is None:
                return None
        else:
            fitted, seconds = self.made.fitted(entry)
            adapter, columns = self.made.transfer.onto(fitted, prepared)
        of = (prepared, adapter, self.test, prepared.class_names, None, QUIET)
        scores = score_on(*of, columns=columns)
        self._tested.add(entry["adapter"], entry["shots"], scores)
        return {**as_uncalibrated(scores), "seconds": round(seconds, 3)}

    def judged(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each method against zero-shot on the target's test images."""
        return self._tested.judged(entries, self.baselines)


class TasksContest(ClassificationContest):
    """Test images, without labels, in tasks of several kinds: methods that read them all at once are fitted on each
    batch, others once.

    Args:
        kinds: of tasks.
        count: how many of each are drawn; None for as many as are published.
        others: as for `ClassificationContest`.
    """

    at_once = "all images of a batch at once"

    def __init__(self, kinds: Sequence[Tasks], count: int | None, repeated: RepeatedSplits, *of: Any, **how: Any):
        super().__init__(repeated, *of, **how)
        self.kinds = {kind.name: kind for kind in kinds}
        self.count, self.notes = count, [note for note in _without_splits(self.notes) if note not in repeated.notes]
        self._answers: dict[tuple[str, int], np.ndarray] = {}
        if count is not None:
            published = max(kind.count for kind in kinds)
            self.notes.append(f"{count} tasks of each kind; published results use {published}, fewer for streams")

    @cached_property
    def test(self) -> FeatureSet:
        """The test images; all images where the data has no split, as none is learned from."""
        return rows_of_split(self.prepared, "test", everything=True).without_parts()

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """The mean over tasks of one kind of the mean accuracy of their batches."""
        name, kind = entry["adapter"], self.kinds[entry["tasks"]]
        self._check(name)
        labels = self.test.labels.cpu().numpy()
        started, accuracies, batches = time.perf_counter(), [], 0
        for task in kind.drawn(labels, self.count or kind.count, entry["seed"]):
            right = [self._answers_of(name, rows, entry["seed"]) == labels[rows] for rows in task]
            accuracies.append(float(np.mean([of.mean() for of in right])))
            batches += len(task)
        setting = None if self.setting is None else replace(self.setting, tasks=kind.name)
        result = None if setting is None else setting.result(name, entry["shots"])
        return {
            "accuracy": float(np.mean(accuracies)),
            "accuracy_std": float(np.std(accuracies)),
            "task_count": len(accuracies),
            "seconds": round((time.perf_counter() - started) / batches, 4),
            **({} if result is None else result.columns),
        }

    def judged(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Nothing: tasks share their images, so that they are no sample of independent ones."""
        return []

    def _check(self, name: str) -> None:
        adapter = self.adapters.get(name)
        if self.prepared.data.kind == "multilabel":
            raise CapabilityError(
                f"--protocol {self.protocol.name}: for one label per image, and these images have several"
            )
        if adapter is not None and not adapter.label_free:
            raise CapabilityError(
                f"--protocol {self.protocol.name}: adapter '{name}' learns from labelled images, and there are none; "
                "give methods that need none, for instance stat-a,transclip"
            )

    def _answers_of(self, name: str, rows: np.ndarray, seed: int) -> np.ndarray:
        """Classes of some test images."""
        if name in self.adapters and adapter_class(name).transductive:
            return self._fitted_on(name, rows, seed)
        if (name, seed) not in self._answers:
            self._answers[name, seed] = self._fitted_on(name, np.arange(len(self.test)), seed)
        return self._answers[name, seed][rows]

    def _fitted_on(self, name: str, rows: np.ndarray, seed: int) -> np.ndarray:
        prepared, test = self.prepared, self.test.select(torch.from_numpy(rows))
        if name == ZERO_SHOT:
            adapter = self.zero_shot(prepared, test)
            if adapter is None:
                raise CapabilityError("zero-shot: these features have no class texts")
        else:
            adapter = deepcopy(self.adapters[name])
            check_needs(prepared, adapter)
            shots = replace(self._draw(prepared, {"shots": 0, "seed": seed}), test=test)
            fit_adapter(adapter, prepared, shots, seed, QUIET)
        return logits_of(adapter, prepared.batches(adapter, test), len(test)).argmax(dim=1).cpu().numpy()


def _without_splits(notes: Sequence[str]) -> list[str]:
    """Notes on data that is tested whole, of which no part is made for training."""
    return [note for note in notes if MADE_ANEW not in note]
