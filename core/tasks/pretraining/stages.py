"""One training, or two after each other: first with a tower locked, then without (Chinese-CLIP).

Chinese CLIP: Contrastive Vision-Language Pretraining in Chinese, 2022, arXiv 2211.01335.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...contracts.backbone import Backbone
from ...training.settings import TrainingSettings
from ...training.train import Task, Trained, train


def train_in_stages(
    backbone: Backbone,
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool,
    tell: Callable[[int, int, dict[str, float]], None],
    say: Callable[[str], None],
) -> Trained:
    """Train as the settings say; each stage has its own optimiser, schedule and checkpoints.

    Returns:
        What the last stage did, with the histories of all.
    """
    stages = stages_of(settings)
    all_epochs, before, history, trained, best = settings.epochs, 0, [], None, None
    for number, stage in enumerate(stages, start=1):
        if len(stages) > 1:
            locked = f"{', '.join(stage.lock)} tower locked" if stage.lock else "all towers trained"
            say(f"Stage {number} of {len(stages)}: {stage.epochs} epochs, {locked}")

        def told(done: int, total: int, values: dict, before=before, stage=stage) -> None:
            an_epoch = total // stage.epochs
            tell(done + before * an_epoch, all_epochs * an_epoch, values)

        place = folder / f"stage-{number}"
        trained = train(backbone, task, stage, place, resume=resume, tell=told, say=say)
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
