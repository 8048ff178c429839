"""A domain: how its data is read, how its pixels become inputs, which words name its classes, what fits it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .errors import ConfigError, DataError
from .options import option, options_from, settle

if TYPE_CHECKING:
    from .metric import Metric
    from .task import Task

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of `read_any` (`core/data/detect.py`), and of every domain's `read` that names no others. A domain's own
    may be a subclass. Which of them apply depends on the kind of data found."""

    class_names: tuple[str, ...] | None = option(None, "manifests: the classes in order; by default all that occur")
    root: str | None = option(None, "manifests and split_zhou files: folder that paths are relative to")
    min_side: float | None = option(None, "boxes: shortest side in pixels that is used", low=0, high=100_000)

    def __post_init__(self):
        settle(self)


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

    Class attributes:
        tasks: names of tasks; the first is the default one. A class in place of a name is a task of the domain's own
            that is not installed as a plug-in.
        reading: options of `read`, a dataclass of `option` fields; `data.NAME` in a recipe.
        default_adapter: the method of a fit that names none.
        metrics: names of metrics of its own (`contracts/metric.py`) that a classification reports besides the usual
            ones, or their classes.
    """

    name: ClassVar[str] = ""
    tasks: ClassVar[tuple[str | type[Task], ...]] = ("classification",)
    reading: ClassVar[type] = Reading
    default_adapter: ClassVar[str] = "tip-adapter"
    metrics: ClassVar[tuple[str | type[Metric], ...]] = ()

    @abstractmethod
    def read(self, path: str | Path, task: str, **options) -> DomainData:
        """Read a labelled data set by looking at `path`.

        Args:
            options: fields of `reading`.

        Raises:
            DataError: nothing usable there; one line with the path and what would be read.
            ConfigError: an option that is not usable, said before anything is read.
        """

    def reading_of(self, options: Mapping[str, Any]) -> Any:
        """`reading` from what a user said. None counts as not given.

        Raises:
            UnknownNameError: no such option; the message names the nearest.
            ConfigError: a value that is not usable.
        """
        return options_from(self.reading, options, f"domain '{self.name}'")

    def read_images(self, paths: Sequence[str | Path], **options) -> DomainData | None:
        """Unlabelled images for `predict`, `embed`: files, or folders searched for files. None: they are plain image
        files, which need no reader of the domain's own (`core/data/unlabelled.py` reads them)."""
        return None

    @abstractmethod
    def sample(self, task: str) -> DomainData:
        """A small set that needs no download."""

    @abstractmethod
    def templates(self, task: str) -> list[str]:
        """Prompt templates with one `{}` for the class name."""

    def negative_templates(self, task: str) -> list[str]:
        """Templates that say a finding is absent, for sets with several labels per image."""
        return ["a photo without {}."]

    def transforms(self, backbone, train: bool, task: str) -> Callable[[Decoded], Any]:
        """Decoded image -> pixels (3, S, S), or (T, 3, S, S) of a sample with parts: frames of a clip (T, H, W, 3),
        slices of a volume, windows of a raster. Each part is encoded and stored by itself, and methods get the parts or
        their mean.

        Called as transform(decoded, seed=None): what is random is a function of the seed alone. Has an attribute
        `spec` (JSON-able), part of the feature store's key.
        """
        return backbone.preprocess(train)

    @cached_property
    def recipes(self) -> dict[str, Path]:
        """Recipe name -> file, from the folder `recipes/` beside the domain's module."""
        import inspect

        folder = Path(inspect.getfile(type(self))).parent / "recipes"
        return {p.stem.replace("_", "-"): p for p in sorted(folder.glob("*.py"))} if folder.is_dir() else {}

    def check_task(self, task: str | None) -> str:
        """`task`, or the default one; raises ConfigError for one the domain does not have."""
        names = self.task_names
        if not task:
            return names[0]
        if task not in names:
            raise ConfigError(f"--task {task}: domain '{self.name}' has {', '.join(names)}")
        return task

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of `tasks`."""
        return tuple(task if isinstance(task, str) else task.name for task in self.tasks)


def check_items(data: DomainData, path: str | Path) -> DomainData:
    """The checks every read set passes: some images, two classes at least."""
    if not data.items:
        raise DataError(f"{path}: no readable image found; give a folder of class folders, or a manifest")
    if data.kind in ("labels", "clips"):
        used = {item.label for item in data.items if item.label is not None}
        if len(used) < 2:
            raise DataError(f"{path}: {len(used)} class with images; a classifier needs two classes at least")
    return data
