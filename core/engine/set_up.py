"""A backbone is fetched once and tried, so that all later commands have it, without a network too."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..backbones.hub import NON_COMMERCIAL
from ..backbones.load import announce_terms, announced, load_backbone
from ..backbones.specs import find_published
from ..contracts.backbone import Backbone
from ..runtime.progress import Reporter

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 40), "blue": (30, 60, 220)}
"""Of the drawn pictures that a backbone is tried on."""


@dataclass(frozen=True)
class SetUp:
    """A backbone that lies here and works.

    Args:
        fetched: whether it was not here before; None where that is not known.
        licence: of its weights.
        commercial: "no" where the licence forbids commercial use; else what is left to be read.
        width, image_size: of its features, and of the images that it takes.
        colours_named: how many of three drawn colours its words name rightly; None without a text tower.
        seconds: that it took.
    """

    backbone: str
    fetched: bool | None
    licence: str
    commercial: str
    width: int
    image_size: Any
    colours_named: int | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def set_up(spec: str, device: str = "auto", reporter: Reporter | None = None) -> SetUp:
    """Fetch a backbone where it is not here yet, and encode drawn pictures and their words.

    Args:
        spec: as `--backbone` takes it.

    Raises:
        DataError: it cannot be had, or its weights are damaged. ConfigError: there is no such backbone.
    """
    started, reporter, entry = time.monotonic(), reporter or Reporter(quiet=True), find_published(spec)
    here = None if entry is None else entry.is_cached()
    if entry is not None and not here:
        reporter.info(f"Fetching {spec}: {entry.parameters:g} million parameters, from {entry.url or entry.id}")
    announce_terms(spec, reporter.info)
    backbone = announced(load_backbone(spec, device), reporter.info)
    named = _tried(backbone)
    forbidden = bool(NON_COMMERCIAL.search(backbone.licence))
    return SetUp(
        backbone=spec,
        fetched=None if here is None else not here,
        licence=backbone.licence,
        commercial="no" if forbidden else "not forbidden by the name of the licence; read it",
        width=backbone.embed_dim,
        image_size=backbone.image_size,
        colours_named=named,
        seconds=round(time.monotonic() - started, 1),
    )


def _tried(backbone: Backbone) -> int | None:
    """How many of the drawn colours its words name rightly; None without words."""
    look = backbone.preprocess(train=False)
    pictures = [np.full((64, 64, 3), colour, dtype=np.uint8) for colour in COLOURS.values()]
    with torch.inference_mode():
        images = backbone.encode_image(torch.stack([look(picture) for picture in pictures]).to(backbone.device))
        if not backbone.has_text:
            return None
        texts = backbone.encode_text([f"a photo of the colour {name}" for name in COLOURS])
        return int((images.float() @ texts.float().T).argmax(dim=1).eq(torch.arange(3, device=images.device)).sum())
