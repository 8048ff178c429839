"""What is known of a medical image besides its pixels: findings, its view, its report, phrases with boxes, structures
outlined in a volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

from ...core.contracts import Labels, Target

GROUNDING = "phrase-grounding"
"""The task whose targets are `Phrases`."""


@dataclass(frozen=True)
class SoftFindings(Labels):
    """Findings of which some are learned softly.

    Args:
        smoothed: (C,) what losses take in place of the values; None where they take the values.
    """

    smoothed: tuple[float, ...] | None = None

    def training_label(self) -> tuple[float, ...]:
        return self.values if self.smoothed is None else self.smoothed

    def restricted(self, new: Mapping[int, int]) -> SoftFindings | None:
        """None where nothing is known of the findings that stay, nor smoothed."""
        kept = Labels(self.training_label()).restricted(new)
        values = tuple(self.values[old] for old in sorted(new, key=new.__getitem__))
        smoothed = None if self.smoothed is None or kept is None else kept.values
        return None if kept is None else SoftFindings(values, smoothed)


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

    def class_label(self) -> int | tuple[float, ...] | None:
        return None if self.of is None else self.of.class_label()

    def training_label(self) -> int | tuple[float, ...] | None:
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
class Reported(Target):
    """The report of an image, or of a study.

    Args:
        texts: the report, or the part of it that is learned.
        of: what else is known, or None.
        findings: (E,) 1 where the report has a finding, -1 where it denies it, 0 where it is uncertain, NaN where it
            does not mention it; () where nobody looked, and labels that are known stand for them.
        relations: (E, P) 1 where a finding is at a position, 0 where not, NaN where that is not known; () likewise.
        entities: numbers of those that the report mentions, in ascending order.
        of_entities: how many there are in all; 0 where nobody looked.
    """

    texts: tuple[str, ...]
    of: Target | None = None
    findings: tuple[float, ...] = ()
    relations: tuple[tuple[float, ...], ...] = ()
    entities: tuple[int, ...] = ()
    of_entities: int = 0

    def class_label(self) -> int | tuple[float, ...] | None:
        return None if self.of is None else self.of.class_label()

    def training_label(self) -> int | tuple[float, ...] | None:
        return None if self.of is None else self.of.training_label()

    def classes(self) -> tuple[int, ...]:
        return () if self.of is None else self.of.classes()

    def captions(self) -> tuple[str, ...]:
        return self.texts

    def numbers(self) -> Mapping[str, Any]:
        """`findings` (E,), `relations` (E x P,), finding by finding, and `entities`, 1 for each that is mentioned."""
        label = self.class_label()
        known = self.findings or (tuple(2 * value - 1 for value in label) if isinstance(label, tuple) else ())
        flat = tuple(value for row in self.relations for value in row)
        mentioned = [0.0] * self.of_entities
        for place in self.entities:
            mentioned[place] = 1.0
        columns = ("findings", known), ("relations", flat), ("entities", tuple(mentioned))
        return {name: values for name, values in columns if values}

    def about(self) -> Mapping[str, str]:
        return {} if self.of is None else self.of.about()

    def restricted(self, new: Mapping[int, int]) -> Reported | None:
        """None where its labels then say nothing."""
        of = None if self.of is None else self.of.restricted(new)
        if of is None:
            return None
        kept = sorted(new, key=new.__getitem__)
        findings = tuple(self.findings[old] for old in kept) if self.findings else ()
        relations = tuple(self.relations[old] for old in kept) if self.relations else ()
        return replace(self, of=of, findings=findings, relations=relations)


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


@dataclass(frozen=True)
class VolumeMask(Target):
    """Structures outlined in a volume, in a file of labels.

    Args:
        file: of labels, on the grid of the volume.
        labels: (C,) 1 where the volume shows the structure, 0 where not, NaN where nobody outlined such structures.
        values: (C,) the labels that make up each structure, none of one that nobody outlined. Structures that share
            labels are regions, which overlap.
        order: of regions, the label that each is written as, later ones over earlier ones; () where none overlap.
        modalities: of each channel what it shows ("CT"), as the set says.
    """

    file: Path
    labels: tuple[float, ...]
    values: tuple[tuple[int, ...], ...]
    order: tuple[int, ...] = ()
    modalities: tuple[str, ...] = ()

    @property
    def annotated(self) -> tuple[int, ...]:
        """The structures that somebody outlined, in ascending order."""
        return tuple(place for place, value in enumerate(self.labels) if not isnan(value))

    def classes(self) -> tuple[int, ...]:
        return tuple(place for place, value in enumerate(self.labels) if value == 1)

    def restricted(self, new: Mapping[int, int]) -> VolumeMask | None:
        """None where no structure that stays was outlined."""
        kept = sorted(new, key=new.__getitem__)
        labels, values = tuple(self.labels[old] for old in kept), tuple(self.values[old] for old in kept)
        order = tuple(self.order[old] for old in kept) if self.order else ()
        return None if all(map(isnan, labels)) else replace(self, labels=labels, values=values, order=order)
