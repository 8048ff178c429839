from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.domains.open_vocab.modules.segmentors.windows import place_windows, slide


def scorer(pixels):
    """Coarse maps that look beyond a cell: of a window as a whole, so that windows differ where they overlap."""
    coarse = torch.nn.functional.avg_pool2d(pixels, 4)
    return coarse * (1 + pixels.mean(dim=(1, 2, 3), keepdim=True))


def images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def mmseg_slide(image, crop, stride):
    from mmseg.models.segmentors import EncoderDecoder

    def decode(window, metas):
        return torch.nn.functional.interpolate(scorer(window), size=window.shape[-2:], mode="bilinear")

    config = SimpleNamespace(stride=(stride, stride), crop_size=(crop, crop))
    around = SimpleNamespace(test_cfg=config, out_channels=3, encode_decode=decode)
    return EncoderDecoder.slide_inference(around, image[None], [{}])[0]


@pytest.mark.parametrize("size", [(16, 16), (40, 56), (37, 50), (12, 40), (10, 10), (16, 33)])
@pytest.mark.parametrize(("crop", "stride"), [(16, 8), (16, 16), (20, 7)])
def test_equals_mmseg_window_by_window(size, crop, stride):
    (image,) = images(size)
    (ours,) = slide([image], scorer, crop=crop, stride=stride, per_batch=3)
    torch.testing.assert_close(ours, mmseg_slide(image, crop, stride), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("per_batch", [1, 2, 5, 100])
def test_images_of_any_size_share_batches_and_change_nothing(per_batch):
    several = images((40, 56), (16, 16), (37, 50), (40, 56), (12, 16))
    together = slide(several, scorer, crop=16, stride=8, per_batch=per_batch)
    for image, ours in zip(several, together):
        assert ours.shape == image.shape
        torch.testing.assert_close(ours, mmseg_slide(image, 16, 8), atol=1e-5, rtol=1e-5)


def test_batches_are_full():
    sizes = []
    slide(images((40, 40), (40, 40)), lambda x: (sizes.append(len(x)), scorer(x))[1], crop=16, stride=8, per_batch=10)
    assert sizes == [10, 10, 10, 2]  # 16 windows an image, of both images together


def test_every_pixel_is_seen_and_no_window_leaves_the_image():
    windows = place_windows(4, (37, 50), 16, 11)
    seen = torch.zeros(37, 50)
    for window in windows:
        assert window.image == 4
        part = window.of(seen)
        assert part.shape == (16, 16)
        part += 1
    assert seen.min() >= 1


def test_odd_windows_get_a_border_that_is_cut_off_again():
    (image,) = images((13, 16))
    shapes = []

    def score(pixels):
        shapes.append(tuple(pixels.shape[-2:]))
        return pixels

    (ours,) = slide([image], score, crop=16, stride=8, per_batch=1, multiple=8)
    assert shapes == [(16, 16)]
    torch.testing.assert_close(ours, image)
