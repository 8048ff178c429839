"""The pairs of a pre-training, in their splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...contracts.backbone import Backbone
from ...contracts.images import LogPlace
from ...data.pairs.pair_set import PairSet
from ...data.pairs.pair_splits import without_divided_copies
from ...data.verify import FileHashes, check_skipped
from ...errors import DataError
from ...training.log import FILE
from ...training.settings import TrainingSettings
from ...training.train import Task, Trained, train


@dataclass(frozen=True)
class PairSplits:
    """Pairs to train on, and those held out.

    Args:
        whole: all pairs that were read.
        train: to train on.
        val: to choose the epoch on; None where there is none.
        test: to report on; None where there is none.
    """

    whole: PairSet
    train: PairSet
    val: PairSet | None
    test: PairSet | None

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return list(self.whole.skipped)

    @property
    def notes(self) -> list[str]:
        return list(self.whole.notes)

    def val_part(self, most: int) -> PairSet:
        """Val, or so many of its pairs spread evenly."""
        if len(self.val) <= most:
            return self.val
        return self.val.select(np.linspace(0, len(self.val) - 1, most).round().astype(int))

    def facts(self, path: str) -> dict[str, Any]:
        """For run.json and the report."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {
            "name": self.whole.name,
            "path": path,
            "licence": self.whole.licence,
            "images": len(self.whole),
            "texts": int(self.whole.columns.captions.counts[self.whole.rows].sum()),
            "splits": {name: len(part) for name, part in parts.items() if part is not None},
        }


def read_pair_splits(
    path: str, seed: int, options: Mapping[str, Any], columns: Mapping[str, str] | None = None
) -> PairSplits:
    """Read pairs and split them by image, unless the data says how; copies of test images are in test alone.

    Args:
        path: a file or folder, or "sample".
        seed: of the split.
        options: for `read_pairs`.
        columns: that losses ask for, see `read_pairs`.

    Raises:
        DataError: nothing usable there, more than 5 % of it broken, or no pairs to train on.
    """
    from ...data.pairs.reading import read_pairs

    hashes = FileHashes()
    whole = read_pairs(path, hashes=hashes, columns=columns, **{"seed": seed, **options})
    check_skipped(whole.skipped, whole.total)
    whole = without_divided_copies(whole, hashes)
    train = whole.split("train")
    if len(train) < 2:
        raise DataError(f"--data {path}: {len(train)} pairs to train on; give more, or mark more rows as train")
    return PairSplits(whole, train, _some(whole.split("val")), _some(whole.split("test")))


def _some(pairs: PairSet) -> PairSet | None:
    return pairs if len(pairs) > 1 else None


# Chinese CLIP: Contrastive Vision-Language Pretraining in Chinese, 2022, arXiv 2211.01335.


def train_in_stages(
    backbone: Backbone,
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool,
    on_step: Callable[[int, int, dict[str, float]], None],
    on_message: Callable[[str], None],
) -> Trained:
    """Train as the settings say; each stage has its own optimiser, schedule and checkpoints.

    Returns:
        What the last stage did, with the histories of all.
    """
    stages = stages_of(settings)
    all_epochs, before, steps, history, trained, best = settings.epochs, 0, 0, [], None, None
    for number, stage in enumerate(stages, start=1):
        if len(stages) > 1:
            locked = f"{', '.join(stage.lock)} tower locked" if stage.lock else "all towers trained"
            on_message(f"Stage {number} of {len(stages)}: {stage.epochs} epochs, {locked}")

        def on_stage_step(done: int, total: int, values: dict, before=before, stage=stage) -> None:
            an_epoch = total // stage.epochs
            on_step(done + before * an_epoch, all_epochs * an_epoch, values)

        place = folder / f"stage-{number}"
        log = LogPlace(folder / FILE, steps, before, number if len(stages) > 1 else None)
        callbacks = {"log": log, "on_step": on_stage_step, "on_message": on_message}
        trained = train(backbone, task, stage, place, resume=resume, **callbacks)
        steps += trained.steps
        best = None if trained.best_epoch is None else trained.best_epoch + before
        history += [{**row, "epoch": row["epoch"] + before, "stage": number} for row in trained.history]
        before += stage.epochs
    return replace(trained, history=history, best_epoch=best, steps=_steps(trained, stages, all_epochs))


def stages_of(settings: TrainingSettings) -> list[TrainingSettings]:
    """The settings of each stage."""
    if not settings.unlock_after:
        return [settings]
    first = replace(settings, epochs=settings.unlock_after, unlock_after=0)
    return [first, replace(settings, epochs=settings.epochs - settings.unlock_after, lock=(), unlock_after=0)]


def _steps(trained: Trained, stages: list[TrainingSettings], epochs: int) -> int:
    return trained.steps // stages[-1].epochs * epochs
