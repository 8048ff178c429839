"""Classification: an adapter is fitted on few labelled images and scored beside zero-shot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group

from ...backbones.load import announce_terms, announced
from ...contracts.adapter import Adapter, FitReport
from ...contracts.bags import is_tiles_spec
from ...contracts.images import TrainingPlace
from ...contracts.items import DomainData
from ...contracts.judgement import (
    FIT,
    Evaluated,
    Findings,
    JudgedClassifier,
    JudgedData,
    JudgedLabels,
    JudgedPredictions,
    Judgement,
    Scores,
)
from ...contracts.prepared import PreparedData, Shots
from ...contracts.recipe import AUTO, RUNS, Recipe
from ...contracts.run_info import RunInfo
from ...contracts.serving import Served, Serving
from ...contracts.task import FILE_KINDS, FitResult, Task
from ...contracts.use import ANSWERS, HEAT_MAPS, ROWS, Exported, ExportWishes, Use
from ...errors import CapabilityError, ConfigError
from ...features.store import FeatureStore
from ...judgements.baselines import BaselineComparison
from ...recipes.asked_for import (
    adapter_of,
    as_published,
    backbone_of,
    check_hooks,
    check_named,
    check_shots,
    class_words,
    classes_of_data,
    encoding_batch_size,
    facts_for_judging,
    place_of_data,
    read_data,
    trains_towers,
    with_language,
    with_published,
    with_published_views,
    without_shots,
)
from ...registry import adapter_class
from ...registry.build import build_metric, check_fit, divided_options, judgements_of, judges_at
from ...runs.folder import Run, now
from ...runs.redaction import Redaction
from ...runs.run_sections import write_report
from ...runs.sections import MEASURES
from ...runtime.distributed import is_main
from ...runtime.files import kept_checkpoints
from ...runtime.progress import Reporter, part
from ...training.checkpoints import newest_step
from .answers import predictions_summary, predictions_table
from .base import ComparedClassification
from .feature_rows import prepared_rows
from .fitting import (
    augmentation_of,
    check_novel,
    fit_adapter,
    fit_key,
    notes_on_augmentation,
    parts_wanted,
    refitted,
    refuse_early,
)
from .predictions import DECIDED
from .predictor import Predictor, RunScorer
from .prepared import Encoding, Prepared, as_wide_as, check_read, checked_and_split, with_preset
from .protocols import OWN, Setting, note_on_published, protocol_named
from .report import ClassificationResults, classification_report
from .resources import check_resources
from .scoring import (
    PROBE,
    WITHOUT_LABELS,
    ClassificationFit,
    Fitted,
    fitted_probe,
    fitted_zero_shot,
    metrics_table,
    score_on,
    zero_shot_unless_better,
)
from .stored_run import (
    PREDICTIONS,
    facts_of_fit,
    facts_of_model,
    labelled_of,
    notes_of,
    recipe_again,
    run_summary,
    write_fit,
)
from .use import evaluate_run, predict_with_run

OF_IMAGES = frozenset({"data", "backbone", "image_size", "amp", "batch_size", "templates", "descriptions", "language"})
OF_FEATURES = frozenset({"features"})


class Classification(ComparedClassification):
    """Named classes, one or several labels per image."""

    takes: ClassVar = frozenset(
        {"adapter", "adapters", "shots", "val_shots", "refit", "classes", "novel", "generic", "resources", "resume"}
    ) | {"redact", "preset", "protocol", "judge", "judge_views", "custom_hooks"}
    defaults: ClassVar = {"shots": 16}
    at_evaluation: ClassVar = frozenset({"data", "features", "workers", "resources", "out", "per_patient", "against"})
    at_prediction: ClassVar = frozenset(
        {"batch_size", "workers", "resources", "top", "threshold", "stream", "explain"}
    ) | {"per_patient"}
    judgements: ClassVar = (
        "possible-groups",
        "baselines",
        "growing-vocabulary",
        "part-order",
        "novel-classes",
        "forgetting",
        "without-labels",
        "calibration",
        "subgroups",
        "coverage",
        "finding-curves",
        "operating-point",
        "dataset-shift",
        "against-run",
        "per-patient",
        "random-split",
        "unlike-images",
        "base-run",
        "wrong-labels",
        "out-of-distribution",
        "corruptions",
        "typographic",
        "attacks",
        "followed-columns",
    )
    judges: ClassVar = (JudgedClassifier, JudgedPredictions, JudgedData, JudgedLabels)
    row_files: ClassVar = FILE_KINDS
    gives: ClassVar = frozenset({ROWS, ANSWERS, HEAT_MAPS})
    unused: ClassVar = {
        "plan": "classification fits adapters and runs no mmengine config; give a recipe, or --domain open-vocab",
        "classes": "only for detection and segmentation; this run has its own classes",
        "out": "classification writes into a folder only with --as or with --explain; otherwise give a "
        f"file ({', '.join(FILE_KINDS)})",
    }

    def filled(self, recipe: Recipe) -> Recipe:
        """The domain's adapter where none is named, and what the language's file says."""
        recipe = with_language(super().filled(recipe), self.domain)
        if recipe.protocol is not None and not recipe.gave("shots"):
            recipe = recipe.with_(shots=protocol_named(recipe.protocol).shots[-1])
        if recipe.adapter_name is None:
            name = "auto" if self.domain is None else self.domain.default_adapter
            recipe = recipe.with_(adapter={**recipe.adapter, "name": name})
        return recipe

    def _task_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        own, judging = divided_options(self, options)
        return {**super()._task_options(own), **judging}

    def taken(self, recipe: Recipe) -> frozenset[str]:
        """Of images or of a features file; generic images where towers are trained."""
        taken = self.takes | (OF_FEATURES if recipe.features else OF_IMAGES)
        return taken if trains_towers(recipe.adapter_name) else taken - {"generic"}

    def check(self, recipe: Recipe) -> None:
        protocol = protocol_named(recipe.protocol)
        if protocol.tasks and recipe.gave("shots") and recipe.shots != 0:
            raise ConfigError(f"--protocol {protocol.name} has no labelled images; omit --shots")
        if protocol is not OWN and (recipe.gave("val_shots") or recipe.refit):
            raise ConfigError(
                f"--protocol {recipe.protocol} decides on which images settings are chosen; omit --val-shots and "
                "--refit"
            )
        if isinstance(recipe.novel, str):
            names = "names are for detection and segmentation (--domain open-vocab)"
            raise ConfigError(f"--novel {recipe.novel}: give --novel alone; {names}")
        if recipe.judge_views and recipe.features:
            raise ConfigError("--set judge_views: views need images, which a features file does not have; omit it")
        check_hooks(recipe)

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        started, protocol = time.monotonic(), protocol_named(recipe.protocol)
        check_named(recipe, [recipe.adapter_name])
        recipe = as_published(recipe, [recipe.adapter_name], protocol.labelled)
        recipe = with_published_views(recipe, [recipe.adapter_name])
        adapter = adapter_of(recipe)
        judged = adapter.label_free and recipe.judge and not recipe.shots
        check_resources(recipe.resources, [adapter], frozenset({"further_backbones"} if judged else ()))
        check_shots(recipe, adapter)
        prepared = self.prepared(recipe, reporter, judges=judges_at(self, FIT, recipe.task_options))
        recipe = without_shots(recipe, prepared.data, adapter)
        recipe, notes = with_published(recipe, prepared.data.published, [adapter.name])
        adapter = adapter_of(recipe) if notes else adapter
        if recipe.novel:
            check_novel(adapter, self._left_out(recipe, prepared))
        refuse_early(adapter, prepared, protocol.transfer, recipe.generic)
        check_fit(self, recipe.task_options, adapter, prepared, recipe.shots)
        augmentation = augmentation_of(adapter, prepared, recipe.adapter_options, recipe.protocol is not None)
        notes = [*protocol.notes(of_fit=True), *notes, *notes_on_augmentation({adapter.name: augmentation})]
        drawn = {"shots": recipe.shots, **augmentation.of_draw, "parts": parts_wanted(adapter)}
        drawn |= {"check": adapter.check_parts, **protocol.drawing(recipe.shots, recipe.val_shots)}
        shots = prepared.draw(seed=recipe.seed, **drawn)
        with self._checkpoints(recipe, adapter, prepared, shots, reporter) as folder:
            resumed = bool(recipe.resume and folder)
            place = TrainingPlace(folder, resumed, hooks=recipe.custom_hooks, tolerate=recipe.tolerate)
            with part("fit"):
                report = fit_adapter(adapter, prepared, shots, recipe.seed, reporter, place)
                if recipe.refit:
                    adapter, report = refitted(adapter, report, prepared, shots, recipe.seed, reporter, place)
            with part("judging"):
                scored = partial(self._scored, recipe, prepared)
                done = scored(adapter, report, shots, reporter, judge=recipe.judge and protocol is OWN)
                done, shots = zero_shot_unless_better(done, shots, scored)
                done.judged = replace(done.judged, shots=shots, drawn=drawn)
                later = [each for each in judges_at(self, FIT, recipe.task_options) if each.refits]
                done.notes += [*notes, *done.findings.add(later, done.judged)]
            done.labelled = labelled_of(prepared, done.adapter, shots, recipe.refit)
            return self._written(recipe, done, started, folder) if is_main() else None

    @part("reading the data")
    def prepared(
        self,
        recipe: Recipe,
        reporter: Reporter,
        divided: bool = True,
        fitted: RunInfo | None = None,
        judges: Sequence[Judgement] = (),
    ) -> PreparedData:
        """The data side of a settled recipe: what is drawn, encoded and named.

        Args:
            divided: whether data without splits are split; else they are kept whole for testing.
            fitted: of a run on these data, by whose groups they are split again.
            judges: what is to be said of a fit on them.

        Raises:
            DataError, ConfigError, CapabilityError: one line each, as DESIGN says.
        """
        if not recipe.features:
            return prepared_images(recipe, reporter, self, divided, fitted, judges)
        names = ("shots", "classes", "preset", "split_seed", "device")
        how = {name: getattr(recipe, name) for name in names}
        rows = prepared_rows(recipe.features, reporter, given=recipe.resources, divided=divided, **how)
        check_read(rows.data, judges)
        return rows

    def _left_out(self, recipe: Recipe, prepared: PreparedData) -> list[str]:
        """Names of the classes that `classes` leaves out, as the data have them."""
        images = prepared.domain is not None
        every = read_data(recipe, prepared.domain, self.name).class_names if images else prepared.all_class_names
        seen, words = set(prepared.class_names), class_words(recipe, prepared.domain) if images else None
        return [name for name in every if (name if words is None else words.name(name)) not in seen]

    def _unseen(self, recipe: Recipe, prepared: PreparedData) -> PreparedData:
        """The data of those classes."""
        return self.prepared(recipe.with_(classes=self._left_out(recipe, prepared)), Reporter(quiet=True))

    def _scored(
        self,
        recipe: Recipe,
        prepared: PreparedData,
        adapter: Adapter,
        report: FitReport,
        shots: Shots,
        reporter: Reporter,
        judge: bool,
    ) -> Fitted:
        """Zero-shot and the adapted model on the test set, with all judgements that fit nothing again.

        Args:
            judge: whether a fit without labels is judged by what the images say of it.
        """
        zero_shot, protocol = fitted_zero_shot(shots.support, prepared.classifier), protocol_named(recipe.protocol)
        options = as_published(recipe, [PROBE], protocol.labelled).adapters.get(PROBE)
        probe = fitted_probe(adapter, shots.support, prepared.classifier, shots.val_of_fit, recipe.seed, options)
        scores = score_on(prepared, adapter, shots.test, prepared.class_names, zero_shot, reporter, probe=probe)
        judged = ClassificationFit(
            at=FIT,
            prepared=prepared,
            adapter=adapter,
            test=shots.test,
            scores=scores,
            class_names=prepared.class_names,
            reporter=reporter,
            **facts_for_judging(recipe),
            deciding=protocol.deciding,
            novel=partial(self._unseen, recipe, prepared) if recipe.novel else None,
            report=report,
            shots=shots,
            refitted=recipe.refit,
            judge_views=recipe.judge_views if judge else None,
        )
        findings = Findings(judgements_of(self))
        notes = findings.add([each for each in judges_at(self, FIT, recipe.task_options) if not each.refits], judged)
        return Fitted(adapter, report, scores, notes, judged, findings, probe)

    def further_sections(self, prepared: PreparedData, scores: Scores) -> list[Any]:
        """Sections of the report that a task of a domain's own adds; they name no image."""
        return []

    def finish(self, run: Run, info: RunInfo, prepared: PreparedData, metrics: Mapping[str, Any]) -> None:
        """Add what the task further keeps in a run folder."""

    def hidden(self, recipe: Recipe, prepared: PreparedData, info: RunInfo) -> RunInfo | None:
        """What run.json holds where no sample is named or shown; None where they may be."""
        return Redaction.of(prepared.data, info.skipped).info(info) if recipe.redact else None

    def evaluate(self, use: Use, reporter: Reporter) -> Evaluated:
        if self.domain is None and not (use.features or (use.run.info.recipe.get("features") and not use.data)):
            raise CapabilityError(f"{use.run.shown}: made from a features file; give --features")
        return evaluate_run(use, self, self.prepared, reporter)

    def predict(self, use: Use, reporter: Reporter):
        own = self.own_files and not use.explain and not use.outputs
        reading = recipe_again(use).reading if own else {}
        if own and self.domain.writes_own(use, self.name, reading):
            if use.stream:
                raise ConfigError("--stream: files of the domain are not made from a stream; omit it, or --out")
            if use.per_patient is not None:
                raise ConfigError("--per-patient: files of the domain are not made of patients; omit it, or --out")
            load = partial(RunScorer, use, self)
            return self.domain.write_own(use, self.name, reading, load, reporter)
        return predict_with_run(use, self, reporter)

    def predictor(self, use: Use) -> Predictor:
        return Predictor.of_use(use, self)

    def served(self, use: Use, serving: Serving) -> Served:
        from .serving import ServedBags, ServedRun

        return (ServedBags if Predictor.of_tiles(use, self.domain) else ServedRun)(use, self, serving)

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        from .exporting import Export, export_run
        from .exporting_bags import BagExport

        kind = BagExport if adapter_class(use.run.info.adapter).reads_bags else Export
        return export_run(use, wishes, self.name, self.prepared, reporter, kind)

    def table(self, metrics: Mapping[str, Any]):
        table, further = metrics_table(metrics), Findings.of_metrics(judgements_of(self), metrics).tables
        return Group(table, *further) if further else table

    def falls(self, score: str) -> bool:
        if score in MEASURES:
            return MEASURES[score].falls
        own = self.domain.metrics if self.domain is not None else ()
        return any(metric.falls and metric.name == score.partition("/")[0] for metric in map(build_metric, own))

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        comparison = BaselineComparison.from_json(metrics)
        return "" if comparison is None else comparison.sentence

    def write_rows(self, predicted, path: Path) -> None:
        predicted.write(path)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return predictions_table(rows, {"images": "images", DECIDED: DECIDED, **self._judged_columns})

    def predictions_summary(self, rows: Sequence[Mapping[str, Any]]):
        return predictions_summary(rows, self._judged_columns, {} if self.domain is None else self.domain.words)

    @property
    def _judged_columns(self) -> dict[str, str]:
        """What judgements add to answers -> its heading."""
        columns = (judgement.columns for judgement in judgements_of(self).values())
        return {key: title for each in columns for key, title in each.items()}

    def setting(self, recipe: Recipe, prepared: PreparedData, tasks: str = "") -> Setting | None:
        """None without a protocol, on a set that was not recognised, on some of its classes, with other prompts or
        settings than its own, with images of another size, or from a features file, which does not say by which model
        it was made."""
        others = (recipe.classes, recipe.templates, recipe.descriptions, recipe.language, recipe.image_size)
        options = [key for key in recipe.given if key.startswith(("adapter.", "adapters")) and key != "adapter.name"]
        changed = any(each is not None for each in others) or recipe.preset != AUTO or bool(options)
        if recipe.protocol is None or prepared.backbone is None or prepared.data.published is None or changed:
            return None
        return Setting(recipe.backbone, recipe.protocol, prepared.data.published, tasks)

    @contextmanager
    def _checkpoints(self, recipe: Recipe, adapter: Adapter, prepared: PreparedData, shots: Shots, reporter: Reporter):
        """The folder of a fit's checkpoints; None for an adapter that keeps none."""
        if "pixels" in adapter.needs:
            of = (recipe.seed, recipe.shots, recipe.refit)
            runs, key = Path(recipe.out or RUNS), fit_key(adapter, prepared, shots, *of)
            with kept_checkpoints(runs, key, recipe.resume, reporter, newest_step) as folder:
                yield folder
            return
        if recipe.resume:
            reporter.info(f"--resume: {adapter.name} keeps no checkpoints, so there is nothing to continue from")
        yield None

    @part("run and report")
    def _written(self, recipe: Recipe, done: Fitted, started: float, folder: Path | None = None) -> FitResult:
        """The run folder with its report.

        Args:
            started: when the fit began, on the monotonic clock.
            folder: of a training's checkpoints, or None.
        """
        seconds, prepared, scores = time.monotonic() - started, done.judged.prepared, done.scores
        plain_info = self._info(recipe, done, seconds)
        further, hidden = self.further_sections(prepared, scores), self.hidden(recipe, prepared, plain_info)
        info = plain_info if hidden is None else hidden
        with Run.create(recipe.out, recipe.domain or "features", done.adapter.name) as run:
            write_fit(run, done, info, plain_info, folder)
            if scores.labels is not None:
                results = ClassificationResults.of_fit(done, info, further, shows=hidden is None)
                write_report(run.path, classification_report(results, run.path))
            self.finish(run, info, prepared, scores.metrics)
        summary, counts = run_summary(run, info, scores, seconds), (prepared.counts.computed, prepared.counts.cached)
        fitted, skipped = (run.path, done.adapter, done.report, scores.metrics), [tuple(pair) for pair in info.skipped]
        return FitResult(*fitted, summary, list(info.notes), skipped, *counts)

    def _info(self, recipe: Recipe, done: Fitted, seconds: float) -> RunInfo:
        """What run.json holds."""
        prepared, shots, metrics = done.judged.prepared, done.judged.shots, done.scores.metrics
        protocol, name = protocol_named(recipe.protocol), done.adapter.name
        without_labels = done.findings.get(WITHOUT_LABELS)
        by_labels = [] if without_labels is None else [without_labels.by_labels]
        reached = done.scores.adapted.get("accuracy") if prepared.data.kind == "labels" else None
        published = note_on_published(
            self.setting(recipe, prepared, protocol.tasks_of_fit), name, recipe.shots, reached
        )
        further = [*done.notes, *published, *done.report.notes, *by_labels]
        if done.scores.labels is None:
            further.append(f"The rows have no labels, so nothing is scored: {PREDICTIONS} in the run holds the answers")
        of_data = JudgedData(at=FIT, metrics=metrics, prepared=prepared)
        further += done.findings.add(judges_at(self, FIT, recipe.task_options), of_data)
        facts = {
            "created": now(),
            "domain": recipe.domain,
            **facts_of_model(prepared, done.adapter, place_of_data(recipe)),
            "shots": recipe.shots,
            "seed": recipe.seed,
            **facts_of_fit(done, notes_of(prepared, recipe.shots, further, shots, protocol.scenario), seconds),
            "recipe": recipe.with_(data={**recipe.data, **prepared.data.reading}).to_dict(),
            **done.findings.facts,
        }
        return RunInfo.from_json(facts)


