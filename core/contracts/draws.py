"""One few-shot draw, as a fit gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .domain import Item
from .features import FeatureSet
from .recipe import ALL

VAL_SHOTS = 4
"""Images per class that hyper-parameters are chosen on, at most: min(K, 4), as CoOp and its successors publish."""
MOST_SHOTS = 16
"""The largest K that they publish; with more, all of val chooses."""


class NoValidation(FeatureSet):
    """The val of a fit that is to choose nothing, not even on images held out of the support."""

    @classmethod
    def beside(cls, support: FeatureSet) -> NoValidation:
        """No rows, of the support's kind."""
        none = support.select([])
        return cls(**{field.name: getattr(none, field.name) for field in fields(FeatureSet)})


@dataclass
class Shots:
    """One few-shot draw as features, and the samples behind the support and val, where there are images. Without
    `searches` no setting is to be chosen, on val or on images held out of the support. `augment` makes the support's
    views, and pixels to train on; None is the domain's."""

    support: FeatureSet
    val: FeatureSet | None
    test: FeatureSet
    items: tuple[Item, ...] = ()
    val_items: tuple[Item, ...] = ()
    seed: int = 0
    searches: bool = True
    augment: Callable[..., Any] | None = None

    @property
    def val_of_fit(self) -> FeatureSet | None:
        """What a fit chooses settings on."""
        return self.val if self.searches else NoValidation.beside(self.support)


def val_images(shots: int | None, val_shots: int | str | None) -> int | None:
    """How many images per class settings are chosen on; None for all of val.

    Args:
        shots: images per class to learn from, None for all.
        val_shots: what the user says: a number, "all", or None for the published min(K, 4) up to 16 shots, and all
            beyond.
    """
    if val_shots is None:
        return None if shots is None or shots > MOST_SHOTS else min(shots, VAL_SHOTS)
    return None if val_shots == ALL else int(val_shots)
