"""Volumes as networks see them, and labels that come back: slab by slab the same as whole."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from vladapt.core.errors import DataError
from vladapt.domains.medical.segmenting import CLASSES, MAPS, REGIONS, Preprocessing, ScoreRule, learned, write_labels
from vladapt.domains.medical.segmenting.labels import largest_component
from vladapt.domains.medical.segmenting.preprocessing import read_rows, resampled, write_image
from vladapt.domains.medical.segmenting.windows import _on_grid, sliding_scores
from vladapt.domains.medical.volumes import Slabs

SIZES = st.tuples(*[st.integers(2, 9)] * 3)


@settings(max_examples=15, deadline=None)
@given(SIZES, SIZES, st.booleans(), st.integers(1, 4), st.integers(0, 99))
def test_a_volume_resampled_in_slabs_is_that_of_torch(size, wanted, nearest, depth, seed):
    whole = np.random.default_rng(seed).normal(size=(2, *size)).astype(np.float32)
    rows = [(start, min(start + depth, wanted[0])) for start in range(0, wanted[0], depth)]
    parts = [resampled(lambda a, b: whole[:, a:b], size, wanted, *part, nearest=nearest) for part in rows]
    how = {"mode": "nearest-exact"} if nearest else {"mode": "trilinear"}
    expected = interpolate(torch.from_numpy(whole)[None], size=wanted, **how)[0]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(SIZES, SIZES, st.integers(1, 4), st.integers(0, 99))
def test_scores_come_back_to_the_grid_of_the_file(size, shape, depth, seed):
    whole = torch.randn(2, *size, generator=torch.Generator().manual_seed(seed))
    slabs = ((start, whole[:, start : start + depth]) for start in range(0, size[0], depth))
    back = torch.cat(list(_on_grid(slabs, size, shape)), dim=1)
    assert torch.allclose(back, interpolate(whole[None], size=shape, mode="trilinear")[0], atol=1e-5)


def network(patches):
    """Scores of three classes that depend on the place in the window."""
    ramp = torch.linspace(0.5, 1.5, patches.shape[-1]) * torch.linspace(1, 2, patches.shape[-3])[:, None, None]
    kernel = torch.randn(3, patches.shape[1], 3, 3, 3, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.conv3d(patches, kernel, padding=1) * ramp


@pytest.mark.parametrize("size", [(21, 17, 12), (5, 30, 8), (8, 8, 8)])
def test_labels_are_those_of_monai_over_the_whole_volume(size):
    from monai.inferers import sliding_window_inference

    volume = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    expected = sliding_window_inference(volume[None], (8, 8, 8), 1, network, overlap=0.5, mode="gaussian")[0]
    whole = volume.numpy()
    slabs = list(sliding_scores(lambda a, b: whole[:, a:b], 2, size, (8, 8, 8), network, torch.device("cpu")))
    assert [start for start, _ in slabs] == sorted({start for start, _ in slabs})
    found = torch.cat([slab for _, slab in slabs], dim=1)
    assert torch.equal(found.argmax(dim=0), expected.argmax(dim=0)) and torch.allclose(found, expected, atol=1e-5)


def volume_file(path, values, zooms=(1.0, 1.0, 1.0), turned=False):
    affine = np.diag([*zooms, 1.0])
    if turned:  # left and posterior first, as many files have it
        values, affine = values[::-1, ::-1], affine @ np.diag([-1, -1, 1, 1])
        affine[:2, 3] = (np.array(values.shape[:2]) - 1) * zooms[:2]
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values), affine), path)
    return Slabs([path])


def test_computed_tomography_is_clipped_and_others_are_scaled_by_their_own_values(tmp_path):
    values = np.random.default_rng(0).normal(40, 30, (6, 5, 4)).astype(np.float32)
    one, other = volume_file(tmp_path / "a.nii", values), volume_file(tmp_path / "b.nii", values, turned=True)
    ct = Preprocessing((1.0, 1.0, 1.0), ({"low": 10.0, "high": 60.0, "mean": 30.0, "std": 5.0},))
    own = Preprocessing((1.0, 1.0, 1.0), ({},))
    seen = []
    for how in (ct, own):
        for volume in (one, other):
            size = write_image(volume, how, tmp_path / "raw")
            seen.append(read_rows(tmp_path / "raw", 1, size, 0, size[0])[0].transpose(2, 1, 0))
    assert np.allclose(seen[0], (values.clip(10, 60) - 30) / 5, atol=1e-5)
    assert np.allclose(seen[2], (values - values.mean()) / values.std(), atol=1e-4)
    assert np.array_equal(seen[0], seen[1]) and np.allclose(seen[2], seen[3], atol=1e-6)
    assert np.allclose(read_rows(tmp_path / "raw", 1, (4, 5, 6), 1, 3), seen[3].transpose(2, 1, 0)[None, 1:3])


def test_labels_of_a_volume_lie_on_its_own_grid(tmp_path):
    values = np.zeros((12, 10, 8), np.float32)
    values[3:9, 2:8, 2:6] = 10
    volume = volume_file(tmp_path / "a.nii", values, (1.0, 1.0, 2.0), turned=True)
    how = Preprocessing((1.0, 1.0, 1.0), ({"low": 0.0, "high": 10.0, "mean": 5.0, "std": 5.0},))
    assert how.size(volume) == (16, 10, 12)

    def bright(patches):
        return torch.cat([-patches, patches], dim=1)

    decide, device = ScoreRule(CLASSES, (7,)), torch.device("cpu")
    labels = write_labels(volume, how, (8, 8, 8), bright, decide, tmp_path / "labels.raw", device)
    assert labels.shape == (8, 10, 12) and labels.dtype == np.uint8
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    assert np.array_equal(volume.as_stored(labels), np.where(stored > 5, 7, 0))
    assert not list(tmp_path.glob("vladapt-*"))


@pytest.mark.parametrize("scores", [float("nan"), float("inf")])
def test_a_volume_of_which_the_network_says_nothing_is_not_called_empty(tmp_path, scores):
    volume = volume_file(tmp_path / "a.nii", np.zeros((4, 4, 4), np.float32), (1.0, 1.0, 1.0))
    how = Preprocessing((1.0, 1.0, 1.0), ({"low": 0.0, "high": 1.0, "mean": 0.0, "std": 1.0},))
    decide, device = ScoreRule(REGIONS, (1,)), torch.device("cpu")
    with pytest.raises(DataError, match=r"a\.nii: the model gives NaN or infinity"):
        write_labels(volume, how, (4, 4, 4), lambda patches: patches + scores, decide, tmp_path / "labels.raw", device)


def test_scores_become_labels_by_their_kind():
    scores = torch.tensor([[1.0, -1, 0.5, -1], [2.0, -2, -1, 3]])  # two structures, four voxels
    background = torch.zeros(1, 4)
    assert ScoreRule(CLASSES, (3, 5))(torch.cat([background, scores])).tolist() == [5, 0, 3, 5]
    assert ScoreRule(MAPS, (3, 5))(scores).tolist() == [5, 0, 3, 5]
    assert ScoreRule(MAPS, (3, 5))(scores[[1, 0]]).tolist() == [3, 0, 5, 3]
    assert ScoreRule(REGIONS, (3, 5))(scores).tolist() == [5, 0, 3, 5]  # later ones over earlier ones
    assert ScoreRule(REGIONS, (3, 5))(scores[[1, 0]]).tolist() == [5, 0, 5, 3]


def test_stored_labels_become_classes_or_regions():
    stored = np.array([[[0, 4, 9]]], np.uint8)
    assert learned(stored, [(4,), (9,)], False).tolist() == [[[[0, 1, 2]]]]
    assert learned(stored, [(4, 9), (9,)], True).tolist() == [[[[0, 1, 1]]], [[[0, 0, 1]]]]


def test_only_the_largest_component_stays():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[0, 0, :2], labels[2:, 2:, 2:], labels[0, 4, 5] = 1, 1, 2
    kept = ScoreRule(CLASSES, (1, 2), (0,)).cleaned(labels, [(1,), (2,)])
    assert kept.sum() == labels.sum() - 2 and kept[0, 4, 5] == 2 and kept[2, 2, 2] == 1 and labels[0, 0, 0] == 1
    assert ScoreRule(CLASSES, (1, 2)).cleaned(labels, [(1,), (2,)]) is labels
    assert not largest_component(np.zeros((2, 2, 2), bool)).any()
