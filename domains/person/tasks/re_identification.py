"""Re-identification: the same person found again, in pictures of other cameras."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

from ....core.backbones.load import save_fine_tuned
from ....core.contracts.backbone import Backbone
from ....core.contracts.options import option
from ....core.contracts.recipe import Recipe
from ....core.contracts.task import Axes, Contest, FitResult, Task, Use
from ....core.errors import CapabilityError, ConfigError
from ....core.registry import adapter_class, catalogue, load_adapter
from ....core.registry.catalogue import find
from ....core.runs.evaluations import digests_of, in_the_fit, kept_digests, make_folder
from ....core.runs.folder import RUNS, Run, now, versions
from ....core.runs.run_sections import write_report
from ....core.runtime.distributed import is_main
from ....core.runtime.files import kept_checkpoints
from ....core.runtime.progress import Reporter
from ....core.tasks.classification.stored_run import recipe_again
from ....core.tasks.methods import adapter_of, check_named, place_of_data
from ....core.training.checkpoints import newest_step
from ....core.training.log import FILE, keep_logs, read_log
from ....core.training.objective import parse_losses
from ..care import PeopleHidden, PeopleOptions, write_card
from ..random_erasing import FILLS
from ..reciprocal import K1, K2, WEIGHT
from ..reidentification.fitting import (
    BATCH_SIZE,
    ZERO_SHOT,
    FittedReid,
    ReidData,
    backbone_for,
    fitted_people,
    read_people,
    scored,
    train_on_people,
)
from ..reidentification.report import lead, reid_report, reid_table, reid_verdict, shown_searches
from ..reidentification.scoring import ReidScores, flat_scores
from ..samplers import SAMPLERS

LOSS = "bot"
SEEDS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class ReidOptions(PeopleOptions):
    """Options of re-identification. Augmentation, sampler and numbers are those that BoT publishes."""

    camera_rule: bool = option(True, "pictures of the sought person by the query's own camera do not count")
    rerank: bool = option(False, "re-rank by k-reciprocal neighbours; the table has both")
    rerank_k1: int = option(K1, "re-ranking: nearest that may be reciprocal", low=1, high=10_000)
    rerank_k2: int = option(K2, "re-ranking: nearest over which weights are averaged", low=1, high=10_000)
    rerank_weight: float = option(WEIGHT, "re-ranking: share of the distance itself", low=0, high=1)
    sampler: str = option("random-identity", "how a batch draws people and pictures", choices=tuple(SAMPLERS))
    pictures: int = option(4, "pictures of each person in a batch", low=2, high=1024)
    flip: float = option(0.5, "probability that a training picture is flipped", low=0, high=1)
    pad: int = option(10, "pixels around a training picture, from which a crop is taken", low=0, high=1024)
    erasing: float = option(0.5, "probability that a part of a training picture is erased", low=0, high=1)
    erasing_fill: str = option("mean", "what erased parts are painted with", choices=FILLS)
    last_stride: int = option(2, "of a ResNet's last stage; at 1, BoT's, its last map is twice as fine", low=1, high=2)


class ReIdentification(Task):
    """A query picture ranks a gallery; found is another picture of the same person, by the rule of cameras.

    Towers learn by the loss `bot`, or others that labels are enough for; zero-shot compares the features as they are.
    """

    takes: ClassVar = frozenset(
        {"data", "adapter", "adapters", "backbone", "image_size", "amp", "batch_size", "resume"}
    )
    options: ClassVar = ReidOptions
    defaults: ClassVar = {"image_size": (256, 128)}
    compares: ClassVar = frozenset({"adapters", "backbones", "seeds"})
    at_evaluation: ClassVar = frozenset({"data", "workers", "out"})
    deciding: ClassVar = "map"
    unused: ClassVar = {
        "shots": "counts images per class; re-identification trains on all training pictures, omit it",
        "features": "a features file names no people; give --data",
        "redact": "names of people are left out anyway, unless --show-people says otherwise; omit it",
        **dict.fromkeys(("classes", "novel", "templates", "descriptions"), "re-identification has no classes; omit it"),
    }

    def filled(self, recipe: Recipe) -> Recipe:
        """Whole towers by default, as BoT trains them."""
        recipe = super().filled(recipe)
        adapter = {**recipe.adapter, "name": recipe.adapter_name or "full"}
        return recipe.with_(adapter=adapter)

    def check(self, recipe: Recipe) -> None:
        _check_learns(recipe.adapter_name)

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        check_named(recipe, [recipe.adapter_name])
        recipe = _with_loss(recipe)
        if recipe.adapter_name != ZERO_SHOT:
            adapter_of(recipe)  # what is wrong with its options is found out before pictures are read
        people = read_people(recipe, self.domain, whole=recipe.adapter_name == ZERO_SHOT)
        key = _key(recipe, people)
        with kept_checkpoints(Path(recipe.out or RUNS), key, recipe.resume, reporter, newest_step) as folder:
            done = fitted_people(recipe, people, reporter, folder, self.domain)
            return self._written(recipe, people, done, folder) if is_main() else None

    def evaluate(self, use: Use, reporter: Reporter) -> dict[str, Any]:
        """A run's towers and its backbone, on a split of its own people or on others."""
        recipe = recipe_again(use)
        people = read_people(recipe, self.domain, whole=bool(use.data) or recipe.adapter_name == ZERO_SHOT)
        protocol = people.protocol(use.split)
        backbone = backbone_for(recipe, self.domain)
        towers = _towers_of(use.run, backbone)
        before = None if towers is backbone else scored(backbone, people, protocol, recipe, reporter)
        after = scored(towers, people, protocol, recipe, reporter, reranking=people.reranking)
        hidden = PeopleHidden(people.data, after.skipped, recipe.task_options["show_people"] and not use.redact)
        result = {
            "run": str(use.run.path),
            "data": people.data.name,
            "split": use.split,
            **in_the_fit(use.run.info, lambda: digests_of(protocol.items)),
            **_metrics(before, after, people),
            "skipped": hidden.pairs(dict.fromkeys(map(tuple, [*people.data.skipped, *after.skipped]))),
        }
        if use.out is not None and is_main():
            _write_evaluation(Path(use.out), use.run, people, result, after, hidden)
        return result

    def predict(self, use: Use, reporter: Reporter) -> Any:
        raise CapabilityError(
            f"{use.run.path}: its model names nobody; find people with it: "
            f"vladapt index IMAGES --domain person --backbone {use.run.path} --out INDEX"
        )

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Every method at every seed; zero-shot comes first."""
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"adapter": name, "shots": None, "seed": seed} for name in _names(axes) for seed in seeds]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        check_named(recipe, _names(axes))
        people = read_people(recipe, self.domain)
        people.protocol("test")
        return ReidContest(recipe, people, backbone_for(recipe, self.domain))

    def table(self, metrics: Mapping[str, Any]):
        return reid_table(metrics)

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return reid_verdict(metrics)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        raise CapabilityError("a re-identification names nobody")

    def _written(self, recipe: Recipe, people: ReidData, done: FittedReid, folder: Path) -> FitResult:
        metrics = _metrics(done.before, done.after, people)
        info = _info(recipe, people, done, metrics)
        hidden = PeopleHidden(people.data, done.after.skipped, recipe.task_options["show_people"])
        info = hidden.info(info)
        with Run.create(recipe.out, recipe.domain or self.name, recipe.adapter_name) as run:
            model = _save(done, run)
            run.write(info, metrics)
            run.log("\n".join([*info["notes"], info["verdict"], f"adapted: {metrics['adapted']}"]))
            keep_logs(folder, run.path)
            searches = shown_searches(done.after, people.data.load) if hidden.shown else None
            shown = (metrics, done.report.history, read_log(run.path / FILE), searches)
            write_report(run.path, reid_report(run.path, {**info, "model": str(model)}, *shown))
            write_card(run.path, info, people.data, [lead(metrics)])
        facts = {key: info[key] for key in ("domain", "task", "adapter", "seed")}
        summary = {"run": str(run.path), **facts, "backbone": info["backbone"]["spec"], **metrics}
        summary["seconds"] = info["seconds"]
        skipped = [tuple(pair) for pair in info["skipped"]]
        return FitResult(run.path, done.adapter, done.report, metrics, summary, info["notes"], skipped)


class ReidContest(Contest):
    """Trainings on the same people."""

    def __init__(self, recipe: Recipe, people: ReidData, backbone: Backbone):
        super().__init__(people.data.name, list(people.data.notes))
        self.recipe, self.people, self.backbone = recipe, people, backbone

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one training; `shots` is the number of its pictures."""
        _check_learns(entry["adapter"])
        recipe, quiet = _with_loss(self.recipe.with_adapter(entry["adapter"])), Reporter(quiet=True)
        started = time.perf_counter()
        _, _, towers = train_on_people(recipe, self.people, self.backbone, entry["seed"], quiet, None)
        seconds = round(time.perf_counter() - started, 3)
        after = scored(towers, self.people, self.people.protocol("test"), recipe)
        return {
            "shots": len(self.people.data.split("train")),
            "accuracy": None,
            **after.ranking.metrics(),
            "seconds": seconds,
        }


