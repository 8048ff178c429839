"""Samples, not yet decoded, and what is known of each besides its pixels: a label, labels, a number, boxes, a mask,
captions.

Core asks a target only for what `Target` declares, so a domain with another kind of annotation brings a type of its
own: a subclass of `Target`, usually a frozen dataclass. Samples with it are read, split, drawn, encoded and stored like
any others; only the domain's own tasks look inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np

from ..errors import CapabilityError, DataError, shortened
from .options import TOLERATED, option, whole_number
from .shown import in_short

if TYPE_CHECKING:
    from torch import Tensor

    from .bags import StoredTiles, Tiles
    from .groups import OpenGroups, PossibleGroups
    from .part_views import PartViews

Decoded: TypeAlias = np.ndarray
"""A decoded image: (H, W, 3), uint8 or float32 in 0..1 where the source is deeper than 8 bits; (H, W, C) where the
domain has `channels`."""
CLASS_FACTS = ("absent", "partial")
"""Entries of `Boxes.facts` that are class indices."""

ClassLabel = int | tuple[float, ...] | None
"""A class index, or one 0/1/NaN per class (absent, present, unknown) where a sample may have several; None: none."""


@dataclass(frozen=True)
class Item:
    """One sample, not yet decoded.

    Class attributes:
        READ_BY: key of `decode`: the domain whose `decode` decodes it, for tasks that keep items in files.
        WHOLE: key of `decode` of a window ("window", or "box") of a new picture: the picture's [height, width]. What
            is found in the windows of a picture, whose ids begin with its id and "#", is joined.
        SPLITS: what `split` is, where the data says.
        MAX_PIXELS: pixels of an image, and voxels of a volume, that are decoded where nobody says otherwise.
        DECODER_LIMITS: Pillow's name of a kind of image -> the same of those whose decoder takes more memory; more
            than `MAX_PIXELS`, asked for, lifts it.

    Args:
        id: unique within its data set, shown to the user; never a patient's name.
        source: the file its bytes come from.
        decode: JSON-able: which part of the file and how (frame, slice, axis, window, box, array and index).
        target: what is known of it besides its pixels; None for one without annotation.
        group: patient, identity, video or volume: never on both sides of a split.
        split: "train", "val", "test" or "" where the data does not say.
        apart: whether it may be split from other parts of its file, as windows of a raster may: only its group says
            what belongs together. By default all parts of a file stay on one side.
        unreviewed: whether a model made its target and no person has looked at it yet: it trains, and is never val or
            test.
        draw: JSON-able: how a training draws another sample in its place, anew in each epoch (`Domain.drawer`). None:
            it is what it is.
    """

    READ_BY: ClassVar[str] = "read_by"
    WHOLE: ClassVar[str] = "whole"
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    MAX_PIXELS: ClassVar[int] = 200_000_000
    DECODER_LIMITS: ClassVar[Mapping[str, int]] = {"WEBP": 70_000_000, "AVIF": 70_000_000, "JPEG2000": 40_000_000}

    id: str
    source: Path
    decode: dict[str, Any] = field(default_factory=dict)
    target: Target | None = None
    group: str | None = None
    split: str = ""
    apart: bool = False
    unreviewed: bool = field(default=False, repr=False)
    draw: dict[str, Any] | None = None

    def with_(self, **changes) -> Item:
        return replace(self, **changes)

    def class_label(self) -> ClassLabel:
        """As `Target.class_label`; None without a target."""
        return None if self.target is None else self.target.class_label()

    def classes(self) -> tuple[int, ...]:
        """As `Target.classes`; none without a target."""
        return () if self.target is None else self.target.classes()

    def training_label(self) -> ClassLabel:
        """As `Target.training_label`; None without a target."""
        return None if self.target is None else self.target.training_label()

    def captions(self) -> tuple[str, ...]:
        """As `Target.captions`; none without a target."""
        return () if self.target is None else self.target.captions()

    def restricted(self, new: Mapping[int, int]) -> Item | None:
        """With the target that `Target.restricted` gives; None if there is none."""
        target = None if self.target is None else self.target.restricted(new)
        return None if target is None else self.with_(target=target)

    @staticmethod
    def decoder_limit(codec: str, limit: int) -> tuple[int, str]:
        """Most pixels that are decoded of a kind of image, and what to do about it.

        Args:
            codec: Pillow's name of the kind.
            limit: most pixels that are decoded of any.
        """
        if Item.DECODER_LIMITS.get(codec, limit) < limit <= Item.MAX_PIXELS:
            return Item.DECODER_LIMITS[codec], f"raise --max-pixels above {Item.MAX_PIXELS}"
        return limit, "raise --max-pixels"

    @classmethod
    def max_pixels_option(cls, help: str = "images and volumes: most pixels or voxels that are decoded") -> Any:
        """A reader's option of how large an image may be: `MAX_PIXELS` by default; "2e8" is a number, too."""
        return option(cls.MAX_PIXELS, f"{help}, 200000000 by default", low=1, high=10**11, parse=whole_number)

    def rank(self, seed: int) -> str:
        """Where it stands in the shuffled order of a seed: by its id, whatever else there is."""
        return hashlib.sha256(f"{seed}:{self.id}".encode()).hexdigest()


