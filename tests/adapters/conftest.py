"""Small seeded problems that adapters learn on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet, TextClassifier

sys.path.insert(0, str(Path(__file__).parent))


@dataclass(frozen=True)
class Task:
    """Support, val and test features around class centres, and text near them."""

    support: FeatureSet
    val: FeatureSet
    test: FeatureSet
    text: TextClassifier

    def accuracy(self, adapter) -> float:
        return float((adapter.logits(self.test).argmax(dim=-1) == self.test.labels).double().mean())


@pytest.fixture(scope="session")
def make_task():
    """Factory: `shots` is a number, or one a class; `views` adds that many noisy views to support images."""

    def make(classes=5, shots=4, dim=16, seed=0, views=0, noise=0.8, text_noise=1.2, norm=3.0) -> Task:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, dim, generator=generator)

        def drawn(counts, views=0) -> FeatureSet:
            labels = torch.repeat_interleave(torch.arange(classes), torch.as_tensor(counts).expand(classes))
            features = norm * (centres[labels] + noise * torch.randn(len(labels), dim, generator=generator))
            augmented = None
            if views:
                augmented = features[:, None] + norm * torch.randn(len(labels), views, dim, generator=generator)
            return FeatureSet(features, labels, tuple(f"class {i}" for i in range(classes)), views=augmented)

        support, val, test = drawn(shots, views), drawn(6), drawn(8)
        text = centres + text_noise * torch.randn(classes, dim, generator=generator)
        return Task(support, val, test, TextClassifier(F.normalize(text, dim=-1), class_names=support.class_names))

    return make


@pytest.fixture(scope="session")
def make_multilabel_task():
    """Factory: images are sums of the centres of their labels; a share of labels is unknown (NaN)."""

    def make(classes=5, images=40, dim=24, seed=0, unknown=0.1, negative=True) -> Task:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, dim, generator=generator)

        def drawn(count) -> FeatureSet:
            present = (torch.rand(count, classes, generator=generator) < 0.35).float()
            features = present @ centres + 0.8 * torch.randn(count, dim, generator=generator)
            hidden = torch.rand(count, classes, generator=generator) < unknown
            return FeatureSet(features, present.masked_fill(hidden, torch.nan), tuple("abcdefgh"[:classes]))

        text = centres + 1.5 * torch.randn(classes, dim, generator=generator)
        against = torch.randn(classes, dim, generator=generator) if negative else None
        classifier = TextClassifier(
            text, class_names=tuple("abcdefgh"[:classes]), negative=None if against is None else F.normalize(against)
        )
        return Task(drawn(images), drawn(30), drawn(30), classifier)

    return make


@pytest.fixture(scope="module")
def few_published_templates():
    """Each fit of prompt-src encodes three of them per class in place of sixty."""
    from vladapt.adapters.prompt import prompt_src

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_src, "PUBLISHED_TEMPLATES", 3)
        yield
