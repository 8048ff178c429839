"""Where a recipe's samples come from: a features file, or images and a backbone."""

from __future__ import annotations

from mmengine import Config

from ..contracts.domain import Domain
from ..runtime.progress import Reporter
from ..tasks.classification.feature_rows import PreparedFeatures, prepare_features
from ..tasks.classification.images import Prepared, prepare


def prepared_of(recipe: Config, reporter: Reporter, domain: Domain | None = None) -> Prepared | PreparedFeatures:
    """The data side of a recipe: a features file, or images and a backbone."""
    return prepare_features(recipe, reporter) if recipe.features else prepare(recipe, reporter, domain)
