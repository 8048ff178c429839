"""Classification: an adapter is fitted on few labelled images and scored beside zero-shot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group

from ...contracts.adapter import Adapter
from ...contracts.images import TrainingPlace
from ...contracts.items import Item
from ...contracts.judgement import FIT, Evaluated, Findings, JudgedClassifier, Scores
from ...contracts.prepared import PreparedData, Shots
from ...contracts.recipe import Recipe
from ...contracts.serving import Serving
from ...contracts.task import FILE_KINDS, TRUST, Axes, Contest, FitResult, Task, Use
from ...contracts.use import Exported, ExportWishes
from ...data.verify import FileHashes, content_key
from ...errors import CapabilityError, ConfigError
from ...features.table import canonical_json
from ...registry import catalogue
from ...registry.build import divided, judgements_of, judges_at
from ...registry.catalogue import find, is_place
from ...runs.comparison import Comparison
from ...runs.folder import RUNS, Run
from ...runs.redaction import Redaction
from ...runs.run_sections import write_report
from ...runtime.distributed import is_main
from ...runtime.files import kept_checkpoints
from ...runtime.progress import Reporter, part
from ...training.checkpoints import newest_step
from ...training.log import keep_logs
from ..methods import adapter_of, check_hooks, check_named, trains_towers, with_published
from .augmentation import augmentation_of, notes_on_augmentation, with_fresh_views
from .baselines import LARGEST_CLASS, PROBE, PROBE_FILE
from .contest import ZERO_SHOT
from .exporting import export_run
from .feature_rows import prepared_of
from .fitting import (
    PREDICTIONS,
    Fitted,
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
    write_predictions,
)
from .kept_model import heard, judged_without_labels, turned_down_words
from .labelled_examples import labelled_of, placed
from .mistakes import explained_mistakes, picture_in
from .predictor import Predictor, RunScorer
from .protocol_contests import SourceContest, TargetContest, check_protocol, contest_kind
from .protocols import as_published, baselines_of, drawing_of, notes_on_protocol, protocol_of, tasks_of_fit
from .published_results import ELEVEN, are_eleven, note_on_published, setting_of
from .repeated_splits import RepeatedSplits
from .report import classification_report
from .resources import check_resources
from .scoring import metrics_table, predictions_table
from .serving import ServedRun
from .stored_run import recipe_again
from .transfer import on_target
from .unlabelled import Unlabelled, check_shots, has_labels, without_shots
from .use import evaluate_run, predict_with_run

OF_IMAGES = frozenset({"data", "backbone", "image_size", "amp", "batch_size", "templates", "descriptions"})
OF_FEATURES = frozenset({"features"})
SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)


class Classification(Task):
    """Named classes, one or several labels per image."""

    takes: ClassVar = frozenset(
        {"adapter", "adapters", "shots", "val_shots", "refit", "classes", "novel", "generic", "resources", "resume"}
    ) | {"redact", "preset", "protocol", "judge", "judge_views", "custom_hooks"}
    defaults: ClassVar = {"shots": 16}
    at_evaluation: ClassVar = frozenset({"data", "features", "workers", "resources", "out"}) | TRUST
    at_prediction: ClassVar = TRUST | {"batch_size", "workers", "resources", "top", "threshold", "stream", "explain"}
    judgements: ClassVar = (
        "baselines",
        "growing-vocabulary",
        "part-order",
        "novel-classes",
        "forgetting",
        "calibration",
        "coverage",
        "random-split",
    )
    judges: ClassVar = JudgedClassifier
    row_files: ClassVar = FILE_KINDS
    compares: ClassVar = frozenset({"adapters", "backbones", "shots", "seeds", "splits", "folds", "tasks"})
    unused: ClassVar = {
        "plan": "classification fits adapters and runs no mmengine config; give a recipe, or --domain open-vocab",
        "classes": "only for detection and segmentation; this run has its own classes",
        "out": f"classification writes pictures only with --explain; otherwise give a file ({', '.join(FILE_KINDS)})",
    }

    def filled(self, recipe: Recipe) -> Recipe:
        """The domain's adapter where none is named."""
        recipe = super().filled(recipe)
        if (protocol := protocol_of(recipe)) is not None and not recipe.gave("shots"):
            recipe = recipe.with_(shots=protocol.shots[-1])
        if recipe.adapter_name is None:
            name = "auto" if self.domain is None else self.domain.default_adapter
            recipe = recipe.with_(adapter={**recipe.adapter, "name": name})
        return recipe

    def _task_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        own, judging = divided(self, given)
        return {**super()._task_options(own), **judging}

    def taken(self, recipe: Recipe) -> frozenset[str]:
        """Of images or of a features file; generic images where towers are trained."""
        taken = self.takes | (OF_FEATURES if recipe.features else OF_IMAGES)
        return taken if trains_towers(recipe.adapter_name) else taken - {"generic"}

    def check(self, recipe: Recipe) -> None:
        protocol = protocol_of(recipe)
        if protocol is not None and protocol.tasks and recipe.gave("shots") and recipe.shots != 0:
            raise ConfigError(f"--protocol {protocol.name} has no labelled images; omit --shots")
        if protocol is not None and (recipe.gave("val_shots") or recipe.refit):
            raise ConfigError(
                f"--protocol {recipe.protocol} decides on which images settings are chosen; omit --val-shots and "
                "--refit"
            )
        if isinstance(recipe.novel, str):
            names = "names are for detection and segmentation (--domain open-vocab)"
            raise ConfigError(f"--novel {recipe.novel}: give --novel alone; {names}")
        if recipe.out and Path(recipe.out).is_file():
            raise ConfigError(f"--out {recipe.out}: a file, not a folder; give the folder that is to hold the run")
        check_hooks(recipe)

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        started = time.monotonic()
        check_named(recipe, [recipe.adapter_name])
        recipe = as_published(recipe, [recipe.adapter_name])
        recipe = with_fresh_views(recipe, [recipe.adapter_name])
        adapter = adapter_of(recipe)
        check_resources(recipe.resources, [adapter], heard(recipe, adapter))
        check_shots(recipe, adapter)
        prepared = self.prepared(recipe, reporter)
        recipe = without_shots(recipe, prepared.data, adapter)
        recipe, said = with_published(recipe, prepared.data.published, [adapter.name])
        adapter = adapter_of(recipe) if said else adapter
        refuse_early(recipe, adapter, prepared, self.name)
        augmentation = augmentation_of(adapter, recipe, prepared)
        said = [*notes_on_protocol(recipe, of_fit=True), *said]
        said += notes_on_augmentation({adapter.name: augmentation})
        how = {"views": augmentation.views, "augment": augmentation.transform}
        how |= {"parts": parts_wanted(adapter), "check": adapter.check_parts}
        shots = prepared.draw(recipe.shots, recipe.seed, **how, **drawing_of(recipe, recipe.shots))
        with self._checkpoints(recipe, adapter, prepared, shots, reporter) as folder:
            place = TrainingPlace(folder, bool(recipe.resume and folder), hooks=recipe.custom_hooks)
            with part("fit"):
                report = fit_adapter(adapter, prepared, shots, recipe.seed, reporter, place)
                if recipe.refit:
                    adapter, report = refitted(adapter, report, prepared, shots, recipe.seed, reporter, place)
            with part("judging"):
                done = scored(recipe, prepared, adapter, report, shots, self, reporter)
                done, shots = judged_without_labels(recipe, prepared, done, shots, self, reporter)
                drawn = {"shots": recipe.shots, **how, **drawing_of(recipe, recipe.shots)}
                done.judged = replace(done.judged, shots=shots, drawn=drawn)
                later = [each for each in judges_at(self, FIT, recipe.task_options) if each.refits]
                done.notes += [*said, *done.findings.add(later, done.judged)]
            done.labelled = labelled_of(prepared, done.adapter, shots, recipe.refit)
            return self._written(recipe, prepared, done, shots, started, folder) if is_main() else None

    def prepared(self, recipe: Recipe, reporter: Reporter):
        """The data side of a settled recipe: what is drawn, encoded and named."""
        return prepared_of(recipe, reporter, self.domain, self.name)

    def further_sections(self, prepared: PreparedData, scores: Scores) -> list[Any]:
        """Sections of the report that a task of a domain's own adds; they name no image."""
        return []

    def hidden(self, recipe: Recipe, prepared: PreparedData, info: dict[str, Any]) -> dict[str, Any] | None:
        """What run.json holds where no sample is named or shown; None where they may be."""
        return Redaction.of(prepared.data, info["skipped"]).info(info) if recipe.redact else None

    def evaluate(self, use: Use, reporter: Reporter) -> Evaluated:
        if self.domain is None and not (use.features or (use.run.info["recipe"].get("features") and not use.data)):
            raise CapabilityError(f"{use.run.shown}: made from a features file; give --features")
        return evaluate_run(use, self, reporter)

    def predict(self, use: Use, reporter: Reporter):
        reading = recipe_again(use).reading if self.own_files and not use.explain else {}
        if self.own_files and not use.explain and self.domain.writes_own(use, self.name, reading):
            if use.stream:
                raise ConfigError("--stream: files of the domain are not made from a stream; omit it, or --out")
            load = partial(RunScorer.of_use, use, self.domain, self.name)
            return self.domain.write_own(use, self.name, reading, load, reporter)
        return predict_with_run(use, self.domain, self.name, reporter)

    def predictor(self, use: Use) -> Predictor:
        return Predictor.of_use(use, self.domain, self.name)

    def served(self, use: Use, serving: Serving) -> ServedRun:
        return ServedRun(use, self.domain, self.name, serving)

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        return export_run(use, wishes, self.domain, self.name, reporter)

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Seeds outside, then shots, so that a draw serves all methods; the baselines come first."""
        names, shots, seeds = _names(recipe, axes), _shots(recipe, axes), _seeds(recipe, axes)
        protocol = protocol_of(recipe)
        if protocol is not None and protocol.tasks:
            of = [{"adapter": name, "shots": 0, "seed": seed} for seed in seeds for name in names]
            return [{**each, "tasks": kind.name} for kind in protocol.tasks for each in of]
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
        names = _learned(_names(recipe, axes))
        check_named(recipe, names)
        recipe = with_fresh_views(as_published(recipe, names), names)
        adapters = planned(recipe, names)
        check_resources(recipe.resources, list(adapters.values()))
        counts = _shots(recipe, axes)
        recipe = recipe.with_(shots=None if None in counts else max(counts))
        prepared = self.prepared(recipe, reporter)
        if not has_labels(prepared.data):
            raise CapabilityError(f"{prepared.data.name}: no image has a label, so methods cannot be compared; use fit")
        recipe, said = with_published(recipe, prepared.data.published, names)
        adapters = planned(recipe, names) if said else adapters
        if prepared.base is not None:
            prepared.base.check_classes(prepared.class_names)
        towers = any(trains_towers(name) for name in names)
        published = recipe.protocol is not None and not axes.folds
        asked = axes.splits or (1 if published else None)
        splits = RepeatedSplits.of(prepared, recipe.split_seed, asked, axes.folds, towers)
        contest = contest_kind(recipe, axes)(recipe, prepared, adapters, splits)
        contest.note_readers(adapters, counts)
        contest.notes += said
        contest.probe_asked = PROBE in axes.adapters
        contest.seeds_given = bool(axes.seeds or recipe.gave("seed") or recipe.protocol)
        return contest

    def contests(self, recipes: Sequence[Recipe], axes: Axes, reporter: Reporter) -> Iterator[Contest]:
        """Under a protocol that tests on other data the first data set is fitted on, per backbone, and the others are
        tested."""
        check_protocol(recipes, axes)
        sources: dict[str, SourceContest] = {}
        for recipe in recipes:
            if recipe.backbone in sources:
                target = prepared_of(on_target(recipe), reporter, self.domain, self.name)
                yield TargetContest(sources[recipe.backbone], target)
                continue
            contest = self.contest(recipe, axes, reporter)
            if isinstance(contest, SourceContest):
                sources[recipe.backbone] = contest
            yield contest

    def published_means(self, settings: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Of the eleven sets of the few-shot protocol, where these are they."""
        if not settings or None in settings or not are_eleven(each.set for each in settings):
            return []
        of_mean, found = replace(settings[0], set=ELEVEN), []
        for name, shots in dict.fromkeys((row["adapter"], row["shots"]) for row in rows):
            if (result := of_mean.result(name, shots)) is not None:
                found.append({"adapter": name, "shots": shots, **result.columns})
        return found

    def deciding_of(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Accuracy; macro AUROC where images have several labels."""
        return "auroc" if any(key.startswith("auroc/") for key in rows[0]) else self.deciding

    def table(self, metrics: Mapping[str, Any]):
        table, further = metrics_table(metrics), Findings.of_metrics(judgements_of(self), metrics).tables
        return Group(table, *further) if further else table

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        found = Comparison.from_json(metrics)
        return "" if found is None else found.sentence

    def write_rows(self, predicted, path: Path) -> None:
        predicted.write(path)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return predictions_table(rows)

    @contextmanager
    def _checkpoints(self, recipe: Recipe, adapter: Adapter, prepared: PreparedData, shots: Shots, reporter: Reporter):
        """The folder of a fit's checkpoints; None for an adapter that keeps none."""
        if "pixels" in adapter.needs:
            runs, key = Path(recipe.out or RUNS), fit_key(recipe, adapter, prepared, shots)
            with kept_checkpoints(runs, key, recipe.resume, reporter, newest_step) as folder:
                yield folder
            return
        if recipe.resume:
            reporter.info(f"--resume: {adapter.name} keeps no checkpoints, so there is nothing to continue from")
        yield None

    @part("run and report")
    def _written(
        self,
        recipe: Recipe,
        prepared: PreparedData,
        done: Fitted,
        shots: Shots,
        started: float,
        folder: Path | None = None,
    ) -> FitResult:
        seconds = time.monotonic() - started
        unscored = [f"The rows have no labels, so nothing is scored: {PREDICTIONS} in the run holds the answers"]
        reached = done.scores.metrics["adapted"].get("accuracy") if prepared.data.kind == "labels" else None
        setting = setting_of(recipe, prepared, tasks_of_fit(recipe))
        published = note_on_published(setting, done.adapter.name, recipe.shots, reached)
        unscored = unscored if done.scores.labels is None else []
        turned_down = turned_down_words(done.scores.metrics)
        further = [*done.notes, *published, *done.report.notes, *turned_down, *unscored]
        scenario = drawing_of(recipe, recipe.shots).get("scenario")
        notes = notes_of(prepared, recipe.shots, further, shots, scenario)
        info = info_of(recipe, prepared, done.adapter, done.report, shots, notes, seconds)
        if done.judge is not None:
            info["judge"] = done.judge
        info |= done.findings.facts
        further = self.further_sections(prepared, done.scores)
        rows, shown = prepared.test.features, (prepared.thumbnail, picture_in(prepared))
        explain = explained_mistakes(prepared, done.adapter, done.labelled, rows, *shown)
        results = replace(results_of(prepared, info, done), further=further, explain=explain)
        plain_info = info
        if (hidden := self.hidden(recipe, prepared, info)) is not None:
            info = hidden
            results = replace(results_of(prepared, info, done), thumbnails=None, further=results.further)
        with Run.create(recipe.out, recipe.domain or "features", done.adapter.name) as run:
            done.adapter.save(run.adapter_path)
            if done.probe is not None:
                done.probe.save(run.path / PROBE_FILE)
            done.findings.save(run.path)
            if done.labelled is not None:
                placed(done.labelled, prepared, plain_info, redacts=hidden is not None).save(run.path)
            keep_logs(folder, run.path)
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


def _names(recipe: Recipe, axes: Axes) -> list[str]:
    """The methods, after those that they are compared with."""
    if not [name for name in axes.adapters or () if name != ZERO_SHOT]:
        raise ConfigError("--adapters: none given; give methods, comma-separated, for instance tip-adapter,ape")
    for name in [name for name in axes.adapters if not is_place(name)]:
        find(name, catalogue.adapters(), "adapter")
    return list(dict.fromkeys([ZERO_SHOT, *baselines_of(recipe), *axes.adapters]))


def _learned(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != LARGEST_CLASS]


def _shots(recipe: Recipe, axes: Axes) -> Sequence[int]:
    protocol = protocol_of(recipe)
    if protocol is not None and protocol.tasks and any(axes.shots or ()):
        raise ConfigError(f"--protocol {protocol.name} has no labelled images; omit --shots")
    return axes.shots or ((recipe.shots,) if recipe.gave("shots") else SHOTS if protocol is None else protocol.shots)


def _seeds(recipe: Recipe, axes: Axes) -> Sequence[int]:
    protocol = protocol_of(recipe)
    return axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS if protocol is None else protocol.seeds)


def fit_key(recipe: Recipe, adapter: Adapter, prepared: PreparedData, shots: Shots) -> str:
    """16 hex digits that say what a training learns from what."""
    options = {name: value for name, value in adapter.options.items() if name not in adapter.cost_options}
    parts: list[Any] = [adapter.name, options, prepared.backbone.fingerprint, recipe.seed, recipe.shots, recipe.refit]
    parts += [list(prepared.class_names), [list(texts) for texts in prepared.classifier.texts]]
    hashes = FileHashes()
    unlabelled = Unlabelled.of(adapter, prepared, shots).items
    read = [shots.items, shots.val_items, *([unlabelled] if unlabelled else [])]
    parts += [[_content(item, hashes) for item in items] for items in read]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _content(item: Item, hashes: FileHashes) -> list[Any]:
    label = item.class_label()
    one, several = (None, label) if isinstance(label, tuple) else (label, None)
    return [content_key(item, hashes), one, repr(several)]
