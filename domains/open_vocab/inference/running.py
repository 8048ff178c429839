"""A trained model run over images: the config's own test transforms, images of one shape together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from threading import local
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import nn

from ....core.contracts import DomainData, Item
from ....core.errors import CapabilityError, ConfigError, DataError, did_you_mean
from ....core.features import cores
from ..data.boxes import annotated_boxes
from ..data.classes import check_names, class_positions
from ..data.prompts import ShownObject
from ..text_embeddings import set_classes
from ..vocabulary import UNASKED, ClosedNames, NamedClasses, Vocabulary, alike, described_classes

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
    looking, done = Looking(model, data.class_names), 0
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(items), AHEAD):
            chosen = items[start : start + AHEAD]
            ready = list(threads.map(looking.ready, chosen))
            for group in looking.tested(list(zip(chosen, ready, strict=True))):
                yield from group
                done += len(group)
                progress(done, len(items))


class Looking:
    """A model and its test transforms, which are made once.

    Args:
        model: as of `outcomes`.
        class_names: of the data, for models that are told what regions show; None where regions have the model's own
            numbers.
    """

    def __init__(self, model: nn.Module, class_names: Sequence[str] | None = ()):
        init_default_scope(model.cfg.default_scope)
        self.model, self._given, pipeline = model, names_given_regions(model), model.cfg.vladapt.test_pipeline
        self._region_labels = _region_labels(model, class_names)
        self._transforms = Compose(_with_regions(pipeline) if self._given else pipeline)
        self._per_thread = local()

    def ready(self, item: Item) -> dict[str, Any]:
        """An image as the model takes it; in any thread."""
        if not hasattr(self._per_thread, "transforms"):  # some of mm's note in themselves what they do next
            self._per_thread.transforms = deepcopy(self._transforms)
        return self._per_thread.transforms(_sample(item, self._given, self._region_labels))

    def tested(self, pairs: list[tuple[Item, dict]]) -> Iterator[list[tuple[Item, Any]]]:
        """Items that are ready, each with the data sample that the model made of it, in order: runs of neighbours that
        went through the model at once."""
        return (_tested(self.model, group) for group in _of_one_shape(pairs))


def names_given_regions(model: nn.Module) -> bool:
    """Whether a model names regions that come with an image, and finds none itself."""
    return bool(getattr(model, "names_given_regions", False))


def shown_regions(model: nn.Module) -> bool:
    """Whether a model outlines regions that come with an image and with their classes, and finds none itself."""
    return names_given_regions(model) and bool(getattr(model, "keeps_names", False))


def takes_prompts(model: nn.Module) -> bool:
    """Whether a user may show it things on an image."""
    return bool(getattr(model, "takes_prompts", False))


def finds_itself(model: nn.Module) -> bool:
    """Whether a model that takes prompts finds things without any, so that prompts are examples."""
    return hasattr(type(model), "prompted")


def outlines_alone(model: nn.Module) -> bool:
    """Whether a model outlines what is shown on an image, and finds nothing else."""
    return shown_regions(model) and not finds_itself(model)


def check_shown(model: nn.Module, listed: Sequence[ShownObject]) -> None:
    """Raise the ConfigError of points for a model that takes boxes as examples."""
    if finds_itself(model) and (bare := next((shown for shown in listed if shown.box is None), None)):
        raise ConfigError(
            f"prompts: '{bare.name}' is shown by points, and this model takes boxes, as examples; give a box, or a SAM "
            "that outlines"
        )


def _region_labels(model: nn.Module, class_names: Sequence[str] | None) -> Sequence[int] | None:
    """Of each class of the data the model's number, where the model is told what regions show; None where it is not."""
    if not getattr(model, "keeps_names", False):
        return None
    if class_names is None:
        return range(sys.maxsize)
    names = known_names(model)
    return [names.index(name) if name in names else 0 for name in class_names]


