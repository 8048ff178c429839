"""How many classes seem to occur, on drawn predictions; on real ones: tests/adapters/transductive."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.metrics.presence import FEW, _expected, presence


def drawn(classes: int, images: int, present: int, seed: int, *, confusion: float = 0.3, sure: float = 6.0):
    """(Q, C) logits of images of `present` classes; some images look like a class that is not theirs."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(classes, generator=generator)[:present]
    labels = some[torch.randint(present, (images,), generator=generator)]
    wrong = torch.rand(images, generator=generator) < confusion
    seen = torch.where(wrong, torch.randint(classes, (images,), generator=generator), labels)
    noise = torch.randn(images, classes, generator=generator)
    return sure * (0.7 * F.one_hot(seen, classes) + 0.3 * F.one_hot(labels, classes)) + noise


def warned(classes: int, images: int, present, **how) -> float:
    told = [presence(drawn(classes, images, present(seed), seed, **how)).few for seed in range(40)]
    return sum(told) / len(told)


@pytest.mark.parametrize(
    "classes, images, sure",
    [(10, 64, 4.0), (10, 300, 12.0), (19, 64, 4.0), (19, 64, 12.0), (19, 300, 4.0), (100, 64, 12.0), (1000, 64, 12.0)],
)
def test_few_classes_are_noticed_and_all_are_no_reason_to_warn(classes, images, sure):
    """Also of more classes than images, and where the text is unsure."""
    assert warned(classes, images, lambda seed: 1 + seed % 4, sure=sure) >= 0.9
    assert warned(classes, images, lambda seed: classes, sure=sure) <= 0.1


@pytest.mark.parametrize("present", [1, 3, 5])
def test_the_number_of_classes(present):
    """Of images that are mostly taken for what they are."""
    told = presence(drawn(19, 300, present, seed=0, confusion=0.1))
    assert told.few and told.classes == 19 and abs(told.present - present) <= 1


def test_the_expected_spread_is_that_of_drawn_images():
    generator = torch.Generator().manual_seed(0)
    for classes, images in ((5, 4), (19, 64), (100, 64), (19, 949)):
        counts = torch.stack(
            [torch.randint(classes, (images,), generator=generator).bincount(minlength=classes) for _ in range(3000)]
        ).double()
        shares = counts / images
        entropy = -(shares * shares.clamp_min(1e-30).log()).sum(dim=1).mean()
        assert _expected(classes, images) == pytest.approx(math.exp(entropy), rel=0.01)
    assert _expected(19, 50 * 19) == pytest.approx(_expected(19, 50 * 19 + 1), rel=1e-3)  # where the series is cut
    assert _expected(1, 10) == 1.0


def test_predictions_that_do_not_differ_say_nothing():
    """The same for all images, over all classes; however many the images are."""
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).mul(0.1).expand(64, 12)
    told = presence(logits)
    assert told.spread > FEW and not told.few


@pytest.mark.parametrize("logits", [torch.zeros(1, 1), torch.zeros(1, 5), 1e4 * torch.eye(5)[:1], 1e4 * torch.eye(5)])
def test_edges(logits):
    told = presence(logits)
    assert math.isfinite(told.spread) and 1 <= told.present <= told.classes == logits.shape[1]


def test_one_image_of_one_class_is_what_one_image_can_show():
    assert not presence(1e4 * torch.eye(5)[:1]).few
    assert presence((1e4 * torch.eye(5)[:1]).expand(20, 5)).few


def test_copies_say_nothing_new_about_which_classes_occur():
    """Of so many images only some are looked at by the costly part."""
    logits = drawn(19, 500, 3, seed=0, confusion=0.1)
    assert presence(logits.repeat(40, 1)).present == presence(logits).present
