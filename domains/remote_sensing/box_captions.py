"""Captions from boxes, and boxes from masks, so that sets for detection and segmentation teach image and text.

"RemoteCLIP: A Vision Language Foundation Model for Remote Sensing", 2023, arXiv 2306.11029: five captions per image
from its boxes (box-to-caption), and boxes around the regions of a mask (mask-to-box). No code of the conversion is
public; what is done is the paper's, the rules here are ours:

* an object is at the centre where the middle of its box lies in the middle half of both sides of the image;
* the first caption lists the objects at the centre, the second those away from it, with how many of each class; where
  there are none of these, it lists all objects of the image and says no place;
* each of the other three says how many there are of one class, drawn anew from those in the image;
* one is "a", two to ten are written out, more are "many", "a lot of" or "lots of", drawn anew; the exact counts of all
  classes are kept beside the captions;
* every draw is a function of the seed and the image's name;
* of a mask, every class has a box around the outer contour of each 8-connected region; regions of fewer pixels than
  `MIN_AREA` have none. A region in the hole of another of its class has no outer contour of its own, and no box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...core.contracts import Captions, DomainData
from ...core.data import (
    IMAGE,
    Box,
    CaptionSampler,
    CocoFile,
    Format,
    ItemCollector,
    ListedImage,
    locate,
    shown,
)
from ...core.errors import DataError
from .pictures import is_raster
from .rasters import header_of
from .scene_sets import spoken_name

WRITTEN = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MANY = ("many", "a lot of", "lots of")
DRAWN = 3
MIN_AREA = 16
IMAGES, MASKS, BACKGROUND, IGNORED = "images", "masks", "background", 255
PLACE_FORMS = ("there {are} {objects} at the center of the image.", "there {are} {objects} away from the center.")
COUNT_FORMS = ("there {are} {objects} in the image.", "the image shows {objects}.", "{objects} can be seen from above.")


@dataclass(frozen=True)
class CountedCaptions(Captions):
    """Captions made of boxes.

    Args:
        counts: class -> exact number of its boxes.
    """

    counts: Mapping[str, int] = field(default_factory=dict)

    def numbers(self) -> Mapping[str, int]:
        return self.counts


def captions_of_boxes(boxes: Sequence[Box], size: tuple[int, int], name: str, seed: int = 0) -> CountedCaptions:
    """Five captions of an image.

    Args:
        boxes: one at least.
        size: height and width of the image.
        name: of the image; with the seed it decides what is drawn.

    Raises:
        ValueError: there are no boxes.
    """
    if not boxes:
        raise ValueError("an image without boxes has no captions")
    draw = CaptionSampler(seed=seed).generator("box-captions", name)
    counts = Counter(box.name for box in boxes)
    centre = Counter(box.name for box in boxes if _is_central(box.corners, size))
    texts = [
        _sentence(form if of_place else COUNT_FORMS[0], of_place or counts, draw)
        for form, of_place in zip(PLACE_FORMS, (centre, counts - centre))
    ]
    classes = sorted(counts)
    for _ in range(DRAWN):
        label = classes[int(draw.integers(len(classes)))]
        form = COUNT_FORMS[int(draw.integers(len(COUNT_FORMS)))]
        texts.append(_sentence(form, {label: counts[label]}, draw))
    return CountedCaptions(tuple(texts), counts=dict(counts))


def boxes_of_mask(
    mask: np.ndarray, names: Sequence[str], ignored: Collection[int] = (), min_area: int = MIN_AREA
) -> list[Box]:
    """A box for each region of each class, in the order of classes, then from top to bottom.

    Args:
        mask: (H, W) class indices.
        names: of the classes.
        ignored: indices that have no boxes (background, 255).
        min_area: regions of fewer pixels have none.
    """
    import cv2

    boxes: list[Box] = []
    for index, name in enumerate(names):
        if index in ignored or not (mask == index).any():
            continue
        of_class = (mask == index).astype(np.uint8)
        contours, _ = cv2.findContours(of_class, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        _, regions = cv2.connectedComponents(of_class, connectivity=8)
        areas = np.bincount(regions.ravel())
        outer = []
        for contour in contours:
            x, y = contour[:, 0, 0], contour[:, 0, 1]
            if areas[regions[y[0], x[0]]] >= min_area:
                outer.append((float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)))
        boxes += [Box(name, corners) for corners in sorted(outer, key=lambda corners: (corners[1], corners[0]))]
    return boxes


def read_captions_of_boxes(path: Path, formats: Sequence[Format], class_names: Sequence[str] | None) -> DomainData:
    """Images with the captions of their boxes.

    Args:
        path: COCO JSON, its folder, or a folder with `images` and `masks`, whose files have the same names.
        formats: what counts as an image.
        class_names: of the values 0, 1, ... of masks; "background" has no boxes, nor has the value 255.

    Raises:
        DataError: nothing usable there, or masks without names of classes.
    """
    folder = path if path.is_dir() else path.parent
    if (path / MASKS).is_dir():
        images, notes = list(_masked_images(path, class_names)), []
    else:
        images, _, notes = CocoFile.boxed_images(path)
    collector, without = ItemCollector(), 0
    for image in images:
        file = locate(image.name, image.roots, str(image.listed_in))
        if file is None:
            collector.skip(image.name, f"no such file; looked in {', '.join(map(str, image.roots))}")
        elif not image.boxes:
            without += 1
        else:
            boxes = [replace(box, name=spoken_name(box.name.replace("-", " "))) for box in image.boxes]
            id_ = shown(file, folder)
            target = captions_of_boxes(boxes, _size_of(file), id_)
            collector.add_file(file, id_, formats, target=target, split=image.split)
    if not collector.items:
        raise DataError(f"{path}: none of its images has a box, so none has a caption; give COCO boxes, or masks")
    notes = [*notes, "Captions are made from boxes, five per image (`domains/remote_sensing/box_captions.py`)."]
    notes += [f"Images without boxes, left out: {without}."] if without else []
    return collector.data_set(folder, formats, kind="captions", name=folder.name, notes=notes)


def _masked_images(folder: Path, class_names: Sequence[str] | None) -> Iterator[ListedImage]:
    if not class_names:
        raise DataError(
            f"{folder}: nothing says what the values of its masks mean; name them by --set "
            "data.class_names=background,road (0, 1, ...)"
        )
    by_stem = {file.stem: file for file in sorted((folder / IMAGES).glob("*")) if file.is_file()}
    ignored = {index for index, name in enumerate(class_names) if name == BACKGROUND}
    for file in sorted((folder / MASKS).glob("*")):
        if file.stem in by_stem:
            mask = IMAGE.values(file)
            if (most := int(mask[mask != IGNORED].max(initial=0))) >= len(class_names):
                raise DataError(
                    f"{file}: has the value {most}, but only {len(class_names)} classes are named; name all"
                )
            boxes = tuple(boxes_of_mask(mask, class_names, ignored))
            yield ListedImage(f"{IMAGES}/{by_stem[file.stem].name}", folder, (folder,), boxes)


def _size_of(file: Path) -> tuple[int, int]:
    """Height and width."""
    if is_raster(file):
        header = header_of([file])
        return header.height, header.width
    width, height = IMAGE.size_of(file, {})
    return height, width


def number_word(count: int, draw: np.random.Generator) -> str:
    """ "a", "two" to "ten", then a vague word."""
    return WRITTEN[count] if count < len(WRITTEN) else MANY[int(draw.integers(len(MANY)))]


def english_plural(name: str) -> str:
    """Of a class name, by the usual endings of English."""
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in tuple("aeiou"):
        return f"{name[:-1]}ies"
    return f"{name}s"


def _is_central(box: Sequence[float], size: tuple[int, int]) -> bool:
    height, width = size
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return abs(x - width / 2) <= width / 4 and abs(y - height / 2) <= height / 4


def _sentence(form: str, counts: Mapping[str, int], draw: np.random.Generator) -> str:
    objects = [_counted(name, counts[name], draw) for name in sorted(counts)]
    listed = objects[0] if len(objects) == 1 else f"{', '.join(objects[:-1])} and {objects[-1]}"
    first = counts[sorted(counts)[0]]
    return form.format(are="is" if first == 1 else "are", objects=listed)


def _counted(name: str, count: int, draw: np.random.Generator) -> str:
    word = number_word(count, draw)
    if count == 1:
        return f"an {name}" if name[:1] in tuple("aeiou") else f"a {name}"
    return f"{word} {english_plural(name)}"
