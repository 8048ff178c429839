"""GC-CLIP: crops the image to a detector's box of a likely class, with several margins, before it is classified.

Take it for small things in large scenes, where a detector's boxes are at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.contracts import Batch, Detection, FitReport, option, require, spoken
from ...core.errors import CapabilityError
from ._crops import Box, CropAdapter, cut

Frame = tuple[float, float, float, float]
"""x0, y0, x1, y1 inside an image."""


@dataclass(eq=False, kw_only=True)
class GcClip(CropAdapter):
    """CLIP with guided cropping.

    Saranrittichai et al., Zero-Shot Visual Classification with Guided Cropping, 2023, arXiv 2309.06581.

    1. Zero-shot logits of the whole image name the `top_k` likely classes.
    2. The best box of those classes is taken. A label that names a class of the set binds its box to that class; a box
       that names none of them may show any. Bound boxes of likely classes come first, then unbound ones, by score.
    3. The image is cut to that box with each of `margins`, from 0, the box, to 1, the whole image, and encoded.
    4. logits = mean over the margins of s cos(crop, class) (+ bias), among the likely classes; each other class keeps
       the distance by which it trailed the last of them in the whole image.

    An image without a usable box keeps its zero-shot logits. Nothing is learned; the support is not used.

    Experimental: no code is public, and only the paper's abstract, its reviews and what others report of it were known:
    an open-vocabulary detector is asked for five likely classes, the best box is enlarged, margins are even from 0 to 1
    with 1 the whole image, and logits are averaged over them with equal weights. Ours are: five margins; the formula of
    a margin (each edge moves that share of its way to the image's edge); the square around the box, where the paper may
    crop the box as it is; what labels and their lack mean (the paper's detector always answers for the classes asked);
    the logits of unlikely classes. The paper's other augmentation, random crops of the box, is left out.

    `square` is for preprocessings that crop the centre: they would cut off a part of a box that is not square.

    Resources:
        boxes: `Detections`, what a detector found in the images (`core.data.detections.read_detections`); at prediction
            those of the batch count. Boxes are clipped to the image; one without area there is passed over.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: at prediction, a batch without boxes or images.

    Example:
        >>> adapter = build_adapter("gc-clip", top_k=2, margins=(0.0, 0.5, 1.0))
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"boxes": found})
        >>> adapter.logits(Batch(features=test.features, images=images, boxes=boxes)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no public code, experimental: checked against its formula, computed directly, on drawn scenes with known "
        "boxes, and in its limits (a box around everything, a margin of the whole image)"
    )
    experimental: ClassVar[str] = (
        "the number and formula of margins, the square around the box, the choice among labelled boxes, and the logits "
        "of classes outside the top k"
    )
    label_free: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "images", "boxes"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "images", "boxes", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "logit_bias")

    top_k: int = option(
        5, "how many classes count as likely; with all of them none is held back", low=1, high=1_000_000
    )
    margins: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        "crop sizes, from 0 (the box) to 1 (the whole image); each makes one crop",
        low=0,
        high=1,
    )
    square: bool = option(True, "widen the box to a square as far as the image allows")

    def __post_init__(self):
        super().__post_init__()
        require(len(self.margins) > 0, "margins", self.margins, "give one share or more, from 0 to 1")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text = classifier.weights
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias or 0.0
        return FitReport(self.name, notes=self._label_notes(resources["boxes"]))

    def _label_notes(self, boxes) -> list[str]:
        """What the detector's labels are to this set of classes."""
        known = classes_by_name(self.class_names_)
        labels = {detection.label for of in boxes.values() for detection in of if detection.label}
        foreign = sorted(label for label in labels if _key(label) not in known)
        if not foreign:
            return []
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        return [f"boxes with these labels may show any class, since no class has such a name: {shown}"]

    def _logits(self, batch: Batch) -> Tensor:
        images, device = self._images(batch), self._device(batch)
        if batch.boxes is None:
            raise CapabilityError(f"adapter '{self.name}' needs a detector's boxes; pass Batch(boxes=...)")
        if len(batch.boxes) != len(images):
            raise CapabilityError(
                f"boxes of {len(batch.boxes)} images for {len(images)} images; give one list per image"
            )
        text = self.text.to(device)
        whole = text.new_empty(len(images), text.shape[1]) if batch.features is None else batch.unit  # (B, D)
        if batch.features is None:
            for i, row in enumerate(self._encoded(map(self._picture, images), batch, device)):
                whole[i] = row
        first = self._scores(whole, text)  # (B, C)
        likely = first.topk(min(self.top_k, len(text)), dim=1)
        known = classes_by_name(self.class_names_)
        frames = [
            best_frame(detections, known, set(classes), self._picture(image).shape)
            for detections, classes, image in zip(batch.boxes, likely.indices.tolist(), images, strict=True)
        ]
        guided = [i for i, frame in enumerate(frames) if frame is not None]
        if not guided:
            return first
        seen = self._guided_means(images, frames, whole, batch, device)  # (G, D)
        logits = first.clone()
        logits[guided] = hold_back(self._scores(seen, text), first[guided], likely.indices[guided])
        return logits

    def _scores(self, features: Tensor, text: Tensor) -> Tensor:
        return self.logit_scale * features @ text.T + self.logit_bias

    def _guided_means(self, images, frames, whole: Tensor, batch: Batch, device) -> Tensor:
        """(G, D): of each image with a frame the mean unit feature over the margins."""
        narrow = [margin for margin in self.margins if margin < 1]
        rows = self._encoded(self._parts(images, frames, narrow), batch, device)
        wide = len(self.margins) - len(narrow)  # these are the whole image, whose feature is there
        means = []
        for i, frame in enumerate(frames):
            if frame is not None:
                crops = list(islice(rows, len(narrow)))
                means.append(torch.stack([*crops, *[whole[i]] * wide]).mean(dim=0))
        return torch.stack(means)

    def _parts(self, images: Sequence[Any], frames: Sequence[Frame | None], margins) -> Iterator[np.ndarray]:
        for image, frame in zip(images, frames, strict=True):
            if frame is None:
                continue
            picture = self._picture(image)
            height, width = picture.shape[:2]
            core = squared(frame, height, width) if self.square else frame
            for margin in margins:
                yield cut(picture, with_margin(core, margin, height, width))


