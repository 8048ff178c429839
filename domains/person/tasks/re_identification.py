"""Re-identification: the same person found again, in pictures of other cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import Backbone, DomainData, Recipe, RunInfo, Use, option
from ....core.errors import CapabilityError
from ....core.runs import Report
from ....core.runtime import Reporter
from ....core.tasks import FittedTowers, TowerTraining
from ..care import PeopleHidden, PeopleOptions, write_card
from ..random_erasing import FILLS
from ..reciprocal import K1, K2, WEIGHT
from ..reidentification.fitting import (
    BATCH_SIZE,
    ReidData,
    divided_people,
    fitted_people,
    reid_scores,
    train_on_people,
)
from ..reidentification.report import ReidComparison, reid_report, shown_searches
from ..reidentification.scoring import flat_reid_scores
from ..samplers import SAMPLERS

LOSS = "bot"
FORMERLY = {"flip": "flip_probability"}
"""Options that runs and recipes may name as before."""


@dataclass(frozen=True, kw_only=True)
class ReidOptions(PeopleOptions):
    """Options of re-identification. Augmentation, sampler and numbers are those that BoT publishes."""

    camera_rule: bool = option(True, "pictures of the sought person by the query's own camera do not count")
    rerank: bool = option(False, "re-rank by k-reciprocal neighbours; the table shows both")
    rerank_k1: int = option(K1, "re-ranking: nearest pictures that may be reciprocal", low=1, high=10_000)
    rerank_k2: int = option(K2, "re-ranking: nearest pictures over which weights are averaged", low=1, high=10_000)
    rerank_weight: float = option(WEIGHT, "re-ranking: share of the original distance", low=0, high=1)
    sampler: str = option("random-identity", "how a batch draws people and pictures", choices=tuple(SAMPLERS))
    pictures: int = option(4, "pictures of each person in a batch", low=2, high=1024)
    flip_probability: float = option(0.5, "share of training pictures that are mirrored, at random", low=0, high=1)
    pad: int = option(10, "pixels around a training picture, from which a crop is taken", low=0, high=1024)
    erasing: float = option(0.5, "probability that a part of a training picture is erased", low=0, high=1)
    erasing_fill: str = option("mean", "what erased parts are painted with", choices=FILLS)
    last_stride: int = option(
        2, "stride of a ResNet's last stage; 1, as in BoT, makes its last map twice as fine", low=1, high=2
    )


class ReIdentification(TowerTraining):
    """A query picture ranks a gallery; found is another picture of the same person, by the rule of cameras.

    Towers learn by the loss `bot`, or by others that need only labels; zero-shot compares the features as they are.
    """

    takes: ClassVar = frozenset(
        {"data", "adapter", "adapters", "backbone", "image_size", "amp", "batch_size", "resume", "custom_hooks"}
    )
    options: ClassVar = ReidOptions
    defaults: ClassVar = {"image_size": (256, 128)}
    comparison: ClassVar = ReidComparison
    deciding: ClassVar = "map"
    unused: ClassVar = {
        "shots": "counts images per class; re-identification trains on all training pictures; omit it",
        "features": "a features file names no people; give --data",
        "redact": "names of people are left out anyway, unless --show-people is given; omit it",
        **dict.fromkeys(
            ("classes", "novel", "templates", "descriptions", "language"), "re-identification has no classes; omit it"
        ),
    }
    default_adapter: ClassVar = "full"  # as BoT trains
    cannot_learn: ClassVar = "adapter '{}' trains no towers; for --task re-identification give full, lora or zero-shot"
    names_nothing: ClassVar = (
        "its model names nobody; find people with it: vladapt index IMAGES{domain} --backbone {} --out INDEX"
    )

    def settled(self, recipe: Recipe) -> Recipe:
        return super().settled(recipe.with_(task_options=_named_as_now(recipe.task_options)))

    def prepared(self, recipe: Recipe) -> Recipe:
        recipe = _with_loss(recipe)
        self.training(recipe)
        return recipe

    def read(self, recipe: Recipe) -> ReidData:
        return self._read(recipe, whole=not self.trains(recipe))

    def read_again(self, recipe: Recipe, use: Use) -> ReidData:
        return self._read(recipe, whole=bool(use.data) or not self.trains(recipe))

    def source(self, data: ReidData) -> DomainData:
        return data.data

    def backbone(self, recipe: Recipe) -> Backbone:
        """With the last stride that is asked for; CapabilityError where that is 1 and the image tower is no ResNet."""
        backbone = super().backbone(recipe)
        if recipe.task_options["last_stride"] == 1:
            backbone.set_last_stride()
        return backbone

    def read_compared(self, recipe: Recipe, names: Sequence[str]) -> ReidData:
        data = super().read_compared(recipe, names)
        data.protocol("test")  # what cannot be retrieved is told before anything is trained
        return data

    def fitted(self, recipe: Recipe, data: ReidData, reporter: Reporter, folder: Path) -> FittedTowers:
        load = partial(self.announced_backbone, recipe, reporter)
        return fitted_people(self.training(recipe), data, load, reporter, folder)

    def trained(self, recipe: Recipe, data: ReidData, backbone: Backbone, seed: int) -> Backbone:
        return train_on_people(self.training(_with_loss(recipe), seed), data, backbone, Reporter(quiet=True), None)[2]

    def compared(self, towers: Backbone, data: ReidData, recipe: Recipe) -> dict[str, Any]:
        return reid_scores(towers, data, data.protocol("test"), self.training(recipe)).ranking.metrics()

    def scores(self, data: ReidData, split: str, recipe: Recipe, reporter: Reporter, backbone, towers) -> tuple:
        protocol, how = data.protocol(split), self.training(recipe)
        before = None if towers is backbone else reid_scores(backbone, data, protocol, how, reporter)
        return before, reid_scores(towers, data, protocol, how, reporter, reranking=data.reranking)

    def metrics(self, before: Any, after: Any, data: ReidData) -> dict[str, Any]:
        return flat_reid_scores(before, after, data.data.class_names, data.reranking)

    def samples(self, data: ReidData, split: str) -> Sequence[Any]:
        return data.data.items if split == "all" else data.data.split(split)

    def keyed(self, data: ReidData) -> Sequence[Any]:
        return data.data.items

    def facts(self, data: ReidData, done: FittedTowers) -> dict[str, Any]:
        parts = {split: data.data.split(split) for split in ("train", "val", "test")}
        people = {split: len({item.target.identity for item in part} - {None}) for split, part in parts.items()}
        count = {split: [people[split], len(part)] for split, part in parts.items()}
        facts = {"kind": data.data.kind, "images": len(data.data.items), "people": count}
        return {"data": facts, "best_epoch": done.report.chosen.get("epoch")}

    def redaction(self, recipe: Recipe, data: ReidData, skipped: Sequence[Sequence[str]], redact: bool) -> Any:
        shown = recipe.task_options["show_people"] and not redact
        return None if shown else PeopleHidden.of(data.data, skipped)

    def table(self, metrics: Mapping[str, Any]):
        return ReidComparison.from_json(metrics).table()

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        raise CapabilityError("a re-identification run names nobody; find people by `vladapt index` and `search`")

    def report(self, folder: Path, info: RunInfo, shown: tuple, done: FittedTowers, data, hidden) -> Report:
        searches = shown_searches(done.after, data.data.load) if hidden is None else None
        return reid_report(folder, info, *shown, searches)

    def report_again(self, folder: Path, info: RunInfo, result, after, data, hidden) -> Report:
        notes = list(data.data.notes) if hidden is None else [hidden.text(note) for note in data.data.notes]
        info = info.with_(data={**info.data, "people": {}}, notes=notes)
        searches = shown_searches(after, data.data.load) if hidden is None else None
        return reid_report(folder, info, result, (), searches=searches)

    def _read(self, recipe: Recipe, whole: bool) -> ReidData:
        options = _named_as_now(recipe.task_options)
        return divided_people(self.domain_data(recipe), options, recipe.split_seed, whole=whole)

    def finish(self, run, info: RunInfo, data: ReidData, metrics: ReidComparison) -> None:
        write_card(run.path, info, data.data, [metrics.lead])


def _named_as_now(options: Mapping[str, Any]) -> dict[str, Any]:
    return {FORMERLY.get(name, name): value for name, value in options.items()}


def _with_loss(recipe: Recipe) -> Recipe:
    """BoT's loss and its batch, and the epoch that is best on val, where nobody says others."""
    if not TowerTraining.trains(recipe):
        return recipe
    batch = {} if recipe.batch_size else {"batch_size": BATCH_SIZE}
    given = {**(recipe.adapters.get(recipe.adapter_name) or {}), **recipe.adapter}
    wanted = {"loss": LOSS, "select": "best_val", **batch}
    missing = {key: value for key, value in wanted.items() if given.get(key) is None}
    return recipe.with_(adapter={**recipe.adapter, **missing})
