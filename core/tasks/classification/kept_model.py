"""Without labels: whether a run keeps its adapted model, or zero-shot, by what the images say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...confidence.without_labels import Evidence, answers_by_halves, evidence_of
from ...contracts.adapter import Adapter, FitReport
from ...contracts.features import FeatureSet
from ...contracts.prepared import PreparedData, Shots
from ...contracts.recipe import Recipe
from ...contracts.task import Task
from ...data.sampling import rank
from ...errors import ConfigError
from ...runtime.progress import Reporter
from .fitting import Fitted, scored
from .scoring import fitted_zero_shot, score_on
from .unlabelled import Unlabelled

MOST_LABELLED = 100
"""Labelled images, at most, that have a say."""
TURNED_DOWN = "turned_down"
"""Of metrics.json: the scores of a method that a run does not use, where the test images have labels, and the interval
of its gain over zero-shot."""


def judged_without_labels(
    recipe: Recipe, prepared: PreparedData, done: Fitted, shots: Shots, task: Task, reporter: Reporter
) -> tuple[Fitted, Shots]:
    """The fit as it is under a protocol, where labels were learned from, by a base run too, and where the images show
    that it does better than zero-shot; else zero-shot. `judge` says what was found.

    Args:
        done: the fit, scored on the test images.

    Returns:
        what the run keeps, and the draw with the val images whose labels had a say.
    """
    compared = done.scores.zero_shot_logits is not None and len(shots.test) and not shots.test.multilabel
    learned = len(shots.support) or prepared.base is not None or done.report.judged
    if not recipe.judge or recipe.protocol is not None or not compared or learned:
        return done, shots
    found = _evidence(done, shots, recipe.judge_views)
    if not found.changed:
        return done, shots
    if (val := _labelled(done, shots)) is not None:
        zero_shot, quiet = fitted_zero_shot(shots.support, prepared.classifier), Reporter(quiet=True)
        told = score_on(prepared, done.adapter, val, prepared.class_names, zero_shot, quiet)
        found = found.with_labels(told.zero_shot_logits, told.adapted_logits, told.labels)
        shots = replace(shots, val=val)
    facts = {"method": done.adapter.name, "kept": done.adapter.name if found.better else "zero-shot", **found.facts()}
    if found.better:
        said = f"{done.adapter.name} is kept: better than zero-shot with a probability of {found.probability:.0%}"
        return replace(done, notes=[*done.notes, f"{said}: {found.words}"], judge=facts), shots
    reporter.info(f"{done.adapter.name} is not shown to help, so zero-shot is kept")
    note = (
        f"This run's model is zero-shot: {done.adapter.name} is not shown to be better (probability "
        f"{found.probability:.0%}): {found.words}; --set judge=no keeps {done.adapter.name} anyway"
    )
    adapter = fitted_zero_shot(shots.support, prepared.classifier)
    report = FitReport(adapter.name, notes=[note, *done.report.notes])
    kept = scored(recipe, prepared, adapter, report, shots, task, Reporter(quiet=True))
    if done.scores.labels is not None:
        of = done.scores.metrics
        gain = {"interval": of["baselines"]["zero_shot"]["interval"]}
        kept.scores.metrics[TURNED_DOWN] = {"adapter": done.adapter.name, **of["adapted"], **gain}
    return replace(kept, judge=facts), shots


def heard(recipe: Recipe, adapter: Adapter) -> frozenset[str]:
    """Resources that have a say on a fit without labels, though its method does not need them.

    Raises:
        ConfigError: views of images that a features file does not have.
    """
    if recipe.judge_views and recipe.features:
        raise ConfigError("--set judge_views: views need images, which a features file does not have; omit it")
    return frozenset({"further_backbones"}) if adapter.label_free and recipe.judge and not recipe.shots else frozenset()


def turned_down_words(metrics: dict[str, Any]) -> list[str]:
    """A sentence on the method that a run does not use, where its score is known."""
    of = metrics.get(TURNED_DOWN) or {}
    if "accuracy" not in of or "accuracy" not in (metrics.get("zero_shot") or {}):
        return []
    return [
        f"By the labels of the test images, which no choice was based on: {of['adapter']} {of['accuracy']:.1%}, "
        f"zero-shot {metrics['zero_shot']['accuracy']:.1%}"
    ]


def _evidence(done: Fitted, shots: Shots, views: int) -> Evidence:
    """By the test images, by other witnesses where there are some, and by halves of the prompts for a method that read
    the test images and nothing else.

    Args:
        views: augmented views of each test image that are asked too.
    """
    prepared, seed, halves = done.judged.prepared, done.judged.seed, []
    read = Unlabelled.of(done.adapter, prepared, shots).features
    if read is not None and read.ids == shots.test.ids:
        halves = answers_by_halves(done.adapter, prepared.classifier, read, seed)
    halves = [(before.cpu(), after.cpu()) for before, after in halves]
    sides = shots.test.unit.cpu(), done.scores.zero_shot_logits, done.scores.adapted_logits
    return evidence_of(*sides, halves=halves, witnesses=_witnesses(prepared, shots, views, seed))


def _witnesses(prepared: PreparedData, shots: Shots, augmented: int, seed: int) -> list[Tensor]:
    """(N, C) zero-shot probabilities of the test images by each further backbone, and the mean over augmented views."""
    seen = [(other.classifier, other.of_ids(shots.test.ids).unit[:, None]) for other in prepared.resources.further]
    if augmented:
        by_id = {item.id: item for item in prepared.data.items}
        items = [by_id[name] for name in shots.test.ids]
        views = prepared.features(items, "views of test images", augmented, seed).views
        seen.append((prepared.classifier, F.normalize(views, dim=-1)))
    return [classifier.logits(views.flatten(0, 1)).softmax(dim=1).unflatten(0, views.shape[:2]).mean(dim=1).cpu()
            for classifier, views in seen]  # fmt: skip


def _labelled(done: Fitted, shots: Shots) -> FeatureSet | None:
    """Labelled val images: those of the draw; else half of the split, which leaves the others to calibrate on. None for
    a method that answers those that it read together otherwise than any other image."""
    if done.adapter.transductive or shots.val is not None:
        return None if done.adapter.transductive else shots.val
    prepared, seed = done.judged.prepared, done.judged.seed
    ids = sorted((item.id for item in prepared.data.split("val") if item.target is not None), key=_ranked(seed))
    some = ids[: min(MOST_LABELLED, len(ids) // 2)]
    return prepared.of_ids(some, parts="parts" in done.adapter.at_predict) if some else None


def _ranked(seed: int) -> Callable[[str], Any]:
    return lambda name: rank(seed, name)
