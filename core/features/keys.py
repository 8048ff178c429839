"""What a stored feature is found by: everything that its value depends on, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePath
from typing import Any

from ..contracts.backbone import Backbone
from ..contracts.domain import DomainData
from ..errors import ConfigError
from .extract import AMP, check_tap

FORMAT = 1
PART_COUNTS = "numbers of parts"
"""The space of what no backbone changes: how many parts a sample has, one number per row."""


def space_of(backbone: Backbone, tap: str, dtype: str) -> str:
    """Canonical JSON of what all features of one folder share."""
    return canonical_json({"format": FORMAT, "backbone": backbone.fingerprint, "tap": tap, "dtype": dtype})


def folder_name(space: str) -> str:
    """The folder of a space."""
    return hashlib.sha256(space.encode()).hexdigest()[:32]


def image_key(space: str, content: str, transform: str, view: int | None = None, seed: int = 0) -> bytes:
    """Key of one image feature, 32 bytes.

    Args:
        space: of `space_of`.
        content: of `core.data.verify.content_key`: the image's bytes, which part of them, and how it is decoded.
        transform: of `transform_spec`.
        view: index of the augmented view, None for the image as it is (which no seed changes).
        seed: of the augmentation.
    """
    head, middle = _around_content(space, transform)
    seeded = "null" if view is None else f"[{view},{seed}]"
    key = head.copy()
    key.update(f'"{content}{middle}{seeded}]'.encode())  # canonical JSON of [space, content, transform, [view, seed]]
    return key.digest()


@lru_cache(maxsize=16)
def _around_content(space: str, transform: str) -> tuple[Any, str]:
    """What the keys of a space have in common: the digest of what stands before the content, and what follows it."""
    return hashlib.sha256(canonical_json([space])[:-1].encode() + b","), f'",{canonical_json(transform)},'


def part_key(key: bytes, part: int) -> bytes:
    """Key of one part of a sample, 32 bytes, from the `image_key` of the whole."""
    return hashlib.sha256(key + part.to_bytes(8, "big")).digest()


def part_count_key(content: str, transform: str, view: int | None = None, seed: int = 0) -> bytes:
    """Key of a sample's number of parts, 32 bytes, from the arguments of its `image_key`."""
    return hashlib.sha256("\n".join((PART_COUNTS, content, transform, str(view), str(seed))).encode()).digest()


def text_key(space: str, text: str) -> bytes:
    """Key of one text feature, 32 bytes."""
    return hashlib.sha256(canonical_json([space, "text", text]).encode()).digest()


def view_seed(seed: int, content: str, view: int) -> int:
    """The seed of one augmented view, 31 bits: a pure function of the run's seed, the image and the view."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{content}|{view}".encode()).digest()[:4], "big") >> 1


def transform_spec(transform) -> str:
    """Canonical JSON of what a transform does.

    Raises:
        ConfigError: it does not say.
    """
    spec = getattr(transform, "spec", None)
    if spec is None:
        raise ConfigError(
            f"transform {transform!r} has no attribute `spec`; give it a JSON-able dict that says exactly what it "
            "does, so that its features can be stored"
        )
    return canonical_json(spec)


def canonical_json(value: Any) -> str:
    """One text for equal values: keys sorted, no spaces; numpy values and paths as plain ones."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise ConfigError(f"{value!r} in a transform or a decode dict is not JSON-able; use numbers, texts, lists, dicts")


@dataclass(frozen=True)
class Request:
    """See `FeatureStore.get_or_compute` for the arguments.

    Column 0 of a result is the image as it is, column v + 1 its augmented view v.
    """

    data: DomainData
    backbone: Backbone
    transform: Callable
    view_transform: Callable | None
    tap: str
    views: int
    seed: int
    amp: str | None
    workers: int | None
    parts: bool = False

    def __post_init__(self):
        check_tap(self.backbone, self.tap)
        if self.amp not in AMP:
            raise ConfigError(f"--amp {self.amp}: give bf16 or fp16, or omit it for full precision")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers {self.workers}: give 0 or more, or omit it for one per CPU core")
        if self.views < 0 or (self.views and self.view_transform is None):
            raise ConfigError(f"views={self.views}: give 0 or more, with the view_transform that makes them")

    @property
    def columns(self) -> int:
        return 1 + self.views

    @cached_property
    def space(self) -> str:
        return space_of(self.backbone, self.tap, self.amp or "float32")

    @cached_property
    def specs(self) -> tuple[str, str]:
        """What the transform does, and what that of the views does."""
        return transform_spec(self.transform), transform_spec(self.view_transform) if self.views else ""

    def key(self, content: str, column: int) -> bytes:
        """The stored key of one cell of the result."""
        plain, augmented = self.specs
        if column == 0:
            return image_key(self.space, content, plain)
        return image_key(self.space, content, augmented, column - 1, self.seed)

    def part_count_key(self, content: str, column: int) -> bytes:
        """The stored key of how many parts one cell is the mean of."""
        plain, augmented = self.specs
        if column == 0:
            return part_count_key(content, plain)
        return part_count_key(content, augmented, column - 1, self.seed)

    def seed_of(self, content: str, column: int) -> int | None:
        """The augmentation's seed of one cell; None for the image as it is."""
        return None if column == 0 else view_seed(self.seed, content, column - 1)
