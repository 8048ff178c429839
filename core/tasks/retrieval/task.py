"""Retrieval: towers learn image-text pairs, and are scored by how images and texts find each other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group

from ...backbones.load import save_fine_tuned
from ...contracts.backbone import Backbone
from ...contracts.options import option, settle
from ...contracts.recipe import Recipe
from ...contracts.task import Axes, Contest, FitResult, Task, Use
from ...errors import CapabilityError, ConfigError
from ...export.package import Exported, Wishes
from ...registry import adapter_class, catalogue, load_adapter
from ...registry.catalogue import find
from ...runs.evaluations import in_the_fit, kept_digests, make_folder
from ...runs.folder import RUNS, Run, now, versions
from ...runs.redaction import Redaction
from ...runs.run_sections import Report, write_report
from ...runtime.distributed import is_main
from ...runtime.files import kept_checkpoints
from ...runtime.progress import Reporter
from ...training.checkpoints import newest_step
from ...training.log import FILE, keep_logs, read_log
from ...training.objective import parse_losses
from ..classification.stored_run import recipe_again
from ..methods import adapter_of, backbone_of, check_named, place_of_data
from .exporting import export_towers
from .fitting import (
    ZERO_SHOT,
    FittedRetrieval,
    RetrievalData,
    fitted_retrieval,
    read_retrieval,
    scored,
    train_on_pairs,
)
from .multiple_choice import choice_table
from .report import found_words, training_report
from .scoring import before_and_after, digests_of_images
from .sentences import sentence_table
from .tables import retrieval_table, retrieval_verdict

SEEDS = (1, 2, 3)
NO_CLASSES = "retrieval has no classes; omit it"


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """Options of retrieval."""

    dual_softmax: bool = option(
        False, "score with a dual softmax besides: it reads all queries before it answers one of them"
    )

    def __post_init__(self):
        settle(self)


class Retrieval(Task):
    """Images found by texts and texts by images."""

    options: ClassVar = RetrievalOptions

    takes: ClassVar = frozenset(
        {"data", "adapter", "adapters", "backbone", "image_size", "amp", "batch_size", "generic", "resume", "redact"}
    )
    compares: ClassVar = frozenset({"adapters", "backbones", "seeds"})
    at_evaluation: ClassVar = frozenset({"data", "workers", "out"})
    deciding: ClassVar = "text_to_image/r1"
    needs_domain: ClassVar = False
    unused: ClassVar = {
        "shots": "counts images per class; retrieval trains on all training pairs, omit it",
        "features": "a features file holds no captions; give --data",
        **dict.fromkeys(("classes", "novel", "templates", "descriptions"), NO_CLASSES),
    }

    def read(self, recipe: Recipe) -> RetrievalData:
        """The pairs that a recipe names; errors as of `read_retrieval`."""
        return read_retrieval(recipe, self.domain, self.name)

    def redaction(self, recipe: Recipe, data: RetrievalData, skipped: Sequence[Sequence[str]], redact: bool) -> Any:
        """What is left out of all that is written, a `Redaction` or one like it; None for nothing.

        Args:
            skipped: (name, reason) of images that could not be read.
            redact: whether the user says so.
        """
        return Redaction((), skipped) if redact else None

    def finish(self, run: Run, info: Mapping[str, Any], data: RetrievalData, metrics: Mapping[str, Any]) -> None:
        """Add what the task further keeps in a run folder."""

    @property
    def further_sections(self) -> list[Any]:
        """Of every report, at its end."""
        return []

    def filled(self, recipe: Recipe) -> Recipe:
        recipe = super().filled(recipe)
        return recipe if recipe.adapter_name else recipe.with_(adapter={**recipe.adapter, "name": "lora"})

    def check(self, recipe: Recipe) -> None:
        if recipe.adapter_name != ZERO_SHOT:
            _check_learns_pairs(recipe.adapter_name)

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        check_named(recipe, [recipe.adapter_name])
        _check_learns_pairs(recipe.adapter_name)
        adapter_of(recipe)  # what is wrong with its options is found out before pairs are read
        data = self.read(recipe)
        runs, key = Path(recipe.out or RUNS), _key(recipe, data)
        with kept_checkpoints(runs, key, recipe.resume, reporter, newest_step) as folder:
            done = fitted_retrieval(recipe, data, reporter, folder, self.domain)
            return self._written(recipe, data, done, folder) if is_main() else None

    def evaluate(self, use: Use, reporter: Reporter) -> dict[str, Any]:
        """A run's towers and its backbone, on a split of its own pairs or of others."""
        recipe = recipe_again(use)
        data = self.read(recipe)
        backbone = backbone_of(recipe, self.domain)
        towers = load_adapter(use.run.adapter_path, backbone).adapted(backbone)
        before, after = (scored(each, data, use.split, recipe, reporter) for each in (backbone, towers))
        result = {
            "run": str(use.run.path),
            "data": data.name,
            "split": use.split,
            **in_the_fit(use.run.info, lambda: digests_of_images(data.part(use.split))),
            **before_and_after(before, after),
            "skipped": [list(pair) for pair in dict.fromkeys([*data.skipped, *after.skipped])],
        }
        redaction = self.redaction(recipe, data, result["skipped"], use.redact)
        if redaction is not None:
            result["skipped"] = redaction.pairs(result["skipped"])
        if use.out is not None and is_main():
            self._write_evaluation(Path(use.out), use.run, data, result, redaction)
        return result

    def predict(self, use: Use, reporter: Reporter) -> Any:
        raise CapabilityError(
            f"{use.run.path}: its model names no classes; find images with it: "
            f"vladapt index IMAGES --backbone {use.run.path} --out INDEX"
        )

    def export(self, use: Use, wishes: Wishes, reporter: Reporter) -> Exported:
        return export_towers(use, wishes, self.domain, self.read, reporter)

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Every method at every seed; zero-shot comes first."""
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"adapter": name, "shots": None, "seed": seed} for name in _names(axes) for seed in seeds]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        names = _names(axes)
        check_named(recipe, names)
        return RetrievalContest(recipe, self.read(recipe), backbone_of(recipe, self.domain))

    def table(self, metrics: Mapping[str, Any]):
        further = [table for make in (sentence_table, choice_table) if (table := make(metrics)) is not None]
        return Group(retrieval_table(metrics), *further) if further else retrieval_table(metrics)

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return retrieval_verdict(metrics)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        raise CapabilityError("a retrieval run names no classes")

    def _written(self, recipe: Recipe, data: RetrievalData, done: FittedRetrieval, folder: Path) -> FitResult:
        info = {**_info(recipe, data, done), "task": self.name}
        redaction = self.redaction(recipe, data, info["skipped"], recipe.redact)
        info = info if redaction is None else redaction.info(info)
        with Run.create(recipe.out, recipe.domain or self.name, recipe.adapter_name) as run:
            done.adapter.save(run.adapter_path)
            model = save_fine_tuned(done.towers, run.path)
            run.write(info, done.metrics)
            run.log("\n".join([*info["notes"], info["verdict"], f"adapted: {done.metrics['adapted']}"]))
            keep_logs(folder, run.path)
            shown = (done.metrics, done.report.history, read_log(run.path / FILE))
            report = training_report(run.path, {**info, "model": str(model)}, *shown)
            write_report(run.path, self._completed(report, redaction))
            self.finish(run, info, data, done.metrics)
        summary = {
            "run": str(run.path),
            **{key: info[key] for key in ("domain", "task", "adapter", "seed")},
            "backbone": info["backbone"]["spec"],
            "shots": len(data.part("train")),
            **done.metrics,
            "seconds": info["seconds"],
        }
        skipped = [tuple(pair) for pair in info["skipped"]]
        return FitResult(run.path, done.adapter, done.report, done.metrics, summary, info["notes"], skipped)


    def _completed(self, report: Report, redaction: Any) -> Report:
        """With the sections that the task adds, and without those that show single images, where these are hidden."""
        sections = report.sections if redaction is None else redaction.sections(report.sections)
        return replace(report, sections=[*sections, *self.further_sections])

    def _write_evaluation(
        self, folder: Path, run: Run, data: RetrievalData, result: Mapping[str, Any], redaction: Any
    ) -> None:
        """The report of an evaluation in a folder of its own.

        Raises:
            DataError: nothing can be written there.
        """
        make_folder(folder)
        facts = {**run.info["data"], "name": data.name, "licence": data.licence, "splits": {}}
        facts |= {"images": result["test_images"], "texts": result["test_texts"]}
        info = {**run.info, "created": now(), "data": facts, "notes": [], "skipped": result["skipped"]}
        info["verdict"] = retrieval_verdict(result)
        report = training_report(run.path, info if redaction is None else redaction.info(info), result, ())
        place = f"Evaluation of the run {run.path}, which is as it was; numbers are in metrics.json beside this page."
        lead = f"{result['in_fit_words']} {found_words(result)}"
        report = replace(report, kind="Report of one evaluation", lead=lead, place=place)
        write_report(folder, self._completed(report, redaction))


class RetrievalContest(Contest):
    """Trainings on the same pairs."""

    def __init__(self, recipe: Recipe, data: RetrievalData, backbone: Backbone):
        super().__init__(data.name, list(data.notes))
        self.recipe, self.pairs, self.backbone = recipe, data, backbone

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one training; `shots` is the number of its training pairs."""
        recipe = self.recipe.with_adapter(entry["adapter"])
        if entry["adapter"] != ZERO_SHOT:
            _check_learns_pairs(entry["adapter"])
        started = time.perf_counter()
        _, _, towers = train_on_pairs(recipe, self.pairs, self.backbone, entry["seed"], Reporter(quiet=True), None)
        seconds = round(time.perf_counter() - started, 3)
        metrics = before_and_after(None, scored(towers, self.pairs, "test", recipe, once=False))["adapted"]
        return {"shots": len(self.pairs.part("train")), "accuracy": None, **metrics, "seconds": seconds}


