"""Base and novel classes: trained on the ones, tested on both.

OV-COCO: 48 base and 17 novel classes of COCO, 15 left out (Zero-Shot Object Detection, 2018, arXiv 1804.04340, taken up
by Open-Vocabulary Object Detection Using Captions, 2020, arXiv 2011.10678). OV-LVIS: the rare classes are novel (ViLD,
2021, arXiv 2104.13921). Images of train that show a novel class are kept in both, unmarked; zero-shot panoptic
segmentation leaves them out (Generalizable Semantic Vision Query Generation, 2024, arXiv 2402.13697).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....core.contracts import DomainData, Item
from ....core.errors import ConfigError, DataError, did_you_mean
from ..vocabulary import alike
from .boxes import annotated_boxes
from .classes import choose_classes, class_positions
from .masks import IGNORED, annotated_mask, choosable

KEEP, DROP = "keep", "drop"
"""What becomes of images for training that show a novel class."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


COCO_NOVEL = _names(
    "airplane,bus,cat,dog,cow,elephant,umbrella,tie,snowboard,skateboard,cup,knife,cake,couch,keyboard,sink,scissors"
)
COCO_BASE = _names(
    "person,bicycle,car,motorcycle,train,truck,boat,bench,bird,horse,sheep,bear,zebra,giraffe,backpack,handbag,"
    "suitcase,frisbee,skis,kite,surfboard,bottle,fork,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,pizza,"
    "donut,chair,bed,toilet,tv,laptop,mouse,remote,microwave,oven,toaster,refrigerator,book,clock,vase,"
    "toothbrush"
)


