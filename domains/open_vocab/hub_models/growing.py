"""A closed head that grows by name: rows of names that it knows are taken over bit for bit, others are new."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..vocabulary import alike
from .family import HEAD, Family


def grown(
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    family: Family,
    names_before: Sequence[str | None],
    names: Sequence[str],
    inside: str = "",
) -> dict[str, Tensor]:
    """The weights of a head with other names.

    Args:
        old: all weights of the model before.
        new: of a new model with a row per name, whose rows of names that were not there before are kept.
        family: of the new model.
        names_before: of the rows before; None for rows that stand for nothing.
        names: of the rows of the new model.
        inside: what stands before the names of the model's weights.

    Returns:
        The weights of the new model: rows by name, what follows the rows of classes (no object), and all else of `old`.
    """
    rows = [names_before.index(name) if name in names_before else _like(name, names_before) for name in names]
    copied = [place for place, row in enumerate(rows) if row is not None]
    taken = [row for row in rows if row is not None]
    state = dict(new)
    for name, value in old.items():
        if not any(re.fullmatch(re.escape(inside) + pattern, name) for pattern in family.head):
            state[name] = value
            continue
        tensor = new[name].clone()
        tensor[copied] = value[taken].to(tensor)
        tensor[len(names) :] = value[len(names_before) :].to(tensor)
        state[name] = tensor
    return state


def by_name(
    before: nn.Module, old: Mapping[str, Tensor], after: nn.Module, new: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The state of a model before a training, the rows of a closed head in the places that they have after it.

    Args:
        before, after: models of mm; others than those of transformers with a closed head are taken as they are.
        old, new: their states.
    """
    family = getattr(after, "family", None)
    if not isinstance(family, Family) or family.asked_by != HEAD:
        return old
    return grown(old, new, family, before.names, after.names, inside="model.")


def _like(name: str, names_before: Sequence[str | None]) -> int | None:
    spellings = [None if each is None else alike(each) for each in names_before]
    return spellings.index(alike(name)) if alike(name) in spellings else None
