"""The open-vocab domain: things found by their names, as boxes or as masks, by models of mmdet and mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.contracts import Domain, DomainData, Item, option, settle
from ...core.data import IMAGE, Format
from ...core.errors import ConfigError
from .vocabulary import named_templates

READERS = {"detection": ("read_detection", ("class_names",)), "segmentation": ("read_segmentation", None)}
"""Task -> its reader in the package `data`, and the options of `OpenVocabReading` that it takes, None for all."""
NOTE = (
    "Drawn data: the sample's shapes are drawn by vladapt itself; pentagons and grey shapes have no name and are to be "
    "left out. The numbers show that the pipeline works, nothing about photographs."
)


@dataclass(frozen=True, kw_only=True)
class OpenVocabReading:
    """Options of `OpenVocab.read`, given as `data.NAME` in a recipe."""

    class_names: tuple[str, ...] | None = option(None, "classes, in order; names by number where the data have none")
    reduce_zero_label: bool = option(False, "masks: 0 is no class, and 1 the first class")
    background: bool = option(True, "masks of COCO outlines: the pixels outside are the first class")
    max_pixels: int = Item.max_pixels_option()

    def __post_init__(self):
        settle(self)


class OpenVocab(Domain):
    """Open-vocabulary detection and segmentation.

    Both tasks (`tasks/`) are trained by mmengine's Runner from a packaged config (`recipes`) or the user's own.
    """

    name = "open-vocab"
    tasks = tuple(READERS)
    reading = OpenVocabReading

    def read(self, path: str | Path, task: str, *, formats: Sequence[Format] = (IMAGE,), **options: Any) -> DomainData:
        """A set with boxes or masks.

        Args:
            path: file or folder, see `data.detection.read_detection` and `data.segmentation.read_segmentation`.
            task: "detection" or "segmentation".
            formats: what counts as an image; another domain gives its own.
            options: fields of `OpenVocabReading`.

        Raises:
            DataError: nothing there that can be read.
            UnknownNameError: no such option. ConfigError: a value that is not usable, or an option of another task.
        """
        from . import data

        name, taken = READERS[task]
        reading = dict(vars(self.reading_of(options)))
        limit = reading.pop("max_pixels")
        for option_name in reading:
            if taken is not None and option_name not in taken and options.get(option_name) is not None:
                raise ConfigError(f"--set data.{option_name}: not used by {task}; omit it, or give another --task")
        formats = tuple(replace(fmt, max_pixels=limit) for fmt in formats)
        read = getattr(data, name)(path, formats=formats, **{key: reading[key] for key in taken or reading})
        return read if limit == Item.MAX_PIXELS else read.with_items([_with_limit(item, limit) for item in read.items])

    def run_of_model(self, place: str) -> Path | None:
        """The run of a detector or segmentor of transformers."""
        from .hub_models.starting import task_of_source
        from .hub_models.used_as_is import run_of_source, usable
        from .tasks.detection import DetectionByNames
        from .tasks.segmentation import Segmentation

        if (source := usable(place)) is None:
            return None
        tasks = {task.name: task for task in (DetectionByNames, Segmentation)}
        return run_of_source(source, tasks[task_of_source(source)](self))

    def as_masks(self, data: DomainData, background: bool = True) -> DomainData:
        """A set of boxes with outlines, of any domain, as one of masks that are drawn when they are asked for.

        Args:
            background: whether pixels outside all outlines are a class, or ignored.

        Raises:
            DataError: no outline, or more classes than masks can hold.
        """
        from .data import outlines_as_masks

        return outlines_as_masks(data, background)

    def sample(self, task: str) -> DomainData:
        """A crowd of drawn shapes: 16 names, every colour with every shape, and some shapes without; no download."""
        from .shapes import shapes_folder

        data = self.read(shapes_folder(), task)
        data.name, data.licence = "shapes", "CC0-1.0"
        data.notes = [*data.notes, NOTE]
        return data

    def templates(self, task: str) -> list[str]:
        """What a class is asked by."""
        return named_templates("photo")


def _with_limit(item: Item, max_pixels: int) -> Item:
    """An item that says how large its image and its mask may be, to whatever decodes them in a training."""
    return item.with_(decode={**item.decode, "max_pixels": max_pixels})
