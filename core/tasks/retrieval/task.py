"""Retrieval: towers learn image-text pairs, and are scored by how images and texts find each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group

from ...backbones.load import load_backbone
from ...backbones.stored import stored_spec
from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.judgement import FIT, Findings, Place
from ...contracts.options import option, settle
from ...contracts.pair_head import PairHead
from ...contracts.recipe import Recipe
from ...contracts.run_info import RunInfo
from ...contracts.sources import NamedSource, sources_in
from ...contracts.use import Exported, ExportWishes, Use
from ...data.pairs.reading import options_of_sources
from ...data.pairs.source_list import check_sources
from ...errors import CapabilityError, ConfigError
from ...metrics.retrieval import TEXT_TO_IMAGE
from ...recipes.asked_for import adapter_of, adapter_options
from ...registry import adapter_class, catalogue
from ...registry.build import judgements_of, judges_at
from ...runs.redaction import Redaction
from ...runs.run_sections import Report
from ...runtime.progress import Reporter
from ...training.mixing import mixture_of, names_of
from ...training.objective import loss_columns, parse_losses
from ..tower_training.base import TowerTraining
from ..tower_training.fitted import ZERO_SHOT, FittedTowers
from .comparison import RetrievalComparison
from .exporting import export_towers
from .fitting import (
    RetrievalData,
    divided_pairs,
    fitted_retrieval,
    joined_sources,
    read_files,
    read_stored_pairs,
    scored,
    train_on_pairs,
)
from .multiple_choice import choice_table
from .report import found_words, training_report
from .scoring import before_and_after, digests_of_images
from .sentences import DUAL, sentence_table
from .source_scores import KEY as SOURCES
from .source_scores import source_section, source_table
from .tables import retrieval_table

OF_TOWERS = frozenset({"data", "backbone", "image_size", "amp", "batch_size", "sources", "custom_hooks"})
"""Keys that mean nothing to stored features."""
NO_CLASSES = "retrieval has no classes; omit it"


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """Options of retrieval."""

    dual_softmax: bool = option(
        False, "also score with a dual softmax, which reads all queries before it answers one of them"
    )
    flip: bool = option(
        False, "mirror half of the training images; captions that name left and right then become wrong"
    )

    def __post_init__(self):
        settle(self)


class Retrieval(TowerTraining):
    """Images found by texts and texts by images."""

    options: ClassVar = RetrievalOptions

    takes: ClassVar = frozenset(
        {"data", "adapter", "adapters", "backbone", "image_size", "amp", "batch_size", "generic", "resume", "redact"}
        | {"custom_hooks", "sources", "features"}
    )
    at_evaluation: ClassVar = TowerTraining.at_evaluation | {"features"}
    comparison: ClassVar = RetrievalComparison
    judgements: ClassVar = ("forgetting",)
    places: ClassVar = frozenset({Place.ABILITIES})
    by_text: ClassVar = TEXT_TO_IMAGE
    """What metrics call the direction in which a text finds its image."""
    deciding: ClassVar = f"{TEXT_TO_IMAGE}/r1"
    needs_domain: ClassVar = False
    unused: ClassVar = {
        "shots": "counts images per class; retrieval trains on all training pairs; omit it",
        "features": "needs the images and captions themselves; give --data",
        **dict.fromkeys(("classes", "novel", "templates", "descriptions", "language"), NO_CLASSES),
    }
    default_adapter: ClassVar = "lora"
    on_stored: ClassVar = "pair-projection"
    """The default on a features file, which has no towers to train."""
    default_loss: ClassVar = "clip"
    on_parts: ClassVar = True
    names_nothing: ClassVar = (
        "its model names no classes; find images with it: vladapt index IMAGES{domain} --backbone {} --out INDEX"
    )

    @property
    def cannot_learn(self) -> str:
        """Names what the domain has of its own for pairs, by what each method can."""
        own = [name for name, entry in catalogue.adapters().items() if self.domain and entry.domain == self.domain.name]
        able = filter(self.learns, own)
        return f"adapter '{{}}' cannot learn from pairs; use {', '.join([*able, 'full', 'lora'])} or lit"

    def taken(self, recipe: Recipe) -> frozenset[str]:
        return self.takes - OF_TOWERS if recipe.features else self.takes

    def filled(self, recipe: Recipe) -> Recipe:
        if recipe.features and not recipe.adapter_name:
            recipe = recipe.with_(adapter={**recipe.adapter, "name": self.on_stored})
        return super().filled(recipe)

    def backbone(self, recipe: Recipe) -> Backbone:
        if recipe.features:
            return load_backbone(stored_spec(recipe.features), recipe.device)
        return super().backbone(recipe)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.features and recipe.task_options.get("flip"):
            raise ConfigError("--flip yes: stored features are of no image that could be mirrored; omit it")
        if recipe.features and recipe.adapter_name != ZERO_SHOT:
            self._check_on_stored(recipe.adapter_name)

    def _check_on_stored(self, name: str | None) -> None:
        """Raise the CapabilityError of a method that trains towers."""
        if name is not None and not issubclass(adapter_class(name), PairHead):
            raise CapabilityError(
                f"adapter '{name}' trains towers, which a features file does not have; use {self.on_stored}, or give "
                "--data"
            )

    def prepared(self, recipe: Recipe) -> Recipe:
        if recipe.adapter_name == ZERO_SHOT:
            raise CapabilityError(self.cannot_learn.format(ZERO_SHOT))
        self.check_learns(recipe.adapter_name)
        adapter_of(recipe)
        return recipe

    def predict(self, use: Use, reporter: Reporter) -> Any:
        if use.run.info.recipe.get("features"):
            raise CapabilityError(
                f"{use.run.shown}: was fitted on stored features, which have no towers for new images or words; score "
                "it on other pairs of its encoder: vladapt eval RUN --features FILE --split all"
            )
        return super().predict(use, reporter)

    def read(self, recipe: Recipe) -> RetrievalData:
        """The pairs that a recipe names; errors as of `read_files`, `divided_pairs` and `joined`."""
        if recipe.features:
            return self._as_asked(read_stored_pairs(recipe.features, recipe.split_seed), recipe)
        if not recipe.sources:
            return self._read_one(recipe)
        sources, options = sources_in(recipe.sources)
        sources = sources or [NamedSource(recipe.data_path)]
        check_sources(sources)
        mixture_of(sources, options, names_of(sources), [1] * len(sources))  # what is wrong with it comes before all
        recipes = [recipe.with_source(data=each.path) for each in sources]
        if self.domain is None and len(sources) > 1:
            own = options_of_sources([each.path for each in sources], recipe.reading)
            recipes = [each.with_(data={**of, "path": each.data_path}) for each, of in zip(recipes, own)]
        return joined_sources(sources, options, [self._read_one(each) for each in recipes])

    def _read_one(self, recipe: Recipe) -> RetrievalData:
        if self.domain is None:
            loss = adapter_options(recipe).get("loss")
            columns = loss_columns(parse_losses(str(loss).split(","))) if loss else {}
            data = read_files(recipe.data_path, columns, recipe.reading, recipe.split_seed, recipe.tolerate)
        else:
            self.domain.check_task(self.name)
            read = self.domain_data(recipe)
            for judgement in judges_at(self, FIT, recipe.task_options):
                if judgement.asked:
                    judgement.check_read(read)
            data = divided_pairs(read, self.domain, self.name, recipe.split_seed)
        return self._as_asked(data, recipe)

    @staticmethod
    def _as_asked(data: RetrievalData, recipe: Recipe) -> RetrievalData:
        """The data with what the task's options say of them; a task without such an option mirrors as its images do."""
        asked = recipe.task_options
        return replace(data, dual_softmax=asked.get(DUAL, False), flip=asked.get("flip", True))

    def fitted(self, recipe: Recipe, data: RetrievalData, reporter: Reporter, folder: Path) -> FittedTowers:
        load = partial(self.announced_backbone, recipe, reporter)
        return fitted_retrieval(self.training(recipe), data, load, reporter, folder)

    def trained(self, recipe: Recipe, data: RetrievalData, backbone: Backbone, seed: int) -> Backbone:
        if recipe.features and recipe.adapter_name != ZERO_SHOT:
            self._check_on_stored(recipe.adapter_name)
        return self.train(recipe, data, backbone, Reporter(quiet=True), seed=seed)[2]

    def train(
        self,
        recipe: Recipe,
        data: RetrievalData,
        backbone: Backbone,
        reporter: Reporter,
        folder: Path | None = None,
        seed: int | None = None,
    ) -> tuple[Adapter | None, FitReport, Backbone]:
        """As `train_on_pairs`; the seed of a comparison, as of `training`."""
        return train_on_pairs(self.training(recipe, seed), data, backbone, reporter, folder)

    def compared(self, towers: Backbone, data: RetrievalData, recipe: Recipe) -> dict[str, Any]:
        return before_and_after(None, scored(towers, data, "test", self.training(recipe), once=False))["adapted"]

    def scores(self, data: RetrievalData, split: str, recipe: Recipe, reporter: Reporter, *towers: Backbone) -> tuple:
        how = self.training(recipe)
        return tuple(scored(each, data, split, how, reporter) for each in towers)

    def metrics(self, before: Any, after: Any, data: RetrievalData) -> dict[str, Any]:
        return before_and_after(before, after)

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        return export_towers(use, wishes, self.domain, self.read, reporter)

    def samples(self, data: RetrievalData, split: str) -> Any:
        return data.pairs if split == "all" else data.pairs.split(split)

    def keyed(self, data: RetrievalData) -> Any:
        return data.part("train")

    def digests(self, samples: Any) -> list[str]:
        return digests_of_images(samples)

    def facts(self, data: RetrievalData, done: FittedTowers) -> dict[str, Any]:
        parts = [data.pairs.split(split) for split in ("train", "val", "test")]
        texts = sum(part.caption_count for part in parts)
        return {"data": {"kind": "captions", "images": sum(map(len, parts)), "texts": texts}}

    def summary(self, data: RetrievalData) -> dict[str, Any]:
        return {"shots": len(data.pairs.split("train"))}

    def redaction(self, recipe: Recipe, data: RetrievalData, skipped: Sequence[Sequence[str]], redact: bool) -> Any:
        return Redaction((), skipped) if redact else None

    @property
    def further_sections(self) -> list[Any]:
        """Of every report, at its end."""
        return []

    def falls(self, score: str) -> bool:
        from .report import MEASURES

        name = score.rpartition("/")[2]
        return name in MEASURES and MEASURES[name].falls

    def table(self, metrics: Mapping[str, Any]):
        further = [table for make in (sentence_table, choice_table) if (table := make(metrics)) is not None]
        further += [] if (sources := source_table(metrics.get(SOURCES, ()))) is None else [sources]
        further += Findings.of_metrics(judgements_of(self), metrics).tables
        return Group(retrieval_table(metrics), *further) if further else retrieval_table(metrics)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        raise CapabilityError("a retrieval run names no classes")

    def report(self, folder: Path, info: RunInfo, shown: tuple, done, data, hidden: Any) -> Report:
        abilities = [*done.findings.sections(Place.ABILITIES), source_section(done.metrics.get(SOURCES, ()))]
        return self._completed(training_report(folder, info, *shown, abilities=abilities), hidden)

    def report_again(self, folder: Path, info: RunInfo, result: RetrievalComparison, after, data, hidden):
        facts = {**info.data, "splits": {}, "images": result.test_images, "texts": result.test_texts}
        info = info.with_(data=facts)
        report = training_report(folder, info if hidden is None else hidden.info(info), result, ())
        lead = f"{result['in_fit_words']} {found_words(result)}"
        return self._completed(report.of_evaluation(folder, lead), hidden)

    def _completed(self, report: Report, hidden: Any) -> Report:
        """With the sections that the task adds, and without those that show single images, where these are hidden."""
        sections = report.sections if hidden is None else hidden.sections(report.sections)
        return replace(report, sections=[*sections, *self.further_sections])
