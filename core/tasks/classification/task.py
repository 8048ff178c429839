"""Classification: an adapter is fitted on few labelled images and scored beside zero-shot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

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
    refuse_early,
    results_of,
    scored,
    summary_of,
    views_wanted,
    write_predictions,
)
from .images import Prepared, Shots
from .report import classification_report
from .resources import check_needs, check_resources
from .scoring import fitted_zero_shot, metrics_table, predictions_table, score_on, verdict
from .trust import calibrate_scores
from .use import Predictor, evaluate_run, predict_with_run

OF_IMAGES = frozenset({"data", "backbone", "image_size", "amp", "batch_size", "templates", "descriptions"})
OF_FEATURES = frozenset({"features"})
SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
ZERO_SHOT = "zero-shot"


class Classification(Task):
    """Named classes, one or several labels per image."""

    takes: ClassVar = frozenset({"adapter", "adapters", "shots", "classes", "novel", "generic", "resources", "resume"})
    defaults: ClassVar = {"shots": 16}
    at_evaluation: ClassVar = frozenset({"data", "features", "workers", "resources"}) | TRUST
    at_prediction: ClassVar = frozenset({"batch_size", "workers", "resources", "top", "threshold"}) | TRUST
    row_files: ClassVar = FILE_KINDS
    compares: ClassVar = frozenset({"adapters", "backbones", "shots", "seeds"})
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
        if recipe.shots is None:
            raise ConfigError("--shots None: give a whole number, 0 or more")
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
        views, parts = views_wanted(adapter), parts_wanted(adapter)
        shots = prepared.draw(recipe.shots, recipe.seed, views=views, parts=parts, check=adapter.check_parts)
        with self._checkpoints(recipe, adapter, prepared, shots, reporter) as folder:
            report = fit_adapter(adapter, prepared, shots, recipe.seed, reporter, folder, recipe.resume)
            done = scored(recipe, prepared, adapter, report, shots, self.name, reporter)
            done.calibration = calibration_of(prepared, adapter, report, shots, recipe.seed)
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
        """Seeds outside, then shots, so that a draw serves all methods; zero-shot comes first."""
        names, shots, seeds = _names(axes), _shots(recipe, axes), _seeds(recipe, axes)
        without = {name for name, adapter in planned(recipe, names).items() if adapter.label_free}
        return [
            {"adapter": name, "shots": count, "seed": seed}
            for seed in seeds
            for count in shots
            for name in names
            if count or name in without
        ]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        names = _names(axes)
        check_named(recipe, names)
        adapters = planned(recipe, names)
        check_resources(recipe.resources, list(adapters.values()))
        recipe = recipe.with_(shots=max(_shots(recipe, axes)))
        prepared = self.prepared(recipe, reporter)
        if prepared.base is not None:
            prepared.base.check_classes(prepared.class_names)
        return ClassificationContest(recipe, prepared, adapters)

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
        with Run.create(recipe.out, recipe.domain or "features", done.adapter.name) as run:
            done.adapter.save(run.adapter_path)
            if done.calibration is not None:
                done.calibration.save(run.path)
                info["calibration"] = done.calibration.facts()
            run.write(info, done.scores.metrics)
            run.log("\n".join(log_lines(info, done.report, done.scores.metrics)))
            if done.scores.labels is None:
                write_predictions(run.path / PREDICTIONS, info, done)
            else:
                write_report(run.path, classification_report(results_of(prepared, info, done), run.path))
        return FitResult(
            run.path,
            done.adapter,
            done.report,
            done.scores.metrics,
            summary_of(run, info, done.scores, seconds),
            notes,
            [tuple(pair) for pair in info["skipped"]],
            prepared.counts.computed,
            prepared.counts.cached,
        )


def _names(axes: Axes) -> list[str]:
    """The methods, after zero-shot."""
    names = list(dict.fromkeys([ZERO_SHOT, *(axes.adapters or ())]))
    if names == [ZERO_SHOT]:
        raise ConfigError("--adapters: none given; give methods, comma-separated, for instance tip-adapter,ape")
    for name in names:
        find(name, catalogue.adapters(), "adapter")
    return names


def _shots(recipe: Recipe, axes: Axes) -> Sequence[int]:
    return axes.shots or ((recipe.shots,) if recipe.gave("shots") else SHOTS)


def _seeds(recipe: Recipe, axes: Axes) -> Sequence[int]:
    return axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)


def _check_shots(shots: int, adapter: Adapter) -> None:
    if shots == 0 and not adapter.label_free:
        raise ConfigError(
            f"--shots 0: adapter '{adapter.name}' learns from labelled images; give 1 or more, "
            "or a method that needs none (stat-a for all images at once, zero-shot)"
        )


def fit_key(recipe: Recipe, adapter: Adapter, prepared, shots: Shots) -> str:
    """16 hex digits that say what a training learns from what."""
    options = {name: value for name, value in adapter.options.items() if name not in adapter.cost_options}
    parts: list[Any] = [adapter.name, options, prepared.backbone.fingerprint, recipe.seed, recipe.shots]
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
    """

    def __init__(self, recipe: Recipe, prepared: Prepared | PreparedFeatures, adapters: Mapping[str, Adapter]):
        of_base = [] if prepared.base is None else prepared.base.notes(prepared)
        super().__init__(prepared.data.name, [*prepared.notes, *of_base])
        self.recipe, self.prepared = recipe, prepared
        self._views = {name: views_wanted(adapter) for name, adapter in adapters.items()}
        self._parts = any(parts_wanted(adapter) for adapter in adapters.values())
        self._drawn: tuple[tuple[int, int], Shots] | None = None
        if at_once := [name for name in adapters if adapter_class(name).transductive]:
            who = ", ".join(at_once)
            self.notes.append(f"{who} read all test images at once, without their labels; the others see one at a time")

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one method on one draw."""
        name, seed, prepared = entry["adapter"], entry["seed"], self.prepared
        shots = fewer_views(self._draw(entry["shots"], seed), self._views[name])
        started = time.perf_counter()
        if name == ZERO_SHOT:
            adapter = fitted_zero_shot(shots.support, prepared.classifier)
        else:
            adapter = adapter_of(self.recipe.with_adapter(name))
            check_needs(self.recipe.resources, adapter, prepared.backbone)
            fit_adapter(adapter, prepared, shots, seed, Reporter(quiet=True))
        seconds = time.perf_counter() - started
        scores = score_on(prepared, adapter, shots.test, prepared.class_names, None, Reporter(quiet=True))
        return {**scores.metrics["adapted"], "seconds": round(seconds, 3)}

    def _draw(self, count: int, seed: int) -> Shots:
        """The shots of one draw, with the views of whoever wants most; the last one is kept."""
        if self._drawn is None or self._drawn[0] != (count, seed):
            views = max(self._views.values())
            self._drawn = (count, seed), self.prepared.draw(count, seed, views=views, parts=self._parts)
        return self._drawn[1]
