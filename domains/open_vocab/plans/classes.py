"""The classes of a config: names where it has texts, a number where it has none."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..hub_models.family import TEXTS, family_class
from ..hub_models.source import is_hub_node
from .pipelines import Node, nodes

COUNTS = ("num_classes", "num_things_classes")
PROPOSALS = "rpn_head"
GROUNDED = {"GLIP": "vladapt.GLIP", "GroundingDINO": "vladapt.GroundingDINO", "GLIPStyle": "vladapt.GLIP"}


def takes_names(model: Node) -> bool:
    """Whether a part of the model has texts as classes."""
    if is_hub_node(model):
        return family_class((model.get("config") or {}).get("model_type"), "model.config").asked_by == TEXTS
    return any(_has_texts(node) for node in nodes(model))


def with_classes(
    model: Node,
    names: Sequence[str],
    described: Mapping[str, Any] | None,
    templates: str | Sequence[str] | None = None,
) -> list[str]:
    """Give a model the classes it is trained on, in place.

    Parts with texts get the names, with what is said of each where that is given. Elsewhere `num_classes` is replaced,
    wherever it stands, if it differs.

    Args:
        templates: what texts are made with, in place of the config's own.

    Returns:
        Notes on what was replaced.
    """
    if is_hub_node(model):
        by_texts = takes_names(model)
        given = {name: described.get(name, {}) for name in names} if described and by_texts else list(names)
        model["classes"] = given
        if templates is not None and by_texts:
            model["templates"] = templates
        return []
    notes = []
    given = {name: described.get(name, {}) for name in names} if described else list(names)
    model.update(with_class_names(model))
    for node in nodes(model):
        if _has_texts(node):
            node["classes"] = given
            if templates is not None and not is_grounded(node):
                node["templates"] = templates
    replaced = _count(model, len(names))
    if replaced:
        counts = ", ".join(map(str, sorted(replaced)))
        notes.append(f"The config counts {counts} classes; the model has the {len(names)} of the data.")
        notes += _weigh(model, replaced, len(names))
    return notes


def _count(model: Node, classes: int) -> set[int]:
    """Put the number of classes wherever a number of classes stands; returns those that stood there.

    A single class is one of the data only where the whole config has one: else it is a part that knows no classes.
    """
    counted = [(node, key, node[key]) for node in _of_classes(model) for key in COUNTS if _is_count(node.get(key))]
    counts = {count for _, _, count in counted}
    replaced = counts - {classes} if counts == {1} else counts - {classes, 1}
    for node, key, count in counted:
        if count in replaced:
            node[key] = classes
    return replaced


def _weigh(model: Node, replaced: set[int], classes: int) -> list[str]:
    """Losses' weights of classes, in place: one weight for all is had by the new classes too, others are left out."""
    notes = []
    for node in nodes(model):
        weights = node.get("class_weight")
        length = len(weights) if isinstance(weights, (list, tuple)) else 0
        old = next((count for count in (length, length - 1) if count in replaced), 0)  # the last may be of background
        if not old:
            continue
        if len(set(weights[:old])) == 1:
            node["class_weight"] = [weights[0]] * classes + list(weights[old:])
        else:
            del node["class_weight"]
            notes.append(f"Weights of the config's {old} classes in a loss (class_weight) were left out.")
    return notes


def _of_classes(model: Any, inside: str = "") -> Iterator[Node]:
    """Parts that tell classes apart, but for proposals and masks that know none."""
    if isinstance(model, dict):
        agnostic = model.get("num_classes") == 1 and (inside == PROPOSALS or model.get("class_agnostic"))
        if not agnostic:
            yield model
        for key, inner in model.items():
            yield from _of_classes(inner, key)
    elif isinstance(model, (list, tuple)):
        for inner in model:
            yield from _of_classes(inner, inside)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_texts(node: Node) -> bool:
    return is_grounded(node) or ("classes" in node and isinstance(node.get("backbone"), str))


def is_grounded(model: Mapping[str, Any]) -> bool:
    """Whether this is GLIP or Grounding DINO, mmdet's or ours."""
    return _kind(model) in GROUNDED


def with_class_names(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` of an mmdet config, so that it takes class names if it is a grounded one; else a copy."""
    changed = copy.deepcopy(dict(model))
    if is_grounded(changed):
        changed["type"] = GROUNDED[_kind(changed)]
    return changed


def _kind(model: Mapping[str, Any]) -> str:
    scope, _, name = str(model.get("type", "")).rpartition(".")
    return name if scope in ("", "mmdet", "vladapt") else ""