def _with_regions(transforms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Transforms that read boxes too, as soon as there is an image, so that they are resized with it."""
    first, *others = transforms
    return [first, {"type": "LoadAnnotations", "with_bbox": True}, *others]


@torch.no_grad()
def _tested(model: nn.Module, group: list[tuple[Item, dict]]) -> list[tuple[Item, Any]]:
    """Data samples of a batch; not under inference mode, whose tensors a later training could not use.

    Raises:
        DataError: the model gives NaN or infinity for an image.
    """
    items, samples = zip(*group, strict=True)
    with _no_numbers(model) as unusable:
        found = model.test_step({key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")})
    if unusable or any(map(_not_finite, found)):
        if len(group) == 1:
            raise DataError.not_finite([items[0].id])
        return [pair for alone in group for pair in _tested(model, [alone])]  # to say of which
    return list(zip(items, found, strict=True))


@contextmanager
def _no_numbers(model: nn.Module) -> Iterator[list[str]]:
    """In a context, names of the parts of a model that gave NaN. Boxes of such scores are dropped, and the image would
    be said to show nothing."""
    unusable: list[str] = []

    def look(part: nn.Module, given: Any, made: Any) -> None:
        if any(tensor.isnan().any() for tensor in _tensors(made)):
            unusable.append(type(part).__name__)

    parts = [*model.children(), *getattr(model, "roi_head", nn.Module()).children()]
    handles = [part.register_forward_hook(look) for part in parts]
    try:
        yield unusable
    finally:
        for handle in handles:
            handle.remove()


def _tensors(made: Any) -> Iterator[torch.Tensor]:
    if isinstance(made, torch.Tensor):
        yield made
    elif isinstance(made, (tuple, list, Mapping)):
        for each in made.values() if isinstance(made, Mapping) else made:
            yield from _tensors(each)


def _not_finite(sample: Any) -> bool:
    """Whether a data sample of mmdet or mmseg holds scores that are no numbers."""
    scores = getattr(getattr(sample, "pred_instances", None), "scores", None)
    maps = getattr(getattr(sample, "seg_logits", None), "data", None)
    if scores is not None and not scores.isfinite().all():
        return True
    return maps is not None and bool((maps.isnan() | maps.isposinf()).any())  # classes may be ruled out by -inf


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


def _sample(item: Item, with_regions: bool, region_labels: Sequence[int] | None) -> dict[str, Any]:
    """What transforms of mmdet and mmseg start from; regions without what they show, unless the model is told."""
    boxes = annotated_boxes(item)
    regions = boxes.boxes if with_regions else ()
    labels = [0] * len(regions) if region_labels is None else [region_labels[label] for label in boxes.labels]
    return {
        "img_path": str(item.source),
        "decode": dict(item.decode),
        "img_id": item.id,
        "scale_factor": (1.0, 1.0),
        "item_id": item.id,
        "facts": boxes.facts or {},
        "instances": [
            {"bbox": list(box), "bbox_label": label, "ignore_flag": 0} for box, label in zip(regions, labels)
        ],
        "seg_fields": [],
        "seg_map_path": None,
        "reduce_zero_label": False,
    }


def known_names(model: nn.Module) -> tuple[str, ...]:
    """The classes that the model's numbers stand for."""
    asked = getattr(model, "asked_for", None)
    return tuple(asked or model.cfg.vladapt.classes)


def ask_for(model: nn.Module, classes: Any) -> tuple[str, ...]:
    """Give a model other class names, in place.

    Raises:
        CapabilityError: no part of it takes names.
    """
    vocabulary: Vocabulary = set_classes(model, classes)
    model.asked_for = vocabulary.names
    return vocabulary.names


def notes_on_asked(model: nn.Module) -> list[str]:
    """A sentence where a model that is asked by texts was used as it is, and no text was given."""
    plan, texts = model.cfg, not (isinstance(model, ClosedNames) or names_given_regions(model))
    as_it_is = plan.vladapt.get("source") and not plan.get("train_cfg")
    if not (texts and as_it_is and known_names(model) == (UNASKED,)) or getattr(model, "asked_for", None):
        return []
    return [f"the names of this model are texts, and without any it looked for '{UNASKED}': give --classes"]


def choose_names(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Ask a model with a closed head for some of its names alone, in place.

    Raises:
        ConfigError: a name that it does not know.
    """
    known = tuple(model.cfg.vladapt.classes)
    rows = {alike(name): row for row, name in enumerate(known)}
    if unknown := [name for name in names if alike(name) not in rows]:
        raise ConfigError(f"--classes: this model does not know '{unknown[0]}'; {did_you_mean(unknown[0], known)}")
    chosen = [rows[alike(name)] for name in names]
    model.choose_names(chosen)
    model.asked_for = tuple(known[row] for row in chosen)
    return model.asked_for


def names_with_background(model: nn.Module, classes: Any) -> Any:
    """Class names with the background that the model has learned, where they do not name it: else every pixel would be
    one of them."""
    learned = {getattr(module, "background_class", None) for module in model.modules()} & set(known_names(model))
    descriptions = described_classes(classes) if learned else {}
    missing = learned - set(descriptions)
    return {**{name: {} for name in missing}, **descriptions} if missing else classes


def as_in_data(model: nn.Module, class_names: Sequence[str]) -> np.ndarray:
    """(C,) of each of the model's classes its number in the data.

    Where the model was not asked for other names than it learned, and takes names, it is asked for the data's.

    Raises:
        ConfigError: the model's classes are others than the data's, with both lists.
    """
    names = known_names(model)
    if isinstance(model, ClosedNames) and set(class_names) < set(names):
        names = choose_names(model, class_names)
    if set(names) != set(class_names) and model_takes_names(model) and getattr(model, "asked_for", None) is None:
        names = ask_for(model, _described(model, class_names))
    if model_takes_names(model):
        check_names(None, class_names, names)
    else:
        check_names(names, class_names)
    return np.array(class_positions(names, class_names))


def _described(model: nn.Module, names: Sequence[str]) -> Mapping[str, Any] | Sequence[str]:
    """The names with what the training's vocabulary said of them, where it said anything."""
    texts = dict(model.cfg.vladapt.get("described") or {})
    return {name: dict(texts[name]) if name in texts else [] for name in names} if texts else list(names)


def model_takes_names(model: nn.Module) -> bool:
    """Whether a part of the model has texts as classes."""
    return any(isinstance(module, NamedClasses) for module in model.modules())


def refuse_fixed(model: nn.Module) -> None:
    """Raise the CapabilityError of a model whose classes cannot be changed."""
    if not model_takes_names(model):
        raise CapabilityError(
            f"--classes: this model takes no class names, its classes are {', '.join(known_names(model))}; train one "
            "with a text classifier (docs/open-vocab.md)"
        )
