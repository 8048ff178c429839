"""The classes of a config: names where it has texts, a number where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .grounded import is_grounded, with_class_names
from .walking import Node, nodes

COUNTS = ("num_classes", "num_things_classes")


def takes_names(model: Node) -> bool:
    """Whether a part of the model has texts as classes."""
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
    notes, replaced = [], set()
    given = {name: described[name] for name in names} if described else list(names)
    model.update(with_class_names(model))
    for node in nodes(model):
        if _has_texts(node):
            node["classes"] = given
            if templates is not None and not is_grounded(node):
                node["templates"] = templates
        for key in COUNTS:
            counted = isinstance(node.get(key), int) and not isinstance(node[key], bool)
            if counted and node[key] not in (len(names), 1):
                replaced.add(node[key])
                node[key] = len(names)
    if replaced:
        counts = ", ".join(map(str, sorted(replaced)))
        notes.append(f"The config counts {counts} classes; the model has the {len(names)} of the data.")
    return notes


def _has_texts(node: Node) -> bool:
    return is_grounded(node) or ("classes" in node and isinstance(node.get("backbone"), str))
