"""A closed head that grows by name: rows of names that it knows are taken over bit for bit, others are new."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..vocabulary import alike
from .family import Family


def grown(
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    family: Family,
    names_before: Sequence[str | None],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """The weights of a head with other names.

    Args:
        old: all weights of the model before.
        new: of a new model with a row per name, whose rows of names that were not there before are kept.
        family: of the new model.
        names_before: of the rows before; None for rows that stand for nothing.

    Returns:
        The weights of the new model: rows by name, what follows the rows of classes (no object), and all else of `old`.
    """
    rows = [names_before.index(name) if name in names_before else _like(name, names_before) for name in names]
    copied = [place for place, row in enumerate(rows) if row is not None]
    taken = [row for row in rows if row is not None]
    state = dict(new)
    for name, value in old.items():
        if not any(re.fullmatch(pattern, name) for pattern in family.head):
            state[name] = value
            continue
        tensor = new[name].clone()
        tensor[copied] = value[taken].to(tensor)
        tensor[len(names) :] = value[len(names_before) :].to(tensor)
        state[name] = tensor
    return state


def _like(name: str, names_before: Sequence[str | None]) -> int | None:
    spellings = [None if each is None else alike(each) for each in names_before]
    return spellings.index(alike(name)) if alike(name) in spellings else None