def items_of(ids: Iterable[str] | None, items: Iterable[Item]) -> list[Item]:
    """The items with these ids, in the order of the ids; none of rows without ids."""
    by_id = {item.id: item for item in items}
    return [by_id[name] for name in ids or ()]


class ThumbnailStore(Protocol):
    """Small pictures of images, kept by the content keys of these (`core/data/thumbnails.py`).

    Attributes:
        root: the folder of the cache that they lie in.
    """

    root: Path

    def missing(self, keys: Collection[str]) -> set[str]:
        """Those of some content keys that have none yet."""

    def find(self, keys: Collection[str]) -> Iterator[tuple[list[str], Any]]:
        """Keys and their thumbnails, some thousands at a time; keys that have none are passed over."""


@dataclass(frozen=True)
class Question:
    """Which of several images a text means, which of several texts describes an image, or which of as many texts
    belongs to which of several images.

    Args:
        images: ids of samples, one or several.
        texts: one or several; with several images as many, the i-th of which belongs to the i-th image.
        answer: which of the images, or of the texts, is right; 0 where there are several of both.
        kind: of question, by which scores are told apart.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    answer: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Questions:
    """All questions of a set, each with as many images and as many texts.

    Args:
        name: of the measure ("EgoMCQ").
        asked: the questions.
        metric: (scores (Q, I, T), answers (Q,), Q kinds) -> shares in 0..1 by name.
    """

    name: str
    asked: Sequence[Question]
    metric: Callable[[Tensor, Tensor, Sequence[str]], dict[str, float]]


@dataclass(frozen=True)
class Columns:
    """What a table says of the samples besides.

    Args:
        place: of the table, for messages.
        names: of its columns, in order.
        taken: those that hold the image, its label or its labels.
        cells: name of a column -> id of a sample -> its cell.
    """

    place: str
    names: tuple[str, ...]
    taken: Collection[str]
    cells: Callable[[str], Mapping[str, str]]


@dataclass
class DomainData:
    """A data set as read: items, names, and how to decode one.

    Class attributes:
        VERIFIED_UP_TO: samples in a set that is checked whole; of a larger one only what is used is checked, when it is
            used.

    Args:
        items: all samples, of all splits.
        class_names: what class indices of targets mean, in order.
        load: decodes one item, raising DataError if it cannot; shape (H, W, 3), or (T, H, W, 3) for clips.
        kind: "labels", "multilabel", "clips", "numbers", "boxes", "masks" or "captions", or a name of the domain's own.
        name: what the set is called in reports.
        skipped: (file, reason) of everything left out while reading.
        notes: sentences for the user (a synthetic set says so here).
        licence: of the data, where known.
        total: files looked at, for the share of skipped ones.
        load_mask: decodes an item's mask, where there are masks: (H, W) uint8 class indices, 255 for ignored pixels.
        frequency: of each class "r", "c" or "f" (rare, common, frequent), where the data say (LVIS).
        thumbnails: small pictures of the images, by which near copies are told; None until images were decoded.
        published: name of the set in the literature ("oxford_pets"), by which methods know the settings they publish.
        reading: options of the reader that were computed on these data and hold for new images too (the range that
            pixels are stretched from): a run keeps them as if they had been given.
        whole_train: whether all of a given train split is learned from, as of published selections: where there is no
            val, none is taken from it.
        part_views: how the parts of each sample divide into views whose predictions are averaged, or None.
        questions: with samples to choose from, of sets of captions that are tested whole; or None.
        blocks: what the groups are where they are places whose neighbours look alike ("blocks of 2.2 km"): a report
            shows what a random split would have scored; "" for other groups, or none.
        open_groups: what may say which images belong together, where nothing did for sure; None where that is settled.
        possible_groups: what names and pixels say of groups; None where they were not asked.
        columns: reads the table that lists the samples, when it is asked for; it, or what it gives, is None where there
            is none.
        tolerate: share of the files that may be unreadable.
        number_names: what `Target.numbers` are of, in their order: "findings" -> their names, for losses that describe
            them (`Loss.named`).
        members: the images that a sample is joined of (the views of a study); None where each is one of its own.
        tiles: the tiles of a sample that has so many that they are read some at a time; None where `load` gives all.
        bags: the features of their tiles, where these are stored and nothing is encoded; or None.
        has_images: whether `load` decodes something; False of the rows of a features file.
        domain: the `Domain` as these data want it, by what was read of them: the prompts of a recognised set, the
            pixels of a corpus. None: as it is for any others (`Domain.of`).
    """

    __repr__ = in_short

    VERIFIED_UP_TO: ClassVar[int] = 20_000

    items: list[Item]
    class_names: tuple[str, ...]
    load: Callable[[Item], Decoded]
    kind: str = "labels"
    name: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    licence: str = "unknown"
    load_mask: Callable[[Item], np.ndarray] | None = None
    frequency: tuple[str, ...] | None = None
    thumbnails: ThumbnailStore | None = field(default=None, repr=False)
    published: str | None = None
    reading: dict[str, Any] = field(default_factory=dict)
    whole_train: bool = False
    part_views: PartViews | None = None
    questions: Questions | None = None
    blocks: str = ""
    open_groups: OpenGroups | None = None
    possible_groups: PossibleGroups | None = None
    columns: Callable[[], Columns | None] | None = field(default=None, repr=False, compare=False)
    tolerate: float = TOLERATED
    number_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    members: Callable[[Item], Sequence[Item]] | None = field(default=None, repr=False, compare=False)
    tiles: Callable[[Item], Tiles] | None = field(default=None, repr=False, compare=False)
    bags: StoredTiles | None = None
    has_images: bool = True
    domain: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def drawn(
        cls,
        name: str,
        note: str,
        items: Iterable[Item],
        load: Callable[[Item], Any],
        class_names: Sequence[str] = (),
        kind: str = "labels",
        **further: Any,
    ) -> DomainData:
        """A sample that a domain draws itself, the same on every machine, without a download or a licence of others.

        Args:
            note: what its numbers tell and what not, for the user.
            load: draws an item.
            kind, further: of `DomainData`.
        """
        licence = "Apache-2.0 (made by vladapt)"
        return cls(list(items), tuple(class_names), load, kind, name=name, notes=[note], licence=licence, **further)

    @staticmethod
    def drawn_splits(counts: Mapping[str, int]) -> list[str]:
        """Split of each sample of a set that is drawn, in their order.

        Args:
            counts: split -> how many samples.
        """
        return [split for split, count in counts.items() for _ in range(count)]

    @property
    def total(self) -> int:
        return len(self.items) + len(self.skipped)

    @property
    def in_tiles(self) -> bool:
        """Whether its samples are bags of tiles, which are never in memory together."""
        return self.bags is not None or self.tiles is not None

    def split(self, name: str) -> list[Item]:
        return [item for item in self.items if item.split == name]

    def with_items(self, items: Sequence[Item]) -> DomainData:
        return replace(self, items=list(items))


def spoken(class_name: str) -> str:
    """A class name as it is said: underscores are spaces."""
    return " ".join(class_name.replace("_", " ").split())


def check_items(data: DomainData, path: str | Path) -> DomainData:
    """The checks every read set passes: some images, at least two classes."""
    if not data.items:
        skipped = f" ({data.skipped[0][0]}: {data.skipped[0][1]})" if data.skipped else ""
        raise DataError(f"{path}: no readable image found{skipped}; give a folder of class folders, or a manifest")
    if data.kind in ("labels", "clips"):
        used = {label for item in data.items for label in item.classes()}
        if len(used) < 2:
            raise DataError(f"{path}: {len(used)} class with images; a classifier needs at least two classes")
    return data


def check_ids(data: DomainData, path: str | Path) -> DomainData:
    """The set, whose samples have names of their own: by these splits, answers and explanations are found again.

    Raises:
        DataError: two have the same.
    """
    seen: set[str] = set()
    for item in data.items:
        if item.id in seen:
            raise DataError(
                f"{path}: two samples are called '{shortened(item.id)}'; list each once, or name them apart"
            )
        seen.add(item.id)
    return data


class Target:
    """Base of all types of targets. The defaults say that a target names no class and has no caption."""

    def class_label(self) -> ClassLabel:
        """What a classification learns of the sample, and what its row of features is labelled with."""
        return None

    def training_label(self) -> ClassLabel:
        """What a loss compares outputs with: the class label, or where that may be several, values between 0 and 1 in
        place of some that are unknown (label smoothing)."""
        return self.class_label()

    def classes(self) -> tuple[int, ...]:
        """The classes that the sample shows, in ascending order: for counts, splits and few-shot draws."""
        return _positive(self.class_label())

    def captions(self) -> tuple[str, ...]:
        """Texts that describe the sample, for retrieval."""
        return ()

    def numbers(self) -> Mapping[str, Any]:
        """Numbers, or lists of them, that a loss may ask for by name; what else is among them is passed over."""
        return {}

    def about(self) -> Mapping[str, str]:
        """What else is known, by name, which an index keeps and a search may ask for: a camera, a time."""
        return {}

    def restricted(self, new: Mapping[int, int]) -> Target | None:
        """The target with only some classes, renumbered; None if it then says nothing, and the sample goes.

        Args:
            new: old class index -> index, onto 0, 1, ...

        Raises:
            CapabilityError: the type names classes and does not define this method.
        """
        if self.class_label() is None and not self.classes():
            return self
        raise CapabilityError(
            f"targets of type {type(self).__name__} do not say how their classes are renumbered; fit all classes, or "
            f"define {type(self).__name__}.restricted"
        )


@dataclass(frozen=True)
class Label(Target):
    """One class.

    Args:
        index: of the class.
        facts: what else the annotation says; a loss may ask for the numbers among it by name.
    """

    index: int
    facts: Mapping[str, Any] | None = None

    def class_label(self) -> int:
        return self.index

    def numbers(self) -> Mapping[str, Any]:
        return self.facts or {}

    def restricted(self, new: Mapping[int, int]) -> Label | None:
        """None where the class is not among those that stay."""
        return replace(self, index=new[self.index]) if self.index in new else None


@dataclass(frozen=True)
class Labels(Target):
    """Several classes, or none.

    Args:
        values: (C,) 1 where the sample shows the class, 0 where not, NaN where nobody knows.
    """

    values: tuple[float, ...]

    def class_label(self) -> tuple[float, ...]:
        return self.values

    def restricted(self, new: Mapping[int, int]) -> Labels | None:
        """None where nothing is known of the classes that stay."""
        values = _chosen(self.values, new)
        return None if all(map(isnan, values)) else Labels(values)


@dataclass(frozen=True)
class Captions(Target):
    """Texts about an image, which may have a class as well.

    Args:
        texts: the captions.
        label: as `Target.class_label` gives it.
    """

    texts: tuple[str, ...]
    label: ClassLabel = None

    def class_label(self) -> ClassLabel:
        return self.label

    def captions(self) -> tuple[str, ...]:
        return self.texts

    def restricted(self, new: Mapping[int, int]) -> Captions | None:
        """None where there is no label, or none of the classes that stay."""
        label = _restricted(self.label, new)
        return None if label is None else replace(self, label=label)


@dataclass(frozen=True)
class Identity(Target):
    """Which person or object it is; it may be a class as well.

    Args:
        name: of the identity.
        label: index of the class.
    """

    name: str
    label: int | None = None

    def class_label(self) -> int | None:
        return self.label

    def about(self) -> Mapping[str, str]:
        return {"identity": self.name}

    def restricted(self, new: Mapping[int, int]) -> Identity | None:
        """None where there is no label, or none of the classes that stay."""
        label = None if self.label is None else new.get(self.label)
        return None if label is None else replace(self, label=label)


@dataclass(frozen=True)
class Number(Target):
    """One number per image, as a height or a share.

    Args:
        value: finite, in the unit of its column.
        facts: what else the annotation says; a loss may ask for the numbers among it by name.
    """

    NAME: ClassVar[str] = "number"
    """By which a loss asks for it."""

    value: float
    facts: Mapping[str, Any] | None = None

    def numbers(self) -> Mapping[str, Any]:
        return {**(self.facts or {}), self.NAME: self.value}


@dataclass(frozen=True)
class Boxes(Target):
    """Objects in an image; an image without any is annotated, too.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels.
        labels: (n,) class indices.
        segments: (n,) JSON-able: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a COCO RLE
            {"size": [height, width], "counts": ...}, or None where a box has no outline. None: no box has one.
        ignored: (n,) neither an example nor a mistake to find (a crowd, an object marked difficult). None: no box is.
        size: (width, height) of the upright image, where the reader had to know it.
        facts: JSON-able: what else the annotation says of the image; detection knows "absent", classes that were
            looked for and are not there, and "partial", classes of which not every box is drawn (LVIS).
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    labels: tuple[int, ...] = ()
    segments: tuple[Any, ...] | None = None
    ignored: tuple[bool, ...] | None = None
    size: tuple[int, int] | None = None
    facts: dict[str, Any] | None = None

    def classes(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.labels)))

    def keep(self, positions: Sequence[int]) -> Boxes:
        """These of the boxes alone."""
        lists = {name: getattr(self, name) for name in ("boxes", "labels", "segments", "ignored")}
        kept: dict[str, Any] = {k: v if v is None else tuple(v[p] for p in positions) for k, v in lists.items()}
        return replace(self, **kept)

    def showing(self, classes: Collection[int]) -> Boxes:
        """The boxes of some classes alone, which keep their numbers."""
        return self.keep([place for place, label in enumerate(self.labels) if label in classes])

    def restricted(self, new: Mapping[int, int]) -> Boxes:
        """An image that no box is left of stays, as background."""
        kept = self.showing(new)
        if self.facts is not None:
            facts = {k: _renumbered(v, new) if k in CLASS_FACTS else v for k, v in self.facts.items()}
            kept = replace(kept, facts=facts)
        return replace(kept, labels=tuple(new[label] for label in kept.labels))


