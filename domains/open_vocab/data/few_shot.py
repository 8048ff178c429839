"""K examples of each class, for training on little.

For boxes K objects per class, as few-shot detection counts them (Frustratingly Simple Few-Shot Object Detection, 2020,
arXiv 2003.06957): images are drawn until every class has K. For masks K images per class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from ....core.contracts import DomainData, Item
from ....core.errors import ConfigError
from .boxes import annotated_boxes

SURPLUS = ("ignore", "keep")


def draw_shots(
    data: DomainData, shots: int | None, seed: int, *, surplus: str = "ignore", exclude: Collection[str] = frozenset()
) -> DomainData:
    """The set whose train split is reduced to K examples per class, or all that a class has; other splits stay.

    Drawn by rank, which depends on the seed and an item's id alone; the rarest class first, and what its images show of
    other classes counts for those.

    Args:
        data: with splits, of kind "boxes" or "masks".
        shots: K, or None for all.
        seed: fixes the choice.
        surplus: what becomes of a class's boxes beyond K in the drawn images: "ignore" marks them as ignored, so that
            exactly K are learned from and no object is taught as background; "keep" trains on them too.
        exclude: ids that must not be drawn.

    Raises:
        ConfigError: shots is not a positive whole number, or an unknown way with surplus.
    """
    if shots is None:
        return data
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise ConfigError(f"--shots {shots}: give a whole number of examples per class, 1 or more")
    if surplus not in SURPLUS:
        raise ConfigError(f"surplus '{surplus}': give one of {', '.join(SURPLUS)}")
    if any(item.draw for item in data.split("train")):
        raise ConfigError(f"--shots {shots}: samples are drawn anew in each epoch, so none can be chosen; omit it")
    pool = sorted((item for item in data.split("train") if item.id not in exclude), key=lambda item: item.rank(seed))
    counted = _boxes_of_class if data.kind == "boxes" else _images_of_class
    chosen = _drawn(pool, shots, len(data.class_names), counted)
    if data.kind == "boxes" and surplus == "ignore":
        chosen = _exactly(chosen, shots)
    return data.with_items([*chosen, *(item for item in data.items if item.split != "train")])


def _drawn(pool: Sequence[Item], shots: int, num_classes: int, counted) -> list[Item]:
    counts = {item.id: counted(item) for item in pool}
    totals: Counter = sum(counts.values(), Counter())
    have: Counter = Counter()
    chosen: dict[str, Item] = {}
    for label in sorted(range(num_classes), key=lambda label: (totals[label], label)):
        for item in pool:
            if have[label] >= shots:
                break
            if counts[item.id][label] and item.id not in chosen:
                chosen[item.id] = item
                have.update(counts[item.id])
    return list(chosen.values())


def _boxes_of_class(item: Item) -> Counter:
    boxes = annotated_boxes(item)
    ignored = boxes.ignored or (False,) * len(boxes.labels)
    return Counter(label for label, left_out in zip(boxes.labels, ignored, strict=True) if not left_out)


def _images_of_class(item: Item) -> Counter:
    return Counter(item.classes())


def _exactly(items: Sequence[Item], shots: int) -> list[Item]:
    """The items with every box beyond the K-th of its class marked as ignored."""
    have: Counter = Counter()
    result = []
    for item in items:
        boxes = annotated_boxes(item)
        ignored = list(boxes.ignored or (False,) * len(boxes.labels))
        for place, label in enumerate(boxes.labels):
            if ignored[place]:
                continue
            ignored[place] = have[label] >= shots
            have[label] += not ignored[place]
        result.append(item.with_(target=replace(boxes, ignored=tuple(ignored) if any(ignored) else None)))
    return result
