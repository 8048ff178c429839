"""The base of tasks that train an mmengine config: how they fit, score, predict and compare."""

from __future__ import annotations

import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine import Config
from safetensors.torch import save_file
from torch import nn

from ...backbones.languages import note_on_language
from ...backbones.load import announced, load_backbone
from ...contracts.adapter import FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import Evaluation
from ...contracts.items import DomainData, Item
from ...contracts.judgement import Evaluated
from ...contracts.output_kind import LabelMap
from ...contracts.recipe import RUNS, SAMPLE, TRAINING, Recipe
from ...contracts.run_info import BeforeAfter, FittedRun, RunInfo
from ...contracts.serving import Serving
from ...contracts.task import Axes, Contest, FitResult, Task
from ...contracts.use import Use
from ...data.unlabelled import images_of, readable
from ...data.verify import digest_of_set, digests_of
from ...errors import CapabilityError, ConfigError, DataError
from ...recipes.asked_for import (
    class_words,
    data_facts,
    place_of_data,
    read_data,
    readable_samples,
    split_samples,
    with_language,
)
from ...recipes.resolve import resolve
from ...runs.folder import Run, in_the_fit, kept_digests, now, versions
from ...runs.redaction import Redaction
from ...runs.run_sections import write_report
from ...runtime.distributed import check_shared, is_main, run_on_all, world_size
from ...runtime.files import kept_checkpoints
from ...runtime.progress import Reporter
from ...training.log import keep_logs
from ..classification.stored_run import recipe_again
from .kept_model import KeptModel
from .kept_plan import check_registered_types, kept_of
from .registered import registered_only
from .report import (
    config_training_report,
    evaluation_metrics,
    is_error,
    scores_table,
    summaries_table,
    write_evaluation,
)
from .results import ConfigPredictions, FittedConfig
from .runner import kept_weights, newest_epoch, plan_key, quiet_mm, train_plan
from .serving import Finder, ServedConfig, by_picture

Progress = Callable[[int, int], None]
SEEDS = (1, 2, 3)
ADAPTER = "own"
"""What run.json has as the adapter of a run that fitted none."""


