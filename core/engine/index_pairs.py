"""`index --features FILE` of stored image-text pairs: what cannot be given beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..backbones.heads import towers_in
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.families import STORED
from ..contracts.recipe import Recipe
from ..errors import CapabilityError, ConfigError
from ..features.pair_files import StoredPairs
from .options import IndexOptions


def check_alone(recipe: Recipe, images: Sequence[str | Path], asked: IndexOptions, domain: Domain | None) -> None:
    """Raise the ConfigError of what an index of stored pairs does not take."""
    others = {
        f"{images[0]}" if images else "": bool(images),
        f"--domain {recipe.domain}": bool(recipe.domain or domain),
        "--fast-decode": asked.fast_decode,
        "--engine or --processes": asked.is_elsewhere,
    }
    for flag in (each for each, there in others.items() if there):
        raise ConfigError(
            f"--features {asked.features}: holds features of images and texts that are there; omit {flag}"
        )


def check_pair_encoder(backbone: Backbone, pairs: StoredPairs, path: str) -> None:
    """Raise the CapabilityError of a backbone that stands on other features than a file of pairs."""
    towers = towers_in(backbone)
    if towers.family != STORED:
        raise CapabilityError(
            f"--backbone {backbone.spec}: has towers of its own; omit it with --features {path}, or give a run that "
            "was fitted on stored features"
        )
    if towers.fingerprint != pairs.fingerprint:
        raise CapabilityError(
            f"--features {path}: of encoder {pairs.fingerprint[:12]}, not of that of '{backbone.spec}' "
            f"({towers.fingerprint[:12]}); give features of that encoder"
        )
