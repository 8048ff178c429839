"""Which mask belongs to which image: the layouts of VOC, ADE20K, Cityscapes, and folders of images and masks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....core.data import IMAGE, Format, ItemCollector, Layout, VocSet, folders, shown, walk
from ....core.errors import DataError
from .mask_tables import MaskTable, ade_table, cityscapes_table, voc_table

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit")
MASK_FOLDERS = (
    *("masks", "mask", "semantic_masks", "segmentation_masks", "segmentationclass", "labels", "label", "annotations"),
    *("annotation", "ann_dir", "ann", "gt", "gtfine", "groundtruth", "ground_truth", "segmentation", "targets"),
)
ENDINGS = re.compile(
    r"[_-](masks?|labels?|gt|seg|segmentation|image|img|sat|leftImg8bit|gtFine_label(Train)?Ids|label(Train)?Ids)$",
    re.IGNORECASE,
)
CITYSCAPES_ENDINGS = ("_labelTrainIds.png", "_labelIds.png")


@dataclass(frozen=True)
class MaskPair:
    """An image, its mask, and the split they are in ("" for none)."""

    image: Path
    mask: Path
    split: str


@dataclass(frozen=True)
class MaskSet:
    """What a folder holds.

    Args:
        pairs: sorted by image.
        places: folders where a table of classes may lie.
        table: of a well-known set, or None.
        unmasked: number of images without a mask.
    """

    pairs: list[MaskPair]
    places: list[Path]
    table: MaskTable | None
    unmasked: int


def find_masks(folder: Path, collector: ItemCollector, formats: Sequence[Format] = (IMAGE,)) -> MaskSet | None:
    """The pairs of a folder, or None where there are no two folders of images and masks.

    Masks without an image are listed in `collector.skipped`.

    Raises:
        DataError: two masks for one image.
    """
    # The folder, or its folders train, val and test where those hold images and masks.
    sides = [
        (image, mask)
        for part in [folder, *(part for part in folders(folder) if part.name.lower() in Layout.SPLITS)]
        if (image := _side(part, IMAGE_FOLDERS, formats)) is not None
        and (mask := _side(part, MASK_FOLDERS, formats, but=image)) is not None
    ]
    if not sides:
        return None
    pairs, unmasked = [], 0
    for image_folder, mask_folder in sides:
        more, alone = _pairs(folder, image_folder, mask_folder, collector, formats)
        pairs += more
        unmasked += alone
    places = list(dict.fromkeys([folder, *(side for pair in sides for side in (pair[1], pair[1].parent))]))
    return MaskSet(pairs, places, _known_table(folder, pairs), unmasked)


def _side(part: Path, names: Sequence[str], formats: Sequence[Format], but: Path | None = None) -> Path | None:
    by_name = {each.name.lower(): each for each in folders(part) if each != but}
    return next((by_name[name] for name in names if name in by_name and _has_images(by_name[name], formats)), None)


def _has_images(folder: Path, formats: Sequence[Format]) -> bool:
    return any(Format.of(file, formats) is not None for file in walk(folder, folder, ItemCollector()))


def _pairs(
    root: Path, image_folder: Path, mask_folder: Path, collector: ItemCollector, formats: Sequence[Format]
) -> tuple[list[MaskPair], int]:
    """The pairs below two folders, and the number of images without a mask."""
    images = [file for file in walk(image_folder, root, collector) if Format.of(file, formats) is not None]
    masks = _mask_files(root, mask_folder, collector, formats)
    by_key = _by_key(masks, mask_folder, root)
    of_name = Counter(key[-1] for key in by_key)
    by_name = {key[-1]: mask for key, mask in by_key.items() if of_name[key[-1]] == 1}
    image_names = Counter(_key(image, image_folder)[-1] for image in images)
    listed = VocSet.splits(root, "Segmentation")
    pairs, used = [], set()
    for image in images:
        key = _key(image, image_folder)
        mask = by_key.get(key) or (by_name.get(key[-1]) if image_names[key[-1]] == 1 else None)
        if mask is not None:
            used.add(mask)
            pairs.append(MaskPair(image, mask, listed.get(image.stem) or _split_of(image, mask, root)))
    for mask in masks:
        if mask not in used:
            collector.skip(shown(mask, root), "a mask without an image of its name")
    return pairs, len(images) - len(pairs)


def _mask_files(root: Path, folder: Path, collector: ItemCollector, formats: Sequence[Format]) -> list[Path]:
    files = [file for file in walk(folder, root, collector) if Format.of(file, formats) is not None]
    for ending in CITYSCAPES_ENDINGS:  # beside them lie colours and instances, which are not meant
        if chosen := [file for file in files if file.name.endswith(ending)]:
            return chosen
    return files


def _by_key(masks: Sequence[Path], folder: Path, root: Path) -> dict[tuple[str, ...], Path]:
    by_key: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for mask in masks:
        by_key[_key(mask, folder)].append(mask)
    for same in by_key.values():
        if len(same) > 1:
            first, second = (shown(mask, root) for mask in same[:2])
            raise DataError(f"{root}: '{first}' and '{second}' may both be masks of one image; remove one of them")
    return {key: same[0] for key, same in by_key.items()}


def _key(file: Path, folder: Path) -> tuple[str, ...]:
    """Folders below `folder`, and the name without what only says that it is an image or a mask."""
    parts = file.relative_to(folder).parts
    return (*parts[:-1], ENDINGS.sub("", file.stem))


def _split_of(image: Path, mask: Path, root: Path) -> str:
    parts = (*image.relative_to(root).parts[:-1], *mask.relative_to(root).parts[:-1])
    return next((Layout.SPLITS[part.lower()] for part in parts if part.lower() in Layout.SPLITS), "")


def _known_table(folder: Path, pairs: Sequence[MaskPair]) -> MaskTable | None:
    """The table of a well-known set, told from the names of folders and files."""
    if not pairs:
        return None
    mask = pairs[0].mask
    if mask.name.endswith(CITYSCAPES_ENDINGS):
        return cityscapes_table(train_ids=mask.name.endswith(CITYSCAPES_ENDINGS[0]))
    if mask.relative_to(folder).parts[0] == "SegmentationClass":
        return voc_table()
    ade = (folder / "annotations" / "training").is_dir() and (folder / "images" / "training").is_dir()
    return ade_table(folder) if ade or (folder / "objectInfo150.txt").is_file() else None
