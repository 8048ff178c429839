"""Train, val and test: given ones are kept, missing ones are made; no copy, no near copy and no group lies in two of
them that were made.

Made from nothing, a class is divided 50 : 20 : 30 into train, val and test, the shares CoOp used where a data set had
no split of its own (Learning to Prompt for Vision-Language Models, 2021, arXiv 2109.01134); a given train split without
val gives up 20 % of each class, as there.

The same images may be split anew, again and again, which shows what a score owes to the one test set that it was
measured on (`resplit`, `fold_split`); the first of the repeated splits is the one that a fit takes.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from ..contracts.items import DomainData, Item, ThumbnailStore
from ..errors import DataError, first_of
from ..runtime.process import collecting_seldom
from .allocation import ItemGroup, allocate
from .file_hashes import FileHashes
from .near_copies import remembered_near_copies
from .verify import content_key, content_of, part_text

LISTED = 10
"""Classes that a note names."""
WINDOW = frozenset({"window", "box"})
"""In `Item.decode` of a part of a picture."""
FRESH_SHARES = {"test": 0.3, "val": 0.2, "train": 0.5}
CARVED_SHARES = {"val": 0.2, "train": 0.8}
MADE_ANEW = "train, val and test were made anew"
"""In the note of it, which is of no concern where the data is tested whole."""
UNREVIEWED = "Images with labels that a model made and nobody has reviewed, in train alone"
CAPTIONS = "captions"
"""Kind of a set whose images are found by texts, so that nobody trains on its classes."""
ALL, NO_LABEL = -1, -2  # balanced beside the labels where an image has several


@collecting_seldom()
def assign_splits(data: DomainData, *, seed: int, hashes: FileHashes, links: ItemLinks | None = None) -> DomainData:
    """The set with every item's split filled in, and notes on what a user should know.

    * No split given, or only one: every class that lies in two groups gets a test image first, then a train image;
      the rest is shared out by class, whole groups at a time. A class that cannot be divided trains and is not tested.
    * Two or three splits given: kept. Items without one train. Without test, val is the test set; without train, val
      trains; where val is then missing, it is taken from train, unless all of that is to be learned from.
    * A copy of a test image, or an image of a test group, leaves the given train and val; the test set never changes.
      What is in train and val alike trains.
    * An image with boxes that a model made and nobody has reviewed trains, and so does its group; it is never val or
      test.
    * Near copies (the same image resized, turned, cut, ...) stay together where splits are made; where given ones
      divide them, a note says how many.

    Args:
        data: as read; near copies are told where it has `thumbnails`.
        seed: fixes the choice.
        hashes: tells copies; groups are links too, and so is being cut from the same file.
        links: of `links_of`, where the same data are split several times.

    Raises:
        DataError: nothing can be tested, or nothing is left to train on.
    """
    links = links or links_of(data, hashes)
    notes = _notes_on_copies(data.items, links)
    given = sorted({item.split for item in data.items if item.split})
    if unreviewed := sum(item.unreviewed for item in data.items):
        data = replace(data, items=[_trained(item) for item in data.items])
        notes.append(f"{UNREVIEWED}: {unreviewed}.")
    if len(given) < 2:
        if given:
            notes.append(f"The data name no split but {given[0]}: {MADE_ANEW}.")
        splits = _fresh(data, links.near_parts, seed)
    else:
        splits = _repair(data, given, links, seed, notes)
    items = [item.with_(split=split) for item, split in zip(data.items, splits, strict=True) if split]
    _check_both_sides(items, data.name or "the data", unreviewed)
    if data.class_names and data.kind != CAPTIONS:
        notes += _notes_on_classes(items, data.class_names)
    return replace(data, items=items, notes=[*data.notes, *notes])


def _trained(item: Item) -> Item:
    """An image that nobody has reviewed is moved into train, if the data say another split."""
    return item.with_(split="train") if item.unreviewed and item.split else item


def _fresh(data: DomainData, parts: Sequence[list[int]], seed: int) -> list[str]:
    """Splits made from nothing: parts with an image that nobody has reviewed train, the others are shared out."""
    reviewed = _reviewed(data, parts)
    splits = share_out(data, reviewed, FRESH_SHARES, seed)
    return splits if len(reviewed) == len(parts) else [split or "train" for split in splits]


def _reviewed(data: DomainData, parts: Sequence[list[int]]) -> list[list[int]]:
    """Parts that may be val or test."""
    return [part for part in parts if not any(data.items[position].unreviewed for position in part)]


def share_out(data: DomainData, parts: Sequence[list[int]], shares: dict[str, float], seed: int) -> list[str]:
    """One split per item of the parts, "" for all others.

    Args:
        parts: positions of items that stay together.
        shares: split -> share of each class, "train" among them.
    """
    as_parts = [
        ItemGroup(
            counts=Counter(label for position in part for label in _balanced(data.items[position], data.kind)),
            rank=min(data.items[position].rank(seed) for position in part),
        )
        for part in parts
    ]
    splits = [""] * len(data.items)
    for part, split in zip(parts, allocate(as_parts, shares, reserve_test="test" in shares), strict=True):
        for position in part:
            splits[position] = split
    return splits


def _balanced(item: Item, kind: str) -> tuple[int, ...]:
    """What an item counts for when shares are balanced: its classes and, where it may have several, itself."""
    classes = item.classes()
    return classes if kind in ("labels", "clips") else (*(classes or (NO_LABEL,)), ALL)


def _repair(data: DomainData, given: Sequence[str], links: ItemLinks, seed: int, notes: list[str]) -> list[str]:
    """Given splits without straddling; "" for what is left out. Adds to `notes` what was changed.

    Args:
        given: the splits that the data name, those among them of which no image is reviewed.
    """
    splits = _complete([item.split for item in data.items], given, notes)
    left_out = moved = 0
    for part in links.parts:
        present = {splits[position] for position in part}
        for position in part:
            if "test" in present and splits[position] != "test":
                splits[position] = ""
                left_out += 1
            elif present == {"train", "val"} and splits[position] == "val":
                splits[position] = "train"
                moved += 1
    if left_out:
        notes.append(f"Left out of train and val because their group or a copy is in the given test split: {left_out}.")
    if moved:
        notes.append(f"Moved from val to train because their group or a copy is in the given train split: {moved}.")
    notes += _notes_on_divided(splits, links)
    if "val" not in splits and not data.whole_train:
        training = [[n for n in part if splits[n] == "train"] for part in links.near_parts]
        training = _reviewed(data, [part for part in training if part])
        for position, split in enumerate(share_out(data, training, CARVED_SHARES, seed)):
            splits[position] = split or splits[position]
    return splits


def _complete(splits: list[str], given: Sequence[str], notes: list[str]) -> list[str]:
    """Given splits with train and test among them; a test split that the data name is never another one."""
    blank = splits.count("")
    if blank:
        notes.append(f"Images without a split, used for training: {blank}.")
        splits = [split or "train" for split in splits]
    if "test" not in given:
        notes.append("The data name no test split: val is the test set, and a new val was taken from train.")
        return ["test" if split == "val" else split for split in splits]
    if "train" not in splits:
        notes.append("The data name no train split: val is used for training, and a new val was taken from it.")
        return ["train" if split == "val" else split for split in splits]
    return splits


def _check_both_sides(items: Sequence[Item], name: str, unreviewed: int) -> None:
    present = {item.split for item in items}
    if "test" not in present and unreviewed:
        raise DataError(
            f"{name}: a model made the labels of {unreviewed} images and nobody has reviewed them, so nothing can be "
            "tested; review some (vladapt review), or add labels of people (vladapt predict ... --own-data)"
        )
    if "test" not in present:
        raise DataError(f"{name}: no class has two images of different groups, so nothing can be tested; add images")
    if "train" not in present:
        raise DataError(
            f"{name}: every train image is a copy of a test image or of its group; split by group, or give no split"
        )


def _notes_on_copies(items: Sequence[Item], links: ItemLinks) -> list[str]:
    notes = []
    if links.copies:
        extra = sum(len(positions) - 1 for positions in links.copies)
        notes.append(f"Exact copies of other images: {extra}; copies are never in two splits.")
    if links.near:
        given = len({item.split for item in items if item.split}) > 1
        kept = "" if given else "; each stays in the split of the image it copies"
        notes.append(f"Near copies of other images (resized, turned, cut, ...): {links.near_count}{kept}.")
    contradictory = [
        positions
        for positions in links.copies
        if len({repr(items[position].class_label()) for position in positions}) > 1
    ]
    if contradictory:
        first = ", ".join(items[position].id for position in contradictory[0][:2])
        notes.append(f"Images with a copy of another label: {len(contradictory)}, for instance {first}.")
    return notes


def _notes_on_divided(splits: Sequence[str], links: ItemLinks) -> list[str]:
    """A warning where given splits divide near copies."""
    notes = []
    for split, others in (("test", ("train", "val")), ("val", ("train",))):
        divided = 0
        for positions in links.near:
            if any(splits[n] in others for n in positions):
                divided += sum(splits[n] == split for n in positions)
        if divided:
            total, where = sum(each == split for each in splits), " or ".join(others)
            reach = (
                "Scores on test are too high"
                if split == "test"
                else "Scores on val are too high, and settings are chosen by them"
            )
            notes.append(
                f"Warning: {divided} of {total} {split} images have a near copy in {where}, in the splits that the "
                f"data give. {reach}."
            )
    return notes


def _notes_on_classes(items: Sequence[Item], class_names: Sequence[str]) -> list[str]:
    classes = {
        split: {label for item in items if item.split == split for label in item.classes()}
        for split in ("train", "test")
    }
    untested = [class_names[label] for label in sorted(classes["train"] - classes["test"])]
    untrained = [class_names[label] for label in sorted(classes["test"] - classes["train"])]
    notes = []
    if untested:
        notes.append(f"Classes trained but not tested, for lack of test images: {first_of(untested, LISTED)}.")
    if untrained:
        notes.append(f"Classes tested without a training image: {first_of(untrained, LISTED)}.")
    return notes


@dataclass(frozen=True)
class ItemLinks:
    """Positions of items, in lists.

    Args:
        parts: every position once; the items of a part share a group, a source or its copy, also by way of others.
        copies: items that show exactly the same, two or more in each list.
        near_parts: as parts, those in one that hold near copies.
        near: items that show one image and its near copies, exact copies among them, two or more in each list.
        near_count: different images in `near`, the first of each list not counted.
    """

    parts: list[list[int]]
    copies: list[list[int]]
    near_parts: list[list[int]] = field(default_factory=list)
    near: list[list[int]] = field(default_factory=list)
    near_count: int = 0


def links_of(data: DomainData, hashes: FileHashes) -> ItemLinks:
    """What belongs together in a set: groups, copies, and near copies where it has thumbnails."""
    sources, parts = _source_keys(data.items, hashes), list(map(part_text, data.items))
    links = _linked(data.items, sources, parts)
    if data.thumbnails is None:
        return links
    by_content: dict[str, list[int]] = defaultdict(list)
    for position, (item, source, part) in enumerate(zip(data.items, sources, parts, strict=True)):
        with suppress(DataError):  # a file that is gone is listed where it is used
            hashed = source != str(item.source)
            by_content[content_of(source, part) if hashed else content_key(item, hashes)].append(position)
    return _with_near_copies(links, data.items, by_content, data.thumbnails)


def link_items(items: Sequence[Item], hashes: FileHashes) -> ItemLinks:
    """What belongs together, told from groups and from the bytes of the files."""
    return _linked(items, _source_keys(items, hashes), list(map(part_text, items)))


def _linked(items: Sequence[Item], sources: Sequence[str], parts: Sequence[str]) -> ItemLinks:
    """By the key of each item's source, and what part of it the item is."""
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    by_content: dict[Hashable, list[int]] = defaultdict(list)
    for position, (item, source, part) in enumerate(zip(items, sources, parts, strict=True)):
        if not item.apart:
            by_key["source", source].append(position)
        by_content[source, part].append(position)
        if item.group is not None:
            by_key["group", item.group].append(position)
    copies = [positions for positions in by_content.values() if len(positions) > 1]
    linked = connected(len(items), by_key.values())
    return ItemLinks(linked, copies, near_parts=linked)