def prepared_images(
    recipe: Recipe,
    reporter: Reporter,
    task: Task,
    divided: bool = True,
    fitted: RunInfo | None = None,
    judges: Sequence[Judgement] = (),
) -> Prepared:
    """Read, check, restrict and split the data, or, unless `divided`, keep data without splits whole for testing; load
    the backbone (its model is built only when it runs).

    Raises:
        DataError, ConfigError, CapabilityError: one line each, as DESIGN says.
    """
    domain = task.domain
    used = "prompts" if recipe.language is None else "settings"
    data = with_preset(classes_of_data(recipe, domain, task.name), domain, recipe.preset, used)
    check_read(data, judges)
    stored_texts = None if data.bags is None else data.bags.texts
    if divided and fitted is None and stored_texts is not None and recipe.gave("backbone"):
        raise ConfigError(
            f"--class-texts {stored_texts}: is in place of texts that --backbone {recipe.backbone} encodes; omit one "
            "of them"
        )
    data, had_splits = checked_and_split(data, reporter, recipe.workers, recipe.split_seed, divided, fitted)
    templates, notes = recipe.templates, []
    if recipe.language is None:
        templates, notes = protocol_named(recipe.protocol).prompts(templates, domain.of(data), task.name)
    data = replace(data, notes=[*data.notes, *notes])
    prepared = on_backbone(recipe, task, data, reporter)
    announced(prepared.backbone, reporter.info)
    return replace(prepared, given_templates=templates, given=recipe.resources, had_splits=had_splits)


def on_backbone(recipe: Recipe, task: Task, data: DomainData, reporter: Reporter) -> Prepared:
    """Data that the task's domain read, on the recipe's backbone."""
    encoding = Encoding(encoding_batch_size(recipe), recipe.workers, recipe.amp)
    bags = data.bags
    of_fit = bags is not None and is_tiles_spec(recipe.backbone)
    if bags is not None and of_fit:
        bags.check_of(recipe.backbone, str(data.items[0].source))
    asked = bags is None or of_fit or (recipe.gave("backbone") and bags.texts is None)
    backbone = backbone_of(recipe if asked else recipe.with_(backbone=bags.backbone), task.domain)
    if asked and bags is not None:
        backbone = as_wide_as(bags, backbone, recipe.device)
    announce_terms(recipe.backbone, reporter.info)
    return Prepared(
        domain=task.domain.of(data),
        task=task.name,
        data=data,
        backbone=backbone,
        store=FeatureStore(),
        reporter=reporter,
        encoding=encoding,
        given_templates=recipe.templates,
        words=class_words(recipe, task.domain.of(data)),
        descriptions=recipe.descriptions,
        reading=recipe.reading,
    )
