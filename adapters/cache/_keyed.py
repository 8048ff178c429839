"""Caches whose keys are of another backbone than the texts: `--resource keys=SPEC`.

A cache compares images with images, so a tower without texts will do for it (DINO's beside CLIP's in "Prompt, Generate,
then Cache: Cascade of Foundation Models makes Strong Few-shot Learners", Zhang et al., 2023, arXiv 2303.02151). Where a
method ties its cache to the texts (APE's channels, TIP-X's signatures) it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FeatureSet, FurtherBackbone
from ...core.errors import CapabilityError, DataError

Rows = Callable[[FeatureSet], FeatureSet]
"""Rows of support or val -> the same rows by the backbone of the keys, in whose space images are compared."""


@dataclass(eq=False, kw_only=True)
class Keyed(Adapter):
    """Base of caches that take a resource `keys`. A method has "keyed" in its `state` and its `later_state`."""

    optional: ClassVar[frozenset[str]] = frozenset({"keys"})

    @property
    def keyed(self) -> bool:
        """Whether the keys are of another backbone, which is then needed to predict."""
        return "keys" in self.at_predict

    @keyed.setter
    def keyed(self, value: bool) -> None:
        self.at_predict = frozenset({"features", "keys"}) if value else type(self).at_predict

    def take_keys(self, resources: Mapping[str, Any], support: FeatureSet) -> tuple[FeatureSet, Rows, list[str]]:
        """The support to learn from, how its rows are compared, and notes of the keys.

        With a backbone of the keys images are taken as they are, without augmented views, of which it has none.
        """
        other = resources.get("keys")
        self.keyed = other is not None
        if other is None:
            return support, as_they_are, []
        note = f"cache keys are features of backbone {other.spec}"
        return replace(support, views=None), key_rows(other), [note]

    def queries(self, batch: Batch) -> Tensor:
        """(B, D_k) unit rows that are compared with the keys.

        Raises:
            CapabilityError: the keys are of another backbone, whose features are not there.
        """
        if not self.keyed:
            return batch.unit
        if batch.keys is None:
            raise CapabilityError(
                f"adapter '{self.name}' has keys of another backbone; pass Batch(features=..., keys=...)"
            )
        return F.normalize(batch.keys.float(), dim=-1)


def as_they_are(features: FeatureSet) -> FeatureSet:
    """Where the keys are of the backbone of the texts."""
    return features


def key_rows(keys: FurtherBackbone) -> Rows:
    """The rows by the backbone of the keys.

    Raises:
        DataError: rows without ids, or that the backbone of the keys has no features of.
    """
    sets = [keys.support] if keys.val is None else [keys.support, keys.val]
    place = {name: (each, row) for each in sets for row, name in enumerate(each.ids or ())}

    def rows(features: FeatureSet) -> FeatureSet:
        lacking = [name for name in features.ids or ("rows without ids",) if name not in place]
        if lacking:
            raise DataError(
                f"--resource keys={keys.spec}: that backbone has no features of {lacking[0]}; compute them "
                "for the same images"
            )
        made = torch.stack([place[name][0].features[place[name][1]] for name in features.ids])
        return replace(features, features=made.to(features.features.device), views=None, parts=None, parts_mask=None)

    return rows


def batch_of(features: FeatureSet, rows: Rows) -> Batch:
    """Support or val as they are predicted."""
    return Batch(features=features.features, ids=features.ids, keys=rows(features).features)
