"""The person domain: the same person in other cameras, found by a picture, a sentence or what is worn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ...core.contracts import Decoded, Domain, DomainData, height_and_width
from .attribute_words import attribute_sentences
from .care import CONSENT
from .gallery import read_gallery
from .pedestrian import IDENTITIES
from .readers import FORMATS
from .reading import PersonReading, read_set
from .transforms import PedestrianTransform

ATTRIBUTES = "attributes"
KINDS = {"person-search": "captions", "re-identification": IDENTITIES, ATTRIBUTES: "multilabel"}
"""Task -> kind of the sample."""
SAMPLE = {"identities": 24, "images_per_identity": 6, "cameras": 3, "seed": 0}
FORMERLY = {"crops": "detections"}
TEMPLATES = ("a photo of a person with {}.",)
NEGATIVE = ("a photo of a person without {}.",)


class Person(Domain):
    """Cropped pictures of people, one person in each."""

    name = "person"
    words: ClassVar = {"patient": "person", "patients": "people"}
    not_for = CONSENT
    tasks = ("person-search", "re-identification", ATTRIBUTES)
    reading = PersonReading
    metrics = ("attribute-recognition",)

    def read(self, path: str | Path, task: str | None = None, **options: Any) -> DomainData:
        """The pictures of people at `path`, whatever kind of set lies there (`readers/`).

        Their targets are `Pedestrian`s, and no identity is in two splits.

        Args:
            path: file or folder.
            task: one of `tasks`.
            options: fields of `Reading`.

        Raises:
            DataError: nothing there that the task can be read from, or an identity in two splits.
            UnknownNameError: no option of that name.
            ConfigError: a value that is not usable, or an option that does not apply.
        """
        task = self.check_task(task)
        reading = self.reading_of(options)
        data = read_set(Path(path), task, reading, FORMATS)
        return data if reading.detections is None else _cut(data, reading, one_each=True)

    def read_images(self, paths: Sequence[str | Path], **options: Any) -> DomainData:
        """New pictures of people, with what a set or their names say of cameras and times (`gallery.py`), or
        photographs that people are cut from by `detections`.

        Args:
            paths: files and folders.
            options: as for `read`; what concerns labels is not used.

        Raises:
            DataError: a path does not exist, or nothing there can be read.
        """
        reading = self.reading_of(options)
        data = read_gallery(paths, reading, FORMATS)
        return data if reading.detections is None else _cut(data, reading, one_each=False)

    def reading_of(self, options: Mapping[str, Any]) -> PersonReading:
        """As for every domain; `crops`, the former name of `detections`, is read as it."""
        return super().reading_of({FORMERLY.get(name, name): value for name, value in options.items()})

    def sample(self, task: str | None = None) -> DomainData:
        """Drawn pedestrians, of whom no photograph was needed; no download."""
        from .drawn_pedestrians import drawn_pedestrians

        return replace(drawn_pedestrians(**SAMPLE), kind=KINDS[self.check_task(task)])

    def templates(self, task: str | None = None) -> list[str]:
        """What an attribute is asked by ("a backpack", "short hair")."""
        return list(TEMPLATES)

    def sentences(self, class_name: str, task: str | None = None) -> tuple[list[str], list[str]] | None:
        """Pairs of sentences for the attributes of published sets (`attribute_words.py`)."""
        return attribute_sentences(class_name) if task == ATTRIBUTES else None

    def negative_templates(self, task: str | None = None) -> list[str]:
        return list(NEGATIVE)

    def transforms(self, backbone, train: bool, task: str | None = None) -> Callable[[Decoded], Any]:
        """The whole picture, resized to what the tower takes, upright or square; for training flipped, padded, cropped
        and erased as published (`transforms.py`)."""
        size = height_and_width(backbone.image_size)
        return PedestrianTransform(size, tuple(backbone.image_mean), tuple(backbone.image_std), train=train)


def _cut(data: DomainData, reading: PersonReading, *, one_each: bool) -> DomainData:
    from .crops import cut_people

    return cut_people(data, reading.detections, one_each=one_each, max_pixels=reading.max_pixels)
