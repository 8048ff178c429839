"""Views of an image in training: mirrored only where that is asked for, as captions name sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_pairs import ToyPairs

from vladapt.core.backbones.channels import ChannelPreprocess
from vladapt.core.backbones.preprocessing import EachPart
from vladapt.core.contracts.images import CropTransform
from vladapt.core.training.parts import Parts, TrainingTask
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import _identity
from vladapt.core.training.views import Views

BRIGHT_RIGHT = np.repeat(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)


def brighter_on_the_right(view):
    pixels = [view(BRIGHT_RIGHT, seed=seed) for seed in range(12)]
    return {bool(each[0, :, -1].mean() > each[0, :, 0].mean()) for each in pixels}


@pytest.mark.parametrize(("flip", "sides"), [(False, {True}), (True, {True, False})])
def test_a_training_mirrors_images_where_it_is_asked_to(small_clip, flip, sides):
    assert brighter_on_the_right(lambda image, seed: Views(small_clip).light((0.5, 1.0), flip)(image, seed)) == sides
    settings = TrainingSettings(crop_scale=(0.9, 1.0), flip=flip)
    views = Parts(small_clip, TrainingTask(ToyPairs(), {"clip": 1.0}), settings).samples().views
    assert brighter_on_the_right(lambda image, seed: views["light"](image, seed)) == sides


def test_by_default_nothing_is_mirrored_as_in_open_clip():
    from open_clip.transform import image_transform

    theirs = image_transform(32, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert not any("Flip" in type(step).__name__ for step in theirs.transforms)
    assert TrainingSettings().flip is False


def test_an_older_checkpoint_of_mirrored_images_is_resumed_with_mirrored_images_alone():
    assert "flip" not in _identity(TrainingSettings(flip=True)) and _identity(TrainingSettings())["flip"] is False


def test_transforms_that_cannot_be_asked_stay_as_they_are():
    plain = torch.nn.Identity()
    assert CropTransform.unflipped(plain) is plain and CropTransform.unflipped(EachPart(plain)) == EachPart(plain)


def test_what_stands_on_the_backbones_own_transform_can_be_asked(small_clip):
    own = small_clip.preprocess(train=True)
    assert CropTransform.unflipped(EachPart(own)).transform == CropTransform.unflipped(own) != own
    channels = CropTransform.unflipped(ChannelPreprocess(own, 4))
    assert channels.transform.flip is False and channels.spec != ChannelPreprocess(own, 4).spec