def _with_near_copies(
    links: ItemLinks, items: Sequence[Item], by_content: Mapping[str, list[int]], thumbnails: ThumbnailStore
) -> ItemLinks:
    """The links, and those of near copies among the images that have thumbnails; windows of one picture are none.

    Args:
        by_content: content key -> positions of the items that show it.
    """
    count = sum(map(len, links.parts))
    part_of = np.empty(count, dtype=np.int64)
    for number, part in enumerate(links.parts):
        part_of[part] = number
    keys = sorted(by_content)
    shown = [by_content[key][0] for key in keys]
    pictures = dict.fromkeys(item.source for item in items if WINDOW & item.decode.keys())
    number_of = {source: count + n for n, source in enumerate(pictures)}
    apart = np.array([number_of.get(items[position].source, part_of[position]) for position in shown])
    pairs = remembered_near_copies(keys, thumbnails, apart).tolist()
    alike = [chain for chain in connected(len(keys), pairs) if len(chain) > 1]
    near = [[position for n in chain for position in by_content[keys[n]]] for chain in alike]
    near_parts = connected(count, [*links.parts, *near])
    return replace(links, near_parts=near_parts, near=near, near_count=sum(len(chain) - 1 for chain in alike))


def _source_keys(items: Sequence[Item], hashes: FileHashes) -> list[str]:
    """One key per item, equal for equal bytes. A file of a size that no other has cannot have a copy: not read.

    Files that the same command has asked the hashes for are not asked for again.
    """
    paths = {str(item.source) for item in items if "digest" not in item.decode}
    keys = {path: hashes.seen[path] for path in paths if path in hashes.seen}
    found = {path: _status(path) for path in paths if path not in keys}
    of_size = Counter(status.st_size for status in found.values() if status is not None)
    for path, status in found.items():
        alone = status is None or (of_size[status.st_size] == 1 and not hashes.seen)
        keys[path] = path if alone else hashes.sha256(path, status)
    return [item.decode.get("digest") or keys[str(item.source)] for item in items]


