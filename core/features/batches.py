"""Batches of rows with all that an adapter needs to predict, and the logits of many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.features import PRE_PROJECTION, PROJECTED, Batch, Detection, FeatureSet
from ..contracts.items import Decoded, Item
from ..errors import CapabilityError, DataError
from .extract import cores
from .patch_tokens import padded_parts

ROWS_AT_ONCE = 4096
WITH_PARTS_AT_ONCE = 256
WITH_PATCHES_AT_ONCE = 16
IMAGES_AT_ONCE = 16
OF_IMAGES = frozenset({"images", "pixels"})
PLAIN = frozenset({"features", "text_encoder"})
"""What needs nothing besides features and the attached backbone."""

Encode = Callable[[Sequence[Item], str], FeatureSet]


@dataclass
class Extras:
    """How to get the rest.

    Args:
        items: those whose rows will be asked for.
        load: decodes one.
        transform: decoded image -> pixels, as the features were made.
        encode: (items, tap) -> their features.
        further: the same of each further backbone.
        keys: the same of the backbone of a cache's keys, or None.
        boxes: image id -> what a detector found, or None.
        base: (features, class names) -> logits of the run that the method started from, or None.
        parts: items -> their features with parts, for features that came without.
        patches: items -> (n, T, h, w, D) tokens of their patches.
    """

    items: Sequence[Item]
    load: Callable[[Item], Decoded] | None = None
    transform: Callable[[Any], Tensor] | None = None
    encode: Encode | None = None
    further: Sequence[Encode] = ()
    keys: Encode | None = None
    boxes: Mapping[str, Sequence[Detection]] | None = None
    base: Callable[[FeatureSet, Sequence[str]], Tensor] | None = None
    parts: Callable[[Sequence[Item]], FeatureSet] | None = None
    patches: Callable[[Sequence[Item]], Tensor] | None = None

    def columns(self, adapter: Adapter, features: FeatureSet) -> dict[str, Any]:
        """What has one row per image and is made for all of them at once."""
        wanted = adapter.at_predict - PLAIN - OF_IMAGES - {"parts", "patch_tokens"}
        items = self._behind(features.ids) if wanted else []
        made: dict[str, Any] = {}
        if "pre_projection" in wanted:
            made["pre_projection"] = _rows(self.encode(items, PRE_PROJECTION), features)
        if "further_backbones" in wanted:
            made["further"] = tuple(_rows(encode(items, PROJECTED), features) for encode in self.further)
        if "keys" in wanted:
            if self.keys is None:
                raise _lacking(adapter, "has keys of another backbone; give --resource keys=SPEC")
            made["keys"] = _rows(self.keys(items, PROJECTED), features)
        if "boxes" in wanted:
            if self.boxes is None:
                raise _lacking(adapter, "needs boxes of these images too; give --resource boxes=FILE")
            made["boxes"] = [list(self.boxes.get(item.id, ())) for item in items]
        if "base" in wanted:
            if self.base is None:
                raise _lacking(adapter, "started from another run and needs it; give --resource base=RUN")
            made["base"] = self.base(features, adapter.class_names_)
        return made

    def of_parts(self, adapter: Adapter, features: FeatureSet, rows: range) -> dict[str, Any]:
        """The parts of some rows: those that the features have, or else fetched now, so that no more are held."""
        if "parts" not in adapter.at_predict and features.part_views is None:
            return {}
        some = features.select(list(rows))
        if not some.has_parts and self.parts is not None:
            some = _same_rows(self.parts(self._behind(some.ids)), some).to(features.features.device)
        elif not some.has_parts or some.stored_bags is not None:
            adapter.check_parts(some)
        some = some.with_parts()
        if some.stored_bags is not None:
            return {"stored_bags": some.stored_bags}
        return {"parts": some.parts, "parts_mask": some.parts_mask, "part_views": features.part_views}

    def of_patches(self, adapter: Adapter, features: FeatureSet, rows: range) -> dict[str, Any]:
        """The patch tokens of some rows, fetched now, so that no more are held; of parts in the order that the features
        have them in."""
        if "patch_tokens" not in adapter.at_predict:
            return {}
        if self.patches is None:
            raise _lacking(adapter, "needs the patch tokens of the images, which are not there; give images")
        some = features.select(list(rows))
        tokens = self.patches(self._behind(some.ids)).to(features.features.device)  # (n, T, h, w, D)
        if some.parts is not None:
            tokens = padded_parts(tokens, some.parts.shape[1])
        if some.parts_order is not None:
            tokens = tokens.gather(1, some.parts_order[..., None, None, None].expand_as(tokens))
        return {"patch_tokens": tokens}

    def of_images(self, adapter: Adapter, features: FeatureSet, rows: range) -> dict[str, Any]:
        """The decoded images of some rows, and what is made of them."""
        if not adapter.at_predict & OF_IMAGES:
            return {}
        if self.load is None:
            raise _lacking(adapter, "needs the images themselves, which are not there; give images")
        items = self._behind(features.ids[rows.start : rows.stop])
        with ThreadPoolExecutor(cores()) as threads:
            decoded = list(threads.map(self.load, items))
        made: dict[str, Any] = {"transform": self.transform}
        if "images" in adapter.at_predict:
            made["images"] = decoded
        if "pixels" in adapter.at_predict:
            made["pixels"] = torch.stack([self.transform(image) for image in decoded]).to(features.features.device)
        return made

    def _behind(self, ids: Sequence[str]) -> list[Item]:
        return [self._by_id[i] for i in ids]

    @cached_property
    def _by_id(self) -> dict[str, Item]:
        return {item.id: item for item in self.items}


def batches(adapter: Adapter, features: FeatureSet, extras: Extras) -> Iterator[Batch]:
    """All rows, some at a time, each batch with what the adapter names in `at_predict`.

    Raises:
        CapabilityError, DataError: that cannot be obtained.
    """
    columns = extras.columns(adapter, features)
    with_parts = "parts" in adapter.at_predict or features.part_views is not None
    size = WITH_PARTS_AT_ONCE if with_parts else ROWS_AT_ONCE
    size = WITH_PATCHES_AT_ONCE if "patch_tokens" in adapter.at_predict else size
    size = IMAGES_AT_ONCE if adapter.at_predict & OF_IMAGES else size
    for start in range(0, len(features), size):
        rows = range(start, min(start + size, len(features)))
        yield Batch(
            features=features.features[rows.start : rows.stop],
            ids=None if features.ids is None else features.ids[rows.start : rows.stop],
            **{name: _part(value, rows) for name, value in columns.items()},
            **extras.of_parts(adapter, features, rows),
            **extras.of_patches(adapter, features, rows),
            **extras.of_images(adapter, features, rows),
        )


@torch.no_grad()
def logits_of(
    adapter: Adapter,
    batched: Iterable[Batch],
    total: int,
    progress: Callable[[int, int], None] | None = None,
    stream: bool = False,
) -> Tensor:
    """(N, C) logits of all batches.

    Not under inference mode: a method may tune something on each image.

    Args:
        total: N.
        progress: called as progress(done, total).
        stream: the adapter learns from each image before it answers the next.
    """
    ask = adapter.stream if stream else adapter.logits
    parts, done = [], 0
    for batch in batched:
        parts.append(ask(batch))
        done += len(parts[-1])
        if progress is not None:
            progress(done, total)
    return torch.cat(parts)


def _lacking(adapter: Adapter, what: str) -> CapabilityError:
    return CapabilityError(f"adapter '{adapter.name}' {what}")


def _rows(encoded: FeatureSet, features: FeatureSet) -> Tensor:
    return _same_rows(encoded, features).features.to(features.features.device)


def _same_rows(encoded: FeatureSet, features: FeatureSet) -> FeatureSet:
    if encoded.ids != features.ids:
        raise DataError(
            f"{len(features) - len(encoded)} of {len(features)} images have only one of the two kinds of features; "
            "extract them again"
        )
    return encoded


def _part(value: Any, rows: range) -> Any:
    if isinstance(value, tuple):
        return tuple(_part(inner, rows) for inner in value)
    return value[rows.start : rows.stop]