def _with_loss(recipe: Recipe) -> Recipe:
    """BoT's loss and its batch, and the epoch that is best on val, where nobody says others."""
    if recipe.adapter_name == ZERO_SHOT:
        return recipe
    batch = {} if recipe.batch_size else {"batch_size": BATCH_SIZE}
    given = {**(recipe.adapters.get(recipe.adapter_name) or {}), **recipe.adapter}
    wanted = {"loss": LOSS, "select": "best_val", **batch}
    missing = {key: value for key, value in wanted.items() if given.get(key) is None}
    return recipe.with_(adapter={**recipe.adapter, **missing})


def _metrics(before: ReidScores | None, after: ReidScores, people: ReidData) -> dict[str, Any]:
    reranking = people.reranking
    scores = flat_scores(before, after, people.data.class_names)
    return {**scores, **({"reranking": reranking.in_words()} if reranking else {})}


def _save(done: FittedReid, run: Run) -> Path | str:
    """The adapter and the towers as a backbone, with the neck; of zero-shot a file that says so."""
    if done.adapter is None:
        save_file({"nothing": torch.zeros(1)}, run.adapter_path, metadata={"adapter": ZERO_SHOT})
        return ""
    done.adapter.save(run.adapter_path)
    return save_fine_tuned(done.towers, run.path)


