"""What the samples of a domain keep: whole items, targets of classes that there are, images, pixels, splits."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.domain import Domain
from ..contracts.images import ImageSize, height_and_width
from ..contracts.items import Boxes, DomainData, Item, Mask, Target, check_items
from ..data.file_hashes import FileHashes
from ..data.splits import assign_splits
from ..data.verify import part_text
from ..errors import CapabilityError, DataError
from .contract import first_line
from .domain_trial import DomainTrial, ReadSet
from .towers import PlainTowers, plain_towers

FEW = 6
"""Samples of a set that are decoded."""
IGNORED = 255
"""Of masks: pixels that count for nothing."""


def it_gives_a_data_set(trial: DomainTrial) -> Iterator[str]:
    """Some items, classes with names of their own, what reports say of it, and something to learn."""
    for each in trial.sets:
        data = each.data
        if not isinstance(data, DomainData):
            yield f"{each.words} is a {type(data).__name__}; give a DomainData"
        names = data.class_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name.strip() for name in names):
            yield f"{each.words}: class_names are {names!r}; give a tuple of texts"
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"{each.words} has two classes called '{twice[0]}'"
        if not data.kind or not data.name:
            yield f"{each.words} has no {'kind' if not data.kind else 'name'}; reports show it"
        if data.frequency is not None and (len(data.frequency) != len(names) or set(data.frequency) - set("rcf")):
            yield f"{each.words}: frequency is not one of r, c and f per class"
        if all(item.target is None for item in data.items):
            yield f"{each.words} has no item with a target, so nothing can be learned"
    for each in _of_whole_items(trial):
        try:
            check_items(each.data, "it")
        except DataError as error:
            yield f"{each.words} cannot be used: {first_line(error)}"


def items_are_whole(trial: DomainTrial) -> Iterator[str]:
    """An id of its own, a source that is there, a decode that JSON holds, a group and a split that there may be."""
    for each in trial.sets:
        seen: set[str] = set()
        for item in each.data.items:
            if fault := _item_fault(item):
                yield f"{each.words}: item '{item.id}' {fault}"
            if item.id in seen:
                yield f"{each.words} has two items called '{item.id}'; an id is unique"
            seen.add(item.id)


def targets_fit_the_classes(trial: DomainTrial) -> Iterator[str]:
    """Indices of classes that there are, one value per class where there are several, lists of one length."""
    for each in trial.sets:
        for item in each.data.items:
            if fault := _target_fault(item, len(each.data.class_names)):
                yield f"{each.words}: the target of item '{item.id}' {fault}"


def fewer_classes_are_renumbered(trial: DomainTrial) -> Iterator[str]:
    """Restricted to the last class and the first, a target names what it named of them, by their new numbers."""
    for each in _of_whole_items(trial):
        last = len(each.data.class_names) - 1
        if last < 2:
            continue
        new = {last: 0, 0: 1}
        for item in each.data.items:
            try:
                restricted = item.restricted(new)
            except CapabilityError:
                continue
            classes = () if restricted is None else restricted.classes()
            expected = tuple(sorted(new[label] for label in item.classes() if label in new))
            if classes != expected:
                kind = type(item.target).__name__
                yield f"{each.words}: {kind}.restricted({new}) of item '{item.id}' names {classes}, not {expected}"


def images_decode(trial: DomainTrial) -> Iterator[str]:
    """To what the contract says, the same each time; items that show different things have a different decode."""
    for each in _of_whole_items(trial):
        for item in _some(each.data.items):
            image = each.data.load(item)
            if fault := image_fault(image, trial.channels):
                yield f"{each.words}: item '{item.id}' decodes to {fault}"
            elif not np.array_equal(image, each.data.load(item)):
                yield f"{each.words}: item '{item.id}' decodes to another image the second time"
        for one, other in _of_one_content(each.data.items)[:FEW]:
            if not np.array_equal(each.data.load(one), each.data.load(other)):
                yield (
                    f"{each.words}: items '{one.id}' and '{other.id}' show different images and have the same source "
                    "and decode, by which features are stored; tell them apart in decode"
                )


def items_can_be_looked_at(trial: DomainTrial) -> Iterator[str]:
    """`picture` gives stills by name, by which a person can label."""
    for each in _of_whole_items(trial):
        for item in _some(each.data.items):
            stills = trial.domain.picture(item, each.data.load)
            for name, still in stills.items():
                if still.dtype != np.uint8 or still.ndim != 3 or still.shape[-1] != 3 or 0 in still.shape:
                    yield f"{each.words}: picture() of '{item.id}' shows {still.dtype} {still.shape} as '{name}'"
            if not stills:
                yield f"{each.words}: picture() of '{item.id}' shows nothing"


def masks_decode(trial: DomainTrial) -> Iterator[str]:
    """As large as the image, one class per pixel, or 255."""
    for each in _of_whole_items(trial):
        data = each.data
        masked = [item for item in data.items if isinstance(item.target, Mask)]
        if masked and data.load_mask is None:
            yield f"{each.words} has masks and no load_mask"
        for item in _some(masked) if data.load_mask is not None else ():
            mask, shape = data.load_mask(item), data.load(item).shape[:2]
            if mask.dtype != np.uint8 or mask.shape != shape:
                yield f"{each.words}: the mask of '{item.id}' is {mask.dtype} {mask.shape}, not uint8 {shape}"
            elif unknown := set(np.unique(mask).tolist()) - {IGNORED, *range(len(data.class_names))}:
                yield f"{each.words}: the mask of '{item.id}' has class {min(unknown)}, which there is not"


def pixels_are_inputs(trial: DomainTrial) -> Iterator[str]:
    """`transforms` gives (3, S, S), or one of them per part, by the seed alone, and its `spec` says what it does. Of an
    image of more channels it gives as many."""
    for each in _of_whole_items(trial):
        towers = plain_towers()
        if any(each.data.load(item).shape[-1] == trial.channels != 3 for item in each.data.items[:1]):
            towers = PlainTowers(channels=trial.channels)
        domain = trial.domain.of(each.data)
        transform, augment = (domain.transforms(towers, train, each.task) for train in (False, True))
        for one, words in ((transform, "for predictions"), (augment, "for training")):
            try:
                json.dumps(one.spec)
            except (AttributeError, TypeError) as error:
                yield f"its transform {words} has no spec that JSON holds ({error}); features are stored by it"
                return
        for item in _some(each.data.items):
            image = each.data.load(item)
            yield from _pixel_faults(image, transform, towers.image_size, f"{each.words}: item '{item.id}'")
            yield from _pixel_faults(image, partial(augment, seed=1), towers.image_size, "for training, its transform")
            if augment.spec == transform.spec and not torch.equal(augment(image, seed=1), transform(image)):
                yield "its transforms for training and for predictions differ, and have the same spec"


def reading_again_gives_the_same(trial: DomainTrial) -> Iterator[str]:
    """The same items in the same order, with the same targets, groups and splits."""
    for each in _of_whole_items(trial):
        again = each.read()
        if again.class_names != each.data.class_names:
            yield f"{each.words}, read again, has other classes"
        if [item.id for item in again.items] != [item.id for item in each.data.items]:
            yield f"{each.words}, read again, has other items, or in another order; sort what a folder lists"
        for one, other in zip(each.data.items, again.items):
            if _told(one) != _told(other):
                yield f"{each.words}, read again, describes item '{one.id}' differently"


def reading_changes_no_other_set(trial: DomainTrial) -> Iterator[str]:
    """Words and transforms of a set are the same after the domain has read others."""
    before = [(each, _as_seen(trial.domain.of(each.data), each.task)) for each in _of_whole_items(trial)]
    for each, _ in before[:1]:
        each.read()
    for each, seen in before:
        if _as_seen(trial.domain.of(each.data), each.task) != seen:
            yield (
                f"{each.words} has other words or transforms after it has read another set; let read() change nothing "
                "and give what it found with the data, in DomainData.domain"
            )


def _as_seen(domain: Domain, task: str) -> list[Any]:
    towers = plain_towers()
    specs = [getattr(domain.transforms(towers, train, task), "spec", None) for train in (False, True)]
    return [list(domain.templates(task)), list(domain.negative_templates(task)), domain.one_template(task), *specs]


def splits_share_nothing(trial: DomainTrial) -> Iterator[str]:
    """No group, and no copy of an image, lies in two of the splits that it gives; without any, they can be made."""
    for each in _of_whole_items(trial):
        sides = defaultdict(set)
        for item in each.data.items:
            if item.group is not None and item.split:
                sides[item.group].add(item.split)
        if shared := sorted(group for group, splits in sides.items() if len(splits) > 1):
            yield f"{each.words}: group '{shared[0]}' is in {' and '.join(sorted(sides[shared[0]]))}; keep it in one"
        if any(item.classes() for item in each.data.items):
            yield from _divided(each, trial.folder)


SAMPLE_RULES = (
    it_gives_a_data_set,
    items_are_whole,
    targets_fit_the_classes,
    fewer_classes_are_renumbered,
    images_decode,
    items_can_be_looked_at,
    masks_decode,
    pixels_are_inputs,
    reading_again_gives_the_same,
    reading_changes_no_other_set,
    splits_share_nothing,
)


def image_fault(image: Any, channels: int = 3) -> str:
    """What is wrong with a decoded image, or ""; `channels` are those that its domain says it may have."""
    if not isinstance(image, np.ndarray):
        return f"a {type(image).__name__}; give a numpy array"
    if image.ndim not in (3, 4) or image.shape[-1] not in (3, channels) or 0 in image.shape:
        more = "" if channels == 3 else f", or (H, W, {channels})"
        return f"an array {image.shape}; give (H, W, 3){more}, or (T, H, W, 3) of a clip"
    if image.dtype not in (np.uint8, np.float32):
        return f"{image.dtype}; give uint8, or float32 in 0..1"
    if image.dtype == np.float32 and not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        return "float32 out of 0..1"
    return ""


# ----------------------------------------------------------------------------------------------------------------------


def _of_whole_items(trial: DomainTrial) -> Iterator[ReadSet]:
    """The sets that more can be asked of. Of others, two rules above say what is wrong."""
    for each in trial.sets:
        count = len(each.data.class_names)
        if not any(_item_fault(item) or _target_fault(item, count) for item in each.data.items):
            yield each


def _some(items: Sequence[Item]) -> list[Item]:
    """A few items, from all over the set."""
    return [items[place] for place in sorted({round(i) for i in np.linspace(0, len(items) - 1, FEW)})] if items else []


def _item_fault(item: Item) -> str:
    if not isinstance(item.id, str) or not item.id:
        return "has an id that is no text"
    if not isinstance(item.source, Path):
        return f"has the source {item.source!r}; give a Path"
    if not item.source.is_file():
        return f"has the source {item.source}, which is no file; of a drawn image give the file that draws it"
    try:
        json.dumps(item.decode)
    except TypeError as error:
        return f"has a decode that JSON cannot hold ({error})"
    if item.group is not None and not isinstance(item.group, str):
        return f"has the group {item.group!r}; give a text or None"
    if item.split not in ("", *Item.SPLITS):
        return f"has the split {item.split!r}; give one of {', '.join(Item.SPLITS)}, or an empty text"
    return ""


def _target_fault(item: Item, count: int) -> str:
    target = item.target
    if target is None:
        return ""
    if not isinstance(target, Target):
        return f"is a {type(target).__name__}; derive its class from vladapt.Target"
    label, classes = target.class_label(), target.classes()
    if isinstance(label, tuple):
        if len(label) != count or any(not isnan(value) and value not in (0, 1) for value in label):
            return f"is {label}; give 0, 1 or NaN for each of the {count} classes"
    elif label is not None and not (isinstance(label, int) and 0 <= label < count):
        return f"is class {label!r}; there are {count}"
    if any(not 0 <= index < count for index in classes) or list(classes) != sorted(set(classes)):
        return f"names classes {classes}; give indices below {count}, each once, in ascending order"
    if not all(isinstance(text, str) and text.strip() for text in target.captions()):
        return f"has the captions {target.captions()!r}; give texts"
    if not isinstance(target.numbers(), Mapping):
        return f"has the numbers {target.numbers()!r}; give a mapping of names to numbers"
    return _box_fault(target) if isinstance(target, Boxes) else ""


def _box_fault(target: Boxes) -> str:
    for name in ("labels", "segments", "ignored"):
        value = getattr(target, name)
        if value is not None and len(value) != len(target.boxes):
            return f"has {len(target.boxes)} boxes and {len(value)} {name}"
    crooked = [box for box in target.boxes if len(box) != 4 or box[0] > box[2] or box[1] > box[3]]
    return f"has the box {crooked[0]}; give x0, y0, x1, y1 in pixels" if crooked else ""


def _of_one_content(items: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Pairs of items that a feature store takes for one."""
    first: dict[tuple[str, str], Item] = {}
    pairs = []
    for item in items:
        key = (str(item.decode.get("digest") or item.source), part_text(item))
        if first.setdefault(key, item) is not item:
            pairs.append((first[key], item))
    return pairs


