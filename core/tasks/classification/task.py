"""Classification: an adapter is fitted on few labelled images and scored beside zero-shot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...contracts.adapter import Adapter
from ...contracts.domain import Item
from ...contracts.recipe import Recipe
from ...contracts.task import FILE_KINDS, TRUST, Axes, Contest, FitResult, Task, Use
from ...data.verify import FileHashes, content_key
from ...errors import CapabilityError, ConfigError
from ...features.keys import canonical_json
from ...registry import adapter_class, catalogue
from ...registry.catalogue import find
from ...runs.folder import RUNS, Run
from ...runs.redaction import Redaction
from ...runs.run_sections import write_report
from ...runtime.distributed import is_main
from ...runtime.files import kept_checkpoints
from ...runtime.progress import Reporter
from ...training.checkpoints import newest_step
from ..methods import adapter_of, check_named, trains_towers
from .calibration_rows import calibration_of
from .feature_rows import PreparedFeatures, prepared_of
from .fitting import (
    PREDICTIONS,
    Fitted,
    fewer_views,
    fit_adapter,
    info_of,
    log_lines,
    notes_of,
    parts_wanted,
    planned,
    refitted,
    refuse_early,
    results_of,
    scored,
    summary_of,
    views_wanted,
    write_predictions,
)
from .images import Prepared, Shots
from .judgement import LARGEST_CLASS, MOST_PROBED, PROBE, PROBE_FILE, class_range, deciding_metric, largest_class
from .repeated_splits import RepeatedSplits
from .report import classification_report
from .resources import check_needs, check_resources
from .scoring import fitted_zero_shot, metrics_table, predictions_table, score_on
from .trust import calibrate_scores
from .use import Predictor, evaluate_run, predict_with_run
from .verdict import verdict

OF_IMAGES = frozenset({"data", "backbone", "image_size", "amp", "batch_size", "templates", "descriptions"})
OF_FEATURES = frozenset({"features"})
SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
ZERO_SHOT = "zero-shot"


class Classification(Task):
    """Named classes, one or several labels per image."""

    takes: ClassVar = frozenset(
        {"adapter", "adapters", "shots", "val_shots", "refit", "classes", "novel", "generic", "resources", "resume"}
    ) | {"redact"}
    defaults: ClassVar = {"shots": 16}
    at_evaluation: ClassVar = frozenset({"data", "features", "workers", "resources", "out"}) | TRUST
    at_prediction: ClassVar = frozenset({"batch_size", "workers", "resources", "top", "threshold"}) | TRUST
    row_files: ClassVar = FILE_KINDS
    compares: ClassVar = frozenset({"adapters", "backbones", "shots", "seeds", "splits", "folds"})
    unused: ClassVar = {
        "plan": "adapters are fitted to classification and no mmengine config is run; give a recipe, or --domain "
        "open-vocab",
        "classes": "for detection and segmentation; this run has its own classes",
        "out": f"a classification writes no pictures; give a file of its predictions ({', '.join(FILE_KINDS)})",
    }

    def filled(self, recipe: Recipe) -> Recipe:
        """The domain's adapter where none is named."""
        recipe = super().filled(recipe)
        if recipe.adapter_name is None:
            name = "tip-adapter" if self.domain is None else self.domain.default_adapter
            recipe = recipe.with_(adapter={**recipe.adapter, "name": name})
        return recipe

    def taken(self, recipe: Recipe) -> frozenset[str]:
        """Of images or of a features file; generic images where towers are trained."""
        taken = self.takes | (OF_FEATURES if recipe.features else OF_IMAGES)
        return taken if trains_towers(recipe.adapter_name) else taken - {"generic"}

    def check(self, recipe: Recipe) -> None:
        if isinstance(recipe.novel, str):
            raise ConfigError(
                f"--novel {recipe.novel}: give True or False; names are for detection and segmentation "
                "(--domain open-vocab)"
            )
        if recipe.out and Path(recipe.out).is_file():
            raise ConfigError(f"--out {recipe.out}: a file, not a folder; give the folder that is to hold the run")

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        started = time.monotonic()
        check_named(recipe, [recipe.adapter_name])
        adapter = adapter_of(recipe)
        check_resources(recipe.resources, [adapter])
        _check_shots(recipe.shots, adapter)
        prepared = self.prepared(recipe, reporter)
        refuse_early(recipe, adapter, prepared, self.name)
        views, parts = views_wanted(adapter, recipe, prepared), parts_wanted(adapter)
        how = {"views": views, "parts": parts, "check": adapter.check_parts, "val_shots": recipe.val_shots}
        shots = prepared.draw(recipe.shots, recipe.seed, **how)
        with self._checkpoints(recipe, adapter, prepared, shots, reporter) as folder:
            report = fit_adapter(adapter, prepared, shots, recipe.seed, reporter, folder, recipe.resume)
            if recipe.refit:
                adapter, report = refitted(adapter, report, prepared, shots, recipe.seed, reporter, folder)
            done = scored(recipe, prepared, adapter, report, shots, self.name, reporter)
            done.calibration = calibration_of(prepared, adapter, report, shots, recipe.seed, val_taught=recipe.refit)
            done.notes += calibrate_scores(done.calibration, done.scores)
            return self._written(recipe, prepared, done, shots, started) if is_main() else None

    def prepared(self, recipe: Recipe, reporter: Reporter):
        """The data side of a settled recipe: what is drawn, encoded and named."""
        return prepared_of(recipe, reporter, self.domain, self.name)

    def evaluate(self, use: Use, reporter: Reporter) -> dict[str, Any]:
        if self.domain is None and not (use.features or (use.run.info["recipe"].get("features") and not use.data)):
            raise CapabilityError(f"{use.run.path}: made from a features file; give --features")
        return evaluate_run(use, self.domain, self.name, reporter)

    def predict(self, use: Use, reporter: Reporter):
        return predict_with_run(use, self.domain, self.name, reporter)

    def predictor(self, use: Use) -> Predictor:
        return Predictor.of_use(use, self.domain, self.name)

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Seeds outside, then shots, so that a draw serves all methods; the baselines come first."""
        names, shots, seeds = _names(axes), _shots(recipe, axes), _seeds(recipe, axes)
        without = {name for name, adapter in planned(recipe, _learned(names)).items() if adapter.label_free}
        without.add(LARGEST_CLASS)
        return [
            {"adapter": name, "shots": count, "seed": seed}
            for seed in seeds
            for count in shots
            for name in names
            if count or name in without
        ]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        names = _learned(_names(axes))
        check_named(recipe, names)
        adapters = planned(recipe, names)
        check_resources(recipe.resources, list(adapters.values()))
        counts = _shots(recipe, axes)
        recipe = recipe.with_(shots=None if None in counts else max(counts))
        prepared = self.prepared(recipe, reporter)
        if prepared.base is not None:
            prepared.base.check_classes(prepared.class_names)
        towers = any(trains_towers(name) for name in names)
        splits = RepeatedSplits.of(prepared, recipe.split_seed, axes.splits, axes.folds, towers)
        contest = ClassificationContest(recipe, prepared, adapters, splits)
        contest.probe_asked = PROBE in axes.adapters
        contest.seeds_given = bool(axes.seeds or recipe.gave("seed"))
        return contest

    def deciding_of(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Accuracy; macro AUROC where images have several labels."""
        return "auroc" if any(key.startswith("auroc/") for key in rows[0]) else self.deciding

    def table(self, metrics: Mapping[str, Any]):
        return metrics_table(metrics)

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return verdict(metrics)

    def write_rows(self, predicted, path: Path) -> None:
        predicted.write(path)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return predictions_table(rows)

    @contextmanager
    def _checkpoints(self, recipe: Recipe, adapter: Adapter, prepared, shots: Shots, reporter: Reporter):
        """The folder of a fit's checkpoints; None for an adapter that keeps none."""
        if trains_towers(adapter.name):
            runs, key = Path(recipe.out or RUNS), fit_key(recipe, adapter, prepared, shots)
            with kept_checkpoints(runs, key, recipe.resume, reporter, newest_step) as folder:
                yield folder
            return
        if recipe.resume:
            reporter.info(f"--resume: {adapter.name} keeps no checkpoints, there is nothing to go on from")
        yield None

    def _written(self, recipe: Recipe, prepared, done: Fitted, shots: Shots, started: float) -> FitResult:
        seconds = time.monotonic() - started
        unscored = [f"The rows have no labels, so nothing is scored: {PREDICTIONS} in the run says what each is"]
        further = [*done.notes, *done.report.notes, *(unscored if done.scores.labels is None else [])]
        notes = notes_of(prepared, recipe.shots, further, shots)
        info = info_of(recipe, prepared, done.adapter, done.report, shots, notes, seconds)
        if done.calibration is not None:
            info["calibration"] = done.calibration.facts()
        results = results_of(prepared, info, done)
        if recipe.redact:
            info = Redaction.of(prepared.data, info["skipped"]).info(info)
            results = replace(results_of(prepared, info, done), thumbnails=None)
        with Run.create(recipe.out, recipe.domain or "features", done.adapter.name) as run:
            done.adapter.save(run.adapter_path)
            if done.probe is not None:
                done.probe.save(run.path / PROBE_FILE)
            if done.calibration is not None:
                done.calibration.save(run.path)
            run.write(info, done.scores.metrics)
            run.log("\n".join(log_lines(info, done.report, done.scores.metrics)))
            if done.scores.labels is None:
                write_predictions(run.path / PREDICTIONS, info, done)
            else:
                write_report(run.path, classification_report(results, run.path))
        return FitResult(
            run.path,
            done.adapter,
            done.report,
            done.scores.metrics,
            summary_of(run, info, done.scores, seconds),
            info["notes"],
            [tuple(pair) for pair in info["skipped"]],
            prepared.counts.computed,
            prepared.counts.cached,
        )


