"""What tasks share that train towers and score them before and after: how they fit, evaluate, write a run and compare.

A task says how its data are read, trained on and scored, and what its reports show.
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ...backbones.heads import towers_in
from ...backbones.load import announced
from ...contracts.backbone import Backbone
from ...contracts.items import DomainData
from ...contracts.judgement import EVAL, FIT, Evaluated, Findings, JudgedTowers, Place
from ...contracts.pair_head import PairHead
from ...contracts.recipe import RUNS, Recipe
from ...contracts.run_info import FittedRun, RunInfo
from ...contracts.serving import Served, Serving
from ...contracts.task import Axes, Contest, FitResult, Task
from ...contracts.use import Use
from ...data.unlabelled import images_of, readable
from ...data.verify import digests_of
from ...errors import CapabilityError, ConfigError
from ...forgetting.probe import probe_of
from ...recipes.asked_for import (
    adapter_of,
    backbone_of,
    check_hooks,
    check_named,
    encoding_batch_size,
    place_of_data,
    read_data,
)
from ...registry import adapter_class, catalogue
from ...registry.build import divided_options, judgements_of, judges_at
from ...registry.catalogue import find_entry
from ...runs.folder import Run, in_the_fit, kept_digests, make_folder, now, versions
from ...runs.run_sections import Report, TowerComparison, write_report
from ...runtime.distributed import is_main
from ...runtime.files import kept_checkpoints
from ...runtime.progress import Reporter
from ...training.checkpoints import newest_step
from ...training.log import FILE, keep_logs, read_log
from ...training.objective import parse_losses
from ..classification.stored_run import recipe_again
from .fitted import ZERO_SHOT, DataFacts, FittedTowers, Training, saved_model, trained_towers

SEEDS = (1, 2, 3)
BACKBONE_FACTS = ("spec", "fingerprint", "licence", "image_size")


class TowerTraining(Task):
    """Base of these tasks. `data` below is what the task's own `read` returns.

    Class attributes a task sets:
        default_adapter: where none is given.
        default_loss: of methods that name none; "" for none.
        cannot_learn: of another method than those that train towers, "{}": what it cannot do, and what to give instead.
        on_parts: whether methods are taken that learn on stored features of parts (`PairHead`), in place of towers.
        names_nothing: why its model predicts nothing, and how `vladapt index` makes use of the run "{}";
            "{domain}" is the flag that names its domain, or "".
        comparison: what its metrics are read as.
        places: where the report of a fit shows sections of judgements itself; those of other places come last.
    """

    compares: ClassVar = frozenset({"adapters", "backbones", "seeds"})
    at_evaluation: ClassVar = frozenset({"data", "workers", "out"})
    judges: ClassVar = (JudgedTowers,)
    default_adapter: ClassVar[str]
    default_loss: ClassVar[str] = ""
    cannot_learn: ClassVar[str]
    on_parts: ClassVar[bool] = False
    names_nothing: ClassVar[str]
    comparison: ClassVar[type[TowerComparison]]
    places: ClassVar[frozenset[Place]] = frozenset()

    # what a task says -------------------------------------------------------------------------------------------------

    @abstractmethod
    def prepared(self, recipe: Recipe) -> Recipe:
        """The recipe as it is fitted; what is wrong with its method is raised before data are read."""

    @abstractmethod
    def read(self, recipe: Recipe) -> Any:
        """The data of a fit, or of a comparison."""

    @abstractmethod
    def fitted(self, recipe: Recipe, data: Any, reporter: Reporter, folder: Path) -> FittedTowers:
        """Train on the data and score before and after; `folder` is for checkpoints."""

    @abstractmethod
    def trained(self, recipe: Recipe, data: Any, backbone: Backbone, seed: int) -> Backbone:
        """The towers after one training of a comparison."""

    @abstractmethod
    def compared(self, towers: Backbone, data: Any, recipe: Recipe) -> dict[str, Any]:
        """A comparison's metrics of trained towers on test."""

    @abstractmethod
    def scores(
        self, data: Any, split: str, recipe: Recipe, reporter: Reporter, backbone: Backbone, towers: Backbone
    ) -> tuple[Any, Any]:
        """Scores of the backbone, or None, and of the towers that were made of it, on a split."""

    @abstractmethod
    def metrics(self, before: Any, after: Any, data: Any) -> dict[str, Any]:
        """Both scores, as metrics.json has them."""

    @abstractmethod
    def samples(self, data: Any, split: str) -> Sequence[Any]:
        """What a split holds; "all" is every split."""

    @abstractmethod
    def keyed(self, data: Any) -> Sequence[Any]:
        """Samples whose number, first and last id tell one set from another."""

    def digests(self, samples: Sequence[Any]) -> list[str]:
        """Digests of the images of samples: of items, by default."""
        return digests_of(samples)

    @abstractmethod
    def facts(self, data: Any, done: FittedTowers) -> dict[str, Any]:
        """Further keys of run.json; those of its group "data", besides name, place and licence, under "data"."""

    @abstractmethod
    def redaction(self, recipe: Recipe, data: Any, skipped: Sequence[Sequence[str]], redact: bool) -> Any:
        """What is left out of all that is written, a `Redaction` or one like it; None for nothing.

        Args:
            skipped: (name, reason) of images that could not be read.
            redact: whether the user says so.
        """

    @abstractmethod
    def report(self, folder: Path, info: RunInfo, shown: tuple, done: FittedTowers, data: Any, hidden: Any) -> Report:
        """The report of a fit.

        Args:
            info: of run.json.
            shown: a `comparison`, the history and lines of the log.
            hidden: what `redaction` gave.
        """

    @abstractmethod
    def report_again(self, folder: Path, info: RunInfo, result: Any, after: Any, data: Any, hidden: Any) -> Report:
        """The report of an evaluation, whose scores are in `result`, a `comparison`, and in `after`."""

    def read_again(self, recipe: Recipe, use: Use) -> Any:
        """The data of an evaluation."""
        return self.read(recipe)

    def read_compared(self, recipe: Recipe, names: Sequence[str]) -> Any:
        """The data of a comparison of these methods."""
        return self.read(recipe)

    def backbone(self, recipe: Recipe) -> Backbone:
        """What a fit starts from."""
        return backbone_of(recipe, self.domain)

    def announced_backbone(self, recipe: Recipe, reporter: Reporter) -> Backbone:
        """The same, after a line where its licence forbids commercial use."""
        return announced(self.backbone(recipe), reporter.info)

    def source(self, data: Any) -> DataFacts:
        """What names the data: by default the data themselves."""
        return data

    def summary(self, data: Any) -> dict[str, Any]:
        """Further facts of a fit's summary."""
        return {}

    def finish(self, run: Run, info: RunInfo, data: Any, metrics: Any) -> None:
        """Add what the task further keeps in a run folder; `metrics` as a `comparison`."""

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return self.comparison.from_json(metrics).sentence

    # what a task asks for --------------------------------------------------------------------------------------------

    @staticmethod
    def trains(recipe: Recipe) -> bool:
        """Whether a recipe's method is another than zero-shot."""
        return recipe.adapter_name != ZERO_SHOT

    @staticmethod
    def encoding_batch(recipe: Recipe) -> int | None:
        """Images at once through the towers where nothing is trained; None measures it."""
        return encoding_batch_size(recipe)

    def domain_data(self, recipe: Recipe) -> DomainData:
        """What the domain reads; errors as of `read_data`."""
        return read_data(recipe, self.domain, self.name)

    def images(self, paths: Sequence[str | Path], recipe: Recipe) -> DomainData:
        """New images, at least one; what cannot be decoded is found where it is decoded."""
        return readable(images_of(self.domain, paths, recipe.reading))

    @staticmethod
    def used_again(use: Use) -> Recipe:
        """The recipe of a run, with what a use of it changes."""
        return recipe_again(use)

    @staticmethod
    def towers(run: FittedRun, backbone: Backbone) -> Backbone:
        """The backbone as a run trained it; errors as of `towers_of`."""
        return trained_towers(run, backbone)

    # the commands ----------------------------------------------------------------------------------------------------

    def filled(self, recipe: Recipe) -> Recipe:
        recipe = super().filled(recipe)
        return recipe.with_(adapter={**recipe.adapter, "name": recipe.adapter_name or self.default_adapter})

    def _task_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        own, judging = divided_options(self, options)
        return {**super()._task_options(own), **judging}

    def check(self, recipe: Recipe) -> None:
        self.check_learns(recipe.adapter_name)
        check_hooks(recipe)

    def training(self, recipe: Recipe, seed: int | None = None) -> Training:
        """The recipe's method, and how it is trained; with another seed, as a comparison has it, without checkpoints.

        Raises:
            As `adapter_of`.
        """
        adapter = adapter_of(recipe) if self.trains(recipe) else None
        chooses = any(recipe.gave(f"{group}.select") for group in ("adapter", f"adapters.{recipe.adapter_name}"))
        again = seed is not None
        how = {"amp": recipe.amp, "workers": recipe.workers, "tolerate": recipe.tolerate, "hooks": recipe.custom_hooks}
        return Training(adapter, seed if again else recipe.seed, chooses, recipe.resume and not again, **how)

    def check_learns(self, name: str) -> None:
        """Raise CapabilityError where a method trains no towers; zero-shot needs not."""
        if name != ZERO_SHOT and not self.learns(name):
            raise CapabilityError(self.cannot_learn.format(name))

    def learns(self, name: str) -> bool:
        """Whether a method of this name can be fitted here."""
        method = adapter_class(name)
        return "pairs" in method.can and (self.on_parts or not issubclass(method, PairHead))

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        check_named(recipe, [recipe.adapter_name])
        recipe = self.prepared(recipe)
        if recipe.generic:
            probe_of(recipe.generic)  # a folder that cannot be used is found out here
        data = self.read(recipe)
        key = self._key(recipe, data)
        with kept_checkpoints(Path(recipe.out or RUNS), key, recipe.resume, reporter, newest_step) as folder:
            done = self._with_findings(recipe, data, self.fitted(recipe, data, reporter, folder), reporter)
            return self._written(recipe, data, done, folder) if is_main() else None

    def evaluate(self, use: Use, reporter: Reporter) -> Evaluated:
        """A run's towers and its backbone, on a split of its own data or of others."""
        recipe = self.used_again(use)
        data = self.read_again(recipe, use)
        source = self.source(data)
        backbone = self.backbone(recipe)
        towers = self.towers(use.run, backbone)
        before, after = self.scores(data, use.split, recipe, reporter, backbone, towers)
        metrics = self.metrics(before, after, data)
        sides = {"before": backbone, "after": towers_in(towers), "scores_before": before, "scores_after": after}
        sides |= {"use": use, "adapter": None}
        findings, notes = self._judged(recipe, data, metrics, reporter, EVAL, use.judging, **sides)
        skipped = _listed(source.skipped, after.skipped)
        hidden = self.redaction(recipe, data, skipped, use.redact)
        skipped = skipped if hidden is None else hidden.pairs(skipped)
        result = Evaluated(
            run=use.run.shown,
            data=source.name,
            split=use.split,
            in_fit=in_the_fit(use.run.info, lambda: self.digests(self.samples(data, use.split))),
            metrics=metrics,
            notes=notes or None,
            skipped=skipped,
        )
        if use.out is not None and is_main():
            make_folder(Path(use.out))
            facts = {**use.run.info.data, "name": source.name, "licence": source.licence}
            info = use.run.info.with_(created=now(), data=facts, notes=[], skipped=skipped)
            report = self.report_again(use.run.shown, info, self.comparison.from_json(result), after, data, hidden)
            write_report(Path(use.out), report.with_sections(findings.sections(*Place)))
        return result

    def predict(self, use: Use, reporter: Reporter) -> Any:
        raise CapabilityError(self._only_indexed(use))

    def served(self, use: Use, serving: Serving) -> Served:
        raise CapabilityError(self._only_indexed(use))

    def _only_indexed(self, use: Use) -> str:
        """Why a run says nothing of single images, and what is done with it."""
        domain = f" --domain {self.domain.name}" if self.domain else ""
        return f"{use.run.shown}: {self.names_nothing.format(use.run.shown, domain=domain)}"

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Every method at every seed; zero-shot comes first."""
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"adapter": name, "shots": None, "seed": seed} for name in self.names(axes) for seed in seeds]

    def names(self, axes: Axes) -> list[str]:
        """Methods of a comparison, zero-shot first.

        Raises:
            ConfigError: none is given, and zero-shot is no fit of its own. UnknownNameError: there is no such method.
        """
        names = list(dict.fromkeys([ZERO_SHOT, *(axes.adapters or ())]))
        if names == [ZERO_SHOT] != [self.default_adapter]:
            raise ConfigError("--adapters: none given; give methods, comma-separated, for instance full,lora")
        for name in names:
            find_entry(name, catalogue.adapters(), "adapter")
        return names

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        names = self.names(axes)
        check_named(recipe, names)
        return TowerContest(self, recipe, self.read_compared(recipe, names), self.backbone(recipe))

    def _with_findings(self, recipe: Recipe, data: Any, done: FittedTowers, reporter: Reporter) -> FittedTowers:
        """The fit with what the task's judgements say of it."""
        started, sides = (
            time.monotonic(),
            {"before": done.backbone, "after": towers_in(done.towers), "adapter": done.adapter},
        )
        sides |= {"scores_before": done.before, "scores_after": done.after}
        findings, notes = self._judged(recipe, data, done.metrics, reporter, FIT, recipe.task_options, **sides)
        seconds = done.seconds + time.monotonic() - started
        return replace(done, notes=[*done.notes, *notes], findings=findings, seconds=seconds)

    def _judged(
        self, recipe: Recipe, data: Any, metrics: dict[str, Any], reporter: Reporter, at: str, options: Any, **of: Any
    ) -> tuple[Findings, list[str]]:
        """What the task's judgements say at that time, with these options, and sentences of it for the user."""
        of |= {"at": at, "data": data, "metrics": metrics, "reporter": reporter, "seed": recipe.seed}
        judged = JudgedTowers(workers=recipe.workers, amp=recipe.amp, generic=recipe.generic, **of)
        findings = Findings(judgements_of(self))
        return findings, findings.add(judges_at(self, at, options), judged)

    # a run -----------------------------------------------------------------------------------------------------------

    def _written(self, recipe: Recipe, data: Any, done: FittedTowers, folder: Path) -> FitResult:
        info = self._info(recipe, data, done)
        hidden = self.redaction(recipe, data, info.skipped, recipe.redact)
        info = info if hidden is None else hidden.info(info)
        with Run.create(recipe.out, recipe.domain or self.name, recipe.adapter_name) as run:
            model = saved_model(done, run)
            run.write(info, done.metrics)
            compared = self.comparison.from_json(done.metrics)
            run.log("\n".join([*info.notes, info.verdict, f"adapted: {compared.adapted}"]))
            keep_logs(folder, run.path)
            shown = (compared, done.report.history, read_log(run.path / FILE))
            report = self.report(run.path, info.with_(model=str(model)), shown, done, data, hidden)
            others = [place for place in Place if place not in self.places]
            write_report(run.path, report.with_sections(done.findings.sections(*others)))
            self.finish(run, info, data, compared)
        summary = {
            "run": str(run.path),
            **{key: info[key] for key in ("domain", "task", "adapter", "seed")},
            "backbone": info.backbone.spec,
            **self.summary(data),
            **done.metrics,
            "seconds": info.seconds,
        }
        skipped = [tuple(pair) for pair in info.skipped]
        return FitResult(run.path, done.adapter, done.report, done.metrics, summary, list(info.notes), skipped)

    def _info(self, recipe: Recipe, data: Any, done: FittedTowers) -> RunInfo:
        options = {} if done.adapter is None else done.adapter.options
        facts = self.facts(data, done)
        loss = options.get("loss") or (self.default_loss if done.adapter is not None else "")
        source = self.source(data)
        shared = {
            "created": now(),
            "domain": recipe.domain,
            "task": self.name,
            "adapter": recipe.adapter_name,
            "adapter_options": options,
            "backbone": {name: getattr(done.backbone, name) for name in BACKBONE_FACTS},
            "data": {
                "name": source.name,
                "path": place_of_data(recipe),
                "licence": source.licence,
                "splits": {split: len(self.samples(data, split)) for split in ("train", "val", "test")},
                **facts.pop("data"),
            },
            "class_names": [],
            "losses": parse_losses(loss.split(",")) if loss else {},
            "settings": options,
            "seed": recipe.seed,
            "fit": done.report.to_dict(),
            "verdict": self.verdict(done.metrics),
            "notes": [note[0].upper() + note[1:] for note in done.notes if note],
            "skipped": _listed(source.skipped, done.after.skipped),
            "digests": kept_digests({split: self.samples(data, split) for split in ("train", "val")}, self.digests),
            "seconds": round(done.seconds, 3),
            "versions": versions(),
            "recipe": recipe.with_(data={**recipe.data, **source.reading}).to_dict(),
            **facts,
        }
        return RunInfo.from_json(shared)

    def _key(self, recipe: Recipe, data: Any) -> str:
        """16 hex digits that say what is trained on what."""
        stated = {
            k: v for k, v in recipe.to_dict().items() if k not in ("resume", "out", "workers", "tolerate", "given")
        }
        rows = self.keyed(data)
        parts = [sorted(map(str, stated.items())), len(rows), rows[0].id, rows[len(rows) - 1].id]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class TowerContest(Contest):
    """Trainings on the same data."""

    def __init__(self, task: TowerTraining, recipe: Recipe, data: Any, backbone: Backbone):
        super().__init__(task.source(data).name, list(task.source(data).notes))
        self.task, self.recipe, self.read_data, self.backbone = task, recipe, data, backbone

    def left_out(self) -> Sequence[tuple[str, str]]:
        return self.task.source(self.read_data).skipped

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one training; `shots` is the number of its training samples."""
        self.task.check_learns(entry["adapter"])
        recipe = self.recipe.with_adapter(entry["adapter"])
        started = time.perf_counter()
        towers = self.task.trained(recipe, self.read_data, self.backbone, entry["seed"])
        seconds = round(time.perf_counter() - started, 3)
        metrics = self.task.compared(towers, self.read_data, recipe)
        shots = len(self.task.samples(self.read_data, "train"))
        return {"shots": shots, "accuracy": None, **metrics, "seconds": seconds}


def _listed(*skipped: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each (name, reason) once."""
    return [list(pair) for pair in dict.fromkeys(tuple(pair) for some in skipped for pair in some)]
