"""From files of any depth to the pixels a backbone takes, and the training augmentation."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.domains.medical import Medical
from vladapt.domains.medical.augment import MedicalAugment

MEAN, STD, SIDE = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 16
BACKBONE = SimpleNamespace(
    image_size=SIDE, image_mean=MEAN, image_std=STD, preprocess=lambda train: Preprocess(SIDE, MEAN, STD, train=train)
)
PICTURE = (np.indices((SIDE, SIDE)).sum(axis=0) * 8.0 / 255).astype(np.float32)  # (16, 16), 0 to 240 / 255


def transform(train: bool):
    return Medical().transforms(BACKBONE, train, "classification")


def save(path, kind, write_dicom, write_nifti):
    """`PICTURE` as a file of some kind."""
    if kind == "png-8":
        Image.fromarray((PICTURE * 255).round().astype(np.uint8)).save(path / "a.png")
    elif kind == "png-16":
        Image.fromarray((PICTURE * 65535).round().astype(np.uint16)).save(path / "a.png")
    elif kind == "png-rgb":
        Image.fromarray(np.repeat((PICTURE * 255).round().astype(np.uint8)[..., None], 3, axis=2)).save(path / "a.png")
    elif kind == "tiff-float":
        Image.fromarray(PICTURE).save(path / "a.tif")
    elif kind == "dicom-12":
        write_dicom(path / "a.dcm", (PICTURE * 4000).round().astype(np.uint16))
    elif kind == "dicom-8":
        write_dicom(path / "a.dcm", (PICTURE * 255).round().astype(np.uint8))
    elif kind == "nifti":
        write_nifti(path / "a.nii", PICTURE.T[::-1, ::-1][..., None] * 4000)


OPTIONS = {"dicom-12": {"window": "2000,4000"}, "nifti": {"window": "2000,4000"}}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", ["png-8", "png-16", "png-rgb", "tiff-float", "dicom-8", "dicom-12", "nifti"])
def test_every_depth_reaches_the_backbone_in_one_scale(tmp_path, write_dicom, write_nifti, kind, train):
    save(tmp_path, kind, write_dicom, write_nifti)
    data = Medical().read_images([tmp_path], **OPTIONS.get(kind, {}))
    pixels = transform(train)(data.load(data.items[0]), seed=5)
    assert pixels.shape == (3, SIDE, SIDE) and pixels.dtype == torch.float32
    if train:  # the same augmentation of the float picture
        expected = transform(True)(np.repeat(PICTURE[..., None], 3, axis=2), seed=5)
    else:
        expected = (torch.from_numpy(PICTURE) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(pixels, expected, atol=0.06 if train else 0.02)


@pytest.fixture
def augment():
    return transform(True)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def test_augmentation_is_a_pure_function_of_the_seed(augment, image):
    first = augment(image, seed=1)
    assert not torch.equal(first, augment(image, seed=2))
    assert torch.equal(first, augment(image, seed=1))
    assert torch.equal(first, pickle.loads(pickle.dumps(augment))(image, seed=1))
    assert not torch.equal(augment(image), augment(image))


def test_without_a_seed_it_follows_torchs_generator(augment, image):
    torch.manual_seed(0)
    first = augment(image)
    torch.manual_seed(0)
    assert torch.equal(first, augment(image))


def test_threads_do_not_disturb_each_other(augment, image):
    alone = [augment(image, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: augment(image, seed=seed % 6), range(60)))
    assert all(torch.equal(found, alone[i % 6]) for i, found in enumerate(together))


def test_left_stays_left_where_it_tells_organs_apart_or_texts_name_it():
    """Bright on the left: without turns and crops worth the name, only a flip could bring that to the right."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:, : SIDE // 2] = 255

    def left_ones(modality, task="classification"):
        augment = Medical(modality).transforms(BACKBONE, True, task).with_crop((1.0, 1.0))
        views = [augment(image, seed=seed) for seed in range(40)]
        return sum(bool(view[..., : SIDE // 2].mean() > view[..., SIDE // 2 :].mean()) for view in views)

    assert left_ones("radiology") == 40
    assert 10 < left_ones("histology") < 30
    assert left_ones("general", "retrieval") == left_ones("general", "phrase-grounding") == 40


def test_at_least_four_fifths_of_an_image_are_safe():
    augment = Medical().transforms(BACKBONE, True, "classification")
    assert augment.safe_crop == augment.transform.scale == (0.8, 1.0) == augment.with_crop((0.1, 0.2)).safe_crop
    assert augment.with_randaugment() is None


@pytest.mark.parametrize("change", [{"scale": (0.3, 0.4)}, {"flip": 0.0}, {"rotate": 0.0}, {"jitter": 0.0}])
def test_every_option_changes_the_pixels_and_the_spec(image, change):
    usual, changed = MedicalAugment(SIDE, MEAN, STD), MedicalAugment(SIDE, MEAN, STD, **change)
    assert json.loads(json.dumps(usual.spec)) != changed.spec
    assert any(not torch.equal(usual(image, seed=s), changed(image, seed=s)) for s in range(8))


def test_with_all_turned_off_only_the_size_changes(image):
    still = MedicalAugment(SIDE, MEAN, STD, scale=(1.0, 1.0), flip=0.0, rotate=0.0, jitter=0.0)
    square = np.ascontiguousarray(image[:SIDE, :SIDE])
    expected = torch.from_numpy(square.transpose(2, 0, 1)) / 255
    shown = still(square, seed=0) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert (shown - expected).abs().mean() < 0.15 or torch.allclose(shown, expected, atol=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 200, 3), (7, 9), (7, 9, 1)])
def test_odd_shapes_come_out_square(augment, shape):
    assert augment(np.full(shape, 0.5, dtype=np.float32), seed=0).shape == (3, SIDE, SIDE)


@pytest.mark.thorough
def test_albumentations_asks_no_server():
    code = (
        "import socket, numpy as np\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        "from vladapt.domains.medical.augment import MedicalAugment\n"
        "MedicalAugment(8, (0.5,) * 3, (0.5,) * 3)(np.zeros((8, 8, 3), np.uint8), seed=0)\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "version" not in done.stderr