def classes_by_name(class_names: Sequence[str]) -> dict[str, set[int]]:
    """Comparable name -> the classes that bear it."""
    known: dict[str, set[int]] = {}
    for i, name in enumerate(class_names):
        known.setdefault(_key(name), set()).add(i)
    return known


def best_frame(
    detections: Sequence[Detection], known: dict[str, set[int]], likely: set[int], shape: Sequence[int]
) -> Frame | None:
    """The best usable box inside an image of `shape` (H, W, ...): of likely classes, else one that names no class."""
    best, best_rank = None, (False, -math.inf)
    for detection in detections:
        named = known.get(_key(detection.label), set())
        rank = (bool(named & likely), detection.score)
        frame = clipped(detection.box, shape[0], shape[1])
        if frame is not None and (named & likely or not named) and rank > best_rank:
            best, best_rank = frame, rank
    return best


def hold_back(refined: Tensor, first: Tensor, likely: Tensor) -> Tensor:
    """Refined logits (B, C) of the likely classes (B, K); the others trail the least of them as they did at first."""
    last = first.gather(1, likely).amin(dim=1, keepdim=True)  # (B, 1)
    among = refined.gather(1, likely)  # (B, K)
    return (among.amin(dim=1, keepdim=True) + first - last).scatter(1, likely, among)


def clipped(box: Sequence[float], height: int, width: int) -> Frame | None:
    """The part of a box inside the image, or None where it has no area there, or is not made of numbers."""
    if not all(map(math.isfinite, box)):
        return None
    x0, x1 = (min(max(float(x), 0.0), float(width)) for x in (box[0], box[2]))
    y0, y1 = (min(max(float(y), 0.0), float(height)) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def squared(frame: Frame, height: int, width: int) -> Frame:
    """The smallest square around a frame, moved into the image; where it does not fit, as much of it as does."""
    x0, y0, x1, y1 = frame
    side = max(x1 - x0, y1 - y0)
    (left, right), (top, bottom) = _widened(x0, x1, side, width), _widened(y0, y1, side, height)
    return left, top, right, bottom


def _widened(low: float, high: float, side: float, limit: float) -> tuple[float, float]:
    """An interval of length `side`, or of `limit` if that is less, centred on another as far as 0..limit allows."""
    side = min(side, limit)
    start = min(max((low + high - side) / 2, 0.0), limit - side)
    return start, start + side


def with_margin(frame: Frame, margin: float, height: int, width: int) -> Box:
    """Each edge moved the share `margin` of its way to the image's edge, then outwards to whole pixels."""
    x0, y0, x1, y1 = frame
    left, top = (1 - margin) * x0, (1 - margin) * y0
    right, bottom = x1 + margin * (width - x1), y1 + margin * (height - y1)
    left, top = min(int(left), width - 1), min(int(top), height - 1)
    return left, top, min(max(math.ceil(right), left + 1), width), min(max(math.ceil(bottom), top + 1), height)


def _key(name: str) -> str:
    """A name to compare by: case, underscores and hyphens aside."""
    return spoken(name.replace("-", " ")).casefold()
