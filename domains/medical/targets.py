"""What is known of a medical image besides its pixels: findings, the view that it is, phrases with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...core.contracts import ClassLabel, Labels, Target


@dataclass(frozen=True)
class Findings(Labels):
    """Findings of which some are learned softly.

    Args:
        smoothed: (C,) what losses take in place of the values; None where they take the values.
    """

    smoothed: tuple[float, ...] | None = None

    def training_label(self) -> tuple[float, ...]:
        return self.values if self.smoothed is None else self.smoothed

    def restricted(self, new: Mapping[int, int]) -> Findings | None:
        """None where nothing is known of the findings that stay, nor smoothed."""
        kept = Labels(self.training_label()).restricted(new)
        values = tuple(self.values[old] for old in sorted(new, key=new.__getitem__))
        smoothed = None if self.smoothed is None or kept is None else kept.values
        return None if kept is None else Findings(values, smoothed)


@dataclass(frozen=True)
class Viewed(Target):
    """What is known of an image, or of a study, and from where it was taken.

    Args:
        of: the target itself, or None.
        view: the position as its set writes it ("PA", "LATERAL"); of a study those of its images, in their order.
        laterality: the side of the body, likewise.
    """

    of: Target | None
    view: str = ""
    laterality: str = ""

    def class_label(self) -> ClassLabel:
        return None if self.of is None else self.of.class_label()

    def training_label(self) -> ClassLabel:
        return None if self.of is None else self.of.training_label()

    def classes(self) -> tuple[int, ...]:
        return () if self.of is None else self.of.classes()

    def captions(self) -> tuple[str, ...]:
        return () if self.of is None else self.of.captions()

    def numbers(self) -> Mapping[str, Any]:
        return {} if self.of is None else self.of.numbers()

    def about(self) -> Mapping[str, str]:
        known = {name: value for name in ("view", "laterality") if (value := getattr(self, name))}
        return {**known, **({} if self.of is None else self.of.about())}

    def restricted(self, new: Mapping[int, int]) -> Viewed | None:
        """None where its target then says nothing."""
        of = None if self.of is None else self.of.restricted(new)
        return None if of is None else replace(self, of=of)


@dataclass(frozen=True)
class Phrases(Target):
    """What sentences of a report say, and where in the image each is true.

    Args:
        texts: (P,) the phrases.
        labels: (P,) index of the finding that each is about.
        boxes: of each phrase (n, 4) x0, y0, x1, y1 in pixels of the whole image.
        size: (width, height) of the whole image that boxes are on; None: of the file.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    boxes: tuple[tuple[tuple[float, float, float, float], ...], ...]
    size: tuple[int, int] | None = None

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
