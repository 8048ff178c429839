"""Corruptions of the domains' own: functions of image, severity and seed, the stronger the severity."""

import numpy as np
import pytest

from vladapt import load_domain
from vladapt.core.contracts.corruption import SEVERITIES
from vladapt.core.data import Drawing
from vladapt.core.registry import catalogue

OWN = {
    f"{name}: {kind.name}": kind
    for name, entry in catalogue.domains().items()
    if entry.entry_point is None
    for kind in load_domain(name).corruptions
}


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """(8, 48, 50, 3): a bright block that moves over a pattern."""
    y, x = np.mgrid[0:48, 0:50]
    ground = (90 + 60 * np.sin(x / 3) * np.cos(y / 4)).astype(np.uint8)
    frames = np.repeat(np.repeat(ground[None, :, :, None], 8, axis=0), 3, axis=3)
    for number, frame in enumerate(frames):
        frame[10:20, 4 * number : 4 * number + 10] = (220, 160, 40)
    return frames


def test_three_domains_have_their_own():
    assert {name.partition(":")[0] for name in OWN} == {"medical", "remote-sensing", "video"}


@pytest.mark.parametrize("name", OWN)
def test_a_corruption_is_a_function_that_rises(name, clip):
    kind = OWN[name]
    if kind.of_clips:
        pytest.importorskip("av")
    image = clip if kind.of_clips else clip[3]
    before, changes = image.copy(), []
    for severity in SEVERITIES:
        made = [kind.change(image, severity, seed) for seed in range(6)]
        assert all(each.shape == image.shape and each.dtype == np.uint8 for each in made)
        assert (made[0] == kind.change(image, severity, 0)).all()
        changes.append(np.mean([np.abs(each.astype(float) - image).mean() for each in made]))
    assert (image == before).all() and changes == sorted(changes) and changes[0] > 0
    if kind.name != "bit rate":  # which draws nothing
        assert any((each != made[0]).any() for each in made)


def test_a_shift_of_the_window_is_linear_between_its_ends(clip):
    shifted = OWN["medical: window shift"].change(clip[0], 2, 0).astype(float)
    inside = (shifted > 0) & (shifted < 255)
    slope, _ = np.polyfit(clip[0][inside], shifted[inside], 1)
    assert min(abs(slope - 1 / 1.2), abs(slope - 1 / 0.8)) < 0.02


def test_shading_is_smooth_and_the_same_for_all_channels():
    flat = np.full((40, 60, 3), 120, np.uint8)
    shaded = OWN["medical: bias field"].change(flat, 5, 1).astype(float)
    assert (shaded == shaded[..., :1]).all() and np.ptp(shaded) > 50
    assert max(np.abs(np.diff(shaded, axis=axis)).max() for axis in (0, 1)) < 20
    assert np.abs(np.log(shaded / 120)).max() == pytest.approx(0.6, abs=0.02)


def test_haze_takes_contrast_and_a_band_fails_alone(clip):
    hazy = OWN["remote-sensing: haze"].change(clip[0], 4, 0)
    assert hazy.std() < 0.6 * clip[0].std() and hazy.mean() > clip[0].mean()
    failed = OWN["remote-sensing: dropped band"].change(clip[0], 5, 3)
    gone = [band for band in range(3) if not failed[..., band].any()]
    assert len(gone) == 1 and (np.delete(failed, gone, axis=2) == np.delete(clip[0], gone, axis=2)).all()


def test_dropped_frames_are_those_before_them(clip):
    dropped = OWN["video: frame drop"].change(clip, 4, 2)
    sources = [next(n for n in range(8) if (frame == clip[n]).all()) for frame in dropped]
    assert sources[0] == 0 and sources == sorted(sources) and len(set(sources)) < 8
    assert all(source <= place for place, source in enumerate(sources))


def test_a_smooth_field_reaches_both_ends_and_depends_on_its_seed():
    field = Drawing.smooth_field(20, 33, 4)
    assert field.shape == (20, 33) and field.max() == pytest.approx(1) and field.min() == pytest.approx(-1)
    assert (field == Drawing.smooth_field(20, 33, 4)).all() and (field != Drawing.smooth_field(20, 33, 5)).any()