@dataclass(frozen=True)
class Mask(Target):
    """A class for each pixel, in a file or as outlines; `DomainData.load_mask` decodes it.

    Args:
        file: of the mask.
        outlines: objects that the mask is drawn from where there is no file. Their labels are numbers as stored, which
            `load_mask` replaces, like those in a file.
        labels: (C,) 1 where the mask shows the class, else 0.
        size: (width, height) of the upright image, where the reader had to know it.
        only: classes that the mask may teach; pixels of others are ignored. None: all.
    """

    file: Path | None = None
    outlines: Boxes | None = None
    labels: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    only: tuple[int, ...] | None = None

    def class_label(self) -> tuple[float, ...] | None:
        return self.labels

    def restricted(self, new: Mapping[int, int]) -> Mask:
        """What is stored stays as it is: `load_mask` must replace it too."""
        labels = None if self.labels is None else _chosen(self.labels, new)
        only = None if self.only is None else tuple(_renumbered(self.only, new))
        return replace(self, labels=labels, only=only)


def _positive(label: ClassLabel) -> tuple[int, ...]:
    if isinstance(label, tuple):
        return tuple(index for index, value in enumerate(label) if value == 1)
    return () if label is None else (label,)


def _restricted(label: ClassLabel, new: Mapping[int, int]) -> ClassLabel:
    if not isinstance(label, tuple):
        return None if label is None else new.get(label)
    values = _chosen(label, new)
    return None if all(map(isnan, values)) else values


def _chosen(values: tuple[float, ...], new: Mapping[int, int]) -> tuple[float, ...]:
    return tuple(values[old] for old in sorted(new, key=new.__getitem__))


def _renumbered(classes: Sequence[int], new: Mapping[int, int]) -> list[int]:
    return sorted(new[old] for old in classes if old in new)
