"""A trained model run over images: the config's own test transforms, images of one shape together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import local
from typing import Any

import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import nn

from ....core.contracts.domain import DomainData, Item
from ....core.features.extract import cores
from ..data.boxes import annotated_boxes

AT_ONCE = 8
"""Images of one shape that go through the model together."""
AHEAD = 32
"""Images decoded before the model has seen them."""


def outcomes(
    model: nn.Module,
    data: DomainData,
    items: Sequence[Item],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Item, Any]]:
    """Each item with the data sample that the model made of it, in order.

    Args:
        model: with `cfg`, whose group `vladapt` has `test_pipeline`.
        data: decodes the items.
        progress: called as progress(done, total).
    """
    init_default_scope(model.cfg.default_scope)
    given = names_given_regions(model)
    transforms = Compose(_with_regions(model.cfg.vladapt.test_pipeline) if given else model.cfg.vladapt.test_pipeline)
    own = local()

    def ready_for_model(item: Item) -> dict[str, Any]:
        if not hasattr(own, "transforms"):
            own.transforms = deepcopy(transforms)  # some of mm's note in themselves what they do next
        return own.transforms(_sample(item, given))

    done = 0
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(items), AHEAD):
            chosen = items[start : start + AHEAD]
            ready = list(threads.map(ready_for_model, chosen))
            for group in _of_one_shape(list(zip(chosen, ready, strict=True))):
                yield from zip((item for item, _ in group), _tested(model, [sample for _, sample in group]))
                done += len(group)
                progress(done, len(items))


def names_given_regions(model: nn.Module) -> bool:
    """Whether a model names regions that come with an image, and finds none itself."""
    return bool(getattr(model, "names_given_regions", False))


def _with_regions(transforms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Transforms that read boxes too, as soon as there is an image, so that they are resized with it."""
    first, *others = transforms
    return [first, {"type": "LoadAnnotations", "with_bbox": True}, *others]


@torch.no_grad()
def _tested(model: nn.Module, samples: list[dict[str, Any]]) -> list[Any]:
    """Data samples of a batch; not under inference mode, whose tensors a later training could not use."""
    return model.test_step({key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")})


def _of_one_shape(pairs: list[tuple[Item, dict]]) -> Iterator[list[tuple[Item, dict]]]:
    """Runs of neighbours whose pixels have one shape, so that an image is seen as it would be alone."""
    group: list[tuple[Item, dict]] = []
    for pair in pairs:
        if group and (len(group) == AT_ONCE or pair[1]["inputs"].shape != group[0][1]["inputs"].shape):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _sample(item: Item, with_regions: bool) -> dict[str, Any]:
    """What transforms of mmdet and mmseg start from; regions without what they show."""
    boxes = annotated_boxes(item)
    regions = boxes.boxes if with_regions else ()
    return {
        "img_path": str(item.source),
        "decode": dict(item.decode),
        "img_id": item.id,
        "scale_factor": (1.0, 1.0),
        "item_id": item.id,
        "facts": boxes.facts or {},
        "instances": [{"bbox": list(box), "bbox_label": 0, "ignore_flag": 0} for box in regions],
        "seg_fields": [],
        "seg_map_path": None,
        "reduce_zero_label": False,
    }
