"""Fixtures: a few noisy images of named things, for methods that encode prompts through a small text tower."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError
from vladapt.core.prompts.classifier import build_classifier

NAMES = ("sea", "polka_dotted", "X-ray", "Boeing 737-800")


@pytest.fixture(scope="session")
def make_support():
    """make_support(backbone, per_class=5, names=NAMES, views=0, seed=0)."""

    def make(backbone, per_class=5, names=NAMES, views=0, seed=0) -> FeatureSet:
        """Noisy images around what the tower says of "a blurry <name> drawing", not normalised."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            centres = backbone.encode_text([f"a blurry {n.replace('_', ' ')} drawing" for n in names])
        labels = torch.arange(len(names)).repeat_interleave(per_class)

        def noisy(*shape):
            return torch.randn(*shape, centres.shape[1], generator=generator) * 0.1

        features = 3 * (centres[labels] + noisy(len(labels)))
        extra = 2 * (centres[labels][:, None] + noisy(len(labels), views)) if views else None
        return FeatureSet(features, labels, names, views=extra, backbone=backbone.fingerprint)

    return make


@pytest.fixture(scope="session")
def classifier(small_clip) -> TextClassifier:
    return build_classifier(small_clip, NAMES, ["a photo of a {}."])


@pytest.fixture(scope="session")
def support(make_support, small_clip) -> FeatureSet:
    return make_support(small_clip)


@pytest.fixture(scope="session")
def several_labels(support) -> FeatureSet:
    """The same images with an indicator a label, some of them unknown."""
    labels = F.one_hot(support.labels, 4).float()
    labels[::3, 0] = float("nan")
    return FeatureSet(support.features, labels, NAMES)


@pytest.fixture(scope="session")
def embedded_task():
    """(backbone, support, classifier) of the embedded backbone, whose text tower is no CLIP and whose logit scale is
    430; what its text says of the images is wrong, so that there is something to learn."""
    from vladapt.core.backbones.load import load_backbone

    names = ("sea", "polka_dotted", "annual crop land")
    try:
        backbone = load_backbone("embedded", device="cpu")
        classifier = build_classifier(backbone, names, ["a photo of a {}."])
    except CapabilityError as error:
        pytest.skip(str(error))
    centres = F.normalize(torch.randn(3, backbone.embed_dim, generator=torch.Generator().manual_seed(1)), dim=-1)
    centres = F.normalize(classifier.weights[[1, 2, 0]] + 0.5 * centres, dim=-1)
    labels = torch.arange(3).repeat_interleave(6)
    noise = torch.randn(18, backbone.embed_dim, generator=torch.Generator().manual_seed(2))
    return (
        backbone,
        FeatureSet(centres[labels] + 0.01 * noise, labels, names, backbone=backbone.fingerprint),
        classifier,
    )