def _pixel_faults(
    image: np.ndarray, transform: Callable[[np.ndarray], Tensor], size: ImageSize, who: str
) -> Iterator[str]:
    before = image.copy()
    pixels = transform(image)
    if not np.array_equal(image, before):
        yield f"{who}: the transform changes the decoded image; work on a copy"
    channels = image.shape[-1]
    sides = height_and_width(size)
    shape = (channels, *sides) if image.ndim == 3 else (len(image), channels, *sides)
    if not isinstance(pixels, Tensor) or tuple(pixels.shape) != shape or not pixels.is_floating_point():
        shown = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        yield f"{who} becomes {shown} of an image {image.shape}; give float {shape} where image_size is {size}"
    elif not torch.isfinite(pixels).all():
        yield f"{who} becomes pixels that are not finite numbers"
    elif not torch.equal(transform(image), pixels):
        yield f"{who} becomes other pixels the second time; let the seed alone decide"


def _told(item: Item) -> tuple[Any, ...]:
    """What is said of an item, to compare: a target of a class of anyone's may have no equality."""
    target = item.target
    shown = repr(target) if is_dataclass(target) or target is None else f"{type(target).__name__} {vars(target)!r}"
    return part_text(item), item.decode.get("digest"), item.source, item.group, item.split, shown


def _divided(each: ReadSet, folder: Path) -> Iterator[str]:
    """How `assign_splits` takes a set."""
    items = each.data.items
    try:
        divided = assign_splits(each.data, seed=0, hashes=FileHashes(folder))
    except DataError as error:
        yield f"{each.words} cannot be split ({error}); items that are drawn need a decode['digest'] each"
        return
    sides = {item.id: item.split for item in divided.items}
    moves = [(item.split, sides.get(item.id)) for item in items if item.split]
    moved = [pair for pair in moves if pair[0] != pair[1] and pair != ("train", "val")]
    if {"train", "test"} <= {item.split for item in items} and moved:
        yield (
            f"{each.words}: {len(moved)} images cannot stay in the split that it gives them, their group or a copy "
            "being in another"
        )