def _names(axes: Axes) -> list[str]:
    names = list(dict.fromkeys([ZERO_SHOT, *(axes.adapters or ())]))
    if names == [ZERO_SHOT]:
        raise ConfigError("--adapters: none given; give methods, comma-separated, for instance full,lora")
    for name in names:
        find(name, catalogue.adapters(), "adapter")
    return names


def _check_learns_pairs(name: str) -> None:
    if "pairs" not in adapter_class(name).can:
        raise CapabilityError(f"adapter '{name}' cannot learn from pairs; give full, lora or lit")


def _info(recipe: Recipe, data: RetrievalData, done: FittedRetrieval) -> dict[str, Any]:
    parts = {split: len(data.pairs.split(split)) for split in ("train", "val", "test")}
    facts = {name: getattr(done.backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
    options = done.adapter.options
    return {
        "created": now(),
        "domain": recipe.domain,
        "task": "retrieval",
        "adapter": recipe.adapter_name,
        "adapter_options": options,
        "backbone": facts,
        "data": {
            "name": data.name,
            "path": place_of_data(recipe),
            "kind": "captions",
            "licence": data.licence,
            "images": sum(parts.values()),
            "texts": done.after.metrics["texts"],
            "splits": parts,
        },
        "class_names": [],
        "losses": parse_losses((options["loss"] or "clip").split(",")),
        "settings": options,
        "seed": recipe.seed,
        "fit": done.report.to_dict(),
        "verdict": retrieval_verdict(done.metrics),
        "notes": [note[0].upper() + note[1:] for note in done.notes if note],
        "skipped": [list(pair) for pair in dict.fromkeys([*data.skipped, *done.after.skipped])],
        "digests": kept_digests(_taught_by(data), digests_of_images),
        "seconds": round(done.seconds, 3),
        "versions": versions(),
        "recipe": recipe.with_(data={**recipe.data, **data.reading}).to_dict(),
    }


def _taught_by(data: RetrievalData) -> dict[str, Any]:
    """The pairs that taught, and those that chose when to stop."""
    return {split: data.pairs.split(split) for split in ("train", "val")}


def _key(recipe: Recipe, data: RetrievalData) -> str:
    """16 hex digits that say what is trained on what."""
    stated = {k: v for k, v in recipe.to_dict().items() if k not in ("resume", "out", "workers", "given")}
    rows = data.part("train")
    parts = [sorted(map(str, stated.items())), len(rows), rows[0].id, rows[len(rows) - 1].id]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
