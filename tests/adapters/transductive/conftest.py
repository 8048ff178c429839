"""Real CLIP features of 1,005 images of 19 classes."""

from __future__ import annotations

import pytest
from unlabelled_images import make_problem, make_unlabelled  # noqa: F401

from vladapt.core.features.files import load_features


@pytest.fixture(scope="session")
def whurs19(data_dir):
    """Factory: the features and the text classifier of a model."""

    def load(model):
        path = data_dir / "features" / "whurs19_clip" / f"whurs19_{model}.npz"
        if not path.is_file():
            pytest.skip("the whurs19 features are not there")
        file = load_features(path)
        return file.features, file.classifier

    return load
