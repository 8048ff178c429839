"""VinDr-CXR and RSNA Pneumonia: rows of boxes, several of an image, in VinDr-CXR by several readers.

* VinDr-CXR (Nguyen et al., 2022, arXiv 2012.15029): PhysioNet's folder `annotations`, whose training images three
  radiologists read and whose test images they agreed on; or Kaggle's `train.csv`.
* RSNA Pneumonia Detection Challenge (Shih et al., 2019, doi 10.1148/ryai.2019180041): `stage_2_train_labels.csv`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....core.contracts import Boxes, Labels
from ....core.data import Table, read_table
from .certainty import LEAST_SHARE, written_findings
from .entries import Annotated, LayoutEntry, row_numbers

VINDR_NONE = "no finding"
VINDR_CORNERS = ("x_min", "y_min", "x_max", "y_max")
CONSENSUS = ""
"""In place of a reader, where all of them agreed."""
PNEUMONIA = "Lung Opacity"
"""What RSNA's boxes show: opacities that may be pneumonia."""


@dataclass
class _Image:
    """What the readers of one image saw."""

    split: str
    readers: set[str] = field(default_factory=set)
    seen: Mapping[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    boxes: list[tuple[str, tuple[float, ...]]] = field(default_factory=list)

    @property
    def divided(self) -> bool:
        """Whether some of them saw a finding, and others did not."""
        return any(0 < len(readers) < len(self.readers) for readers in self.seen.values())

    def present(self, rule: str) -> set[str]:
        """The findings that enough of them saw."""
        least = LEAST_SHARE[rule] * len(self.readers)
        return {name for name, readers in self.seen.items() if len(readers) > least}


def vindr(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Findings of every image: those of the whole image where their tables lie there, else those of the boxes."""
    whole = [file.with_name(file.name.replace("annotations_", "image_labels_")) for file in files]
    images = _readings(whole if all(file.is_file() for file in whole) else files)
    classes, entries = _names(images), []
    for name, image in images.items():
        present = image.present(reading.readers)
        entries.append(LayoutEntry(name, Labels(tuple(float(each in present) for each in classes)), split=image.split))
    return Annotated(classes, entries, notes=_notes(images, reading.readers))


def vindr_boxes(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Boxes of every image, as each reader drew them, of the findings that enough readers saw."""
    images = _readings(files)
    classes, entries = _names(images), []
    for name, image in images.items():
        present = image.present(reading.readers)
        kept = [(corners, classes.index(finding)) for finding, corners in image.boxes if finding in present]
        boxes, labels = zip(*kept) if kept else ((), ())
        entries.append(LayoutEntry(name, Boxes(boxes, labels), split=image.split))
    return Annotated(classes, entries, "boxes", _notes(images, reading.readers))


def rsna(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Whether an image has a box."""
    drawn = _rsna_boxes(read_table(files[0]))
    entries = [LayoutEntry(image, Labels((float(bool(boxes)),)), patient=image) for image, boxes in drawn.items()]
    return Annotated((PNEUMONIA,), entries)


def rsna_boxes(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """The boxes of every image."""
    drawn = _rsna_boxes(read_table(files[0]))
    entries = [LayoutEntry(image, Boxes(tuple(some), (0,) * len(some)), patient=image) for image, some in drawn.items()]
    return Annotated((PNEUMONIA,), entries, "boxes")


def _rsna_boxes(table: Table) -> dict[str, list[tuple[float, float, float, float]]]:
    boxes: dict[str, list] = defaultdict(list)
    for row in table.rows:
        of_image = boxes[row.text("patientId")]
        if written_findings([row], ["Target"])[0, 0] == 1:
            x, y, width, height = row_numbers(row, "x", "y", "width", "height")
            of_image.append((x, y, x + width, y + height))
    return dict(boxes)


def _readings(files: Sequence[Path]) -> dict[str, _Image]:
    """Image -> what its readers saw."""
    images: dict[str, _Image] = {}
    for table in map(read_table, files):
        _add_readings(images, table)
    return images


def _add_readings(images: dict[str, _Image], table: Table) -> None:
    """Of one table, whose rows are a finding with a box each, or 1 and 0 of every finding of the whole image."""
    split = "test" if table.path.stem.endswith("_test") else "train" if table.path.stem.endswith("_train") else ""
    boxes = "class_name" in table.columns
    columns = [name for name in table.columns if name not in ("image_id", "rad_id")]
    for row in table.rows:
        image = images.setdefault(row.text("image_id"), _Image(split))
        reader = row.text("rad_id") or CONSENSUS
        image.readers.add(reader)
        values = [1.0] if boxes else written_findings([row], columns)[0].tolist()
        for name, value in zip([row.text("class_name")] if boxes else columns, values, strict=True):
            if name.lower() != VINDR_NONE:
                image.seen[name] |= {reader} if value == 1 else set()
                if boxes:
                    image.boxes.append((name, tuple(row_numbers(row, *VINDR_CORNERS))))


def _names(images: Mapping[str, _Image]) -> tuple[str, ...]:
    return tuple(sorted({name for image in images.values() for name in image.seen}))


def _notes(images: Mapping[str, _Image], rule: str) -> list[str]:
    divided = sum(image.divided for image in images.values())
    return [f"Images whose readers disagree, read by the rule '{rule}' (--readers): {divided}."]
