"""Change detection: where the land changed between two dates, by a siamese head on any tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ....core.contracts import DomainData, Evaluation, Exported, ExportWishes, Recipe, Use
from ....core.data import FileHashes
from ....core.runtime import Reporter
from ....core.tasks import ConfigTask
from ..changes.options import ChangeOptions
from ..pixel_options import PixelSchedule

if TYPE_CHECKING:
    from mmengine import Config


class Change(ConfigTask):
    """Changed land, as masks."""

    name = "change"
    deciding: ClassVar = "f1"
    takes: ClassVar = frozenset({"data", "adapter", "shots", "backbone", "amp", "batch_size", "redact", "resume"})
    unused: ClassVar = {
        "classes": "its classes are change and no change; omit it",
        "image_size": "tiles keep their size; give --window-size",
        "plan": "the model follows from --encoder, --tower and --head",
    }
    packages: ClassVar = {"mmcv": "open-vocab", "mmdet": "open-vocab", "mmseg": "open-vocab"}
    compares: ClassVar = frozenset({"shots", "seeds"})
    can: ClassVar = frozenset({"predict", "save"})
    options: ClassVar = ChangeOptions
    writes: ClassVar = (".tif", ".png", ".gpkg")
    refusals: ClassVar = {
        "serve": "a request is one image, and change needs both dates; use vladapt predict",
    }

    def __init__(self, domain=None):
        super().__init__(domain)
        self._files: list[Path] = []

    def choose(self, recipe: Recipe, data: DomainData) -> DomainData:
        """So many training tiles that show a change, and as many that show none, in the order of the seed."""
        if recipe.shots is None:
            return data
        left = {True: recipe.shots, False: recipe.shots}
        drawn = set()
        for item in sorted(data.split("train"), key=lambda each: each.rank(recipe.seed)):
            shows = 1 in item.classes()
            if left[shows] > 0:
                left[shows] -= 1
                drawn.add(item.id)
        return data.with_items([item for item in data.items if item.split != "train" or item.id in drawn])

    def check_data(self, recipe: Recipe, data: DomainData) -> None:
        """And that the training shows both classes."""
        from ..changes.training import check_training

        check_training(data.split("train"))

    def plan(self, recipe: Recipe, data: DomainData, backbone) -> Config:
        """The siamese model and its training."""
        from ..changes.training import make_change_plan

        settings = {key: getattr(recipe, key) for key in ("backbone", "batch_size", "amp", "seed", "workers")}
        assert self.domain is not None
        settings |= {"channels": self.domain.channels(recipe.reading)}
        schedule = PixelSchedule(**settings, epochs=recipe.adapter.get("epochs"), lr=recipe.adapter.get("lr"))
        return make_change_plan(schedule, ChangeOptions(**recipe.task_options), data, backbone)

    def train(self, plan: Config, folder: Path, recipe: Recipe, data: DomainData, device, reporter, change=None):
        """And choose thresholds on val, of the model and of what needs no training."""
        from ..changes.scoring import choose_thresholds

        model, history = super().train(plan, folder, recipe, data, device, reporter, change)
        with reporter.task("Choosing thresholds on val") as progress:
            choose_thresholds(plan, model, data, progress)
        return model, history

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """F1 and IoU of change, beside thresholds on differences."""
        from ..changes.scoring import evaluate_changes

        return evaluate_changes(model, data, progress)

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        """The graph of a window, and a script that slides it over rasters."""
        from ..window_export.run import ChangeExport, export_windows, trained_model

        recipe, windows = self.used_again(use), ChangeExport(trained_model(use))
        data = self._chosen(self._read(recipe), recipe, use.split, bool(use.data), reporter)
        return export_windows(windows, use, wishes, data, reporter)

    def images(self, paths: Sequence[str | Path], recipe: Recipe) -> DomainData:
        """New pairs: BEFORE AFTER, a table, or a folder with A and B."""
        from ..changes.reading import read_new

        assert self.domain is not None
        return read_new([Path(path) for path in paths], self.domain.reading_of(recipe.reading))

    def answer(self, use: Use, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Of each pair how much changed, and its files, straight into the folder that is asked for: a process that is
        killed goes on from there."""
        from ..changes.saving import map_and_save

        of_run = (use.run.adapter_path, use.run.path / "run.json")
        folder = None if use.out is None else Path(use.out)
        fingerprint = " ".join(map(FileHashes.of_file, of_run))
        rows, self._files = map_and_save(model, data, fingerprint, folder, progress)
        return rows

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Masks and probabilities on the grid of each pair, polygons of changed land, and pictures."""
        return self._files
