"""Regression: a number per image, from a head on stored features or from towers that are trained."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from ...backbones.load import announced
from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.items import Item, items_of
from ...contracts.judgement import Evaluated
from ...contracts.options import option, options_from, settle
from ...contracts.recipe import RUNS, Recipe
from ...contracts.run_info import FittedRun, RunInfo
from ...contracts.serving import Served, Serving
from ...contracts.task import Axes, Contest, FitResult, Task
from ...contracts.use import Exported, ExportWishes, Use
from ...data.verify import digests_of
from ...errors import CapabilityError, ConfigError
from ...losses.number import ERRORS
from ...recipes.asked_for import (
    adapter_options,
    backbone_of,
    check_hooks,
    check_named,
    data_facts,
    encoding_batch_size,
    place_of_data,
    read_data,
)
from ...registry import catalogue, load_adapter
from ...registry.catalogue import find_entry
from ...runs.folder import Run, in_the_fit, kept_digests, make_folder, now, versions
from ...runs.redaction import Redaction
from ...runs.run_sections import write_report
from ...runtime.distributed import is_main
from ...runtime.files import kept_checkpoints, write_whole
from ...runtime.progress import Reporter
from ...training.checkpoints import newest_step
from ...training.log import keep_logs
from ..classification.stored_run import facts_of_skipped, recipe_again
from ..tower_training.base import BACKBONE_FACTS
from ..tower_training.fitted import Training
from .contest import COMPARED, NumberContest
from .heads import (
    FEWEST_ROWS,
    HEADS,
    LINEAR,
    MLP,
    HeadTraining,
    NumberHead,
    NumberRows,
    fit_head,
    fitted_ridge,
    mean_head,
)
from .predictions import NumberPredictions, number_predictions_table
from .predictor import NumberPredictor
from .prepared import NumberImages, PreparedNumbers, prepared_features, prepared_number_images
from .report import regression_report
from .scoring import BASELINES, MEASURES, RIDGE, TRAIN_MEAN, NumberAnswers, NumberComparison
from .towers import adapted_by, new_adapter, train_number_towers

RIDGE_FILE, TOWERS_FILE = "ridge.safetensors", "towers.safetensors"
"""Beside `adapter.safetensors`, the head: the baseline, and what was trained of the towers."""
OF_IMAGES = frozenset({"data", "backbone", "image_size", "amp", "batch_size"})
SHOTS, SEEDS = (1, 4, 16, None), (1, 2, 3)
CONSTANT, ADAPTIVE = INTERVALS = ("constant", "adaptive")
HEAD = "head"


@dataclass(frozen=True, kw_only=True)
class RegressionOptions:
    """Options of regression."""

    head: str = option(MLP, "what is fitted on stored features", choices=HEADS)
    error: str = option("mse", "error that is minimised in training, of standardised numbers", choices=tuple(ERRORS))
    interval_coverage: float = option(
        0.9, "share of images whose true number the intervals are to hold", above=0, below=1
    )
    intervals: str = option(
        CONSTANT,
        "width of the intervals: constant for all images, or adaptive, wider where larger errors are expected",
        choices=INTERVALS,
    )

    def __post_init__(self):
        settle(self)


class Regression(Task):
    """A number per image."""

    name: ClassVar = "regression"
    options: ClassVar = RegressionOptions
    takes: ClassVar = frozenset({"adapter", "adapters", "shots", "redact", "resume", "custom_hooks"})
    at_evaluation: ClassVar = frozenset({"data", "features", "workers", "out"})
    at_prediction: ClassVar = frozenset({"batch_size", "workers"})
    compares: ClassVar = frozenset({"adapters", "backbones", "shots", "seeds"})
    deciding: ClassVar = COMPARED
    shot: ClassVar = "images per bin of the numbers"
    row_files: ClassVar = (".csv", ".jsonl")
    unused: ClassVar = {
        **dict.fromkeys(("classes", "novel", "templates", "descriptions", "language"), "numbers have no classes"),
        "val_shots": "val calibrates the intervals and chooses nothing; omit it",
        "out": "writes its rows as .csv or .jsonl; give such a file",
    }

    # the recipe ------------------------------------------------------------------------------------------------------

    def taken(self, recipe: Recipe) -> frozenset[str]:
        return self.takes | (frozenset({"features"}) if recipe.features else OF_IMAGES)

    def check(self, recipe: Recipe) -> None:
        if recipe.shots == 0:
            raise ConfigError("--shots 0: a regression learns from numbers; give 1 or more, or all")
        if recipe.adapter_name is None:
            _check_head(recipe)
            if recipe.custom_hooks or recipe.resume:
                option_ = "--resume" if recipe.resume else "--set custom_hooks"
                raise ConfigError(f"{option_}: a head on stored features is trained in one go; omit it")
            return
        if recipe.features:
            raise CapabilityError(
                f"--adapter {recipe.adapter_name}: trains on images, which a features file does not have; omit it, or "
                "give --data"
            )
        if recipe.task_options.get("head", MLP) != MLP:
            raise ConfigError(
                f"--head {recipe.task_options['head']}: --adapter {recipe.adapter_name} trains a linear layer with the "
                "towers; omit one of them"
            )
        new_adapter(recipe.adapter_name, adapter_options(recipe))
        check_hooks(recipe)

    # the commands ----------------------------------------------------------------------------------------------------

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        check_named(recipe, [recipe.adapter_name or ""])
        started, prepared = time.monotonic(), self._prepared(recipe, reporter)
        items = prepared.drawn(recipe.shots, recipe.seed)
        rows = prepared.rows(items, "training images")
        with self._checkpoints(recipe, rows, reporter) as folder:
            adapter, head, report = self._fitted(recipe, prepared, items, rows, recipe.seed, reporter, folder)
            towers = self._towers(adapter, prepared)
            parts = {"test": prepared.rows(prepared.split("test"), "test images")}
            val = prepared.data.split("val")
            parts["val"] = prepared.rows(val, "val images") if val else parts["test"].select([])
            seen = parts if towers is None else self._seen_by(towers, prepared, parts)
            head.column, head.made_by = prepared.column, prepared.made_by
            if recipe.task_options["intervals"] == ADAPTIVE:
                head.learn_errors(rows if towers is None else self._seen_by(towers, prepared, {"train": rows})["train"])
            intervals = head.calibrate(seen["val"], recipe.task_options["interval_coverage"])
            baselines = {TRAIN_MEAN: mean_head(rows), RIDGE: fitted_ridge(rows)}
            answers = NumberAnswers.of(head, seen["test"], baselines, parts["test"])
            if not is_main():
                return None
            notes = [*prepared.data.notes, *prepared.notes_on_draw(recipe.shots), *report.notes, intervals.note]
            if recipe.task_options["intervals"] == ADAPTIVE and not intervals.scaled:
                notes.append(f"Intervals are as wide for all images: adaptive ones need {FEWEST_ROWS} training images.")
            metrics = answers.metrics(head)
            of = {"report": report, "metrics": metrics, "notes": notes, "seconds": time.monotonic() - started}
            info = self._info(recipe, prepared, {"train": rows, **parts}, adapter, of)
            run = self._written(recipe, prepared, info, head, adapter, answers, metrics, folder)
        summary = {
            "run": str(run.path),
            **{key: run.info[key] for key in ("domain", "task", "adapter")},
            "backbone": run.info.backbone.spec or None,
            **{key: run.info[key] for key in ("shots", "seed")},
            **metrics,
            "seconds": run.info.seconds,
        }
        skipped = [(name, reason) for name, reason in run.info.skipped]
        counts: dict[str, Any] = {"encoded": prepared.encoded, "from_store": prepared.stored}
        return FitResult(run.path, adapter, report, metrics, summary, list(run.info.notes), skipped, **counts)

    def evaluate(self, use: Use, reporter: Reporter) -> Evaluated:
        if self.domain is None and not (use.features or (use.run.info.recipe.get("features") and not use.data)):
            raise CapabilityError(f"{use.run.shown}: made from a features file; give --features")
        recipe, info = recipe_again(use), use.run.info
        other = bool(use.data or use.features)
        prepared = self._prepared(recipe, reporter, divided=not other, fitted=None if other else info)
        head, baselines, adapter = _stored(use.run, self._backbone(prepared))
        if prepared.made_by and head.made_by and prepared.made_by != head.made_by:
            raise CapabilityError(f"{prepared.data.name}: features of another backbone than the run's; use that one")
        rows = prepared.rows(prepared.split(use.split), f"{use.split} images")
        towers = self._towers(adapter, prepared)
        seen = rows if towers is None else self._seen_by(towers, prepared, {"rows": rows})["rows"]
        answers = NumberAnswers.of(head, seen, baselines, rows)
        skipped = facts_of_skipped(prepared.data.skipped, prepared.skipped)
        hidden = Redaction.of(prepared.data, skipped) if use.redact else None
        skipped = skipped if hidden is None else hidden.pairs(skipped)
        items = items_of(rows.ids, prepared.data.items)
        result = Evaluated(
            run=use.run.shown,
            data=prepared.data.name,
            split=use.split,
            in_fit=in_the_fit(info, lambda: digests_of(items)),
            metrics=answers.metrics(head),
            notes=list(prepared.data.notes) or None,
            skipped=skipped,
        )
        if use.out is not None and is_main():
            make_folder(Path(use.out))
            facts = {**info.data, "name": prepared.data.name, "licence": prepared.data.licence, "splits": {}}
            info = info.with_(created=now(), data=facts, notes=list(result.notes or ()), skipped=skipped)
            report = self._report(Path(use.out), info, result, answers, prepared, hidden)
            lead = f"{result.words} {report.lead.replace(' that it never saw', '')}"
            write_report(Path(use.out), report.of_evaluation(use.run.shown, lead))
        return result

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        from ...export.package import NewExport
        from .exporting import NumberExport

        if wishes.int8:
            raise ConfigError("--int8: is for classification; omit it")
        new, recipe, other = NewExport(use.run, wishes), recipe_again(use), bool(use.data or use.features)
        prepared = self._prepared(recipe, reporter, divided=not other, fitted=None if other else use.run.info)
        head, _, adapter = _stored(use.run, self._backbone(prepared))
        items = prepared.split("all" if other else "test")
        return NumberExport(use, prepared, items, head, self._towers(adapter, prepared)).write(new, reporter)

    def served(self, use: Use, serving: Serving) -> Served:
        from .serving import ServedNumbers

        return ServedNumbers(self.predictor(use), use, serving)

    def predict(self, use: Use, reporter: Reporter) -> NumberPredictions:
        return self.predictor(use).predict_use(use, reporter)

    def predictor(self, use: Use) -> NumberPredictor:
        info = use.run.info
        if not info.backbone or self.domain is None:
            raise CapabilityError(
                f"{use.run.shown}: made from a features file, so there is no backbone to encode images with; use "
                "`vladapt eval --features FILE`"
            )
        recipe = recipe_again(use)
        backbone = backbone_of(recipe.with_(backbone=info.backbone.spec), self.domain, device=use.device)
        head, _, adapter = _stored(use.run, backbone)
        of = (use.run, recipe, backbone, head, adapted_by(adapter, backbone))
        return NumberPredictor(self.domain, self.name, *of)

    def write_rows(self, predicted: NumberPredictions, path: Path) -> None:
        if path.suffix.lower() != ".csv":
            super().write_rows(predicted, path)
            return
        write_whole(path, predicted.csv())
        predicted.files.append(path)

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        named = [*(axes.adapters or ()), *([recipe.adapter_name] if recipe.adapter_name else [])]
        for name in named:
            find_entry(name, catalogue.adapters(), "adapter")
            self.check(recipe.with_adapter(name))
        names = [*BASELINES, HEAD, *dict.fromkeys(named)]
        shots = axes.shots or ((recipe.shots,) if recipe.gave("shots") else SHOTS)
        if 0 in shots:
            raise ConfigError("--shots 0: a regression learns from numbers; give 1 or more, or all")
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"adapter": name, "shots": k, "seed": seed} for k in shots for seed in seeds for name in names]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        prepared = self._prepared(recipe, reporter)

        def fit(name: str, items: Sequence[Item], rows: NumberRows, seed: int) -> tuple[NumberHead, NumberRows]:
            own = recipe.with_(adapter={"name": None}) if recipe.adapter_name and name == HEAD else recipe
            asked = own if name == HEAD else recipe.with_adapter(name)
            adapter, head, _ = self._fitted(asked, prepared, items, rows, seed, Reporter(quiet=True))
            towers = self._towers(adapter, prepared)
            return head, prepared.rows(prepared.split("test"), "test images", towers)

        return NumberContest(prepared, fit)

    # what a user sees ------------------------------------------------------------------------------------------------

    def table(self, metrics: Mapping[str, Any]):
        return NumberComparison.from_json(metrics).table()

    def falls(self, score: str) -> bool:
        return score == "bias" or (score in MEASURES and MEASURES[score].falls)

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return NumberComparison.from_json(metrics).sentence

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return number_predictions_table(rows)

    # its steps -------------------------------------------------------------------------------------------------------

    def _prepared(
        self, recipe: Recipe, reporter: Reporter, divided: bool = True, fitted: RunInfo | None = None
    ) -> PreparedNumbers:
        of: dict[str, Any] = {"split_seed": recipe.split_seed, "divided": divided}
        if recipe.features:
            return prepared_features(Path(recipe.features), reporter, **of)
        domain = self._domain
        data = read_data(recipe, domain, self.name)
        backbone = announced(backbone_of(recipe, domain), reporter.info)
        how = {"batch_size": encoding_batch_size(recipe), "workers": recipe.workers, "amp": recipe.amp}
        return prepared_number_images(data, domain, self.name, backbone, reporter, how=how, fitted=fitted, **of)

    @property
    def _domain(self) -> Domain:
        """What reads the images."""
        if self.domain is None:
            raise CapabilityError("images need a domain, which says how they are read; give --domain")
        return self.domain

    def _fitted(
        self,
        recipe: Recipe,
        prepared: PreparedNumbers,
        items: Sequence[Item],
        rows: NumberRows,
        seed: int,
        reporter: Reporter,
        folder: Path | None = None,
    ) -> tuple[Adapter | None, NumberHead, FitReport]:
        """A head on the features of the training images, or towers that are trained with one."""
        if recipe.adapter_name is None:
            kind, error = recipe.task_options["head"], recipe.task_options["error"]
            return None, *fit_head(rows, kind, error, _head_training(recipe), seed)
        if not isinstance(prepared, NumberImages):
            raise CapabilityError(f"--adapter {recipe.adapter_name}: trains on images; give --data")
        adapter = new_adapter(recipe.adapter_name, adapter_options(recipe))
        training = Training(
            adapter,
            seed,
            resume=recipe.resume and folder is not None,
            amp=recipe.amp,
            workers=recipe.workers,
            tolerate=recipe.tolerate,
            hooks=recipe.custom_hooks,
        )
        error = recipe.task_options["error"]
        return train_number_towers(adapter, training, prepared, items, rows, error, reporter, folder)

    @staticmethod
    def _backbone(prepared: PreparedNumbers) -> Backbone | None:
        return prepared.backbone if isinstance(prepared, NumberImages) else None

    def _towers(self, adapter: Adapter | None, prepared: PreparedNumbers) -> Backbone | None:
        backbone = self._backbone(prepared)
        return None if backbone is None else adapted_by(adapter, backbone)

    @staticmethod
    def _seen_by(towers: Backbone, prepared: PreparedNumbers, parts: Mapping[str, NumberRows]) -> dict[str, NumberRows]:
        """The same images, as trained towers see them."""
        items = {name: items_of(rows.ids, prepared.data.items) for name, rows in parts.items()}
        return {name: prepared.rows(items[name], f"{name} images", towers) for name in parts}

    def _checkpoints(self, recipe: Recipe, rows: NumberRows, reporter: Reporter):
        """A context that yields the folder of checkpoints of towers; None where none are trained."""
        if recipe.adapter_name is None:
            return nullcontext(None)
        left_out = ("resume", "out", "workers", "tolerate", "given")
        stated = {key: value for key, value in recipe.to_dict().items() if key not in left_out}
        key = hashlib.sha256(repr([sorted(map(str, stated.items())), rows.ids]).encode()).hexdigest()[:16]
        return kept_checkpoints(Path(recipe.out or RUNS), key, recipe.resume, reporter, newest_step)

    def _info(
        self,
        recipe: Recipe,
        prepared: PreparedNumbers,
        parts: Mapping[str, NumberRows],
        adapter: Adapter | None,
        of: Mapping[str, Any],
    ) -> RunInfo:
        data, backbone = prepared.data, self._backbone(prepared)
        taught = {name: items_of(parts[name].ids, data.items) for name in ("train", "val")}
        facts = {
            "created": now(),
            "domain": recipe.domain,
            "task": self.name,
            "adapter": recipe.adapter_name or recipe.task_options["head"],
            "adapter_options": {} if adapter is None else adapter.options,
            "backbone": None if backbone is None else {name: getattr(backbone, name) for name in BACKBONE_FACTS},
            "data": {
                **data_facts(data, place_of_data(recipe)),
                "splits": {name: len(rows) for name, rows in parts.items()},
            },
            "class_names": [],
            "column": prepared.column,
            "shots": recipe.shots,
            "seed": recipe.seed,
            "fit": of["report"].to_dict(),
            "verdict": self.verdict(of["metrics"]),
            "splits": {name: list(rows.ids) for name, rows in parts.items()},
            "digests": kept_digests(taught, digests_of),
            "skipped": facts_of_skipped(prepared.data.skipped, prepared.skipped),
            "notes": [note[0].upper() + note[1:] for note in dict.fromkeys(of["notes"]) if note],
            "encoded_images": prepared.encoded,
            "stored_images": prepared.stored,
            "seconds": round(of["seconds"], 3),
            "versions": versions(),
            "recipe": recipe.with_(data={**recipe.data, **data.reading}).to_dict(),
        }
        return RunInfo.from_json(facts)

    def _written(
        self,
        recipe: Recipe,
        prepared: PreparedNumbers,
        info: RunInfo,
        head: NumberHead,
        adapter: Adapter | None,
        answers: NumberAnswers,
        metrics: Mapping[str, Any],
        folder: Path | None,
    ) -> Run:
        hidden = Redaction.of(prepared.data, info.skipped) if recipe.redact else None
        info = info if hidden is None else hidden.info(info)
        with Run.create(recipe.out, recipe.domain or self.name, info.adapter) as run:
            head.save(run.adapter_path)
            answers.baselines[RIDGE].save(run.path / RIDGE_FILE)
            if adapter is not None:
                adapter.save(run.path / TOWERS_FILE)
            if folder is not None:
                keep_logs(folder, run.path)
            run.write(info, metrics)
            result = NumberComparison.from_json(run.metrics)
            run.log("\n".join([*info.notes, info.verdict, f"adapted: {result.adapted}"]))
            write_report(run.path, self._report(run.path, info, result, answers, prepared, hidden))
        return run

    def _report(
        self, folder: Path, info: RunInfo, result: Any, answers: NumberAnswers, prepared: PreparedNumbers, hidden: Any
    ):
        items = {item.id: item for item in prepared.data.items}
        shown = prepared.data.has_images and hidden is None
        picture = (lambda id_: prepared.data.load(items[id_])) if shown else None
        result = result if isinstance(result, NumberComparison) else NumberComparison.from_json(result.to_json())
        return regression_report(folder, info, result, answers, picture)


def _check_head(recipe: Recipe) -> None:
    """Raise the ConfigError of an option that a kind of head does not use, or that has a wrong value."""
    _head_training(recipe)
    kind = recipe.task_options["head"]
    unused = {RIDGE: [each.name for each in fields(HeadTraining)], LINEAR: ["hidden", "dropout"]}.get(kind, [])
    if kind == RIDGE and recipe.task_options["error"] != "mse":
        raise ConfigError(
            f"--error {recipe.task_options['error']}: ridge minimises the squared error; omit --error or --head"
        )
    if stated := [name for name in unused if name in recipe.adapter_options]:
        raise ConfigError(f"adapter.{stated[0]}: is not used by --head {kind}; omit it, or give --head mlp")


def _head_training(recipe: Recipe) -> HeadTraining:
    return options_from(HeadTraining, recipe.adapter_options, "the head of regression")


def _stored(run: FittedRun, backbone: Backbone | None) -> tuple[NumberHead, dict[str, NumberHead], Adapter | None]:
    """The head of a run, its baselines, and what it trained of the towers.

    Raises:
        DataError: a file is damaged.
    """
    head, ridge = NumberHead.load(run.adapter_path), NumberHead.load(run.path / RIDGE_FILE)
    mean = NumberHead(TRAIN_MEAN, ridge.width)
    mean.mean.copy_(ridge.mean)
    file = run.path / TOWERS_FILE
    adapter = load_adapter(file, backbone) if file.is_file() and backbone is not None else None
    return head, {TRAIN_MEAN: mean, RIDGE: ridge}, adapter