class ConfigTask(Task):
    """A task whose training is an mmengine Config, run by mmengine's Runner.

    A task implements `plan` (what is trained) and `score` (how well a model does), and where it can, `look`, `save` and
    `rename`. It says which with `can`, a subset of {"predict", "save", "rename"}.
    """

    takes: ClassVar = frozenset({"data", "adapter", "plan", "shots", "backbone", "image_size", "amp", "batch_size"}) | {
        "redact",
        "classes",
        "novel",
        "resume",
    }
    at_evaluation: ClassVar = frozenset({"data", "workers", "classes", "out"})
    at_prediction: ClassVar = frozenset({"classes", "out"})
    compares: ClassVar = frozenset({"recipes", "backbones", "shots", "seeds"})
    method: ClassVar = "recipe"
    can: ClassVar[frozenset[str]] = frozenset()
    refusals: ClassVar[Mapping[str, str]] = {
        "export": "models of mmengine configs have no fixed graph: what they compute depends on the image; predict "
        "with the run"
    }

    # what a task says -------------------------------------------------------------------------------------------------

    @abstractmethod
    def plan(self, recipe: Recipe, data: DomainData, backbone: Backbone) -> Config | None:
        """An mmengine Config of a whole training (model, train_dataloader, train_cfg, optim_wrapper, ...), or None
        where there is nothing to train. `recipe.plan` is the user's own, or a packaged one, or empty. Without
        `train_cfg` its model is used as it is built. `model` must be a plain dict: it is kept in run.json with
        `default_scope` and the group `vladapt`, and built again from the registries at prediction; all three are then
        `model.cfg`."""

    @abstractmethod
    def score(self, model: nn.Module | None, data: DomainData, backbone: Backbone, progress: Progress) -> Evaluation:
        """Metrics on the items of the test split. `model` is the trained module, or None without a plan; where it has
        fixed classes, `data.class_names` are to be those."""

    def look(self, model, data: DomainData, backbone: Backbone, progress: Progress) -> list[dict[str, Any]]:
        """One JSON-able dict per item, with its `id` and, for a table, its `summary`."""
        raise CapabilityError(self._refusal("predict"))

    def answer(self, use: Use, model, data: DomainData, backbone: Backbone, progress: Progress) -> list[dict[str, Any]]:
        """What `look` gives, with what a use asks for beside it; of a task whose `at_prediction` has more."""
        return self.look(model, data, backbone, progress)

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Write what `look` gave into a folder, as pictures and files with the suffixes in `writes`; returns them."""
        raise CapabilityError(f"--out: {self.title} writes no files of its predictions; omit --out, use --json")

    def label_map(self, row: Mapping[str, Any], class_names: Sequence[str]) -> LabelMap:
        """What a row of `look` outlines, for kinds of output; of a task whose `gives` has `MASKS`."""
        raise CapabilityError(self._refusal("predict"))

    def finder(self, model: nn.Module) -> Finder:
        """What finds things by a trained model, for `vladapt serve`."""
        raise CapabilityError(f"{self.title} is not supported by vladapt serve; use vladapt predict")

    def labels(
        self, model: nn.Module, rows: list[dict[str, Any]], data: DomainData, use: Use, own: DomainData | None
    ) -> Any:
        """What `look` gave as a data set of labels, for kinds of output, of a task whose `gives` has `BOXES`; `own` is
        what the run was fitted and tested on, where that is to be among them."""
        raise CapabilityError(self._refusal("predict"))

    def sure(self, rows: list[dict[str, Any]], threshold: float | None) -> list[dict[str, Any]]:
        """Rows without what scores less."""
        return rows

    def cut(self, data: DomainData, use: Use) -> DomainData:
        """New images as the model is to see them: windows of large ones."""
        return data

    def check_model(self, model: nn.Module, data: DomainData, use: Use, own: DomainData | None) -> None:
        """Raise the error of what is asked of a model that it does not give; `own` as of `labels`."""

    def settle_on_val(self, plan: Config, model: nn.Module, data: DomainData, progress: Progress) -> None:
        """What is chosen on the val split for a trained model, into its plan, which the run keeps."""

    def notes_on(self, model: nn.Module | None) -> list[str]:
        """Sentences for who has asked a trained model."""
        return []

    def rename(self, model: nn.Module, classes: Any) -> tuple[str, ...]:
        """Give a trained model other class names, in place; returns the names."""
        raise CapabilityError(f"--classes: {self.title} has fixed classes; omit --classes")

    def backbone_spec(self, recipe: Recipe) -> str:
        """The backbone of a fit: the recipe's, unless a config of the recipe's stands on one of its own."""
        return recipe.backbone

    def backbone_of(self, recipe: Recipe, spec: str, device: Any) -> Backbone:
        """The backbone of a spec; one that takes bands by what they are is told those of the recipe."""
        backbone = load_backbone(spec, device=device, image_size=recipe.image_size)
        channels = self.domain.channels(recipe.reading) if backbone.by_band and self.domain is not None else None
        if channels is None:
            return backbone
        return load_backbone(spec, device=device, image_size=recipe.image_size, channels=channels)

    def choose(self, recipe: Recipe, data: DomainData) -> DomainData:
        """What the recipe wants of a set whose splits are assigned: its classes, its shots."""
        return data

    def read_config(self, recipe: Recipe) -> DomainData | None:
        """The data that the recipe's config names, where no data set is given; None: it names none."""
        return None

    def facts(self, recipe: Recipe, data: DomainData) -> Mapping[str, Any]:
        """What follows from the chosen data and is trained, JSON-able."""
        return super().planned(recipe, Reporter(quiet=True))

    def check_data(self, recipe: Recipe, data: DomainData) -> None:
        """Raise the DataError of chosen data that a training cannot learn from; asked before any model is built."""

    def taught(self, recipe: Recipe, data: DomainData, device: torch.device, reporter: Reporter) -> DomainData:
        """What a training sees of the chosen data, where that is not what is annotated."""
        return data

    def train(
        self,
        plan: Config,
        folder: Path,
        recipe: Recipe,
        data: DomainData,
        device: torch.device,
        reporter: Reporter,
        change: Callable[[nn.Module], None] | None = None,
    ) -> tuple[nn.Module, list[dict[str, float]]]:
        """Run a plan on the chosen data, as `train_plan` does."""
        return train_plan(plan, folder, recipe.seed, device, reporter, recipe.resume, change)

    def images(self, paths: Sequence[str | Path], recipe: Recipe) -> DomainData:
        """New images, without those that cannot be read or decoded."""
        return readable(images_of(self.domain, paths, recipe.reading), decode=True)

    @staticmethod
    def per_process(batch_size: int) -> int:
        """Of the samples of a step, counted over all processes, the share of one.

        Raises:
            ConfigError: the processes cannot share them evenly.
        """
        processes = world_size()
        if batch_size % processes:
            raise ConfigError(
                f"--batch-size {batch_size}: {processes} processes share a step; give a multiple of {processes}"
            )
        return batch_size // processes

    @staticmethod
    def used_again(use: Use) -> Recipe:
        """The recipe of a run, with what a use of it changes."""
        return recipe_again(use)

    # the commands -----------------------------------------------------------------------------------------------------

    def check(self, recipe: Recipe) -> None:
        if recipe.shots == 0:
            raise ConfigError(f"--shots 0: {self.title} is trained on labelled images; give 1 or more")
        for key in recipe.given:
            if key.startswith("adapter.") and key.partition(".")[2] not in TRAINING:
                value = recipe.adapter.get(key.partition(".")[2])
                flag = f"--adapter {value}" if key == "adapter.name" else f"--set {key}={value}"
                raise ConfigError(
                    f"{flag}: {self.title} trains a config, not an adapter; omit it (--recipe or --config says what is "
                    "trained)"
                )

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        started = time.monotonic()
        data = self._data(recipe, reporter)
        check_shared(digest_of_set(data) if world_size() > 1 else "", "images or annotations")
        backbone, plan, notes = self._planned(recipe, data, reporter)
        data = replace(data, notes=notes)
        keep: AbstractContextManager[Path | None] = nullcontext()
        if plan is not None:
            runs, key = Path(recipe.out or RUNS), plan_key(plan, recipe.seed)
            keep = kept_checkpoints(runs, key, recipe.resume, reporter, newest_epoch)
        with keep as folder:
            model: Any = None
            history: list[dict[str, float]] = []
            if plan is not None:
                model, history = self.train(plan, folder, recipe, data, backbone.device, reporter)

            def written() -> FitResult | None:
                if not is_main():
                    return None
                if plan is not None:
                    with reporter.task("Choosing on val") as progress, quiet_mm():
                        self.settle_on_val(plan, model, data, progress)
                done = FittedConfig(data, backbone, plan, model, history, self._scored(model, data, backbone, reporter))
                return self._written(recipe, done, started, folder)

            return run_on_all(written)

    def used_as_it_is(self, recipe: Recipe, data: DomainData, reporter: Reporter) -> Path:
        """The folder of a run whose model is used as it is, tested on nothing.

        Args:
            recipe: whose plan has no `train_cfg`.
            data: without images, with the classes of the model.
        """
        started = time.monotonic()
        backbone, plan, _ = self._planned(recipe, data, reporter)
        model, history = self.train(plan, Path(), recipe, data, backbone.device, reporter)
        done = FittedConfig(data, backbone, plan, model, history, Evaluation({}))
        return self._written(recipe, done, started, None).run

    def planned(self, recipe: Recipe, reporter: Reporter) -> Mapping[str, Any]:
        return self.facts(recipe, self._data(recipe, reporter))

    def evaluate(self, use: Use, reporter: Reporter) -> Evaluated:
        """Scores of a run's model; the recipe's choices are of the run's own data."""
        check_registered_types(use.run)
        recipe, elsewhere = self.used_again(use), bool(use.data)
        backbone = self.backbone_of(recipe, use.run.info.backbone.spec, recipe.device)
        with registered_only():
            data = self._read(recipe)
            chosen = self._chosen(data, recipe, use.split, elsewhere, reporter)
            model = KeptModel(use.run).load(backbone.device)
            if use.classes is not None:
                self._rename(use.run, model, use.classes)
            with KeptModel(use.run).running():
                scores = self._scored(model, chosen, backbone, reporter)
        overlap = in_the_fit(use.run.info, lambda: digests_of(chosen.split("test")))
        result = Evaluated(
            run=use.run.shown,
            data=data.name,
            split=use.split,
            in_fit=overlap,
            metrics=evaluation_metrics(scores, chosen),
            notes=scores.notes,
            skipped=[list(pair) for pair in chosen.skipped],
        )
        if use.out is not None and is_main():
            write_evaluation(Path(use.out), use.run, chosen, result, scores, use.redact)
        return result

    def predict(self, use: Use, reporter: Reporter) -> ConfigPredictions:
        if "predict" not in self.can:
            raise CapabilityError(f"{use.run.shown}: {self._refusal('predict')}")
        check_registered_types(use.run)
        recipe = self.used_again(use)
        backbone = self.backbone_of(recipe, use.run.info.backbone.spec, use.device)
        labels = any(kind.made_of == kind.BOXES for kind in use.outputs)
        saves = use.out and not labels and ("save" in self.can or not use.outputs)
        folder = self._folder(use.out) if saves else None
        data = self.cut(self.images(use.images, recipe), use)
        for kind in use.outputs:
            kind.check_sources(data.items)
        own = self._own_data(use) if use.own_data else None
        model = KeptModel(use.run).load(backbone.device)
        names: Sequence[str] = use.run.info.class_names
        if use.classes is not None:
            names = self._rename(use.run, model, use.classes)
        with reporter.task("Looking at images") as progress, quiet_mm(), KeptModel(use.run).running():
            self.check_model(model, data, use, own)
            rows = self.sure(self.answer(use, model, data, backbone, progress), use.threshold)
        files = self.save(rows, data, names, folder) if folder else []
        files += self.domain.further_files(rows, data, names, folder) if folder else []
        predicted = ConfigPredictions(rows, data.skipped, files, self.notes_on(model), by_picture(data.items))
        by_id = {row["id"]: row for row in rows}
        predicted.label_map = lambda name: self.label_map(by_id[name], names)
        if labels:
            predicted.labels = self.labels(model, rows, data, use, own)
            predicted.notes += predicted.labels.notes
        return predicted

    def served(self, use: Use, serving: Serving) -> ServedConfig:
        if "serve" in self.refusals:
            raise CapabilityError(f"{use.run.shown}: {self._refusal('serve')}")
        self.check_use(use, "predict")
        assert self.domain is not None
        return ServedConfig(use, self.domain, self.used_again(use).reading, self.finder, serving)

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Every recipe at every number of shots and seed."""
        recipes = axes.recipes or ("",)
        shots = axes.shots or (recipe.shots,)
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"recipe": r, "shots": k, "seed": seed} for r in recipes for k in shots for seed in seeds]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        plans = {name: self._with_plan(recipe, name) for name in axes.recipes or ("",)}
        return ConfigContest(self, plans, self._split(recipe, reporter))

    def table(self, metrics: Mapping[str, Any]):
        return scores_table(metrics)

    def falls(self, score: str) -> bool:
        return is_error(score) or score == "bias"

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return summaries_table(rows)

    # ------------------------------------------------------------------------------------------------------------------

    def _read(self, recipe: Recipe) -> DomainData:
        """The data set that is given, else the one that the recipe's config names, else the domain's sample."""
        data = self.read_config(recipe) if recipe.plan and recipe.data_path == SAMPLE else None
        data = read_data(recipe, self.domain, self.name) if data is None else data
        words = class_words(recipe, self.domain)
        return data if words is None else words.applied(data)

    def filled(self, recipe: Recipe) -> Recipe:
        """With what the language's file says."""
        return with_language(super().filled(recipe), self.domain)

    def templates(self, recipe: Recipe) -> Any:
        """The prompts that are given, else those of the recipe's language; None for the config's own."""
        words = class_words(recipe, self.domain)
        return recipe.templates if words is None else list(words.templates) or None

    def _data(self, recipe: Recipe, reporter: Reporter) -> DomainData:
        """What a fit trains and tests on."""
        return self.choose(recipe, self._split(recipe, reporter))

    def _split(self, recipe: Recipe, reporter: Reporter) -> DomainData:
        """Readable samples with splits, and what the domain computes of those for training."""
        data = split_samples(self._read(recipe), reporter, recipe.workers, recipe.split_seed)
        assert self.domain is not None
        return self.domain.from_training(data, **recipe.reading)

    def _own_data(self, use: Use) -> DomainData:
        """What a run was fitted and tested on, for labels beside it."""
        try:
            recipe = self.used_again(replace(use, images=()))
        except DataError as error:
            raise DataError(f"--own-data: {str(error).rpartition(';')[0]}; omit --own-data") from error
        return self._data(recipe, Reporter(quiet=True))

    def _with_plan(self, recipe: Recipe, name: str) -> Recipe:
        """The recipe with the config, and the keys, of a packaged recipe or of a file."""
        if not name:
            return recipe
        other = resolve(config=name) if Path(name).suffix else resolve(recipe=name)
        own_sections = {key.partition(".")[0] for key in recipe.given}
        changes = {key: getattr(other, key) for key in {k.partition(".")[0] for k in other.given} - own_sections}
        return self.settled(recipe.with_(**changes, given=recipe.given | other.given))

    def _planned(
        self, recipe: Recipe, data: DomainData, reporter: Reporter
    ) -> tuple[Backbone, Config | None, list[str]]:
        """What a training starts from, its plan, and what is said of the data that it sees."""
        self.check_data(recipe, data)
        backbone = self.backbone_of(recipe, self.backbone_spec(recipe), recipe.device)
        announced(backbone, reporter.info)
        lesson = self.taught(recipe, data, backbone.device, reporter)
        words = class_words(recipe, self.domain)
        further = None if words is None else note_on_language(backbone, words.code, words.language)
        return backbone, self.plan(recipe, lesson, backbone), [*lesson.notes, *filter(None, [further])]

    def _scored(self, model, data: DomainData, backbone: Backbone, reporter: Reporter) -> Evaluation:
        with reporter.task("Testing") as progress, quiet_mm():
            return self.score(model, data, backbone, progress)

    def _chosen(self, data: DomainData, recipe: Recipe, split: str, elsewhere: bool, reporter: Reporter) -> DomainData:
        """The data with the chosen split as its test split."""
        splits = {item.split for item in data.items if item.split}
        if split == "all" or (elsewhere and split == "test" and len(splits) < 2):  # a file of one split, tested whole
            data, split = readable_samples(data, reporter, recipe.workers), "test"
            data = data.with_items([item.with_(split=split) for item in data.items])
        else:
            data = split_samples(data, reporter, recipe.workers, recipe.split_seed)
        data = data if elsewhere else self.choose(recipe, data)
        items = [item.with_(split="test") for item in data.split(split)]
        counted = [item for item in items if split == "train" or not item.unreviewed]
        if not counted:
            which = "of which a person made or reviewed the labels" if items else ""
            raise DataError(
                f"--split {split}: {data.name or 'the data'} has no such images{which and ' ' + which}; give another "
                "split, or all"
            )
        if left_out := len(items) - len(counted):
            note = f"Images with labels that a model made and nobody has reviewed, left out: {left_out}."
            data = replace(data, notes=[*data.notes, note])
        return data.with_items(counted)

    def _rename(self, run: FittedRun, model: nn.Module | None, classes: Any) -> tuple[str, ...]:
        if model is None and "rename" in self.can:
            raise CapabilityError(f"{run.shown}: nothing was trained in this run; omit --classes")
        return self.rename(model, classes)

    def _folder(self, out: str | Path) -> Path:
        """The folder, before anything is predicted in vain."""
        if "save" not in self.can:
            self.save([], DomainData([], (), load=lambda item: None), (), Path(out))
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"--out {out}: cannot be made ({error.strerror}); give a writable folder"
            raise DataError(reason) from error
        return Path(out)

    def _written(self, recipe: Recipe, done: FittedConfig, started: float, folder: Path | None) -> FitResult:
        """Write the run.

        Args:
            started: `time.monotonic()` at the start of the fit.
            folder: of the training's log, or None.
        """
        metrics, data = evaluation_metrics(done.scores, done.data), done.data
        with Run.create(recipe.out, recipe.domain, ADAPTER) as run:
            info, sections = self._info(recipe, done, time.monotonic() - started), done.scores.sections
            if recipe.redact:
                redaction = Redaction.of(data)
                info, sections = redaction.info(info), redaction.sections(sections)
            save_file(kept_weights(done.model), str(run.adapter_path))
            if folder is not None:
                keep_logs(folder, run.path)
            run.write(info, metrics)
            notes = [f"note: {note}" for note in info.notes]
            run.log("\n".join([f"{recipe.domain} {self.name}", *notes, f"adapted: {done.scores.metrics}"]))
            scores = BeforeAfter.from_json(run.metrics)
            write_report(run.path, config_training_report(run.path, run.info, scores, sections, done.history))
        keys = ("domain", "task", "adapter", "shots", "seed", "seconds")
        facts = {**{key: info[key] for key in keys}, "backbone": done.backbone.spec}
        report = FitReport(ADAPTER, chosen_on="the config" if done.taught_by else "nothing to train")
        skipped = [(name, reason) for name, reason in info.skipped]
        summary = {"run": str(run.path), **facts, **run.metrics}
        return FitResult(run.path, None, report, run.metrics, summary, list(info.notes), skipped)

    def _info(self, recipe: Recipe, done: FittedConfig, seconds: float) -> RunInfo:
        data, backbone = done.data, done.backbone
        facts = {
            "created": now(),
            "domain": recipe.domain,
            "task": self.name,
            "adapter": ADAPTER,
            "backbone": {"spec": backbone.spec, "fingerprint": backbone.fingerprint, "licence": backbone.licence},
            "data": data_facts(data, place_of_data(recipe)),
            "class_names": list(data.class_names),
            "plan": None if done.plan is None else kept_of(done.plan),
            "shots": recipe.shots,
            "seed": recipe.seed,
            "splits": {split: [item.id for item in data.split(split)] for split in Item.SPLITS},
            "digests": kept_digests({split: data.split(split) for split in done.taught_by}, digests_of),
            "skipped": [list(pair) for pair in data.skipped],
            "notes": [*data.notes, *done.scores.notes],
            "seconds": round(seconds, 3),
            "versions": versions(),
            "recipe": recipe.with_(data={**recipe.data, **data.reading}).to_dict(),
        }
        return RunInfo.from_json(facts)


