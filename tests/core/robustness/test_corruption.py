"""Corrupted images: as the published ones are, and the same whoever makes them."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from parity_checks import robustness

from vladapt.core.contracts.corruption import SEVERITIES, Corruption
from vladapt.core.robustness.corruption import Corrupted
from vladapt.core.robustness.imagenet_c import (
    ALEXNET,
    FURTHER,
    NOT_RISING,
    PUBLISHED,
    corruptions,
    mean_corruption_error,
)

pytest.importorskip("imagecorruptions")
KINDS = {kind.name: kind for kind in corruptions(further=True)}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:56] / 50
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(9 * y), np.sin(5 * x * y)], axis=2)
    return (127 + 100 * waves).astype(np.uint8)


def random_draws(_: int, picture: np.ndarray) -> list[bytes]:
    return [kind.change(picture, 3, 11).tobytes() for kind in KINDS.values()]


def test_a_corruption_is_a_function_of_image_severity_and_seed_also_in_threads(picture):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first = random_draws(0, picture)
    assert (np.random.get_state()[1] == before).all()
    with ThreadPoolExecutor(3) as threads:
        assert all(drawn == first for drawn in threads.map(partial(random_draws, picture=picture), range(3)))
    drawn_anew = {
        name for name, kind in KINDS.items() if (kind.change(picture, 3, 12) != kind.change(picture, 3, 11)).any()
    }
    assert drawn_anew >= {"gaussian noise", "impulse noise", "glass blur", "snow", "elastic transform"}
    assert not drawn_anew & {"contrast", "pixelate", "jpeg compression", "defocus blur", "zoom blur"}


def test_severities_rise_where_they_are_said_to(picture):
    assert {name.replace(" ", "_") for name in KINDS} == {*PUBLISHED, *FURTHER} >= NOT_RISING
    for kind in (KINDS["gaussian noise"], KINDS["contrast"], KINDS["pixelate"]):
        changes = [np.abs(kind.change(picture, s, 0).astype(float) - picture).mean() for s in SEVERITIES]
        assert kind.rises and changes == sorted(changes)


def test_mce_is_relative_to_alexnet():
    errors = {name.replace("_", " "): error for name, error in ALEXNET.items()}
    assert mean_corruption_error(errors) == pytest.approx(1)
    assert mean_corruption_error({**errors, "fog": 0.0}) == pytest.approx(14 / 15)


class Seen:
    """A transform that keeps what it is given."""

    spec: ClassVar = {"own": 1}

    def __call__(self, decoded, seed=None):
        self.image = decoded
        return decoded


def test_images_are_corrupted_at_the_size_of_the_tower_before_its_transform(picture):
    shade = Corruption("shade", lambda image, severity, seed: image // (1 + severity))
    seen = Seen()
    Corrupted(seen, (32, 40), shade, 4)(picture)
    assert seen.image.shape == (32, 37, 3) and seen.image.dtype == np.uint8
    resized = Corrupted(Seen(), 32)(picture)
    assert (seen.image == resized // 5).all()
    assert (Corrupted(Seen(), 48)(picture) == picture).all()
    floats = Corrupted(Seen(), 48, shade, 1)((picture / 255).astype(np.float32))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, picture // 2 / 255, atol=1e-6)
    clip = Corrupted(Seen(), 32, shade, 4)(np.stack([picture, picture[::-1]]))
    assert clip.shape == (2, 32, 37, 3) and (clip[0] == seen.image).all()


def test_noise_depends_on_the_image_the_kind_the_severity_and_the_seed_alone(picture):
    seeds = Corruption("seeds", lambda image, severity, seed: np.full_like(image, seed % 251))
    other = Corruption("others", seeds.change)

    def drawn(image, kind=seeds, severity=1, seed=0):
        return int(Corrupted(Seen(), 48, kind, severity, seed)(image)[0, 0, 0])

    once = drawn(picture)
    assert drawn(picture.copy()) == once
    others = [drawn(picture[::-1]), drawn(picture, other), drawn(picture, severity=2), drawn(picture, seed=1)]
    assert once not in others
    specs = [Corrupted(Seen(), 48, *how).spec for how in ((), (seeds, 1), (seeds, 2), (other, 1), (seeds, 1, 1))]
    assert all(specs.count(spec) == 1 for spec in specs) and specs[0]["then"] == {"own": 1}


def test_images_agree_with_the_released_code(agrees):
    agrees(robustness.corrupted_images)
