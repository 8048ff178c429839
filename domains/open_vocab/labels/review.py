"""A person's look at the boxes that a model made: accepted, corrected, dropped or added, image by image.

Each decision holds the boxes of its image as they are then, and is appended to `review.jsonl` at once; `apply` writes
them into the labels, as a person's. So a killed page loses nothing; where it was killed while it wrote the labels, the
next one finishes that. A decision is of the labels that were shown, told
by their digest: once it is written, or where the labels were changed or made anew since, it is not written again. It
also holds the boxes of the model, which an undo brings back.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....core.data import Box, ListedImage
from ....core.errors import ConfigError, DataError, shortened
from ....core.runtime import LocalPage, replacing
from ..data.items_file import to_uint8
from ..data.outlines import valid_outline
from ..data.polygons import polygons_of
from ..outputs._labels import LabelOutput, replaced_folder
from ..outputs.coco import POLYGONS, RLE, Coco
from ..outputs.voc import Voc
from ..outputs.yolo import Yolo
from .label_set import LabelSet
from .reading import kinds_in, read_labels

DECISIONS = "review.jsonl"
READY = ".review-ready"
"""In a folder of labels: new ones, written whole and not all in their places yet."""
MOST_BOXES = 2000
SAME = 0.01
"""Pixels by which a box that was not moved may differ."""


class Review(LocalPage):
    """A folder of labels with the images that nobody has reviewed.

    Args:
        folder_of_labels: the folder.
        clock: seconds, for what pages are open.

    Raises:
        As `read_labels`, and of a file of decisions.
    """

    command: ClassVar = "vladapt review"
    folder: ClassVar = Path(__file__).with_name("page")
    most_body: ClassVar = 1 << 20

    def __init__(self, folder_of_labels: Path, clock: Callable[[], float] = time.monotonic):
        super().__init__(clock)
        self.place = folder_of_labels
        kinds_in(folder_of_labels)
        self.decisions = self.decision_file(folder_of_labels / DECISIONS)
        try:
            _put_in_place(folder_of_labels)
            self.labels = read_labels(folder_of_labels)
            decided = self.decisions.decisions()
            self.images = [image for image in self.labels.images if image.unreviewed or image.name in decided]
            for output in _outputs(self.labels, folder_of_labels):
                output.check_names(self.labels.class_names)
            for image in self.images:
                self._check(image, self._pending(image))
        except BaseException:
            self.close()
            raise

    def gets(self) -> Mapping[str, Callable[..., Any]]:
        return {"/picture/{image:int}": self.picture, "/boxes/{image:int}": self.boxes}

    def posts(self) -> Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        return {"/open": lambda body: self.state(), "/decide": self.decide, "/undo": lambda body: self.undo()}

    def state(self) -> dict[str, Any]:
        """What a page needs to begin."""
        images = [
            {"name": image.name, "width": image.size[0], "height": image.size[1], "done": self._is_done(image)}
            for image in self.images
        ]
        return {"classes": list(self.labels.class_names), "images": images}

    def picture(self, image: int) -> np.ndarray:
        """The pixels of an image."""
        return to_uint8(self.labels.load(self.labels.pictures[self._image(image).name]))

    def boxes(self, image: int) -> dict[str, Any]:
        """The boxes of an image as they stand, with polygons to draw."""
        return {"boxes": [_shown(box, self._image(image).size) for box in self._standing(image)]}

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take the boxes of an image as a person's: {"image", "boxes": [{"name", "corners", "of": the place of the box
        that it was, or null}]}.

        Raises:
            ConfigError: an unknown image or class, or a box that is none. DataError: nothing can be written.
        """
        number, listed = body.get("image"), body.get("boxes")
        if type(number) is not int or not isinstance(listed, list) or len(listed) > MOST_BOXES:
            raise ConfigError(f"a decision has an image and its boxes, at most {MOST_BOXES}")
        image, before = self._image(number), self._standing(number)
        counts: Counter[str] = Counter(dropped=len(before))
        decided = []
        for entry in listed:
            box, of = self._box(entry, image, before)
            counts[of] += 1
            counts["dropped"] -= of != "added"
            decided.append(_row(box))
        earlier = self.decisions.decisions().get(image.name, {}) if self._is_done(image) else {}
        by_model = [_model_row(box) for box in image.boxes] if image.unreviewed else earlier.get(BY_MODEL)
        self.decisions.add(image.name, {"boxes": decided, SHOWN: _digest(image), BY_MODEL: by_model, **counts})
        return dict(counts)

    def undo(self) -> dict[str, Any]:
        """Withdraw the latest decision; says of which image. The boxes of the model are written back at once where the
        decision is in the labels already."""
        name, row = next(reversed(self.decisions.decisions().items()), (None, {}))
        places = [place for place, image in enumerate(self.images) if image.name == name and self._is_done(image)]
        if not places:
            return {"image": None}
        image = self.images[places[0]]
        if not image.unreviewed and row.get(BY_MODEL) is not None:
            self._check(image, {"boxes": row[BY_MODEL]})
            self._rewrite({name: _with_boxes(image, row[BY_MODEL], Box.MODEL)})
        self.decisions.undo()
        return {"image": places[0]}

    def apply(self) -> dict[str, int]:
        """Write what was decided and is not in the labels yet into all kinds of labels of the folder; returns how many
        images are decided, and boxes by what became of them."""
        decided = self.decisions.decisions()
        done = [image for image in self.images if self._is_done(image)]
        counts = Counter(images=len(done))
        for image in done:
            row = decided[image.name]
            counts.update({key: value for key, value in row.items() if key in BECAME and type(value) is int})
        pending = {image.name: _as_decided(image, row) for image in done if (row := self._pending(image))}
        if pending:
            self._rewrite(pending)
        return dict(counts)

    def close(self) -> None:
        """Let others review."""
        self.decisions.close()

    def _pending(self, image: ListedImage) -> Mapping[str, Any] | None:
        """What was decided of an image and is not in its labels, which are still those that were shown."""
        row = self.decisions.decisions().get(image.name)
        if row is None:
            return None
        same = row[SHOWN] == _digest(image) if SHOWN in row else image.unreviewed
        return row if same else None

    def _is_done(self, image: ListedImage) -> bool:
        """Whether somebody decided of the labels that the image has; labels that a model made anew are others."""
        decided = image.name in self.decisions.decisions()
        return decided and (not image.unreviewed or self._pending(image) is not None)

    def _rewrite(self, changed: Mapping[str, ListedImage]) -> None:
        """Write the labels with some images changed, and take them as they are read back."""
        images = [changed.get(image.name, image) for image in self.labels.images]
        _write(replace(self.labels, images=images), self.place)
        self.labels = read_labels(self.place)
        of_name = {image.name: image for image in self.labels.images}
        self.images = [of_name[image.name] for image in self.images]

    def _check(self, image: ListedImage, row: Mapping[str, Any] | None) -> None:
        """Raise the DataError of a decision that cannot be one of this image: the file is anybody's."""
        try:
            for entry in () if row is None else row["boxes"]:
                self._box({"name": entry["name"], "corners": entry["corners"], "of": None}, image, ())
                if entry["outline"] is not None and valid_outline(entry["outline"], image.size) != entry["outline"]:
                    raise ConfigError("an outline cannot be drawn")
        except (ConfigError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.decisions.path}: its line on {image.name} cannot be used ({shortened(error)}); remove it"
            ) from error

    def _image(self, number: int) -> ListedImage:
        if not 0 <= number < len(self.images):
            raise ConfigError(f"image {number}: there are {len(self.images)}")
        return self.images[number]

    def _standing(self, number: int) -> tuple[Box, ...]:
        image = self._image(number)
        return _as_decided(image, self._pending(image)).boxes

    def _box(self, entry: Any, image: ListedImage, before: tuple[Box, ...]) -> tuple[Box, str]:
        """A box that was sent, and what became of the one that it was."""
        entry = entry if isinstance(entry, dict) else {}
        name, corners, of = (entry.get(key) for key in ("name", "corners", "of"))
        if name not in self.labels.class_names:
            raise ConfigError(f"class '{shortened(name)}': there are {', '.join(self.labels.class_names)}")
        corners = _checked(corners, image.size)
        if of is None:
            return Box(name, corners), "added"
        if type(of) is not int or not 0 <= of < len(before):
            raise ConfigError(f"box {shortened(of)}: there are {len(before)}")
        moved = max(abs(a - b) for a, b in zip(corners, before[of].corners)) > SAME
        if moved:
            moved_box = Box(name, corners, ignored=before[of].ignored)
            return moved_box, "corrected"  # an outline that the model drew is none of this box
        return replace(before[of], name=name), "accepted" if name == before[of].name else "corrected"


