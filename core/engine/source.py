"""Where a recipe's samples come from: a features file, or images and a backbone."""

from __future__ import annotations

from mmengine import Config

from ..contracts.domain import Domain
from .prepare import Prepared, prepare
from .prepare_features import PreparedFeatures, prepare_features
from .progress import Reporter


def prepared_of(recipe: Config, reporter: Reporter, domain: Domain | None = None) -> Prepared | PreparedFeatures:
    """The data side of a recipe: a features file, or images and a backbone."""
    return prepare_features(recipe, reporter) if recipe.features else prepare(recipe, reporter, domain)
