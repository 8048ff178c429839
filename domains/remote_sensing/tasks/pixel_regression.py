"""Pixel regression: a number for every pixel, as the height of a canopy, by parts of mmsegmentation on any tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ....core.contracts import DomainData, Evaluation, Exported, ExportWishes, Recipe, Use
from ....core.data import FileHashes, images_of
from ....core.errors import ConfigError
from ....core.runtime import Reporter
from ....core.tasks import ConfigTask
from ..pixel_options import PixelOptions, PixelSchedule

if TYPE_CHECKING:
    from mmengine import Config


class PixelRegression(ConfigTask):
    """A number for every pixel."""

    name = "pixel-regression"
    deciding: ClassVar = "rmse"
    takes: ClassVar = frozenset(
        {"data", "adapter", "plan", "shots", "backbone", "amp", "batch_size", "redact", "resume"}
    )
    unused: ClassVar = {
        "classes": "numbers have no classes; omit it",
        "image_size": "images are seen at their own size; give --window-size",
    }
    at_evaluation: ClassVar = frozenset({"data", "workers", "out"})
    at_prediction: ClassVar = frozenset({"out"})
    packages: ClassVar = {
        "rasterio": "remote-sensing",
        "mmcv": "open-vocab",
        "mmdet": "open-vocab",
        "mmseg": "open-vocab",
    }
    compares: ClassVar = frozenset({"shots", "seeds"})
    can: ClassVar = frozenset({"predict", "save"})
    options: ClassVar = PixelOptions
    writes: ClassVar = (".tif", ".png")
    refusals: ClassVar = {
        "serve": "its answer is a map of numbers, not labels, boxes or masks; use vladapt predict",
    }

    def __init__(self, domain=None):
        super().__init__(domain)
        self._files: list[Path] = []

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        options, epochs = PixelOptions(**recipe.task_options), recipe.adapter.get("epochs")
        if epochs is not None and options.steps is not None:
            raise ConfigError(f"--epochs {epochs} and --steps {options.steps}: give one of them")

    def choose(self, recipe: Recipe, data: DomainData) -> DomainData:
        """`shots` training windows of each of five bins of their mean number."""
        from ..number_maps import drawn_windows

        if recipe.shots is None:
            return data
        drawn = {item.id for item in drawn_windows(data.split("train"), recipe.shots, recipe.seed)}
        return data.with_items([item for item in data.items if item.split != "train" or item.id in drawn])

    def plan(self, recipe: Recipe, data: DomainData, backbone) -> Config:
        """An encoder and a head with one channel, with what `plan` of the recipe changes of it."""
        from ..number_maps import make_number_plan

        return make_number_plan(self._asked(recipe), PixelOptions(**recipe.task_options), data, backbone, recipe.plan)

    def facts(self, recipe: Recipe, data: DomainData) -> dict[str, Any]:
        """What a fit would train, and the statistics of its targets."""
        from ..number_maps import number_plan_facts

        return number_plan_facts(self._asked(recipe), PixelOptions(**recipe.task_options), data)

    def train(self, plan: Config, folder: Path, recipe: Recipe, data: DomainData, device, reporter, change=None):
        """And fit the baselines, and calibrate intervals on val."""
        from ..number_maps import settle_regressor

        model, history = super().train(plan, folder, recipe, data, device, reporter, change)
        settle_regressor(model, plan, data, self.backbone_of(recipe, recipe.backbone, device), recipe.seed)
        return model, history

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """MAE, RMSE and R2 beside the baselines."""
        from ..number_maps import evaluate_number_maps

        return evaluate_number_maps(model, data, backbone, progress)

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        """The graph of a window, and a script that slides it over rasters."""
        from ..window_export.run import NumberMapExport, export_windows, trained_model

        recipe, windows = self.used_again(use), NumberMapExport(trained_model(use))
        data = self._chosen(self._read(recipe), recipe, use.split, bool(use.data), reporter)
        return export_windows(windows, use, wishes, data, reporter)

    def images(self, paths: Sequence[str | Path], recipe: Recipe) -> DomainData:
        """Whole images, which are read window by window when they are mapped."""
        reading = {name: value for name, value in recipe.reading.items() if name != "labels"}
        return images_of(self.domain, paths, reading)

    def answer(self, use: Use, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Maps, straight into the folder that is asked for: a process that is killed goes on from there."""
        from ..number_maps import Regressor, map_rasters

        of_run = (use.run.adapter_path, use.run.path / "run.json")
        folder = None if use.out is None else Path(use.out)
        rows, self._files, skipped = map_rasters(
            Regressor(model), data.items, " ".join(map(FileHashes.of_file, of_run)), folder, progress
        )
        data.skipped += skipped
        return rows

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """NAME.tif, in the coordinates of each image, and NAME.png."""
        return self._files

    def _asked(self, recipe: Recipe) -> PixelSchedule:
        assert self.domain is not None
        settings = {key: getattr(recipe, key) for key in ("backbone", "batch_size", "amp", "seed", "workers")}
        settings |= {"channels": self.domain.channels(recipe.reading)}
        return PixelSchedule(**settings, epochs=recipe.adapter.get("epochs"), lr=recipe.adapter.get("lr"))