def _towers_of(run: Run, backbone: Backbone) -> Backbone:
    """The backbone as the run trained it, with its neck."""
    if run.info["adapter"] == ZERO_SHOT:
        return backbone
    return load_adapter(run.adapter_path, backbone).adapted(backbone)


def _write_evaluation(folder: Path, run: Run, people: ReidData, result: Mapping[str, Any], after, hidden) -> None:
    """The report of an evaluation in a folder of its own.

    Raises:
        DataError: nothing can be written there.
    """
    make_folder(folder)
    facts = {**run.info["data"], "name": people.data.name, "licence": people.data.licence, "people": {}}
    notes = [hidden.text(note) for note in people.data.notes]
    info = {**run.info, "created": now(), "data": facts, "notes": notes, "skipped": result["skipped"]}
    searches = shown_searches(after, people.data.load) if hidden.shown else None
    write_report(folder, reid_report(run.path, info, result, (), searches=searches))


def _names(axes: Axes) -> list[str]:
    names = list(dict.fromkeys([ZERO_SHOT, *(axes.adapters or ())]))
    if names == [ZERO_SHOT]:
        raise ConfigError("--adapters: none given; give methods, comma-separated, for instance full,lora")
    for name in names:
        find(name, catalogue.adapters(), "adapter")
    return names


def _check_learns(name: str) -> None:
    if name != ZERO_SHOT and "pairs" not in adapter_class(name).can:
        raise CapabilityError(
            f"adapter '{name}' trains no towers; for --task re-identification give full, lora or zero-shot"
        )


def _info(recipe: Recipe, people: ReidData, done: FittedReid, metrics: Mapping[str, Any]) -> dict[str, Any]:
    data = people.data
    facts = {name: getattr(done.backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
    options = {} if done.adapter is None else done.adapter.options
    parts = {split: data.split(split) for split in ("train", "val", "test")}
    count = {split: [len({item.target.identity for item in part} - {None}), len(part)] for split, part in parts.items()}
    return {
        "created": now(),
        "domain": recipe.domain,
        "task": recipe.task,
        "adapter": recipe.adapter_name,
        "adapter_options": options,
        "backbone": facts,
        "data": {
            "name": data.name,
            "path": place_of_data(recipe),
            "kind": data.kind,
            "licence": data.licence,
            "images": len(data.items),
            "splits": {split: len(part) for split, part in parts.items()},
            "people": count,
        },
        "class_names": [],
        "losses": parse_losses(options["loss"].split(",")) if options.get("loss") else {},
        "settings": options,
        "seed": recipe.seed,
        "fit": done.report.to_dict(),
        "best_epoch": done.report.chosen.get("epoch"),
        "verdict": reid_verdict(metrics),
        "notes": [note[0].upper() + note[1:] for note in done.notes if note],
        "skipped": [list(pair) for pair in dict.fromkeys(map(tuple, [*data.skipped, *done.after.skipped]))],
        "digests": kept_digests({name: parts[name] for name in ("train", "val")}, digests_of),
        "seconds": round(done.seconds, 3),
        "versions": versions(),
        "recipe": recipe.with_(data={**recipe.data, **data.reading}).to_dict(),
    }


def _key(recipe: Recipe, people: ReidData) -> str:
    """16 hex digits that say what is trained on what."""
    stated = {k: v for k, v in recipe.to_dict().items() if k not in ("resume", "out", "workers", "given")}
    rows = people.data.items
    parts = [sorted(map(str, stated.items())), len(rows), rows[0].id, rows[-1].id]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
