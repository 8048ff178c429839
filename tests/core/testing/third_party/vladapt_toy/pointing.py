"""Pointing: where a spot is, by ridge regression on the rows and columns of its image."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from vladapt import ConfigError, DataError, DomainData, Evaluated, FitReport, Recipe, Task, option
from vladapt.api import (
    Axes,
    Contest,
    FitResult,
    Report,
    Run,
    TableSection,
    Use,
    decodable,
    images_of,
    now,
    place_of_data,
    read_data,
    readable,
    readable_samples,
    recipe_again,
    scores_table,
    settle,
    split_samples,
    summaries_table,
    versions,
    write_report,
    write_whole,
)

SIDE = 12
SEEDS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class PointingOptions:
    """Options of `Pointing`."""

    ridge: float = option(1.0, "strength of the regularisation", above=0, high=1_000_000)
    share: float = option(0.5, "share of the training images that is learned from", above=0, high=1)

    def __post_init__(self):
        settle(self)


@dataclass
class Points:
    """Where the spots of some images are, and the files that say so."""

    points: list[dict[str, Any]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        return self.points


class Pointing(Task):
    """The centre of a spot, in pixels."""

    name = "pointing"
    takes: ClassVar = frozenset({"data"})
    options: ClassVar = PointingOptions
    at_prediction: ClassVar = frozenset({"out"})
    compares: ClassVar = frozenset({"seeds"})
    method: ClassVar = "model"
    deciding: ClassVar = "distance"
    writes: ClassVar = (".json",)

    def fit(self, recipe: Recipe, reporter) -> FitResult:
        started = time.monotonic()
        data = self.read(recipe, reporter)
        weights = self.learned(recipe, data)
        scores = {"distance": distance(weights, data, data.split("test"))}
        metrics = {"zero_shot": None, "adapted": scores, "test_images": len(data.split("test"))}
        with Run.create(recipe.out, recipe.domain, self.name) as run:
            save_file({"weights": weights}, str(run.adapter_path))
            run.write(self.info(recipe, data, time.monotonic() - started), metrics)
            run.log(f"adapted: {scores}")
            write_report(run.path, self.report(run))
        summary = {"run": str(run.path), "domain": recipe.domain, "task": self.name, "seed": recipe.seed, **metrics}
        report = FitReport(self.name, chosen_on="nothing to choose", trained_parameters=weights.numel())
        return FitResult(run.path, None, report, run.metrics, summary, data.notes, data.skipped)

    def evaluate(self, use: Use, reporter) -> Evaluated:
        recipe = recipe_again(use)
        if use.split == "all":
            data = readable_samples(read_data(recipe, self.domain, self.name), reporter, recipe.workers)
            items = data.items
        else:
            data = self.read(recipe, reporter)
            items = data.split(use.split)
        scores = {"distance": distance(weights_of(use.run), data, items)}
        metrics = {"test_images": len(items), "zero_shot": None, "adapted": scores}
        return Evaluated(str(use.run.path), data.name, use.split, metrics)

    def predict(self, use: Use, reporter) -> Points:
        data = readable(decodable(images_of(self.domain, use.images, recipe_again(use).reading)))
        found = (pixels_of(data, data.items) @ weights_of(use.run)).tolist()
        points = [{"id": item.id, "point": point, "summary": str(point)} for item, point in zip(data.items, found)]
        if use.out is None:
            return Points(points, data.skipped)
        file = Path(use.out) / "points.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(points))
        return Points(points, data.skipped, [file])

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"model": "ridge", "shots": None, "seed": seed} for seed in seeds]

    def contest(self, recipe: Recipe, axes: Axes, reporter) -> Contest:
        return PointingContest(self, recipe, self.read(recipe, reporter))

    def table(self, metrics: Mapping[str, Any]):
        return scores_table(metrics)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return summaries_table(rows)

    # ------------------------------------------------------------------------------------------------------------------

    def read(self, recipe: Recipe, reporter) -> DomainData:
        data = read_data(recipe, self.domain, self.name)
        return split_samples(data, reporter, recipe.workers, recipe.split_seed)

    def learned(self, recipe: Recipe, data: DomainData) -> torch.Tensor:
        """(D, 2) weights, of some of the training images, drawn by the seed."""
        training = data.split("train")
        order = np.random.default_rng(recipe.seed).permutation(len(training))
        drawn = [training[place] for place in order[: max(2, round(recipe.task_options["share"] * len(training)))]]
        pixels, wanted = pixels_of(data, drawn), centres_of(drawn)
        gram = pixels.T @ pixels + recipe.task_options["ridge"] * torch.eye(pixels.shape[1])
        return torch.linalg.solve(gram, pixels.T @ wanted).contiguous()

    def info(self, recipe: Recipe, data: DomainData, seconds: float) -> dict[str, Any]:
        return {
            "created": now(),
            "domain": recipe.domain,
            "task": self.name,
            "adapter": self.name,
            "backbone": None,
            "class_names": list(data.class_names),
            "data": {"name": data.name, "path": place_of_data(recipe)},
            "seed": recipe.seed,
            "notes": data.notes,
            "seconds": round(seconds, 3),
            "versions": versions(),
            "recipe": recipe.to_dict(),
        }

    def report(self, run: Run) -> Report:
        rows = [(name, f"{value:.2f} pixels") for name, value in run.metrics["adapted"].items()]
        return Report(
            kind="Report of pointing",
            title=run.info["data"]["name"],
            lead=f"On {run.metrics['test_images']} test images.",
            sections=[TableSection("Scores", ("Score", "Value"), rows)],
            created=run.info["created"],
        )


class PointingContest(Contest):
    """Regressions on several draws."""

    def __init__(self, task: Pointing, recipe: Recipe, data: DomainData):
        super().__init__(data.name, list(data.notes))
        self.task, self.recipe, self.samples = task, recipe, data

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        weights = self.task.learned(self.recipe.with_(seed=entry["seed"]), self.samples)
        seconds = round(time.perf_counter() - started, 3)
        return {"distance": distance(weights, self.samples, self.samples.split("test")), "seconds": seconds}


def weights_of(run: Run) -> torch.Tensor:
    """Raises DataError where the file holds no weights."""
    try:
        return load_file(str(run.adapter_path))["weights"]
    except Exception as error:
        raise DataError(f"{run.adapter_path}: holds no weights ({type(error).__name__}); fit again") from error


def pixels_of(data: DomainData, items) -> torch.Tensor:
    """(N, D): means of rows and of columns, and a one."""
    rows = []
    for item in items:
        image = np.asarray(data.load(item), dtype=np.float32)
        if image.ndim != 3:
            raise ConfigError(f"{item.id}: an image is needed")
        bright = image.max(axis=2)
        places = [np.linspace(0, length - 1, SIDE).round().astype(int) for length in bright.shape]
        small = bright[places[0]][:, places[1]] / 255
        rows.append(np.concatenate([small.mean(axis=0), small.mean(axis=1), [1.0]]))
    return torch.tensor(np.array(rows), dtype=torch.float32)


def centres_of(items) -> torch.Tensor:
    return torch.tensor([[item.target.x, item.target.y] for item in items])


def distance(weights: torch.Tensor, data: DomainData, items) -> float:
    """Mean distance in pixels."""
    return float((pixels_of(data, items) @ weights - centres_of(items)).norm(dim=1).mean())
