"""Without labels: whether a run keeps its adapted model, or zero-shot, by what the images say of it."""

from __future__ import annotations

from dataclasses import replace

from ...contracts.adapter import Adapter, FitReport
from ...contracts.prepared import PreparedData, Shots
from ...contracts.recipe import Recipe
from ...contracts.task import Task
from ...errors import ConfigError
from ...runtime.progress import Reporter
from .fitting import WITHOUT_LABELS, Fitted, scored
from .scoring import fitted_zero_shot


def zero_shot_unless_better(
    recipe: Recipe, prepared: PreparedData, done: Fitted, shots: Shots, task: Task, reporter: Reporter
) -> tuple[Fitted, Shots]:
    """The fit as it is, unless it was judged without labels and is not shown to do better than zero-shot; else that.

    Args:
        done: the fit, scored on the test images.

    Returns:
        what the run keeps, and the draw with the val images whose labels had a say.
    """
    judged = done.findings.get(WITHOUT_LABELS)
    if judged is None:
        return done, shots
    shots = shots if judged.val is None else replace(shots, val=judged.val)
    if judged.evidence.better:
        return done, shots
    reporter.info(f"{done.adapter.name} is not shown to help, so zero-shot is kept")
    adapter = fitted_zero_shot(shots.support, prepared.classifier)
    report = FitReport(adapter.name, notes=[judged.note(), *done.report.notes])
    kept = scored(recipe.with_(judge=False), prepared, adapter, report, shots, task, Reporter(quiet=True))
    kept.findings[WITHOUT_LABELS] = judged.turned_down(done.scores)
    kept.scores.metrics.update(kept.findings[WITHOUT_LABELS].to_json())
    return kept, shots


def heard(recipe: Recipe, adapter: Adapter) -> frozenset[str]:
    """Resources that have a say on a fit without labels, though its method does not need them.

    Raises:
        ConfigError: views of images that a features file does not have.
    """
    if recipe.judge_views and recipe.features:
        raise ConfigError("--set judge_views: views need images, which a features file does not have; omit it")
    return frozenset({"further_backbones"}) if adapter.label_free and recipe.judge and not recipe.shots else frozenset()