@dataclass(frozen=True)
class NovelSplit:
    """Names of classes, in the order of the data.

    Args:
        base: trained on.
        novel: only tested.
        left_out: neither.
    """

    base: tuple[str, ...]
    novel: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def tested(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Base and novel, in the order of the data."""
        return tuple(name for name in class_names if name not in self.left_out)


def split_novel(
    class_names: Sequence[str], spec: str | Sequence[str], frequency: Sequence[str] | None = None
) -> NovelSplit:
    """Which classes are novel.

    Args:
        class_names: of the data.
        spec: "coco", "lvis", or the names of the novel classes, comma-separated or as a list.
        frequency: of each class "r", "c" or "f", for "lvis" (`DomainData.frequency`).

    Raises:
        ConfigError: a name that the data do not have (with the nearest), no class left to train on, or a published
            split of other data. DataError: "lvis" where no frequencies are told.
    """
    if spec == "coco":
        return _coco(class_names)
    if spec == "lvis":
        return _lvis(class_names, frequency)
    listed = spec.split(",") if isinstance(spec, str) else spec
    wanted = [name.strip() for name in listed if name.strip()]
    if not wanted:
        raise ConfigError("--novel names no class; give names, comma-separated, or coco, or lvis")
    chosen = {class_names[place] for place in _positions(wanted, class_names)}
    return _checked([name for name in class_names if name not in chosen], [n for n in class_names if n in chosen])


def hold_out(data: DomainData, split: NovelSplit, *, keep_empty: bool = False, images: str = KEEP) -> DomainData:
    """The set for a base/novel experiment: train and val know the base classes alone, test keeps all that are tested.

    An annotation of a novel class is nowhere seen in training: its box is gone, its pixels are ignored ones. An image
    of train or val that had only such annotations leaves, unless `keep_empty`. Splits must have been assigned.

    Args:
        data: with splits.
        split: of its classes.
        keep_empty: keep images without a base object as background.
        images: "keep", or "drop" those of train and val that show a novel class: there it is taught as background, and
            models that outline few regions, each an object or none (Mask2Former), learn to leave it out.
    """
    data = choose_classes(data, split.tested(data.class_names))
    base = {position for position, name in enumerate(data.class_names) if name in split.base}
    items, gone, dropped = [], 0, 0
    for item in data.items:
        if item.split == "test":
            items.append(item)
            continue
        if images == DROP and not _labels_in(item, data) <= base:
            dropped += 1
            continue
        seen = _base_only(item, base, data.kind)
        empty = _is_empty(seen, data.kind) and not _is_empty(item, data.kind)
        if empty and not keep_empty:
            gone += 1
        else:
            items.append(seen)
    notes = [
        *data.notes,
        f"Base classes, trained on: {len(split.base)}; novel classes, only tested: {len(split.novel)}.",
        *([f"Classes that are in neither, left out: {len(split.left_out)}."] if split.left_out else []),
        *([f"Images of train and val with only novel objects, left out: {gone}."] if gone else []),
        *([f"Images of train and val that show a novel class, left out (novel_images): {dropped}."] if dropped else []),
    ]
    if not any(item.split == "train" for item in items):
        cure = ", or omit --set novel_images=drop" if dropped else ""
        raise DataError(f"{data.name}: no training image has a base class; name fewer novel classes{cure}")
    reader = None if data.load_mask is None else choosable(data.load_mask)
    return replace(data, items=items, notes=notes, load_mask=reader)


def _base_only(item: Item, base: set[int], kind: str) -> Item:
    if kind != "masks":
        return item.with_(target=annotated_boxes(item).showing(base))
    mask = annotated_mask(item)
    labels = mask.labels and tuple(value if place in base else 0.0 for place, value in enumerate(mask.labels))
    return item.with_(target=replace(mask, labels=labels, only=tuple(sorted(base))))


def _labels_in(item: Item, data: DomainData) -> set[int]:
    """Positions of the classes that an item shows."""
    if data.kind != "masks":
        return set(annotated_boxes(item).labels)
    labels = annotated_mask(item).labels
    if labels is None:
        return set(np.unique(data.load_mask(item)).tolist()) - {IGNORED}
    return {position for position, shown in enumerate(labels) if shown}


def _is_empty(item: Item, kind: str) -> bool:
    if kind != "masks":
        return not annotated_boxes(item).labels
    labels = annotated_mask(item).labels
    return labels is not None and not any(labels)


def _coco(class_names: Sequence[str]) -> NovelSplit:
    spoken_names = {alike(name): name for name in class_names}
    base = {spoken_names[name] for name in COCO_BASE if name in spoken_names}
    novel = {spoken_names[name] for name in COCO_NOVEL if name in spoken_names}
    if not base or not novel:
        missing = "novel" if base else "base"
        raise ConfigError(
            f"--novel coco: the data have none of OV-COCO's {missing} classes ({', '.join(list(class_names)[:10])}); "
            'name your own novel classes, --novel "a,b"'
        )
    return NovelSplit(
        tuple(name for name in class_names if name in base),
        tuple(name for name in class_names if name in novel),
        tuple(name for name in class_names if name not in base | novel),
    )


def _lvis(class_names: Sequence[str], frequency: Sequence[str] | None) -> NovelSplit:
    if frequency is None:
        raise DataError(
            "--novel lvis: the data do not say how frequent classes are; give an LVIS file, or name novel classes"
        )
    pairs = list(zip(class_names, frequency, strict=True))
    return _checked([name for name, often in pairs if often != "r"], [name for name, often in pairs if often == "r"])


def _positions(wanted: Sequence[str], class_names: Sequence[str]) -> list[int]:
    try:
        return class_positions(wanted, class_names)
    except ConfigError:
        known = {alike(name) for name in class_names}
        unknown = next((name for name in wanted if alike(name) not in known), None)
        if unknown is None:
            raise
        nearest = did_you_mean(unknown, class_names)
        raise ConfigError(f"--novel: the data have no class '{unknown}'; {nearest}") from None


def _checked(base: list[str], novel: list[str]) -> NovelSplit:
    if not base:
        raise ConfigError("--novel: every class is novel, so there is nothing to train on; name fewer")
    if not novel:
        raise ConfigError("--novel: no class is novel; name some")
    return NovelSplit(tuple(base), tuple(novel))
