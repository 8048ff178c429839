"""The labelled images that a run learned from, as it keeps them: their features, labels and where their pictures lie.

One safetensors file in the run folder, tensors in the body and JSON in the header. No pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.features import FeatureSet
from ..contracts.items import Item
from ..errors import CapabilityError, DataError
from ..runs.places import without_place
from ..runs.redaction import Redaction
from ..runtime.files import read_tensors, write_tensors

LABELLED = "labelled.safetensors"
FORMAT = 1
MOST_KEPT = 2000
"""Labelled images that a run keeps; of more, evenly so many in the order of the fit."""
NEAREST = 5


@dataclass(frozen=True)
class Example:
    """A labelled image beside a new one.

    Attributes:
        row: its place among the labelled images of the fit.
        id: its name; in a redacted run a number.
        labels: names of its classes; none where it has none of the labels.
        similarity: cosine of the two images' features, -1 to 1; None where its features were not kept.
        part: what it adds to the score, in units of the logit; None where the method is no sum over examples.
        share: `part` as a share of all examples' parts together, none below zero; None where there is no part.
    """

    row: int
    id: str
    labels: tuple[str, ...]
    similarity: float | None
    part: float | None = None
    share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        facts: dict[str, Any] = {"id": self.id, "labels": list(self.labels), "similarity": self.similarity}
        return facts if self.part is None else {**facts, "part": self.part, "share": self.share}


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of a fit.

    Attributes:
        features: (M, D) unit features by the towers of the run.
        labels: (M,) class indices, or (M, C) 0/1 with NaN where unknown.
        class_names: C names.
        ids: M names.
        rows: (M,) int64, the place of each among all images of the fit.
        total: how many the fit had.
        places: of each the file, the part of it (`Item.decode`) and a digest of what it shows; None where a run is not
            to say, or its images were no files.
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    rows: Tensor
    total: int
    places: tuple[dict[str, Any], ...] | None = None
    _row: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        self._row.update({row: position for position, row in enumerate(self.rows.tolist())})

    @classmethod
    def of(cls, kept: FeatureSet, rows: Sequence[int], total: int, class_names: Sequence[str]) -> LabelledImages:
        """Of features with ids and labels.

        Args:
            kept: M labelled images, of the towers of the run.
            rows: the places of these among the `total` images of the fit, as `kept_rows` gives them.
        """
        ids = kept.ids or tuple(f"labelled image {row + 1}" for row in rows)
        labels = kept.labels.detach().cpu()
        return cls(kept.unit.detach().cpu(), labels, tuple(class_names), ids, torch.tensor(list(rows)), total)

    def with_places(self, items: Sequence[Item], digests: Sequence[str]) -> LabelledImages:
        """With where each picture lies.

        Args:
            items: M of them. digests: of what they show, "" for those that are no files.
        """
        if not all(digests):
            return self
        pairs = zip(items, digests)
        found = ({"source": str(item.source), "decode": item.decode, "digest": digest} for item, digest in pairs)
        return replace(self, places=tuple(without_place(list(found))))

    def redacted(self, redaction: Redaction) -> LabelledImages:
        """With numbers for names, and without the places."""
        return replace(self, ids=tuple(map(redaction.name, self.ids)), places=None)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    def names(self, position: int) -> tuple[str, ...]:
        """Of the classes of one of the M images."""
        if not self.multilabel:
            return (self.class_names[int(self.labels[position])],)
        return tuple(name for name, value in zip(self.class_names, self.labels[position].tolist()) if value == 1)

    def position(self, row: int) -> int | None:
        """Where among the M that are kept an image of the fit is; None where it is not kept."""
        return self._row.get(row)

    def similarities(self, features: Tensor) -> Tensor:
        """(N, M) cosines of new images' features (N, D) with the labelled ones.

        Raises:
            CapabilityError: features of another width, so of another backbone.
        """
        if features.shape[1] != self.features.shape[1]:
            widths = f"{features.shape[1]} wide, those of the labelled images {self.features.shape[1]}"
            raise CapabilityError(f"the features are {widths}; use the backbone of the run")
        return F.normalize(features.detach().float().cpu(), dim=1) @ self.features.T

    def nearest(self, features: Tensor, count: int = NEAREST) -> list[list[Example]]:
        """Of each of N new images (N, D) the labelled images that are most similar, the nearest first.

        Raises:
            CapabilityError: features of another width, so of another backbone.
        """
        similarities = self.similarities(features)
        best = similarities.topk(min(count, len(self)), dim=1)
        pairs = zip(best.values.tolist(), best.indices.tolist())
        return [[self._example(place, value) for value, place in zip(*pair)] for pair in pairs]

    def by_part(self, features: Tensor, parts: Tensor, count: int = NEAREST) -> list[list[Example]]:
        """Of each of N new images the labelled images that add most to a score, or take most from it.

        Args:
            features: (N, D).
            parts: (N, total), what each image of the fit adds to the score.
        """
        similarities, parts = self.similarities(features), parts.detach().double().cpu()
        whole = parts.abs().sum(dim=1).tolist()
        best = parts.abs().topk(min(count, parts.shape[1]), dim=1).indices.tolist()
        return [
            [self._with_part(row, float(parts[n, row]), whole[n], similarities[n]) for row in rows if parts[n, row]]
            for n, rows in enumerate(best)
        ]

    def _with_part(self, row: int, part: float, whole: float, similarities: Tensor) -> Example:
        place, share = self.position(row), abs(part) / whole
        if place is None:
            return Example(row, f"labelled image {row + 1}", (), None, part, share)
        return replace(self._example(place, float(similarities[place])), part=part, share=share)

    def _example(self, place: int, similarity: float) -> Example:
        return Example(int(self.rows[place]), self.ids[place], self.names(place), round(similarity, 6))

    # the file --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> Path:
        """Write the file into a run folder; returns its path."""
        tensors = {"features": self.features.half(), "labels": self.labels, "rows": self.rows}
        header = {"format": FORMAT, "class_names": self.class_names, "ids": self.ids, "total": self.total}
        header["places"] = self.places
        return write_tensors(Path(folder) / LABELLED, tensors, header)

    @classmethod
    def load(cls, folder: str | Path) -> LabelledImages | None:
        """Those of a run folder; None where the run has none (one of an older version, or fitted without labels).

        Raises:
            DataError: damaged, or of another format.
        """
        path = Path(folder) / LABELLED
        if not path.is_file():
            return None
        header, tensors = read_tensors(path)
        if fault := _fault(header, tensors):
            raise DataError(f"{path}: damaged, {fault}; copy the run again, or fit again")
        places = header["places"]
        return cls(
            F.normalize(tensors["features"].float(), dim=1),
            tensors["labels"],
            tuple(header["class_names"]),
            tuple(header["ids"]),
            tensors["rows"],
            header["total"],
            None if places is None else tuple(places),
        )


def kept_rows(count: int) -> range:
    """Which of the labelled images of a fit are kept: all, or evenly some of many."""
    return range(0, count, max(1, -(-count // MOST_KEPT)))


def _fault(header: Any, tensors: dict[str, Tensor]) -> str:
    """What is wrong with a file's content, or ""."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return f"not of format {FORMAT}"
    if lacking := [name for name in ("features", "labels", "rows") if name not in tensors]:
        return f"lacks {lacking[0]}"
    names, ids, total = header.get("class_names"), header.get("ids"), header.get("total")
    for what, texts in (("class_names", names), ("ids", ids)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"{what} is not a list of names"
    features, labels, rows, count = tensors["features"], tensors["labels"], tensors["rows"], len(ids)
    if features.ndim != 2 or len(features) != count or not count or not features.isfinite().all():
        return "features are not (M, D) finite numbers"
    if type(total) is not int or total < count or rows.shape != (count,) or rows.is_floating_point():
        return "rows do not match the images"
    if bool((rows < 0).any() or (rows >= total).any() or len(rows.unique()) < count):
        return "rows do not match the images"
    if labels.shape not in ((count,), (count, len(names))):
        return "labels do not match the images"
    if labels.ndim == 1 and (labels.is_floating_point() or labels.min() < 0 or labels.max() >= len(names)):
        return "labels are not class indices"
    if labels.ndim == 2 and not bool((labels.isnan() | (labels == 0) | (labels == 1)).all()):
        return "labels are not 0, 1 or NaN"
    places = header.get("places")
    if places is not None and not (isinstance(places, list) and len(places) == count and all(map(_is_place, places))):
        return "places do not match the pictures"
    return ""


def _is_place(place: Any) -> bool:
    if not isinstance(place, dict):
        return False
    texts = all(isinstance(place.get(key), str) for key in ("source", "digest"))
    return texts and isinstance(place.get("decode"), dict)
