import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode

from vladapt.core.backbones.preprocessing import center_crop, crop, hflip, normalize_, resize, to_tensor

SIZES = [(31, 45), (45, 31), (24, 24), (90, 13)]


def image(height, width, mode="RGB"):
    array = np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def pixels(height, width):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height + width))


def equal(ours, theirs) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    return ours.mode == theirs.mode and np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("make", [image, pixels])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("to", [24, 7, 60, (20, 33), (24, 24)])
@pytest.mark.parametrize("size", SIZES)
def test_a_resize_is_torchvisions(make, interpolation, to, size):
    theirs = F.resize(make(*size), to, InterpolationMode(interpolation), antialias=True)
    assert equal(resize(make(*size), to, interpolation), theirs)


@pytest.mark.parametrize("mode", ["L", "CMYK", "F", "RGBA"])
def test_a_resize_of_another_mode_is_torchvisions(mode):
    theirs = F.resize(image(31, 45, mode), 24, InterpolationMode.LANCZOS, antialias=True)
    assert equal(resize(image(31, 45, mode), 24, "lanczos"), theirs)


@pytest.mark.parametrize("make", [image, pixels])
@pytest.mark.parametrize("size", SIZES)
def test_crops_and_flips_are_torchvisions(make, size):
    picture = make(*size)
    for to in ((13, 13), (12, 9), (11, 12), size):
        assert equal(center_crop(picture, to), F.center_crop(picture, list(to)))
    assert equal(crop(picture, 3, 2, 10, 11), F.crop(picture, 3, 2, 10, 11))
    assert equal(hflip(picture), F.hflip(picture))


def test_pixels_of_an_image_are_torchvisions():
    mean, std = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)
    ours, theirs = to_tensor(image(31, 45)), F.to_tensor(image(31, 45))
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous()
    assert torch.equal(normalize_(ours, mean, std), F.normalize(theirs, mean, std))