def _names(axes: Axes) -> list[str]:
    """The methods, after those that they are compared with."""
    if not [name for name in axes.adapters or () if name != ZERO_SHOT]:
        raise ConfigError("--adapters: none given; give methods, comma-separated, for instance tip-adapter,ape")
    for name in axes.adapters:
        find(name, catalogue.adapters(), "adapter")
    return list(dict.fromkeys([ZERO_SHOT, LARGEST_CLASS, PROBE, *axes.adapters]))


def _learned(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != LARGEST_CLASS]


def _shots(recipe: Recipe, axes: Axes) -> Sequence[int]:
    return axes.shots or ((recipe.shots,) if recipe.gave("shots") else SHOTS)


def _seeds(recipe: Recipe, axes: Axes) -> Sequence[int]:
    return axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)


def _check_shots(shots: int | None, adapter: Adapter) -> None:
    if shots == 0 and not adapter.label_free:
        raise ConfigError(
            f"--shots 0: adapter '{adapter.name}' learns from labelled images; give 1 or more, "
            "or a method that needs none (stat-a for all images at once, zero-shot)"
        )


def fit_key(recipe: Recipe, adapter: Adapter, prepared, shots: Shots) -> str:
    """16 hex digits that say what a training learns from what."""
    options = {name: value for name, value in adapter.options.items() if name not in adapter.cost_options}
    parts: list[Any] = [adapter.name, options, prepared.backbone.fingerprint, recipe.seed, recipe.shots, recipe.refit]
    parts += [list(prepared.class_names), [list(texts) for texts in prepared.classifier.texts]]
    hashes = FileHashes()
    parts += [[_content(item, hashes) for item in items] for items in (shots.items, shots.val_items)]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _content(item: Item, hashes: FileHashes) -> list[Any]:
    label = item.class_label()
    one, several = (None, label) if isinstance(label, tuple) else (label, None)
    return [content_key(item, hashes), one, repr(several)]