BECAME = ("accepted", "corrected", "dropped", "added")
"""What a person made of the boxes."""
SHOWN, BY_MODEL = "shown", "by_model"
"""In a decision: the digest of the labels that it was made of, and the boxes of the model."""


def _checked(corners: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Corners inside the image."""
    numbers = isinstance(corners, list) and len(corners) == 4 and all(type(v) in (int, float) for v in corners)
    if not numbers or not all(map(math.isfinite, corners)):
        raise ConfigError("a box has four corners x0, y0, x1, y1 in pixels")
    x0, y0, x1, y1 = (round(float(min(max(value, 0), size[place % 2])), 2) for place, value in enumerate(corners))
    if x1 <= x0 or y1 <= y0:
        raise ConfigError("a box has an area inside its image")
    return x0, y0, x1, y1


def _as_decided(image: ListedImage, row: Mapping[str, Any] | None) -> ListedImage:
    """An image with the boxes of a decision, a person's."""
    if row is None:
        return image
    return _with_boxes(image, row["boxes"], Box.PERSON)


def _with_boxes(image: ListedImage, rows: Iterable[Mapping[str, Any]], made_by: str) -> ListedImage:
    boxes = tuple(
        Box(
            entry["name"],
            tuple(entry["corners"]),
            entry["outline"],
            bool(entry.get("ignored")),
            made_by if made_by == Box.PERSON else entry.get("made_by", made_by),
            None if made_by == Box.PERSON else entry.get("score"),
        )
        for entry in rows
    )
    return replace(image, boxes=boxes, made_by=made_by)


def _row(box: Box) -> dict[str, Any]:
    return {"name": box.name, "corners": list(box.corners), "outline": box.outline, "ignored": box.ignored}


def _model_row(box: Box) -> dict[str, Any]:
    return {**_row(box), "made_by": box.made_by, "score": box.score}


def _digest(image: ListedImage) -> str:
    """Of what the labels say of an image."""
    boxes = [[box.name, box.corners, box.outline, box.ignored, box.made_by, box.score] for box in image.boxes]
    return hashlib.sha256(json.dumps([image.size, image.made_by, boxes]).encode()).hexdigest()[:16]


def _shown(box: Box, size: tuple[int, int]) -> dict[str, Any]:
    polygons = polygons_of(box.outline, size) if box.outline else []
    return {"name": box.name, "corners": list(box.corners), "score": box.score, "polygons": polygons}


def _write(labels: LabelSet, folder: Path) -> None:
    """All kinds of labels of a folder, first beside those that are there."""
    with replaced_folder(folder / READY) as ready:
        for output in _outputs(labels, folder):
            output.write_labels(labels, ready)
    _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Replace labels by new ones that are written whole, also those of a process that was killed."""
    ready, done = folder / READY, folder / f".partial-{secrets.token_hex(8)}"
    if not ready.is_dir():
        return
    for path in sorted(ready.rglob("*")):
        target = folder / path.relative_to(ready)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            with replacing(target) as partial:
                shutil.copyfile(path, partial)
    os.replace(ready, done)
    shutil.rmtree(done, ignore_errors=True)


def _outputs(labels: LabelSet, folder: Path) -> list[LabelOutput]:
    """What writes the kinds of labels that a folder holds."""
    drawn = any(isinstance(box.outline, list) for image in labels.images for box in image.boxes)
    kinds = {"coco": Coco(outline=POLYGONS if drawn else RLE), "voc": Voc(), "yolo": Yolo()}
    return [kinds[kind] for kind in kinds_in(folder)]
