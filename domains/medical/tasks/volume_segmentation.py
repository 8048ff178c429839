"""Volume segmentation: structures outlined in three dimensions, by networks of MONAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from ....core.contracts import DomainData, Evaluation, Item, LabelMap, OutputKind, Recipe
from ....core.data import readable
from ....core.errors import ConfigError
from ....core.runtime import write_whole
from ....core.tasks import ConfigTask
from ..volume_options import AUTO, VolumeOptions, VolumeSchedule
from ..volumes import new_volumes

if TYPE_CHECKING:
    from mmengine import Config


class VolumeSegmentation(ConfigTask):
    """Structures outlined in volumes."""

    name = "volume-segmentation"
    deciding: ClassVar = "dice"
    takes: ClassVar = frozenset({"data", "adapter", "shots", "backbone", "amp", "batch_size", "redact", "resume"})
    unused: ClassVar = {
        "classes": "all structures of the set are learned; omit it",
        "image_size": "volumes are resampled by the fingerprint of the set; give --patch-size",
        "plan": "the network follows from the data; say --network, --width and --patch-size",
    }
    words: ClassVar = {"image": "volume", "images": "volumes", "image.png": "volume.nii.gz"}
    compares: ClassVar = frozenset({"shots", "seeds"})
    can: ClassVar = frozenset({"predict", "save", "rename"})
    options: ClassVar = VolumeOptions
    writes: ClassVar = (".gz", ".png")
    gives: ClassVar = frozenset({OutputKind.ROWS, OutputKind.MASKS})
    refusals: ClassVar = {"export": "labels come from windows that are slid over a volume; predict with the run"}

    def __init__(self, domain=None):
        super().__init__(domain)
        self._labels: dict[str, Path] = {}
        self._outlined: dict[str, Item] = {}
        self._structures: dict[str, tuple[int, ...]] = {}
        self._folder_of_labels: TemporaryDirectory | None = None

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        options, epochs = VolumeOptions(**recipe.task_options), recipe.adapter.get("epochs")
        if epochs is not None and options.steps is not None:
            raise ConfigError(f"--epochs {epochs} and --steps {options.steps}: give one of them")

    def choose(self, recipe: Recipe, data: DomainData) -> DomainData:
        """So many training volumes that each structure is shown by `shots`, in the order of the seed."""
        if recipe.shots is None:
            return data
        shown = dict.fromkeys(range(len(data.class_names)), 0)
        kept = set()
        for item in sorted(data.split("train"), key=lambda each: each.rank(recipe.seed)):
            if any(shown[label] < recipe.shots for label in item.classes()):
                kept.add(item.id)
                shown = {label: count + (label in item.classes()) for label, count in shown.items()}
        return data.with_items([item for item in data.items if item.split != "train" or item.id in kept])

    def plan(self, recipe: Recipe, data: DomainData, backbone) -> Config:
        """The network and its training as the fingerprint of the training volumes has them."""
        from ..segmenting.training import make_volume_plan

        return make_volume_plan(_asked(recipe), VolumeOptions(**recipe.task_options), data, backbone)

    def facts(self, recipe: Recipe, data: DomainData) -> dict[str, Any]:
        """The fingerprint, and what a fit would train."""
        from ..segmenting.training import plan_facts

        return plan_facts(_asked(recipe), VolumeOptions(**recipe.task_options), data)

    def train(self, plan: Config, folder: Path, recipe: Recipe, data: DomainData, device, reporter, change=None):
        """And choose on val which structures keep their largest component alone."""
        from ..segmenting.folds import fold_plans, joined
        from ..segmenting.running import asked_for, gains_of, keep_largest

        options = VolumeOptions(**recipe.task_options)
        if options.network == "clip-driven":
            change = partial(asked_for, names=data.class_names)
        gains: list[list[float]] = []
        members: list[Any] = []
        history: list[dict[str, float]] = []
        for fold, (of_fold, held_out) in enumerate(fold_plans(plan, data, options.ensemble, recipe.seed)):
            place = folder if options.ensemble == 1 else folder / f"fold_{fold}"
            place.mkdir(parents=True, exist_ok=True)
            if place != folder:  # by which a stopped fit is found to have something to go on from
                write_whole(folder / "last_checkpoint", place.name)
            model, steps = super().train(of_fold, place, recipe, data, device, reporter, change)
            gains += gains_of(model, held_out, data.class_names) if options.largest == AUTO else []
            members.append(model)
            history = history or steps
        model = members[0] if options.ensemble == 1 else joined(plan, members, device)
        keep_largest(model, plan, gains, options.largest)
        return model, history

    def score(self, model, data: DomainData, backbone, progress) -> Evaluation:
        """Dice, HD95 and surface Dice."""
        from ..segmenting.running import evaluate_volumes

        return evaluate_volumes(model, data, progress)

    def images(self, paths: Sequence[str | Path], recipe: Recipe) -> DomainData:
        """New volumes; files CASE_0000 and CASE_0001 are channels of one."""
        limit = self.domain.reading_of(recipe.reading).max_pixels
        return readable(new_volumes(paths, limit), decode=True)

    def look(self, model, data: DomainData, backbone, progress) -> list[dict[str, Any]]:
        """Of each volume how large each structure is; the labels lie in a folder until they are saved."""
        from ..segmenting.running import predict_volumes, structures_of

        self._folder_of_labels = TemporaryDirectory(prefix="vladapt-")
        rows, self._labels = predict_volumes(model, data, Path(self._folder_of_labels.name), progress)
        self._outlined, self._structures = {item.id: item for item in data.items}, structures_of(model)
        return rows

    def label_map(self, row: Mapping[str, Any], class_names: Sequence[str]) -> LabelMap:
        """The labels of a volume in its own order, read from their file."""
        from ..segmenting.saving import stored_labels

        _, labels = stored_labels(self._outlined[row["id"]], self._labels[row["id"]])
        return LabelMap(labels, self._structures)

    def save(
        self, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Labels as NIfTI on the grid of each volume, and a slice with their outlines."""
        from ..segmenting.saving import save_labels

        return save_labels(data, self._labels, folder)

    def rename(self, model, classes: Any) -> tuple[str, ...]:
        """Ask for other structures by their names, which are labelled 1, 2, ...; of clip-driven alone."""
        from ..segmenting.running import renamed

        return renamed(model, classes)


def _asked(recipe: Recipe) -> VolumeSchedule:
    told = {key: getattr(recipe, key) for key in ("backbone", "batch_size", "amp", "seed", "workers")}
    return VolumeSchedule(**told, epochs=recipe.adapter.get("epochs"), lr=recipe.adapter.get("lr"))