class ClassificationContest(Contest):
    """Fits on the same shots.

    Args:
        recipe: settled; its adapter options are for the adapter it names.
        prepared: the data.
        adapters: name -> adapter, not fitted.
        repeated: the splits; by default the one of `prepared`.

    Attributes:
        probe_asked: whether the linear probe is one of the methods, and not a baseline of a few hundred images only.
        seeds_given: whether every split has all seeds; if not, each has one of its own.
    """

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared | PreparedFeatures,
        adapters: Mapping[str, Adapter],
        repeated: RepeatedSplits | None = None,
    ):
        of_base = [] if prepared.base is None else prepared.base.notes(prepared)
        repeated = repeated or RepeatedSplits(prepared, recipe.split_seed)
        super().__init__(prepared.data.name, [*prepared.notes, *of_base, *repeated.notes])
        self.recipe, self.prepared, self.repeated = recipe, prepared, repeated
        self.splits, self.test_over_train = repeated.count, repeated.test_over_train
        self.baselines = (ZERO_SHOT, LARGEST_CLASS, PROBE)
        self.deciding = self._deciding()
        self.probe_asked, self.seeds_given = True, True
        self._views = {name: views_wanted(adapter, recipe, prepared) for name, adapter in adapters.items()}
        self._parts = any(parts_wanted(adapter) for adapter in adapters.values())
        self._drawn: tuple[tuple[int | None, int, int], Shots] | None = None
        self._first_seed: int | None = None
        if at_once := [name for name in adapters if adapter_class(name).transductive]:
            who = ", ".join(at_once)
            self.notes.append(f"{who} read all test images at once, without their labels; the others see one at a time")

    def of_split(self, entry: Mapping[str, Any], split: int) -> dict[str, Any] | None:
        """All seeds on each split where seeds are given; else a seed of its own for each."""
        if self.seeds_given:
            return super().of_split(entry, split)
        self._first_seed = entry["seed"] if self._first_seed is None else self._first_seed
        return {**entry, "seed": entry["seed"] + split, "split": split} if entry["seed"] == self._first_seed else None

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Metrics of one method on one draw; None where too many images are labelled for the linear probe to be a
        matter of course."""
        name, seed, prepared = entry["adapter"], entry["seed"], self.repeated[entry.get("split", 0)]
        if name == LARGEST_CLASS:
            return largest_class(prepared.data.split("test"), len(prepared.class_names))
        shots = fewer_views(self._draw(prepared, entry), self._views[name])
        if name == PROBE and not self.probe_asked and len(shots.support) > MOST_PROBED:
            return None
        started = time.perf_counter()
        if name == ZERO_SHOT:
            adapter = fitted_zero_shot(shots.support, prepared.classifier)
            if adapter is None:
                return None
        else:
            adapter = adapter_of(self.recipe.with_adapter(name))
            check_needs(self.recipe.resources, adapter, prepared.backbone)
            quiet = Reporter(quiet=True)
            report = fit_adapter(adapter, prepared, shots, seed, quiet)
            if self.recipe.refit:
                adapter, _ = refitted(adapter, report, prepared, shots, seed, quiet)
        seconds = time.perf_counter() - started
        quiet = Reporter(quiet=True)
        scores = score_on(prepared, adapter, shots.test, prepared.class_names, None, quiet, judged=False)
        return {**scores.metrics["adapted"], "seconds": round(seconds, 3)}

    def _deciding(self) -> str:
        """Balanced accuracy where the classes of the test set are unequal."""
        labels = [item.class_label() for item in self.prepared.data.split("test")]
        if self.prepared.data.kind == "multilabel" or None in labels:
            return ""
        chosen, labels = deciding_metric(torch.tensor(labels)), torch.tensor(labels)
        if chosen == "balanced_accuracy":
            fewest, most = class_range(labels)
            self.notes.append(
                f"Balanced accuracy decides: the classes of the test set are unequal ({fewest} to {most} images)"
            )
        return chosen

    def _draw(self, prepared: Prepared | PreparedFeatures, entry: Mapping[str, Any]) -> Shots:
        """The shots of one draw, with the views of whoever wants most; the last one is kept."""
        key = (entry["shots"], entry["seed"], entry.get("split", 0))
        if self._drawn is None or self._drawn[0] != key:
            how = {"views": max(self._views.values()), "parts": self._parts, "val_shots": self.recipe.val_shots}
            self._drawn = key, prepared.draw(*key[:2], **how)
        return self._drawn[1]
