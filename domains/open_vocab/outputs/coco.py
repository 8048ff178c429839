"""COCO JSON: boxes, with outlines as run-length encodings or polygons (Microsoft COCO, 2014, arXiv 1405.0312).

Beside COCO's own fields each annotation has `source`, "model" or "person", and a model's `score`; each image has
`source`, who looked at it. Readers that do not know these fields pass over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.contracts import option
from ....core.data import Box, ListedImage
from ....core.runtime import json_text, write_whole
from ..data.outlines import coco_masks, encode, outline_mask
from ..data.polygons import polygons_of
from ..labels.label_set import LabelSet
from ._labels import LabelOutput, of_split, split_names

RLE, POLYGONS = "rle", "polygons"


@dataclass(eq=False, kw_only=True)
class Coco(LabelOutput):
    """A data set of labels as COCO JSON, which pycocotools and `fit --data` read."""

    outline: str = option(RLE, "outlines: rle, which is exact, or polygons, without holes", choices=(RLE, POLYGONS))

    def write_labels(self, labels: LabelSet, folder: Path) -> list[Path]:
        files = []
        for split in split_names(labels):
            files.append(folder / f"instances{split and '_' + split}.json")
            write_whole(files[-1], json_text(self._content(labels, of_split(labels, split)), ensure_ascii=True))
        return files

    def _content(self, labels: LabelSet, images: list[ListedImage]) -> dict[str, Any]:
        numbers = {name: number for number, name in enumerate(labels.class_names, start=1)}
        listed: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, image in enumerate(images, start=1):
            listed.append(_image(number, image, numbers))
            for box in image.boxes:
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[box.name]}
                annotations.append(annotation | self._object(box, image.size))
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        return {"images": listed, "annotations": annotations, "categories": categories}

    def _object(self, box: Box, size: tuple[int, int]) -> dict[str, Any]:
        x0, y0, x1, y1 = box.corners
        entry: dict[str, Any] = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        if box.outline:
            encoded = encode(outline_mask(box.outline, size))
            entry["area"] = float(coco_masks().area(encoded))
            entry["segmentation"] = encoded if self.outline == RLE else polygons_of(box.outline, size)
        entry |= {"iscrowd": int(box.ignored), "source": box.made_by}
        return entry if box.score is None else {**entry, "score": box.score}


def _image(number: int, image: ListedImage, numbers: dict[str, int]) -> dict[str, Any]:
    width, height = image.size
    entry = {"id": number, "file_name": image.name, "width": width, "height": height, "source": image.made_by}
    if image.absent is not None:
        entry["neg_category_ids"] = [numbers[name] for name in image.absent]
    if image.partial:
        entry["not_exhaustive_category_ids"] = [numbers[name] for name in image.partial]
    return entry
