"""Images found for class names: taken where they fit the classes of a fit, refused in one line where they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vladapt.adapters.support_folder import support_folder_images
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import DataError

NAMES = tuple(f"class {i}" for i in range(5))
TEXT = TextClassifier(torch.eye(5, 16), class_names=NAMES)
SHOTS = FeatureSet(torch.ones(5, 16), torch.arange(5), NAMES)
FOLDER = FeatureSet(torch.ones(10, 16), torch.arange(10) % 5, NAMES)


def test_none_or_the_folder_itself():
    assert support_folder_images({}, SHOTS, TEXT) is None
    found = support_folder_images({"support_folder": FOLDER}, SHOTS, TEXT)
    assert torch.equal(found.features, FOLDER.features) and torch.equal(found.labels, FOLDER.labels)


def test_classes_without_names_are_taken_by_number():
    unnamed = replace(FOLDER, class_names=())
    assert len(support_folder_images({"support_folder": unnamed}, replace(SHOTS, class_names=()), TEXT)) == 10


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: replace(f, labels=None), "each image needs one label"),
        (lambda f: replace(f, labels=torch.ones(len(f), 5)), "each image needs one label"),
        (lambda f: replace(f, features=f.features[:, :4]), "4 wide, those of the shots 16"),
        (lambda f: replace(f, class_names=f.class_names[::-1]), "class 4, class 3, class 2 and 2 more"),
        (lambda f: replace(f, class_names=(), labels=f.labels + 1), "labels reach 5, there are 5 classes"),
        (lambda f: f.select([]), "each image needs one label"),
    ],
)
def test_a_folder_that_does_not_fit(change, message):
    with pytest.raises(DataError, match=message):
        support_folder_images({"support_folder": change(FOLDER)}, SHOTS, TEXT)
