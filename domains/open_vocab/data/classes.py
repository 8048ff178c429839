"""Which classes a set has: chosen among its own, and compared with those that others name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from ....core.contracts import DomainData
from ....core.errors import ConfigError, did_you_mean
from ..vocabulary import alike
from .masks import choosable

MOST_NAMES = 20


def check_names(
    config_classes: Sequence[str] | None,
    annotation_classes: Sequence[str] | None,
    prompt_classes: Sequence[str] | None = None,
    *,
    exact: bool = False,
) -> None:
    """Refuse class names that differ: scored by names or numbers that mean something else, everything would be wrong.

    Order does not matter. "traffic_light" and "Traffic light" are one name, unless `exact`.

    Args:
        config_classes: of the config (`metainfo.classes`, `class_names=`).
        annotation_classes: of the data.
        prompt_classes: of the text classifier (`--classes`).
        exact: compare letter by letter, as mmdet's and mmseg's own data sets do.

    Raises:
        ConfigError: two of those given differ; shows both lists and what differs.
    """
    lists = {"config": config_classes, "annotation": annotation_classes, "prompt": prompt_classes}
    given = [(where, list(names)) for where, names in lists.items() if names is not None]
    for number, (where, names) in enumerate(given):
        for other, other_names in given[number + 1 :]:
            _compare(where, names, other, other_names, exact)


def class_positions(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where in `names` each wanted class is; one spelling counts for another where only case and "_" differ.

    Raises:
        ConfigError: a name that is not there, with both lists; or a name given twice.
    """
    exact, loose = _index(names, str), _index(names, alike)
    missing = [name for name in wanted if name not in exact and alike(name) not in loose]
    if missing:
        near = did_you_mean(missing[0], names)
        raise ConfigError(
            f"classes: the data have no '{missing[0]}', {near if near.endswith('?') else f'{near}.'} Asked for "
            f"({_listed(wanted)}), in the data ({_listed(names)}); write names as the data have them"
        )
    positions = [exact[name] if name in exact else loose[alike(name)] for name in wanted]
    if len(set(positions)) < len(positions):
        raise ConfigError(f"classes ({_listed(wanted)}): a class is named twice; remove one")
    return positions


def choose_classes(data: DomainData, wanted: Sequence[str]) -> DomainData:
    """The set with these classes alone, in this order, and named so; what else is annotated goes.

    Items that nothing is left of stay, as background. Pixels of other classes become ignored ones.

    Raises:
        ConfigError: as `class_positions`.
    """
    chosen = class_positions(wanted, data.class_names)
    if list(wanted) == list(data.class_names):
        return data
    new = {old: position for position, old in enumerate(chosen)}
    reader = data.load_mask
    return replace(
        data,
        items=[item if item.target is None else item.with_(target=item.target.restricted(new)) for item in data.items],
        class_names=tuple(wanted),
        frequency=None if data.frequency is None else tuple(data.frequency[old] for old in chosen),
        load_mask=None if reader is None else choosable(reader).choose(new),
    )


def _compare(where: str, names: list[str], other: str, other_names: list[str], exact: bool) -> None:
    key = str if exact else alike
    one, two = _index(names, key), _index(other_names, key)
    only = [name for name in names if key(name) not in two]
    only_other = [name for name in other_names if key(name) not in one]
    if not only and not only_other:
        return
    parts = [
        f"only in the {place}: {_with_nearest(missing, pool)}"
        for place, missing, pool in ((where, only, only_other), (other, only_other, only))
        if missing
    ]
    raise ConfigError(
        f"the {where} has {len(names)} classes ({_listed(names)}) and the {other} has {len(other_names)} "
        f"({_listed(other_names)}); {'; '.join(parts)}; write the same names in both"
    )


def _with_nearest(names: Sequence[str], pool: Sequence[str]) -> str:
    by_key = {alike(name): name for name in pool}
    shown = []
    for name in names[:MOST_NAMES]:
        near = get_close_matches(alike(name), by_key, n=1, cutoff=0.6)
        shown.append(f"'{name}'" + (f" ('{by_key[near[0]]}'?)" if near else ""))
    return ", ".join(shown) + _more(names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + _more(names)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""


def _index(names: Sequence[str], key) -> dict[str, int]:
    index: dict[str, int] = {}
    for position, name in enumerate(names):
        index.setdefault(key(name), position)
    return index
