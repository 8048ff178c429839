"""What one call asks of a tower: all that is the same for its images, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..contracts.backbone import Backbone
from ..contracts.domain import DomainData
from ..contracts.errors import ConfigError
from ..contracts.features import PRE_PROJECTION, PROJECTED
from .extract import AMP
from .keys import image_key, part_count_key, space_of, transform_spec, view_seed


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
        if self.tap not in (PROJECTED, PRE_PROJECTION):
            raise ConfigError(f"tap '{self.tap}': there are {PROJECTED} and {PRE_PROJECTION}")
        if self.tap == PRE_PROJECTION:
            self.backbone.need("hidden")
        if self.amp not in AMP:
            raise ConfigError(f"--amp {self.amp}: there are bf16 and fp16 (none: full precision)")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers {self.workers}: give 0 or more, or leave it out for one a CPU core")
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