class ConfigContest(Contest):
    """Trainings of several configs on one data set.

    Args:
        recipes: name of a recipe -> the recipe with its config, settled.
        data: readable samples, each with its split.
    """

    def __init__(self, task: ConfigTask, recipes: Mapping[str, Recipe], data: DomainData):
        super().__init__(data.name, list(data.notes))
        self.task, self.recipes, self.samples = task, recipes, data
        self._untrained: dict[tuple[str, int | None], dict[str, Any]] = {}

    def left_out(self) -> list[tuple[str, str]]:
        return self.samples.skipped

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Train one config on one draw, without a run. What is not trained is scored once for all seeds."""
        name, shots = entry["recipe"], entry["shots"]
        if (name, shots) in self._untrained:
            return self._untrained[name, shots]
        task, recipe = self.task, self.recipes[name].with_(seed=entry["seed"], shots=shots)
        started, quietly = time.perf_counter(), Reporter(quiet=True)
        data = task.choose(recipe, self.samples)
        (backbone, plan, _), model = task._planned(recipe, data, quietly), None
        if plan is not None:
            with tempfile.TemporaryDirectory(prefix="vladapt-") as folder:
                model, _ = task.train(plan, Path(folder), recipe, data, backbone.device, quietly)
        seconds = time.perf_counter() - started
        scores = task._scored(model, data, backbone, quietly)
        row = {"recipe": name or "default", "backbone": backbone.spec, **scores.metrics, "seconds": round(seconds, 3)}
        if plan is None or not plan.get("train_cfg"):
            self._untrained[name, shots] = row
        return row