def _status(path: str) -> os.stat_result | None:
    """Of a file; None where it cannot be read: decoding will list it as unreadable, here it is just no copy."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            return status
    return None


def connected(count: int, chains: Iterable[list[int]]) -> list[list[int]]:
    """Connected components of positions 0..count-1, where the members of a chain hang together, in rising order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.array([(chain[0], other) for chain in chains for other in chain[1:]], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(count, count))
    parts: dict[int, list[int]] = defaultdict(list)
    for position, part in enumerate(connected_components(graph, directed=False)[1].tolist()):
        parts[part].append(position)
    return list(parts.values())


def resplit(data: DomainData, number: int, *, seed: int, hashes: FileHashes) -> DomainData:
    """The `number`th repeated split into train, val and test, from 0, of a set that brought no split of its own.

    Args:
        data: its splits are made anew.
        seed: of the first one.
        hashes: tells copies.
    """
    return assign_splits(_without_splits(data), seed=seed + number, hashes=hashes)


def fold_split(data: DomainData, fold: int, folds: int, *, seed: int, hashes: FileHashes) -> DomainData:
    """One of `folds` splits, from 0, whose test sets share out the data; of the rest, 20 % of each class are val.

    Args:
        data, seed, hashes: as for `resplit`.
    """
    data = _without_splits(data)
    test = _folds(data, _reviewed(data, link_items(data.items, hashes).parts), folds, seed)[fold]
    tested = {position for part in test for position in part}
    items = [item.with_(split="test" if n in tested else "train") for n, item in enumerate(data.items)]
    return assign_splits(replace(data, items=items), seed=seed, hashes=hashes)


def _without_splits(data: DomainData) -> DomainData:
    return replace(data, items=[item.with_(split="") for item in data.items], notes=[])


def _folds(data: DomainData, parts: Sequence[list[int]], folds: int, seed: int) -> list[list[list[int]]]:
    """The parts of each test set: one after the other takes its share of what is left."""
    left, taken = list(parts), []
    for fold in range(folds - 1):
        share = 1 / (folds - fold)
        splits = share_out(data, left, {"test": share, "train": 1 - share}, seed)
        taken.append([part for part in left if splits[part[0]] == "test"])
        left = [part for part in left if splits[part[0]] != "test"]
    return [*taken, left]
