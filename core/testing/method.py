"""A method to check: how it is built, fitted, saved and loaded, on a small world or in another process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.adapter_file import read_adapter_file
from ..contracts.backbone import Backbone
from ..contracts.options import chosen, options_of
from ..contracts.resources import OF_TOWERS
from ..errors import VladaptError
from ..training.samples import seed_everything
from .contract import ContractError, OwnFolder, attempted, given
from .processes import class_at
from .towers import plain_towers, small_clip, small_clip_with, towers_of
from .world import VIEWS, World, WorldFit, world_of

QUICK = {"epochs": 2, "views": VIEWS, "iterations": 20, "steps": 20, "select": "last", "n_views": 4, "n_crops": 3}
"""Options that make a method fast, where it has them."""


class Method(OwnFolder):
    """A class to check, and what its rules share: a fit on three classes of three images, and its file.

    Args:
        cls, options, counts, backbone, shown: as for `adapter_checks`.
    """

    def __init__(
        self,
        cls: type[Adapter],
        options: Mapping[str, Any] | None = None,
        counts: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
        backbone: Backbone | None = None,
        shown: Collection[str] = (),
    ):
        self.cls, self.counts, self.shown = cls, counts or {}, frozenset(shown)
        self.options = {**_quick(cls), **(options or {})}
        self._backbone = backbone

    @property
    def title(self) -> str:
        return f"adapter '{self.cls.name or self.cls.__name__}'"

    @cached_property
    def backbone(self) -> Backbone:
        if self._backbone is None and self.claims.answers_by:
            return small_clip_with(self.claims.answers_by)
        return self._backbone or (
            small_clip() if self.needs_towers or self.claims.optional & OF_TOWERS else plain_towers()
        )

    @cached_property
    def claims(self) -> Adapter | type[Adapter]:
        """What says what it needs and can: one that is not fitted, since options may change it; else the class."""
        try:
            return self.build()
        except Exception:
            return self.cls

    @property
    def needs_towers(self) -> bool:
        """Whether features and plain matrices will not do."""
        needs = self.claims.needs | self.claims.at_predict
        of_towers = needs & (OF_TOWERS | {"pre_projection", "patch_tokens"})
        return bool(of_towers or self.claims.backbone_needs or self.claims.answers_by)

    @property
    def world(self) -> World:
        return world_of(self.backbone)

    def build(self, **options: Any) -> Adapter:
        return self.cls(**{**self.options, **options})

    def fit(self, world: World | None = None, **how: Any) -> WorldFit:
        """A new adapter, fitted."""
        return (world or self.world).fit(self.build(**how.pop("options", {})), **how)

    @property
    def fitted(self) -> WorldFit:
        """The fit that the rules share.

        Raises:
            ContractError: it cannot be fitted.
        """
        return given(self._fitted)

    @cached_property
    def logits(self) -> Tensor:
        """(N, C) of the shared fit on the test images."""
        return self.world.logits(self.fitted.adapter)

    @cached_property
    def file(self) -> Path:
        """The shared fit, saved."""
        return self.fitted.adapter.save(self.folder / "adapter.safetensors")

    def loaded(self, file: Path | None = None) -> Adapter:
        """A new adapter from a file, by default that of the shared fit; with the backbone where it runs it."""
        runs = self.claims.at_predict & OF_TOWERS or "pixels" in self.claims.needs
        return reloaded(self.cls, file or self.file, self.backbone if runs else None)

    @cached_property
    def _fitted(self) -> WorldFit | ContractError:
        seed_everything(0)
        return attempted(f"{self.title}: cannot be fitted on three classes of three images", self.fit)


def _quick(cls: type[Adapter]) -> dict[str, Any]:
    usable = {}
    for name in QUICK.keys() & {each.name for each in options_of(cls)}:
        try:
            usable |= chosen(cls, {name: QUICK[name]}, cls.name)
        except VladaptError:
            continue
    return usable


def reloaded(cls: type[Adapter], path: Path, backbone: Backbone | None = None) -> Adapter:
    """A new adapter of a class with what a file holds."""
    header, tensors = read_adapter_file(path)
    adapter = cls(**header["options"]).restore(header, tensors, path)
    return adapter if backbone is None else adapter.attach(backbone)


def logits_elsewhere(job: Mapping[str, Any], rank: int, count: int) -> dict[str, Tensor]:
    """What a saved fit gives on the test images: a job of another process (`processes.Workers.run`).

    Args:
        job: "place", "name" of the class; "file" of the fit; "backbone", its spec.
    """
    cls, backbone = class_at(job["place"]), towers_of(job["backbone"])
    cls.name = job["name"]
    return {"logits": world_of(backbone).logits(reloaded(cls, Path(job["file"]), backbone)).contiguous()}
