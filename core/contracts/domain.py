"""A domain: how its data is read, how its pixels become inputs, which words name its classes, what fits it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .errors import CapabilityError, ConfigError, DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One sample, not yet decoded.

    Args:
        id: unique within its data set, shown to the user; never a patient's name.
        source: the file its bytes come from.
        decode: JSON-able: which part of the file and how (frame, slice, axis, window, box, array and index).
        label: class index, or None.
        labels: one 0/1/NaN a class where an image has several labels.
        boxes: (n, 4) x0, y0, x1, y1 in pixels, with `box_labels`.
        segments: one a box, JSON-able: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a COCO RLE
            {"size": [height, width], "counts": ...}, or None where a box has no outline.
        ignored: one a box: neither an example nor a mistake to find (a crowd, an object marked difficult).
        size: (width, height) of the upright image, where the reader had to know it.
        mask: file of the mask.
        captions: texts of the image.
        identity: person or object identity.
        group: patient, identity, video or volume: never on both sides of a split.
        split: "train", "val", "test" or "" where the data does not say.
        facts: JSON-able: what else the annotation says of the image; detection knows "absent", classes that were
            looked for and are not there, and "partial", classes of which not every box is drawn (LVIS).
    """

    id: str
    source: Path
    decode: dict[str, Any] = field(default_factory=dict)
    label: int | None = None
    labels: tuple[float, ...] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    box_labels: tuple[int, ...] | None = None
    mask: Path | None = None
    captions: tuple[str, ...] | None = None
    identity: str | None = None
    group: str | None = None
    split: str = ""
    segments: tuple[Any, ...] | None = None
    ignored: tuple[bool, ...] | None = None
    size: tuple[int, int] | None = None
    facts: dict[str, Any] | None = None

    def with_(self, **changes) -> Item:
        return replace(self, **changes)


@dataclass
class Evaluation:
    """How well a model of a domain's own does, and what a report shows of it.

    Args:
        metrics: name -> value; shares are in 0..1.
        sections: of the report, in order (`core/runs/sections.py`).
        notes: sentences for the user.
    """

    metrics: dict[str, float]
    sections: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Decoded = np.ndarray
"""A decoded image: (H, W, 3) uint8, or (H, W, 3) float32 in 0..1 where the source is deeper than 8 bits."""


@dataclass
class DomainData:
    """A data set as read: items, names, and how to decode one.

    Args:
        items: all samples, of all splits.
        class_names: what `label` indexes, in order.
        load: decodes one item, raising DataError if it cannot; shape (H, W, 3), or (T, H, W, 3) for clips.
        kind: "labels", "multilabel", "clips", "boxes", "masks" or "captions".
        name: what the set is called in reports.
        skipped: (file, reason) of everything left out while reading.
        notes: sentences for the user (a synthetic set says so here).
        licence: of the data, where known.
        total: files looked at, for the share of skipped ones.
        load_mask: decodes an item's mask, where there are masks: (H, W) uint8 class indices, 255 for ignored pixels.
        frequency: of each class "r", "c" or "f" (rare, common, frequent), where the data say (LVIS).
    """

    items: list[Item]
    class_names: tuple[str, ...]
    load: Callable[[Item], Decoded]
    kind: str = "labels"
    name: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    licence: str = "unknown"
    load_mask: Callable[[Item], np.ndarray] | None = None
    frequency: tuple[str, ...] | None = None

    @property
    def total(self) -> int:
        return len(self.items) + len(self.skipped)

    def split(self, name: str) -> list[Item]:
        return [item for item in self.items if item.split == name]

    def with_items(self, items: Sequence[Item]) -> DomainData:
        return replace(self, items=list(items))


