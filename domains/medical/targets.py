"""What is known of a medical image besides its pixels: findings with the view that it is, and phrases with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...core.contracts import Labels, Target


@dataclass(frozen=True)
class Findings(Labels):
    """Findings of a radiograph, and how it was taken.

    Args:
        view: the position as its set writes it ("PA", "LATERAL"), "" where that is unknown.
    """

    view: str = ""

    def about(self) -> Mapping[str, str]:
        return {"view": self.view} if self.view else {}


@dataclass(frozen=True)
class Phrases(Target):
    """What sentences of a report say, and where in the image each is true.

    Args:
        texts: (P,) the phrases.
        labels: (P,) index of the finding that each is about.
        boxes: of each phrase (n, 4) x0, y0, x1, y1 in pixels of the whole image.
        size: (width, height) of the whole image.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    boxes: tuple[tuple[tuple[float, float, float, float], ...], ...]
    size: tuple[int, int]

    def classes(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.labels)))

    def captions(self) -> tuple[str, ...]:
        return self.texts

    def restricted(self, new: Mapping[int, int]) -> Phrases | None:
        """None where no phrase is about a finding that stays."""
        kept = [place for place, label in enumerate(self.labels) if label in new]
        texts, boxes = tuple(self.texts[place] for place in kept), tuple(self.boxes[place] for place in kept)
        labels = tuple(new[self.labels[place]] for place in kept)
        return replace(self, texts=texts, labels=labels, boxes=boxes) if kept else None
