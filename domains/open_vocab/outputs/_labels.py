"""What kinds of labels share: the folder that they are written into, and its images.

All kinds share one folder, so that `fit --data` reads it whichever of them it holds: `images/`, and beside it
`instances.json` (COCO), `labels/` with `data.yaml` (YOLO), or `Annotations/` (VOC).
"""

from __future__ import annotations

import filecmp
import os
import secrets
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ....core.contracts import OutputKind, Task, Use
from ....core.errors import ConfigError, DataError
from ....core.runtime import replacing
from ..data.items_file import to_uint8
from ..labels.label_set import IMAGES, LabelSet

SPLITS = ("train", "val", "test")


class LabelOutput(OutputKind):
    """Class attributes:
    outlines: whether its files can hold outlines.
    """

    made_of: ClassVar = OutputKind.BOXES
    outlines: ClassVar[bool] = True

    def check(self, use: Use, task: Task) -> None:
        if (there := labels_in(Path(use.out))) is not None:
            raise ConfigError(f"--out {use.out}: holds other labels ({there.name}); give a new folder")

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        labels: LabelSet = predicted.labels
        self.check_names(labels.class_names)
        return [*place_images(labels, folder), *self.write_labels(labels, folder)]

    def check_names(self, class_names: Sequence[str]) -> None:
        """Raise the ConfigError of a class name that would not be read back as it is."""

    @abstractmethod
    def write_labels(self, labels: LabelSet, folder: Path) -> list[Path]:
        """Write the labels beside the images, in place of those that are there; returns the files."""


def refuse_blank(kind: str, class_names: Sequence[str]) -> None:
    """Raise the ConfigError of a class name that readers of text strip to another one."""
    for name in class_names:
        if not name or name != name.strip():
            raise ConfigError(
                f"{kind} labels: the class name {name!r} is empty or has blanks at its ends; rename the class"
            )


def labels_in(folder: Path) -> Path | None:
    """A file or folder of labels in a folder; None: there are none."""
    named = ("data.yaml", "classes.txt", "labels", "Annotations", "annotations", "sources.json")
    places = (*sorted(folder.glob("instances*.json")), *(folder / name for name in named))
    return next((place for place in places if place.exists()), None)


def split_names(labels: LabelSet) -> tuple[str, ...]:
    """The splits of a set, or "" where its images have none: an image without one trains."""
    return SPLITS if any(image.split for image in labels.images) else ("",)


def of_split(labels: LabelSet, split: str) -> list:
    """The images of a split."""
    return [image for image in labels.images if not split or (image.split or SPLITS[0]) == split]


def place_images(labels: LabelSet, folder: Path) -> list[Path]:
    """Each image as a file in `images/`: a second name of its file where the disk can, else a copy; a part of a file as
    PNG.

    Raises:
        DataError: another image of that name is there, or nothing can be written.
    """
    place = folder / IMAGES
    place.mkdir(parents=True, exist_ok=True)
    return [_placed(labels, name, place / name) for name in labels.pictures]


def _placed(labels: LabelSet, name: str, path: Path) -> Path:
    source = labels.file_of(name)
    if path.exists():
        if not (_shows(path, labels, name) if source is None else _is_copy(source, path)):
            raise DataError(f"{path}: another image of that name is there; give a new folder")
        return path
    try:
        if source is not None:
            os.link(source.resolve(), path)
            return path
    except OSError:  # another disk, or one without such links
        pass
    with replacing(path) as partial:
        if source is not None:
            shutil.copyfile(source, partial)
        else:
            Image.fromarray(to_uint8(labels.load(labels.pictures[name]))).save(partial, "PNG")
    return path


def _is_copy(source: Path, path: Path) -> bool:
    return os.path.samefile(source, path) or filecmp.cmp(source, path, shallow=False)


def _shows(path: Path, labels: LabelSet, name: str) -> bool:
    """Whether a file that is there has the pixels of an image."""
    try:
        with Image.open(path) as there:
            pixels = np.asarray(there)
    except (OSError, ValueError):
        return False
    return np.array_equal(pixels, to_uint8(labels.load(labels.pictures[name])))


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder to write into in the block, which then takes the place of `path`."""
    partial, old = (path.parent / f".partial-{os.getpid()}-{secrets.token_hex(8)}" for _ in range(2))
    try:
        partial.mkdir()
        yield partial
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except OSError as error:
        raise DataError.unwritable(path.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