class Domain(ABC):
    """Base of all domains. Subclasses set `name`, `tasks` and implement `read`, `sample` and `templates`.

    The first of `tasks` is the default one.
    """

    name: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    default_adapter: ClassVar[str] = "tip-adapter"

    @abstractmethod
    def read(self, path: str | Path, task: str, **options) -> DomainData:
        """Read a labelled data set by looking at `path`.

        Raises:
            DataError: nothing usable there; one line with the path and what would be read.
        """

    def read_images(self, paths: Sequence[str | Path], **options) -> DomainData:
        """Unlabelled images for `predict`, `embed`: files, or folders searched for files."""
        from ..data.unlabelled import read_unlabelled

        return read_unlabelled(paths)

    @abstractmethod
    def sample(self, task: str) -> DomainData:
        """A small set that needs no download."""

    @abstractmethod
    def templates(self, task: str) -> list[str]:
        """Prompt templates with one `{}` for the class name."""

    def negative_templates(self, task: str) -> list[str]:
        """Templates that say a finding is absent, for sets with several labels an image."""
        return ["a photo without {}."]

    def transforms(self, backbone, train: bool, task: str) -> Callable[[Decoded], Any]:
        """Decoded image -> pixels (3, S, S), or (T, 3, S, S) of a sample with parts: frames of a clip (T, H, W, 3),
        slices of a volume, windows of a raster. Each part is encoded and stored by itself, and methods get the parts or
        their mean.

        Called as transform(decoded, seed=None): what is random is a function of the seed alone. Has an attribute
        `spec` (JSON-able), part of the feature store's key.
        """
        return backbone.preprocess(train)

    def losses(self, task: str) -> list[str]:
        """Names of losses that fit, the default first."""
        return ["cross-entropy"]

    def metrics(self, task: str) -> list[str]:
        """Names of metrics to report, the one that decides first."""
        return ["accuracy"]

    # tasks a domain owns whole (detection, segmentation, retrieval) --------------------------------------------------

    def owns(self, task: str) -> bool:
        """Whether the task is trained and scored by the domain itself, not by an adapter on image features."""
        return False

    progress: Callable[[int, int], None] = staticmethod(lambda done, total: None)
    """Called as progress(done, total) while images are tested or predicted; the engine sets it."""

    def backbone_spec(self, task: str, recipe) -> str:
        """The backbone of a fit: the recipe's, unless a config of the recipe's stands on one of its own."""
        return recipe.backbone

    def choose(self, task: str, recipe, data: DomainData) -> DomainData:
        """What the recipe wants of a set whose splits are assigned: its classes, its shots."""
        return data

    def read_plan(self, task: str, recipe) -> DomainData | None:
        """The data that a config of the user's own names (`recipe.plan`), where no data set is given; None: it names
        none."""
        return None

    def plan(self, task: str, recipe, data: DomainData, backbone) -> Any:
        """An mmengine Config of a whole training (model, train_dataloader, train_cfg, optim_wrapper, ...), or None
        where there is nothing to train. `recipe.plan` is the user's own, or a packaged one, or empty. mmengine's Runner
        runs it, unless it has no `train_cfg`: its model is then used as it is built. `model` must be a plain dict: it
        is kept in run.json with `default_scope` and the group `vladapt`, and built again from the registries at
        prediction; all three are then `model.cfg`."""
        return None

    def evaluate(self, task: str, model, data: DomainData, backbone) -> dict[str, float] | Evaluation:
        """Metrics on the items of the test split. `model` is the trained module, or None without a plan; where it has
        fixed classes, `data.class_names` are to be those."""
        raise ConfigError(f"domain '{self.name}' owns the task '{task}' but does not evaluate it")

    def predict(self, task: str, model, data: DomainData, backbone) -> list[dict[str, Any]]:
        """One JSON-able dict an item, with its `id` and, for a table, its `summary`."""
        raise ConfigError(f"domain '{self.name}' owns the task '{task}' but does not predict")

    def save_predictions(
        self, task: str, rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Write what `predict` gave into a folder, as pictures and files; returns the files."""
        raise CapabilityError(f"domain '{self.name}' writes no files of its predictions; leave --out away, use --json")

    def set_classes(self, task: str, model, classes: Any) -> tuple[str, ...]:
        """Give a trained model other class names, in place; returns the names."""
        raise CapabilityError(f"domain '{self.name}' has fixed classes; leave --classes away")

    @cached_property
    def recipes(self) -> dict[str, Path]:
        """Recipe name -> file, from the folder `recipes/` beside the domain's module."""
        import inspect

        folder = Path(inspect.getfile(type(self))).parent / "recipes"
        return {p.stem.replace("_", "-"): p for p in sorted(folder.glob("*.py"))} if folder.is_dir() else {}

    def check_task(self, task: str | None) -> str:
        """`task`, or the default one; raises ConfigError for one the domain does not have."""
        if not task:
            return self.tasks[0]
        if task not in self.tasks:
            raise ConfigError(f"--task {task}: domain '{self.name}' has {', '.join(self.tasks)}")
        return task


def check_items(data: DomainData, path: str | Path) -> DomainData:
    """The checks every read set passes: some images, two classes at least."""
    if not data.items:
        raise DataError(f"{path}: no readable image found; give a folder of class folders, or a manifest")
    if data.kind in ("labels", "clips"):
        used = {item.label for item in data.items if item.label is not None}
        if len(used) < 2:
            raise DataError(f"{path}: {len(used)} class with images; a classifier needs two classes at least")
    return data
