"""A YOLO folder: `labels/*.txt` with one object per line, in shares of the image, and `data.yaml` with the names.

Who made each object, which such files cannot say, stands in `sources.json` beside them (`data/yolo.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....core.data import Box, ListedImage
from ....core.runtime import json_text, write_whole
from ..data.polygons import one_polygon
from ..data.yolo import SOURCES, SOURCES_FORMAT, SOURCES_VERSION
from ..labels.label_set import IMAGES, LabelSet
from ._labels import LabelOutput, of_split, refuse_blank, replaced_folder, split_names

DIGITS = 9
"""Of a share, behind the point."""


class Yolo(LabelOutput):
    """A data set of labels as a YOLO folder, which `fit --data` reads: boxes, or one polygon per object."""

    def check_names(self, class_names: Sequence[str]) -> None:
        refuse_blank("YOLO", class_names)

    def write_labels(self, labels: LabelSet, folder: Path) -> list[Path]:
        import yaml

        numbers = {name: number for number, name in enumerate(labels.class_names)}
        files = [folder / "labels" / f"{Path(image.name).stem}.txt" for image in labels.images]
        with replaced_folder(folder / "labels") as partial:
            for image, file in zip(labels.images, files):
                lines = [_line(box, numbers[box.name], image.size) for box in _written(image)]
                (partial / file.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        entries = {f"{IMAGES}/{image.name}": _entry(image) for image in labels.images}
        content = {"format": SOURCES_FORMAT, "version": SOURCES_VERSION, "images": entries}
        write_whole(folder / SOURCES, json_text(content))
        config = {"path": ".", **self._places(labels, folder), "names": list(labels.class_names)}
        write_whole(folder / "data.yaml", yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
        return [*files, folder / SOURCES, folder / "data.yaml"]

    @staticmethod
    def _places(labels: LabelSet, folder: Path) -> dict[str, str]:
        """Each split as a list of images; a set without splits as its folder."""
        splits = {split: of_split(labels, split) for split in split_names(labels)}
        if "" in splits:
            return {"train": IMAGES}
        for split, images in splits.items():
            write_whole(folder / f"{split}.txt", "".join(f"./{IMAGES}/{image.name}\n" for image in images))
        return {split: f"{split}.txt" for split in splits}


def _written(image: ListedImage) -> list[Box]:
    """Objects that count: a YOLO file cannot say that one is to be ignored."""
    return [box for box in image.boxes if not box.ignored]


def _entry(image: ListedImage) -> dict:
    boxes = [{"source": box.made_by, **({} if box.score is None else {"score": box.score})} for box in _written(image)]
    return {"source": image.made_by, "boxes": boxes}


def _line(box: Box, number: int, size: tuple[int, int]) -> str:
    width, height = size
    polygon = one_polygon(box.outline, size) if box.outline else None
    if polygon:
        values = [value / size[place % 2] for place, value in enumerate(polygon)]
    else:
        x0, y0, x1, y1 = box.corners
        values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    return " ".join([str(number), *(f"{value:.{DIGITS}f}" for value in values)])
