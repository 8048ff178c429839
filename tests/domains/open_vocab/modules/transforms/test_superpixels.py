"""Superpixels as a step of a pipeline."""

import builtins

import numpy as np
import pytest

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from PIL import Image

from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.registry import TRANSFORMS


def superpixels(**options):
    return TRANSFORMS.build({"type": "vladapt.Superpixels", **options})


def halves():
    """(40, 60, 3): black on the left, white on the right, a little noise."""
    image = np.random.default_rng(0).integers(0, 12, (40, 60, 3)).astype(np.uint8)
    image[:, 30:] += 200
    return image


def segmented(**options):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    return superpixels(**options)({"img": halves()})["superpixels"]


def test_two_halves_are_two_superpixels():
    labels = segmented()
    assert labels.shape == (40, 60) and labels.dtype == np.int32
    assert len(np.unique(labels[:, :27])) == len(np.unique(labels[:, 33:])) == 1 and labels[0, 0] != labels[0, -1]


def test_every_option_changes_them():
    fine = {"scale": 5, "sigma": 0, "min_size": 1}
    changes = ({}, {"scale": 500}, {"sigma": 2}, {"min_size": 100})
    counts = [len(np.unique(segmented(**{**fine, **change}))) for change in changes]
    assert all(count < counts[0] for count in counts[1:]), counts


def test_later_steps_move_them_with_the_image():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from mmcv.transforms import Compose

    steps = [
        {"type": "mmseg.Resize", "scale": (30, 20), "keep_ratio": False},
        {"type": "mmseg.RandomFlip", "prob": 1.0},
        {"type": "mmseg.RandomCrop", "crop_size": (16, 16)},
    ]
    plain = superpixels()({"img": halves()})
    left = plain["superpixels"][0, 0]
    moved = Compose([TRANSFORMS.build(step) for step in steps])(plain)
    image, labels = moved["img"], moved["superpixels"]
    assert labels.shape == image.shape[:2] == (16, 16)
    assert np.mean((labels == left) == (image.mean(axis=2) < 100)) > 0.9  # the border may be a pixel off


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_a_map_made_before_is_read(tmp_path, kind):
    labels = np.arange(2400).reshape(40, 60) // 700
    path = tmp_path / f"map.{kind}"
    if kind == "npy":
        np.save(path, labels)
    else:
        Image.fromarray(labels.astype(np.uint16)).save(path)
    found = superpixels()({"img": halves(), "superpixel_path": str(path)})
    assert np.array_equal(found["superpixels"], labels) and found["seg_fields"] == ["superpixels"]


def test_maps_that_do_not_fit_are_named(tmp_path):
    np.save(tmp_path / "small.npy", np.zeros((2, 2)))
    (tmp_path / "broken.npy").write_bytes(b"no")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    for name, line in (
        ("small.npy", r"superpixels of shape \(2, 2\) for an image of \(40, 60\)"),
        ("broken.npy", "superpixels cannot be read"),
        ("pickled.npy", "superpixels cannot be read"),
        ("missing.png", "superpixels cannot be read"),
    ):
        with pytest.raises(DataError, match=line):
            superpixels()({"img": halves(), "superpixel_path": tmp_path / name})


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ModuleNotFoundError("No module named 'skimage'", name="skimage")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CapabilityError, match=r"needs scikit-image.*vladapt\[open-vocab\]"):
        superpixels()({"img": halves()})


def test_bad_options_are_named():
    for options in ({"scale": 0}, {"sigma": -1}, {"min_size": 0}):
        (name, value), *_ = options.items()
        with pytest.raises(ConfigError, match=f"option {name}={value} is not usable"):
            superpixels(**options)
